// SPDX-License-Identifier: Apache-2.0
//! The sum of all rows, or of those in a window frame.

use std::fmt::Debug;
use std::marker::PhantomData;

use arrow::array::{
    Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, AsArray, PrimitiveArray,
};
use arrow::datatypes::DecimalType;
use datafusion::common::{HashMap, not_impl_err};
use datafusion::error::Result;
use datafusion::logical_expr::Accumulator;
use datafusion::scalar::ScalarValue;

use super::ends::{Argument, Ends};

/// The sum of values of type `A`, in a number of type `S`.
#[derive(Debug)]
pub(super) struct Rows<A: ArrowPrimitiveType, S: DecimalType> {
    ends: Ends<S>,
    sum: S::Native,
    /// How many values, or states of values, it is made of.
    count: usize,
    argument: PhantomData<A>,
}

impl<A: ArrowPrimitiveType, S: DecimalType> Rows<A, S> {
    pub(super) fn new(ends: Ends<S>) -> Self {
        Self {
            ends,
            sum: S::default_value(),
            count: 0,
            argument: PhantomData,
        }
    }
}

impl<A, S> Accumulator for Rows<A, S>
where
    A: Argument<S>,
    S: DecimalType + Debug,
{
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = values[0].as_primitive::<A>();
        self.sum = self.sum.add_wrapping(total(values));
        self.count += values.len() - values.null_count();
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = values[0].as_primitive::<A>();
        self.sum = self.sum.sub_wrapping(total(values));
        self.count -= values.len() - values.null_count();
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let states = states[0].as_primitive::<S>();
        self.sum = self.sum.add_wrapping(total(states));
        self.count += states.len() - states.null_count();
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        result::<A, S>(&self.ends, (self.count > 0).then_some(self.sum))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let state = (self.count > 0).then_some(self.sum);
        Ok(vec![ScalarValue::new_primitive::<S>(
            state,
            &self.ends.state,
        )?])
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// The sum of different values, which DataFusion's own accumulator collects; its state is a list of them.
#[derive(Debug)]
pub(super) struct Distinct<A: ArrowPrimitiveType, S: DecimalType> {
    ends: Ends<S>,
    values: Box<dyn Accumulator>,
    argument: PhantomData<A>,
}

impl<A: ArrowPrimitiveType, S: DecimalType> Distinct<A, S> {
    pub(super) fn new(ends: Ends<S>, values: Box<dyn Accumulator>) -> Self {
        Self {
            ends,
            values,
            argument: PhantomData,
        }
    }
}

impl<A, S> Accumulator for Distinct<A, S>
where
    A: Argument<S>,
    S: DecimalType + Debug,
{
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.values.update_batch(values)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.values.merge_batch(states)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut sum = None;
        for state in self.values.state()? {
            let list = state.to_array()?;
            let values = list.as_list::<i32>().values().as_primitive::<A>();
            if !values.is_empty() {
                sum = Some(total(values));
            }
        }
        result::<A, S>(&self.ends, sum)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.values.state()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.values.size()
    }
}

/// The sum of different values in a window frame.
#[derive(Debug)]
pub(super) struct SlidingDistinct<A: ArrowPrimitiveType, S: DecimalType> {
    ends: Ends<S>,
    sum: S::Native,
    /// How often each value is in the frame.
    counts: HashMap<A::Native, usize>,
}

impl<A, S> SlidingDistinct<A, S>
where
    A: ArrowPrimitiveType,
    S: DecimalType,
{
    pub(super) fn new(ends: Ends<S>) -> Self {
        Self {
            ends,
            sum: S::default_value(),
            counts: HashMap::default(),
        }
    }
}

impl<A, S> Accumulator for SlidingDistinct<A, S>
where
    A: Argument<S>,
    S: DecimalType + Debug,
{
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in values[0].as_primitive::<A>().iter().flatten() {
            let count = self.counts.entry(value).or_insert(0);
            if *count == 0 {
                self.sum = self.sum.add_wrapping(value.into());
            }
            *count += 1;
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in values[0].as_primitive::<A>().iter().flatten() {
            let Some(count) = self.counts.get_mut(&value) else {
                continue;
            };
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&value);
                self.sum = self.sum.sub_wrapping(value.into());
            }
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, _states: &[ArrayRef]) -> Result<()> {
        not_impl_err!("the frames of a window are not merged")
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let sum = (!self.counts.is_empty()).then_some(self.sum);
        result::<A, S>(&self.ends, sum)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        not_impl_err!("the frames of a window are not merged")
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.counts.capacity() * size_of::<(A::Native, usize)>()
    }
}

/// The sum of what is not NULL.
fn total<T, W>(values: &PrimitiveArray<T>) -> W
where
    T: ArrowPrimitiveType<Native: Into<W>>,
    W: ArrowNativeTypeOp,
{
    let add = |sum: W, value: T::Native| sum.add_wrapping(value.into());
    match values.nulls().filter(|nulls| nulls.null_count() > 0) {
        None => values.values().iter().copied().fold(W::ZERO, add),
        Some(nulls) => nulls
            .valid_indices()
            .map(|row| values.value(row))
            .fold(W::ZERO, add),
    }
}

fn result<A, S>(ends: &Ends<S>, sum: Option<S::Native>) -> Result<ScalarValue>
where
    A: Argument<S>,
    S: DecimalType,
{
    let sum = sum.map(|sum| ends.finish(sum)).transpose()?;
    ScalarValue::new_primitive::<A>(sum, &ends.result)
}
