// SPDX-License-Identifier: Apache-2.0
//! What a definition that is allowed means: names, hashes, the time key.

use std::collections::BTreeMap;

use dovetail_model::{ColumnType, StreamSchema};
use dovetail_view::View;

use crate::streams;

#[test]
fn unnamed_outputs_get_the_names_that_postgres_gives() {
    let sql = "SELECT date_trunc('day', date), flights.origin, avg(delay), avg(distance), COUNT(*) AS avg_1, \
               count(*), Max(delay), max(distance) FROM flights GROUP BY 1, 2";
    let view = View::compile(sql, &streams()).unwrap();
    let schema = view.output_schema();
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let expected = [
        "date_trunc",
        "origin",
        "avg",
        "avg_2",
        "avg_1",
        "count",
        "max",
        "max_1",
    ];
    assert_eq!(names, expected);
}

#[test]
fn the_definition_hash_follows_the_meaning_and_the_types_that_are_read() {
    let hash = |sql: &str, streams: &BTreeMap<String, StreamSchema>| {
        let view = View::compile(sql, streams).unwrap();
        view.definition_hash().to_owned()
    };
    let sql = "SELECT origin, sum(delay) FROM flights GROUP BY origin";
    let hashed = hash(sql, &streams());
    assert_eq!(
        hashed,
        hash(&sql.replace("SELECT", "select\n  "), &streams())
    );
    assert_ne!(hashed, hash(&sql.replace("delay", "distance"), &streams()));
    let mut wider = streams();
    wider.get_mut("flights").unwrap().columns[1].column_type = ColumnType::BigInt;
    assert_ne!(hashed, hash(sql, &wider));
    let mut unread = streams();
    unread.get_mut("flights").unwrap().columns[2].column_type = ColumnType::BigInt;
    assert_eq!(hashed, hash(sql, &unread));
}

#[test]
fn the_state_fingerprint_follows_functions_and_state_types() {
    let print = |sql: &str| {
        let view = View::compile(sql, &streams()).unwrap();
        view.state_fingerprint().to_owned()
    };
    let sum = print("SELECT origin, sum(delay) FROM flights GROUP BY origin");
    assert_eq!(
        sum,
        print("SELECT origin, sum(distance) FROM flights GROUP BY origin")
    );
    assert_ne!(
        sum,
        print("SELECT origin, max(distance) FROM flights GROUP BY origin")
    );
    assert_ne!(
        sum,
        print("SELECT delay, sum(delay) FROM flights GROUP BY delay")
    );
}

#[test]
fn the_time_key_is_one_that_grows_with_the_event_time() {
    let time_key = |key: &str| {
        let sql = format!("SELECT origin, {key} AS k, count(*) FROM flights GROUP BY 1, 2");
        View::compile(&sql, &streams()).unwrap().time_key()
    };
    for key in [
        "date",
        "date_trunc('hour', date)",
        "date_bin(INTERVAL '5 minutes', date)",
        "CAST(date_bin(INTERVAL '1 day', date_trunc('hour', date), TIMESTAMP '2001-01-01') AS TIMESTAMP)",
        "CAST(date AS DATE)",
    ] {
        assert_eq!(time_key(key), Some(1), "{key}");
    }
    for key in [
        "date_part('hour', date)",
        "_arrived_at",
        "CAST(date AS VARCHAR)",
        "delay",
    ] {
        assert_eq!(time_key(key), None, "{key}");
    }
}
