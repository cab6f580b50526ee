// SPDX-License-Identifier: Apache-2.0
//! Which event times fall into given groups.
//!
//! Purpose: recompute some groups from no more of the raw log than can hold their events. Collaborators: the
//! compiled group expression of the time key; `SortKey`, whose encoding starts with that key.
//! Invariants: the time key is a monotone function of the event time, so the event times of the groups between
//! two keys lie in one range, found by bisection with the function itself: nothing is inverted or guessed. Where
//! the function fails or gives NULL on the way, there is no answer, and the caller must read everything.
//! Non-goals: views without a time key, and groups whose time key is NULL.

use std::sync::Arc;

use arrow::array::{ArrayRef, Date32Array, RecordBatch, TimestampMicrosecondArray, new_null_array};
use arrow::datatypes::{DataType, Schema, SchemaRef, TimeUnit};
use arrow::row::{RowConverter, SortField};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;
use dovetail_model::StreamSchema;

use crate::ViewError;
use crate::compile::Parts;

const DAY_US: i64 = 86_400_000_000;

/// The time key of a view as a function of the event time.
pub(crate) struct TimeKey {
    /// Over a batch of one column, the event time.
    expr: Arc<dyn PhysicalExpr>,
    input: SchemaRef,
    converter: RowConverter,
    /// The encoding of NULL, with which a key without time starts.
    null: Vec<u8>,
}

impl TimeKey {
    /// The function behind the view's time key; none where it has no time key, or reads anything but the event
    /// time as it is in the stream.
    pub(crate) fn new(parts: &Parts, stream: &StreamSchema) -> Result<Option<Self>, ViewError> {
        let (Some(index), Some(event_time)) = (parts.time_key, &stream.event_time) else {
            return Ok(None);
        };
        let (_, field) = parts
            .events_schema
            .column_with_name(&event_time.column)
            .expect("a checked schema has its event time");
        let known = matches!(
            field.data_type(),
            DataType::Date32 | DataType::Timestamp(TimeUnit::Microsecond, None)
        );
        if !known || !passes_unchanged(&parts.input, &event_time.column) {
            return Ok(None);
        }
        let mut others = false;
        let rewritten = Arc::clone(&parts.groups[index].0).transform_up(|node| {
            let Some(column) = node.downcast_ref::<Column>() else {
                return Ok(Transformed::no(node));
            };
            others |= column.name() != event_time.column;
            let only: Arc<dyn PhysicalExpr> = Arc::new(Column::new(&event_time.column, 0));
            Ok(Transformed::yes(only))
        })?;
        if others {
            return Ok(None);
        }
        let key_type = parts.keys[index].data_type.clone();
        let converter = RowConverter::new(vec![SortField::new(key_type.clone())])?;
        let null = encoded(&converter, &new_null_array(&key_type, 1))?;
        Ok(Some(Self {
            expr: rewritten.data,
            input: Arc::new(Schema::new(vec![field.as_ref().clone()])),
            converter,
            null,
        }))
    }

    /// The event times in `within`, both inclusive, of the groups whose time key lies between those of `first`
    /// and `last`, as a half-open range without an end where it reaches the end of all time.
    pub(crate) fn event_times(
        &self,
        first: &[u8],
        last: &[u8],
        within: (i64, i64),
    ) -> Option<(i64, Option<i64>)> {
        if first.starts_with(&self.null) {
            return None;
        }
        let from = self.first_where(within, |key| key >= prefix(first, key.len()))??;
        let to = self.first_where(within, |key| key > prefix(last, key.len()))?;
        Some((from, to.or(within.1.checked_add(1))))
    }

    /// The first event time in `within` whose key passes, as all behind it do. None inside when none does, none
    /// outside when the function cannot tell.
    fn first_where(
        &self,
        within: (i64, i64),
        passes: impl Fn(&[u8]) -> bool,
    ) -> Option<Option<i64>> {
        let (mut low, mut high) = within;
        if low > high || !passes(&self.key_at(high)?) {
            return Some(None);
        }
        while low < high {
            // Rounded down, so that it is below `high`; half a distance fits.
            let middle = low + (high.abs_diff(low) / 2).cast_signed();
            if passes(&self.key_at(middle)?) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        passes(&self.key_at(low)?).then_some(Some(low))
    }

    /// The encoded time key of the events at `us`, microseconds since the Unix epoch.
    fn key_at(&self, us: i64) -> Option<Vec<u8>> {
        let time: ArrayRef = match self.input.field(0).data_type() {
            DataType::Date32 => {
                let day = i32::try_from(us.div_euclid(DAY_US)).ok()?;
                Arc::new(Date32Array::from(vec![day]))
            }
            _ => Arc::new(TimestampMicrosecondArray::from(vec![us])),
        };
        let batch = RecordBatch::try_new(Arc::clone(&self.input), vec![time]).ok()?;
        let key = self.expr.evaluate(&batch).ok()?.into_array(1).ok()?;
        let key = encoded(&self.converter, &key).ok()?;
        (key != self.null).then_some(key)
    }
}

fn encoded(converter: &RowConverter, value: &ArrayRef) -> Result<Vec<u8>, ViewError> {
    let rows = converter.convert_columns(&[Arc::clone(value)])?;
    Ok(rows.row(0).as_ref().to_vec())
}

/// As much of a group's key as its time key takes: the encoding of times has one length.
fn prefix(key: &[u8], length: usize) -> &[u8] {
    &key[..length.min(key.len())]
}

/// Whether `column` reaches the aggregation as the stream has it: no projection puts another one in its place.
fn passes_unchanged(mut plan: &Arc<dyn ExecutionPlan>, column: &str) -> bool {
    loop {
        if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
            let replaced = projection.expr().iter().any(|e| {
                let same = e
                    .expr
                    .downcast_ref::<Column>()
                    .is_some_and(|c| c.name() == column);
                e.alias == column && !same
            });
            if replaced {
                return false;
            }
        }
        match plan.children().first() {
            Some(child) => plan = child,
            None => return true,
        }
    }
}
