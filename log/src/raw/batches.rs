// SPDX-License-Identifier: Apache-2.0
//! From committed batches to what goes into each segment: pure, no I/O.
//!
//! Invariants checked here, where data is written: the batches of a span tile it in every partition, events come
//! in order of partition, then offset, each lies in its batch, and columns are the stream's.

use std::collections::BTreeMap;
use std::ops::Range;
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
        for (partition, moved) in ranges(&batch.span) {
            let expected = at.get(partition);
            if moved.start != expected.0 {
                return Err(gap(span, partition, expected, Offset(moved.start)));
            }
        }
        let events = conform(span, &batch.events, events)?;
        for (partition, rows) in partitions(span, batch)? {
            open.push(partition, events.slice(rows.start, rows.len()));
        }
        at = at.join(batch.span.to());
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

/// The rows of each partition that has any, which were checked to lie in the batch in order.
fn partitions(
    span: &Span,
    batch: &CommittedBatch,
) -> Result<Vec<(PartitionId, Range<usize>)>, RawError> {
    let bad = |reason: String| RawError::Batch {
        span: Box::new(span.clone()),
        reason,
    };
    if let Some((_, offset)) = batch
        .span
        .to()
        .iter()
        .find(|(_, o)| i64::try_from(o.0).is_err())
    {
        return Err(bad(format!("offset {offset} is beyond a BIGINT")));
    }
    if batch.events.num_rows() == 0 {
        return Ok(vec![]);
    }
    let column = |name: &str| {
        batch
            .events
            .column_by_name(name)
            .filter(|c| c.null_count() == 0)
    };
    let ids = column(PARTITION).and_then(|column| column.as_primitive_opt::<Int32Type>());
    let ids = ids.ok_or_else(|| bad("its events have no `_partition INT NOT NULL`".to_owned()))?;
    let offsets = column(OFFSET).and_then(|column| column.as_primitive_opt::<Int64Type>());
    let offsets =
        offsets.ok_or_else(|| bad("its events have no `_offset BIGINT NOT NULL`".to_owned()))?;
    let (ids, offsets) = (ids.values(), offsets.values());
    let mut found: Vec<(PartitionId, Range<usize>)> = vec![];
    for group in ids.chunk_by(|left, right| left == right) {
        let start = found.last().map_or(0, |(_, rows)| rows.end);
        let rows = start..start + group.len();
        let partition = u32::try_from(group[0]).map(PartitionId);
        let partition = partition.map_err(|_| bad("a partition is negative".to_owned()))?;
        if found.last().is_some_and(|(before, _)| *before >= partition) {
            return Err(bad("its events are not in order of partition".to_owned()));
        }
        check_offsets(&batch.span, partition, &offsets[rows.clone()]).map_err(bad)?;
        found.push((partition, rows));
    }
    Ok(found)
}

fn check_offsets(span: &Span, partition: PartitionId, offsets: &[i64]) -> Result<(), String> {
    let grows = offsets.windows(2).all(|pair| pair[0] < pair[1]);
    let held = |offset: i64| {
        u64::try_from(offset).is_ok_and(|offset| span.contains(partition, Offset(offset)))
    };
    let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
    if grows && held(first) && held(last) {
        return Ok(());
    }
    Err(format!(
        "its offsets in partition {partition} must grow within `{span}`, but run from {first} to {last}"
    ))
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
