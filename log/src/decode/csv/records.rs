// SPDX-License-Identifier: Apache-2.0
//! CSV text cut into records and values.

use std::ops::Range;

use crate::decode::fault::{Outcome, What, fault};
use crate::decode::text::{count_lines, value_stop};

/// Most values of a record that are kept; the others are only counted.
pub(in crate::decode) const MAX_VALUES: usize = 10_000;

/// One value of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::decode) struct Value {
    /// Where it stands in its record, without quotes around it.
    pub(in crate::decode) at: Range<usize>,
    pub(in crate::decode) quoted: bool,
    /// Whether there are doubled quotes in it.
    doubled: bool,
}

impl Value {
    /// What it says; `scratch` holds it if quotes had to be resolved.
    pub(in crate::decode) fn text<'a>(
        &self,
        record: &'a [u8],
        scratch: &'a mut Vec<u8>,
    ) -> &'a [u8] {
        let raw = &record[self.at.clone()];
        if !self.doubled {
            return raw;
        }
        scratch.clear();
        let mut rest = raw;
        while let Some(quote) = memchr::memchr(b'"', rest) {
            scratch.extend_from_slice(&rest[..=quote]);
            rest = rest.get(quote + 2..).unwrap_or_default();
        }
        scratch.extend_from_slice(rest);
        scratch
    }
}

/// Walks over the records of a text.
pub(in crate::decode) struct Records<'a> {
    text: &'a [u8],
    /// Where the next record starts.
    pos: usize,
    /// The line on which it starts.
    next_line: u64,
    /// The current record, without its line end.
    at: Range<usize>,
    line: u64,
    values: Vec<Value>,
    found: usize,
    keeps_empty_lines: bool,
}

/// What ends a value.
enum End {
    Value,
    Record,
}

