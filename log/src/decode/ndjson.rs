// SPDX-License-Identifier: Apache-2.0
//! One JSON object per line. A line stands for itself: a broken one never swallows its neighbour.

use bytes::Bytes;
use dovetail_model::UnknownColumns;

use super::column::Row;
use super::error::{DecodeError, Place};
use super::fault::{Outcome, What, fault};
use super::json::JsonReader;
use super::sink::Sink;
use super::text::count_lines;

/// Decodes all lines into `columns`.
pub(super) fn decode(
    text: &[u8],
    columns: &mut Row,
    unknown: UnknownColumns,
    sink: &mut Sink<'_>,
) -> Result<(), DecodeError> {
    let checked = std::str::from_utf8(text).is_ok();
    columns.reserve(expected_rows(text, columns.width(), sink.budget.left()));
    let mut reader = JsonReader::new(text, unknown);
    let (mut rows, mut seen, mut line, mut start) = (0, false, 0, 0);
    while start < text.len() {
        let end = memchr::memchr(b'\n', &text[start..]).map_or(text.len(), |at| start + at);
        line += 1;
        let event = &text[start..end];
        start = end + 1;
        reader.reset(event, 0);
        reader.skip_space();
        if reader.peek().is_none() {
            continue;
        }
        seen = true;
        let read = check(event, checked).and_then(|()| {
            reader.event(columns, rows, &mut sink.budget)?;
            reader.skip_space();
            if reader.peek().is_some() {
                return reader.expected("nothing more on the line");
            }
            Ok(())
        });
        match read {
            Ok(()) => rows += 1,
            Err(fault) => {
                columns.truncate(rows);
                sink.refuse(Place::line(line), &fault, event, || {
                    Bytes::copy_from_slice(event)
                })?;
            }
        }
    }
    if !seen {
        return Err(DecodeError::body("the body holds no event"));
    }
    Ok(())
}

/// JSON is UTF-8. A body that is so as a whole needs no check of its parts.
pub(super) fn check(text: &[u8], checked: bool) -> Outcome<()> {
    if checked {
        return Ok(());
    }
    match std::str::from_utf8(text) {
        Ok(_) => Ok(()),
        Err(error) => {
            let at = error.valid_up_to();
            fault(What::NotUtf8, at..at + 1)
        }
    }
}

/// How many rows to make room for: as many as there are lines, unless most of them are too short to be
/// events or the rows would not fit anyhow.
pub(super) fn expected_rows(text: &[u8], width: usize, budget: usize) -> usize {
    let first = memchr::memchr(b'\n', text).unwrap_or(text.len());
    let likely = 2 * text.len() / (first + 1) + 1;
    (count_lines(text) + 1)
        .min(likely)
        .min(budget / width.max(1))
}
