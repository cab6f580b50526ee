// SPDX-License-Identifier: Apache-2.0
//! Protobuf against an independent encoder, `prost-reflect`, and by hand where that writes no such thing.

use std::fmt::Write as _;

use dovetail_model::{Column, ColumnType, MessageFormat, StreamSchema};
use proptest::collection::vec;
use proptest::prelude::*;
use prost_reflect::prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

use super::cells::{Cell, rows_of};
use super::generate::{any_schema, row};
use super::{column, required, schema, strict};
use crate::decode::{Decoder, Messages, RegisteredSchema, SchemaReference, WriterSchemas};

fn proto(text: impl Into<String>) -> RegisteredSchema {
    RegisteredSchema {
        kind: "PROTOBUF".to_owned(),
        text: text.into(),
        references: vec![],
    }
}

fn read<M: AsRef<[u8]>>(
    schema: &StreamSchema,
    text: &RegisteredSchema,
    messages: &[M],
) -> Messages {
    let decoder = Decoder::new(schema);
    let mut schemas = WriterSchemas::default();
    schemas.insert(7, decoder.writer_schema(MessageFormat::Protobuf, text));
    let messages = messages.iter().map(AsRef::as_ref);
    let read = decoder.decode_messages(MessageFormat::Protobuf, &schemas, messages);
    let read = read.unwrap();
    assert_eq!(read.events.schema(), schema.declared());
    read
}

/// The message as a record: behind its schema's id, and that it is the first of its file.
fn framed(message: &[u8]) -> Vec<u8> {
    [&[0, 0, 0, 0, 7, 0], message].concat()
}

/// What is read of one message, its fields given.
fn read_one(schema: &StreamSchema, text: &str, body: &[u8]) -> Result<Vec<Cell>, String> {
    let read = read(schema, &proto(text), &[framed(body)]);
    match &read.bad[..] {
        [] => Ok(rows_of(&read.events).remove(0)),
        [bad] => Err(match &bad.column {
            Some(column) => format!("{column}: {}", bad.reason),
            None => bad.reason.clone(),
        }),
        bad => panic!("one message is bad {} times", bad.len()),
    }
}

/// A message of one field `c`.
fn one(field: &str) -> String {
    format!(
        "syntax = \"proto3\"; import \"google/protobuf/timestamp.proto\"; import \"google/protobuf/wrappers.proto\"; message M {{ {field} }}"
    )
}

fn into(column_type: ColumnType) -> StreamSchema {
    schema(vec![column("c", column_type)])
}

/// The schema as far as Protobuf has such types and names.
fn declarable(schema: &StreamSchema) -> StreamSchema {
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
            ColumnType::List(item) => ColumnType::List(Box::new(match plain_type(item) {
                ColumnType::List(_) => ColumnType::Varchar,
                item => item,
            })),
            ColumnType::Decimal(..) => ColumnType::BigInt,
            ColumnType::Date => ColumnType::Int,
            other => other.clone(),
        }
    }
    StreamSchema {
        columns: plain(&schema.columns),
        event_time: None,
        ..schema.clone()
    }
}

/// The values as far as Protobuf has such: lists are not null, nor are their items.
fn expressible(cell: Cell, of: &ColumnType) -> Cell {
    match (cell, of) {
        (Cell::Null, ColumnType::List(_)) => Cell::List(vec![]),
        (Cell::List(items), ColumnType::List(of)) => {
            let items = items.into_iter().filter(|item| *item != Cell::Null);
            Cell::List(items.map(|item| expressible(item, of)).collect())
        }
        (Cell::Struct(cells), ColumnType::Struct(columns)) => {
            Cell::Struct(expressible_row(cells, columns))
        }
        (cell, _) => cell,
    }
}

fn expressible_row(cells: Vec<Cell>, columns: &[Column]) -> Vec<Cell> {
    let cells = cells.into_iter().zip(columns);
    cells
        .map(|(cell, c)| expressible(cell, &c.column_type))
        .collect()
}

