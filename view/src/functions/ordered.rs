// SPDX-License-Identifier: Apache-2.0
//! Lists in a stated order: what `array_agg(… ORDER BY …)` and `string_agg(… ORDER BY …)` are made of.
//!
//! Purpose: DataFusion 55.2 takes each value and each place apart into a small allocation of its own (some 340 bytes
//! for a BIGINT), copies all of them at every merge, and asks how much that is afterwards. Here the columns stay the
//! arrays that they came in, shared and never copied before a list is asked for:
//!
//! ```text
//!   chunk   columns: value | place …      one for each batch that came
//!           rows:    (group, row) …       which of its rows belong to which group
//! ```
//!
//! A list is sorted when it is finished, or written to a state; a stable merge sort takes the sorted parts of a merge
//! in about one comparison for each value and halving.
//! Invariants: states are those of DataFusion's `array_agg`, field by field: the values, and the places, in order.
//! [`OrderedLists::bytes`] counts what a sort will take beside what is held, so that a memory limit which lets the
//! last batch in lets the list out, too.
//! Collaborators: DataFusion's own functions, to which calls with DISTINCT or without an order are left.

mod accumulators;
mod lists;

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::error::Result;
use datafusion::functions_aggregate::array_agg::array_agg_udaf;
use datafusion::functions_aggregate::string_agg::string_agg_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, GroupsAccumulator, ReversedUDAF,
    Signature,
};

use self::accumulators::{Finish, ManyLists, OneList};
use self::lists::OrderedLists;

/// `array_agg` or `string_agg`, in place of DataFusion's.
#[derive(Debug)]
pub struct Ordered {
    inner: Arc<AggregateUDF>,
    joins: bool,
}

impl Ordered {
    /// The function `array_agg`.
    pub fn array_agg() -> Self {
        Self {
            inner: array_agg_udaf(),
            joins: false,
        }
    }

    /// The function `string_agg`.
    pub fn string_agg() -> Self {
        Self {
            inner: string_agg_udaf(),
            joins: true,
        }
    }

    fn lists(&self, args: &AccumulatorArgs) -> Result<ManyLists> {
        let finish = if self.joins {
            Finish::joined(args)?
        } else {
            Finish::List
        };
        Ok(ManyLists::new(lists(args)?, finish))
    }
}

impl PartialEq for Ordered {
    fn eq(&self, other: &Self) -> bool {
        self.joins == other.joins
    }
}

impl Eq for Ordered {}

impl Hash for Ordered {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.joins.hash(state);
    }
}

impl AggregateUDFImpl for Ordered {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if is_ours(&args) {
            return Ok(Box::new(OneList::new(self.lists(&args)?)));
        }
        self.inner.accumulator(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        is_ours(&args) || self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        if is_ours(&args) {
            return Ok(Box::new(self.lists(&args)?));
        }
        self.inner.create_groups_accumulator(args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.inner.create_sliding_accumulator(args)
    }

    /// Input in order is sorted in one comparison for each value; nothing needs it.
    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Beneficial
    }

    fn with_beneficial_ordering(
        self: Arc<Self>,
        _beneficial_ordering: bool,
    ) -> Result<Option<Arc<dyn AggregateUDFImpl>>> {
        Ok(Some(self))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::NotSupported
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.inner.supports_null_handling_clause()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// Calls with DISTINCT, or without an order, are DataFusion's.
fn is_ours(args: &AccumulatorArgs) -> bool {
    !args.is_distinct && !args.order_bys.is_empty()
}

/// The lists of a call.
fn lists(args: &AccumulatorArgs) -> Result<OrderedLists> {
    let places: Result<Vec<_>> = args
        .order_bys
        .iter()
        .map(|place| {
            // Named as the fields of DataFusion's states.
            let name = place.expr.to_string();
            let field = Field::new(name, place.expr.data_type(args.schema)?, true);
            Ok((Arc::new(field), place.options))
        })
        .collect();
    let value = &args.expr_fields[0];
    let skips_nulls = args.ignore_nulls && value.is_nullable();
    Ok(OrderedLists::new(
        value.data_type().clone(),
        places?,
        skips_nulls,
    ))
}

#[cfg(test)]
mod tests;
