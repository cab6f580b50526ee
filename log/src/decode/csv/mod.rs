// SPDX-License-Identifier: Apache-2.0
//! CSV after RFC 4180, with a header line that names the columns in any order.
//!
//! An empty value without quotes is null, for VARCHAR too; `""` is the empty text. Quotes around a value of
//! another type do not matter. STRUCT and LIST hold JSON. Empty lines are left out, unless they are the only way to
//! write a null: where the header names one column alone, and that may be null. Where quotes do not match, the line on which the record starts is one bad event, and decoding goes on behind it.

mod records;
mod value;

use std::collections::HashSet;

use dovetail_model::{StreamSchema, UnknownColumns};

use super::budget::Budget;
use super::column::Row;
use super::error::{DecodeError, Place};
use super::fault::{Described, Outcome, UNKNOWN, What, excerpt, fault};
use super::ndjson::{check, expected_rows};
use super::sink::Sink;
use records::Value;
pub(super) use records::{MAX_VALUES, Records};
use value::ValueReader;

/// So many names of a header are shown where one is missed.
const NAMES_SHOWN: usize = 8;

/// Decodes all records into `columns`.
pub(super) fn decode(
    text: &[u8],
    columns: &mut Row,
    unknown: UnknownColumns,
    sink: &mut Sink<'_>,
) -> Result<(), DecodeError> {
    let checked = std::str::from_utf8(text).is_ok();
    let mut records = Records::new(text);
    let targets = read_header(&mut records, columns, unknown)?;
    if let [Some(only)] = targets[..]
        && columns.columns[only].nullable
    {
        records.keep_empty_lines();
    }
    let header = records.bytes();
    columns.reserve(expected_rows(text, columns.width(), sink.budget.left()));
    let mut reader = ValueReader::new(unknown);
    let mut rows = 0;
    while let Some(whole) = records.next() {
        let record = records.bytes();
        let read = check(record, checked).and(whole).and_then(|()| {
            read_record(
                &records,
                &targets,
                &mut reader,
                columns,
                rows,
                &mut sink.budget,
            )
        });
        match read {
            Ok(()) => rows += 1,
            Err(fault) => {
                columns.truncate(rows);
                sink.refuse(Place::line(records.line()), &fault, record, || {
                    [header, b"\n", record, carriage(record)].concat().into()
                })?;
            }
        }
    }
    Ok(())
}

/// What keeps a carriage return at the end of `line` from being taken for half of a line end.
fn carriage(line: &[u8]) -> &'static [u8] {
    if line.ends_with(b"\r") { b"\r" } else { b"" }
}

/// Puts the values of the current record into the columns that `targets` names.
fn read_record(
    records: &Records<'_>,
    targets: &[Option<usize>],
    reader: &mut ValueReader,
    columns: &mut Row,
    row: usize,
    budget: &mut Budget,
) -> Outcome<()> {
    same_count(records.found(), targets.len())?;
    budget.charge(columns.width())?;
    for (value, target) in records.values().iter().zip(targets) {
        if let Some(index) = target {
            let named = &mut columns.columns[*index];
            reader.read(records.bytes(), value, named, budget)?;
        }
    }
    columns.fill(row)
}

/// Reads records that come one by one and without a header.
pub(super) struct RecordReader {
    reader: ValueReader,
    targets: Vec<Option<usize>>,
    keeps_empty: bool,
}

impl RecordReader {
    /// A reader of records that have all columns of `schema` in their order.
    pub(super) fn new(schema: &StreamSchema) -> Self {
        Self {
            reader: ValueReader::new(schema.unknown_columns),
            targets: (0..schema.columns.len()).map(Some).collect(),
            keeps_empty: matches!(&schema.columns[..], [only] if only.nullable),
        }
    }