impl<'a> Records<'a> {
    pub(in crate::decode) fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            pos: 0,
            next_line: 1,
            at: 0..0,
            line: 0,
            values: Vec::new(),
            found: 0,
            keeps_empty_lines: false,
        }
    }

    /// From here on an empty line is a record of one empty value.
    pub(in crate::decode) fn keep_empty_lines(&mut self) {
        self.keeps_empty_lines = true;
    }

    /// The current record's bytes, without the line end.
    pub(in crate::decode) fn bytes(&self) -> &'a [u8] {
        &self.text[self.at.clone()]
    }

    /// The line on which it starts, from 1.
    pub(in crate::decode) fn line(&self) -> u64 {
        self.line
    }

    /// Its values, the first [`MAX_VALUES`] at most.
    pub(in crate::decode) fn values(&self) -> &[Value] {
        &self.values
    }

    /// How many values it has.
    pub(in crate::decode) fn found(&self) -> usize {
        self.found
    }

    /// Whether nothing follows the current record.
    pub(in crate::decode) fn at_end(&self) -> bool {
        self.pos >= self.text.len()
    }

    /// Goes to the next record; empty lines are none unless they are kept. A fault is one of its quotes; then the record is
    /// the line on which it starts, and the fault that of the line alone: what follows is not part of it.
    pub(in crate::decode) fn next(&mut self) -> Option<Outcome<()>> {
        loop {
            match self.text.get(self.pos..)? {
                [] => return None,
                _ if self.keeps_empty_lines => break,
                [b'\n', ..] | [b'\r'] => self.pos += 1,
                [b'\r', b'\n', ..] => self.pos += 2,
                _ => break,
            }
            self.next_line += 1;
        }
        let start = self.pos;
        self.line = self.next_line;
        self.values.clear();
        self.found = 0;
        let scanned = self.scan(start).or_else(|fault| {
            self.values.clear();
            let rest = &self.text[start..];
            let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            let line_end = usize::from(rest[..end].ends_with(b"\r"));
            self.at = start..start + end - line_end;
            self.pos = start + end + 1;
            self.next_line = self.line + 1;
            Records::new(&rest[..end]).scan(0).and(Err(fault))
        });
        Some(scanned)
    }

    fn scan(&mut self, start: usize) -> Outcome<()> {
        let mut lines = 1;
        loop {
            let end = if self.text.get(self.pos) == Some(&b'"') {
                self.quoted(start, &mut lines)?
            } else {
                self.plain(start)?
            };
            if let End::Record = end {
                self.next_line += lines;
                return Ok(());
            }
        }
    }

    fn plain(&mut self, start: usize) -> Outcome<End> {
        let from = self.pos;
        let stop = value_stop(self.text, from);
        let (end, value_end) = match self.text.get(stop) {
            Some(b',') => (End::Value, stop),
            Some(b'"') => {
                let how = "stands inside a value without quotes; put the whole value in quotes and double it";
                return fault(What::Malformed(how), stop - start..stop - start + 1);
            }
            _ => {
                let carriage = usize::from(self.text[from..stop].ends_with(b"\r"));
                self.at = start..stop - carriage;
                (End::Record, stop - carriage)
            }
        };
        self.pos = stop + 1;
        self.keep(Value {
            at: from - start..value_end - start,
            quoted: false,
            doubled: false,
        });
        Ok(end)
    }

    fn quoted(&mut self, start: usize, lines: &mut u64) -> Outcome<End> {
        let open = self.pos;
        let mut pos = open + 1;
        let mut doubled = false;
        let close = loop {
            let rest = self.text.get(pos..).unwrap_or_default();
            let Some(quote) = memchr::memchr(b'"', rest) else {
                let how = "opens a quoted value that never ends; a quote ends it only before a comma or a line end";
                return fault(What::Malformed(how), open - start..open - start + 1);
            };
            pos += quote;
            if self.text.get(pos + 1) != Some(&b'"') {
                break pos;
            }
            doubled = true;
            pos += 2;
        };
        *lines += count_lines(&self.text[open..close]) as u64;
        let (end, length) = match &self.text[close + 1..] {
            [b',', ..] => (End::Value, 1),
            [] | [b'\n', ..] => (End::Record, 1),
            [b'\r'] | [b'\r', b'\n', ..] => (End::Record, 2),
            _ => {
                let how =
                    "closes a value, but text follows it; double a quote that is part of the value";
                return fault(What::Malformed(how), close - start..close - start + 1);
            }
        };
        if let End::Record = end {
            self.at = start..close + 1;
        }
        self.pos = close + 1 + length;
        self.keep(Value {
            at: open + 1 - start..close - start,
            quoted: true,
            doubled,
        });
        Ok(end)
    }

    fn keep(&mut self, value: Value) {
        self.found += 1;
        if self.found <= MAX_VALUES {
            self.values.push(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records as `(line, values)`; a faulty one has no values.
    fn records(text: &str) -> Vec<(u64, Vec<String>)> {
        let mut records = Records::new(text.as_bytes());
        let mut all = Vec::new();
        while let Some(whole) = records.next() {
            let mut values = Vec::new();
            for value in records.values() {
                let mut scratch = Vec::new();
                let text = value.text(records.bytes(), &mut scratch).to_vec();
                values.push(String::from_utf8(text).unwrap());
            }
            if whole.is_err() {
                values = vec![
                    "!".to_owned(),
                    String::from_utf8(records.bytes().to_vec()).unwrap(),
                ];
            }
            all.push((records.line(), values));
        }
        all
    }

    fn row(line: u64, values: &[&str]) -> (u64, Vec<String>) {
        (line, values.iter().map(|v| (*v).to_owned()).collect())
    }

    #[test]
    fn records_of_every_form() {
        let text = "a,b\r\n1,\"x,\"\"y\"\"\nz\"\n\n\r\n,\n\"\",last";
        let expected = [
            row(1, &["a", "b"]),
            row(2, &["1", "x,\"y\"\nz"]),
            row(6, &["", ""]),
            row(7, &["", "last"]),
        ];
        assert_eq!(records(text), expected);
        assert_eq!(records("a,"), [row(1, &["a", ""])]);
        assert_eq!(records("\"a\"\r"), [row(1, &["a"])]);
    }

    #[test]
    fn a_broken_quote_spoils_its_own_line_only() {
        let text = "a,\"b\nc\n1,x\"y\r\n\"1\"2,3\nd,e\n";
        let expected = [
            row(1, &["!", "a,\"b"]),
            row(2, &["c"]),
            row(3, &["!", "1,x\"y"]),
            row(4, &["!", "\"1\"2,3"]),
            row(5, &["d", "e"]),
        ];
        assert_eq!(records(text), expected);
    }
}
