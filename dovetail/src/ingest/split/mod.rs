// SPDX-License-Identifier: Apache-2.0
//! Cuts text input into request bodies, each well formed by itself.
//!
//! Purpose: input of any length through requests of a bounded one. Collaborators: [`Parts`](super::Parts) pushes
//! what it reads. Invariants: no record is broken; the records of all parts, in order, are the records of
//! the input; where parts are cut depends on the input alone, never on how it was read, so that a second
//! attempt at the same file makes the same parts. Non-goals: whether a record is a valid event.
//!
//! ```text
//! ndjson   a\nb\nc\n          ->  a\nb\n        c\n
//! csv      h\na\nb\nc\n       ->  h\na\nb\n     h\nc\n        the header line before each part
//! json     [a, b, c]          ->  [a, b]        [ c]          an array each
//! ```

mod csv;
mod json;
mod lines;

use bytes::Bytes;

use csv::CsvScanner;
use json::JsonScanner;
use lines::LineScanner;

/// A part is closed by the first record that fills it to this size.
pub const PART_BYTES: usize = 4 << 20;
/// No part is larger: the server's own limit of a body.
pub const MAX_PART_BYTES: usize = 64 << 20;

/// Input that cannot be cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// One record alone is larger than a body may be.
    #[error("the record at line {line} is larger than the {max} bytes that one request may hold")]
    TooLarge {
        /// Line where the record starts, from 1.
        line: u64,
        /// The limit.
        max: usize,
    },
    /// A JSON array that is none.
    #[error("line {line}: {reason}")]
    NotAnArray {
        /// Line, from 1.
        line: u64,
        /// What was found.
        reason: &'static str,
    },
}

/// The body of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The body.
    pub bytes: Bytes,
    /// What to add to a line number of the body to get the line number of the input.
    pub line_shift: u64,
}

/// Text formats that can be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// A record per line.
    Lines,
    /// A header record, then a record per line, where quotes may hold line ends.
    Csv,
    /// The elements of one array.
    JsonArray,
}

/// Where a record ends and the next one starts, as indexes into the bytes just scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    /// Behind the last byte that belongs to the record.
    end: usize,
    /// First byte of what follows, behind any separator.
    resume: usize,
}

/// Finds record ends. It keeps its state between calls, so input may come in pieces of any size.
trait Scanner: Send {
    /// The end of what comes before the first record, once it is all there.
    fn preamble(&mut self, bytes: &[u8]) -> Result<Option<Cut>, &'static str>;

    /// The first record end in `bytes`, consumed up to its `resume`; all consumed if there is none.
    fn next_cut(&mut self, bytes: &[u8]) -> Option<Cut>;

    /// Whether what is left when the input ends is one more record.
    fn rest_is_record(&self) -> Result<bool, &'static str>;
}

/// The splitter of one input.
pub struct Splitter {
    scanner: Box<dyn Scanner>,
    target: usize,
    max: usize,
    /// What each part starts with; `None` until the input has got past it.
    head: Option<Vec<u8>>,
    tail: &'static [u8],
    /// The open part: the head, then records, then the start of a record.
    open: Vec<u8>,
    scanned: usize,
    /// End of the last whole record in `open`.
    last: Option<Cut>,
    lines_before: u64,
}

impl Splitter {
    /// A splitter whose parts are closed by the first record that fills them to `target` bytes, and are
    /// never larger than `max`.
    pub fn new(framing: Framing, target: usize, max: usize) -> Self {
        let (scanner, tail): (Box<dyn Scanner>, &'static [u8]) = match framing {
            Framing::Lines => (Box::new(LineScanner), b""),
            Framing::Csv => (Box::new(CsvScanner::default()), b""),
            Framing::JsonArray => (Box::new(JsonScanner::default()), b"]"),
        };
        Self {
            scanner,
            target,
            max,
            head: None,
            tail,
            open: Vec::new(),
            scanned: 0,
            last: None,
            lines_before: 0,
        }
    }

