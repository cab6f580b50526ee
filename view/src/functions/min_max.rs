// SPDX-License-Identifier: Apache-2.0
//! `min` and `max` whose answer for floats does not depend on the order of rows.
//!
//! Purpose: DataFusion 55.2's grouped `max` takes whatever comes after a NaN, and answers the largest finite number
//! for `min` of infinities. Merging partial results in another order would change the answer. Here NaN is
//! the greatest value, as in PostgreSQL, and `-0.0` lies below `0.0`.
//! Collaborators: DataFusion's own functions, to which everything but floats is left.
//! Invariants: the result is a function of the set of values.

use std::cmp::Ordering;
use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray};
use arrow::datatypes::{DataType, FieldRef, Float32Type, Float64Type};
use datafusion::error::Result;
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator,
    ReversedUDAF, Signature, StatisticsArgs,
};
use datafusion::scalar::ScalarValue;

use super::states_of_each;

/// `min` or `max`, in place of DataFusion's.
#[derive(Debug)]
pub struct MinMax {
    inner: Arc<AggregateUDF>,
    greatest: bool,
}

impl MinMax {
    /// The function `min`.
    pub fn min() -> Self {
        Self {
            inner: min_udaf(),
            greatest: false,
        }
    }

    /// The function `max`.
    pub fn max() -> Self {
        Self {
            inner: max_udaf(),
            greatest: true,
        }
    }

    /// Which of two values stays.
    fn keep(&self) -> Ordering {
        if self.greatest {
            Ordering::Greater
        } else {
            Ordering::Less
        }
    }
}

impl PartialEq for MinMax {
    fn eq(&self, other: &Self) -> bool {
        self.greatest == other.greatest
    }
}

impl Eq for MinMax {}

impl Hash for MinMax {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.greatest.hash(state);
    }
}

impl AggregateUDFImpl for MinMax {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arg_types)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match args.return_field.data_type() {
            DataType::Float64 => Ok(Box::new(One::<Float64Type>::new(self.keep()))),
            DataType::Float32 => Ok(Box::new(One::<Float32Type>::new(self.keep()))),
            _ => self.inner.accumulator(args),
        }
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        match args.return_field.data_type() {
            DataType::Float64 => Ok(Box::new(Many::<Float64Type>::new(self.keep()))),
            DataType::Float32 => Ok(Box::new(Many::<Float32Type>::new(self.keep()))),
            _ => self.inner.create_groups_accumulator(args),
        }
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.inner.create_sliding_accumulator(args)
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn is_descending(&self) -> Option<bool> {
        self.inner.is_descending()
    }

    /// Not for floats: file statistics leave NaN out.
    fn value_from_stats(&self, args: &StatisticsArgs) -> Option<ScalarValue> {
        if args.return_type.is_floating() {
            return None;
        }
        self.inner.value_from_stats(args)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// A total order: numbers, then NaNs by their bits.
trait TotalOrder: Copy + Default + Debug {
    fn order(&self, other: &Self) -> Ordering;
}

macro_rules! total_order {
    ($float:ty) => {
        impl TotalOrder for $float {
            fn order(&self, other: &Self) -> Ordering {
                match (self.is_nan(), other.is_nan()) {
                    (false, false) => self.total_cmp(other),
                    (true, true) => self.to_bits().cmp(&other.to_bits()),
                    (nan, _) => nan.cmp(&!nan),
                }
            }
        }
    };
}

total_order!(f32);
total_order!(f64);

/// The best value of each group.
#[derive(Debug)]
struct Many<T: ArrowPrimitiveType> {
    keep: Ordering,
    best: Vec<Option<T::Native>>,
}

impl<T: ArrowPrimitiveType> Many<T>
where
    T::Native: TotalOrder,
{
    fn new(keep: Ordering) -> Self {
        Self {
            keep,
            best: Vec::new(),
        }
    }

    fn offer(&mut self, group: usize, value: T::Native) {
        let best = &mut self.best[group];
        if best.is_none_or(|best| value.order(&best) == self.keep) {
            *best = Some(value);
        }
    }
}

impl<T: ArrowPrimitiveType> GroupsAccumulator for Many<T>
where
    T::Native: TotalOrder,
{
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.best.resize(total_num_groups, None);
        let values = values[0].as_primitive::<T>();
        if opt_filter.is_none() && values.nulls().is_none() {
            for (group, value) in group_indices.iter().zip(values.values()) {
                self.offer(*group, *value);
            }
            return Ok(());
        }
        for (row, (group, value)) in group_indices.iter().zip(values.iter()).enumerate() {
            let passes = opt_filter.is_none_or(|f| f.is_valid(row) && f.value(row));
            if let (Some(value), true) = (value, passes) {
                self.offer(*group, value);
            }
        }
        Ok(())
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        self.update_batch(values, group_indices, None, total_num_groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let best: PrimitiveArray<T> = emit_to.take_needed(&mut self.best).into_iter().collect();
        Ok(Arc::new(best))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(emit_to)?])
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        states_of_each(Self::new(self.keep), values, opt_filter)
    }

    fn size(&self) -> usize {
        self.best.capacity() * size_of::<Option<T::Native>>()
    }
}

/// The best value of all rows.
#[derive(Debug)]
struct One<T: ArrowPrimitiveType> {
    keep: Ordering,
    best: Option<T::Native>,
}

impl<T: ArrowPrimitiveType> One<T> {
    fn new(keep: Ordering) -> Self {
        Self { keep, best: None }
    }
}

impl<T: ArrowPrimitiveType + Debug> Accumulator for One<T>
where
    T::Native: TotalOrder,
{
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in values[0].as_primitive::<T>().iter().flatten() {
            if self.best.is_none_or(|best| value.order(&best) == self.keep) {
                self.best = Some(value);
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        ScalarValue::new_primitive::<T>(self.best, &T::DATA_TYPE)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

#[cfg(test)]
mod tests;
