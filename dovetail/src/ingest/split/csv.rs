// SPDX-License-Identifier: Apache-2.0
//! RFC 4180 records: a line end within quotes is none. Reads quotes as `csv-core` does, which decodes the
//! events in the server: a quote opens a quoted field only as the first byte of the field.

use super::{Cut, Scanner};

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the first byte of a field.
    #[default]
    FieldStart,
    /// Within a field, outside quotes.
    Plain,
    /// Within quotes.
    Quoted,
    /// Behind a quote within quotes: the closing one, or the first of two that mean one.
    QuoteInQuoted,
}

/// The state of the quotes.
#[derive(Default)]
pub(super) struct CsvScanner {
    state: State,
    /// Where the header starts: behind empty lines.
    header_start: usize,
    /// How much of the header is scanned; the preamble is offered again with every push.
    header_scanned: usize,
}

impl CsvScanner {
    /// Index behind the line end that ends the record.
    fn record_end(&mut self, bytes: &[u8]) -> Option<usize> {
        for (index, byte) in bytes.iter().enumerate() {
            self.state = match (self.state, byte) {
                (State::FieldStart, b'"') => State::Quoted,
                (State::Quoted, b'"') => State::QuoteInQuoted,
                (State::QuoteInQuoted, b'"') | (State::Quoted, _) => State::Quoted,
                (_, b',') => State::FieldStart,
                (_, b'\n') => {
                    self.state = State::FieldStart;
                    return Some(index + 1);
                }
                _ => State::Plain,
            };
        }
        None
    }
}

impl Scanner for CsvScanner {
    fn preamble(&mut self, bytes: &[u8]) -> Result<Option<Cut>, &'static str> {
        loop {
            let Some(end) = self.record_end(&bytes[self.header_scanned..]) else {
                self.header_scanned = bytes.len();
                return Ok(None);
            };
            self.header_scanned += end;
            let (end, resume) = (self.header_start, self.header_scanned);
            if !matches!(&bytes[end..resume], b"\n" | b"\r\n") {
                return Ok(Some(Cut { end, resume }));
            }
            self.header_start = resume;
        }
    }

    fn next_cut(&mut self, bytes: &[u8]) -> Option<Cut> {
        let end = self.record_end(bytes)?;
        Some(Cut { end, resume: end })
    }

    fn rest_is_record(&self) -> Result<bool, &'static str> {
        Ok(true)
    }
}
