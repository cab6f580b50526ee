// SPDX-License-Identifier: Apache-2.0
//! DataFusion's rewriting of DISTINCT to a GROUP BY, kept from sums that it would make of other sums.
//!
//! Purpose: `SELECT count(DISTINCT a), sum(b)` is planned as sums for each `a`, added up again. Such a part may pass
//! the end of the type where the whole does not, and `sum` refuses what does not fit: the plan would decide whether
//! there is an answer. Sums of floats may be made of sums. Collaborators: `session` puts it in DataFusion's place.

use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable as _, LogicalPlan};
use datafusion::optimizer::single_distinct_to_groupby::SingleDistinctToGroupBy;
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

/// [`SingleDistinctToGroupBy`], but where an exact sum stands beside the DISTINCT.
#[derive(Debug, Default)]
pub(super) struct DistinctToGroupBy(SingleDistinctToGroupBy);

impl OptimizerRule for DistinctToGroupBy {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        if let LogicalPlan::Aggregate(aggregate) = &plan
            && sums_exactly(aggregate)?
        {
            return Ok(Transformed::no(plan));
        }
        self.0.rewrite(plan, config)
    }
}

fn sums_exactly(aggregate: &Aggregate) -> Result<bool> {
    for expr in &aggregate.aggr_expr {
        if let Expr::AggregateFunction(call) = expr
            && call.func.name() == "sum"
            && !call.params.distinct
            && !expr
                .get_type(aggregate.input.schema().as_ref())?
                .is_floating()
        {
            return Ok(true);
        }
    }
    Ok(false)
}
