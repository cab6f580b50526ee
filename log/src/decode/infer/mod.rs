// SPDX-License-Identifier: Apache-2.0
//! A schema proposed from a sample of events: for people to read and correct, not a promise.
//!
//! Integers become BIGINT, ISO dates DATE or TIMESTAMP, and a column is NOT NULL only if every event of the
//! sample has a value for it. Fields that no column can hold, and names that no column may have, are left
//! out. The sample may be cut off anywhere; then its last event does not count.

mod shape;

use std::collections::HashSet;

use arrow::datatypes::{DataType, Field, Schema};
use arrow::ipc::convert::fb_to_schema;
use arrow::ipc::root_as_message;
use dovetail_model::{Column, ColumnType, EventTime, StreamSchema, UnknownColumns};
use serde_json::Value;

use super::csv::{Records, header_names};
use super::error::{DecodeError, Place};
use super::fault::excerpt;
use super::guard::guarded;
use super::json::JsonReader;
use super::text::without_bom;
use super::{Format, arrow_ipc, topics_only};
use shape::{Fields, Shape};

/// Proposes a schema for events like those in `sample`, the start of the file or stream `name`.
///
/// # Errors
/// `Body` if the sample holds no whole event, is not of the format, or no type holds a column's values.
pub fn infer(format: Format, sample: &[u8], name: &str) -> Result<StreamSchema, DecodeError> {
    let columns = match format {
        Format::Ndjson => ndjson(sample).map(Fields::into_columns),
        Format::Json => json(sample).map(Fields::into_columns),
        Format::Csv => csv(sample).map(Fields::into_columns),
        Format::Arrow => arrow_schema(sample).map(|schema| arrow_columns(schema.fields())),
        Format::Avro | Format::Protobuf => return Err(topics_only(format)),
    };
    let columns = columns.map_err(|error| in_file(error, name))?;
    let columns = declarable(columns);
    if columns.is_empty() {
        let error = DecodeError::body("the sample has no field that a column could hold");
        return Err(in_file(error, name));
    }
    Ok(StreamSchema {
        event_time: only_time(&columns),
        columns,
        unknown_columns: UnknownColumns::Ignore,
    })
}

/// The one column that is a point in time, if there is one only.
fn only_time(columns: &[Column]) -> Option<EventTime> {
    let is_time = |c: &&Column| matches!(c.column_type, ColumnType::Timestamp | ColumnType::Date);
    let mut times = columns.iter().filter(is_time);
    let first = times.next()?;
    times.next().is_none().then(|| EventTime {
        column: first.name.clone(),
        epoch: None,
    })
}

/// The columns that may be declared, each name once.
fn declarable(columns: Vec<Column>) -> Vec<Column> {
    let mut seen = HashSet::new();
    let mut kept = Vec::new();
    for column in columns {
        let alone = StreamSchema {
            columns: vec![column],
            event_time: None,
            unknown_columns: UnknownColumns::Ignore,
        };
        if alone.check().is_ok() {
            kept.extend(alone.columns);
        }
    }
    kept.retain(|column| seen.insert(column.name.to_lowercase()));
    kept
}

fn in_file(error: DecodeError, name: &str) -> DecodeError {
    match error {
        DecodeError::Body {
            place,
            column,
            reason,
        } => DecodeError::Body {
            place,
            column,
            reason: format!("{reason} (in `{}`)", excerpt(name.as_bytes())),
        },
        other => other,
    }
}

fn nothing() -> DecodeError {
    DecodeError::body("the sample holds no whole event")
}

fn ndjson(sample: &[u8]) -> Result<Fields, DecodeError> {
    let mut fields = Fields::default();
    let mut failed = None;
    let lines = without_bom(sample).split(|b| *b == b'\n');
    for (index, line) in lines.enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        // Only the last line may fail: it may be cut off.
        if let Some(error) = failed.take() {
            return Err(error);
        }
        let place = Place::line(index as u64 + 1);
        match serde_json::from_slice(line) {
            Ok(value) => add(&mut fields, &value, place)?,
            Err(error) => failed = Some(at(place, error.to_string())),
        }
    }
    match failed {
        Some(error) if fields.rows() == 0 => Err(error),
        _ if fields.rows() == 0 => Err(nothing()),
        _ => Ok(fields),
    }
}

