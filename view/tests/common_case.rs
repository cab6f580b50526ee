// SPDX-License-Identifier: Apache-2.0
//! The common case, by hand: a view over flights from text to rows, through memory and through files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use arrow::util::pretty::pretty_format_batches;
use dovetail_model::{Column, ColumnType, EventTime, Offset, Position, Span, StreamSchema};
use dovetail_view::{Run, View};

const AIRPORT_DELAYS: &str = "SELECT origin, date_trunc('hour', date) AS hour, count(*) AS flights, \
     avg(delay) AS avg_delay, min(delay), max(delay), sum(distance) AS distance \
     FROM flights GROUP BY origin, hour";

fn flights() -> BTreeMap<String, StreamSchema> {
    let column = |name: &str, column_type, nullable| Column {
        name: name.to_owned(),
        column_type,
        nullable,
    };
    let schema = StreamSchema {
        columns: vec![
            column("date", ColumnType::Timestamp, false),
            column("delay", ColumnType::Int, true),
            column("distance", ColumnType::Double, true),
            column("origin", ColumnType::Varchar, true),
        ],
        event_time: Some(EventTime {
            column: "date".to_owned(),
            epoch: None,
        }),
        unknown_columns: Default::default(),
    };
    BTreeMap::from([("flights".to_owned(), schema)])
}

const HOUR: i64 = 3_600_000_000;

fn events(first: i64, rows: &[(i64, Option<i32>, f64, Option<&str>)]) -> RecordBatch {
    let offsets: Vec<i64> = (first..first + rows.len() as i64).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(TimestampMicrosecondArray::from_iter_values(
            rows.iter().map(|r| r.0),
        )),
        Arc::new(Int32Array::from_iter(rows.iter().map(|r| r.1))),
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|r| r.2))),
        Arc::new(StringArray::from_iter(rows.iter().map(|r| r.3))),
        Arc::new(Int32Array::from(vec![0; rows.len()])),
        Arc::new(Int64Array::from(offsets)),
        Arc::new(TimestampMicrosecondArray::from(vec![0; rows.len()])),
    ];
    RecordBatch::try_new(flights()["flights"].events(), columns).unwrap()
}

fn span(from: u64, to: u64) -> Span {
    Span::new(Position::single(Offset(from)), Position::single(Offset(to))).unwrap()
}

fn two_runs(view: &View) -> (Arc<Run>, Arc<Run>) {
    let early = events(
        0,
        &[
            (HOUR, Some(10), 100.0, Some("SFO")),
            (HOUR + 1, Some(20), 200.0, Some("SFO")),
            (0, None, 300.0, Some("OAK")),
        ],
    );
    let late = events(
        3,
        &[
            (HOUR + 2, Some(-3), 0.5, Some("SFO")),
            (-1, Some(7), 1.0, None),
        ],
    );
    let early = view.accumulate(&early, span(0, 3)).unwrap();
    let late = view.accumulate(&late, span(3, 5)).unwrap();
    (Arc::new(early), Arc::new(late))
}

fn table(batch: &RecordBatch) -> String {
    pretty_format_batches(std::slice::from_ref(batch))
        .unwrap()
        .to_string()
}

const EXPECTED: &str = "\
+--------+---------------------+---------+-----------+-----+-----+----------+
| origin | hour                | flights | avg_delay | min | max | distance |
+--------+---------------------+---------+-----------+-----+-----+----------+
|        | 1969-12-31T23:00:00 | 1       | 7.0       | 7   | 7   | 1.0      |
| OAK    | 1970-01-01T00:00:00 | 1       |           |     |     | 300.0    |
| SFO    | 1970-01-01T01:00:00 | 3       | 9.0       | -3  | 20  | 300.5    |
+--------+---------------------+---------+-----------+-----+-----+----------+";

#[test]
fn runs_merge_and_finish_in_sort_key_order() {
    let view = View::compile(AIRPORT_DELAYS, &flights()).unwrap();
    assert_eq!(view.time_key(), Some(1));
    assert_eq!(view.sort_order(), [1, 0]);
    let (early, late) = two_runs(&view);
    let merged = view.merge(&[early, late]).unwrap();
    assert_eq!(merged.span(), &span(0, 5));
    assert_eq!(merged.rows(), 3);
    assert_eq!(table(&view.finish(merged.states()).unwrap()), EXPECTED);
}

#[test]
fn a_file_holds_finished_columns_and_only_the_states_they_do_not_hold() {
    let view = View::compile(AIRPORT_DELAYS, &flights()).unwrap();
    let schema = view.file_schema();
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let expected = [
        "origin",
        "hour",
        "flights",
        "avg_delay",
        "min",
        "max",
        "distance",
        "_state1_0",
        "_state1_1",
    ];
    assert_eq!(names, expected);
    let (early, late) = two_runs(&view);
    let merged = view.merge(&[early, late]).unwrap();
    let file = view.to_file(&merged.states()[0]).unwrap();
    assert_eq!(table(&view.output_of_file(&file).unwrap()), EXPECTED);
    let outputs = file.project(view.file_output_columns()).unwrap();
    assert_eq!(table(&view.output_of_file(&outputs).unwrap()), EXPECTED);
    let states = view.states_of_file(&file).unwrap();
    assert_eq!(&states, &merged.states()[0]);
}

