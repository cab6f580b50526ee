// SPDX-License-Identifier: Apache-2.0
//! Avro's binary encoding, byte by byte.

use crate::decode::fault::{Outcome, worded};
use crate::decode::unread::{Unread, zigzag};

/// The values of a message that were not read yet.
pub(super) struct Cursor<'a> {
    unread: Unread<'a>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            unread: Unread::new(bytes),
        }
    }

    /// Bytes that are left.
    pub(super) fn left(&self) -> usize {
        self.unread.rest().len()
    }

    #[inline]
    pub(super) fn take(&mut self, count: usize) -> Outcome<&'a [u8]> {
        self.unread.take(count)
    }

    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        self.unread.array()
    }

    pub(super) fn boolean(&mut self) -> Outcome<bool> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => worded(format!("the byte {other} is no boolean")),
        }
    }

    /// A zigzag integer of so many bits.
    #[inline]
    pub(super) fn integer(&mut self, bits: u32) -> Outcome<i64> {
        match self.unread.short_varint() {
            Some(value) => Ok(zigzag(value)),
            None => self.long_integer(bits),
        }
    }

    fn long_integer(&mut self, bits: u32) -> Outcome<i64> {
        let mut value = 0_u128;
        for shift in (0..bits).step_by(7) {
            let [byte] = self.array()?;
            value |= u128::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return match u64::try_from(value) {
                    Ok(value) if bits == 64 || value >> bits == 0 => Ok(zigzag(value)),
                    _ => worded(format!("an integer is longer than {bits} bits")),
                };
            }
        }
        worded(format!("an integer is longer than {bits} bits"))
    }

    /// Bytes behind their length.
    #[inline]
    pub(super) fn bytes(&mut self) -> Outcome<&'a [u8]> {
        let length = self.integer(64)?;
        match usize::try_from(length) {
            Ok(length) => self.take(length),
            Err(_) => worded(format!("`{length}` is no length")),
        }
    }

    /// The index of a branch or symbol, below `count`.
    #[inline]
    pub(super) fn index(&mut self, count: usize, of: &'static str) -> Outcome<usize> {
        let index = self.integer(64)?;
        match usize::try_from(index) {
            Ok(index) if index < count => Ok(index),
            _ => worded(format!("`{index}` is no index into the {count} {of}")),
        }
    }
}
