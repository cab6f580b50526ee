// SPDX-License-Identifier: Apache-2.0
//! From events to sorted states, for states that do not grow: a table of groups for each partition, merged in order.
//!
//! ```text
//!   events[0] ─► table ─ sorted ─┐
//!   events[1] ─► table ─ sorted ─┴─ merged piece by piece ──► states, each key once, in order
//!                  └ when memory is full: sorted, spilled, begun anew
//! ```
//!
//! Purpose: what DataFusion does with a partial aggregation, an exchange by hash, a second aggregation and a sort. Here
//! a row is hashed once, by the codes of its keys, nothing is sent from one core to another before it is a group, and
//! merging runs ahead of whoever writes. Invariants: each partition has a task of its own, which ends when the output
//! is dropped. A table is one batch of events larger than its reservation at most.

use std::fmt;
use std::mem::replace;
use std::sync::Arc;

use arrow::array::Array as _;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{LexOrdering, PhysicalExpr};
use datafusion::physical_plan::common::spawn_buffered;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use futures::TryStreamExt;
use futures::future::try_join_all;

use super::external::{External, Merging, Pieces, Spilled};
use super::{Plan, only_child};
use crate::ops::Table;

/// Memory of a table while its states are put in order: the table itself, and about as much for their keys and the order.
const COPIES: usize = 2;
const NAME: &str = "GroupExec";
/// Batches of events that are read ahead: while one partition waits for its store, there is work for its core.
const READ_AHEAD: usize = 4;
/// Pieces that are merged ahead of whoever takes them.
const AHEAD: usize = 4;

/// States in sort-key order, each key once, in one partition.
pub(super) struct GroupExec {
    /// The columns that are read, in the order in which [`Operators::take_in`](crate::ops::Operators::take_in) expects
    /// them.
    events: Plan,
    merging: Merging,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl GroupExec {
    /// `order` is the sort key's; none without GROUP BY.
    pub(super) fn new(events: Plan, merging: Merging, order: Option<LexOrdering>) -> Self {
        let properties = merging.output(order);
        Self {
            events,
            merging,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

/// One partition's groups, in order.
struct Grouped {
    held: Pieces,
    spilled: Vec<Spilled>,
}

/// The groups of one partition.
async fn group(mut external: External, mut events: SendableRecordBatchStream) -> Result<Grouped> {
    let operators = Arc::clone(&external.merging.operators);
    let mut table = operators.events_table()?;
    let mut spilled = Vec::new();
    while let Some(batch) = events.try_next().await? {
        operators.take_in(&mut table, batch)?;
        if external.memory.try_resize(COPIES * table.bytes()).is_err() {
            let full = replace(&mut table, operators.events_table()?);
            let pieces = in_order(&mut external, full)?;
            spilled.extend(external.spill(pieces).await?);
        }
    }
    drop(events);
    Ok(Grouped {
        held: in_order(&mut external, table)?,
        spilled,
    })
}

/// The states of a table that is full or at its end, with the memory that is reserved for it.
fn in_order(external: &mut External, table: Table) -> Result<Pieces> {
    let states = external.merging.operators.states_of(table)?;
    let order = external.merging.sort_key.sorted_rows(&states)?;
    let held = states.get_array_memory_size() + order.get_array_memory_size();
    // Most tables were larger.
    external.memory.resize(held.min(external.memory.size()));
    Ok(external.pieces_in_order(states, order))
}

/// The groups of all partitions as one. `external` gives what merges them: a share of the memory is set aside for each
/// that there is.
async fn merged(
    external: impl FnOnce() -> External,
    partitions: Vec<SpawnedTask<Result<Grouped>>>,
) -> Result<Pieces> {
    // The first that fails ends the others.
    let grouped = try_join_all(partitions.into_iter().map(|partition| async {
        let joined = partition.join().await;
        joined.map_err(|error| DataFusionError::ExecutionJoin(Box::new(error)))?
    }));
    let mut held = Vec::new();
    let mut spilled = Vec::new();
    for mut grouped in grouped.await? {
        spilled.append(&mut grouped.spilled);
        held.push(grouped.held);
    }
    if spilled.is_empty() && held.len() == 1 {
        return Ok(held.remove(0));
    }
    let external = external();
    if spilled.is_empty() {
        return external.merge_held(held);
    }
    for pieces in held {
        spilled.extend(external.spill(pieces).await?);
    }
    external.merge_spilled(spilled).await
}

impl fmt::Debug for GroupExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupExec")
            .field("events", &self.events)
            .finish_non_exhaustive()
    }
}

impl DisplayAs for GroupExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl ExecutionPlan for GroupExec {
    fn name(&self) -> &str {
        NAME
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Plan> {
        vec![&self.events]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Plan>) -> Result<Plan> {
        let events = only_child(self.name(), children)?;
        let order = self.properties.output_ordering().cloned();
        Ok(Arc::new(Self::new(events, self.merging.clone(), order)))
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let partitions = self.events.output_partitioning().partition_count();
        let (merging, metrics) = (self.merging.clone(), self.metrics.clone());
        let of = Arc::clone(&context);
        let external =
            move |partition| External::new(NAME, partition, merging.clone(), &of, &metrics);
        let tasks: Result<Vec<_>> = (0..partitions)
            .map(|partition| {
                let events = self.events.execute(partition, Arc::clone(&context))?;
                let events = spawn_buffered(events, READ_AHEAD);
                Ok(SpawnedTask::spawn(group(external(partition), events)))
            })
            .collect();
        let merged = merged(move || external(partitions), tasks?);
        let mut output = RecordBatchReceiverStream::builder(self.schema(), AHEAD);
        let to = output.tx();
        output.spawn(async move {
            let mut pieces = merged.await?;
            while let Some(piece) = pieces.try_next().await? {
                if to.send(Ok(piece)).await.is_err() {
                    // Nobody takes them any more.
                    break;
                }
            }
            Ok(())
        });
        Ok(output.build())
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

#[cfg(test)]
mod tests;
