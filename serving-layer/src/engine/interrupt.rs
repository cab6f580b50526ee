// SPDX-License-Identifier: Apache-2.0
//! Stopping a query in the middle of a join.
//!
//! A task is stopped where it yields. Operators yield for each batch that a scan reads, but a join may make millions
//! of batches out of one, and a nested loop join computes its filter for every row of one side against a batch
//! of the other before it yields at all: abandoned, it would go on for minutes and hold up who waits behind it.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, NestedLoopJoinExecBuilder, SortMergeJoinExec,
};
use dovetail_model::Problem;
use dovetail_view::{Hook, Hooked};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// When a query is to stop: nobody waits for it any more, or its time is over.
#[derive(Debug, Clone)]
pub(super) struct Interrupt {
    pub(super) gone: CancellationToken,
    pub(super) deadline: Instant,
    pub(super) late: Problem,
}

impl Interrupt {
    fn check(&self) -> Result<()> {
        if self.gone.is_cancelled() {
            return Err(DataFusionError::Execution("nobody waits for it".to_owned()));
        }
        if Instant::now() >= self.deadline {
            return Err(DataFusionError::External(Box::new(self.late.clone())));
        }
        Ok(())
    }
}

/// The plan with joins that yield for each batch they make, and whose nested loops look at `interrupt`.
pub(super) fn interruptible(
    plan: Arc<dyn ExecutionPlan>,
    interrupt: &Interrupt,
) -> Result<Arc<dyn ExecutionPlan>> {
    let changed = plan.transform_up(|plan| {
        if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
            let join: Arc<dyn ExecutionPlan> = match join.filter() {
                Some(filter) => Arc::new(watched(join, filter, interrupt)?),
                None => plan,
            };
            return Ok(Transformed::yes(Arc::new(CooperativeExec::new(join)) as _));
        }
        let is_join = plan.is::<CrossJoinExec>()
            || plan.is::<HashJoinExec>()
            || plan.is::<SortMergeJoinExec>();
        Ok(if is_join {
            Transformed::yes(Arc::new(CooperativeExec::new(plan)) as _)
        } else {
            Transformed::no(plan)
        })
    });
    changed.map(|changed| changed.data)
}

fn watched(
    join: &NestedLoopJoinExec,
    filter: &JoinFilter,
    interrupt: &Interrupt,
) -> Result<NestedLoopJoinExec> {
    let expression = Arc::clone(filter.expression());
    let expression = Arc::new(Hooked::new(expression, interrupt.clone()));
    let columns = filter.column_indices().to_vec();
    let filter = JoinFilter::new(expression, columns, Arc::clone(filter.schema()));
    let (left, right) = (Arc::clone(join.left()), Arc::clone(join.right()));
    NestedLoopJoinExecBuilder::new(left, right, *join.join_type())
        .with_filter(Some(filter))
        .with_projection_ref(join.projection().clone())
        .build()
}

impl Hook for Interrupt {
    fn evaluate(&self, inner: &dyn PhysicalExpr, batch: &RecordBatch) -> Result<ColumnarValue> {
        self.check()?;
        inner.evaluate(batch)
    }
}

/// Of one query, which is all that expressions are ever compared within: there the deadline tells as much as all of it.
impl PartialEq for Interrupt {
    fn eq(&self, other: &Self) -> bool {
        self.deadline == other.deadline
    }
}

impl Eq for Interrupt {}

impl Hash for Interrupt {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.deadline.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use datafusion::physical_plan::{collect, displayable};
    use datafusion::prelude::SessionContext;

    use super::*;

    const NESTED_LOOP: &str = "SELECT count(*) FROM numbers a JOIN numbers b ON a.n + b.n < 0";

    fn interrupt() -> Interrupt {
        Interrupt {
            gone: CancellationToken::new(),
            deadline: Instant::now() + Duration::from_secs(600),
            late: Problem::invalid("too late"),
        }
    }

    async fn run(sql: &str, interrupt: &Interrupt) -> (String, Result<Vec<RecordBatch>>) {
        let ctx = SessionContext::new();
        let numbers = "CREATE TABLE numbers AS SELECT value AS n FROM generate_series(0, 999)";
        ctx.sql(numbers).await.unwrap().collect().await.unwrap();
        let plan = ctx.sql(sql).await.unwrap().create_physical_plan().await;
        let plan = interruptible(plan.unwrap(), interrupt).unwrap();
        let shown = displayable(plan.as_ref()).indent(false).to_string();
        (shown, collect(plan, ctx.task_ctx()).await)
    }

    #[tokio::test]
    async fn a_nested_loop_join_stops_in_the_middle() {
        let there = interrupt();
        let (plan, rows) = run(NESTED_LOOP, &there).await;
        assert!(plan.contains("NestedLoopJoinExec"), "{plan}");
        assert_eq!(rows.unwrap()[0].num_rows(), 1);
        let gone = interrupt();
        gone.gone.cancel();
        let error = run(NESTED_LOOP, &gone).await.1.unwrap_err();
        assert!(error.to_string().contains("nobody waits"), "{error}");
        let late = Interrupt {
            deadline: Instant::now(),
            ..interrupt()
        };
        let error = run(NESTED_LOOP, &late).await.1.unwrap_err();
        assert!(error.to_string().contains("too late"), "{error}");
    }

    #[tokio::test]
    async fn every_join_yields_for_the_batches_it_makes() {
        for sql in [
            NESTED_LOOP,
            "SELECT sum(a.n * b.n) FROM numbers a CROSS JOIN numbers b",
            "SELECT count(*) FROM numbers a JOIN numbers b ON a.n % 7 = b.n % 7",
        ] {
            let (plan, rows) = run(sql, &interrupt()).await;
            let lines: Vec<&str> = plan.lines().map(str::trim).collect();
            let join = lines
                .iter()
                .position(|line| line.contains("JoinExec"))
                .unwrap();
            assert_eq!(lines[join - 1], "CooperativeExec", "{plan}");
            assert_eq!(rows.unwrap()[0].num_rows(), 1);
        }
    }
}
