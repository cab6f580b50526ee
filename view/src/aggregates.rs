// SPDX-License-Identifier: Apache-2.0
//! The aggregates that views may use, and what is known of each.
//!
//! Purpose: one table. A function that is not in it is refused: its partial states might not merge, or
//! its result might depend on the order of events. Invariants: every entry is covered by the cut law's
//! property test. Collaborators: `checks` (order), `equality` (classes).

use datafusion::logical_expr::utils::format_state_name;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

/// How two results over the same events may differ when the events were cut differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precision {
    /// Not at all.
    Exact,
    /// By rounding, if the argument is a float.
    FloatSum,
    /// By the rounding of moments: variances and what is made of them.
    Moments,
    /// By the error of a quantile sketch.
    Quantile,
}

/// Whether the order of events decides the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Insensitive,
    Sensitive,
}

use Order::{Insensitive, Sensitive};
use Precision::{Exact, FloatSum, Moments, Quantile};

const KNOWN: &[(&str, Order, Precision)] = &[
    // Known, so that its refusal can say what to write instead.
    ("any_value", Sensitive, Exact),
    ("approx_distinct", Insensitive, Exact),
    ("approx_median", Insensitive, Quantile),
    ("approx_percentile_cont", Insensitive, Quantile),
    ("approx_percentile_cont_with_weight", Insensitive, Quantile),
    ("array_agg", Sensitive, Exact),
    ("avg", Insensitive, FloatSum),
    ("bit_and", Insensitive, Exact),
    ("bit_or", Insensitive, Exact),
    ("bit_xor", Insensitive, Exact),
    ("bool_and", Insensitive, Exact),
    ("bool_or", Insensitive, Exact),
    ("corr", Insensitive, Moments),
    ("count", Insensitive, Exact),
    ("covar_pop", Insensitive, Moments),
    ("covar_samp", Insensitive, Moments),
    ("first_value", Sensitive, Exact),
    ("last_value", Sensitive, Exact),
    ("max", Insensitive, Exact),
    ("median", Insensitive, Exact),
    ("min", Insensitive, Exact),
    ("nth_value", Sensitive, Exact),
    ("percentile_cont", Insensitive, Exact),
    ("regr_avgx", Insensitive, Moments),
    ("regr_avgy", Insensitive, Moments),
    ("regr_count", Insensitive, Exact),
    ("regr_intercept", Insensitive, Moments),
    ("regr_r2", Insensitive, Moments),
    ("regr_slope", Insensitive, Moments),
    ("regr_sxx", Insensitive, Moments),
    ("regr_sxy", Insensitive, Moments),
    ("regr_syy", Insensitive, Moments),
    ("stddev", Insensitive, Moments),
    ("stddev_pop", Insensitive, Moments),
    ("string_agg", Sensitive, Exact),
    ("sum", Insensitive, FloatSum),
    ("var", Insensitive, Moments),
    ("var_pop", Insensitive, Moments),
];

fn find(name: &str) -> Option<&'static (&'static str, Order, Precision)> {
    KNOWN.iter().find(|(known, _, _)| *known == name)
}

/// The precision of an aggregate by the name the planner gives it; none if views may not use it.
pub(crate) fn precision(name: &str) -> Option<Precision> {
    find(name).map(|(_, _, precision)| *precision)
}

/// Whether an aggregate depends on the order of events; such aggregates have no other names.
pub(crate) fn is_order_sensitive(name: &str) -> bool {
    find(name).is_some_and(|(_, order, _)| *order == Sensitive)
}

/// Whether the finished value of the (not DISTINCT) aggregate is its own state.
pub(crate) fn is_own_state(name: &str) -> bool {
    matches!(name, "count" | "sum" | "min" | "max")
}

/// Which of the columns of an aggregate's state counts the values that are not NULL, if one does.
pub(crate) fn count_in_state(aggregate: &AggregateFunctionExpr) -> Option<usize> {
    if aggregate.is_distinct() {
        return None;
    }
    match aggregate.fun().name() {
        "count" => Some(0),
        "avg" => {
            let count = format_state_name(aggregate.name(), "count");
            let fields = aggregate.state_fields().ok()?;
            fields.iter().position(|field| *field.name() == count)
        }
        _ => None,
    }
}

/// Whether the (not DISTINCT) aggregate keeps the lists that its states are made of as they are.
pub(crate) fn keeps_lists_whole(name: &str) -> bool {
    matches!(name, "array_agg" | "string_agg")
}

/// Whether the state of the (not DISTINCT) aggregate holds a value of every event.
pub(crate) fn keeps_every_value(name: &str) -> bool {
    keeps_lists_whole(name) || matches!(name, "median" | "percentile_cont")
}
