// SPDX-License-Identifier: Apache-2.0
//! Aggregates made of totals that are exact: `sum` and `avg`.
//!
//! Purpose: DataFusion 55.2 adds in the type of the result, which wraps, and averages integers as floats, which round.
//! A check of each addition would not do: whether a partial sum overflows depends on how the events were cut. Here
//! the *state* is wider than the result, and what is made of the total is checked when it is finished.
//!
//! ```text
//!   argument                      total                sum                    avg
//!   BIGINT [UNSIGNED]             DECIMAL(38, 0)       as the argument        DOUBLE
//!   duration                      DECIMAL(38, 0)       as the argument        as the argument
//!   DECIMAL(p, s), p ≤ 19         DECIMAL(38, s)       DECIMAL(p + 10, s)     DECIMAL(p + 4, s + 4)
//!   DECIMAL(p, s), p ≤ 57         256 bits, scale s    DECIMAL(p + 10, s)     DECIMAL(p + 4, s + 4)
//!                                                      of at most 38 digits if p ≤ 38
//! ```
//!
//! Invariants: a total cannot wrap. A group has fewer than 2^63 events (offsets are BIGINTs), and
//! 2^63 · 2^64 = 2^127 = 1.7e38 is what 128 bits hold; 2^63 · 10^19 = 9.2e37 is less. 2^63 · 10^57 = 9.2e75 is less
//! than the 5.7e76 of 256 bits; a DECIMAL of more digits is refused.
//! A state holds its bits, not so many digits: up to 2^127 goes through files and spills.
//! Collaborators: DataFusion's own functions, to which floats and intervals are left, and the collecting of distinct
//! values. Non-goals: `sum(x + 1), sum(x + 2)` computed from one sum and a count, as DataFusion does: the product
//! would wrap.

mod ends;
mod groups;
mod rows;

use std::fmt::Debug;
use std::hash::Hash;

use arrow::array::{ArrayRef, ArrowPrimitiveType};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, DecimalType,
    DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType,
    FieldRef, Int64Type, TimeUnit, UInt64Type, i256,
};
use datafusion::common::plan_err;
use datafusion::error::Result;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{Accumulator, AggregateUDF, GroupsAccumulator};

pub(super) use self::ends::{Ends, call};
pub(super) use self::groups::Groups;
pub(super) use self::rows::Rows;
use self::rows::{Distinct, SlidingDistinct};

/// Most digits of a DECIMAL whose totals 128 bits hold.
const DIGITS_OF_128_BITS: u8 = 19;
/// Most digits of a DECIMAL whose totals 256 bits hold.
const DIGITS_OF_256_BITS: u8 = 57;

/// The Arrow type of totals.
pub(super) trait Wide: DecimalType<Native: From<i128>> + Debug {
    /// The number itself, if 128 bits hold it.
    fn low_128_bits(total: Self::Native) -> i128;
}

impl Wide for Decimal128Type {
    fn low_128_bits(total: i128) -> i128 {
        total
    }
}

impl Wide for Decimal256Type {
    fn low_128_bits(total: i256) -> i128 {
        total.as_i128()
    }
}

/// A number that is added up in a wider one, `W`.
pub(super) trait Narrow<W>: Into<W> {
    /// The low bits of a wide number: the same number, if it lies between the ends of this type.
    fn low_bits(wide: W) -> Self;
}

macro_rules! narrow {
    ($($narrow:ty),*) => {$(
        impl Narrow<i128> for $narrow {
            fn low_bits(wide: i128) -> Self {
                wide as Self
            }
        }
    )*};
}

narrow!(i32, i64, u64, i128);

impl Narrow<i256> for i128 {
    fn low_bits(wide: i256) -> Self {
        wide.as_i128()
    }
}

impl Narrow<i256> for i256 {
    fn low_bits(wide: i256) -> Self {
        wide
    }
}

/// The Arrow type of an argument whose totals are of type `S`.
pub(super) trait Argument<S: Wide>:
    ArrowPrimitiveType<Native: Narrow<S::Native> + Eq + Hash> + Debug + Send + Sync
{
}

impl<A, S: Wide> Argument<S> for A where
    A: ArrowPrimitiveType<Native: Narrow<S::Native> + Eq + Hash> + Debug + Send + Sync
{
}

/// What becomes of totals of type `S`.
pub(super) trait Finish<S: Wide>: Debug + Send + Sync + 'static {
    /// Whether it must know how many values a total is made of. Then states have a second column, a BIGINT.
    const COUNTS: bool;

    /// The results, NULL where `nulls` says so: there the total is 0, and the count too. `counts` is as long as
    /// `totals`, or empty if nobody asked for it.
    ///
    /// # Errors
    /// When a result does not fit its type, with what to write instead.
    fn finish(
        &self,
        totals: Vec<S::Native>,
        counts: &[i64],
        nulls: Option<NullBuffer>,
    ) -> Result<ArrayRef>;
}

/// An aggregate function of totals.
pub(super) trait OfTotals {
    type Finish<A: Argument<S>, S: Wide>: Finish<S>;

    /// The function of DataFusion to which the other types are left.
    fn inner(&self) -> &AggregateUDF;

    /// How a call ends.
    fn finish<A: Argument<S>, S: Wide>(&self, args: &AccumulatorArgs) -> Self::Finish<A, S>;

    /// The type in which states hold DISTINCT values: one of the Arrow type of `argument`.
    fn distinct<'a>(&self, argument: &'a FieldRef, result: &'a FieldRef) -> &'a FieldRef;
}

