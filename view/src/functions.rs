// SPDX-License-Identifier: Apache-2.0
//! Functions that views and queries have beyond DataFusion's.
//!
//! Purpose: sketches whose states are small, lists whose size is known, and aggregates whose answer does not depend on
//! the order of rows nor wraps around, under the names SQL users know. Invariants: a function of
//! the same name means the same in a view, in a query over a stream, and in tests. Non-goals: functions
//! that read or write anything.

mod approx_distinct;
mod avg;
mod bounded;
mod call_names;
mod checked;
mod date_bin;
mod date_part;
mod date_trunc;
mod exact_numbers;
mod local_time;
mod median;
mod min_max;
mod negated;
mod ordered;
mod rewriting;
mod same_numbers;
mod sum;
#[cfg(test)]
mod testing;
mod to_timestamp;
mod wide;

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::TreeNode;
use datafusion::error::Result;
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{AggregateUDF, EmitTo, Expr, GroupsAccumulator};

use call_names::CallNames;

pub use approx_distinct::{APPROX_DISTINCT_RELATIVE_ERROR, ApproxDistinct};
pub use avg::Avg;
pub use bounded::BoundedCalls;
pub use checked::CheckedNumbers;
pub(crate) use checked::{check_digits, wraps};
pub(crate) use exact_numbers::digits_of_call;
pub use exact_numbers::{ExactNumbers, keep_digits, number_of_json};
pub use median::Median;
pub use min_max::MinMax;
pub use ordered::Ordered;
pub(crate) use rewriting::schema_read;
pub use same_numbers::SameNumbers;
pub(crate) use same_numbers::has_floats;
pub use sum::Sum;

/// Functions that can make a value of any size out of a few bytes of SQL: the memory pool does not see them.
/// Queries do not have them, and nobody is told to use one.
pub const UNBOUNDED_FUNCTIONS: [&str; 9] = [
    "repeat",
    "lpad",
    "rpad",
    "range",
    "generate_series",
    "array_repeat",
    "list_repeat",
    "array_resize",
    "list_resize",
];

/// The largest size that a view or a predicate may ask such a function for: that of a padded number, not of a page.
const MOST_WRITTEN_OUT: i64 = 1000;

/// Why a call in a view or a predicate may make values of any size, if it may. It would do so with each event, and again at
/// each start.
pub(crate) fn unbounded(call: &ScalarFunction) -> Option<String> {
    let name = call.func.name();
    let of_any_size = |call: &ScalarFunction| UNBOUNDED_FUNCTIONS.contains(&call.func.name());
    if !of_any_size(call) {
        return None;
    }
    let nested = |arg: &Expr| {
        arg.exists(|part| Ok(matches!(part, Expr::ScalarFunction(call) if of_any_size(call))))
            .unwrap_or(true)
    };
    let size = match (name, call.args.get(1)) {
        ("range" | "generate_series", _) => None,
        (_, Some(Expr::Literal(ScalarValue::Int64(size), _))) => size.as_ref(),
        _ => None,
    };
    let bounded =
        size.is_some_and(|size| *size <= MOST_WRITTEN_OUT) && !call.args.iter().any(nested);
    (!bounded).then(|| {
        format!("`{name}` makes values of any size: write a number up to {MOST_WRITTEN_OUT} for how much, once, or leave it out")
    })
}

/// Registers our functions, in place of DataFusion's of the same name, and how calls are planned. Takes a
/// `SessionState` or a `SessionContext`.
///
/// # Errors
/// When the registry refuses one.
pub fn register_functions(registry: &mut dyn FunctionRegistry) -> Result<()> {
    registry.register_udaf(Arc::new(AggregateUDF::from(ApproxDistinct::new())))?;
    registry.register_udaf(Arc::new(AggregateUDF::from(Avg::new())))?;
    registry.register_udaf(Arc::new(AggregateUDF::from(Median::new())))?;
    registry.register_udaf(Arc::new(AggregateUDF::from(MinMax::min())))?;
    registry.register_udaf(Arc::new(AggregateUDF::from(MinMax::max())))?;
    registry.register_udaf(Arc::new(AggregateUDF::from(Ordered::array_agg())))?;
    registry.register_udaf(Arc::new(AggregateUDF::from(Ordered::string_agg())))?;
    registry.register_udaf(Arc::new(AggregateUDF::from(Sum::new())))?;
    for function in exact_numbers::functions() {
        registry.register_udf(function)?;
    }
    registry.register_udf(Arc::new(date_bin::DateBin::new().into()))?;
    let date_part = Arc::new(date_part::DatePart::new().into());
    registry.register_udf(Arc::clone(&date_part))?;
    let function = date_part;
    registry.register_function_rewrite(Arc::new(date_part::Extracted { function }))?;
    registry.register_udf(Arc::new(date_trunc::DateTrunc::new().into()))?;
    registry.register_udf(Arc::new(to_timestamp::ToTimestamp::new().into()))?;
    registry.register_udf(Arc::new(local_time::LocalTime::new().into()))?;
    // DataFusion's own are of DOUBLE for DECIMALs, and of VARCHAR for TIMESTAMPs.
    let coalesce = datafusion::functions::core::coalesce();
    let coalesce = coalesce.as_ref().clone().with_aliases(["nvl", "ifnull"]);
    registry.register_udf(Arc::new(coalesce))?;
    registry.register_expr_planner(Arc::new(CallNames))?;
    Ok(())
}

/// Whether `sum` and `avg` of such an argument have the same total, in a type that no total passes.
pub(crate) fn is_added_up_exactly(argument: &DataType) -> bool {
    wide::total_type(argument).is_some()
}

/// The state of each row as a group of its own. `empty` has no groups.
///
/// # Errors
/// As of its updates.
fn states_of_each(
    mut empty: impl GroupsAccumulator,
    values: &[ArrayRef],
    filter: Option<&BooleanArray>,
) -> Result<Vec<ArrayRef>> {
    let each_its_own: Vec<usize> = (0..values[0].len()).collect();
    empty.update_batch(values, &each_its_own, filter, each_its_own.len())?;
    empty.state(EmitTo::All)
}