    /// Reads the one record that `text` must be.
    pub(super) fn read_alone(
        &mut self,
        text: &[u8],
        columns: &mut Row,
        row: usize,
        budget: &mut Budget,
    ) -> Outcome<()> {
        let text = if text.is_empty() && self.keeps_empty {
            b"\n"
        } else {
            text
        };
        let mut records = Records::new(text);
        if self.keeps_empty {
            records.keep_empty_lines();
        }
        let Some(whole) = records.next() else {
            return fault(What::Expected("a CSV record"), 0..0);
        };
        whole?;
        if !records.at_end() {
            return fault(
                What::Malformed("is more than one CSV record"),
                0..text.len(),
            );
        }
        read_record(
            &records,
            &self.targets,
            &mut self.reader,
            columns,
            row,
            budget,
        )
    }
}

fn same_count(found: usize, expected: usize) -> Outcome<()> {
    if found == expected {
        Ok(())
    } else {
        fault(What::Ragged { found, expected }, 0..0)
    }
}

/// Reads the names in the first record, as they are written.
pub(super) fn header_names(records: &mut Records<'_>) -> Result<Vec<Vec<u8>>, DecodeError> {
    let Some(whole) = records.next() else {
        let reason = "the body is empty; CSV starts with a header line";
        return Err(DecodeError::body(reason));
    };
    let place = Place::line(records.line());
    let bytes = records.bytes();
    check(bytes, false)
        .and(whole)
        .map_err(|fault| DecodeError::body_at(place, fault.describe(bytes)))?;
    if records.found() > MAX_VALUES {
        let reason = format!("the header names more than {MAX_VALUES} columns");
        return Err(DecodeError::too_large(reason));
    }
    let mut scratch = Vec::new();
    let name = |value: &Value| value.text(bytes, &mut scratch).to_vec();
    Ok(records.values().iter().map(name).collect())
}

/// Which column each value of a record is for; none for those that are left out.
fn read_header(
    records: &mut Records<'_>,
    columns: &Row,
    unknown: UnknownColumns,
) -> Result<Vec<Option<usize>>, DecodeError> {
    let names = header_names(records)?;
    let refuse = |column: Option<String>, reason: &str| {
        let reason = reason.to_owned();
        DecodeError::body_at(Place::line(records.line()), Described { column, reason })
    };
    let mut seen = HashSet::new();
    let mut targets = Vec::with_capacity(names.len());
    for name in &names {
        if !seen.insert(name) {
            return Err(refuse(Some(excerpt(name)), "the header names it twice"));
        }
        let target = columns.find(name, targets.len());
        if target.is_none() && unknown == UnknownColumns::Reject {
            return Err(refuse(Some(excerpt(name)), UNKNOWN));
        }
        targets.push(target);
    }
    // A file whose lines end in carriage returns alone is one line.
    let returns =
        |value: &&Value| !value.quoted && records.bytes()[value.at.clone()].contains(&b'\r');
    if records.values().iter().any(|value| returns(&value)) {
        let reason = "a carriage return stands inside a name; end lines with a line feed";
        return Err(refuse(None, reason));
    }
    for (index, named) in columns.columns.iter().enumerate() {
        if !named.nullable && !targets.contains(&Some(index)) {
            let reason = format!(
                "it is NOT NULL, but the header does not name it: it names {}",
                listed(&names)
            );
            return Err(refuse(Some(named.name.to_string()), &reason));
        }
    }
    if targets.iter().all(Option::is_none) {
        let reason = format!(
            "the header names no column of the stream, but {}; CSV starts with a header line",
            listed(&names)
        );
        return Err(refuse(None, &reason));
    }
    Ok(targets)
}

/// The first names of a header, for a message.
fn listed(names: &[Vec<u8>]) -> String {
    let shown = names.iter().take(NAMES_SHOWN);
    let mut shown: Vec<String> = shown.map(|name| format!("`{}`", excerpt(name))).collect();
    if names.len() > NAMES_SHOWN {
        shown.push(format!("and {} more", names.len() - NAMES_SHOWN));
    }
    shown.join(", ")
}
