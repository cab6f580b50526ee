// SPDX-License-Identifier: Apache-2.0
//! A group's states in a run, by the group's key.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray,
};
use arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::common::ScalarValue;
use dovetail_model::{Column, ColumnType, Offset, Position, Span, StreamSchema};
use dovetail_view::{Run, View};
use std::sync::Arc;

/// More groups than a table of 16 bits has places.
const GROUPS: i64 = 100_000;

fn schema() -> StreamSchema {
    let column = |name: &str, column_type| Column {
        name: name.to_owned(),
        column_type,
        nullable: true,
    };
    StreamSchema {
        columns: vec![
            column("text", ColumnType::Varchar),
            column("number", ColumnType::Int),
            column("flag", ColumnType::Boolean),
            column("real", ColumnType::Double),
            column("value", ColumnType::BigInt),
        ],
        event_time: None,
        unknown_columns: Default::default(),
    }
}

fn view(keys: &str) -> View {
    let streams = BTreeMap::from([("s".to_owned(), schema())]);
    let sql = format!("SELECT {keys}, count(*) AS n, sum(value) AS total FROM s GROUP BY {keys}");
    View::compile(&sql, &streams).unwrap()
}

/// The key of group `at`, NULL here and there.
fn key(at: i64) -> (Option<String>, Option<i32>, Option<bool>) {
    let text = (at % 7 != 0).then(|| format!("text {}", at / 100));
    let number = (at % 100 != 3).then_some((at % 100) as i32);
    (text, number, (at % 3 != 0).then_some(at % 2 == 0))
}

fn values(at: i64) -> [ScalarValue; 3] {
    let (text, number, flag) = key(at);
    [
        ScalarValue::Utf8(text),
        ScalarValue::Int32(number),
        ScalarValue::Boolean(flag),
    ]
}

/// Two events of each group, so that the view's `total` is twice the group's number.
fn events(schema: SchemaRef, groups: std::ops::Range<i64>) -> RecordBatch {
    let twice = || groups.clone().chain(groups.clone());
    let keys: Vec<_> = twice().map(key).collect();
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter(keys.iter().map(|key| key.0.clone()))),
        Arc::new(Int32Array::from_iter(keys.iter().map(|key| key.1))),
        Arc::new(BooleanArray::from_iter(keys.iter().map(|key| key.2))),
    ];
    for field in &schema.fields()[3..] {
        columns.push(match field.name().as_str() {
            "value" => Arc::new(Int64Array::from_iter_values(twice())),
            _ => arrow::array::new_null_array(field.data_type(), keys.len()),
        });
    }
    // The system columns have values, and the view does not read them.
    let fields = schema
        .fields()
        .iter()
        .map(|f| f.as_ref().clone().with_nullable(true));
    let schema = arrow::datatypes::Schema::new(fields.collect::<Vec<_>>());
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

fn span() -> Span {
    Span::new(Position::single(Offset(0)), Position::single(Offset(1))).unwrap()
}

/// What `view` finds of group `at`, finished: how many events, and their sum.
fn found(view: &View, run: &Run, at: i64) -> Option<(i64, i64)> {
    let row = run.find(&view.group_key(&values(at)).unwrap()).unwrap()?;
    assert_eq!(row.num_rows(), 1);
    let output = view.finish(&[row]).unwrap();
    let number = |name: &str| {
        let column = output.column_by_name(name).unwrap();
        column.as_primitive::<Int64Type>().value(0)
    };
    Some((number("n"), number("total")))
}

#[test]
fn every_group_of_a_run_is_found_in_any_order_and_no_other_is() {
    // Keys repeat only where both of two numbers are NULL: 3 of a hundred in the text that is NULL.
    let view = view("text, number, flag");
    let mut unique = BTreeMap::new();
    for at in 0..GROUPS {
        let group: &mut (i64, i64) = unique.entry(key(at)).or_default();
        *group = (group.0 + 2, group.1 + 2 * at);
    }
    let run = view
        .accumulate(&events(schema().events(), 0..GROUPS), span())
        .unwrap();
    for is_sorted in [false, true] {
        if is_sorted {
            assert_eq!(run.states()[0].num_rows(), unique.len());
            assert!(
                !run.is_indexed(),
                "an index of unsorted states would keep them"
            );
        }
        let unindexed = run.bytes();
        for at in (0..GROUPS).step_by(13) {
            assert_eq!(
                found(&view, &run, at),
                Some(unique[&key(at)]),
                "{at}, sorted: {is_sorted}"
            );
        }
        assert!(run.bytes() > unindexed, "an index takes memory");
        for at in (GROUPS..GROUPS + 5_000).filter(|at| !unique.contains_key(&key(*at))) {
            assert_eq!(found(&view, &run, at), None, "{at}");
        }
    }
}

#[test]
fn a_run_of_several_batches_or_none_is_searched_whole() {
    let view = view("text, number, flag");
    let run = view
        .accumulate(&events(schema().events(), 0..100), span())
        .unwrap();
    let states = &run.states()[0];
    let pieces = (0..states.num_rows()).step_by(7);
    let pieces = pieces.map(|at| states.slice(at, 7.min(states.num_rows() - at)));
    let run = Run::from_sorted(&view, span(), pieces.collect());
    for at in (0..100).filter(|at| at % 7 != 0) {
        assert_eq!(found(&view, &run, at), Some((2, 2 * at)), "{at}");
    }
    let empty = Run::empty(&view, span());
    assert_eq!(found(&view, &empty, 1), None);
}

#[test]
fn keys_that_sql_compares_otherwise_are_not_exact() {
    assert!(view("text, number, flag").has_exact_keys());
    assert!(!view("text, real").has_exact_keys());
    let streams = BTreeMap::from([("s".to_owned(), schema())]);
    let total = View::compile("SELECT count(*) AS n FROM s", &streams).unwrap();
    assert!(!total.has_exact_keys());
    let view = view("text, number");
    assert!(view.group_key(&values(1)).is_err(), "a value too many");
    let wide = [values(1)[0].clone(), ScalarValue::Int64(Some(1))];
    assert!(view.group_key(&wide).is_err(), "another type");
}
