// SPDX-License-Identifier: Apache-2.0
//! `sum` that is exact or an error: it never wraps around.
//!
//! Purpose: DataFusion 55.2's `sum` adds in the type of its result, which wraps. A check of each addition would not
//! do: whether a partial sum overflows depends on how the events were cut. Here the *state* is wider than the result,
//! and the total is checked when it is finished.
//!
//! ```text
//!   argument                      state                result
//!   BIGINT [UNSIGNED], duration   DECIMAL(38, 0)       as the argument
//!   DECIMAL(p, s), p ≤ 19         DECIMAL(38, s)       DECIMAL(p + 10, s)
//!   DECIMAL(p, s), p ≤ 57         256 bits, scale s    DECIMAL(p + 10, s), of at most 38 digits if p ≤ 38
//! ```
//!
//! Invariants: a state cannot wrap. A group has fewer than 2^63 events (offsets are BIGINTs), and
//! 2^63 · 2^64 = 2^127 = 1.7e38 is what 128 bits hold; 2^63 · 10^19 = 9.2e37 is less. 2^63 · 10^57 = 9.2e75 is less
//! than the 5.7e76 of 256 bits; a DECIMAL of more digits is refused.
//! A state holds its bits, not so many digits: up to 2^127 goes through files and spills.
//! Collaborators: DataFusion's own function, to which floats and intervals are left, and the collecting of distinct
//! values. Non-goals: `sum(x + 1), sum(x + 2)` computed from one sum and a count, as DataFusion does: the product
//! would wrap.

mod ends;
mod groups;
mod rows;

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{
    DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type,
    DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType,
    Field, FieldRef, Int64Type, TimeUnit, UInt64Type,
};
use datafusion::common::plan_err;
use datafusion::error::Result;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, GroupsAccumulator, ReversedUDAF,
    SetMonotonicity, Signature,
};

use self::ends::Ends;
use self::groups::Groups;
use self::rows::{Distinct, Rows, SlidingDistinct};

/// Most digits of a DECIMAL whose sums 128 bits hold.
const DIGITS_OF_128_BITS: u8 = 19;
/// Most digits of a DECIMAL whose sums 256 bits hold.
const DIGITS_OF_256_BITS: u8 = 57;

/// `sum`, in place of DataFusion's.
#[derive(Debug)]
pub struct Sum {
    inner: Arc<AggregateUDF>,
}

impl Sum {
    /// The function.
    pub fn new() -> Self {
        Self { inner: sum_udaf() }
    }
}

impl Default for Sum {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for Sum {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for Sum {}

impl Hash for Sum {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

/// The type of the state of sums of `argument`; none of what is left to DataFusion.
fn state_type(argument: &DataType) -> Option<DataType> {
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

/// `make!(A, S)`, where `A` is the Arrow type of the argument and the result and `S` that of the state; `other` for
/// what is left to DataFusion.
macro_rules! by_types {
    ($argument:expr, $state:expr, $make:ident, $other:expr) => {
        match ($argument, $state) {
            (DataType::Int64, _) => $make!(Int64Type, Decimal128Type),
            (DataType::UInt64, _) => $make!(UInt64Type, Decimal128Type),
            (DataType::Duration(TimeUnit::Second), _) => $make!(DurationSecondType, Decimal128Type),
            (DataType::Duration(TimeUnit::Millisecond), _) => {
                $make!(DurationMillisecondType, Decimal128Type)
            }
            (DataType::Duration(TimeUnit::Microsecond), _) => {
                $make!(DurationMicrosecondType, Decimal128Type)
            }
            (DataType::Duration(TimeUnit::Nanosecond), _) => {
                $make!(DurationNanosecondType, Decimal128Type)
            }
            (DataType::Decimal32(_, _), _) => $make!(Decimal32Type, Decimal128Type),
            (DataType::Decimal64(_, _), _) => $make!(Decimal64Type, Decimal128Type),
            (DataType::Decimal128(_, _), Some(DataType::Decimal128(_, _))) => {
                $make!(Decimal128Type, Decimal128Type)
            }
            (DataType::Decimal128(_, _), _) => $make!(Decimal128Type, Decimal256Type),
            (DataType::Decimal256(_, _), _) => $make!(Decimal256Type, Decimal256Type),
            _ => $other,
        }
    };
}

impl AggregateUDFImpl for Sum {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        if let [DataType::Decimal256(precision, scale)] = arg_types
            && *precision > DIGITS_OF_256_BITS
        {
            return plan_err!(
                "`sum` takes no DECIMAL({precision}, {scale}), whose sums nothing holds: cast the argument, as in sum(CAST(… AS DECIMAL({DIGITS_OF_256_BITS}, {scale})))"
            );
        }
        self.inner.return_type(arg_types)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let state = args
            .input_fields
            .first()
            .and_then(|field| state_type(field.data_type()))
            .filter(|_| !args.is_distinct);
        let Some(state) = state else {
            return self.inner.state_fields(args);
        };
        let name = format_state_name(args.name, "sum");
        Ok(vec![Arc::new(Field::new(name, state, true))])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let argument = args.expr_fields[0].data_type();
        let state = state_type(argument);
        if args.is_distinct {
            macro_rules! distinct {
                ($a:ty, $s:ty) => {{
                    let ends = Ends::<$s>::of(&args);
                    let values = self.inner.accumulator(args)?;
                    Ok(Box::new(Distinct::<$a, $s>::new(ends, values)))
                }};
            }
            return by_types!(argument, state, distinct, self.inner.accumulator(args));
        }
        macro_rules! rows {
            ($a:ty, $s:ty) => {
                Ok(Box::new(Rows::<$a, $s>::new(Ends::of(&args))))
            };
        }
        by_types!(argument, state, rows, self.inner.accumulator(args))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        macro_rules! groups {
            ($a:ty, $s:ty) => {
                Ok(Box::new(Groups::<$a, $s>::new(Ends::of(&args))))
            };
        }
        let argument = args.expr_fields[0].data_type();
        let other = || self.inner.create_groups_accumulator(args.clone());
        by_types!(argument, state_type(argument), groups, other())
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let argument = args.expr_fields[0].data_type();
        let state = state_type(argument);
        if args.is_distinct {
            macro_rules! distinct {
                ($a:ty, $s:ty) => {
                    Ok(Box::new(SlidingDistinct::<$a, $s>::new(Ends::of(&args))))
                };
            }
            let other = || self.inner.create_sliding_accumulator(args.clone());
            return by_types!(argument, state, distinct, other());
        }
        macro_rules! rows {
            ($a:ty, $s:ty) => {
                Ok(Box::new(Rows::<$a, $s>::new(Ends::of(&args))))
            };
        }
        let other = || self.inner.create_sliding_accumulator(args.clone());
        by_types!(argument, state, rows, other())
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.inner().set_monotonicity(data_type)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

#[cfg(test)]
mod tests;
