// SPDX-License-Identifier: Apache-2.0
mod arrow;
mod avro;
mod cells;
mod examples;
mod generate;
mod inferred;
mod properties;
mod protobuf;
mod reference;

use bytes::Bytes;
use dovetail_model::{Column, ColumnType, EpochUnit, EventTime, StreamSchema, UnknownColumns};

use super::{DecodeError, Decoded, Decoder, OnError};
use crate::Format;

fn column(name: &str, column_type: ColumnType) -> Column {
    Column {
        name: name.to_owned(),
        column_type,
        nullable: true,
    }
}

fn required(name: &str, column_type: ColumnType) -> Column {
    Column {
        nullable: false,
        ..column(name, column_type)
    }
}

fn schema(columns: Vec<Column>) -> StreamSchema {
    let schema = StreamSchema {
        columns,
        event_time: None,
        unknown_columns: UnknownColumns::Ignore,
    };
    schema.check().unwrap();
    schema
}

/// The flights of the design.
fn flights() -> StreamSchema {
    let mut schema = schema(vec![
        required("date", ColumnType::Timestamp),
        column("delay", ColumnType::Int),
        column("distance", ColumnType::Int),
        column("origin", ColumnType::Varchar),
        column("destination", ColumnType::Varchar),
    ]);
    schema.event_time = Some(EventTime {
        column: "date".to_owned(),
        epoch: None,
    });
    schema
}

fn with_epoch(mut schema: StreamSchema, name: &str, unit: EpochUnit) -> StreamSchema {
    schema.event_time = Some(EventTime {
        column: name.to_owned(),
        epoch: Some(unit),
    });
    schema.check().unwrap();
    schema
}

fn strict(mut schema: StreamSchema) -> StreamSchema {
    schema.unknown_columns = UnknownColumns::Reject;
    schema
}

fn decode(
    schema: &StreamSchema,
    format: Format,
    body: impl AsRef<[u8]>,
    on_error: OnError,
) -> Result<Decoded, DecodeError> {
    let body = Bytes::copy_from_slice(body.as_ref());
    Decoder::new(schema).decode(format, &body, on_error, "test")
}

/// With room for 4 MiB.
fn decode_in_little(
    schema: &StreamSchema,
    format: Format,
    body: impl AsRef<[u8]>,
    on_error: OnError,
) -> Result<Decoded, DecodeError> {
    let body = Bytes::copy_from_slice(body.as_ref());
    let decoder = Decoder::new(schema).with_max_decoded_bytes(4 << 20);
    decoder.decode(format, &body, on_error, "test")
}

fn rejected(schema: &StreamSchema, format: Format, body: impl AsRef<[u8]>) -> DecodeError {
    decode(schema, format, body, OnError::Reject).unwrap_err()
}
