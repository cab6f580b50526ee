// SPDX-License-Identifier: Apache-2.0
//! Protobuf's wire format: fields by their numbers, their values not yet read.

use crate::decode::fault::{Outcome, worded};
use crate::decode::unread::Unread;

/// Deepest nesting of groups, the old form of a message that ends at a mark.
const MAX_GROUP_DEPTH: usize = 100;

/// A value as it stands in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Raw<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    /// Text, bytes, a message, or scalars packed together.
    Bytes(&'a [u8]),
    /// The fields of a group, without the mark at its end.
    Group(&'a [u8]),
}

/// The fields of a message that were not read yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wire<'a> {
    unread: Unread<'a>,
}

impl<'a> Wire<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            unread: Unread::new(bytes),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.unread.rest()
    }

    /// The next field: its number and value.
    #[inline]
    pub(super) fn field(&mut self) -> Outcome<(u32, Raw<'a>)> {
        let (number, kind) = self.tag()?;
        Ok((number, self.value(number, kind, 0)?))
    }

    #[inline]
    fn tag(&mut self) -> Outcome<(u32, u64)> {
        let tag = self.varint()?;
        match u32::try_from(tag >> 3) {
            Ok(number) if number > 0 => Ok((number, tag & 7)),
            _ => worded(format!("`{}` is no number of a field", tag >> 3)),
        }
    }

    #[inline]
    fn value(&mut self, number: u32, kind: u64, depth: usize) -> Outcome<Raw<'a>> {
        Ok(match kind {
            0 => Raw::Varint(self.varint()?),
            1 => Raw::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => Raw::Bytes(self.bytes()?),
            3 => Raw::Group(self.group(number, depth)?),
            5 => Raw::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return worded(format!("field {number} has a value of no known kind")),
        })
    }

    /// What is in a group, up to the mark of the same number.
    fn group(&mut self, number: u32, depth: usize) -> Outcome<&'a [u8]> {
        if depth > MAX_GROUP_DEPTH {
            return worded("it is nested too deep".to_owned());
        }
        let start = self.rest();
        loop {
            let before = self.rest().len();
            let (inner, kind) = self.tag()?;
            if kind != 4 {
                self.value(inner, kind, depth + 1)?;
            } else if inner == number {
                return Ok(&start[..start.len() - before]);
            } else {
                return worded(format!("group {number} ends as group {inner}"));
            }
        }
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Outcome<u64> {
        if let Some(value) = self.unread.short_varint() {
            return Ok(value);
        }
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        worded("an integer is longer than 64 bits".to_owned())
    }

    #[inline]
    pub(super) fn bytes(&mut self) -> Outcome<&'a [u8]> {
        let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
        self.unread.take(length)
    }

    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        self.unread.array()
    }
}
