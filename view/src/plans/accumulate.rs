// SPDX-License-Identifier: Apache-2.0
//! Accumulating a few events at a time, for states that grow with every event.
//!
//! Purpose: DataFusion's partial aggregation keeps such states until its memory is full, and then hands all of them
//! over in one batch, which nobody counts on its way. Of lists nothing is gained by keeping them: here each batch of
//! events becomes a batch of states, about as large, and whoever merges them counts what it takes in.
//! Collaborators: [`Operators`], which accumulate as the speed layer does.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::EmissionType;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use futures::{TryStreamExt, stream};

use super::{Plan, only_child};
use crate::ops::Operators;

/// Events that are accumulated at once. Of values that repeat, as in `count(DISTINCT …)`, the more the better.
const CHUNK_ROWS: usize = 64 * 1024;
/// Bytes of events that are accumulated at once.
const CHUNK_BYTES: usize = 1024 * 1024;

/// States of events, partition by partition; keys may repeat.
pub(super) struct AccumulateExec {
    /// The columns that are read, in the order in which [`Operators::accumulate`] expects them.
    events: Plan,
    operators: Arc<Operators>,
    properties: Arc<PlanProperties>,
}

impl AccumulateExec {
    pub(super) fn new(events: Plan, operators: Arc<Operators>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(operators.state_schema())),
            events.output_partitioning().clone(),
            EmissionType::Incremental,
            events.boundedness(),
        );
        Self {
            events,
            operators,
            properties: Arc::new(properties),
        }
    }
}

/// The next events, in one batch; None at the end.
async fn next_chunk(events: &mut SendableRecordBatchStream) -> Result<Option<RecordBatch>> {
    let mut chunk = Vec::new();
    let (mut rows, mut bytes) = (0, 0);
    while rows < CHUNK_ROWS && bytes < CHUNK_BYTES {
        let Some(batch) = events.try_next().await? else {
            break;
        };
        rows += batch.num_rows();
        bytes += batch.get_array_memory_size();
        chunk.push(batch);
    }
    if chunk.is_empty() {
        return Ok(None);
    }
    Ok(Some(concat_batches(&events.schema(), &chunk)?))
}

impl fmt::Debug for AccumulateExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccumulateExec")
            .field("events", &self.events)
            .finish_non_exhaustive()
    }
}

impl DisplayAs for AccumulateExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccumulateExec")
    }
}

impl ExecutionPlan for AccumulateExec {
    fn name(&self) -> &str {
        "AccumulateExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Plan> {
        vec![&self.events]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Plan>) -> Result<Plan> {
        let events = only_child(self.name(), children)?;
        Ok(Arc::new(Self::new(events, Arc::clone(&self.operators))))
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let events = self.events.execute(partition, context)?;
        let operators = Arc::clone(&self.operators);
        let states = stream::try_unfold(events, move |mut events| {
            let operators = Arc::clone(&operators);
            async move {
                let Some(chunk) = next_chunk(&mut events).await? else {
                    return Ok(None);
                };
                let states = operators.accumulate(chunk)?;
                Ok(Some((states, events)))
            }
        });
        let schema: SchemaRef = self.schema();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, states)))
    }
}
