// SPDX-License-Identifier: Apache-2.0
//! The plans as the batch layer and merged reads run them.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use dovetail_view::{View, ViewError};

use crate::draw::Draw;

/// A context with a finite pool, which selects the operators that can spill.
pub(crate) fn bounded(memory_max_bytes: usize) -> Arc<TaskContext> {
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(memory_max_bytes)))
        .build_arc()
        .unwrap();
    let config = SessionConfig::new().with_batch_size(16);
    SessionContext::new_with_config_rt(config, runtime).task_ctx()
}

/// A leaf over batches, partition by partition.
pub(crate) fn leaf(
    schema: arrow::datatypes::SchemaRef,
    partitions: &[Vec<RecordBatch>],
) -> Arc<dyn ExecutionPlan> {
    MemorySourceConfig::try_new_exec(partitions, schema, None).unwrap()
}

/// Computes a generation's rows: accumulate in one to three partitions, merge, sort, to file.
pub(crate) async fn batch_layer(
    view: &View,
    events: &RecordBatch,
    cut: &mut Draw,
) -> Result<Vec<RecordBatch>, ViewError> {
    let partitions = 1 + cut.below(3);
    let rows = events.num_rows().div_ceil(partitions).max(1);
    let parts: Vec<Vec<RecordBatch>> = (0..partitions)
        .map(|p| {
            let from = (p * rows).min(events.num_rows());
            vec![events.slice(from, rows.min(events.num_rows() - from))]
        })
        .collect();
    let leaf = if cut.one_in(2) {
        leaf(view.events_schema(), &parts)
    } else {
        let columns = view.event_columns();
        let projected = parts.iter().map(|batches| {
            let batches = batches.iter().map(|b| b.project(columns).unwrap());
            batches.collect::<Vec<_>>()
        });
        let schema = Arc::new(view.events_schema().project(columns).unwrap());
        self::leaf(schema, &projected.collect::<Vec<_>>())
    };
    let plan = view.accumulate_plan(leaf).unwrap();
    let plan = view.merge_plan(plan).unwrap();
    let plan = view.sort_plan(plan).unwrap();
    assert_eq!(plan.schema(), view.state_schema());
    let states = collect(plan, bounded(64 << 20)).await.unwrap();
    states.iter().map(|s| view.to_file(s)).collect()
}

/// Finishes states whose keys repeat.
pub(crate) async fn serving_layer(
    view: &View,
    states: &[RecordBatch],
) -> Result<RecordBatch, ViewError> {
    let leaf = leaf(view.state_schema(), &[states.to_vec(), vec![]]);
    let plan = view.finish_plan(leaf).unwrap();
    assert_eq!(plan.schema(), view.output_schema());
    let batches = collect(plan, bounded(64 << 20)).await?;
    Ok(concat_batches(&view.output_schema(), &batches).unwrap())
}

/// Merges states and writes them out, and reads the finished columns of the file.
pub(crate) async fn incremental_run(
    view: &View,
    states: &[RecordBatch],
) -> Result<RecordBatch, ViewError> {
    let leaf = leaf(view.state_schema(), &[states.to_vec()]);
    let plan = view.sort_plan(view.merge_plan(leaf).unwrap()).unwrap();
    let merged = collect(plan, bounded(64 << 20)).await.unwrap();
    let merged = concat_batches(&view.state_schema(), &merged).unwrap();
    let file = view.to_file(&merged)?;
    let finished = file.project(view.file_output_columns()).unwrap();
    view.output_of_file(&finished)
}
