// SPDX-License-Identifier: Apache-2.0
//! What people send, and what they are told.

use dovetail_model::{ColumnType, EpochUnit, ProblemKind, calendar_instants};

use super::cells::{Cell, rows_of};
use super::{
    column, decode, decode_in_little, flights, rejected, required, schema, strict, with_epoch,
};
use crate::Format::{Arrow, Csv, Json, Ndjson};
use crate::decode::{DecodeError, Decoder, OnError};

fn text(value: &str) -> Cell {
    Cell::Text(value.to_owned())
}

#[test]
fn malformed_json_in_line_seven_of_ten() {
    let mut lines = [r#"{"date":"2001-01-01T00:00:00","delay":3}"#; 10];
    lines[6] = r#"{"date":"2001-01-01T00:00:00","delay":abc}"#;
    let body = lines.join("\n");
    let error = rejected(&flights(), Ndjson, &body);
    assert_eq!(
        error.to_string(),
        "line 7: column `delay`: expected a JSON value, found `a`"
    );
    let problem = error.problem();
    assert_eq!(problem.kind, ProblemKind::Invalid);
    assert_eq!(problem.members["line"], 7);
    assert_eq!(problem.members["column"], "delay");
    assert_eq!(problem.members["bad"], 1);

    let decoded = decode(&flights(), Ndjson, &body, OnError::DeadLetter).unwrap();
    assert_eq!(decoded.events.num_rows(), 9);
    let letter = &decoded.dead_letters[0];
    assert_eq!(letter.bytes, lines[6]);
    assert_eq!(
        (letter.line, letter.column.as_deref()),
        (Some(7), Some("delay"))
    );
    assert_eq!(letter.origin, "test");
}

/// Each body and what is said of it.
#[test]
fn every_refusal_names_line_column_and_reason() {
    let nested = schema(vec![
        required("n", ColumnType::BigInt),
        column("d", ColumnType::Decimal(5, 2)),
        column("t", ColumnType::Timestamp),
        column("b", ColumnType::Boolean),
        column("day", ColumnType::Date),
        column("f", ColumnType::Double),
        column("v", ColumnType::Varchar),
        column(
            "s",
            ColumnType::Struct(vec![required("x", ColumnType::Int)]),
        ),
        column(
            "l",
            ColumnType::List(Box::new(ColumnType::Struct(vec![column(
                "y",
                ColumnType::Int,
            )]))),
        ),
    ]);
    for (body, expected) in [
        (
            "{}",
            "line 1: column `n`: it is NOT NULL, but the event has no value for it",
        ),
        (
            r#"{"n":null}"#,
            "line 1: column `n`: it is NOT NULL, but the value is null",
        ),
        (
            r#"{"n":"1"}"#,
            "line 1: column `n`: `\"1\"` is not a BIGINT; write it without quotes",
        ),
        (r#"{"n":1.5}"#, "line 1: column `n`: `1.5` is not a BIGINT"),
        (
            r#"{"n":true}"#,
            "line 1: column `n`: `true` is not a BIGINT",
        ),
        (
            r#"{"n":9223372036854775808}"#,
            "line 1: column `n`: `9223372036854775808` is out of range for BIGINT",
        ),
        (
            r#"{"n":1,"n":2}"#,
            "line 1: column `n`: the field is there twice",
        ),
        (
            r#"{"n":1,"d":1.234}"#,
            "line 1: column `d`: `1.234` has more digits than DECIMAL(5, 2) holds",
        ),
        (
            r#"{"n":1,"d":"1000"}"#,
            "line 1: column `d`: `\"1000\"` is out of range for DECIMAL(5, 2)",
        ),
        (
            r#"{"n":1,"t":5}"#,
            "line 1: column `t`: `5` is not a TIMESTAMP; write it as 2001-12-31T23:59:59, or declare an event_time_unit for numbers",
        ),
        (
            r#"{"n":1,"t":"2001-02-30T00:00:00"}"#,
            "line 1: column `t`: `\"2001-02-30T00:00:00\"` is not a TIMESTAMP; write it as 2001-12-31T23:59:59",
        ),
        (
            r#"{"n":1,"t":"2001-01-01T00:00:00.1234567"}"#,
            "line 1: column `t`: `\"2001-01-01T00:00:00.1234567\"` is finer than the microseconds of a TIMESTAMP",
        ),
        (
            r#"{"n":1,"b":1}"#,
            "line 1: column `b`: `1` is not a BOOLEAN; write true or false",
        ),
        (
            r#"{"n":1,"day":"1.1.2001"}"#,
            "line 1: column `day`: `\"1.1.2001\"` is not a DATE; write it as 2001-12-31",
        ),
        (
            r#"{"n":1,"f":1e999}"#,
            "line 1: column `f`: `1e999` is out of range for DOUBLE",
        ),
        (
            r#"{"n":1,"v":12}"#,
            "line 1: column `v`: `12` is not a VARCHAR; write it in quotes",
        ),
        (
            r#"{"n":1,"v":"\ud800"}"#,
            "line 1: column `v`: `\\ud800` is half of a surrogate pair; write both halves, or the character itself",
        ),
        (
            "{\"n\":1,\"v\":\"a\tb\"}",
            "line 1: column `v`: `\\t` is a control character inside a string; escape it",
        ),
        (
            r#"{"n":1,"v":"abc"#,
            "line 1: column `v`: cut off where the closing quote of a string was expected",
        ),
        (
            r#"{"n":1,"s":{}}"#,
            "line 1: column `s.x`: it is NOT NULL, but the event has no value for it",
        ),
        (
            r#"{"n":1,"l":[{"y":1},{"y":"z"}]}"#,
            "line 1: column `l[].y`: `\"z\"` is not an INT; write it without quotes",
        ),
        (
            r#"{"n":1,"s":[1, 2]}"#,
            "line 1: column `s`: `[1, 2]` is not a STRUCT",
        ),
        (
            r#"{"n":1 "v":""}"#,
            "line 1: expected `,` or `}`, found `\"`",
        ),
        (
            r#"{"n":1,}"#,
            "line 1: expected a field name in quotes, found `}`",
        ),
        (r#"{"n":1"#, "line 1: cut off where `,` or `}` was expected"),
        (
            r#"{"n":01}"#,
            "line 1: column `n`: `01` is not a number as JSON writes it, such as `-1.5e3`, without zeros in front",
        ),
        (r#"[{"n":1}]"#, "line 1: expected a JSON object, found `[`"),
        (
            r#"{"n":1} {"n":2}"#,
            "line 1: expected nothing more on the line, found `{`",
        ),
        (
            "{\"n\":1}\n\n{\"n\":é}",
            "line 3: column `n`: expected a JSON value, found `é`",
        ),
        (
            "x\ny\n{\"n\":1}",
            "line 1: expected a JSON object, found `x` (the first of 2 bad events)",
        ),
    ] {
        assert_eq!(rejected(&nested, Ndjson, body).to_string(), expected);
    }
    let deep = format!(r#"{{"n":1,"z":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
    assert_eq!(
        rejected(&nested, Ndjson, deep).to_string(),
        "line 1: it is nested too deep"
    );
    let broken = b"{\"n\":1,\"v\":\"\xff\"}";
    assert_eq!(
        rejected(&nested, Ndjson, broken).to_string(),
        "line 1: it is not valid UTF-8, from byte 13 on"
    );
    let unknown = rejected(&strict(nested), Ndjson, r#"{"n":1,"new":2}"#);
    assert_eq!(
        unknown.to_string(),
        "line 1: column `new`: the stream has no such column and refuses unknown ones; leave it out, or add it to the stream"
    );
}

#[test]
fn long_values_are_cut_in_messages() {
    let body = format!(r#"{{"date":"{}"}}"#, "ü".repeat(500_000));
    let error = rejected(&flights(), Ndjson, body).to_string();
    assert!(error.len() < 300, "{error}");
    assert!(error.contains("ü…`"), "{error}");
}

#[test]
fn a_compressed_body_that_does_not_say_so_is_told_by_how_it_begins() {
    for (magic, encoding) in [
        (&b"\x1f\x8b\x08\x00"[..], "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
    ] {
        for format in [Ndjson, Json, Csv, Arrow] {
            let error = decode(&flights(), format, magic, OnError::DeadLetter).unwrap_err();
            let expected = format!("say so with `Content-Encoding: {encoding}`");
            assert!(error.to_string().contains(&expected), "{error}");
        }
    }
}

#[test]
fn numbers_and_characters_that_json_has_not_are_shown_whole() {
    let columns = vec![
        column("n", ColumnType::Int),
        column("t", ColumnType::Varchar),
    ];
    let schema = schema(columns);
    for (value, reason) in [
        (r#"{"n":01}"#, "`01` is not a number as JSON writes it"),
        (r#"{"n":-}"#, "`-` is not a number as JSON writes it"),
        (r#"{"n":1.e5}"#, "`1.e5` is not a number as JSON writes it"),
        (
            r#"{"t":"a\ud800b"}"#,
            "`\\ud800` is half of a surrogate pair",
        ),
        (
            r#"{"t":"\udc00\ud800"}"#,
            "`\\udc00` is half of a surrogate pair",
        ),
        (
            r#"{"t":"\uD83D\u0041"}"#,
            "`\\uD83D` is half of a surrogate pair",
        ),
        (r#"{"t":"\ud8"}"#, "`\\ud8` is not an escape"),
    ] {
        let error = rejected(&schema, Ndjson, value).to_string();
        assert!(error.contains(reason), "{value}: {error}");
    }
}

#[test]
fn empty_bodies() {
    for body in ["", "\n\n", "  ", "\u{feff}", "\r\n"] {
        for format in [Ndjson, Json] {
            let error = rejected(&flights(), format, body);
            assert_eq!(error.to_string(), "the body holds no event", "{body:?}");
        }
    }
    let error = rejected(&flights(), Csv, "").to_string();
    assert_eq!(error, "the body is empty; CSV starts with a header line");
    assert_eq!(error, rejected(&flights(), Csv, "\n\n").to_string());
    // Nothing to append is not nothing at all.
    for (format, body) in [(Json, "[]"), (Csv, "date,delay")] {
        let decoded = decode(&flights(), format, body, OnError::Reject).unwrap();
        assert_eq!(decoded.events.num_rows(), 0);
        assert_eq!(decoded.events.schema(), flights().declared());
    }
}

#[test]
fn a_byte_order_mark_crlf_and_a_missing_last_newline_do_not_matter() {
    let one = schema(vec![column("v", ColumnType::Varchar)]);
    let expected = vec![vec![text("a")], vec![text("b")]];
    for (format, body) in [
        (Ndjson, "\u{feff}{\"v\":\"a\"}\r\n\r\n{\"v\":\"b\"}"),
        (Json, "\u{feff}[{\"v\":\"a\"},\r\n{\"v\":\"b\"}]\r\n"),
        (Csv, "\u{feff}v\r\na\r\nb"),
    ] {
        let decoded = decode(&one, format, body, OnError::Reject).unwrap();
        assert_eq!(rows_of(&decoded.events), expected);
    }
}

#[test]
fn an_empty_line_of_csv_is_a_null_where_nothing_else_could_be() {
    let body = "v\r\na\r\n\r\n\"\"\n\nb";
    let lone = schema(vec![column("v", ColumnType::Varchar)]);
    let decoded = decode(&lone, Csv, body, OnError::Reject).unwrap();
    let values = [text("a"), Cell::Null, text(""), Cell::Null, text("b")];
    assert_eq!(rows_of(&decoded.events), values.map(|value| vec![value]));

    let required = schema(vec![required("v", ColumnType::Varchar)]);
    let decoded = decode(&required, Csv, body, OnError::Reject).unwrap();
    let values = [text("a"), text(""), text("b")];
    assert_eq!(rows_of(&decoded.events), values.map(|value| vec![value]));
}

#[test]
fn json_documents() {
    let one = schema(vec![column("v", ColumnType::Int)]);
    let decoded = decode(&one, Json, " {\"v\":\n1} ", OnError::Reject).unwrap();
    assert_eq!(rows_of(&decoded.events), [vec![Cell::Integer(1)]]);
    for (body, expected) in [
        (
            "[{\"v\":1},\n{\"v\":2}",
            "line 2: cut off where `,` or `]` was expected",
        ),
        (
            "[{\"v\":1},\n\n{\"v\":",
            "line 3: cut off where a JSON value was expected",
        ),
        ("[{\"v\":1},]", "line 1: expected a JSON value, found `]`"),
        (
            "[{\"v\":1}] x",
            "line 1: expected nothing more; for one object per line send `application/x-ndjson`, found `x`",
        ),
        (
            "7",
            "line 1: expected a JSON array of objects, or one object, found `7`",
        ),
    ] {
        for on_error in [OnError::Reject, OnError::DeadLetter] {
            let error = decode(&one, Json, body, on_error).unwrap_err();
            assert!(matches!(error, DecodeError::Body { .. }));
            assert_eq!(error.to_string(), expected);
        }
    }
    // A fault of an element is told by its line, and the others are kept.
    let body = "[\n{\"v\":1},\n{\"v\":\n\"x\"},\n[{\"v\":3}],\n null, {\"v\":4}]";
    let error = rejected(&one, Json, body).to_string();
    assert_eq!(
        error,
        "line 4: column `v`: `\"x\"` is not an INT; write it without quotes (the first of 3 bad events)"
    );
    let decoded = decode(&one, Json, body, OnError::DeadLetter).unwrap();
    let expected = [vec![Cell::Integer(1)], vec![Cell::Integer(4)]];
    assert_eq!(rows_of(&decoded.events), expected);
    let bytes: Vec<_> = decoded
        .dead_letters
        .iter()
        .map(|l| l.bytes.clone())
        .collect();
    // What is no object stays one event that is bad, also when it is tried again.
    assert_eq!(bytes, ["{\"v\":\n\"x\"}", "[[{\"v\":3}]]", "[null]"]);
}

#[test]
fn csv_columns_come_in_any_order_and_may_be_left_out() {
    let body = "origin,date,extra,delay\nSFO,2001-01-01 10:00,x,-5\n\"a,\"\"b\"\"\nc\",2001-01-02,,\n,2001-01-03,,\n\"\",2001-01-04,,";
    let decoded = decode(&flights(), Csv, body, OnError::Reject).unwrap();
    let day = 86_400_000_000_i128;
    let first = 11_323 * day;
    let expected = [
        vec![
            Cell::Integer(first + 36_000_000_000),
            Cell::Integer(-5),
            Cell::Null,
            text("SFO"),
            Cell::Null,
        ],
        vec![
            Cell::Integer(first + day),
            Cell::Null,
            Cell::Null,
            text("a,\"b\"\nc"),
            Cell::Null,
        ],
        vec![
            Cell::Integer(first + 2 * day),
            Cell::Null,
            Cell::Null,
            Cell::Null,
            Cell::Null,
        ],
        vec![
            Cell::Integer(first + 3 * day),
            Cell::Null,
            Cell::Null,
            text(""),
            Cell::Null,
        ],
    ];
    assert_eq!(rows_of(&decoded.events), expected);
}

#[test]
fn csv_headers_that_do_not_fit() {
    for (body, expected) in [
        (
            "date,delay,date\n",
            "line 1: column `date`: the header names it twice",
        ),
        (
            "delay\n1\n",
            "line 1: column `date`: it is NOT NULL, but the header does not name it: it names `delay`",
        ),
        (
            "date,\"dela\n",
            "line 1: `\"` opens a quoted value that never ends; a quote ends it only before a comma or a line end",
        ),
    ] {
        let error = decode(&flights(), Csv, body, OnError::DeadLetter).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    let one = schema(vec![column("v", ColumnType::Int)]);
    let error = rejected(&one, Csv, "1\n2\n").to_string();
    assert!(
        error.contains("the header names no column of the stream, but `1`;"),
        "{error}"
    );
    let error = rejected(&one, Csv, "v,w\r1,2\r").to_string();
    assert_eq!(
        error,
        "line 1: a carriage return stands inside a name; end lines with a line feed"
    );
    let error = rejected(&strict(one), Csv, "v,w\n").to_string();
    assert!(error.contains("column `w`"), "{error}");
}

#[test]
fn csv_records_that_do_not_fit() {
    let body = "date,delay,origin\n2001-01-01,1\n2001-01-01,1,SFO,x\n2001-01-01,x,SFO\n,1,SFO\n2001-01-01,1,S\"FO\n2001-01-01,2,\"SFO\n2001-01-01,3,LAX\n";
    let decoded = decode(&flights(), Csv, body, OnError::DeadLetter).unwrap();
    assert_eq!(decoded.events.num_rows(), 1);
    let told: Vec<_> = decoded
        .dead_letters
        .iter()
        .map(|l| (l.line.unwrap(), l.reason.as_str()))
        .collect();
    let doubled =
        "`\"` stands inside a value without quotes; put the whole value in quotes and double it";
    let open = "`\"` opens a quoted value that never ends; a quote ends it only before a comma or a line end";
    assert_eq!(
        told,
        [
            (2, "the record has 2 values, the header names 3"),
            (3, "the record has 4 values, the header names 3"),
            (4, "`x` is not an INT"),
            (5, "it is NOT NULL, but the value is empty"),
            (6, doubled),
            (7, open),
        ]
    );
    assert_eq!(
        decoded.dead_letters[2].bytes,
        "date,delay,origin\n2001-01-01,x,SFO"
    );
    let error = rejected(&flights(), Csv, body).to_string();
    assert_eq!(
        error,
        "line 2: the record has 2 values, the header names 3 (the first of 6 bad events)"
    );
}

/// A letter holds what made it bad, down to the marks and the line ends that mean something elsewhere.
#[test]
fn a_letter_is_bad_for_the_same_reason_when_it_is_tried_again() {
    let one = schema(vec![column("v", ColumnType::Int)]);
    let texts = schema(vec![
        column("v", ColumnType::Varchar),
        column("w", ColumnType::Int),
    ]);
    for (schema, format, body, line, reason) in [
        (
            &one,
            Ndjson,
            "{\"v\":1}\n\u{feff}{\"v\":2}\n",
            2,
            "expected a JSON object",
        ),
        (
            &one,
            Ndjson,
            "\u{feff}\u{feff}{\"v\":2}",
            1,
            "expected a JSON object",
        ),
        (&one, Json, "[7]", 1, "expected a JSON object"),
        (&one, Json, "[\n\"\"]", 2, "expected a JSON object"),
        (&texts, Csv, "v,w\na,1\n\"b\nc\"d,2\n", 3, "never ends"),
        (&texts, Csv, "v,w\n\"b\nc\",x\"\n", 2, "never ends"),
        (
            &texts,
            Csv,
            "v,w\n\"b\"c,2\n",
            2,
            "closes a value, but text follows",
        ),
        (
            &one,
            Csv,
            "v\n\"1\"\r\r\n",
            2,
            "closes a value, but text follows",
        ),
        (&one, Csv, "v\n1\r\r\n", 2, "is not an INT"),
    ] {
        let decoded = decode(schema, format, body, OnError::DeadLetter).unwrap();
        let letter = &decoded.dead_letters[0];
        assert_eq!(letter.line, Some(line), "{body:?}");
        assert!(
            letter.reason.contains(reason),
            "{body:?}: {}",
            letter.reason
        );
        let again = Decoder::new(schema).decode_letter(letter).unwrap_err();
        assert!(again.ends_with(&letter.reason), "{body:?}: {again}");
    }
}

#[test]
fn json_inside_csv_is_told_by_its_path() {
    let columns = vec![column(
        "s",
        ColumnType::Struct(vec![column(
            "x",
            ColumnType::List(Box::new(ColumnType::Int)),
        )]),
    )];
    let body = "s\n\"{\"\"x\"\":[1,\"\"2\"\"]}\"\n";
    let error = rejected(&schema(columns), Csv, body).to_string();
    assert_eq!(
        error,
        "line 2: column `s.x[]`: `\"2\"` is not an INT; write it without quotes"
    );
}

#[test]
fn epoch_numbers_need_a_unit_and_are_exact() {
    let stream = |unit| with_epoch(schema(vec![column("t", ColumnType::Timestamp)]), "t", unit);
    for (unit, number, us) in [
        (EpochUnit::Second, "1", 1_000_000),
        (EpochUnit::Second, "1.000001", 1_000_001),
        (EpochUnit::Millisecond, "-1", -1_000),
        (EpochUnit::Microsecond, "1e3", 1_000),
        (
            EpochUnit::Nanosecond,
            "9223372036854775000",
            9_223_372_036_854_775,
        ),
    ] {
        for (format, body) in [
            (Ndjson, format!("{{\"t\":{number}}}")),
            (Csv, format!("t\n{number}\n")),
        ] {
            let decoded = decode(&stream(unit), format, body, OnError::Reject).unwrap();
            assert_eq!(
                rows_of(&decoded.events),
                [vec![Cell::Integer(us)]],
                "{unit:?} {number}"
            );
        }
    }
    let iso = "{\"t\":\"1970-01-01T00:00:01Z\"}";
    let decoded = decode(
        &stream(EpochUnit::Millisecond),
        Ndjson,
        iso,
        OnError::Reject,
    )
    .unwrap();
    assert_eq!(rows_of(&decoded.events), [vec![Cell::Integer(1_000_000)]]);
    let error = rejected(&stream(EpochUnit::Nanosecond), Ndjson, "{\"t\":1}").to_string();
    assert!(error.contains("finer than the microseconds"), "{error}");
    let error = rejected(&stream(EpochUnit::Second), Ndjson, "{\"t\":1e15}").to_string();
    assert!(error.contains("out of range for TIMESTAMP"), "{error}");
}

#[test]
fn an_instant_that_no_calendar_has_is_no_event() {
    let columns = vec![column("t", ColumnType::Timestamp)];
    let schema = with_epoch(schema(columns), "t", EpochUnit::Microsecond);
    // A BIGINT holds each; the first and the last instant of the calendar, and their neighbours.
    let (first, last) = calendar_instants(1_000_000).into_inner();
    for us in [first, last] {
        for (format, body) in [
            (Ndjson, format!("{{\"t\":{us}}}")),
            (Csv, format!("t\n{us}")),
        ] {
            let decoded = decode(&schema, format, body, OnError::Reject).unwrap();
            assert_eq!(rows_of(&decoded.events), [vec![Cell::Integer(us.into())]]);
        }
    }
    for us in [first - 1, last + 1, i64::MIN, i64::MAX] {
        for (format, body) in [
            (Ndjson, format!("{{\"t\":{us}}}")),
            (Csv, format!("t\n{us}")),
        ] {
            let error = rejected(&schema, format, &body).to_string();
            let said = format!(
                "column `t`: `{us}` is out of range for TIMESTAMP: the calendar has the years -262143 to 262142"
            );
            assert!(error.ends_with(&said), "{error}");
        }
    }
}

#[test]
fn few_bytes_cannot_ask_for_much_memory() {
    let wide: Vec<_> = (0..500)
        .map(|i| column(&format!("c{i}"), ColumnType::Double))
        .collect();
    let rows = schema(wide.clone());
    let items = ColumnType::List(Box::new(ColumnType::Struct(wide)));
    let items = schema(vec![column("l", items)]);
    for on_error in [OnError::Reject, OnError::DeadLetter] {
        for (schema, format, body) in [
            (&rows, Csv, format!("c0\n{}", "1\n".repeat(2_000))),
            (&rows, Ndjson, "{}\n".repeat(2_000)),
            (
                &items,
                Ndjson,
                format!("{{\"l\":[{}{{}}]}}", "{},".repeat(2_000)),
            ),
        ] {
            let error = decode_in_little(schema, format, &body, on_error).unwrap_err();
            assert_eq!(error.kind(), ProblemKind::TooLarge);
            let expected = "the body decodes to more than 4 MiB; split it";
            assert_eq!(error.to_string(), expected);
        }
    }
    // Nor can bad events, if each is kept.
    let body = "x\n".repeat(100_000);
    let error = decode_in_little(&flights(), Ndjson, &body, OnError::DeadLetter).unwrap_err();
    assert_eq!(error.kind(), ProblemKind::TooLarge);
    let error = decode_in_little(&flights(), Ndjson, &body, OnError::Reject).unwrap_err();
    assert_eq!(error.problem().members["bad"], 100_000);
}
