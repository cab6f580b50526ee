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
//! Invariants: in a file keys are unique and ascending, so what is left of it behind a piece is above all of the piece.
//! Memory beyond the reservation is one batch of the input. What must be in memory at once is the state of one group.
//! Collaborators: [`AccumulateExec`](super::accumulate::AccumulateExec), whose batches are small.

use std::cmp::Reverse;
use std::fmt;
use std::mem::take;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt64Array};
use arrow::compute::take_record_batch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, SpillFile, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, LexOrdering, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet, SpillMetrics};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, SpillManager,
};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use super::{Plan, only_child};
use crate::keyed::KeyedStates;
use crate::ops::Operators;
use crate::run::SortKey;
use crate::state::bytes_of;

/// Bytes that batches are cut to, where one row is not more.
const PIECE_BYTES: usize = 256 * 1024;
/// Files that are read at once: a process may open so many.
const MAX_SOURCES: usize = 128;

/// What the states of a view are merged and sorted with.
#[derive(Clone)]
pub(super) struct Merging {
    operators: Arc<Operators>,
    sort_key: Arc<SortKey>,
    piece_bytes: usize,
}

impl Merging {
    pub(super) fn new(operators: Arc<Operators>, sort_key: Arc<SortKey>) -> Self {
        Self {
            operators,
            sort_key,
            piece_bytes: PIECE_BYTES,
        }
    }

    /// Each key once, in order.
    fn merge(&self, states: Vec<RecordBatch>) -> Result<RecordBatch> {
        let reduced = self.operators.reduce(&states)?;
        drop(states);
        Ok(self.sort_key.sort(&reduced)?)
    }

    /// `states` cut into pieces of so many bytes at most, or of one row. They are copies: a slice of a column of lists
    /// keeps all of them in memory.
    fn pieces(
        &self,
        states: RecordBatch,
    ) -> impl Iterator<Item = Result<RecordBatch>> + Send + use<> {
        let piece_bytes = self.piece_bytes;
        let whole = 0..states.num_rows();
        // The last one comes first.
        let mut ranges = vec![whole];
        std::iter::from_fn(move || {
            let mut rows = ranges.pop().filter(|rows| !rows.is_empty())?;
            while rows.len() > 1 && bytes_of(&states.slice(rows.start, rows.len())) > piece_bytes {
                let middle = rows.start.midpoint(rows.end);
                ranges.push(middle..rows.end);
                rows.end = middle;
            }
            Some(copy(&states, rows))
        })
    }

