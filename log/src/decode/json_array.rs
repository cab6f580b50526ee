// SPDX-License-Identifier: Apache-2.0
//! One JSON document: an array of objects, read object by object, or one object.
//!
//! An element of the wrong shape is one bad event. Broken grammar is not: where the next element starts
//! can no longer be told, so the document is refused as a whole, whatever `OnError` says.

use bytes::Bytes;
use dovetail_model::UnknownColumns;

use super::column::Row;
use super::error::{DecodeError, Place};
use super::fault::Fault;
use super::json::JsonReader;
use super::ndjson::{check, expected_rows};
use super::sink::Sink;
use super::text::count_lines;

/// Decodes the document into `columns`.
pub(super) fn decode(
    text: &[u8],
    columns: &mut Row,
    unknown: UnknownColumns,
    sink: &mut Sink<'_>,
) -> Result<(), DecodeError> {
    let mut document = Document {
        text,
        checked: std::str::from_utf8(text).is_ok(),
        reader: JsonReader::new(text, unknown),
        lines: Lines {
            text,
            counted: 0,
            line: 1,
        },
        rows: 0,
    };
    document.reader.skip_space();
    match document.reader.peek() {
        None => return Err(DecodeError::body("the body holds no event")),
        Some(b'{') => document.element(columns, sink)?,
        Some(b'[') => {
            columns.reserve(expected_rows(text, columns.width(), sink.budget.left()));
            document.array(columns, sink)?;
        }
        Some(_) => {
            let read = document
                .reader
                .expected("a JSON array of objects, or one object");
            document.grammar(read)?;
        }
    }
    document.reader.skip_space();
    if document.reader.peek().is_some() {
        let read = document
            .reader
            .expected("nothing more; for one object per line send `application/x-ndjson`");
        document.grammar(read)?;
    }
    Ok(())
}

struct Document<'a> {
    text: &'a [u8],
    checked: bool,
    reader: JsonReader<'a>,
    lines: Lines<'a>,
    rows: usize,
}

impl Document<'_> {
    fn array(&mut self, columns: &mut Row, sink: &mut Sink<'_>) -> Result<(), DecodeError> {
        self.reader.take(b'[');
        self.reader.skip_space();
        if self.reader.take(b']') {
            return Ok(());
        }
        loop {
            self.element(columns, sink)?;
            self.reader.skip_space();
            if self.reader.take(b',') {
                self.reader.skip_space();
            } else if self.reader.take(b']') {
                return Ok(());
            } else {
                let read = self.reader.expected("`,` or `]`");
                self.grammar(read)?;
            }
        }
    }

    /// Reads one element: an event, or a bad one.
    fn element(&mut self, columns: &mut Row, sink: &mut Sink<'_>) -> Result<(), DecodeError> {
        let start = self.reader.position();
        let read = self.check_element(start)?.and_then(|()| {
            let reader = &mut self.reader;
            reader.event(columns, self.rows, &mut sink.budget)
        });
        let Err(fault) = read else {
            self.rows += 1;
            return Ok(());
        };
        columns.truncate(self.rows);
        // Only a whole element can be left out.
        self.reader.reset(self.text, start);
        let skipped = self.reader.skip_value(0);
        self.grammar(skipped)?;
        let element = &self.text[start..self.reader.position()];
        let line = self.lines.of(fault.position().max(start));
        sink.refuse(Place::line(line), &fault, self.text, || alone(element))
    }

    /// In a document that is not all UTF-8, whether this element is. The outer error is one of grammar.
    fn check_element(&mut self, start: usize) -> Result<Result<(), Box<Fault>>, DecodeError> {
        if self.checked {
            return Ok(Ok(()));
        }
        let skipped = self.reader.skip_value(0);
        self.grammar(skipped)?;
        let end = self.reader.position();
        self.reader.reset(self.text, start);
        Ok(check(&self.text[start..end], false))
    }

    /// Broken grammar ends the document.
    fn grammar<T>(&mut self, read: Result<T, Box<Fault>>) -> Result<T, DecodeError> {
        read.map_err(|fault| {
            let line = self.lines.of(fault.position());
            DecodeError::body_at(Place::line(line), fault.describe(self.text))
        })
    }
}

/// An element as a document of its own. One that is no object makes none, and an array would be taken for the document's.
fn alone(element: &[u8]) -> Bytes {
    if element.first() == Some(&b'{') {
        Bytes::copy_from_slice(element)
    } else {
        [b"[", element, b"]"].concat().into()
    }
}

/// Line numbers of places, each further on than the one before.
struct Lines<'a> {
    text: &'a [u8],
    counted: usize,
    line: u64,
}

impl Lines<'_> {
    fn of(&mut self, at: usize) -> u64 {
        let at = at.min(self.text.len());
        if let Some(passed) = self.text.get(self.counted..at) {
            self.line += count_lines(passed) as u64;
            self.counted = at;
        }
        self.line
    }
}