/// The declaration of a message with these columns; each kind of integer has its turn.
fn declaration(name: &str, columns: &[Column]) -> String {
    let mut text = format!("message {name} {{\n");
    for (at, column) in columns.iter().enumerate() {
        let (label, of) = match &column.column_type {
            ColumnType::List(item) => ("repeated", item.as_ref()),
            of => ("optional", of),
        };
        let inner = format!("T{at}");
        let of = match of {
            ColumnType::Boolean => "bool",
            ColumnType::Int => ["int32", "sint32", "sfixed32"][at % 3],
            ColumnType::BigInt => ["int64", "sint64", "sfixed64"][at % 3],
            ColumnType::Double => "double",
            ColumnType::Varchar => ["string", "bytes"][at % 2],
            ColumnType::Timestamp => "google.protobuf.Timestamp",
            ColumnType::Struct(fields) => {
                text += &declaration(&inner, fields);
                &inner
            }
            other => panic!("{other} is not declarable"),
        };
        let number = 20 * (at + 1) - 19 * (at % 2);
        writeln!(text, "{label} {of} {} = {number};", column.name).unwrap();
    }
    text + "}\n"
}

fn message(of: &MessageDescriptor, columns: &[Column], cells: &[Cell]) -> DynamicMessage {
    let mut message = DynamicMessage::new(of.clone());
    for (column, cell) in columns.iter().zip(cells) {
        let field = of.get_field_by_name(&column.name).unwrap();
        if *cell != Cell::Null {
            message.set_field(&field, value(&field, &column.column_type, cell));
        }
    }
    message
}

fn value(field: &FieldDescriptor, of: &ColumnType, cell: &Cell) -> Value {
    let integer = |value: &i128| i64::try_from(*value).unwrap();
    match (of, cell) {
        (ColumnType::List(of), Cell::List(items)) => {
            Value::List(items.iter().map(|item| value(field, of, item)).collect())
        }
        (ColumnType::Boolean, Cell::Boolean(value)) => Value::Bool(*value),
        (ColumnType::Int, Cell::Integer(value)) => Value::I32(i32::try_from(*value).unwrap()),
        (ColumnType::BigInt, Cell::Integer(value)) => Value::I64(integer(value)),
        (ColumnType::Double, Cell::Double(bits)) => Value::F64(f64::from_bits(*bits)),
        (ColumnType::Varchar, Cell::Text(text)) if field.kind() == Kind::Bytes => {
            Value::Bytes(text.clone().into_bytes().into())
        }
        (ColumnType::Varchar, Cell::Text(text)) => Value::String(text.clone()),
        (of, cell) => {
            let Kind::Message(inner) = field.kind() else {
                panic!("{cell:?} is no {of}")
            };
            Value::Message(match (of, cell) {
                (ColumnType::Struct(columns), Cell::Struct(cells)) => {
                    message(&inner, columns, cells)
                }
                (_, Cell::Integer(micros)) => {
                    let mut time = DynamicMessage::new(inner);
                    let seconds = integer(micros).div_euclid(1_000_000);
                    let nanos = integer(micros).rem_euclid(1_000_000) * 1_000;
                    time.set_field_by_number(1, Value::I64(seconds));
                    time.set_field_by_number(2, Value::I32(i32::try_from(nanos).unwrap()));
                    time
                }
                (of, cell) => panic!("{cell:?} is no {of}"),
            })
        }
    }
}

/// A schema, its declaration, rows and their records.
type Written = (StreamSchema, RegisteredSchema, Vec<Vec<Cell>>, Vec<Vec<u8>>);

fn written() -> impl Strategy<Value = Written> {
    any_schema().prop_flat_map(|schema| {
        let schema = declarable(&schema);
        let rows = vec(row(&schema.columns), 1..20);
        (Just(schema), rows).prop_map(|(schema, rows)| {
            let head = "syntax = \"proto3\";\nimport \"google/protobuf/timestamp.proto\";\n";
            let text = head.to_owned() + &declaration("M", &schema.columns);
            let of = compiled(&text).get_message_by_name("M").unwrap();
            let rows: Vec<Vec<Cell>> = rows
                .into_iter()
                .map(|row| expressible_row(row, &schema.columns))
                .collect();
            let records = rows
                .iter()
                .map(|row| framed(&message(&of, &schema.columns, row).encode_to_vec()));
            let records = records.collect();
            (schema, proto(text), rows, records)
        })
    })
}

