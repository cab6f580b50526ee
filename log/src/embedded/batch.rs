// SPDX-License-Identifier: Apache-2.0
//! From appends to batches: which share one, and which offsets they get.

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use arrow::error::ArrowError;
use dovetail_model::{OFFSET, Offset, Position, Span};

use super::ONLY_PARTITION;
use super::frame::{AppendMeta, BatchMeta};
use super::keys::{BodyHash, KeyHash};
use super::payload::{Shape, with_system_columns};
use crate::event::in_schema;
use crate::{CommittedBatch, DeadLetter};

/// Rows that small appends are gathered to; an append of at least half of it stands alone, uncopied.
const GATHERED_ROWS: usize = 8192;
/// Bytes that small appends are gathered to.
const GATHERED_BYTES: usize = 1 << 20;

/// An append on its way into a batch.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) events: RecordBatch,
    /// About how much memory the events and dead letters take.
    pub(super) bytes: usize,
    pub(super) dead_letters: Vec<DeadLetter>,
    pub(super) key: Option<(KeyHash, BodyHash)>,
    pub(super) replayed: Vec<Offset>,
}

/// A batch before its commit.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) first: Offset,
    pub(super) meta: BatchMeta,
    /// Declared columns, for the frame.
    pub(super) declared: RecordBatch,
    /// With the system columns, for the sink. Shares the arrays.
    pub(super) events: RecordBatch,
}

impl Packed {
    /// Offset behind the batch.
    pub(super) fn next(&self) -> Offset {
        Offset(self.first.0 + self.meta.offsets())
    }
}

/// Packs appends into batches, in order, from offset `first` on. Neighbours that are small share a batch,
/// so that a thousand requests of one event make one micro-batch; an append is never split, so the edge of
/// a batch is always the edge of an append.
pub(super) fn pack(
    entries: Vec<Entry>,
    first: Offset,
    arrived_at_us: i64,
    shape: &Shape,
) -> Result<Vec<Packed>, ArrowError> {
    let mut packed = Vec::new();
    let mut next = first;
    for entries in gather(entries) {
        let batch = pack_one(entries, next, arrived_at_us, shape)?;
        next = batch.next();
        packed.push(batch);
    }
    Ok(packed)
}

fn gather(entries: Vec<Entry>) -> Vec<Vec<Entry>> {
    let mut groups: Vec<Vec<Entry>> = Vec::new();
    let (mut rows, mut bytes) = (0, 0);
    for entry in entries {
        let (entry_rows, entry_bytes) = (entry.events.num_rows(), entry.bytes);
        let small = entry_rows < GATHERED_ROWS / 2 && entry_bytes < GATHERED_BYTES / 2;
        let fits = rows + entry_rows <= GATHERED_ROWS && bytes + entry_bytes <= GATHERED_BYTES;
        match groups.last_mut() {
            Some(group) if small && fits => {
                group.push(entry);
                rows += entry_rows;
                bytes += entry_bytes;
            }
            _ => {
                groups.push(vec![entry]);
                // Behind a large one a new group starts.
                (rows, bytes) = if small {
                    (entry_rows, entry_bytes)
                } else {
                    (GATHERED_ROWS, GATHERED_BYTES)
                };
            }
        }
    }
    groups
}

fn pack_one(
    entries: Vec<Entry>,
    first: Offset,
    arrived_at_us: i64,
    shape: &Shape,
) -> Result<Packed, ArrowError> {
    let mut meta = BatchMeta::default();
    let mut parts: Vec<RecordBatch> = Vec::new();
    for entry in entries {
        meta.appends.push(AppendMeta {
            events: entry.events.num_rows() as u64,
            dead_letters: entry.dead_letters.len() as u64,
            key: entry.key,
        });
        meta.dead_letters.extend(entry.dead_letters);
        meta.replayed.extend(entry.replayed);
        if entry.events.num_rows() > 0 {
            // It may have been checked before the schema grew.
            parts.push(in_schema(&entry.events, &shape.declared)?);
        }
    }
    let batch = match parts.as_slice() {
        [one] => one.clone(),
        parts => concat_batches(&shape.declared, parts)?,
    };
    let columns: Vec<ArrayRef> = batch.columns().to_vec();
    Ok(Packed {
        events: with_system_columns(&shape.events, columns, &meta.appends, first, arrived_at_us)?,
        first,
        meta,
        declared: batch,
    })
}

/// The batch as the archive and the speed layer get it.
pub(super) fn committed(
    meta: BatchMeta,
    first: Offset,
    arrived_at_us: i64,
    events: RecordBatch,
) -> CommittedBatch {
    let mut dead_letters = Vec::with_capacity(meta.dead_letters.len());
    let mut letters = meta.dead_letters.into_iter();
    let mut next = first.0;
    for append in &meta.appends {
        next += append.events;
        for _ in 0..append.dead_letters {
            let place = (ONLY_PARTITION, Offset(next));
            dead_letters.extend(letters.next().map(|letter| (place, letter)));
            next += 1;
        }
    }
    let replayed = meta.replayed.into_iter();
    CommittedBatch {
        span: between(first, Offset(next)),
        arrived_at_us,
        events,
        dead_letters,
        replayed: replayed.map(|offset| (ONLY_PARTITION, offset)).collect(),
    }
}

/// What of a batch lies in `[from, to)`. Which dead letters it settles stays with every part of it:
/// settling one twice is settling it.
pub(super) fn clip(mut batch: CommittedBatch, from: Offset, to: Offset) -> CommittedBatch {
    let (first, next) = offsets(&batch);
    if from <= first && next <= to {
        return batch;
    }
    let offsets = batch.events[OFFSET].as_primitive::<Int64Type>().values();
    let below = |end: Offset| offsets.partition_point(|offset| offset.cast_unsigned() < end.0);
    let (start, end) = (below(from), below(to));
    batch.events = batch.events.slice(start, end - start);
    batch
        .dead_letters
        .retain(|((_, offset), _)| from <= *offset && *offset < to);
    batch.span = between(first.max(from), next.min(to));
    batch
}

/// The first offset of a batch of this log, and the one behind it.
pub(super) fn offsets(batch: &CommittedBatch) -> (Offset, Offset) {
    let at = |position: &Position| position.get(ONLY_PARTITION);
    (at(batch.span.from()), at(batch.span.to()))
}

fn between(first: Offset, next: Offset) -> Span {
    let next = next.max(first);
    Span::new(Position::single(first), Position::single(next)).expect("it does not run backwards")
}