fn json(sample: &[u8]) -> Result<Fields, DecodeError> {
    let text = without_bom(sample);
    let mut reader = JsonReader::new(text, UnknownColumns::Ignore);
    let mut fields = Fields::default();
    reader.skip_space();
    let array = reader.take(b'[');
    loop {
        reader.skip_space();
        let start = reader.position();
        if reader.skip_value(0).is_err() {
            break;
        }
        let element = &text[start..reader.position()];
        let place = Place::line(super::text::count_lines(&text[..start]) as u64 + 1);
        let value = serde_json::from_slice(element).map_err(|e| at(place, e.to_string()))?;
        add(&mut fields, &value, place)?;
        reader.skip_space();
        if !array || !reader.take(b',') {
            break;
        }
    }
    if fields.rows() == 0 {
        return Err(nothing());
    }
    Ok(fields)
}

fn add(fields: &mut Fields, event: &Value, place: Place) -> Result<(), DecodeError> {
    let Value::Object(members) = event else {
        return Err(at(place, "expected a JSON object".to_owned()));
    };
    fields
        .add_object(members)
        .map_err(|conflict| DecodeError::Body {
            place,
            column: Some(conflict.column),
            reason: format!(
                "no type holds both {} and {}; declare the stream by hand",
                conflict.before, conflict.found
            ),
        })
}

fn csv(sample: &[u8]) -> Result<Fields, DecodeError> {
    let text = without_bom(sample);
    let mut records = Records::new(text);
    let names = header_names(&mut records)?;
    let names: Vec<String> = names
        .iter()
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    let mut fields = Fields::default();
    let mut scratch = Vec::new();
    while let Some(whole) = records.next() {
        let cut = records.at_end() && !text.ends_with(b"\n");
        if whole.is_err() || records.found() != names.len() || (cut && fields.rows() > 0) {
            continue;
        }
        let record = records.bytes();
        let shapes = records.values().iter().map(|value| {
            let text = value.text(record, &mut scratch);
            Shape::of_text(text, value.quoted)
        });
        fields.add_record(&names, shapes);
    }
    if fields.rows() == 0 {
        return Err(nothing());
    }
    Ok(fields)
}

fn at(place: Place, reason: String) -> DecodeError {
    DecodeError::Body {
        place,
        column: None,
        reason,
    }
}

/// The schema, which is the first message of a stream.
fn arrow_schema(sample: &[u8]) -> Result<Schema, DecodeError> {
    let mut rest = sample;
    let metadata = arrow_ipc::next_metadata(&mut rest)?.ok_or_else(nothing)?;
    let metadata = metadata.to_vec();
    // `fb_to_schema` panics on types that it does not know.
    guarded(|| {
        let message = root_as_message(&metadata).ok()?;
        Some(fb_to_schema(message.header_as_schema()?))
    })
    .flatten()
    .ok_or_else(|| DecodeError::body("the sample is not the start of an Arrow stream"))
}

fn arrow_columns(fields: &arrow::datatypes::Fields) -> Vec<Column> {
    fields.iter().filter_map(|f| arrow_column(f)).collect()
}

fn arrow_column(field: &Field) -> Option<Column> {
    Some(Column {
        name: field.name().clone(),
        column_type: column_type_of(field.data_type())?,
        nullable: field.is_nullable(),
    })
}

/// The column type that holds every value of an Arrow type, if there is one.
pub(super) fn column_type_of(data_type: &DataType) -> Option<ColumnType> {
    Some(match data_type {
        DataType::Boolean => ColumnType::Boolean,
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => {
            ColumnType::Int
        }
        DataType::UInt32 | DataType::Int64 => ColumnType::BigInt,
        DataType::UInt64 => ColumnType::Decimal(20, 0),
        from if from.is_floating() => ColumnType::Double,
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => ColumnType::Decimal(*precision, *scale),
        DataType::Null | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            ColumnType::Varchar
        }
        DataType::Date32 | DataType::Date64 => ColumnType::Date,
        DataType::Timestamp(..) => ColumnType::Timestamp,
        DataType::Dictionary(_, value) => column_type_of(value)?,
        DataType::Struct(fields) => ColumnType::Struct(arrow_columns(fields)),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            ColumnType::List(Box::new(column_type_of(item.data_type())?))
        }
        _ => return None,
    })
}
