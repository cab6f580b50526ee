// SPDX-License-Identifier: Apache-2.0
//! What predicates match: columns by name, and unknown is no.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use dovetail_model::{Column, ColumnType, Span, StreamSchema, UnknownColumns};
use dovetail_view::{Predicate, View};

fn stream() -> StreamSchema {
    let column = |name: &str, column_type| Column {
        name: name.to_owned(),
        column_type,
        nullable: true,
    };
    StreamSchema {
        columns: vec![
            column("delay", ColumnType::Int),
            column("origin", ColumnType::Varchar),
        ],
        event_time: None,
        unknown_columns: UnknownColumns::Ignore,
    }
}

fn events() -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from(vec![Some(5), None, Some(-1), Some(9)])),
        Arc::new(StringArray::from(vec![
            Some("SFO"),
            Some("OAK"),
            None,
            Some("SFO"),
        ])),
        Arc::new(Int32Array::from(vec![0; 4])),
        Arc::new(Int64Array::from(vec![10, 11, 12, 13])),
        Arc::new(TimestampMicrosecondArray::from(vec![0, 1, 2, 3])),
    ];
    RecordBatch::try_new(stream().events(), columns).unwrap()
}

fn matching(predicate: &Predicate, batch: &RecordBatch) -> Vec<usize> {
    let matches = predicate.matches(batch).unwrap();
    assert_eq!(matches.len(), batch.num_rows());
    matches.values().set_indices().collect()
}

#[test]
fn unknown_is_no() {
    let cases: &[(&str, &[usize])] = &[
        ("delay > 0", &[0, 3]),
        ("NOT delay > 0", &[2]),
        ("origin = 'SFO' AND delay < 9", &[0]),
        ("delay IS NULL", &[1]),
        ("NULL", &[]),
        ("coalesce(origin, 'none') = 'none'", &[2]),
        ("ifnull(delay, 0) = 0", &[1]),
        ("nvl2(origin, 'some', 'none') = 'none'", &[2]),
        ("arrow_cast(delay, 'Int64') > 5", &[3]),
        ("true", &[0, 1, 2, 3]),
        (
            "_offset >= 12 OR _arrived_at < TIMESTAMP '1970-01-01T00:00:00.000001'",
            &[0, 2, 3],
        ),
        ("_partition = 0 AND origin LIKE 'O%'", &[1]),
    ];
    for (sql, expected) in cases {
        let predicate = Predicate::over_events(sql, &stream()).unwrap();
        assert_eq!(matching(&predicate, &events()), *expected, "{sql}");
    }
}

/// 4.48 as a DOUBLE is none of the numbers with two digits, and 6.7 % of them were other ones when both met as DECIMAL(30, 15).
#[test]
fn a_decimal_is_compared_with_the_number_that_is_written() {
    let mut schema = stream();
    schema.columns[0].column_type = ColumnType::Decimal(10, 2);
    let cents: Vec<i128> = (-3000..3000).collect();
    let decimals = arrow::array::Decimal128Array::from(cents.clone());
    let decimals = decimals.with_precision_and_scale(10, 2).unwrap();
    let rows = cents.len();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(decimals),
        Arc::new(StringArray::from(vec![None::<&str>; rows])),
        Arc::new(Int32Array::from(vec![0; rows])),
        Arc::new(Int64Array::from(vec![0; rows])),
        Arc::new(TimestampMicrosecondArray::from(vec![0; rows])),
    ];
    let batch = RecordBatch::try_new(schema.events(), columns).unwrap();
    for (at, cents) in cents.iter().enumerate().step_by(7) {
        let sign = if *cents < 0 { "-" } else { "" };
        let number = format!("{sign}{}.{:02}", cents.abs() / 100, cents.abs() % 100);
        let equal = Predicate::over_events(&format!("delay = {number}"), &schema).unwrap();
        assert_eq!(matching(&equal, &batch), [at], "{number}");
        let least = Predicate::over_events(&format!("delay >= {number}"), &schema).unwrap();
        assert_eq!(matching(&least, &batch).len(), rows - at, "{number}");
    }
    let between = "delay > 4.475000000000000000001 AND delay < 4.48999999999999999999";
    let between = Predicate::over_events(between, &schema).unwrap();
    assert_eq!(matching(&between, &batch), [3448]);
}

#[test]
fn a_number_that_does_not_fit_is_an_error() {
    let delays: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from(vec![i32::MIN])),
        Arc::new(StringArray::from(vec!["SFO"])),
        Arc::new(Int32Array::from(vec![0])),
        Arc::new(Int64Array::from(vec![0])),
        Arc::new(TimestampMicrosecondArray::from(vec![0])),
    ];
    let least = RecordBatch::try_new(stream().events(), delays).unwrap();
    let nines = format!("CAST('{}' AS DECIMAL(38, 0))", "9".repeat(38));
    for (sql, said) in [
        ("-delay > 0".to_owned(), "0 - -2147483648"),
        ("-(delay + 1) - 2 > 0".to_owned(), ""),
        (
            format!("{nines} - CAST(delay AS DECIMAL(38, 0)) > 1"),
            "does not fit the 38 digits of DECIMAL(38, 0)",
        ),
    ] {
        let predicate = Predicate::over_events(&sql, &stream()).unwrap();
        let found = predicate.matches(&least);
        match said {
            "" => assert_eq!(found.unwrap().true_count(), 1, "{sql}"),
            said => assert!(found.unwrap_err().to_string().contains(said), "{sql}"),
        }
    }
}

#[test]
fn columns_are_found_by_name_in_any_batch_that_has_them() {
    let predicate = Predicate::over_events("origin = 'SFO' AND delay = 5", &stream()).unwrap();
    assert_eq!(predicate.columns(), [0, 1]);
    let turned = events().project(&[4, 1, 0]).unwrap();
    assert_eq!(matching(&predicate, &turned), [0]);
    let without = events().project(&[1, 3]).unwrap();
    let message = predicate.matches(&without).unwrap_err().to_string();
    assert!(message.contains("`delay`"), "{message}");
}

#[test]
fn a_predicate_over_keys_reads_states_files_and_answers() {
    let sql = "SELECT count(*) AS n, origin AS airport FROM s GROUP BY origin";
    let view = View::compile(sql, &BTreeMap::from([("s".to_owned(), stream())])).unwrap();
    let predicate = Predicate::over_keys("airport = 'SFO'", &view).unwrap();
    let run = view
        .accumulate(&events(), Span::up_to(Default::default()))
        .unwrap();
    let states = &run.states()[0];
    let file = view.to_file(states).unwrap();
    let answer = view.output_of_file(&file).unwrap();
    // NULL, OAK, SFO: in sort-key order.
    for batch in [states, &file, &answer] {
        assert_eq!(matching(&predicate, batch), [2]);
    }
}
