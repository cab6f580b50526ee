// SPDX-License-Identifier: Apache-2.0
//! `avg` that is exact: one rounding, of the exact total divided by the exact count.
//!
//! Purpose: DataFusion 55.2's `avg` adds BIGINTs up as DOUBLEs, so that its answer depends on how the events were cut,
//! and cuts a DECIMAL's digits off. Here both have the total of `sum`, see `wide`, and a count beside it. The types of
//! results are DataFusion's. A DOUBLE is the one nearest to the quotient; a DECIMAL and a duration are rounded half
//! away from zero, as `CAST` to fewer digits is, and as PostgreSQL's `avg` is.
//! Collaborators: DataFusion's own function, to which floats are left.

mod quotient;

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::types::{
    NativeType, logical_float64, logical_int8, logical_int16, logical_int32, logical_int64,
    logical_uint8, logical_uint16, logical_uint32, logical_uint64,
};
use datafusion::error::Result;
use datafusion::functions_aggregate::average::avg_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Coercion, Documentation, GroupsAccumulator,
    ReversedUDAF, Signature, TypeSignature, TypeSignatureClass, Volatility,
};

use self::quotient::Quotient;
use super::wide::{self, Argument, OfTotals, Wide};

/// `avg`, in place of DataFusion's.
#[derive(Debug)]
pub struct Avg {
    inner: Arc<AggregateUDF>,
    signature: Signature,
}

impl Avg {
    /// The function.
    pub fn new() -> Self {
        Self {
            inner: avg_udaf(),
            signature: signature(),
        }
    }
}

impl Default for Avg {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for Avg {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for Avg {}

impl Hash for Avg {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

/// DataFusion's, but integers stay integers.
fn signature() -> Signature {
    let exact = |class| Coercion::new_exact(class);
    let native = TypeSignatureClass::Native;
    let unsigned = Coercion::new_implicit(
        native(logical_uint64()),
        vec![
            native(logical_uint8()),
            native(logical_uint16()),
            native(logical_uint32()),
        ],
        NativeType::UInt64,
    );
    let signed = Coercion::new_implicit(
        native(logical_int64()),
        vec![
            native(logical_int8()),
            native(logical_int16()),
            native(logical_int32()),
        ],
        NativeType::Int64,
    );
    let float = Coercion::new_implicit(
        native(logical_float64()),
        vec![TypeSignatureClass::Float],
        NativeType::Float64,
    );
    let one_of = [
        exact(TypeSignatureClass::Decimal),
        unsigned,
        signed,
        float,
        exact(TypeSignatureClass::Duration),
    ];
    let one_of = one_of.map(|argument| TypeSignature::Coercible(vec![argument]));
    Signature::one_of(one_of.to_vec(), Volatility::Immutable)
}

impl OfTotals for Avg {
    type Finish<A: Argument<S>, S: Wide> = Quotient<A, S>;

    fn inner(&self) -> &AggregateUDF {
        &self.inner
    }

    fn finish<A: Argument<S>, S: Wide>(&self, args: &AccumulatorArgs) -> Quotient<A, S> {
        let argument = args.expr_fields[0].data_type();
        Quotient::new(args.name, argument, args.return_field.data_type())
    }

    fn distinct<'a>(&self, argument: &'a FieldRef, _result: &'a FieldRef) -> &'a FieldRef {
        argument
    }
}

impl AggregateUDFImpl for Avg {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        wide::check_digits(self.name(), arg_types)?;
        self.inner.return_type(arg_types)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let argument = args.input_fields[0].data_type();
        let Some(total) = wide::total_type(argument) else {
            return self.inner.state_fields(args);
        };
        let name = |part| format_state_name(args.name, part);
        let fields = if args.is_distinct {
            let value = Field::new_list_field(argument.clone(), true);
            vec![Field::new_list(name("avg distinct"), value, false)]
        } else {
            vec![
                Field::new(name("sum"), total, true),
                Field::new(name("count"), DataType::Int64, true),
            ]
        };
        Ok(fields.into_iter().map(Arc::new).collect())
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        wide::accumulator(self, args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        wide::groups_accumulator(self, args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        wide::sliding_accumulator(self, args)
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

#[cfg(test)]
mod tests;
