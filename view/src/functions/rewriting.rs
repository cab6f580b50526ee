// SPDX-License-Identifier: Apache-2.0
//! Analysed plans whose expressions are replaced by others that mean the same.

use datafusion::common::DFSchema;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, LogicalPlan};

/// `plan` and its subqueries with what `rewrite` makes of each expression, over the schema that it reads. Columns keep the
/// names that they had.
pub(super) fn rewritten(
    plan: LogicalPlan,
    rewrite: impl Fn(Expr, &DFSchema) -> Result<Transformed<Expr>>,
) -> Result<LogicalPlan> {
    rewritten_reading(plan, schema_read, rewrite)
}

/// The same, over what `reads` says of the node that it stands in.
pub(super) fn rewritten_reading<R>(
    plan: LogicalPlan,
    reads: impl Fn(&LogicalPlan) -> Result<R>,
    rewrite: impl Fn(Expr, &R) -> Result<Transformed<Expr>>,
) -> Result<LogicalPlan> {
    let mut changed = false;
    let rewritten = plan.transform_up_with_subqueries(|node| {
        let read = reads(&node)?;
        let node = rewritten_node(node, |expr| rewrite(expr, &read))?;
        changed |= node.transformed;
        // What stands above a change may pass on columns of other types now.
        if changed {
            return node.map_data(LogicalPlan::recompute_schema);
        }
        Ok(node)
    })?;
    Ok(rewritten.data)
}

/// The schema that the expressions of a node read.
pub(crate) fn schema_read(node: &LogicalPlan) -> Result<DFSchema> {
    let mut schema = merge_schema(&node.inputs());
    if let LogicalPlan::TableScan(scan) = node {
        schema.merge(&DFSchema::try_from_qualified_schema(
            scan.table_name.clone(),
            &scan.source.schema(),
        )?);
    }
    Ok(schema)
}

fn rewritten_node(
    node: LogicalPlan,
    rewrite: impl Fn(Expr) -> Result<Transformed<Expr>>,
) -> Result<Transformed<LogicalPlan>> {
    let names = NamePreserver::new(&node);
    node.map_expressions(|expr| {
        let name = names.save(&expr);
        let rewritten = rewrite(expr)?;
        Ok(rewritten.update_data(|expr| name.restore(expr)))
    })
}
