// SPDX-License-Identifier: Apache-2.0
//! The total of all rows, or of those in a window frame.

use std::fmt::Debug;
use std::marker::PhantomData;

use arrow::array::{
    Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, AsArray, PrimitiveArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::{HashMap, not_impl_err};
use datafusion::error::Result;
use datafusion::logical_expr::Accumulator;
use datafusion::scalar::ScalarValue;

use super::{Argument, Finish, Wide};

/// The total of values of type `A`, in a number of type `S`.
#[derive(Debug)]
pub(in crate::functions) struct Rows<A, S: Wide, F> {
    total_type: DataType,
    finish: F,
    total: S::Native,
    /// How many values it is made of; if `F` does not count, values or states of values.
    count: i64,
    argument: PhantomData<A>,
}

impl<A, S: Wide, F> Rows<A, S, F> {
    /// No rows yet; `total_type` is the type of their total.
    pub(in crate::functions) fn new(total_type: DataType, finish: F) -> Self {
        Self {
            total_type,
            finish,
            total: S::default_value(),
            count: 0,
            argument: PhantomData,
        }
    }
}

impl<A: Argument<S>, S: Wide, F: Finish<S>> Accumulator for Rows<A, S, F> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = values[0].as_primitive::<A>();
        self.total = self.total.add_wrapping(total(values));
        self.count += valid(values);
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = values[0].as_primitive::<A>();
        self.total = self.total.sub_wrapping(total(values));
        self.count -= valid(values);
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let totals = states[0].as_primitive::<S>();
        self.total = self.total.add_wrapping(total(totals));
        self.count += if F::COUNTS {
            total::<_, i64>(states[1].as_primitive::<Int64Type>())
        } else {
            valid(totals)
        };
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        result(&self.finish, self.total, self.count)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let total = (self.count > 0).then_some(self.total);
        let mut state = vec![ScalarValue::new_primitive::<S>(total, &self.total_type)?];
        if F::COUNTS {
            state.push(ScalarValue::Int64((self.count > 0).then_some(self.count)));
        }
        Ok(state)
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// The total of different values, which DataFusion's own accumulator collects; its state is a list of them.
#[derive(Debug)]
pub(super) struct Distinct<A, S, F> {
    finish: F,
    values: Box<dyn Accumulator>,
    types: PhantomData<(A, S)>,
}

impl<A, S, F> Distinct<A, S, F> {
    pub(super) fn new(finish: F, values: Box<dyn Accumulator>) -> Self {
        Self {
            finish,
            values,
            types: PhantomData,
        }
    }
}

impl<A: Argument<S>, S: Wide, F: Finish<S>> Accumulator for Distinct<A, S, F> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.values.update_batch(values)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.values.merge_batch(states)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let (mut sum, mut count) = (S::default_value(), 0);
        for state in self.values.state()? {
            let list = state.to_array()?;
            let values = list.as_list::<i32>().values().as_primitive::<A>();
            sum = sum.add_wrapping(total(values));
            count += valid(values);
        }
        result(&self.finish, sum, count)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.values.state()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.values.size()
    }
}

/// The total of different values in a window frame.
#[derive(Debug)]
pub(super) struct SlidingDistinct<A: ArrowPrimitiveType, S: Wide, F> {
    finish: F,
    total: S::Native,
    /// How often each value is in the frame.
    counts: HashMap<A::Native, usize>,
}

impl<A: ArrowPrimitiveType, S: Wide, F> SlidingDistinct<A, S, F> {
    pub(super) fn new(finish: F) -> Self {
        Self {
            finish,
            total: S::default_value(),
            counts: HashMap::default(),
        }
    }
}

impl<A: Argument<S>, S: Wide, F: Finish<S>> Accumulator for SlidingDistinct<A, S, F> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in values[0].as_primitive::<A>().iter().flatten() {
            let count = self.counts.entry(value).or_insert(0);
            if *count == 0 {
                self.total = self.total.add_wrapping(value.into());
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
                self.total = self.total.sub_wrapping(value.into());
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
        let count = i64::try_from(self.counts.len()).expect("they are in memory");
        result(&self.finish, self.total, count)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        not_impl_err!("the frames of a window are not merged")
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.counts.capacity() * size_of::<(A::Native, usize)>()
    }
}

/// The total of what is not NULL.
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

/// How many values are not NULL.
fn valid<T: ArrowPrimitiveType>(values: &PrimitiveArray<T>) -> i64 {
    let valid = values.len() - values.null_count();
    i64::try_from(valid).expect("they are in memory")
}

/// What one total becomes; NULL if it is made of nothing.
fn result<S: Wide>(finish: &impl Finish<S>, total: S::Native, count: i64) -> Result<ScalarValue> {
    let nulls = (count == 0).then(|| NullBuffer::new_null(1));
    let result = finish.finish(vec![total], &[count], nulls)?;
    ScalarValue::try_from_array(&result, 0)
}
