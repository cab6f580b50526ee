// SPDX-License-Identifier: Apache-2.0
//! `sum` that is exact or an error: it never wraps around. The total is checked when it is finished, see `wide`.

mod total;

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::error::Result;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, GroupsAccumulator, ReversedUDAF,
    SetMonotonicity, Signature,
};

use self::total::Total;
use super::wide::{self, Argument, OfTotals, Wide};

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

impl OfTotals for Sum {
    type Finish<A: Argument<S>, S: Wide> = Total<A, S>;

    fn inner(&self) -> &AggregateUDF {
        &self.inner
    }

    fn finish<A: Argument<S>, S: Wide>(&self, args: &AccumulatorArgs) -> Total<A, S> {
        Total::new(args.name, args.return_field.data_type())
    }

    fn distinct<'a>(&self, _argument: &'a FieldRef, result: &'a FieldRef) -> &'a FieldRef {
        result
    }
}

impl AggregateUDFImpl for Sum {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        wide::check_digits(self.name(), arg_types)?;
        self.inner.return_type(arg_types)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        match wide::total_type(args.input_fields[0].data_type()) {
            Some(total) if !args.is_distinct => {
                let name = format_state_name(args.name, "sum");
                Ok(vec![Arc::new(Field::new(name, total, true))])
            }
            _ => self.inner.state_fields(args),
        }
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

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.inner().set_monotonicity(data_type)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

#[cfg(test)]
mod tests;
