// SPDX-License-Identifier: Apache-2.0
//! What a definition that is allowed means: names, hashes, the time key.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray as _, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray,
    new_null_array,
};
use arrow::compute::cast;
use arrow::datatypes::Int64Type;
use dovetail_model::{Column, ColumnType, Offset, Position, Span, StreamSchema};
use dovetail_view::{View, ViewError};

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

/// As in PostgreSQL: in GROUP BY a name is the stream's column first, and an output's after that.
#[test]
fn an_output_that_is_called_as_a_column_is_not_grouped_by() {
    let events = |schema: &StreamSchema, delays: Vec<i32>, distances: Vec<i32>| {
        let schema = schema.declared();
        let columns = schema
            .fields()
            .iter()
            .map(|field| match field.name().as_str() {
                "delay" => Arc::new(Int32Array::from(delays.clone())) as ArrayRef,
                "distance" => Arc::new(Int32Array::from(distances.clone())),
                _ => new_null_array(field.data_type(), delays.len()),
            });
        RecordBatch::try_new(Arc::clone(&schema), columns.collect()).unwrap()
    };
    let streams = streams();
    let events = events(&streams["flights"], vec![1, 2, 2], vec![5, 6, 6]);
    for (sql, keys) in [
        (
            "SELECT delay AS raw, delay / 2 AS delay, count(*) AS n FROM flights GROUP BY delay",
            ["raw"].as_slice(),
        ),
        (
            "SELECT delay AS distance, distance AS delay, count(*) AS n FROM flights GROUP BY delay, distance",
            &["distance", "delay"],
        ),
    ] {
        let view = View::compile(sql, &streams).unwrap();
        let named: Vec<&str> = view.keys().iter().map(|key| key.name.as_str()).collect();
        assert_eq!(named, keys);
        let run = view
            .accumulate(&events, Span::up_to(Position::single(Offset(3))))
            .unwrap();
        let rows = view.finish(run.states()).unwrap();
        let mut shown: Vec<Vec<i64>> = (0..rows.num_rows())
            .map(|row| {
                let values = rows.columns().iter();
                values
                    .map(|c| {
                        cast(c, &arrow::datatypes::DataType::Int64)
                            .unwrap()
                            .as_primitive::<Int64Type>()
                            .value(row)
                    })
                    .collect()
            })
            .collect();
        shown.sort();
        let expected = if keys.len() == 1 {
            [[1, 0, 1], [2, 1, 2]]
        } else {
            [[1, 5, 1], [2, 6, 2]]
        };
        assert_eq!(shown, expected, "{sql}");
    }
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

/// The types of its states are those of one that cut digits off, and finished rows in files are of one kind.
#[test]
fn a_rounded_average_has_another_state_fingerprint_than_one_that_was_cut_off() {
    let sql = "SELECT avg(DISTINCT CAST(distance AS DECIMAL(38, 2))) FROM flights";
    let view = View::compile(sql, &streams()).unwrap();
    let cut_off = "9566aa59e720703c012cc21ad03a23a35326c8124eb46d745bdfc413dc206d7d";
    assert_ne!(view.state_fingerprint(), cut_off);
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

/// A stream's schema may have grown since the view was compiled, or since the events were committed.
#[test]
fn events_of_another_schema_are_read_by_name() {
    let events = |schema: &StreamSchema| {
        let fields = schema.events();
        let columns = fields
            .fields()
            .iter()
            .map(|field| match field.name().as_str() {
                "_partition" => Arc::new(Int32Array::from(vec![0, 0])) as ArrayRef,
                "_offset" => Arc::new(Int64Array::from(vec![7, 8])),
                "_arrived_at" => Arc::new(TimestampMicrosecondArray::from(vec![5, 5])),
                "delay" => Arc::new(Int32Array::from(vec![1, 2])),
                "extra" => Arc::new(Int32Array::from(vec![3, 4])),
                _ => new_null_array(field.data_type(), 2),
            });
        let columns = columns.collect();
        RecordBatch::try_new(Arc::clone(&fields), columns).unwrap()
    };
    let answer = |sql: &str, compiled: &BTreeMap<_, _>, events: &RecordBatch| {
        let view = View::compile(sql, compiled).unwrap();
        let span = Span::up_to(Position::single(Offset(9)));
        let run = view.accumulate(events, span)?;
        let rows = view.finish(run.states())?;
        let values = rows.columns().iter();
        let values = values.map(|c| c.as_primitive::<Int64Type>().iter().next().flatten());
        Ok::<Vec<_>, ViewError>(values.collect())
    };
    let old = streams();
    let mut new = streams();
    new.get_mut("flights").unwrap().columns.push(Column {
        name: "extra".to_owned(),
        column_type: ColumnType::Int,
        nullable: true,
    });
    let (before, after) = (events(&old["flights"]), events(&new["flights"]));
    let sql = "SELECT sum(delay) AS d, max(_offset) AS o FROM flights";
    for compiled in [&old, &new] {
        for events in [&before, &after] {
            assert_eq!(answer(sql, compiled, events).unwrap(), [Some(3), Some(8)]);
        }
    }
    let sql = "SELECT count(extra) AS n, sum(extra) AS e FROM flights";
    assert_eq!(answer(sql, &new, &before).unwrap(), [Some(0), None]);
    assert_eq!(answer(sql, &new, &after).unwrap(), [Some(2), Some(7)]);
    // Another type is another column.
    let mut retyped = streams();
    retyped.get_mut("flights").unwrap().columns[1].column_type = ColumnType::BigInt;
    let retyped = events_of_type(&retyped["flights"], &before);
    let sql = "SELECT sum(delay) AS d, max(_offset) AS o FROM flights";
    let error = answer(sql, &old, &retyped).unwrap_err();
    assert!(matches!(error, ViewError::Schema { .. }), "{error}");
}

/// `events` with each column cast to its type in `schema`.
fn events_of_type(schema: &StreamSchema, events: &RecordBatch) -> RecordBatch {
    let schema = schema.events();
    let columns = events.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| cast(column, field.data_type()).unwrap());
    RecordBatch::try_new(Arc::clone(&schema), columns.collect()).unwrap()
}
