// SPDX-License-Identifier: Apache-2.0
//! Quantile sketches are not the same after another order of merges, but never far off: their error in
//! rank stays small however the events are cut, and so does their state.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray,
};
use arrow::datatypes::Float64Type;
use dovetail_model::{Column, ColumnType, Span, StreamSchema, UnknownColumns};
use dovetail_view::View;

/// Largest error in rank, as a fraction of all values.
const RANK_ERROR: f64 = 0.02;
/// Largest state of one group, in bytes.
const STATE_MAX_BYTES: usize = 4096;

fn stream() -> StreamSchema {
    StreamSchema {
        columns: vec![Column {
            name: "x".to_owned(),
            column_type: ColumnType::Double,
            nullable: false,
        }],
        event_time: None,
        unknown_columns: UnknownColumns::Ignore,
    }
}

/// Values that are neither sorted nor evenly spread: most near zero, few very large.
fn values(count: usize) -> Vec<f64> {
    (0..count)
        .map(|i| {
            let u = ((i * 7_919 + 13) % count) as f64 / count as f64;
            (u * 12.0).exp()
        })
        .collect()
}

fn events(values: &[f64]) -> RecordBatch {
    let rows = values.len();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(arrow::array::Float64Array::from(values.to_vec())),
        Arc::new(Int32Array::from(vec![0; rows])),
        Arc::new(Int64Array::from_iter_values(0..rows as i64)),
        Arc::new(TimestampMicrosecondArray::from(vec![0; rows])),
    ];
    RecordBatch::try_new(stream().events(), columns).unwrap()
}

#[test]
fn approximate_percentiles_stay_within_their_rank_error_for_any_cut() {
    let streams = BTreeMap::from([("s".to_owned(), stream())]);
    let sql = "SELECT approx_percentile_cont(x, 0.01) AS p01, approx_median(x) AS p50, \
               approx_percentile_cont(x, 0.9) AS p90, approx_percentile_cont(x, 0.99) AS p99 FROM s";
    let view = View::compile(sql, &streams).unwrap();
    let all = values(10_007);
    let mut sorted = all.clone();
    sorted.sort_by(f64::total_cmp);
    for batch in [10_007, 1_000, 97] {
        let mut states = Vec::new();
        for part in all.chunks(batch) {
            let run = view
                .accumulate(&events(part), Span::up_to(Default::default()))
                .unwrap();
            states.extend_from_slice(run.states());
        }
        let answer = view.finish(&states).unwrap();
        for (column, wanted) in answer.columns().iter().zip([0.01, 0.5, 0.9, 0.99]) {
            let found = column.as_primitive::<Float64Type>().value(0);
            let rank = sorted.partition_point(|x| *x < found) as f64 / sorted.len() as f64;
            assert!(
                (rank - wanted).abs() <= RANK_ERROR,
                "p{wanted} has rank {rank}, batches of {batch}"
            );
        }
    }
}

#[test]
fn the_state_of_an_approximate_percentile_is_small() {
    let streams = BTreeMap::from([("s".to_owned(), stream())]);
    let view = View::compile(
        "SELECT approx_percentile_cont(x, 0.9) AS p FROM s",
        &streams,
    )
    .unwrap();
    let run = view
        .accumulate(&events(&values(10_007)), Span::up_to(Default::default()))
        .unwrap();
    let [states] = run.states() else {
        panic!("a view without keys has one batch of states")
    };
    let bytes: usize = states
        .columns()
        .iter()
        .map(|c| c.to_data().get_slice_memory_size().unwrap())
        .sum();
    assert!(bytes <= STATE_MAX_BYTES, "{bytes} bytes");
}
