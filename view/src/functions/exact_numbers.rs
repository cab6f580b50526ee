// SPDX-License-Identifier: Apache-2.0
//! Numbers in SQL that are the ones written wherever they stand beside a DECIMAL.
//!
//! Purpose: DataFusion 55.2 makes `4.48` a DOUBLE, and compares it with a DECIMAL as DECIMAL(30, 15), to which it rounds
//! `4.48 * 10^15` of floats: of the numbers with two digits behind the point, 6.7 % are other ones. Here a number that a
//! DECIMAL is compared with, or an alternative to one (in CASE, `coalesce` and the like), is the DECIMAL that is written,
//! and it stays a DOUBLE elsewhere. A DECIMAL and another DOUBLE, as of a column, meet as DOUBLEs: the other way a large one
//! would not fit. Invariants: it comes before the coercion of types; columns keep the names that they had.
//! Collaborators: `expressions` and `plans` know what stands beside what, `meeting` what becomes of it, `carried` which columns
//! are numbers that are written; `marks` and `parameters` see to it that digits which a DOUBLE lacks come this far, `spelled`
//! and `list_search` that a statement does.

mod carried;
mod expressions;
mod list_search;
mod marks;
mod meeting;
mod of_doubles;
mod parameters;
mod plans;
mod spelled;
#[cfg(test)]
mod tests;
mod together;
mod written;

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, ScalarUDF};
use datafusion::optimizer::AnalyzerRule;

use self::carried::Reads;
use self::expressions::beside_decimals;
use self::parameters::digits_of_parameter;
use self::plans::{joined, united};
use super::rewriting::{rewritten, rewritten_reading};

pub(crate) use self::marks::digits_of_call;
pub use self::marks::keep_digits;
pub use self::parameters::number_of_json;

/// Functions that the rule takes out of a plan again: other rules and the engine do not know them.
pub(super) fn functions() -> [Arc<ScalarUDF>; 2] {
    [marks::function(), list_search::function()]
}

/// Makes the numbers exact.
#[derive(Debug)]
pub struct ExactNumbers;

impl AnalyzerRule for ExactNumbers {
    fn name(&self) -> &'static str {
        "exact_numbers"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let held = types_are_held(&plan)?;
        let mut changed = false;
        let plan = plan.transform_up_with_subqueries(|node| {
            let node = match node {
                LogicalPlan::Join(join) => joined(join)?,
                LogicalPlan::Union(union) if !held => united(union)?,
                node => Transformed::no(node),
            };
            changed |= node.transformed;
            if changed {
                return node.map_data(LogicalPlan::recompute_schema);
            }
            Ok(node)
        })?;
        let plan = rewritten_reading(plan.data, Reads::of_node, |expr, reads| {
            exact(expr, reads, held)
        })?;
        // What stands beside none. Not before all others have been looked at: they may be carried far.
        rewritten(plan, |expr, _| plain(expr))
    }
}

impl ExactNumbers {
    /// As the rule does in plans, in an expression over `schema`.
    pub(crate) fn of_expression(expr: Expr, schema: &DFSchema) -> Result<Expr> {
        let exact = exact(expr, &Reads::of_schema(schema), false)?;
        Ok(plain(exact.data)?.data)
    }
}

/// Whether parts of the plan hold the types of others: outer references do, and the recursive term of a `WITH RECURSIVE`.
fn types_are_held(plan: &LogicalPlan) -> Result<bool> {
    let mut held = false;
    plan.apply_with_subqueries(|node| {
        held |= matches!(node, LogicalPlan::RecursiveQuery(_));
        node.apply_expressions(|expr| {
            held |= expr.contains_outer();
            Ok(if held {
                TreeNodeRecursion::Stop
            } else {
                TreeNodeRecursion::Continue
            })
        })
    })?;
    Ok(held)
}

fn exact(expr: Expr, reads: &Reads, types_are_held: bool) -> Result<Transformed<Expr>> {
    let schema = reads.schema();
    expr.transform_up(|part| {
        let held = if types_are_held {
            part.get_type(schema).ok()
        } else {
            None
        };
        let beside = beside_decimals(part, reads)?;
        match held {
            Some(held) if beside.transformed && beside.data.get_type(schema)? != held => {
                Ok(beside.update_data(|part| Expr::Cast(Cast::new(Box::new(part), held))))
            }
            _ => Ok(beside),
        }
    })
}

/// The numbers with their texts as the plain ones that they are for everything else.
fn plain(expr: Expr) -> Result<Transformed<Expr>> {
    expr.transform_up(|part| {
        Ok(match &part {
            Expr::Literal(value, metadata) if digits_of_parameter(metadata.as_ref()).is_some() => {
                Transformed::yes(Expr::Literal(value.clone(), None))
            }
            call => match marks::digits_of_call(call).and_then(|text| text.parse().ok()) {
                Some(number) => {
                    Transformed::yes(Expr::Literal(ScalarValue::Float64(Some(number)), None))
                }
                None => Transformed::no(part),
            },
        })
    })
}