fn compiled(text: &str) -> prost_reflect::DescriptorPool {
    let file = protox::file::File::from_source("m.proto", text).unwrap();
    let mut pool = prost_reflect::DescriptorPool::global();
    pool.add_file_descriptor_proto(file.file_descriptor_proto().clone())
        .unwrap();
    pool
}

proptest! {
    #[test]
    fn what_another_encoder_wrote_is_read_back((schema, text, rows, records) in written()) {
        let read = read(&schema, &text, &records);
        prop_assert_eq!(read.bad, vec![]);
        prop_assert_eq!(rows_of(&read.events), rows);
    }

    #[test]
    fn a_spoiled_message_is_at_most_one_dead_letter(
        (schema, text, rows, mut records) in written(),
        at in any::<proptest::sample::Index>(),
        keep in any::<proptest::sample::Index>(),
        noise in vec(any::<u8>(), 0..30),
    ) {
        let at = at.index(records.len());
        let spoiled = &mut records[at];
        spoiled.truncate(keep.index(spoiled.len()));
        spoiled.extend(noise);
        let read = read(&schema, &text, &records);
        let mut good = rows_of(&read.events);
        let mut others = rows.clone();
        others.remove(at);
        if read.bad.is_empty() {
            // What is left happened to be a message.
            good.remove(at);
        } else {
            prop_assert_eq!((read.bad.len(), read.bad[0].index), (1, at));
        }
        prop_assert_eq!(good, others);
    }

    #[test]
    fn no_schema_panics(text in "[{}\\[\\];=\"a-z0-9 ]{0,80}") {
        let of = into(ColumnType::Int);
        let _ = read_one(&of, &text, &[0]);
    }
}

