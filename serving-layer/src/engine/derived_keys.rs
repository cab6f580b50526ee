// SPDX-License-Identifier: Apache-2.0
//! DataFusion's removal of group keys that follow from others, kept from keys that it would confuse.
//!
//! Purpose: of `GROUP BY at, CAST(at AS DATE)` it groups by `at` alone and computes the other key behind it, under
//! names that leave casts out: both keys are called `at`, and the query is refused. Such keys are grouped by as they
//! are. Collaborators: `session` puts it in DataFusion's place.

use std::collections::HashSet;

use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::eliminate_group_by_constant::EliminateGroupByConstant;
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

/// [`EliminateGroupByConstant`], but where two keys have one name.
#[derive(Debug, Default)]
pub(super) struct DerivedKeys(EliminateGroupByConstant);

impl OptimizerRule for DerivedKeys {
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
        if let LogicalPlan::Aggregate(aggregate) = &plan {
            let mut names = HashSet::new();
            let mut keys = aggregate.group_expr.iter();
            if !keys.all(|key| names.insert(key.schema_name().to_string())) {
                return Ok(Transformed::no(plan));
            }
        }
        self.0.rewrite(plan, config)
    }
}
