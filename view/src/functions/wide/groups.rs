// SPDX-License-Identifier: Apache-2.0
//! The totals of many groups.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowNativeTypeOp, AsArray, BooleanArray, Int64Array, PrimitiveArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::error::Result;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::NullState;

use super::{Argument, Finish, Wide};

/// Adds up arguments of type `A` in numbers of type `S`.
#[derive(Debug)]
pub(in crate::functions) struct Groups<A, S: Wide, F> {
    total: DataType,
    finish: F,
    totals: Vec<S::Native>,
    /// How many values each total is made of; empty unless `F` asks for it.
    counts: Vec<i64>,
    /// Which groups have a value.
    seen: NullState,
    argument: PhantomData<A>,
}

impl<A: Argument<S>, S: Wide, F: Finish<S>> Groups<A, S, F> {
    /// No groups yet; `total` is the type of their totals.
    pub(in crate::functions) fn new(total: DataType, finish: F) -> Self {
        Self {
            total,
            finish,
            totals: Vec::new(),
            counts: Vec::new(),
            seen: NullState::new(),
            argument: PhantomData,
        }
    }

    /// The columns of states.
    fn states(
        &self,
        totals: Vec<S::Native>,
        counts: Vec<i64>,
        nulls: Option<NullBuffer>,
    ) -> Vec<ArrayRef> {
        let column = PrimitiveArray::<S>::new(totals.into(), nulls.clone());
        let mut states: Vec<ArrayRef> = vec![Arc::new(column.with_data_type(self.total.clone()))];
        if F::COUNTS {
            states.push(Arc::new(Int64Array::new(counts.into(), nulls)));
        }
        states
    }

    fn take(&mut self, emit_to: EmitTo) -> (Vec<S::Native>, Vec<i64>, Option<NullBuffer>) {
        let totals = emit_to.take_needed(&mut self.totals);
        let counts = if F::COUNTS {
            emit_to.take_needed(&mut self.counts)
        } else {
            Vec::new()
        };
        (totals, counts, self.seen.build(emit_to))
    }
}

impl<A, S, F> GroupsAccumulator for Groups<A, S, F>
where
    A: Argument<S>,
    S: Wide,
    F: Finish<S>,
{
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        let values = values[0].as_primitive::<A>();
        self.totals.resize(total_num_groups, S::default_value());
        let totals = self.totals.as_mut_slice();
        if F::COUNTS {
            self.counts.resize(total_num_groups, 0);
            let counts = self.counts.as_mut_slice();
            let add = |group: usize, value: A::Native| {
                totals[group] = totals[group].add_wrapping(value.into());
                counts[group] += 1;
            };
            self.seen
                .accumulate(group_indices, values, opt_filter, total_num_groups, add);
        } else {
            let add = |group: usize, value: A::Native| {
                totals[group] = totals[group].add_wrapping(value.into());
            };
            self.seen
                .accumulate(group_indices, values, opt_filter, total_num_groups, add);
        }
        Ok(())
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        let states = values[0].as_primitive::<S>();
        self.totals.resize(total_num_groups, S::default_value());
        let totals = self.totals.as_mut_slice();
        self.seen.accumulate(
            group_indices,
            states,
            None,
            total_num_groups,
            |group, total| {
                totals[group] = totals[group].add_wrapping(total);
            },
        );
        if F::COUNTS {
            self.counts.resize(total_num_groups, 0);
            let counts = values[1].as_primitive::<Int64Type>();
            for (group, count) in group_indices.iter().zip(counts) {
                self.counts[*group] += count.unwrap_or(0);
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let (totals, counts, nulls) = self.take(emit_to);
        self.finish.finish(totals, &counts, nulls)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let (totals, counts, nulls) = self.take(emit_to);
        Ok(self.states(totals, counts, nulls))
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let values = values[0].as_primitive::<A>();
        let passes = opt_filter.map(|filter| match filter.nulls() {
            Some(valid) => NullBuffer::new(filter.values() & valid.inner()),
            None => NullBuffer::new(filter.values().clone()),
        });
        let nulls = NullBuffer::union(values.nulls(), passes.as_ref());
        let totals = values.values().iter().map(|v| (*v).into()).collect();
        let counts = if F::COUNTS {
            vec![1; values.len()]
        } else {
            Vec::new()
        };
        Ok(self.states(totals, counts, nulls))
    }

    fn size(&self) -> usize {
        self.totals.capacity() * size_of::<S::Native>()
            + self.counts.capacity() * size_of::<i64>()
            + self.seen.size()
    }
}
