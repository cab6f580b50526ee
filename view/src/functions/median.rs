// SPDX-License-Identifier: Apache-2.0
//! `median` that is exact for DECIMALs: the half between two values is not cut off.
//!
//! Purpose: DataFusion 55.2's median of 1.1 and 1.2 is 1.1. Here the result has one more digit behind the point, which is
//! enough for the half of a sum; where a type has no room for one more, it is rounded half away from zero, as `avg` is.
//! Collaborators: DataFusion's own function keeps the values, and everything but DECIMALs is left to it.
//! Invariants: states are DataFusion's.

use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, PrimitiveArray};
use arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DECIMAL128_MAX_SCALE, DECIMAL256_MAX_PRECISION, DECIMAL256_MAX_SCALE,
    DataType, Decimal128Type, Decimal256Type, DecimalType, FieldRef, i256,
};
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::Result;
use datafusion::functions_aggregate::median::median_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator,
    Signature,
};

/// `median`, in place of DataFusion's.
#[derive(Debug)]
pub struct Median {
    inner: Arc<AggregateUDF>,
}

impl Median {
    /// The function.
    pub fn new() -> Self {
        Self {
            inner: median_udaf(),
        }
    }
}

impl Default for Median {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for Median {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for Median {}

impl Hash for Median {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

/// The type of the median of a DECIMAL; none of other types, and of those that DataFusion makes for itself.
fn halved(argument: &DataType) -> Option<DataType> {
    Some(match *argument {
        DataType::Decimal128(precision, scale)
            if precision < DECIMAL128_MAX_PRECISION && scale < DECIMAL128_MAX_SCALE =>
        {
            DataType::Decimal128(precision + 1, scale + 1)
        }
        DataType::Decimal256(precision, scale)
            if precision < DECIMAL256_MAX_PRECISION && scale < DECIMAL256_MAX_SCALE =>
        {
            DataType::Decimal256(precision + 1, scale + 1)
        }
        DataType::Decimal128(..) | DataType::Decimal256(..) => argument.clone(),
        _ => return None,
    })
}

impl AggregateUDFImpl for Median {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match arg_types.first().and_then(halved) {
            Some(halved) => Ok(halved),
            None => self.inner.return_type(arg_types),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let middle = Middle::of(args.expr_fields[0].data_type());
        let inner = self.inner.accumulator(args)?;
        Ok(match middle {
            Some(middle) => Box::new(One { inner, middle }),
            None => inner,
        })
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        let middle = Middle::of(args.expr_fields[0].data_type());
        let inner = self.inner.create_groups_accumulator(args)?;
        Ok(match middle {
            Some(middle) => Box::new(Many { inner, middle }),
            None => inner,
        })
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// A kind of DECIMAL.
trait Decimal: DecimalType<Native: Ord> {
    /// As a number that holds ten times the sum of two.
    fn wide(value: Self::Native) -> i256;
    /// The same number; none if it is too large.
    fn narrow(value: i256) -> Option<Self::Native>;
}

impl Decimal for Decimal128Type {
    fn wide(value: i128) -> i256 {
        i256::from_i128(value)
    }

    fn narrow(value: i256) -> Option<i128> {
        value.to_i128()
    }
}

impl Decimal for Decimal256Type {
    fn wide(value: i256) -> i256 {
        value
    }

    fn narrow(value: i256) -> Option<i256> {
        Some(value)
    }
}

/// What finds the medians in lists of DECIMALs.
#[derive(Debug)]
struct Middle {
    result: DataType,
    /// Whether it has one more digit behind the point than the values.
    finer: bool,
}

impl Middle {
    fn of(argument: &DataType) -> Option<Self> {
        let result = halved(argument)?;
        Some(Self {
            finer: result != *argument,
            result,
        })
    }

    /// The median of each list.
    fn of_lists(&self, lists: &ArrayRef) -> Result<ArrayRef> {
        match &self.result {
            DataType::Decimal128(..) => self.of_decimals::<Decimal128Type>(lists),
            DataType::Decimal256(..) => self.of_decimals::<Decimal256Type>(lists),
            other => internal_err!("a median of DECIMALs is no {other}"),
        }
    }

    fn of_decimals<T: Decimal>(&self, lists: &ArrayRef) -> Result<ArrayRef> {
        let medians = lists.as_list::<i32>().iter().map(|list| {
            let list = list?;
            let values = list.as_primitive::<T>();
            let mut values: Vec<T::Native> = values.iter().flatten().collect();
            T::narrow(self.of_values::<T>(&mut values)?)
        });
        let medians: PrimitiveArray<T> = medians.collect();
        Ok(Arc::new(medians.with_data_type(self.result.clone())))
    }

    fn of_values<T: Decimal>(&self, values: &mut [T::Native]) -> Option<i256> {
        if values.is_empty() {
            return None;
        }
        let (half, is_even) = (values.len() / 2, values.len().is_multiple_of(2));
        let (below, middle, _) = values.select_nth_unstable(half);
        let other = match below.iter().max() {
            Some(highest) if is_even => *highest,
            _ => *middle,
        };
        Some(self.between(T::wide(*middle), T::wide(other)))
    }

    /// The number in the middle between two.
    fn between(&self, one: i256, other: i256) -> i256 {
        let sum = one.wrapping_add(other);
        if self.finer {
            return sum.wrapping_mul(i256::from_i128(5));
        }
        let two = i256::from_i128(2);
        // Half away from zero.
        sum.wrapping_div(two).wrapping_add(sum.wrapping_rem(two))
    }
}

/// The median of all rows.
#[derive(Debug)]
struct One {
    inner: Box<dyn Accumulator>,
    middle: Middle,
}

impl Accumulator for One {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.update_batch(values)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.inner.merge_batch(states)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.retract_batch(values)
    }

    fn supports_retract_batch(&self) -> bool {
        self.inner.supports_retract_batch()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let state = self.inner.state()?;
        let state = state.iter().map(ScalarValue::to_array);
        let state = state.collect::<Result<Vec<_>>>()?;
        // It may be asked again, with other rows: a window's is.
        self.inner.merge_batch(&state)?;
        let median = self.middle.of_lists(&state[0])?;
        ScalarValue::try_from_array(&median, 0)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.inner.state()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.inner.size()
    }
}

/// The median of each group.
struct Many {
    inner: Box<dyn GroupsAccumulator>,
    middle: Middle,
}

impl GroupsAccumulator for Many {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.inner
            .update_batch(values, group_indices, opt_filter, total_num_groups)
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        self.inner
            .merge_batch(values, group_indices, total_num_groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let state = self.inner.state(emit_to)?;
        self.middle.of_lists(&state[0])
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.inner.state(emit_to)
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        self.inner.convert_to_state(values, opt_filter)
    }

    fn size(&self) -> usize {
        self.inner.size()
    }
}

#[cfg(test)]
mod tests;
