// SPDX-License-Identifier: Apache-2.0
//! Where each event of a JSON body stands: for those who pass events on as they came.

use std::ops::Range;

use super::error::{DecodeError, Place};
use super::fault::Outcome;
use super::json::JsonReader;
use super::text::{count_lines, without_bom};
use crate::Format;
use dovetail_model::UnknownColumns;

/// One event of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// Its bytes in the body, without what stands around it.
    pub range: Range<usize>,
    /// The line that it begins on, from 1.
    pub line: u64,
}

/// The events of a body of JSON lines, or of a JSON array or object, in their order: as many as
/// [`Decoder::decode`](super::Decoder::decode) finds. None for other formats, whose events are no text of their own.
///
/// # Errors
/// `Body` if the body is empty, or its grammar does not tell where an element ends.
pub fn elements(format: Format, body: &[u8]) -> Result<Option<Vec<Element>>, DecodeError> {
    let text = without_bom(body);
    let offset = body.len() - text.len();
    let mut found = match format {
        Format::Ndjson => lines(text),
        Format::Json => document(text)?,
        Format::Csv | Format::Arrow | Format::Avro | Format::Protobuf => return Ok(None),
    };
    for element in &mut found {
        element.range.start += offset;
        element.range.end += offset;
    }
    // An empty array is a body of no events, an empty text is none.
    if found.is_empty() && !text.contains(&b'[') {
        return Err(DecodeError::body("the body holds no event"));
    }
    Ok(Some(found))
}

fn lines(text: &[u8]) -> Vec<Element> {
    let mut found = Vec::new();
    let (mut start, mut line) = (0, 0);
    while start < text.len() {
        let end = memchr::memchr(b'\n', &text[start..]).map_or(text.len(), |at| start + at);
        line += 1;
        let range = trimmed(text, start..end);
        if !range.is_empty() {
            found.push(Element { range, line });
        }
        start = end + 1;
    }
    found
}

/// Without the white space of JSON at both ends.
fn trimmed(text: &[u8], at: Range<usize>) -> Range<usize> {
    let solid = |byte: &u8| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
    let within = &text[at.clone()];
    match (
        within.iter().position(solid),
        within.iter().rposition(solid),
    ) {
        (Some(first), Some(last)) => at.start + first..at.start + last + 1,
        _ => at.start..at.start,
    }
}

fn document(text: &[u8]) -> Result<Vec<Element>, DecodeError> {
    let mut reader = JsonReader::new(text, UnknownColumns::Ignore);
    let mut found = Vec::new();
    let walked = walk(&mut reader, &mut found);
    walked.map_err(|fault| {
        let before = &text[..fault.position().min(text.len())];
        let place = Place::line(1 + count_lines(before) as u64);
        DecodeError::body_at(place, fault.describe(text))
    })?;
    let (mut counted, mut line) = (0, 1);
    let elements = found.into_iter().map(|range| {
        line += count_lines(&text[counted..range.start]) as u64;
        counted = range.start;
        Element { range, line }
    });
    Ok(elements.collect())
}

fn walk(reader: &mut JsonReader<'_>, found: &mut Vec<Range<usize>>) -> Outcome<()> {
    reader.skip_space();
    if reader.take(b'[') {
        reader.skip_space();
        if !reader.take(b']') {
            loop {
                found.push(value(reader)?);
                if reader.take(b',') {
                    reader.skip_space();
                } else if reader.take(b']') {
                    break;
                } else {
                    return reader.expected("`,` or `]`");
                }
            }
        }
    } else if reader.peek() == Some(b'{') {
        found.push(value(reader)?);
    } else if reader.peek().is_some() {
        return reader.expected("a JSON array of objects, or one object");
    }
    reader.skip_space();
    match reader.peek() {
        None => Ok(()),
        Some(_) => {
            reader.expected("nothing more; for one object per line send `application/x-ndjson`")
        }
    }
}

fn value(reader: &mut JsonReader<'_>) -> Outcome<Range<usize>> {
    let start = reader.position();
    reader.skip_value(0)?;
    let end = reader.position();
    reader.skip_space();
    Ok(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(format: Format, body: &str) -> Result<Vec<(&str, u64)>, String> {
        let found = elements(format, body.as_bytes()).map_err(|error| error.to_string())?;
        let found = found.expect("it is JSON").into_iter();
        Ok(found.map(|e| (&body[e.range], e.line)).collect())
    }

    #[test]
    fn lines_are_found_where_they_stand() {
        let body = "\u{feff}{\"n\":1}\r\n\n  {\"n\": 2} \t\n{\"n\":";
        let found = texts(Format::Ndjson, body).unwrap();
        assert_eq!(found, [("{\"n\":1}", 1), ("{\"n\": 2}", 3), ("{\"n\":", 4)]);
        let empty = texts(Format::Ndjson, " \n\r\n").unwrap_err();
        assert!(empty.contains("no event"), "{empty}");
    }

    #[test]
    fn elements_of_an_array_are_found_where_they_stand() {
        let body = " [ {\"a\": [1, \"]\"]\n} ,\n 7,{}]\n";
        let found = texts(Format::Json, body).unwrap();
        assert_eq!(found, [("{\"a\": [1, \"]\"]\n}", 1), ("7", 3), ("{}", 3)]);
        assert_eq!(
            texts(Format::Json, "{\"a\":1}").unwrap(),
            [("{\"a\":1}", 1)]
        );
        assert_eq!(texts(Format::Json, " [ ] ").unwrap(), []);
    }

    #[test]
    fn what_cannot_be_told_apart_is_refused_with_its_line() {
        for (body, line) in [
            ("[{},\n{]", "line 2"),
            ("[{}", "line 1"),
            ("7", "line 1"),
            ("{}\n{}", "line 2"),
        ] {
            let error = texts(Format::Json, body).unwrap_err();
            assert!(error.contains(line), "{body}: {error}");
        }
        assert!(texts(Format::Json, " ").unwrap_err().contains("no event"));
    }

    #[test]
    fn other_formats_have_none() {
        assert_eq!(elements(Format::Csv, b"n\n1\n"), Ok(None));
        assert_eq!(elements(Format::Arrow, b""), Ok(None));
    }
}
