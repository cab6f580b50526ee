// SPDX-License-Identifier: Apache-2.0
//! The plan on inputs that fit in its memory and on others: then it spills, and the answer is the same.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::Int64Type;
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use dovetail_model::{Column, ColumnType, StreamSchema, UnknownColumns};
use dovetail_view::View;

fn stream() -> StreamSchema {
    let column = |name: &str, column_type| Column {
        name: name.to_owned(),
        column_type,
        nullable: false,
    };
    StreamSchema {
        columns: vec![
            column("id", ColumnType::BigInt),
            column("name", ColumnType::Varchar),
        ],
        event_time: None,
        unknown_columns: UnknownColumns::Ignore,
    }
}

fn view() -> View {
    let sql = "SELECT id, count(*) AS n, avg(_offset) AS at, max(name) AS name FROM s GROUP BY id";
    View::compile(sql, &BTreeMap::from([("s".to_owned(), stream())])).unwrap()
}

/// Events with the given ids.
fn events(ids: std::ops::Range<i64>) -> RecordBatch {
    let rows = (ids.end - ids.start) as usize;
    let names = ids
        .clone()
        .map(|id| format!("a name that takes some room, number {id}"));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(ids.clone())),
        Arc::new(StringArray::from_iter_values(names)),
        Arc::new(Int32Array::from(vec![0; rows])),
        Arc::new(Int64Array::from_iter_values(ids)),
        Arc::new(TimestampMicrosecondArray::from(vec![0; rows])),
    ];
    RecordBatch::try_new(stream().events(), columns).unwrap()
}

/// Ids `0..ids` twice, batch by batch, in two partitions with the same ids.
fn twice(ids: i64) -> Arc<dyn ExecutionPlan> {
    let batches: Vec<RecordBatch> = (0..ids)
        .step_by(8192)
        .map(|from| events(from..(from + 8192).min(ids)))
        .collect();
    MemorySourceConfig::try_new_exec(&[batches.clone(), batches], stream().events(), None).unwrap()
}

fn context(memory_max_bytes: usize) -> Arc<TaskContext> {
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(memory_max_bytes)))
        .build_arc()
        .unwrap();
    let config = SessionConfig::new();
    SessionContext::new_with_config_rt(config, runtime).task_ctx()
}

fn spills(plan: &Arc<dyn ExecutionPlan>) -> usize {
    let own = plan.metrics().and_then(|m| m.spill_count()).unwrap_or(0);
    own + plan.children().into_iter().map(spills).sum::<usize>()
}

fn ids(batches: &[RecordBatch]) -> Vec<i64> {
    let columns = batches.iter().map(|b| b.column_by_name("id").unwrap());
    columns
        .flat_map(|c| c.as_primitive::<Int64Type>().values().to_vec())
        .collect()
}

#[tokio::test]
async fn groups_of_several_partitions_are_each_there_once_and_in_order() {
    let view = view();
    let rows = 20_000;
    let plan = view.states_plan(twice(rows)).unwrap();
    let states = collect(Arc::clone(&plan), context(1 << 30)).await.unwrap();
    assert_eq!(spills(&plan), 0);
    check(&view, &states, rows);
}

#[tokio::test]
async fn a_small_pool_makes_groups_spill_and_loses_nothing() {
    let view = view();
    let rows = 100_000;
    let plan = view.states_plan(twice(rows)).unwrap();
    let states = collect(Arc::clone(&plan), context(18 << 20)).await.unwrap();
    assert!(
        spills(&plan) > 0,
        "the pool is too large to make anything spill"
    );
    check(&view, &states, rows);
}

/// `states` are those of ids `0..rows` twice.
fn check(view: &View, states: &[RecordBatch], rows: i64) {
    assert!(
        ids(states).into_iter().eq(0..rows),
        "sorted, unique, complete"
    );
    for states in states {
        let answer = view.finish_unique(states).unwrap();
        let counts = answer
            .column_by_name("n")
            .unwrap()
            .as_primitive::<Int64Type>();
        assert!(counts.values().iter().all(|n| *n == 2) && counts.null_count() == 0);
    }
}
