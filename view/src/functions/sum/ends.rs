// SPDX-License-Identifier: Apache-2.0
//! The ends of a result: what of the wide numbers of states fits it, and what to write where one does not.

use std::fmt::Debug;
use std::hash::Hash;

use arrow::array::{ArrowNativeTypeOp, ArrowPrimitiveType};
use arrow::datatypes::{DataType, DecimalType, i256};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::function::AccumulatorArgs;

use crate::sql_type;

/// A number that is added up in a `Wide` one.
pub(super) trait Narrow<Wide>: Into<Wide> {
    /// The low bits of a wide number: the same number, if it lies between the ends of this type.
    fn low_bits(wide: Wide) -> Self;
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

/// The Arrow type of an argument, and of the result, of sums whose states are of type `S`.
pub(super) trait Argument<S: DecimalType>:
    ArrowPrimitiveType<Native: Narrow<S::Native> + Eq + Hash> + Debug + Send + Sync
{
}

impl<A, S: DecimalType> Argument<S> for A where
    A: ArrowPrimitiveType<Native: Narrow<S::Native> + Eq + Hash> + Debug + Send + Sync
{
}

/// What is known of one `sum` besides its numbers. `S` is the type of the state.
#[derive(Debug)]
pub(super) struct Ends<S: DecimalType> {
    /// The call, for errors.
    name: String,
    pub(super) state: DataType,
    pub(super) result: DataType,
    least: S::Native,
    greatest: S::Native,
}

impl<S: DecimalType> Ends<S>
where
    S::Native: From<i128>,
{
    /// Those of the result of `args`, in the state that belongs to its argument.
    pub(super) fn of(args: &AccumulatorArgs) -> Self {
        let argument = args.expr_fields[0].data_type();
        let state = super::state_type(argument).expect("asked only of what is added up here");
        Self::new(args.name, state, args.return_field.data_type().clone())
    }

    pub(super) fn new(name: &str, state: DataType, result: DataType) -> Self {
        let (least, greatest) = match &result {
            DataType::UInt64 => (S::Native::from(0), S::Native::from(i128::from(u64::MAX))),
            DataType::Decimal32(precision, _)
            | DataType::Decimal64(precision, _)
            | DataType::Decimal128(precision, _)
            | DataType::Decimal256(precision, _) => {
                let greatest = S::MAX_FOR_EACH_PRECISION[usize::from(*precision)];
                (greatest.neg_wrapping(), greatest)
            }
            // BIGINT and durations.
            _ => (
                S::Native::from(i128::from(i64::MIN)),
                S::Native::from(i128::from(i64::MAX)),
            ),
        };
        Self {
            name: call(name).to_owned(),
            state,
            result,
            least,
            greatest,
        }
    }
}

impl<S: DecimalType> Ends<S> {
    /// The total as a result.
    ///
    /// # Errors
    /// When it does not fit, with what to write instead.
    pub(super) fn finish<R: Narrow<S::Native>>(&self, total: S::Native) -> Result<R> {
        if self.fits(total) {
            Ok(R::low_bits(total))
        } else {
            Err(self.passed())
        }
    }

    /// The totals as results.
    ///
    /// # Errors
    /// When one does not fit, with what to write instead.
    pub(super) fn finish_all<R: Narrow<S::Native>>(&self, totals: &[S::Native]) -> Result<Vec<R>> {
        if totals.iter().all(|total| self.fits(*total)) {
            Ok(totals.iter().map(|total| R::low_bits(*total)).collect())
        } else {
            Err(self.passed())
        }
    }

    fn fits(&self, total: S::Native) -> bool {
        self.least <= total && total <= self.greatest
    }

    /// An error of the data, not of the statement: `Execution`, as of an overflow in an expression.
    #[cold]
    fn passed(&self) -> DataFusionError {
        let way_out = match &self.result {
            DataType::Duration(_) => {
                "sum(CAST(CAST(… AS BIGINT) AS DECIMAL(38, 0))), or CAST(… AS DOUBLE) inside"
                    .to_owned()
            }
            DataType::Decimal128(38, scale) => wide_way_out(38, *scale),
            DataType::Decimal256(precision, scale) => wide_way_out(*precision, *scale),
            DataType::Decimal128(_, scale)
            | DataType::Decimal64(_, scale)
            | DataType::Decimal32(_, scale) => wider_way_out(*scale),
            _ => wider_way_out(0),
        };
        DataFusionError::Execution(format!(
            "`{}` does not fit {}: write {way_out}",
            self.name,
            sql_type(&self.result)
        ))
    }
}

/// `sum(x)` of `sum(x) FILTER (WHERE …)` and of what a window adds.
fn call(name: &str) -> &str {
    let mut open = 0_usize;
    let end = name.find(|c| {
        open += usize::from(c == '(');
        c == ')' && {
            open = open.saturating_sub(1);
            open == 0
        }
    });
    end.map_or(name, |end| &name[..=end])
}

/// Where there is a wider type.
fn wider_way_out(scale: i8) -> String {
    format!("sum(CAST(… AS DECIMAL(38, {scale}))), or sum(CAST(… AS DOUBLE))")
}

/// Where there is none: fewer digits after the point, if there are any.
fn wide_way_out(precision: u8, scale: i8) -> String {
    if scale > 0 {
        format!("sum(CAST(… AS DOUBLE)), or sum(CAST(… AS DECIMAL({precision}, 0)))")
    } else {
        "sum(CAST(… AS DOUBLE))".to_owned()
    }
}
