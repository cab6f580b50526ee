// SPDX-License-Identifier: Apache-2.0
//! Proposed schemas.

use arrow::ipc::writer::StreamWriter;
use dovetail_model::{Column, ColumnType, StreamSchema};

use super::{column, decode, flights, required};
use crate::Format::{self, Csv, Json, Ndjson};
use crate::decode::{OnError, infer};

fn columns(format: Format, sample: &str) -> Vec<Column> {
    infer(format, sample.as_bytes(), "f").unwrap().columns
}

fn event_time(schema: &StreamSchema) -> Option<&str> {
    schema.event_time.as_ref().map(|e| e.column.as_str())
}

#[test]
fn flights_are_recognised() {
    let expected = [
        required("date", ColumnType::Timestamp),
        column("delay", ColumnType::BigInt),
        required("origin", ColumnType::Varchar),
    ];
    let lines = [
        r#"{"date":"2001-01-01","delay":-3,"origin":"SFO"}"#,
        r#"{"date":"2001-01-01T10:00:00","delay":null,"origin":"LAX"}"#,
        r#"{"date":"2001-01-01T10:00:00","origin":"007"}"#,
    ];
    let ndjson = lines.join("\n");
    let json = format!("[{}]", lines.join(","));
    let csv = "date,delay,origin\n2001-01-01,-3,SFO\n2001-01-01 10:00,,LAX\n2001-01-01,1,007\n";
    for (format, sample) in [(Ndjson, ndjson.as_str()), (Json, &json), (Csv, csv)] {
        let schema = infer(format, sample.as_bytes(), "flights").unwrap();
        assert_eq!(schema.columns, expected);
        assert_eq!(event_time(&schema), Some("date"));
        // What was proposed reads the sample.
        let decoded = decode(&schema, format, sample, OnError::Reject).unwrap();
        assert_eq!(decoded.events.num_rows(), 3);
    }
    let batch = decode(&flights(), Ndjson, &ndjson, OnError::Reject)
        .unwrap()
        .events;
    let mut stream = StreamWriter::try_new(vec![], &batch.schema()).unwrap();
    stream.write(&batch).unwrap();
    let stream = stream.into_inner().unwrap();
    // The schema is enough: the sample may end anywhere behind it.
    for sample in [&stream[..], &stream[..stream.len() - 20]] {
        let schema = infer(Format::Arrow, sample, "f").unwrap();
        assert_eq!(schema, flights());
    }
}

#[test]
fn types_are_joined() {
    let sample = r#"{"i":1,"f":1,"big":18446744073709551615,"s":{"a":1},"l":[1,null],"n":null,"e":[],"d":"2001-01-01","o":{}}
{"i":2,"f":1.5,"big":1,"s":{"b":"x"},"l":[2.5],"n":null,"e":[],"d":"2001-01-01","o":{}}"#;
    let fields = vec![
        column("a", ColumnType::BigInt),
        column("b", ColumnType::Varchar),
    ];
    let list = |item| ColumnType::List(Box::new(item));
    let expected = [
        required("i", ColumnType::BigInt),
        required("f", ColumnType::Double),
        required("big", ColumnType::Decimal(38, 0)),
        required("s", ColumnType::Struct(fields)),
        required("l", list(ColumnType::Double)),
        column("n", ColumnType::Varchar),
        required("e", list(ColumnType::Varchar)),
        required("d", ColumnType::Date),
    ];
    assert_eq!(columns(Ndjson, sample), expected);
    let csv = "zip,ok,x,when\n01234,true,1,2001-01-01T00:00:00Z\n94105,false,y,\n";
    let expected = [
        required("zip", ColumnType::Varchar),
        required("ok", ColumnType::Boolean),
        required("x", ColumnType::Varchar),
        column("when", ColumnType::Timestamp),
    ];
    assert_eq!(columns(Csv, csv), expected);
}

#[test]
fn a_sample_may_be_cut_off() {
    let line = r#"{"a":1,"b":"x"}"#;
    let ndjson = format!("{line}\n{line}\n");
    let json = format!("[{line},{line}]");
    let csv = "a,b\n1,x\n22222,y\n".to_owned();
    let expected = [
        required("a", ColumnType::BigInt),
        required("b", ColumnType::Varchar),
    ];
    for (format, sample, whole) in [(Ndjson, ndjson, 15), (Json, json, 16), (Csv, csv, 8)] {
        for length in whole..sample.len() {
            assert_eq!(
                columns(format, &sample[..length]),
                expected,
                "{format} {length}"
            );
        }
        assert!(infer(format, &sample.as_bytes()[..2], "f").is_err());
    }
}

#[test]
fn what_cannot_be_proposed_is_said() {
    let conflict = infer(
        Ndjson,
        b"{\"a\":{\"b\":[1]}}\n{\"a\":{\"b\":[\"x\"]}}\n",
        "f.ndjson",
    );
    assert_eq!(
        conflict.unwrap_err().to_string(),
        "line 2: column `a.b[]`: no type holds both a number and a VARCHAR; declare the stream by hand (in `f.ndjson`)"
    );
    let broken = infer(Ndjson, b"{\"a\":1}\n{\"a\"\n{\"a\":1}\n", "f").unwrap_err();
    assert!(broken.to_string().starts_with("line 2: "), "{broken}");
    for (format, sample) in [
        (Ndjson, ""),
        (Json, "[]"),
        (Csv, "a,b\n"),
        (Format::Arrow, "x"),
    ] {
        assert!(infer(format, sample.as_bytes(), "f").is_err());
    }
    // Names that no column may have are left out.
    assert_eq!(
        columns(Ndjson, r#"{"_id":1,"a":1,"A":2}"#),
        [required("a", ColumnType::BigInt)]
    );
    assert!(infer(Ndjson, br#"{"_id":1}"#, "f").is_err());
}