#[test]
fn a_file_holds_what_calls_share_once() {
    let sql = "SELECT origin, count(*) AS flights, sum(delay) AS delay, avg(delay) AS mean, \
         count(date) AS dates, avg(delay) + 1 AS more FROM flights GROUP BY origin";
    let view = View::compile(sql, &flights()).unwrap();
    let schema = view.file_schema();
    let names = schema.fields().iter().map(|f| f.name().as_str());
    // Only how many delays an average is of.
    let states: Vec<&str> = names.filter(|name| name.starts_with("_state")).collect();
    assert_eq!(states, ["_state2_0"]);
    let (early, late) = two_runs(&view);
    let merged = view.merge(&[early, late]).unwrap();
    let file = view.to_file(&merged.states()[0]).unwrap();
    assert_eq!(&view.states_of_file(&file).unwrap(), &merged.states()[0]);
    let whole = view.finish_unique(&merged.states()[0]).unwrap();
    assert_eq!(view.output_of_file(&file).unwrap(), whole);
}

/// Of three groups, the one from Oakland has a flight without a delay.
#[test]
fn a_file_keeps_how_many_values_are_missing_beside_a_count_of_all_events() {
    for (counts, expected) in [
        ("count(*) AS flights, avg(delay) AS mean", [0, 1, 0]),
        (
            "avg(CAST(delay AS DOUBLE)) AS mean, count(date) AS flights",
            [0, 1, 0],
        ),
        ("count(*) AS flights, count(delay) + 1 AS delays", [0, 1, 0]),
        // There is nothing that all events are counted in, or not these.
        ("count(delay) + 1 AS delays", [1, 0, 3]),
        ("count(*) + 1 AS flights, avg(delay) AS mean", [1, 0, 3]),
        (
            "count(*) FILTER (WHERE delay > 7) AS late, avg(delay) AS mean",
            [1, 0, 3],
        ),
    ] {
        let sql = format!("SELECT origin, {counts} FROM flights GROUP BY origin");
        let view = View::compile(&sql, &flights()).unwrap();
        let (early, late) = two_runs(&view);
        let merged = view.merge(&[early, late]).unwrap();
        let states = &merged.states()[0];
        let file = view.to_file(states).unwrap();
        let kept = file.schema_ref().fields().iter().rposition(|field| {
            field.name().starts_with("_state") && *field.data_type() == DataType::Int64
        });
        let kept = file.column(kept.unwrap()).as_primitive::<Int64Type>();
        assert_eq!(kept.values(), &expected, "{counts}");
        assert_eq!(&view.states_of_file(&file).unwrap(), states, "{counts}");
        let last = UInt64Array::from(vec![2]);
        let measured = view.measured_of_file(&file, &last).unwrap();
        assert_eq!(
            measured.columns(),
            &states.slice(2, 1).columns()[1..],
            "{counts}"
        );
    }
}

#[test]
fn runs_that_do_not_touch_are_not_merged() {
    let view = View::compile(AIRPORT_DELAYS, &flights()).unwrap();
    let (early, late) = two_runs(&view);
    assert!(view.merge(&[late, early]).is_err());
    assert!(view.merge(&[]).is_err());
}

#[test]
fn without_group_by_there_is_one_row_on_an_empty_stream_too() {
    let sql = "SELECT count(*) AS flights, sum(delay) AS delay FROM flights";
    let view = View::compile(sql, &flights()).unwrap();
    let row = view.finish(&[]).unwrap();
    assert_eq!(row.num_rows(), 1);
    let run = view.accumulate(&events(0, &[]), span(0, 0)).unwrap();
    let empty = Run::empty(&view, span(0, 0));
    for run in [run, empty] {
        assert_eq!(view.finish(run.states()).unwrap(), row);
    }
}

/// DataFusion's own grouped `max` lets what comes after a NaN win, and its `min` of infinities is finite.
#[test]
fn floats_have_one_order_whatever_the_order_of_runs() {
    let sql =
        "SELECT origin, min(distance) AS low, max(distance) AS high FROM flights GROUP BY origin";
    let view = View::compile(sql, &flights()).unwrap();
    let one = |at: u64, value: f64| {
        let events = events(at as i64, &[(0, None, value, Some("SFO"))]);
        view.accumulate(&events, span(at, at + 1)).unwrap().states()[0].clone()
    };
    let low_high = |values: [f64; 2]| {
        let states: Vec<RecordBatch> = (0..).zip(values).map(|(at, v)| one(at, v)).collect();
        let row = view.finish(&states).unwrap();
        let value = |column: usize| row.column(column).as_primitive::<Float64Type>().value(0);
        (value(1), value(2))
    };
    for values in [[1.0, f64::NAN], [f64::NAN, 1.0]] {
        let (low, high) = low_high(values);
        assert!(low == 1.0 && high.is_nan(), "{low} to {high}");
    }
    let (low, _) = low_high([f64::INFINITY; 2]);
    assert_eq!(low, f64::INFINITY);
}
