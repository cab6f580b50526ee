// SPDX-License-Identifier: Apache-2.0
//! What the batch layer does: plans from events to states, and files.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};
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

/// Computes a generation's rows: from events in one to three partitions to states, to file.
pub(crate) async fn batch_layer(
    view: &View,
    events: &RecordBatch,
    cut: &mut Draw,
) -> Result<Vec<RecordBatch>, ViewError> {
    let events = match cut.one_in(2) {
        true => events.clone(),
        false => in_dictionary_form(view, events)
            .project(view.event_columns())
            .unwrap(),
    };
    let partitions = 1 + cut.below(3);
    let rows = events.num_rows().div_ceil(partitions).max(1);
    let parts: Vec<Vec<RecordBatch>> = (0..partitions)
        .map(|p| {
            let from = (p * rows).min(events.num_rows());
            let part = events.slice(from, rows.min(events.num_rows() - from));
            let middle = cut.below(part.num_rows() + 1);
            let rest = part.num_rows() - middle;
            vec![part.slice(0, middle), part.slice(middle, rest)]
        })
        .collect();
    let plan = view.states_plan(leaf(events.schema(), &parts)).unwrap();
    assert_eq!(plan.schema(), view.state_schema());
    let states = collect(plan, bounded(64 << 20)).await.unwrap();
    states.iter().map(|s| view.to_file(s)).collect()
}

/// Events as a scan of the batch layer gives them.
fn in_dictionary_form(view: &View, events: &RecordBatch) -> RecordBatch {
    let coded = view.coded_columns_in(&events.schema()).unwrap();
    let form = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let (schema, mut columns, _) = events.clone().into_parts();
    let mut fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone()).collect();
    for column in coded {
        columns[column] = cast(&columns[column], &form).unwrap();
        fields[column].set_data_type(form.clone());
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// Merges states and writes them out, and reads the finished columns of the file.
pub(crate) fn incremental_run(
    view: &View,
    states: &[RecordBatch],
) -> Result<RecordBatch, ViewError> {
    let merged = view.merge_states(states).unwrap();
    let file = view.to_file(&merged)?;
    let finished = file.project(view.file_output_columns()).unwrap();
    view.output_of_file(&finished)
}
