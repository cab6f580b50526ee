// SPDX-License-Identifier: Apache-2.0
//! Passing over values that no column wants. Their grammar is checked all the same: where a broken value
//! ends cannot be told.

use super::JsonReader;
use crate::decode::fault::{Outcome, What, fault};
use crate::decode::number::JsonNumber;

/// Deepest nesting of values that no column wants.
const MAX_SKIP_DEPTH: usize = 128;

impl JsonReader<'_> {
    /// Passes a value of any type, checking its grammar.
    pub(in crate::decode) fn skip_value(&mut self, depth: usize) -> Outcome<()> {
        if depth > MAX_SKIP_DEPTH {
            return fault(What::TooDeep, self.pos..self.pos);
        }
        match self.peek() {
            Some(b'"') => self.skip_string(),
            Some(b'{') => self.skip_members(b'}', depth),
            Some(b'[') => self.skip_members(b']', depth),
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            Some(b'-' | b'0'..=b'9') => match JsonNumber::scan(self.text, self.pos) {
                Some(number) => {
                    self.pos = number.end;
                    Ok(())
                }
                None => {
                    let rest = &self.text[self.pos..];
                    let of_numbers = |b: &u8| b.is_ascii_digit() || b"+-.eE".contains(b);
                    let length = rest.iter().take_while(|b| of_numbers(b)).count();
                    let how = "is not a number as JSON writes it, such as `-1.5e3`, without zeros in front";
                    fault(What::Malformed(how), self.pos..self.pos + length)
                }
            },
            _ => self.expected("a JSON value"),
        }
    }

    fn skip_string(&mut self) -> Outcome<()> {
        let (at, escaped) = self.string()?;
        self.unescaped(at, escaped).map(|_| ())
    }

    fn skip_members(&mut self, close: u8, depth: usize) -> Outcome<()> {
        self.pos += 1;
        self.skip_space();
        if self.take(close) {
            return Ok(());
        }
        loop {
            if close == b'}' {
                if self.peek() != Some(b'"') {
                    return self.expected("a field name in quotes");
                }
                self.skip_string()?;
                self.skip_space();
                if !self.take(b':') {
                    return self.expected("`:`");
                }
                self.skip_space();
            }
            self.skip_value(depth + 1)?;
            self.skip_space();
            if self.take(b',') {
                self.skip_space();
            } else if self.take(close) {
                return Ok(());
            } else {
                return self.expected(if close == b'}' {
                    "`,` or `}`"
                } else {
                    "`,` or `]`"
                });
            }
        }
    }
}
