// SPDX-License-Identifier: Apache-2.0
//! The decoder against the reference, round trips, and bytes that mean nothing.

use bytes::Bytes;
use dovetail_model::{ColumnType, StreamSchema};
use proptest::collection::vec;
use proptest::prelude::*;

use super::cells::{Cell, csv_quoted, rows_of, to_csv, to_json};
use super::generate::{any_schema, csv_text, json_line, row};
use super::reference::{csv_cell, json_event};
use super::{decode, strict};
use crate::decode::csv::Records;
use crate::decode::{DecodeError, Decoder, OnError};
use crate::{DeadLetter, Format};

/// `DOVETAIL_PROPTEST_CASES` cases, or a number that takes seconds.
fn config() -> ProptestConfig {
    let cases = std::env::var("DOVETAIL_PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(128);
    ProptestConfig {
        cases,
        max_shrink_iters: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn schema_and_lines() -> impl Strategy<Value = (StreamSchema, Vec<String>)> {
    any_schema().prop_flat_map(|schema| {
        let lines = vec(json_line(&schema.columns), 0..12);
        (Just(schema), lines)
    })
}

fn schema_and_rows() -> impl Strategy<Value = (StreamSchema, Vec<Vec<Cell>>)> {
    any_schema().prop_flat_map(|schema| {
        let rows = vec(row(&schema.columns), 0..20);
        (Just(schema), rows)
    })
}

/// Events as the reference sees them: each good or bad.
type Expected = Vec<Option<Vec<Cell>>>;

/// Both ways of handling bad events give what is expected; each dead letter is bad alone as well.
fn check(
    schema: &StreamSchema,
    format: Format,
    body: &[u8],
    expected: &Expected,
    lines: Option<&[u64]>,
) -> Result<(), TestCaseError> {
    let good: Vec<_> = expected.iter().flatten().cloned().collect();
    let bad: Vec<usize> = (0..expected.len())
        .filter(|i| expected[*i].is_none())
        .collect();
    let decoded = decode(schema, format, body, OnError::DeadLetter)
        .map_err(|e| TestCaseError::fail(e.to_string()))?;
    prop_assert_eq!(decoded.events.schema(), schema.declared());
    prop_assert_eq!(rows_of(&decoded.events), good);
    prop_assert_eq!(decoded.dead_letters.len(), bad.len());
    for (letter, index) in decoded.dead_letters.iter().zip(&bad) {
        if let Some(lines) = lines {
            prop_assert_eq!(letter.line, Some(lines[*index]));
        }
        check_alone(schema, letter)?;
    }
    match decode(schema, format, body, OnError::Reject) {
        Ok(decoded) => {
            prop_assert!(bad.is_empty());
            prop_assert_eq!(decoded.events.num_rows(), expected.len());
        }
        Err(DecodeError::Events {
            place,
            column,
            reason,
            bad: count,
        }) => {
            prop_assert_eq!(count, bad.len() as u64);
            let first = &decoded.dead_letters[0];
            prop_assert_eq!(
                (place.line, &column, &reason),
                (first.line, &first.column, &first.reason)
            );
        }
        Err(other) => return Err(TestCaseError::fail(other.to_string())),
    }
    Ok(())
}

/// A dead letter replayed alone fails for the same reason: it lost nothing that mattered.
fn check_alone(schema: &StreamSchema, letter: &DeadLetter) -> Result<(), TestCaseError> {
    let said = match &letter.column {
        Some(column) => format!("column `{column}`: {}", letter.reason),
        None => letter.reason.clone(),
    };
    prop_assert_eq!(Decoder::new(schema).decode_letter(letter), Err(said));
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn ndjson_is_what_the_reference_says((schema, lines) in schema_and_lines(), ends in 0..3) {
        let ending = ["\n", "\r\n", "\n\n"][ends as usize];
        let mut body = lines.join(ending);
        if ends != 1 { body += ending; }
        let numbers: Vec<u64> = (0..lines.len() as u64)
            .map(|i| 1 + i * if ends == 2 { 2 } else { 1 })
            .collect();
        let present: Vec<usize> = (0..lines.len()).filter(|i| !lines[*i].trim().is_empty()).collect();
        if present.is_empty() {
            prop_assert!(decode(&schema, Format::Ndjson, &body, OnError::DeadLetter).is_err());
            return Ok(());
        }
        let expected = present.iter().map(|i| json_event(&schema, &lines[*i])).collect();
        let numbers: Vec<u64> = present.iter().map(|i| numbers[*i]).collect();
        check(&schema, Format::Ndjson, body.as_bytes(), &expected, Some(&numbers))?;
    }

    #[test]
    fn a_json_array_is_what_the_reference_says((schema, lines) in schema_and_lines()) {
        // Only elements whose grammar is sound can stand in an array.
        let sound = |line: &&String| {
            serde_json::from_str::<serde_json::Value>(line)
                .is_ok_and(|value| value.is_object() || !line.contains("1e400"))
        };
        let lines: Vec<_> = lines.iter().filter(sound).cloned().collect();
        let body = format!(" [{}\n]\n", lines.join("\n,"));
        let expected = lines.iter().map(|line| json_event(&schema, line)).collect();
        check(&schema, Format::Json, body.as_bytes(), &expected, None)?;
    }

    #[test]
    fn csv_is_what_the_reference_says(
        (schema, records, order) in any_schema().prop_flat_map(|schema| {
            let value = |c: &dovetail_model::Column| (csv_text(&c.column_type), any::<bool>());
            let record: Vec<_> = schema.columns.iter().map(value).collect();
            let order: Vec<usize> = (0..schema.columns.len()).collect();
            (Just(schema), vec(record, 0..12), Just(order).prop_shuffle())
        }),
        crlf: bool,
    ) {
        let ending = if crlf { "\r\n" } else { "\n" };
        let header: Vec<_> = order.iter().map(|i| csv_quoted(&schema.columns[*i].name)).collect();
        let mut body = header.join(",") + ending;
        let mut expected = Vec::new();
        let mut numbers = Vec::new();
        for record in &records {
            let line = body.matches('\n').count() as u64 + 1;
            // A record of one empty value without quotes would be an empty line.
            let quote = |text: &str, asked: bool| {
                asked || record.len() == 1 || text.contains(['"', ',', '\n', '\r'])
            };
            let values: Vec<_> = order
                .iter()
                .map(|i| {
                    let (text, asked) = &record[*i];
                    if quote(text, *asked) { csv_quoted(text) } else { text.clone() }
                })
                .collect();
            body += &values.join(",");
            body += ending;
            numbers.push(line);
            let epoch = schema.event_time.as_ref();
            let cells = schema.columns.iter().zip(record).map(|(column, (text, asked))| {
                let unit = epoch.filter(|e| e.column == column.name).and_then(|e| e.epoch);
                let quoted = quote(text, *asked);
                csv_cell(&column.column_type, text, quoted, schema.unknown_columns, unit)
                    .filter(|cell| column.nullable || *cell != Cell::Null)
            });
            expected.push(cells.collect::<Option<Vec<_>>>());
        }
        check(&schema, Format::Csv, body.as_bytes(), &expected, Some(&numbers))?;
    }

    #[test]
    fn what_is_written_is_read_back((schema, rows) in schema_and_rows(), sparse: bool) {
        let schema = strict(schema);
        let columns = &schema.columns;
        let objects: Vec<_> = rows.iter().map(|row| to_json(columns, row, sparse)).collect();
        let array = format!("[{}]", objects.join(","));
        let decoded = decode(&schema, Format::Json, array, OnError::Reject).unwrap();
        prop_assert_eq!(&rows_of(&decoded.events), &rows);
        if !rows.is_empty() {
            let lines = objects.join("\n");
            let decoded = decode(&schema, Format::Ndjson, lines, OnError::Reject).unwrap();
            prop_assert_eq!(&rows_of(&decoded.events), &rows);
        }
        let header: Vec<_> = columns.iter().map(|c| csv_quoted(&c.name)).collect();
        let mut csv = header.join(",") + "\n";
        for row in &rows {
            csv += &(to_csv(columns, row) + "\n");
        }
        let decoded = decode(&schema, Format::Csv, csv, OnError::Reject).unwrap();
        prop_assert_eq!(&rows_of(&decoded.events), &rows);

        let batch = decoded.events;
        let mut stream = arrow::ipc::writer::StreamWriter::try_new(vec![], &batch.schema()).unwrap();
        let cut = batch.num_rows() / 2;
        stream.write(&batch.slice(0, cut)).unwrap();
        stream.write(&batch.slice(cut, batch.num_rows() - cut)).unwrap();
        let stream = stream.into_inner().unwrap();
        let decoded = decode(&schema, Format::Arrow, &stream, OnError::Reject).unwrap();
        prop_assert_eq!(&rows_of(&decoded.events), &rows);
        prop_assert_eq!(decoded.events.schema(), schema.declared());
    }

    #[test]
    fn no_bytes_panic(
        schema in any_schema(),
        bytes in prop_oneof![
            vec(any::<u8>(), 0..200),
            "[\\[\\]{}\",:\\\\a-c0-9e.\\-\\n ]{0,200}".prop_map(String::into_bytes),
        ],
    ) {
        for format in [Format::Ndjson, Format::Json, Format::Csv, Format::Arrow] {
            for on_error in [OnError::Reject, OnError::DeadLetter] {
                if let Err(error) = decode(&schema, format, &bytes, on_error) {
                    prop_assert!(!error.to_string().is_empty());
                }
            }
        }
    }

    /// Marks, quotes and line ends where they do not belong.
    #[test]
    fn letters_of_any_text_stay_bad(
        rest in "[a1\"{}\\[\\],:\r\n\u{feff}]{0,40}",
        mark: bool,
    ) {
        let schema = super::schema(vec![
            super::column("a", ColumnType::Int),
            super::column("b", ColumnType::Varchar),
        ]);
        let mark = if mark { "\u{feff}" } else { "" };
        for (format, head) in [(Format::Ndjson, ""), (Format::Json, "["), (Format::Csv, "a,b\n")] {
            let body = [mark, head, &rest].concat();
            if let Ok(decoded) = decode(&schema, format, body, OnError::DeadLetter) {
                for letter in &decoded.dead_letters {
                    check_alone(&schema, letter)?;
                }
            }
        }
    }

    #[test]
    fn text_that_is_not_utf8_spoils_only_its_event(
        (schema, lines) in schema_and_lines(),
        at in any::<proptest::sample::Index>(),
    ) {
        let lines: Vec<_> = lines.into_iter().filter(|l| !l.trim().is_empty()).collect();
        if lines.is_empty() {
            return Ok(());
        }
        let spoiled = at.index(lines.len());
        let mut body = Vec::new();
        for (index, line) in lines.iter().enumerate() {
            let mut line = line.clone().into_bytes();
            if index == spoiled {
                line.insert(line.len() / 2, 0xff);
            }
            body.extend(line);
            body.push(b'\n');
        }
        let event = |(i, line): (usize, &String)| {
            (i != spoiled).then(|| json_event(&schema, line)).flatten()
        };
        let expected = lines.iter().enumerate().map(event).collect();
        check(&schema, Format::Ndjson, &body, &expected, None)?;
    }

    #[test]
    fn records_are_those_of_a_plain_scan(text in "[a\",\r\n]{0,40}") {
        let mut records = Records::new(text.as_bytes());
        let mut found = Vec::new();
        while let Some(whole) = records.next() {
            let mut values = Vec::new();
            for value in records.values() {
                let mut scratch = Vec::new();
                let text = value.text(records.bytes(), &mut scratch).to_vec();
                values.push((String::from_utf8(text).unwrap(), value.quoted));
            }
            found.push((records.line(), whole.is_ok().then_some(values)));
        }
        prop_assert_eq!(found, plain_scan(&text));
    }
}

/// A record's line, and its values with whether they were quoted; none if its quotes do not match.
type Scanned = (u64, Option<Vec<(String, bool)>>);

/// RFC 4180 character by character.
fn plain_scan(text: &str) -> Vec<Scanned> {
    let chars: Vec<char> = text.chars().collect();
    let mut records = Vec::new();
    let mut pos = 0;
    while pos < chars.len() {
        let line = 1 + chars[..pos].iter().filter(|c| **c == '\n').count() as u64;
        let rest: String = chars[pos..].iter().collect();
        let end = ["\n", "\r\n"].iter().find(|e| rest.starts_with(**e));
        if let Some(skip) = end.or((rest == "\r").then_some(&"\r")) {
            pos += skip.len();
            continue;
        }
        match plain_record(&chars, pos) {
            Some((values, end)) => {
                records.push((line, Some(values)));
                pos = end;
            }
            None => {
                records.push((line, None));
                let end = chars[pos..].iter().position(|c| *c == '\n');
                pos = end.map_or(chars.len(), |end| pos + end + 1);
            }
        }
    }
    records
}

fn plain_record(chars: &[char], mut pos: usize) -> Option<(Vec<(String, bool)>, usize)> {
    let at = |pos: usize| chars.get(pos).copied();
    let mut values = Vec::new();
    loop {
        let mut value = String::new();
        let quoted = at(pos) == Some('"');
        if quoted {
            pos += 1;
            loop {
                match (at(pos)?, at(pos + 1)) {
                    ('"', Some('"')) => {
                        value.push('"');
                        pos += 2;
                    }
                    ('"', _) => {
                        pos += 1;
                        break;
                    }
                    (c, _) => {
                        value.push(c);
                        pos += 1;
                    }
                }
            }
        } else {
            while let Some(c) = at(pos).filter(|c| *c != ',' && *c != '\n') {
                if c == '"' {
                    return None;
                }
                value.push(c);
                pos += 1;
            }
            if at(pos) != Some(',') && value.ends_with('\r') {
                value.pop();
                pos -= 1;
            }
        }
        values.push((value, quoted));
        match (at(pos), at(pos + 1)) {
            (Some(','), _) => pos += 1,
            (None | Some('\n'), _) => return Some((values, pos + 1)),
            (Some('\r'), None | Some('\n')) => return Some((values, pos + 2)),
            _ => return None,
        }
    }
}

/// Every prefix and every single flipped bit of an Arrow stream: an error or a batch, never a panic.
#[test]
fn damaged_arrow_streams_do_not_panic() {
    let schema = super::flights();
    let lines = br#"{"date":"2001-01-01","delay":1,"origin":"SFO"}
{"date":"2001-01-02","delay":null,"origin":"LAX"}"#;
    let batch = decode(&schema, Format::Ndjson, lines, OnError::Reject)
        .unwrap()
        .events;
    let mut stream = arrow::ipc::writer::StreamWriter::try_new(vec![], &batch.schema()).unwrap();
    stream.write(&batch).unwrap();
    let stream = stream.into_inner().unwrap();
    let decoder = Decoder::new(&schema);
    for length in 0..stream.len() {
        let cut = Bytes::copy_from_slice(&stream[..length]);
        let error = decoder.decode(Format::Arrow, &cut, OnError::Reject, "cut");
        assert!(error.is_err(), "cut at {length} of {}", stream.len());
    }
    for bit in 0..stream.len() * 8 {
        let mut bytes = stream.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let decoded = decoder.decode(Format::Arrow, &bytes.into(), OnError::DeadLetter, "flip");
        if let Ok(decoded) = decoded {
            assert!(decoded.events.num_rows() <= 2);
        }
    }
}

proptest! {
    #![proptest_config(config())]

    /// Streams with dictionaries, views, lists and structs, with some bytes changed.
    #[test]
    fn spoiled_arrow_streams_do_not_panic(
        changes in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let (schema, mut bytes) = super::arrow::many_types();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        for on_error in [OnError::Reject, OnError::DeadLetter] {
            if let Ok(decoded) = super::decode_in_little(&schema, Format::Arrow, &bytes, on_error) {
                prop_assert_eq!(decoded.events.schema(), schema.declared());
            }
        }
    }
}
