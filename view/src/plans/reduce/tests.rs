// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeMap;

use arrow::array::{ArrayRef, Int32Array, Int64Array, TimestampMicrosecondArray};
use arrow::compute::concat_batches;
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::collect;
use datafusion::prelude::{SessionConfig, SessionContext};
use dovetail_model::{Column, ColumnType, StreamSchema, UnknownColumns};
use proptest::prelude::*;

use super::*;
use crate::compile::compile;
use crate::state::Layout;

const BY_KEY: &str = "SELECT k, array_agg(x ORDER BY x DESC) AS all_of_them, median(x) AS middle, \
     count(DISTINCT x) AS different, count(*) AS n FROM s GROUP BY k";
const OF_ALL: &str = "SELECT array_agg(x ORDER BY x) AS all_of_them, count(*) AS n FROM s";

type Event = (i64, i64);

fn stream() -> StreamSchema {
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

fn merging(sql: &str, piece_bytes: usize) -> (Merging, Option<LexOrdering>, Vec<usize>) {
    let parts = compile(sql, &BTreeMap::from([("s".to_owned(), stream())])).unwrap();
    let layout = Layout::new(&parts).unwrap();
    let operators = Arc::new(Operators::new(&parts, layout.state).unwrap());
    let sort_key = Arc::new(SortKey::new(&parts.keys, parts.time_key).unwrap());
    assert!(operators.states_grow());
    let plans = super::super::Plans::new(&parts, Arc::clone(&operators), Arc::clone(&sort_key));
    let merging = Merging {
        operators,
        sort_key,
        piece_bytes,
    };
    (merging, plans.sort_order(), parts.event_columns)
}

/// Events with offsets from `first` on.
fn events(events: &[Event], first: usize) -> RecordBatch {
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

/// What one run of the plan did.
struct Outcome {
    states: Result<Vec<RecordBatch>>,
    spills: usize,
    /// Bytes of memory that are still reserved behind it.
    left: usize,
}

async fn reduce(
    merging: &Merging,
    order: Option<LexOrdering>,
    batches: &[RecordBatch],
    memory_bytes: usize,
) -> Outcome {
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(memory_bytes)))
        .build_arc()
        .unwrap();
    let schema = Arc::clone(merging.operators.state_schema());
    let states = MemorySourceConfig::try_new_exec(&[batches.to_vec()], schema, None).unwrap();
    let plan: Plan = Arc::new(ReduceExec::new(states, merging.clone(), order));
    let task = SessionContext::new_with_config_rt(SessionConfig::new(), Arc::clone(&runtime));
    let states = collect(Arc::clone(&plan), task.task_ctx()).await;
    Outcome {
        states,
        spills: plan.metrics().and_then(|m| m.spill_count()).unwrap_or(0),
        left: runtime.memory_pool.reserved(),
    }
}

/// The largest of the rows, in bytes.
fn largest_row(states: &RecordBatch) -> usize {
    let rows = 0..states.num_rows();
    rows.map(|row| bytes_of(&states.slice(row, 1)))
        .max()
        .unwrap_or(0)
}

fn check(sql: &str, batches: &[Vec<Event>], piece_bytes: usize, memory_part: f64) -> usize {
    let (merging, order, read) = merging(sql, piece_bytes);
    let mut first = 0;
    let mut states = Vec::new();
    for batch in batches {
        let events = events(batch, first).project(&read).unwrap();
        first += batch.len();
        states.push(merging.operators.accumulate(events).unwrap());
    }
    let whole = merging.merge(states.clone()).unwrap();
    // With this much it must come through: one batch, or a piece of two files.
    let batch = states.iter().map(bytes_of).max().unwrap_or(0);
    let enough = merging.memory(batch.max(2 * piece_bytes.max(largest_row(&whole))));
    let memory_bytes = (enough as f64 * memory_part) as usize;

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let outcome = runtime.block_on(reduce(&merging, order, &states, memory_bytes));
    assert_eq!(outcome.left, 0, "all memory is given back");
    match outcome.states {
        Ok(found) => {
            assert!(found.iter().all(|batch| batch.num_rows() > 0));
            let small =
                |batch: &RecordBatch| batch.num_rows() == 1 || bytes_of(batch) <= piece_bytes;
            assert!(found.iter().all(small));
            let found = concat_batches(merging.operators.state_schema(), &found).unwrap();
            let finish = |states| merging.operators.finish_unique(states).unwrap();
            assert_eq!(finish(&found), finish(&whole));
        }
        Err(error) => {
            let root = error.find_root();
            assert!(
                matches!(root, DataFusionError::ResourcesExhausted(_)),
                "{error}"
            );
            assert!(memory_part < 1.0, "{error}");
        }
    }
    outcome.spills
}

fn batches() -> impl Strategy<Value = Vec<Vec<Event>>> {
    let few_keys = (0..3_i64, 0..1000_i64);
    let many_keys = (0..500_i64, 0..10_i64);
    let event = prop_oneof![few_keys, many_keys];
    let batch = proptest::collection::vec(event, 1..50);
    proptest::collection::vec(batch, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// However little memory there is: the answer of a merge in memory, or an error that says it was too little.
    #[test]
    fn states_are_merged_in_any_memory_or_it_is_said_that_it_was_too_little(
        batches in batches(),
        piece_bytes in prop_oneof![Just(1_usize), Just(500), Just(20_000)],
        memory_part in prop_oneof![Just(0.5), Just(1.0), Just(3.0)],
        of_all in proptest::bool::weighted(0.1),
    ) {
        let sql = if of_all { OF_ALL } else { BY_KEY };
        check(sql, &batches, piece_bytes, memory_part);
    }
}

#[test]
fn many_files_are_merged_in_several_passes() {
    let batch = |first: i64| (0..200).map(|i| ((first + i) % 317, i)).collect::<Vec<_>>();
    let batches: Vec<_> = (0..120).map(|index| batch(index * 31)).collect();
    let spills = check(BY_KEY, &batches, 400, 1.0);
    // More than there would be if each were written once.
    assert!(spills > 120, "{spills}");
}
