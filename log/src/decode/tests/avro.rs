// SPDX-License-Identifier: Apache-2.0
//! Avro against an independent writer, `arrow-avro`, and by hand where that writes no such thing.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, Int64Array, RecordBatch, StringArray};
use arrow_avro::schema::{AvroSchema, FingerprintStrategy};
use arrow_avro::writer::WriterBuilder;
use arrow_avro::writer::format::AvroSoeFormat;
use dovetail_model::{Column, ColumnType, EpochUnit, MessageFormat, StreamSchema};
use proptest::collection::vec;
use proptest::prelude::*;

use super::cells::{Cell, rows_of, to_json};
use super::generate::{any_schema, row};
use super::{column, decode, required, schema, strict, with_epoch};
use crate::Format;
use crate::decode::{Decoder, Messages, OnError, RegisteredSchema, SchemaReference, WriterSchemas};

fn avro(text: impl Into<String>) -> RegisteredSchema {
    RegisteredSchema {
        kind: "AVRO".to_owned(),
        text: text.into(),
        references: vec![],
    }
}

/// Messages as the independent writer has them, and their schema.
fn written(batch: &RecordBatch, id: u32) -> (RegisteredSchema, Vec<Vec<u8>>) {
    let text = AvroSchema::try_from(batch.schema().as_ref())
        .unwrap()
        .json_string;
    let mut encoder = WriterBuilder::new(batch.schema().as_ref().clone())
        .with_fingerprint_strategy(FingerprintStrategy::Id(id))
        .build_encoder::<AvroSoeFormat>()
        .unwrap();
    encoder.encode(batch).unwrap();
    let messages = encoder.flush().iter().map(|m| m.to_vec()).collect();
    (avro(text), messages)
}

fn read<M: AsRef<[u8]>>(
    schema: &StreamSchema,
    known: &[(u32, RegisteredSchema)],
    messages: &[M],
) -> Messages {
    let decoder = Decoder::new(schema);
    let mut schemas = WriterSchemas::default();
    for (id, text) in known {
        schemas.insert(*id, decoder.writer_schema(MessageFormat::Avro, text));
    }
    let messages = messages.iter().map(AsRef::as_ref);
    let read = decoder.decode_messages(MessageFormat::Avro, &schemas, messages);
    let read = read.unwrap();
    assert_eq!(read.events.schema(), schema.declared());
    read
}

/// What is read of one message with schema 7, its body given.
fn read_one(schema: &StreamSchema, text: &str, body: &[u8]) -> Result<Vec<Cell>, String> {
    let message = [&[0, 0, 0, 0, 7], body].concat();
    let read = read(schema, &[(7, avro(text))], &[message]);
    match &read.bad[..] {
        [] => Ok(rows_of(&read.events).remove(0)),
        [bad] => Err(match &bad.column {
            Some(column) => format!("{column}: {}", bad.reason),
            None => bad.reason.clone(),
        }),
        bad => panic!("one message is bad {} times", bad.len()),
    }
}

