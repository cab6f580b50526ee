// SPDX-License-Identifier: Apache-2.0
//! Merging states that grow, in bounded memory: an external merge sort in which equal keys become one.
//!
//! ```text
//!   states ── held until the memory is full ── reduced, sorted ── spilled in pieces ─┐  as often as
//!   states ── …                                                                      ├─ it takes
//!                 of each file one piece ◄───────────────────────────────────────────┘
//!                 all rows up to the least of the last keys ── reduced, sorted ──► states, each key once
//! ```
//!
//! Purpose: DataFusion's aggregation and sort count rows where they cut batches and merge what they spilled. Of states
//! as large as these, a few rows are more than the memory; here everything is cut and counted by bytes.
//! Invariants: memory beyond the reservation is one batch of the input. Collaborators:
//! [`AccumulateExec`](super::accumulate::AccumulateExec), whose batches are small, and [`External`].

use std::fmt;
use std::mem::take;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{LexOrdering, PhysicalExpr};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{TryStreamExt, stream};

use super::external::{External, Merging, Pieces};
use super::{Plan, only_child};
use crate::state::bytes_of;

/// States in sort-key order, each key once, in one partition.
pub(super) struct ReduceExec {
    /// In one partition.
    states: Plan,
    merging: Merging,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl ReduceExec {
    /// `order` is the sort key's; none without GROUP BY.
    pub(super) fn new(states: Plan, merging: Merging, order: Option<LexOrdering>) -> Self {
        let properties = merging.output(order);
        Self {
            states,
            merging,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

async fn reduce(mut external: External, mut states: SendableRecordBatchStream) -> Result<Pieces> {
    let mut held = Vec::new();
    let mut spilled = Vec::new();
    while let Some(batch) = states.try_next().await? {
        let bytes = external.merging.memory(bytes_of(&batch));
        if let Err(full) = external.memory.try_grow(bytes) {
            if held.is_empty() {
                return Err(full);
            }
            let merged = external.merging.merge(take(&mut held))?;
            let pieces = external.pieces_of(merged);
            spilled.extend(external.spill(pieces).await?);
            external.memory.try_grow(bytes)?;
        }
        held.push(batch);
    }
    drop(states);
    let merged = external.merging.merge(held)?;
    let pieces = external.pieces_of(merged);
    if spilled.is_empty() {
        return Ok(pieces);
    }
    spilled.extend(external.spill(pieces).await?);
    external.merge_spilled(spilled).await
}

impl fmt::Debug for ReduceExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReduceExec")
            .field("states", &self.states)
            .finish_non_exhaustive()
    }
}

impl DisplayAs for ReduceExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReduceExec")
    }
}

impl ExecutionPlan for ReduceExec {
    fn name(&self) -> &str {
        "ReduceExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Plan> {
        vec![&self.states]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Plan>) -> Result<Plan> {
        let states = only_child(self.name(), children)?;
        let order = self.properties.output_ordering().cloned();
        Ok(Arc::new(Self::new(states, self.merging.clone(), order)))
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
        let merging = self.merging.clone();
        let external = External::new("ReduceExec", partition, merging, &context, &self.metrics);
        let states = self.states.execute(partition, context)?;
        let pieces = stream::once(reduce(external, states)).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            pieces,
        )))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

#[cfg(test)]
mod tests;
