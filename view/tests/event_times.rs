// SPDX-License-Identifier: Apache-2.0
//! The event times of groups: every event that falls into one of them, and as few others as can be.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Date32Array, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray,
};
use dovetail_model::{
    Column, ColumnType, EventTime, Offset, Position, Span, StreamSchema, UnknownColumns,
};
use dovetail_view::View;
use proptest::prelude::*;

const DAY_US: i64 = 86_400_000_000;
/// Keys that grow with the event time, and how many event times in a row one value can have, in microseconds.
const KEYS: [(&str, i64); 13] = [
    ("at", 1),
    ("date_trunc('second', at)", 1_000_000),
    ("date_trunc('hour', at)", 3_600_000_000),
    ("date_trunc('day', at)", DAY_US),
    ("date_trunc('week', at)", 7 * DAY_US),
    ("date_trunc('month', at)", 31 * DAY_US),
    ("date_trunc('quarter', at)", 92 * DAY_US),
    ("date_trunc('year', at)", 366 * DAY_US),
    ("CAST(at AS DATE)", 2 * DAY_US),
    ("date_bin(INTERVAL '7 minutes', at)", 7 * 60_000_000),
    (
        "CAST(date_bin(INTERVAL '1 day', at, TIMESTAMP '2001-01-01T06:30:00') AS TIMESTAMP)",
        DAY_US,
    ),
    (
        "CAST(date_bin(INTERVAL '1 month', at, TIMESTAMP '2001-01-31T00:00:00') AS TIMESTAMP)",
        31 * DAY_US,
    ),
    (
        "date_trunc('month', date_bin(INTERVAL '2 days', at))",
        33 * DAY_US,
    ),
];

fn schema(column_type: ColumnType) -> StreamSchema {
    StreamSchema {
        columns: vec![Column {
            name: "at".to_owned(),
            column_type,
            nullable: true,
        }],
        event_time: Some(EventTime {
            column: "at".to_owned(),
            epoch: None,
        }),
        unknown_columns: UnknownColumns::Ignore,
    }
}

fn view(column_type: ColumnType, key: &str) -> View {
    let sql = format!("SELECT _partition AS p, {key} AS k, count(*) AS n FROM s GROUP BY p, k");
    View::compile(
        &sql,
        &BTreeMap::from([("s".to_owned(), schema(column_type))]),
    )
    .unwrap()
}

/// The encoded key of the event at each time.
fn keys(view: &View, times: ArrayRef) -> Vec<Vec<u8>> {
    let one = |time: ArrayRef| {
        let columns: Vec<ArrayRef> = vec![
            time,
            Arc::new(Int32Array::from(vec![0])),
            Arc::new(Int64Array::from(vec![0])),
            Arc::new(TimestampMicrosecondArray::from(vec![0])),
        ];
        let events = RecordBatch::try_new(view.events_schema(), columns).unwrap();
        let run = view
            .accumulate(&events, Span::up_to(Position::single(Offset(1))))
            .unwrap();
        let rows = view.encode_keys(&run.states()[0]).unwrap();
        rows.row(0).as_ref().to_vec()
    };
    (0..times.len())
        .map(|row| one(times.slice(row, 1)))
        .collect()
}

fn timestamps() -> impl Strategy<Value = Vec<i64>> {
    let near = 978_307_200_000_000_i64..978_307_200_000_000 + 90 * DAY_US;
    let time = prop_oneof![
        4 => near.clone(),
        2 => near.prop_map(|us| us - us.rem_euclid(DAY_US)),
        2 => -60_000 * DAY_US..60_000 * DAY_US,
        1 => Just(0_i64),
        1 => Just(-1_i64),
    ];
    proptest::collection::vec(time, 2..40).prop_map(|mut times| {
        times.sort_unstable();
        times
    })
}

proptest! {
    // Each case compiles a view.
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn hold_all_events_of_the_groups_and_hardly_others(
        times in timestamps(), (key, width) in proptest::sample::select(KEYS.to_vec()),
        first in any::<prop::sample::Index>(), last in any::<prop::sample::Index>(),
    ) {
        let view = view(ColumnType::Timestamp, key);
        let keys = keys(&view, Arc::new(TimestampMicrosecondArray::from(times.clone())));
        prop_assert!(keys.is_sorted(), "{key} grows with the event time");
        let (a, b) = (first.index(times.len()), last.index(times.len()));
        let (a, b) = (a.min(b), a.max(b));
        let within = (times[0], times[times.len() - 1]);
        let range = view.event_times_between(&keys[a], &keys[b], within);
        let (from, to) = range.expect("these functions do not fail here");
        for (time, found) in times.iter().zip(&keys) {
            let wanted = *found >= keys[a] && *found <= keys[b];
            let inside = from <= *time && to.is_none_or(|to| *time < to);
            prop_assert_eq!(inside, wanted, "{} of {} in {}..{:?}", key, time, from, to);
        }
        prop_assert!(times[a] - from < width && to.unwrap() - times[b] <= width);
    }

    #[test]
    fn of_dates_are_their_midnights(days in proptest::collection::vec(-9000_i32..20_000, 2..20)) {
        let mut days = days;
        days.sort_unstable();
        let view = view(ColumnType::Date, "CAST(date_trunc('month', at) AS TIMESTAMP)");
        let keys = keys(&view, Arc::new(Date32Array::from(days.clone())));
        let us = |day: i32| i64::from(day) * DAY_US;
        let middle = days.len() / 2;
        let within = (us(days[0]), us(days[days.len() - 1]));
        let (from, to) = view.event_times_between(&keys[middle], &keys[middle], within).unwrap();
        for (day, found) in days.iter().zip(&keys) {
            let inside = from <= us(*day) && to.is_none_or(|to| us(*day) < to);
            prop_assert_eq!(inside, *found == keys[middle]);
        }
    }
}

#[test]
fn are_not_known_without_a_time() {
    let timed = view(ColumnType::Timestamp, "date_trunc('day', at)");
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![None, Some(5)]));
    let of = keys(&timed, times.clone());
    assert_eq!(timed.event_times_between(&of[0], &of[1], (0, 9)), None);
    assert_eq!(
        timed.event_times_between(&of[1], &of[1], (0, 9)),
        Some((0, Some(10)))
    );
    let untimed = view(ColumnType::Timestamp, "date_part('hour', at)");
    let of = keys(&untimed, times);
    assert_eq!(untimed.event_times_between(&of[1], &of[1], (0, 9)), None);
}

/// A function that fails somewhere on the way cannot say where groups lie.
#[test]
fn are_not_known_where_the_key_fails() {
    let view = view(ColumnType::Timestamp, "date_bin(INTERVAL '1 month', at)");
    let of = keys(&view, Arc::new(TimestampMicrosecondArray::from(vec![5])));
    assert_eq!(
        view.event_times_between(&of[0], &of[0], (0, i64::MAX)),
        None
    );
}