/// A record of one field `c`, in Avro and as a stream.
fn one(of: &str) -> String {
    format!(r#"{{"type":"record","name":"r","fields":[{{"name":"c","type":{of}}}]}}"#)
}

fn into(column_type: ColumnType) -> StreamSchema {
    schema(vec![column("c", column_type)])
}

/// The schema with names that Avro has, too.
fn plainly_named(schema: &StreamSchema) -> StreamSchema {
    fn plain(columns: &[Column]) -> Vec<Column> {
        let columns = columns.iter().enumerate();
        columns
            .map(|(at, c)| Column {
                name: format!("c{at}"),
                column_type: plain_type(&c.column_type),
                nullable: c.nullable,
            })
            .collect()
    }
    fn plain_type(of: &ColumnType) -> ColumnType {
        match of {
            ColumnType::Struct(fields) => ColumnType::Struct(plain(fields)),
            ColumnType::List(item) => ColumnType::List(Box::new(plain_type(item))),
            other => other.clone(),
        }
    }
    StreamSchema {
        columns: plain(&schema.columns),
        event_time: None,
        ..schema.clone()
    }
}

fn schema_and_rows() -> impl Strategy<Value = (StreamSchema, Vec<Vec<Cell>>)> {
    any_schema().prop_flat_map(|schema| {
        let schema = plainly_named(&schema);
        let rows = vec(row(&schema.columns), 1..20);
        (Just(schema), rows)
    })
}

/// The rows as the batch that JSON makes of them.
fn batch_of(schema: &StreamSchema, rows: &[Vec<Cell>]) -> RecordBatch {
    let lines: String = rows
        .iter()
        .map(|row| to_json(&schema.columns, row, false) + "\n")
        .collect();
    decode(schema, Format::Ndjson, lines, OnError::Reject)
        .unwrap()
        .events
}

proptest! {
    #[test]
    fn what_another_writer_wrote_is_read_back((schema, rows) in schema_and_rows(), id: u32) {
        let (text, messages) = written(&batch_of(&schema, &rows), id);
        let read = read(&schema, &[(id, text)], &messages);
        prop_assert_eq!(read.bad, vec![]);
        prop_assert_eq!(rows_of(&read.events), rows);
    }

    #[test]
    fn a_spoiled_message_is_one_dead_letter(
        (schema, rows) in schema_and_rows(),
        at in any::<proptest::sample::Index>(),
        keep in any::<proptest::sample::Index>(),
        noise in vec(any::<u8>(), 0..30),
    ) {
        let (text, mut messages) = written(&batch_of(&schema, &rows), 7);
        let at = at.index(messages.len());
        let spoiled = &mut messages[at];
        spoiled.truncate(keep.index(spoiled.len()));
        spoiled.extend(noise);
        let read = read(&schema, &[(7, text)], &messages);
        let mut good = rows_of(&read.events);
        let mut others = rows.clone();
        others.remove(at);
        if read.bad.is_empty() {
            // The noise happened to be a record.
            good.remove(at);
        } else {
            prop_assert_eq!((read.bad.len(), read.bad[0].index), (1, at));
        }
        prop_assert_eq!(good, others);
    }

    #[test]
    fn no_schema_panics(text in "[\\[\\]{}\":,a-z ]{0,80}") {
        let of = into(ColumnType::Int);
        let _ = read_one(&of, &text, &[0]);
    }
}

#[test]
fn messages_of_an_evolved_schema_stand_side_by_side() {
    let of = schema(vec![
        column("id", ColumnType::BigInt),
        column("name", ColumnType::Varchar),
        column("score", ColumnType::Double),
    ]);
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let old = RecordBatch::try_from_iter([("id", Arc::clone(&ids))]).unwrap();
    let names: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
    let scores: ArrayRef = Arc::new(Float32Array::from(vec![0.5, 1.5]));
    let new = [
        ("score", scores),
        ("more", Arc::clone(&names)),
        ("name", names),
        ("id", ids),
    ];
    let new = RecordBatch::try_from_iter(new).unwrap();
    let ((old, first), (new, second)) = (written(&old, 1), written(&new, 2));
    let messages = [&first[0], &second[0], &first[1], &second[1]];
    let read = read(&of, &[(1, old), (2, new)], &messages);
    assert_eq!(read.bad, vec![]);
    let row = |id, more: Option<(&str, f64)>| {
        let (name, score) = more.map_or((Cell::Null, Cell::Null), |(name, score)| {
            (Cell::Text(name.to_owned()), Cell::double(score))
        });
        vec![Cell::Integer(id), name, score]
    };
    let expected = vec![
        row(1, None),
        row(1, Some(("a", 0.5))),
        row(2, None),
        row(2, Some(("b", 1.5))),
    ];
    assert_eq!(rows_of(&read.events), expected);
}

#[test]
fn values_come_to_columns_of_other_types_without_loss() {
    let integer = |value| Ok(vec![Cell::Integer(value)]);
    let text = |value: &str| Ok(vec![Cell::Text(value.to_owned())]);
    type Found<'a> = Result<Vec<Cell>, &'a str>;
    let cases: Vec<(&str, &[u8], ColumnType, Found<'_>)> = vec![
        ("\"long\"", &[2], ColumnType::Int, integer(1)),
        ("\"int\"", &[1], ColumnType::Decimal(5, 2), integer(-100)),
        ("\"float\"", &[0, 0, 0, 0x40], ColumnType::Int, integer(2)),
        (
            "\"long\"",
            &[0x80, 0x80, 0x80, 0x80, 0x20],
            ColumnType::Int,
            Err("c: `4294967296` cannot be an INT without loss"),
        ),
        (
            "\"float\"",
            &[0, 0, 0xc0, 0x3f],
            ColumnType::Int,
            Err("c: `1.5` cannot be an INT without loss"),
        ),
        (
            "\"string\"",
            &[2, b'1'],
            ColumnType::Int,
            Err("c: a string cannot be read as an INT without loss"),
        ),
        (
            r#"["null","string"]"#,
            &[0],
            ColumnType::Int,
            Ok(vec![Cell::Null]),
        ),
        (r#"["int","string"]"#, &[0, 4], ColumnType::Int, integer(2)),
        (
            r#"["int","string"]"#,
            &[4, 0],
            ColumnType::Int,
            Err("c: `2` is no index into the 2 branches"),
        ),
        (
            r#"{"type":"enum","name":"e","symbols":["x","y"]}"#,
            &[2],
            ColumnType::Varchar,
            text("y"),
        ),
        (
            "\"bytes\"",
            &[4, 0xc3, 0xa4],
            ColumnType::Varchar,
            text("ä"),
        ),
        (
            "\"bytes\"",
            &[4, b'a', 0xff],
            ColumnType::Varchar,
            Err("c: `a\u{fffd}` is not valid UTF-8, from byte 2 on"),
        ),
        (
            r#"{"type":"int","logicalType":"date"}"#,
            &[2],
            ColumnType::Timestamp,
            integer(86_400_000_000),
        ),
        (
            r#"{"type":"long","logicalType":"local-timestamp-millis"}"#,
            &[2],
            ColumnType::Timestamp,
            integer(1000),
        ),
        (
            r#"{"type":"long","logicalType":"timestamp-nanos"}"#,
            &[2],
            ColumnType::Timestamp,
            Err("c: `1` cannot be a TIMESTAMP without loss"),
        ),
        (
            r#"{"type":"int","logicalType":"date"}"#,
            &[0xfe, 0xff, 0xff, 0xff, 0x0f],
            ColumnType::Date,
            Err(
                "c: `2147483647` is out of range for DATE: the calendar has the years -262143 to 262142",
            ),
        ),
        (
            r#"{"type":"long","logicalType":"timestamp-micros"}"#,
            &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            ColumnType::Timestamp,
            Err(
                "c: `9223372036854775807` is out of range for TIMESTAMP: the calendar has the years -262143 to 262142",
            ),
        ),
        (
            r#"{"type":"bytes","logicalType":"decimal","precision":4,"scale":2}"#,
            &[4, 0xff, 0x38],
            ColumnType::Decimal(9, 3),
            integer(-2000),
        ),
        (
            r#"{"type":"bytes","logicalType":"decimal","precision":4,"scale":2}"#,
            &[2, 1],
            ColumnType::Decimal(9, 1),
            Err("c: `1e-2` cannot be a DECIMAL(9, 1) without loss"),
        ),
        (
            r#"{"type":"fixed","name":"u","size":16,"logicalType":"uuid"}"#,
            &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
            ColumnType::Varchar,
            text("00010203-0405-0607-0809-0a0b0c0d0e0f"),
        ),
        (
            "\"boolean\"",
            &[2],
            ColumnType::Boolean,
            Err("c: the byte 2 is no boolean"),
        ),
        (
            "\"int\"",
            &[0xff, 0xff, 0xff, 0xff, 0x1f],
            ColumnType::BigInt,
            Err("c: an integer is longer than 32 bits"),
        ),
    ];
    for (of, body, to, expected) in cases {
        let found = read_one(&into(to.clone()), &one(of), body);
        assert_eq!(found, expected.map_err(str::to_owned), "{of} as {to}");
    }
    let epoch = with_epoch(into(ColumnType::Timestamp), "c", EpochUnit::Second);
    assert_eq!(
        read_one(&epoch, &one("\"long\""), &[2]),
        Ok(vec![Cell::Integer(1_000_000)])
    );
}

#[test]
fn maps_are_lists_of_pairs_and_a_type_may_hold_itself() {
    let pair = ColumnType::Struct(vec![
        column("key", ColumnType::Varchar),
        column("value", ColumnType::Int),
    ]);
    let map = into(ColumnType::List(Box::new(pair)));
    let pair =
        |key: &str, value| Cell::Struct(vec![Cell::Text(key.to_owned()), Cell::Integer(value)]);
    // A block of one, then one with its size before it.
    let body = [2, 2, b'a', 2, 1, 6, 2, b'b', 4, 0];
    assert_eq!(
        read_one(&map, &one(r#"{"type":"map","values":"int"}"#), &body),
        Ok(vec![Cell::List(vec![pair("a", 1), pair("b", 2)])])
    );
    let list = r#"{"type":"record","name":"n.list","fields":[
        {"name":"c","type":"int"},{"name":"next","type":["null","list"]}]}"#;
    let body = [2, 2, 4, 2, 6, 0];
    assert_eq!(
        read_one(&into(ColumnType::Int), list, &body),
        Ok(vec![Cell::Integer(1)])
    );
    let inner = ColumnType::Struct(vec![column("c", ColumnType::Int)]);
    let two = schema(vec![column("c", ColumnType::Int), column("next", inner)]);
    let next = Cell::Struct(vec![Cell::Integer(2)]);
    assert_eq!(
        read_one(&two, list, &body),
        Ok(vec![Cell::Integer(1), next])
    );
    let deep = [[2, 2].repeat(200), vec![2, 0]].concat();
    let error = read_one(&into(ColumnType::Int), list, &deep).unwrap_err();
    assert_eq!(error, "it is nested too deep");
}

#[test]
fn references_are_read_first() {
    let mut text = avro(one("\"other.e\""));
    let enumeration = r#"{"type":"enum","name":"e","namespace":"other","symbols":["x"]}"#;
    let reference = SchemaReference {
        name: "other.e".to_owned(),
        text: enumeration.to_owned(),
    };
    let of = into(ColumnType::Varchar);
    let message = [0, 0, 0, 0, 7, 0];
    let bad = read(&of, &[(7, text.clone())], &[message]).bad;
    assert!(
        bad[0].reason.contains("type `other.e` is not declared"),
        "{bad:?}"
    );
    text.references.push(reference);
    let read = read(&of, &[(7, text)], &[message]);
    assert_eq!(rows_of(&read.events), [[Cell::Text("x".to_owned())]]);
}

#[test]
fn what_does_not_fit_names_its_field_and_costs_no_other_message() {
    let of = schema(vec![
        required("id", ColumnType::BigInt),
        column("tags", ColumnType::List(Box::new(ColumnType::Int))),
    ]);
    let text = r#"{"type":"record","name":"r","fields":[
        {"name":"id","type":"long"},
        {"name":"tags","type":{"type":"array","items":["int","string"]}}]}"#;
    let messages: [&[u8]; 6] = [
        &[0, 0, 0, 0, 7, 2, 0],
        &[0, 0, 0, 0, 7, 4, 4, 0, 2, 2, 2, b'x', 0],
        &[1, 0, 0, 0, 7, 2, 0],
        &[0, 0, 0, 0, 7, 2, 0, 0],
        &[0, 0, 0, 0, 7, 4],
        &[0, 0, 0, 0, 7, 6, 2, 0, 2, 0],
    ];
    let read = read(&of, &[(7, avro(text))], &messages);
    let bad: Vec<_> = read
        .bad
        .iter()
        .map(|bad| (bad.index, bad.column.as_deref(), bad.reason.as_str()))
        .collect();
    assert_eq!(
        bad,
        [
            (
                1,
                Some("tags[]"),
                "a string cannot be read as an INT without loss"
            ),
            (
                2,
                None,
                "it does not begin with a zero byte and the four bytes of a schema's id"
            ),
            (
                3,
                None,
                "1 bytes follow the record: it was written with another schema"
            ),
            (
                4,
                Some("tags[]"),
                "the message is cut off, or written with another schema"
            ),
        ]
    );
    let integers = |values: &[i128]| Cell::List(values.iter().map(|v| Cell::Integer(*v)).collect());
    assert_eq!(
        rows_of(&read.events),
        [
            [Cell::Integer(1), integers(&[])],
            [Cell::Integer(3), integers(&[1])]
        ]
    );
    // The fields that a stream does not declare, and those that it wants and that are not there.
    let fields = r#"{"type":"record","name":"r","fields":[{"name":"id","type":"long"}]}"#;
    let error = read_one(&strict(into(ColumnType::Int)), fields, &[2]).unwrap_err();
    assert_eq!(
        error,
        "id: the stream has no such column and refuses unknown ones; leave it out, or add it to the stream"
    );
    let wanted = schema(vec![required("name", ColumnType::Varchar)]);
    let error = read_one(&wanted, fields, &[2]).unwrap_err();
    assert_eq!(
        error,
        "name: it is NOT NULL, but the event has no value for it"
    );
    let error = read_one(&of, "\"int\"", &[2]).unwrap_err();
    assert_eq!(error, "schema 7 cannot be used: it is no record");
}

#[test]
fn items_without_bytes_take_no_time() {
    let of = into(ColumnType::Int);
    let text = r#"{"type":"record","name":"r","fields":[
        {"name":"c","type":"int"},{"name":"more","type":{"type":"array","items":"null"}}]}"#;
    let body = [
        2, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0,
    ];
    let error = read_one(&of, text, &body).unwrap_err();
    assert_eq!(
        error,
        "it claims to hold more than 10000 items without bytes"
    );
}
