// SPDX-License-Identifier: Apache-2.0
//! Plans that read archived events.
//!
//! Purpose: the events of a span, exactly, from as few files, row groups and pages as their spans and
//! statistics allow. Collaborators: [`crate::parquet_files`]. Invariants: a span that is not wholly archived is
//! an error, and so is a missing file (law 5). Non-goals: the tail that is not archived yet.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, lit};
use datafusion::physical_expr::{PhysicalExpr, conjunction};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::scalar::ScalarValue;
use dovetail_model::{OFFSET, PARTITION, PartitionId, Span};

use super::{RawError, RawSnapshot, Segment};
use crate::parquet_files::{Dictionaries, FileToScan, ParquetScan, parquet_scan};

const DAY_US: i64 = 86_400_000_000;

/// A range of event times in microseconds, half open; a side that is absent has no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventTimeRange {
    /// First event time inside.
    pub from: Option<i64>,
    /// First event time behind.
    pub to: Option<i64>,
}

/// What to read of a [`RawSnapshot`].
#[derive(Debug, Clone)]
pub struct RawScan {
    /// The events; it must be archived.
    pub span: Span,
    /// Columns of `StreamSchema::events()` to put out, in this order; all when absent.
    pub columns: Option<Vec<usize>>,
    /// Which columns come in dictionary form; not the one of event time.
    pub dictionaries: Option<Dictionaries>,
    /// Only the events in this range of event time, exactly; one without an event time is in no range. Segments,
    /// row groups and pages outside are not read.
    pub event_time: Option<EventTimeRange>,
    /// At most this many partitions. One partition gives each stream partition's events in offset order.
    pub target_partitions: usize,
}

impl RawScan {
    /// All columns of all events of `span`, in order.
    pub fn of(span: Span) -> Self {
        Self {
            span,
            columns: None,
            dictionaries: None,
            event_time: None,
            target_partitions: 1,
        }
    }
}

impl RawSnapshot {
    /// The plan that reads `request`; run it where [`crate::parquet_files::register_store`] has registered the
    /// store, and hold this snapshot until it ends. Its schema is `StreamSchema::events()`, projected, with dictionaries
    /// where they are asked for.
    ///
    /// # Errors
    /// [`RawError::NotArchived`] when the span reaches beyond the archive; [`RawError::Schema`] when an
    /// event-time range is asked of a stream without event time.
    pub fn scan(&self, request: RawScan) -> Result<Arc<dyn ExecutionPlan>, RawError> {
        let span = request.span;
        if !self.archived.covers(span.to()) {
            return Err(RawError::NotArchived {
                span: Box::new(span),
                archived: Box::new(self.archived.clone()),
            });
        }
        let range = request
            .event_time
            .filter(|range| *range != EventTimeRange::default());
        let segments = self
            .segments
            .iter()
            .filter(|segment| overlaps(segment, &span))
            .filter(|segment| range.is_none_or(|range| may_hold(segment, range)));
        let mut files: Vec<FileToScan> = Vec::new();
        let mut crosses = false;
        for segment in segments {
            files.push(segment.to_scan());
            crosses |= !is_inside(segment, &span);
        }
        let mut filters = Vec::new();
        if crosses {
            filters.push(within(&span, &self.events).map_err(RawError::data(&self.root))?);
        }
        if let Some(range) = range {
            filters.extend(self.in_range(range)?);
        }
        let scan = ParquetScan {
            files: &files,
            file_schema: Arc::clone(&self.events),
            projection: request.columns,
            dictionaries: request.dictionaries,
            predicate: (!filters.is_empty()).then(|| conjunction(filters)),
            exact: true,
            target_partitions: request.target_partitions,
        };
        parquet_scan(scan).map_err(RawError::data(&self.root))
    }

    fn in_range(&self, range: EventTimeRange) -> Result<Vec<Arc<dyn PhysicalExpr>>, RawError> {
        let event_time = self
            .schema
            .event_time
            .as_ref()
            .ok_or_else(|| RawError::Schema {
                table: self.root.clone(),
                reason:
                    "a range of event time was asked for, but the stream declares no event_time"
                        .to_owned(),
            })?;
        let (index, field) = self
            .events
            .column_with_name(&event_time.column)
            .expect("a checked schema has its event time");
        let bound = |us: i64| match field.data_type() {
            // A date is the midnight it begins with, so both bounds round up to the next midnight.
            DataType::Date32 => {
                let days = us.div_euclid(DAY_US) + i64::from(us.rem_euclid(DAY_US) > 0);
                ScalarValue::Date32(Some(saturate(days)))
            }
            _ => ScalarValue::TimestampMicrosecond(Some(us), None),
        };
        let column = || Arc::new(Column::new(field.name(), index)) as Arc<dyn PhysicalExpr>;
        let from = range
            .from
            .map(|us| binary(column(), Operator::GtEq, lit(bound(us))));
        let to = range
            .to
            .map(|us| binary(column(), Operator::Lt, lit(bound(us))));
        Ok(from.into_iter().chain(to).collect())
    }
}

fn saturate(days: i64) -> i32 {
    i32::try_from(days).unwrap_or(if days < 0 { i32::MIN } else { i32::MAX })
}

/// The partitions in which `span` is not empty, with their offsets.
pub(super) fn ranges(span: &Span) -> impl Iterator<Item = (PartitionId, Range<u64>)> + '_ {
    span.to().iter().filter_map(|(partition, to)| {
        let from = span.from().get(partition);
        (from < to).then_some((partition, from.0..to.0))
    })
}

fn overlaps(segment: &Segment, span: &Span) -> bool {
    segment.rows > 0
        && ranges(&segment.span).any(|(partition, held)| {
            let from = span.from().get(partition).0.max(held.start);
            let to = span.to().get(partition).0.min(held.end);
            from < to
        })
}

fn is_inside(segment: &Segment, span: &Span) -> bool {
    ranges(&segment.span).all(|(partition, held)| {
        span.from().get(partition).0 <= held.start && held.end <= span.to().get(partition).0
    })
}

fn may_hold(segment: &Segment, range: EventTimeRange) -> bool {
    segment.event_time.is_some_and(|(min, max)| {
        range.from.is_none_or(|from| max >= from) && range.to.is_none_or(|to| min < to)
    })
}

/// `(_partition = p AND _offset >= from AND _offset < to) OR …`
fn within(span: &Span, schema: &SchemaRef) -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
    let partition = Arc::new(Column::new_with_schema(PARTITION, schema)?);
    let offset = Arc::new(Column::new_with_schema(OFFSET, schema)?);
    let offset_literal = |offset: u64| lit(i64::try_from(offset).unwrap_or(i64::MAX));
    let mut any: Option<Arc<dyn PhysicalExpr>> = None;
    for (id, held) in ranges(span) {
        let id = lit(i32::try_from(id.0).unwrap_or(i32::MAX));
        let this = conjunction([
            binary(partition.clone(), Operator::Eq, id),
            binary(offset.clone(), Operator::GtEq, offset_literal(held.start)),
            binary(offset.clone(), Operator::Lt, offset_literal(held.end)),
        ]);
        any = Some(match any {
            Some(others) => binary(others, Operator::Or, this),
            None => this,
        });
    }
    Ok(any.unwrap_or_else(|| lit(false)))
}

fn binary(
    left: Arc<dyn PhysicalExpr>,
    operator: Operator,
    right: Arc<dyn PhysicalExpr>,
) -> Arc<dyn PhysicalExpr> {
    Arc::new(BinaryExpr::new(left, operator, right))
}
