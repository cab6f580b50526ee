// SPDX-License-Identifier: Apache-2.0
//! DataFusion's optimizer rules, kept from aggregations that they would spoil.
//!
//! Purpose: `SELECT count(DISTINCT a), sum(b)` is planned as sums for each `a`, added up again. Such a part may pass
//! the end of the type where the whole does not, and `sum` refuses what does not fit: the plan would decide whether
//! there is an answer. Sums of floats may be made of sums.
//! Of `GROUP BY at, CAST(at AS DATE)` it groups by `at` alone and computes the other key behind it, under names that
//! leave casts out: both keys are called `at`, and the query is refused. Such keys are grouped by as they are.
//! Collaborators: `session` puts these in DataFusion's place.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable as _, LogicalPlan};
use datafusion::optimizer::eliminate_group_by_constant::EliminateGroupByConstant;
use datafusion::optimizer::single_distinct_to_groupby::SingleDistinctToGroupBy;
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

/// Rules that take the place of those of the same names.
pub(super) fn ours() -> [Arc<dyn OptimizerRule + Send + Sync>; 2] {
    [
        Arc::new(Sparing {
            rule: SingleDistinctToGroupBy::new(),
            spares: sums_exactly,
        }),
        Arc::new(Sparing {
            rule: EliminateGroupByConstant::new(),
            spares: keys_share_a_name,
        }),
    ]
}

/// A rule that leaves some aggregations as they are.
#[derive(Debug)]
struct Sparing<R> {
    rule: R,
    spares: fn(&Aggregate) -> Result<bool>,
}

impl<R: OptimizerRule> OptimizerRule for Sparing<R> {
    fn name(&self) -> &str {
        self.rule.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.rule.apply_order()
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
            && (self.spares)(aggregate)?
        {
            return Ok(Transformed::no(plan));
        }
        self.rule.rewrite(plan, config)
    }
}

/// Whether an exact sum stands beside the DISTINCT.
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

/// Whether two keys have one name.
fn keys_share_a_name(aggregate: &Aggregate) -> Result<bool> {
    let mut names = HashSet::new();
    let mut keys = aggregate.group_expr.iter();
    Ok(!keys.all(|key| names.insert(key.schema_name().to_string())))
}
