// SPDX-License-Identifier: Apache-2.0
//! The sums of many groups.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::DecimalType;
use datafusion::error::Result;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::NullState;

use super::ends::{Argument, Ends};

/// Adds up arguments of type `A` in numbers of type `S`.
#[derive(Debug)]
pub(super) struct Groups<A: ArrowPrimitiveType, S: DecimalType> {
    ends: Ends<S>,
    sums: Vec<S::Native>,
    /// Which groups have a value.
    seen: NullState,
    argument: PhantomData<A>,
}

impl<A, S> Groups<A, S>
where
    A: ArrowPrimitiveType + Send,
    S: DecimalType,
{
    pub(super) fn new(ends: Ends<S>) -> Self {
        Self {
            ends,
            sums: Vec::new(),
            seen: NullState::new(),
            argument: PhantomData,
        }
    }

    fn add<T: ArrowPrimitiveType + Send>(
        &mut self,
        values: &PrimitiveArray<T>,
        group_indices: &[usize],
        filter: Option<&BooleanArray>,
        groups: usize,
    ) where
        T::Native: Into<S::Native>,
    {
        self.sums.resize(groups, S::default_value());
        let sums = self.sums.as_mut_slice();
        self.seen
            .accumulate(group_indices, values, filter, groups, |group, value| {
                let sum = &mut sums[group];
                *sum = sum.add_wrapping(value.into());
            });
    }
}

impl<A, S> GroupsAccumulator for Groups<A, S>
where
    A: Argument<S>,
    S: DecimalType + Debug,
{
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        let values = values[0].as_primitive::<A>();
        self.add(values, group_indices, opt_filter, total_num_groups);
        Ok(())
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        let states = values[0].as_primitive::<S>();
        self.add(states, group_indices, None, total_num_groups);
        Ok(())
    }

    /// A group without values has the sum 0, which fits every result.
    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = emit_to.take_needed(&mut self.sums);
        let nulls = self.seen.build(emit_to);
        let results: Vec<A::Native> = self.ends.finish_all(&sums)?;
        let results = PrimitiveArray::<A>::new(results.into(), nulls);
        Ok(Arc::new(results.with_data_type(self.ends.result.clone())))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let sums = emit_to.take_needed(&mut self.sums);
        let nulls = self.seen.build(emit_to);
        let states = PrimitiveArray::<S>::new(sums.into(), nulls);
        Ok(vec![Arc::new(
            states.with_data_type(self.ends.state.clone()),
        )])
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
        let states: Vec<S::Native> = values.values().iter().map(|v| (*v).into()).collect();
        let states = PrimitiveArray::<S>::new(states.into(), nulls);
        Ok(vec![Arc::new(
            states.with_data_type(self.ends.state.clone()),
        )])
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<S::Native>() + self.seen.size()
    }
}