/// The type of totals of `argument`; none of what is left to DataFusion.
pub(super) fn total_type(argument: &DataType) -> Option<DataType> {
    Some(match argument {
        DataType::Int64 | DataType::UInt64 | DataType::Duration(_) => DataType::Decimal128(38, 0),
        DataType::Decimal32(_, scale) | DataType::Decimal64(_, scale) => {
            DataType::Decimal128(38, *scale)
        }
        DataType::Decimal128(precision, scale) if *precision <= DIGITS_OF_128_BITS => {
            DataType::Decimal128(38, *scale)
        }
        DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale) => {
            DataType::Decimal256(76, *scale)
        }
        _ => return None,
    })
}

/// Refuses what not even 256 bits hold the totals of.
///
/// # Errors
/// Then, with what to write instead.
pub(super) fn check_digits(function: &str, arg_types: &[DataType]) -> Result<()> {
    if let [DataType::Decimal256(precision, scale)] = arg_types
        && *precision > DIGITS_OF_256_BITS
    {
        let kept = (*scale).min(DIGITS_OF_256_BITS.cast_signed());
        return plan_err!(
            "`{function}` takes no DECIMAL({precision}, {scale}), whose sums nothing holds: cast the argument, as in {function}(CAST(… AS DECIMAL({DIGITS_OF_256_BITS}, {kept})))"
        );
    }
    Ok(())
}

/// `make!(A, S, T)`, where `A` is the Arrow type of the argument, `S` that of totals, and `T` a total's `DataType`;
/// `other` for what is left to DataFusion.
macro_rules! by_types {
    ($argument:expr, $make:ident, $other:expr) => {{
        let argument = $argument;
        let Some(total) = total_type(argument) else {
            return $other;
        };
        match (argument, &total) {
            (DataType::Int64, _) => $make!(Int64Type, Decimal128Type, total),
            (DataType::UInt64, _) => $make!(UInt64Type, Decimal128Type, total),
            (DataType::Duration(TimeUnit::Second), _) => {
                $make!(DurationSecondType, Decimal128Type, total)
            }
            (DataType::Duration(TimeUnit::Millisecond), _) => {
                $make!(DurationMillisecondType, Decimal128Type, total)
            }
            (DataType::Duration(TimeUnit::Microsecond), _) => {
                $make!(DurationMicrosecondType, Decimal128Type, total)
            }
            (DataType::Duration(TimeUnit::Nanosecond), _) => {
                $make!(DurationNanosecondType, Decimal128Type, total)
            }
            (DataType::Decimal32(_, _), _) => $make!(Decimal32Type, Decimal128Type, total),
            (DataType::Decimal64(_, _), _) => $make!(Decimal64Type, Decimal128Type, total),
            (DataType::Decimal128(_, _), DataType::Decimal128(_, _)) => {
                $make!(Decimal128Type, Decimal128Type, total)
            }
            (DataType::Decimal128(_, _), _) => $make!(Decimal128Type, Decimal256Type, total),
            (DataType::Decimal256(_, _), _) => $make!(Decimal256Type, Decimal256Type, total),
            _ => $other,
        }
    }};
}

/// The accumulator of all rows.
pub(super) fn accumulator(
    function: &impl OfTotals,
    args: AccumulatorArgs,
) -> Result<Box<dyn Accumulator>> {
    macro_rules! rows {
        ($a:ty, $s:ty, $total:ident) => {{
            let finish = function.finish::<$a, $s>(&args);
            if args.is_distinct {
                let result = function.distinct(&args.expr_fields[0], &args.return_field);
                // DataFusion's `sum` collects them, in the type that it is to answer.
                let values = sum_udaf().accumulator(AccumulatorArgs {
                    return_field: FieldRef::clone(result),
                    ..args
                })?;
                return Ok(Box::new(Distinct::<$a, $s, _>::new(finish, values)));
            }
            Ok(Box::new(Rows::<$a, $s, _>::new($total, finish)))
        }};
    }
    by_types!(
        args.expr_fields[0].data_type(),
        rows,
        function.inner().accumulator(args)
    )
}

/// The accumulator of many groups.
pub(super) fn groups_accumulator(
    function: &impl OfTotals,
    args: AccumulatorArgs,
) -> Result<Box<dyn GroupsAccumulator>> {
    macro_rules! groups {
        ($a:ty, $s:ty, $total:ident) => {
            Ok(Box::new(Groups::<$a, $s, _>::new(
                $total,
                function.finish::<$a, $s>(&args),
            )))
        };
    }
    by_types!(
        args.expr_fields[0].data_type(),
        groups,
        function.inner().create_groups_accumulator(args)
    )
}

/// The accumulator of a window frame.
pub(super) fn sliding_accumulator(
    function: &impl OfTotals,
    args: AccumulatorArgs,
) -> Result<Box<dyn Accumulator>> {
    macro_rules! rows {
        ($a:ty, $s:ty, $total:ident) => {{
            let finish = function.finish::<$a, $s>(&args);
            if args.is_distinct {
                return Ok(Box::new(SlidingDistinct::<$a, $s, _>::new(finish)));
            }
            Ok(Box::new(Rows::<$a, $s, _>::new($total, finish)))
        }};
    }
    by_types!(
        args.expr_fields[0].data_type(),
        rows,
        function.inner().create_sliding_accumulator(args)
    )
}