    /// Takes more input and adds the parts that are full to `parts`.
    ///
    /// # Errors
    /// When a record is too large, or the input is not of the format.
    pub fn push(&mut self, input: &[u8], parts: &mut Vec<Part>) -> Result<(), SplitError> {
        self.open.extend_from_slice(input);
        if self.head.is_none() && !self.start()? {
            return self.check_size();
        }
        while let Some(cut) = self.scanner.next_cut(&self.open[self.scanned..]) {
            let cut = Cut {
                end: self.scanned + cut.end,
                resume: self.scanned + cut.resume,
            };
            self.scanned = cut.resume;
            self.record(cut, parts)?;
        }
        self.scanned = self.open.len();
        self.check_size()
    }

    /// Closes the open part behind its last whole record, for input that has paused.
    pub fn flush(&mut self) -> Option<Part> {
        self.last.take().and_then(|cut| self.close(cut))
    }

    /// Ends the input and adds what is left to `parts`.
    ///
    /// # Errors
    /// When the last record is too large, or the input ends within something.
    pub fn finish(mut self, parts: &mut Vec<Part>) -> Result<(), SplitError> {
        let rest = self.scanner.rest_is_record();
        let rest = rest.map_err(|reason| SplitError::NotAnArray {
            line: self.lines_before + count_lines(&self.open) + 1,
            reason,
        })?;
        // Without a head, all of it is preamble, such as a header without records: nothing to send.
        if rest && self.head.is_some() {
            let end = self.open.len();
            self.record(Cut { end, resume: end }, parts)?;
        }
        parts.extend(self.flush());
        Ok(())
    }

    /// Tries to get past the preamble.
    fn start(&mut self) -> Result<bool, SplitError> {
        let cut = self
            .scanner
            .preamble(&self.open)
            .map_err(|reason| SplitError::NotAnArray {
                line: count_lines(&self.open) + 1,
                reason,
            })?;
        let Some(cut) = cut else {
            return Ok(false);
        };
        // What belongs to no record but to each part stays; what is only skipped goes.
        self.lines_before = count_lines(&self.open[..cut.resume]);
        let head = self.open[cut.end..cut.resume].to_vec();
        self.open.drain(..cut.end);
        self.scanned = head.len();
        self.head = Some(head);
        Ok(true)
    }

    /// Notes the end of a record and closes the part if it is full.
    fn record(&mut self, mut cut: Cut, parts: &mut Vec<Part>) -> Result<(), SplitError> {
        if cut.end + self.tail.len() > self.max
            && let Some(last) = self.last.take()
        {
            // Without this record the part is within the limit; alone, the record may be.
            let moved = last.resume - self.head_len();
            parts.extend(self.close(last));
            cut.end -= moved;
            cut.resume -= moved;
        }
        let size = cut.end + self.tail.len();
        if size > self.max {
            return Err(self.too_large());
        }
        self.last = Some(cut);
        if size >= self.target {
            parts.extend(self.flush());
        }
        Ok(())
    }

    /// Takes the part that ends at `cut`, unless it has no record, and opens the next one with the head
    /// and what lies behind the cut.
    fn close(&mut self, cut: Cut) -> Option<Part> {
        let head_len = self.head_len();
        let mut next = Vec::with_capacity(self.target + head_len);
        next.extend_from_slice(self.head.as_deref().unwrap_or_default());
        next.extend_from_slice(&self.open[cut.resume..]);
        self.scanned -= cut.resume - head_len;
        let mut body = std::mem::replace(&mut self.open, next);

        let line_shift = self.lines_before - count_lines(&body[..head_len]);
        self.lines_before += count_lines(&body[head_len..cut.resume]);
        body.truncate(cut.end);
        if body[head_len..].iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        body.extend_from_slice(self.tail);
        Some(Part {
            bytes: Bytes::from(body),
            line_shift,
        })
    }

    fn head_len(&self) -> usize {
        self.head.as_ref().map_or(0, Vec::len)
    }

    /// Refuses a record that will not fit even though its end is not in sight.
    fn check_size(&self) -> Result<(), SplitError> {
        let start = self.last.map_or(0, |cut| cut.resume - self.head_len());
        if self.open.len() - start > self.max {
            return Err(self.too_large());
        }
        Ok(())
    }

    fn too_large(&self) -> SplitError {
        let head_len = self.head_len();
        let start = self.last.map_or(head_len, |cut| cut.resume);
        SplitError::TooLarge {
            line: self.lines_before + count_lines(&self.open[head_len..start]) + 1,
            max: self.max,
        }
    }
}

fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

#[cfg(test)]
mod tests;
