// SPDX-License-Identifier: Apache-2.0
//! What is left of a binary message, and the integers that Avro and Protobuf write alike.

use super::fault::{Outcome, worded};

/// The bytes of a message that were not read yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unread<'a>(&'a [u8]);

impl<'a> Unread<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }

    #[inline]
    pub(super) fn take(&mut self, count: usize) -> Outcome<&'a [u8]> {
        match self.0.split_at_checked(count) {
            Some((taken, rest)) => {
                self.0 = rest;
                Ok(taken)
            }
            None => cut_off(),
        }
    }

    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        match self.0.split_first_chunk::<N>() {
            Some((taken, rest)) => {
                self.0 = rest;
                Ok(*taken)
            }
            None => cut_off(),
        }
    }

    /// The next integer of variable length, if it is of one byte, as most are.
    #[inline]
    pub(super) fn short_varint(&mut self) -> Option<u64> {
        let [byte @ ..0x80, rest @ ..] = self.0 else {
            return None;
        };
        self.0 = rest;
        Some(u64::from(*byte))
    }
}

/// An integer whose low bit is its sign, the others its value or the complement of that.
#[inline]
pub(super) fn zigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

#[cold]
fn cut_off<T>() -> Outcome<T> {
    worded("the message is cut off, or written with another schema".to_owned())
}
