// SPDX-License-Identifier: Apache-2.0
//! What becomes of events that cannot be decoded: refused with the first one named, or kept as dead letters.

use std::str::FromStr;

use bytes::Bytes;

use super::budget::Budget;
use super::error::{DecodeError, Place};
use super::fault::{Described, Fault, What};
use crate::{DeadLetter, Format};

/// What to do when an event cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnError {
    /// Refuse the whole body; the error names the first bad event and how many there are.
    Reject,
    /// Decode the others and hand the bad ones on as dead letters.
    DeadLetter,
}

impl FromStr for OnError {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "reject" => Ok(Self::Reject),
            "dead-letter" => Ok(Self::DeadLetter),
            other => Err(format!(
                "`{other}` is not a way to handle bad events: use reject or dead-letter"
            )),
        }
    }
}

/// Collects the bad events of one body.
pub(super) struct Sink<'a> {
    on_error: OnError,
    format: Format,
    origin: &'a str,
    pub(super) budget: Budget,
    first: Option<(Place, Described)>,
    bad: u64,
    dead_letters: Vec<DeadLetter>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(
        format: Format,
        on_error: OnError,
        origin: &'a str,
        max_decoded_bytes: usize,
    ) -> Self {
        Self {
            on_error,
            format,
            origin,
            budget: Budget::new(max_decoded_bytes),
            first: None,
            bad: 0,
            dead_letters: Vec::new(),
        }
    }

    /// Whether every bad event is wanted, not only the first.
    pub(super) fn keeps_all(&self) -> bool {
        self.on_error == OnError::DeadLetter
    }

    /// Takes a bad event: `text` is where the fault was found, `bytes` what makes it decodable alone.
    ///
    /// # Errors
    /// When the body as a whole is too large, by its good events or its bad ones.
    pub(super) fn refuse(
        &mut self,
        place: Place,
        fault: &Fault,
        text: &[u8],
        bytes: impl FnOnce() -> Bytes,
    ) -> Result<(), DecodeError> {
        if fault.what() == What::OverBudget {
            return Err(self.budget.exhausted());
        }
        // In words only if someone will read them.
        if self.keeps_all() || self.first.is_none() {
            return self.refuse_described(place, fault.describe(text), bytes);
        }
        self.bad += 1;
        Ok(())
    }

    /// The same for a fault that is in words already.
    pub(super) fn refuse_described(
        &mut self,
        place: Place,
        described: Described,
        bytes: impl FnOnce() -> Bytes,
    ) -> Result<(), DecodeError> {
        self.bad += 1;
        if !self.keeps_all() {
            self.first.get_or_insert((place, described));
            return Ok(());
        }
        let letter = DeadLetter {
            bytes: bytes(),
            format: self.format,
            reason: described.reason,
            line: place.line,
            column: described.column,
            origin: self.origin.to_owned(),
            envelope: None,
        };
        let size = size_of::<DeadLetter>()
            + letter.bytes.len()
            + letter.reason.len()
            + letter.origin.len()
            + letter.column.as_ref().map_or(0, String::len);
        if !self.budget.take(size) {
            return Err(self.budget.exhausted());
        }
        self.dead_letters.push(letter);
        Ok(())
    }

    /// Counts a bad event of which nothing but its number is wanted.
    pub(super) fn count(&mut self) {
        self.bad += 1;
    }

    /// Ends the body.
    ///
    /// # Errors
    /// The first bad event, if bad events are to be refused.
    pub(super) fn finish(self) -> Result<Vec<DeadLetter>, DecodeError> {
        match self.first {
            Some((place, described)) => Err(DecodeError::Events {
                place,
                column: described.column,
                reason: described.reason,
                bad: self.bad,
            }),
            None => Ok(self.dead_letters),
        }
    }
}