    /// Bytes that are taken to hold and to merge states of so many `bytes`.
    fn memory(&self, bytes: usize) -> usize {
        bytes * (2 + self.operators.merge_bytes_per_byte())
    }
}

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
        let schema = merging.operators.state_schema();
        let properties = PlanProperties::new(
            EquivalenceProperties::new_with_orderings(Arc::clone(schema), order),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self {
            states,
            merging,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

/// An execution of [`ReduceExec`].
struct Reducer {
    merging: Merging,
    memory: MemoryReservation,
    spills: SpillManager,
}

/// Sorted states on disk, each key once.
struct Spilled {
    file: Arc<dyn SpillFile>,
    largest_piece_bytes: usize,
}

/// Sorted states on disk that are read piece by piece.
struct Source {
    pieces: SendableRecordBatchStream,
    /// What is not taken of the piece that was read last: never empty.
    front: Option<KeyedStates>,
}

/// Several sources on their way to one.
struct Merge {
    merging: Merging,
    sources: Vec<Source>,
    /// Of the pieces, and of merging them.
    _memory: MemoryReservation,
}

/// States in order, each key once, cut into pieces.
type Pieces = BoxStream<'static, Result<RecordBatch>>;

impl Reducer {
    async fn reduce(mut self, mut states: SendableRecordBatchStream) -> Result<Pieces> {
        let mut held = Vec::new();
        let mut spilled = Vec::new();
        while let Some(batch) = states.try_next().await? {
            let bytes = self.merging.memory(bytes_of(&batch));
            if let Err(full) = self.memory.try_grow(bytes) {
                if held.is_empty() {
                    return Err(full);
                }
                let pieces = self.merge_held(take(&mut held))?;
                spilled.extend(self.spill(pieces).await?);
                self.memory.try_grow(bytes)?;
            }
            held.push(batch);
        }
        drop(states);
        let pieces = self.merge_held(held)?;
        if spilled.is_empty() {
            return Ok(pieces);
        }
        spilled.extend(self.spill(pieces).await?);
        loop {
            let merge = self.open(&mut spilled)?;
            if spilled.is_empty() {
                return Ok(merge.into_pieces());
            }
            spilled.extend(self.spill(merge.into_pieces()).await?);
        }
    }

    /// What was held until now. Its memory is free when the last piece is gone.
    fn merge_held(&mut self, held: Vec<RecordBatch>) -> Result<Pieces> {
        let memory = self.memory.take();
        let merged = self.merging.merge(held)?;
        let pieces = stream::unfold(
            (self.merging.pieces(merged), memory),
            |(mut pieces, memory)| async {
                let piece = pieces.next()?;
                Some((piece, (pieces, memory)))
            },
        );
        Ok(pieces.boxed())
    }

    /// None if there are no pieces.
    async fn spill(&self, mut pieces: Pieces) -> Result<Option<Spilled>> {
        let mut file = self.spills.create_in_progress_file("ReduceExec")?;
        let mut largest_piece_bytes = 0;
        while let Some(piece) = pieces.try_next().await? {
            largest_piece_bytes = largest_piece_bytes.max(bytes_of(&piece));
            file.append_batch(&piece)?;
        }
        Ok(file.finish()?.map(|file| Spilled {
            file,
            largest_piece_bytes,
        }))
    }

    /// Opens as many as there is memory for, those of small pieces first: two at least.
    fn open(&self, spilled: &mut Vec<Spilled>) -> Result<Merge> {
        spilled.sort_by_key(|file| Reverse(file.largest_piece_bytes));
        let memory = self.memory.new_empty();
        let mut sources = Vec::new();
        while sources.len() < MAX_SOURCES
            && let Some(next) = spilled.pop()
        {
            if let Err(full) = memory.try_grow(self.merging.memory(next.largest_piece_bytes)) {
                if sources.len() < 2 {
                    return Err(full);
                }
                spilled.push(next);
                break;
            }
            sources.push(Source {
                pieces: self
                    .spills
                    .read_spill_as_stream_unbuffered(next.file, None)?,
                front: None,
            });
        }
        Ok(Merge {
            merging: self.merging.clone(),
            sources,
            _memory: memory,
        })
    }
}

impl Source {
    /// Reads the next piece if nothing is left of the one before; nothing is left then only at the end.
    async fn load(&mut self, sort_key: &SortKey) -> Result<()> {
        if self.front.is_none()
            && let Some(piece) = self.pieces.try_next().await?
        {
            self.front = Some(KeyedStates::encoded(sort_key, piece)?);
        }
        Ok(())
    }

    fn take_through(&mut self, bound: &[u8]) -> Option<RecordBatch> {
        let front = self.front.as_mut()?;
        let taken = front.take_through(bound);
        if front.is_empty() {
            self.front = None;
        }
        taken
    }
}

impl Merge {
    /// The states that are merged next; None at the end.
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        for source in &mut self.sources {
            source.load(&self.merging.sort_key).await?;
        }
        let fronts = self
            .sources
            .iter()
            .filter_map(|source| source.front.as_ref());
        // Behind what was read of a file is nothing up to this key, in any of them.
        let Some(bound) = fronts.filter_map(|front| front.last_through(None)).min() else {
            return Ok(None);
        };
        let bound = bound.to_vec();
        let taken = self.sources.iter_mut();
        let taken = taken
            .filter_map(|source| source.take_through(&bound))
            .collect();
        self.merging.merge(taken).map(Some)
    }

    fn into_pieces(self) -> Pieces {
        let merging = self.merging.clone();
        let merged = stream::try_unfold(self, |mut merge| async move {
            let next = merge.next().await;
            next.map(|states| states.map(|states| (states, merge)))
        });
        merged
            .map_ok(move |states| stream::iter(merging.pieces(states)))
            .try_flatten()
            .boxed()
    }
}

fn copy(states: &RecordBatch, rows: Range<usize>) -> Result<RecordBatch> {
    if rows.len() == states.num_rows() {
        return Ok(states.clone());
    }
    let rows = UInt64Array::from_iter_values(rows.map(|row| row as u64));
    Ok(take_record_batch(states, &rows)?)
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
        let consumer = MemoryConsumer::new(format!("ReduceExec[{partition}]"));
        let spills = SpillManager::new(
            context.runtime_env(),
            SpillMetrics::new(&self.metrics, partition),
            self.schema(),
        );
        let reducer = Reducer {
            merging: self.merging.clone(),
            memory: consumer
                .with_can_spill(true)
                .register(context.memory_pool()),
            spills: spills.with_compression_type(context.session_config().spill_compression()),
        };
        let states = self.states.execute(partition, context)?;
        let pieces = stream::once(reducer.reduce(states)).try_flatten();
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
