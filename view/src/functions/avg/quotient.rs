// SPDX-License-Identifier: Apache-2.0
//! A total divided by its count, rounded once.

use std::marker::PhantomData;
use std::sync::Arc;

use arrow::array::{ArrayRef, ArrowNativeTypeOp, Float64Array, PrimitiveArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::DataType;
use datafusion::error::{DataFusionError, Result};

use crate::functions::wide::{Argument, Ends, Finish, Narrow, Wide, call};
use crate::sql_type;

/// Averages of arguments of the Arrow type `A`, out of totals of type `S`.
#[derive(Debug)]
pub(in crate::functions) struct Quotient<A, S: Wide> {
    /// The call, for errors.
    name: String,
    argument: DataType,
    result: DataType,
    /// What a result has to hold.
    ends: Ends<S>,
    /// 10 to the number of digits behind the point that a result has more than an argument.
    more: S::Native,
    types: PhantomData<A>,
}

impl<A, S: Wide> Quotient<A, S> {
    pub(super) fn new(name: &str, argument: &DataType, result: &DataType) -> Self {
        let more = scale(result).abs_diff(scale(argument));
        Self {
            name: call(name).to_owned(),
            argument: argument.clone(),
            result: result.clone(),
            ends: Ends::of(result),
            more: S::Native::from(10).pow_wrapping(u32::from(more)),
            types: PhantomData,
        }
    }
}

/// Digits behind the point.
fn scale(data_type: &DataType) -> i8 {
    match data_type {
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale)
        | DataType::Decimal256(_, scale) => *scale,
        _ => 0,
    }
}

impl<A: Argument<S>, S: Wide> Finish<S> for Quotient<A, S> {
    const COUNTS: bool = true;

    fn finish(
        &self,
        totals: Vec<S::Native>,
        counts: &[i64],
        nulls: Option<NullBuffer>,
    ) -> Result<ArrayRef> {
        // Where a group has no values the total is 0, and so is the value below the NULL.
        let totals = totals.into_iter().zip(counts.iter().map(|n| (*n).max(1)));
        if self.result == DataType::Float64 {
            let nearest = totals.map(|(total, count)| nearest(S::low_128_bits(total), count));
            let nearest: Vec<f64> = nearest.collect();
            return Ok(Arc::new(Float64Array::new(nearest.into(), nulls)));
        }
        let rounded = totals.map(|(total, count)| {
            let rounded = rounded::<S>(total, S::Native::from(i128::from(count)), self.more);
            let fits = rounded.filter(|rounded| self.ends.hold(*rounded));
            fits.map(A::Native::low_bits).ok_or_else(|| self.passed())
        });
        let rounded = rounded.collect::<Result<Vec<A::Native>>>()?;
        let results = PrimitiveArray::<A>::new(rounded.into(), nulls);
        Ok(Arc::new(results.with_data_type(self.result.clone())))
    }
}

impl<A, S: Wide> Quotient<A, S> {
    /// An error of the data, not of the statement: `Execution`, as of an overflow in an expression. Only a DECIMAL
    /// whose result cannot have four more digits gets there; its own type always holds its average.
    #[cold]
    fn passed(&self) -> DataFusionError {
        let scale = scale(&self.argument);
        let way_out = match &self.argument {
            DataType::Decimal32(_, _) | DataType::Decimal64(_, _) => {
                format!("avg(CAST(… AS DECIMAL(38, {scale})))")
            }
            _ => format!("CAST(avg(CAST(… AS DECIMAL(42, {scale}))) AS DECIMAL(38, {scale}))"),
        };
        DataFusionError::Execution(format!(
            "`{}` does not fit {}: write {way_out}, or avg(CAST(… AS DOUBLE))",
            self.name,
            sql_type(&self.result)
        ))
    }
}

/// `total / count` with `more` (a power of ten) times as fine a last digit, rounded half away from zero; none if it
/// passes the end of `S`. `count` is positive and less than 2^63.
fn rounded<S: Wide>(total: S::Native, count: S::Native, more: S::Native) -> Option<S::Native> {
    let whole = total.div_wrapping(count).mul_checked(more).ok()?;
    // Less than 2^63 · 10^4 each.
    let rest = total.mod_wrapping(count).mul_wrapping(more);
    let (digits, rest) = (rest.div_wrapping(count), rest.mod_wrapping(count));
    let (zero, one) = (S::Native::from(0), S::Native::from(1));
    let twice = rest.add_wrapping(rest);
    let away = if twice >= count {
        one
    } else if twice <= count.neg_wrapping() {
        zero.sub_wrapping(one)
    } else {
        zero
    };
    whole.add_checked(digits.add_wrapping(away)).ok()
}

/// The double that is nearest to `total / count`, the even one of two that are. `count` is positive.
pub(super) fn nearest(total: i128, count: i64) -> f64 {
    /// Integers up to there are doubles.
    const EXACT: u64 = 1 << f64::MANTISSA_DIGITS;
    let magnitude = total.unsigned_abs();
    let count = count.unsigned_abs();
    if magnitude == 0 {
        return 0.0;
    }
    if magnitude <= u128::from(EXACT) && count <= EXACT {
        // IEEE 754 rounds the quotient of two doubles once. Of 64 bits, a processor converts the total itself.
        return (total as i64) as f64 / count as f64;
    }
    // With its highest bit in front, the quotient has 64 bits or more. The last one stands for all that follow it, so
    // that what the conversion rounds lies on the same side of every tie.
    let shift = magnitude.leading_zeros();
    let shifted = magnitude << shift;
    let count = u128::from(count);
    let quotient = (shifted / count) | u128::from(!shifted.is_multiple_of(count));
    let quotient = quotient as f64 * 0.5_f64.powi(shift.cast_signed());
    if total < 0 { -quotient } else { quotient }
}

#[cfg(test)]
mod tests;
