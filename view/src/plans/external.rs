// SPDX-License-Identifier: Apache-2.0
//! Sorted states on disk and in memory, merged in bounded memory: what the operators that spill share.
//!
//! Invariants: in a source keys are unique and ascending, so what is left of it behind a piece is above all of the
//! piece. What must be in memory at once is the state of one group of each source, and what merging them makes.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::take_record_batch;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SpillFile, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, LexOrdering};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, SpillMetrics};
use datafusion::physical_plan::{Partitioning, PlanProperties, SpillManager};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use crate::keyed::{KeyedStates, Taken};
use crate::ops::Operators;
use crate::run::SortKey;
use crate::state::bytes_of;

/// Bytes that batches are cut to, where one row is not more.
const PIECE_BYTES: usize = 256 * 1024;
/// Files that are read at once: a process may open so many.
const MAX_SOURCES: usize = 128;

/// States in order, each key once, cut into pieces.
pub(super) type Pieces = BoxStream<'static, Result<RecordBatch>>;

/// What the states of a view are merged and sorted with.
#[derive(Clone)]
pub(super) struct Merging {
    pub(super) operators: Arc<Operators>,
    pub(super) sort_key: Arc<SortKey>,
    pub(super) piece_bytes: usize,
}

impl Merging {
    pub(super) fn new(operators: Arc<Operators>, sort_key: Arc<SortKey>) -> Self {
        Self {
            operators,
            sort_key,
            piece_bytes: PIECE_BYTES,
        }
    }

    /// Of a plan whose output is states in sort-key order, each key once, in one partition. `order` is the sort key's;
    /// none without GROUP BY.
    pub(super) fn output(&self, order: Option<LexOrdering>) -> PlanProperties {
        let schema = Arc::clone(self.operators.state_schema());
        PlanProperties::new(
            EquivalenceProperties::new_with_orderings(schema, order),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        )
    }

    /// States in any order: each key once, in order.
    pub(super) fn merge(&self, states: Vec<RecordBatch>) -> Result<RecordBatch> {
        let reduced = self.operators.reduce(&states)?;
        drop(states);
        Ok(self.sort_key.sort(&reduced)?)
    }

    /// `states` cut into pieces of so many bytes at most, or of one row.
    pub(super) fn pieces(
        &self,
        states: RecordBatch,
    ) -> impl Iterator<Item = Result<RecordBatch>> + Send + use<> {
        let piece_bytes = self.piece_bytes;
        let states_grow = self.operators.states_grow();
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
            Some(match states_grow {
                // A slice of a column of lists keeps all of them in memory.
                true => copy(&states, rows),
                false => Ok(states.slice(rows.start, rows.len())),
            })
        })
    }

    /// Bytes that are taken to hold and to merge states of so many `bytes`.
    pub(super) fn memory(&self, bytes: usize) -> usize {
        bytes * (2 + self.operators.merge_bytes_per_byte())
    }
}

/// Sorted states on disk, each key once.
pub(super) struct Spilled {
    file: Arc<dyn SpillFile>,
    largest_piece_bytes: usize,
}

/// Spills states, and merges what was spilled.
pub(super) struct External {
    pub(super) merging: Merging,
    pub(super) memory: MemoryReservation,
    name: &'static str,
    spills: SpillManager,
}

