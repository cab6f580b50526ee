// SPDX-License-Identifier: Apache-2.0
//! When two finished values count as equal.
//!
//! Floats added in another order round differently, and a quantile sketch depends on how it was merged.
//! The cut law, diffs and audits compare by the class that each output declares.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use datafusion::common::utils::normalize_float_zero;

use crate::aggregates::Precision;

/// How far two results over the same events may lie apart, and still be the same result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Equality {
    /// Not at all. `-0.0` equals `0.0`, and NaN equals NaN.
    Exact,
    /// Floats by so many units in the last place, of the larger magnitude; other types not at all.
    Ulps(u32),
    /// Numbers by this fraction of the larger magnitude, or by this much near zero; others not at all.
    Bound(f64),
}

/// Rounding of a float sum in another order.
const SUM_ULPS: u32 = 256;
/// Rounding of variances and the like.
const MOMENTS_BOUND: f64 = 1e-9;
/// Difference of two t-digests over the same values, for values of one order of magnitude.
const QUANTILE_BOUND: f64 = 0.05;

impl Equality {
    /// That of an aggregate over arguments of type `argument`.
    pub(crate) fn of(precision: Precision, argument: &DataType) -> Self {
        let float = matches!(argument, DataType::Float64 | DataType::Float32);
        match precision {
            Precision::Exact => Self::Exact,
            Precision::FloatSum if !float => Self::Exact,
            Precision::FloatSum => Self::Ulps(SUM_ULPS),
            Precision::Moments => Self::Bound(MOMENTS_BOUND),
            Precision::Quantile => Self::Bound(QUANTILE_BOUND),
        }
    }

    /// The class of an expression over values of two classes: the wider one, and a little wider still,
    /// as an expression rounds too.
    pub(crate) fn combine(self, other: Self) -> Self {
        match (self, other) {
            (Self::Bound(a), Self::Bound(b)) => Self::Bound(a.max(b)),
            (Self::Bound(a), _) | (_, Self::Bound(a)) => Self::Bound(a),
            (Self::Ulps(a), Self::Ulps(b)) => Self::Ulps(a.saturating_add(b)),
            (Self::Ulps(a), Self::Exact) | (Self::Exact, Self::Ulps(a)) => Self::Ulps(a),
            (Self::Exact, Self::Exact) => Self::Exact,
        }
    }

    /// For each row, whether `left` and `right` are the same under this class. NULL equals NULL.
    ///
    /// # Errors
    /// When the two have different types or lengths.
    pub fn same(&self, left: &ArrayRef, right: &ArrayRef) -> Result<BooleanArray, ArrowError> {
        if left.data_type() != right.data_type() || left.len() != right.len() {
            return Err(ArrowError::InvalidArgumentError(format!(
                "cannot compare {} values of type {} with {} of type {}",
                left.len(),
                left.data_type(),
                right.len(),
                right.data_type()
            )));
        }
        match self {
            Self::Ulps(ulps) if left.data_type() == &DataType::Float64 => {
                let tolerance = f64::from(*ulps) * f64::EPSILON;
                same_floats(left, right, |a, b| {
                    (a - b).abs() <= tolerance * a.abs().max(b.abs())
                })
            }
            Self::Bound(bound) if left.data_type().is_numeric() => {
                same_floats(left, right, |a, b| {
                    (a - b).abs() <= bound * a.abs().max(b.abs()).max(1.0)
                })
            }
            _ => same_exactly(left, right),
        }
    }
}

fn same_floats(
    left: &ArrayRef,
    right: &ArrayRef,
    close: impl Fn(f64, f64) -> bool,
) -> Result<BooleanArray, ArrowError> {
    let left = cast(left, &DataType::Float64)?;
    let right = cast(right, &DataType::Float64)?;
    let left = left.as_primitive::<Float64Type>();
    let right = right.as_primitive::<Float64Type>();
    Ok(left
        .iter()
        .zip(right.iter())
        .map(|(a, b)| {
            Some(match (a, b) {
                (None, None) => true,
                (Some(a), Some(b)) => {
                    a == b
                        || (a.is_nan() && b.is_nan())
                        || (a.is_finite() && b.is_finite() && close(a, b))
                }
                _ => false,
            })
        })
        .collect())
}

fn same_exactly(left: &ArrayRef, right: &ArrayRef) -> Result<BooleanArray, ArrowError> {
    if left.data_type() == &DataType::Float64 {
        return same_floats(left, right, |_, _| false);
    }
    let converter = RowConverter::new(vec![SortField::new(left.data_type().clone())])?;
    let left = converter.convert_columns(&[normalize_float_zero(left)])?;
    let right = converter.convert_columns(&[normalize_float_zero(right)])?;
    Ok(left
        .iter()
        .zip(right.iter())
        .map(|(a, b)| Some(a == b))
        .collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array, StringArray};

    use super::*;

    fn floats(values: &[Option<f64>]) -> ArrayRef {
        Arc::new(Float64Array::from(values.to_vec()))
    }

    fn same(equality: Equality, left: Option<f64>, right: Option<f64>) -> bool {
        let same = equality.same(&floats(&[left]), &floats(&[right]));
        same.unwrap().value(0)
    }

    #[test]
    fn rounding_is_within_ulps_and_more_is_not() {
        let next = f64::from_bits(1.0_f64.to_bits() + 3);
        assert!(!same(Equality::Exact, Some(1.0), Some(next)));
        assert!(same(Equality::Ulps(4), Some(1.0), Some(next)));
        assert!(!same(Equality::Ulps(4), Some(1.0), Some(1.0 + 1e-12)));
        assert!(same(Equality::Bound(0.1), Some(100.0), Some(109.0)));
        assert!(!same(Equality::Bound(0.1), Some(100.0), Some(120.0)));
    }

    #[test]
    fn odd_values_equal_themselves_and_nothing_else() {
        for equality in [Equality::Exact, Equality::Ulps(9), Equality::Bound(0.5)] {
            for odd in [None, Some(f64::NAN), Some(f64::INFINITY)] {
                assert!(same(equality, odd, odd), "{equality:?} {odd:?}");
                assert!(!same(equality, odd, Some(1.0)), "{equality:?} {odd:?}");
            }
            assert!(same(equality, Some(0.0), Some(-0.0)));
            assert!(!same(
                equality,
                Some(f64::INFINITY),
                Some(f64::NEG_INFINITY)
            ));
        }
    }

    #[test]
    fn other_types_are_compared_exactly() {
        let left: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("b")]));
        let right: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("c")]));
        let same = Equality::Bound(0.5).same(&left, &right).unwrap();
        assert_eq!(same.values().set_indices().collect::<Vec<_>>(), [0, 1]);
        let big = |n: i64| -> ArrayRef { Arc::new(Int64Array::from(vec![n])) };
        let ulps = Equality::Ulps(9).same(&big(i64::MAX), &big(i64::MAX - 1));
        assert!(!ulps.unwrap().value(0));
        assert!(Equality::Exact.same(&left, &big(1)).is_err());
    }
}
