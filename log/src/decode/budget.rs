// SPDX-License-Identifier: Apache-2.0
//! How much memory one body may still take.

use super::DecodeError;
use super::fault::{Outcome, What, fault};

/// What a decode may still put into memory.
#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    left: usize,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            limit: bytes,
            left: bytes,
        }
    }

    /// What is left, in bytes.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// Takes `bytes` out, if they are there.
    #[inline]
    #[must_use]
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        let (left, exhausted) = self.left.overflowing_sub(bytes);
        self.left = if exhausted { 0 } else { left };
        !exhausted
    }

    /// What to say of a body that needs more.
    #[cold]
    pub(super) fn exhausted(&self) -> DecodeError {
        DecodeError::too_large(format!(
            "the body decodes to more than {} MiB; split it",
            self.limit >> 20
        ))
    }

    /// The same as a fault.
    #[inline]
    pub(super) fn charge(&mut self, bytes: usize) -> Outcome<()> {
        if self.take(bytes) {
            Ok(())
        } else {
            fault(What::OverBudget, 0..0)
        }
    }
}