#[test]
fn fields_come_to_columns_as_the_encoding_has_it() {
    type Found<'a> = Result<Vec<Cell>, &'a str>;
    let integer = |value| Ok(vec![Cell::Integer(value)]);
    let text = |value: &str| Ok(vec![Cell::Text(value.to_owned())]);
    let integers = |values: &[i128]| {
        Ok(vec![Cell::List(
            values.iter().map(|v| Cell::Integer(*v)).collect(),
        )])
    };
    let list = |of| ColumnType::List(Box::new(of));
    let cases: Vec<(&str, &[u8], ColumnType, Found<'_>)> = vec![
        // Absent: zero where the field does not tell, null where it does.
        ("int32 c = 1;", &[], ColumnType::Int, integer(0)),
        ("string c = 1;", &[], ColumnType::Varchar, text("")),
        (
            "optional int32 c = 1;",
            &[],
            ColumnType::Int,
            Ok(vec![Cell::Null]),
        ),
        (
            "optional int32 c = 1;",
            &[8, 0],
            ColumnType::Int,
            integer(0),
        ),
        // Of a scalar the last one counts, and a field that is not declared is passed over.
        (
            "int32 c = 1; int32 d = 2;",
            &[8, 1, 16, 9, 8, 2],
            ColumnType::Int,
            integer(2),
        ),
        (
            "oneof o { int32 c = 1; string d = 2; }",
            &[8, 1, 18, 1, b'x'],
            ColumnType::Int,
            Ok(vec![Cell::Null]),
        ),
        (
            "int32 c = 1;",
            &[8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            ColumnType::Int,
            integer(-1),
        ),
        (
            "uint64 c = 1;",
            &[8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            ColumnType::BigInt,
            Err("c: `18446744073709551615` cannot be a BIGINT without loss"),
        ),
        (
            "uint64 c = 1;",
            &[8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            ColumnType::Decimal(20, 0),
            integer(u64::MAX.into()),
        ),
        (
            "int32 c = 1;",
            &[8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
            ColumnType::Int,
            Err("an integer is longer than 64 bits"),
        ),
        // Packed and not, and both.
        (
            "repeated int32 c = 1;",
            &[10, 2, 1, 2, 8, 3],
            list(ColumnType::Int),
            integers(&[1, 2, 3]),
        ),
        (
            "repeated int32 c = 1 [packed = false];",
            &[8, 3],
            list(ColumnType::Int),
            integers(&[3]),
        ),
        (
            "repeated int32 c = 1;",
            &[],
            list(ColumnType::Int),
            integers(&[]),
        ),
        (
            "repeated int32 c = 1;",
            &[8, 3],
            ColumnType::Int,
            Err("c: a repeated field cannot be read as an INT without loss"),
        ),
        (
            "E c = 1; enum E { A = 0; B = 1; }",
            &[8, 1],
            ColumnType::Varchar,
            text("B"),
        ),
        (
            "E c = 1; enum E { A = 0; B = 1; }",
            &[8, 1],
            ColumnType::Int,
            integer(1),
        ),
        (
            "E c = 1; enum E { A = 0; B = 1; }",
            &[8, 9],
            ColumnType::Varchar,
            Err("c: `9` is no value of its enum"),
        ),
        (
            "google.protobuf.Timestamp c = 1;",
            &[10, 4, 8, 1, 16, 1],
            ColumnType::Timestamp,
            Err("c: `1000000001` cannot be a TIMESTAMP without loss"),
        ),
        (
            "google.protobuf.Timestamp c = 1;",
            &[
                10, 10, 8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
            ],
            ColumnType::Timestamp,
            Err(
                "c: `9223372036854775807000000000` is out of range for TIMESTAMP: the calendar has the years -262143 to 262142",
            ),
        ),
        (
            "google.protobuf.Int64Value c = 1;",
            &[],
            ColumnType::Int,
            Ok(vec![Cell::Null]),
        ),
        (
            "google.protobuf.Int64Value c = 1;",
            &[10, 0],
            ColumnType::Int,
            integer(0),
        ),
        (
            "google.protobuf.Int64Value c = 1;",
            &[10, 2, 8, 5],
            ColumnType::Int,
            integer(5),
        ),
        (
            "string c = 1;",
            &[8, 5],
            ColumnType::Varchar,
            Err("c: it has another kind of value: written with another schema"),
        ),
        (
            "string c = 1;",
            &[10, 1, 0xff],
            ColumnType::Varchar,
            Err("c: `\u{fffd}` is not valid UTF-8, from byte 1 on"),
        ),
        (
            "int32 c = 1;",
            &[10, 200],
            ColumnType::Int,
            Err("the message is cut off, or written with another schema"),
        ),
        (
            "int32 c = 1;",
            &[0x13, 8, 1, 0x14, 8, 4],
            ColumnType::Int,
            integer(4),
        ),
        (
            "int32 c = 1;",
            &[0x13, 8, 1],
            ColumnType::Int,
            Err("the message is cut off, or written with another schema"),
        ),
        (
            "int32 c = 1;",
            &[0x13, 8, 1, 0x1c],
            ColumnType::Int,
            Err("group 2 ends as group 3"),
        ),
    ];
    for (field, body, to, expected) in cases {
        let found = read_one(&into(to.clone()), &one(field), body);
        assert_eq!(
            found,
            expected.map_err(str::to_owned),
            "{field} as {to}: {body:?}"
        );
    }
    let proto2 =
        "message M { required int32 c = 1; optional group G = 2 { optional int32 x = 3; } }";
    let error = read_one(&into(ColumnType::Int), proto2, &[]).unwrap_err();
    assert_eq!(error, "c: the message lacks it, and its schema requires it");
}

#[test]
fn a_message_in_parts_is_one_and_of_a_key_the_last_value_counts() {
    let inner = ColumnType::Struct(vec![
        column("x", ColumnType::Int),
        column("y", ColumnType::List(Box::new(ColumnType::Int))),
    ]);
    let text = one("N c = 1; message N { int32 x = 1; repeated int32 y = 2; }");
    let found = read_one(
        &into(inner),
        &text,
        &[10, 4, 8, 1, 16, 5, 10, 4, 16, 6, 8, 2],
    )
    .unwrap();
    let list = Cell::List(vec![Cell::Integer(5), Cell::Integer(6)]);
    assert_eq!(found, [Cell::Struct(vec![Cell::Integer(2), list])]);

    let pair = ColumnType::Struct(vec![
        column("value", ColumnType::BigInt),
        column("key", ColumnType::Varchar),
    ]);
    let map = into(ColumnType::List(Box::new(pair)));
    let pair =
        |key: &str, value| Cell::Struct(vec![Cell::Integer(value), Cell::Text(key.to_owned())]);
    let text = one("map<string, int32> c = 1;");
    let body = [
        10, 5, 10, 1, b'a', 16, 1, 10, 3, 10, 1, b'b', 10, 5, 10, 1, b'a', 16, 3,
    ];
    let found = read_one(&map, &text, &body).unwrap();
    assert_eq!(found, [Cell::List(vec![pair("b", 0), pair("a", 3)])]);

    // The same by the encoder.
    let of = compiled(&text).get_message_by_name("M").unwrap();
    let mut message = DynamicMessage::new(of);
    let entry = (MapKey::String("k".to_owned()), Value::I32(-2));
    message.set_field_by_name("c", Value::Map([entry].into()));
    let found = read_one(&map, &text, &message.encode_to_vec()).unwrap();
    assert_eq!(found, [Cell::List(vec![pair("k", -2)])]);
}

#[test]
fn a_record_says_which_message_of_its_file_it_is() {
    let text =
        "syntax = \"proto3\"; message A { string c = 1; } message B { message C { int32 c = 2; } }";
    let of = into(ColumnType::Int);
    let messages: [&[u8]; 5] = [
        &[0, 0, 0, 0, 7, 4, 2, 0, 16, 5],
        &[0, 0, 0, 0, 7, 2, 2, 16, 5],
        &[0, 0, 0, 0, 7, 2, 4, 16, 5],
        &[0, 0, 0, 0, 7, 1],
        &[
            0, 0, 0, 0, 7, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
        ],
    ];
    let read = read(&of, &proto(text), &messages);
    assert_eq!(rows_of(&read.events), [[Cell::Integer(5)], [Cell::Null]]);
    let reasons: Vec<&str> = read.bad.iter().map(|bad| bad.reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "its schema has no message number [2]",
            "`-1` is no number of indices to a message",
            "`9223372036854775807` is no number of indices to a message",
        ]
    );
}

#[test]
fn imports_come_from_the_references_and_from_google() {
    let mut text = proto(
        "syntax = \"proto3\"; import \"base.proto\"; import \"google/protobuf/timestamp.proto\"; message M { p.Base c = 1; google.protobuf.Timestamp t = 2; }",
    );
    let of = schema(vec![
        column(
            "c",
            ColumnType::Struct(vec![column("x", ColumnType::Varchar)]),
        ),
        column("t", ColumnType::Timestamp),
    ]);
    let message = framed(&[10, 3, 10, 1, b'a', 18, 2, 8, 1]);
    let bad = read(&of, &text, &[&message]).bad;
    assert!(bad[0].reason.contains("base.proto"), "{bad:?}");
    text.references.push(SchemaReference {
        name: "base.proto".to_owned(),
        text: "syntax = \"proto3\"; package p; message Base { string x = 1; }".to_owned(),
    });
    let read = read(&of, &text, &[&message]);
    assert_eq!(read.bad, []);
    let inner = Cell::Struct(vec![Cell::Text("a".to_owned())]);
    assert_eq!(rows_of(&read.events), [[inner, Cell::Integer(1_000_000)]]);
}

#[test]
fn what_does_not_fit_is_said() {
    let text = one("int32 c = 1; int32 d = 2;");
    let error = read_one(&strict(into(ColumnType::Int)), &text, &[]).unwrap_err();
    assert_eq!(
        error,
        "d: the stream has no such column and refuses unknown ones; leave it out, or add it to the stream"
    );
    let wanted = schema(vec![required("name", ColumnType::Varchar)]);
    let error = read_one(&wanted, &text, &[]).unwrap_err();
    assert_eq!(
        error,
        "name: it is NOT NULL, but the event has no value for it"
    );
    let error = read_one(&into(ColumnType::Int), "message {", &[]).unwrap_err();
    assert!(error.starts_with("schema 7 cannot be used: "), "{error}");
    let deep = "message M { ".repeat(10_000);
    let error = read_one(&into(ColumnType::Int), &deep, &[]).unwrap_err();
    assert!(error.contains("nested deeper than 64 levels"), "{error}");
}
