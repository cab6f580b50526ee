// SPDX-License-Identifier: Apache-2.0
//! What the tests of the operators share: events of two numbers, views of them, and memory that is little.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::concat_batches;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_plan::collect;
use datafusion::prelude::{SessionConfig, SessionContext};
use dovetail_model::{Column, ColumnType, StreamSchema, UnknownColumns};
use proptest::prelude::*;

use super::external::Merging;
use super::{Plan, Plans};
use crate::compile::compile;
use crate::ops::Operators;
use crate::run::SortKey;
use crate::state::{Layout, bytes_of};

pub(super) type Event = (i64, i64);

pub(super) fn stream() -> StreamSchema {
    let column = |name: &str| Column {
        name: name.to_owned(),
        column_type: ColumnType::BigInt,
        nullable: false,
    };
    StreamSchema {
        columns: vec![column("k"), column("x")],
        event_time: None,
        unknown_columns: UnknownColumns::Ignore,
    }
}

/// How the states of a view of `s` are merged, their order, and the columns that it reads.
pub(super) fn merging(sql: &str, piece_bytes: usize) -> (Merging, Option<LexOrdering>, Vec<usize>) {
    let parts = compile(sql, &BTreeMap::from([("s".to_owned(), stream())])).unwrap();
    let layout = Layout::new(&parts).unwrap();
    let operators = Arc::new(Operators::new(&parts, layout.state).unwrap());
    let sort_key = Arc::new(SortKey::new(&parts.keys, parts.time_key).unwrap());
    let plans = Plans::new(&parts, Arc::clone(&operators), Arc::clone(&sort_key)).unwrap();
    let merging = Merging {
        operators,
        sort_key,
        piece_bytes,
    };
    (merging, plans.sort_order(), parts.event_columns)
}

/// Events with offsets from `first` on.
pub(super) fn events(events: &[Event], first: usize) -> RecordBatch {
    let rows = events.len();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(events.iter().map(|e| e.0))),
        Arc::new(Int64Array::from_iter_values(events.iter().map(|e| e.1))),
        Arc::new(Int32Array::from(vec![0; rows])),
        Arc::new(Int64Array::from_iter_values(
            (first..first + rows).map(|offset| offset as i64),
        )),
        Arc::new(TimestampMicrosecondArray::from(vec![0; rows])),
    ];
    RecordBatch::try_new(stream().events(), columns).unwrap()
}

/// Batches of events; in some, many are of few keys, in others few of each of many.
pub(super) fn batches() -> impl Strategy<Value = Vec<Vec<Event>>> {
    let few_keys = (0..3_i64, 0..1000_i64);
    let many_keys = (0..500_i64, 0..10_i64);
    let event = prop_oneof![few_keys, many_keys];
    let batch = proptest::collection::vec(event, 1..50);
    proptest::collection::vec(batch, 0..40)
}

/// What one run of a plan did.
pub(super) struct Outcome {
    pub(super) states: Result<Vec<RecordBatch>>,
    pub(super) spills: usize,
    /// Bytes of memory that are still reserved behind it.
    pub(super) left: usize,
}

pub(super) async fn run(plan: Plan, memory_bytes: usize) -> Outcome {
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(memory_bytes)))
        .build_arc()
        .unwrap();
    let task = SessionContext::new_with_config_rt(SessionConfig::new(), Arc::clone(&runtime));
    let states = collect(Arc::clone(&plan), task.task_ctx()).await;
    Outcome {
        states,
        spills: plan.metrics().and_then(|m| m.spill_count()).unwrap_or(0),
        left: runtime.memory_pool.reserved(),
    }
}

/// The states are `whole`, in pieces; or the plan says that there was too little memory, which may be so only where
/// there was not `enough`.
pub(super) fn check(merging: &Merging, outcome: &Outcome, whole: &RecordBatch, enough: bool) {
    assert_eq!(outcome.left, 0, "all memory is given back");
    match &outcome.states {
        Ok(found) => {
            assert!(found.iter().all(|batch| batch.num_rows() > 0));
            let small = |batch: &RecordBatch| {
                batch.num_rows() == 1 || bytes_of(batch) <= merging.piece_bytes
            };
            assert!(found.iter().all(small));
            let found = concat_batches(merging.operators.state_schema(), found).unwrap();
            let finish = |states| merging.operators.finish_unique(states).unwrap();
            assert_eq!(finish(&found), finish(whole));
        }
        Err(error) => {
            let root = error.find_root();
            assert!(
                matches!(root, DataFusionError::ResourcesExhausted(_)),
                "{error}"
            );
            assert!(!enough, "{error}");
        }
    }
}

/// The largest of the rows, in bytes.
pub(super) fn largest_row(states: &RecordBatch) -> usize {
    let rows = 0..states.num_rows();
    rows.map(|row| bytes_of(&states.slice(row, 1)))
        .max()
        .unwrap_or(0)
}
