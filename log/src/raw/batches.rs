// SPDX-License-Identifier: Apache-2.0
//! From committed batches to what goes into each segment: pure, no I/O.
//!
//! Invariants checked here, where data is written: the batches of a span tile it in every partition, offsets
//! grow, each event lies in its batch, and columns are the stream's.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, SchemaRef};
use dovetail_model::{OFFSET, Offset, PARTITION, PartitionId, Position, Span};

use super::RawError;
use super::scan::ranges;
use crate::CommittedBatch;
use crate::event::in_schema;

/// A segment ends at the first batch edge behind this many bytes in memory.
const SEGMENT_MAX_BYTES: usize = 512 * 1024 * 1024;

/// The events of one segment to be.
#[derive(Debug)]
pub(super) struct SegmentPlan {
    pub(super) span: Span,
    /// In order of partition, then offset.
    pub(super) events: Vec<RecordBatch>,
}

/// The partition of `batch`: that of its events; without any, the one that `span` moves in.
pub(super) fn partition_of(batch: &CommittedBatch, span: &Span) -> Result<PartitionId, RawError> {
    let bad = |reason: &str| RawError::Batch {
        span: Box::new(span.clone()),
        reason: reason.to_owned(),
    };
    if batch.events.num_rows() > 0 {
        let column = batch
            .events
            .column_by_name(PARTITION)
            .and_then(|column| column.as_primitive_opt::<Int32Type>())
            .ok_or_else(|| bad("its events have no `_partition INT`"))?;
        let id = column.value(0);
        if column.null_count() > 0 || column.values().iter().any(|other| *other != id) {
            return Err(bad("its events are of several partitions"));
        }
        return u32::try_from(id)
            .map(PartitionId)
            .map_err(|_| bad("its partition is negative"));
    }
    let mut moved = ranges(span).map(|(partition, _)| partition);
    match (moved.next(), moved.next()) {
        (Some(only), None) => Ok(only),
        _ => Err(bad(
            "it has no event that tells its partition, and the span moves in several",
        )),
    }
}

/// Cuts `batches` of `span` into segments.
pub(super) fn plan_segments(
    span: &Span,
    batches: &[Arc<CommittedBatch>],
    events: &SchemaRef,
) -> Result<Vec<SegmentPlan>, RawError> {
    let mut plans = Vec::new();
    let mut at = span.from().clone();
    let mut open = OpenSegment::at(&at);
    for batch in batches {
        let partition = partition_of(batch, span)?;
        let expected = at.get(partition);
        if batch.first != expected || batch.next < batch.first {
            return Err(gap(span, partition, expected, batch.first));
        }
        check_offsets(span, batch)?;
        at = at.with(partition, batch.next);
        open.push(partition, conform(span, &batch.events, events)?);
        if open.bytes >= SEGMENT_MAX_BYTES {
            plans.extend(open.close(&at));
            open = OpenSegment::at(&at);
        }
    }
    plans.extend(open.close(&at));
    for (partition, _) in at.join(span.to()).iter() {
        let (reached, end) = (at.get(partition), span.to().get(partition));
        if reached != end {
            return Err(gap(span, partition, reached, end));
        }
    }
    Ok(plans)
}

fn gap(span: &Span, partition: PartitionId, expected: Offset, found: Offset) -> RawError {
    RawError::Gap {
        span: Box::new(span.clone()),
        partition,
        expected,
        found,
    }
}

struct OpenSegment {
    from: Position,
    events: BTreeMap<PartitionId, Vec<RecordBatch>>,
    bytes: usize,
}

impl OpenSegment {
    fn at(from: &Position) -> Self {
        Self {
            from: from.clone(),
            events: BTreeMap::new(),
            bytes: 0,
        }
    }

    fn push(&mut self, partition: PartitionId, events: RecordBatch) {
        self.bytes += events.get_array_memory_size();
        if events.num_rows() > 0 {
            self.events.entry(partition).or_default().push(events);
        }
    }

    fn close(self, to: &Position) -> Option<SegmentPlan> {
        let span = Span::new(self.from, to.clone()).expect("batches only move forward");
        (!span.is_empty()).then(|| SegmentPlan {
            span,
            events: self.events.into_values().flatten().collect(),
        })
    }
}

fn check_offsets(span: &Span, batch: &CommittedBatch) -> Result<(), RawError> {
    let bad = |reason: String| RawError::Batch {
        span: Box::new(span.clone()),
        reason,
    };
    if i64::try_from(batch.next.0).is_err() {
        return Err(bad(format!("offset {} is beyond a BIGINT", batch.next)));
    }
    if batch.events.num_rows() == 0 {
        return Ok(());
    }
    let offsets = batch
        .events
        .column_by_name(OFFSET)
        .and_then(|column| column.as_primitive_opt::<Int64Type>())
        .filter(|column| column.null_count() == 0)
        .ok_or_else(|| bad("its events have no `_offset BIGINT NOT NULL`".to_owned()))?
        .values();
    let grows = offsets.windows(2).all(|pair| pair[0] < pair[1]);
    let held =
        |offset: i64| u64::try_from(offset).is_ok_and(|o| batch.first.0 <= o && o < batch.next.0);
    let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
    if grows && held(first) && held(last) {
        return Ok(());
    }
    Err(bad(format!(
        "its offsets must grow within [{}, {}), but run from {first} to {last}",
        batch.first, batch.next
    )))
}

/// `batch` with the columns of `schema`: those it lacks, which were added to the stream later, are null. A column
/// that the table lacks would be lost, so it is refused.
fn conform(span: &Span, batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, RawError> {
    let bad = |reason: String| RawError::Batch {
        span: Box::new(span.clone()),
        reason,
    };
    let fields = batch.schema_ref().fields();
    if let Some(unknown) = fields
        .iter()
        .find(|field| schema.column_with_name(field.name()).is_none())
    {
        let name = unknown.name();
        return Err(bad(format!("the raw log has no column `{name}` yet")));
    }
    in_schema(batch, schema).map_err(|error| bad(error.to_string()))
}