impl External {
    /// For one partition of the operator `name`.
    pub(super) fn new(
        name: &'static str,
        partition: usize,
        merging: Merging,
        context: &TaskContext,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Self {
        let spills = SpillManager::new(
            context.runtime_env(),
            SpillMetrics::new(metrics, partition),
            Arc::clone(merging.operators.state_schema()),
        );
        let consumer = MemoryConsumer::new(format!("{name}[{partition}]"));
        Self {
            merging,
            memory: consumer
                .with_can_spill(true)
                .register(context.memory_pool()),
            name,
            spills: spills.with_compression_type(context.session_config().spill_compression()),
        }
    }

    /// The pieces of sorted `states`. The memory that is reserved until now is theirs, and free when the last piece is
    /// gone.
    pub(super) fn pieces_of(&mut self, states: RecordBatch) -> Pieces {
        let memory = self.memory.take();
        let pieces = stream::unfold(
            (self.merging.pieces(states), memory),
            |(mut pieces, memory)| async {
                let piece = pieces.next()?;
                Some((piece, (pieces, memory)))
            },
        );
        pieces.boxed()
    }

    /// As [`Self::pieces_of`], of states in any order and the numbers of their rows in order: no more than a piece is
    /// copied.
    pub(super) fn pieces_in_order(&mut self, states: RecordBatch, order: UInt32Array) -> Pieces {
        let memory = self.memory.take();
        let merging = self.merging.clone();
        let rows = states.num_rows();
        let at_once = rows * merging.piece_bytes / bytes_of(&states).max(1);
        let taken = (0..rows)
            .step_by(at_once.max(1))
            .map(move |from| -> Result<RecordBatch> {
                let _held = &memory;
                let part = order.slice(from, at_once.max(1).min(rows - from));
                Ok(take_record_batch(&states, &part)?)
            });
        stream::iter(taken)
            .map_ok(move |states| stream::iter(merging.pieces(states)))
            .try_flatten()
            .boxed()
    }

    /// None if there are no pieces.
    pub(super) async fn spill(&self, mut pieces: Pieces) -> Result<Option<Spilled>> {
        let mut file = self.spills.create_in_progress_file(self.name)?;
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

    /// All of them as one, in as many passes as it takes.
    pub(super) async fn merge_spilled(self, mut spilled: Vec<Spilled>) -> Result<Pieces> {
        loop {
            let merge = self.open(&mut spilled)?;
            if spilled.is_empty() {
                return Ok(merge.into_pieces());
            }
            spilled.extend(self.spill(merge.into_pieces()).await?);
        }
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
            let pieces = self
                .spills
                .read_spill_as_stream_unbuffered(next.file, None)?;
            sources.push(Source::new(pieces.boxed()));
        }
        Ok(Merge {
            merging: self.merging.clone(),
            sources,
            _memory: memory,
        })
    }

    /// Pieces that are in memory as one.
    pub(super) fn merge_held(&self, sources: Vec<Pieces>) -> Result<Pieces> {
        let memory = self.memory.new_empty();
        memory.try_grow(sources.len() * self.merging.memory(self.merging.piece_bytes))?;
        let merge = Merge {
            merging: self.merging.clone(),
            sources: sources.into_iter().map(Source::new).collect(),
            _memory: memory,
        };
        Ok(merge.into_pieces())
    }
}

/// Sorted states that are read piece by piece.
struct Source {
    pieces: Pieces,
    /// What is not taken of the piece that was read last: never empty.
    front: Option<KeyedStates>,
}

impl Source {
    fn new(pieces: Pieces) -> Self {
        Self {
            pieces: pieces.fuse().boxed(),
            front: None,
        }
    }

    /// Reads the next piece if nothing is left of the one before; nothing is left then only at the end.
    async fn load(&mut self, sort_key: &SortKey) -> Result<()> {
        if self.front.is_none()
            && let Some(piece) = self.pieces.try_next().await?
        {
            self.front = Some(KeyedStates::encoded(sort_key, piece)?);
        }
        Ok(())
    }

    fn take_through(&mut self, bound: &[u8]) -> Option<Taken> {
        let front = self.front.as_mut()?;
        let taken = front.take_keyed_through(bound);
        if front.is_empty() {
            self.front = None;
        }
        taken
    }
}

/// Several sources on their way to one.
struct Merge {
    merging: Merging,
    sources: Vec<Source>,
    /// Of the pieces, and of merging them.
    _memory: MemoryReservation,
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
        // Behind what was read of a source is nothing up to this key, in any of them.
        let Some(bound) = fronts.filter_map(|front| front.last_through(None)).min() else {
            return Ok(None);
        };
        let bound = bound.to_vec();
        let taken = self.sources.iter_mut();
        let taken: Vec<Taken> = taken
            .filter_map(|source| source.take_through(&bound))
            .collect();
        Ok(Some(self.merging.operators.merge_sorted(&taken)?))
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
