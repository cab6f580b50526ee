// SPDX-License-Identifier: Apache-2.0
//! Stopping a query in the middle of its planning, of a scan or of a join.
//!
//! A plan is optimised in one go, rule by rule: between two of them the interrupt is looked at.
//!
//! A task is stopped where it yields. Operators yield once for many batches that a scan reads, so scans look at the
//! interrupt themselves, batch by batch. But a join may make millions of batches out of one, and a nested loop join
//! computes its filter for every row of one side against a batch of the other before it yields at all: abandoned, it
//! would go on for minutes and hold up who waits behind it.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRewriter};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::context::SessionState;
use datafusion::execution::{SendableRecordBatchStream, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::{ColumnarValue, LogicalPlan};
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::execution_plan::EmissionType;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, NestedLoopJoinExecBuilder, SortMergeJoinExec,
};
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::union::UnionExec;
use dovetail_log::parquet_files::{Holder, accounted};
use dovetail_model::Problem;
use dovetail_view::{Hook, Hooked};
use futures::StreamExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::merged_scan::MergedScan;
use super::watched::Watched;
use crate::held::AnswerMemory;

/// When a query is to stop: nobody waits for it any more, or its time is over.
#[derive(Debug, Clone)]
pub(super) struct Interrupt {
    pub(super) gone: CancellationToken,
    pub(super) deadline: Instant,
    pub(super) late: Problem,
}

impl Interrupt {
    /// Whether to go on.
    ///
    /// # Errors
    /// When the query is to stop.
    pub(super) fn check(&self) -> Result<()> {
        if self.gone.is_cancelled() {
            return Err(DataFusionError::Execution("nobody waits for it".to_owned()));
        }
        if Instant::now() >= self.deadline {
            return Err(DataFusionError::External(Box::new(self.late.clone())));
        }
        Ok(())
    }

    /// `rows` until the query is to stop.
    pub(super) fn watch(&self, rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
        let (schema, interrupt) = (rows.schema(), self.clone());
        let watched = rows.map(move |batch| {
            interrupt.check()?;
            batch
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, watched))
    }
}

#[cfg(test)]
impl Interrupt {
    /// One that stops nothing until it is told.
    pub(super) fn idle() -> Self {
        Self {
            gone: CancellationToken::new(),
            deadline: Instant::now() + std::time::Duration::from_secs(600),
            late: Problem::invalid("too late"),
        }
    }
}

/// `state` that stops optimising a plan between two rules.
pub(super) fn interruptible_planning(state: SessionState, interrupt: &Interrupt) -> SessionState {
    let look = Arc::new(interrupt.clone());
    let rules = state.optimizers().iter();
    let rules = rules.flat_map(|rule| [Arc::clone(&look) as _, Arc::clone(rule)]);
    let rules = rules.collect();
    let physical = state.physical_optimizers().iter();
    let physical = physical.flat_map(|rule| [Arc::clone(&look) as _, Arc::clone(rule)]);
    let physical = physical.collect();
    SessionStateBuilder::new_from_existing(state)
        .with_optimizer_rules(rules)
        .with_physical_optimizer_rules(physical)
        .build()
}

impl OptimizerRule for Interrupt {
    fn name(&self) -> &str {
        "interrupt"
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        self.check()?;
        Ok(Transformed::no(plan))
    }
}

impl PhysicalOptimizerRule for Interrupt {
    fn name(&self) -> &str {
        "interrupt"
    }

    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.check()?;
        Ok(plan)
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The plan with scans that stop at their next batch and joins that yield for each batch they make; nested loops look
/// at `interrupt` themselves. What scans fetch takes room of `memory`; `task` executes it.
pub(super) fn interruptible(
    plan: Arc<dyn ExecutionPlan>,
    interrupt: &Interrupt,
    task: &TaskContext,
    memory: &AnswerMemory,
) -> Result<Arc<dyn ExecutionPlan>> {
    let mut watching = Watching {
        interrupt,
        task,
        for_reader: memory.fetched_for_reader(),
        for_operator: memory.fetched_for_operator(),
        gathering: 0,
    };
    Ok(plan.rewrite(&mut watching)?.data)
}

struct Watching<'a> {
    interrupt: &'a Interrupt,
    task: &'a TaskContext,
    for_reader: Arc<dyn Holder>,
    for_operator: Arc<dyn Holder>,
    /// How many operators above gather rows.
    gathering: usize,
}

impl TreeNodeRewriter for Watching<'_> {
    type Node = Arc<dyn ExecutionPlan>;

    fn f_down(&mut self, plan: Self::Node) -> Result<Transformed<Self::Node>> {
        self.gathering += usize::from(gathers(plan.as_ref()));
        Ok(Transformed::no(plan))
    }

    fn f_up(&mut self, plan: Self::Node) -> Result<Transformed<Self::Node>> {
        self.gathering -= usize::from(gathers(plan.as_ref()));
        let interrupt = self.interrupt;
        let holder = match self.gathering {
            0 => &self.for_reader,
            _ => &self.for_operator,
        };
        if let Some(scan) = plan.downcast_ref::<MergedScan>() {
            return Ok(Transformed::yes(
                Arc::new(scan.watched(interrupt, holder)) as _
            ));
        }
        if plan.children().is_empty() {
            let leaf = Watched::new(accounted(plan, self.task, holder)?, interrupt);
            return Ok(Transformed::yes(Arc::new(leaf) as _));
        }
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
    }
}

/// Whether `plan` takes rows of several inputs together, or all of them before it hands on the first: a scan below may
/// have to go on while another one waits, and does, whatever the reader does.
fn gathers(plan: &dyn ExecutionPlan) -> bool {
    plan.properties().emission_type == EmissionType::Final
        || plan.is::<SortPreservingMergeExec>()
        || plan.children().len() > 1 && !plan.is::<UnionExec>()
}

/// Whether some operator of `plan` gathers rows of others: what `EXPLAIN` shows is there.
pub(super) fn computes(plan: &dyn ExecutionPlan) -> bool {
    let below = plan.children();
    !below.is_empty() && (gathers(plan) || below.iter().any(|plan| computes(plan.as_ref())))
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
    use datafusion::physical_plan::{collect, displayable};
    use datafusion::prelude::SessionContext;

    use super::*;

    const NESTED_LOOP: &str = "SELECT count(*) FROM numbers a JOIN numbers b ON a.n + b.n < 0";

    async fn run(sql: &str, interrupt: &Interrupt) -> (String, Result<Vec<RecordBatch>>) {
        let ctx = SessionContext::new();
        let numbers = "CREATE TABLE numbers AS SELECT value AS n FROM generate_series(0, 999)";
        ctx.sql(numbers).await.unwrap().collect().await.unwrap();
        let plan = ctx.sql(sql).await.unwrap().create_physical_plan().await;
        let plan = interruptible(
            plan.unwrap(),
            interrupt,
            &ctx.task_ctx(),
            &AnswerMemory::default(),
        )
        .unwrap();
        let shown = displayable(plan.as_ref()).indent(false).to_string();
        (shown, collect(plan, ctx.task_ctx()).await)
    }

    #[tokio::test]
    async fn planning_stops_between_two_rules() {
        let ctx = SessionContext::new();
        let plan = ctx.state().create_logical_plan("SELECT 1 AS a").await;
        let plan = plan.unwrap();
        let interrupt = Interrupt::idle();
        let state = interruptible_planning(ctx.state(), &interrupt);
        let rules = ctx.state().optimizers().len();
        assert_eq!(state.optimizers().len(), 2 * rules);
        let optimized = state.optimize(&plan).unwrap();
        let planner = state.query_planner();
        assert!(
            planner
                .create_physical_plan(&optimized, &state)
                .await
                .is_ok()
        );
        interrupt.gone.cancel();
        assert!(state.optimize(&plan).is_err());
        assert!(
            planner
                .create_physical_plan(&optimized, &state)
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn a_nested_loop_join_stops_in_the_middle() {
        let there = Interrupt::idle();
        let (plan, rows) = run(NESTED_LOOP, &there).await;
        assert!(plan.contains("NestedLoopJoinExec"), "{plan}");
        assert_eq!(rows.unwrap()[0].num_rows(), 1);
        let gone = Interrupt::idle();
        gone.gone.cancel();
        let error = run(NESTED_LOOP, &gone).await.1.unwrap_err();
        assert!(error.to_string().contains("nobody waits"), "{error}");
        let late = Interrupt {
            deadline: Instant::now(),
            ..Interrupt::idle()
        };
        let error = run(NESTED_LOOP, &late).await.1.unwrap_err();
        assert!(error.to_string().contains("too late"), "{error}");
    }

    /// An aggregate puts nothing out before it has read everything.
    #[tokio::test]
    async fn a_scan_stops_at_its_next_batch() {
        const GROUPS: &str = "SELECT n % 7, sum(n) FROM numbers GROUP BY n % 7";
        let there = Interrupt::idle();
        let rows: usize = run(GROUPS, &there)
            .await
            .1
            .unwrap()
            .iter()
            .map(RecordBatch::num_rows)
            .sum();
        assert_eq!(rows, 7);
        let gone = Interrupt::idle();
        gone.gone.cancel();
        let error = run(GROUPS, &gone).await.1.unwrap_err();
        assert!(error.to_string().contains("nobody waits"), "{error}");

        let interrupt = Interrupt::idle();
        let batch = RecordBatch::new_empty(Arc::new(arrow::datatypes::Schema::empty()));
        let batches = vec![Ok(batch.clone()), Ok(batch.clone()), Ok(batch)];
        let rows = futures::stream::iter(batches);
        let schema = Arc::new(arrow::datatypes::Schema::empty());
        let mut rows = interrupt.watch(Box::pin(RecordBatchStreamAdapter::new(schema, rows)));
        assert!(rows.next().await.unwrap().is_ok());
        interrupt.gone.cancel();
        let error = rows.next().await.unwrap().unwrap_err();
        assert!(error.to_string().contains("nobody waits"), "{error}");
    }

    /// What an operator learns while it runs still reaches the scan that is watched.
    #[tokio::test]
    async fn filters_that_operators_tell_scans_get_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("numbers.parquet");
        let path = path.to_str().unwrap();
        let ctx = SessionContext::new();
        let write = format!(
            "COPY (SELECT value AS n, value % 5 AS k FROM generate_series(0, 99999)) TO '{path}' STORED AS PARQUET"
        );
        ctx.sql(&write).await.unwrap().collect().await.unwrap();
        ctx.register_parquet("numbers", path, Default::default())
            .await
            .unwrap();
        let few = "CREATE TABLE few AS VALUES (7), (9)";
        ctx.sql(few).await.unwrap().collect().await.unwrap();
        for (sql, told) in [
            (
                "SELECT n FROM numbers ORDER BY n DESC LIMIT 3",
                "n@0 > 99997",
            ),
            ("SELECT max(n) FROM numbers WHERE k < 4", "n@0 > 99998"),
            (
                "SELECT count(*) FROM few JOIN numbers ON few.column1 = numbers.n",
                "n@0 >= 7 AND n@0 <= 9",
            ),
        ] {
            let plan = ctx.sql(sql).await.unwrap().create_physical_plan().await;
            let plan = interruptible(
                plan.unwrap(),
                &Interrupt::idle(),
                &ctx.task_ctx(),
                &AnswerMemory::default(),
            );
            let plan = plan.unwrap();
            collect(Arc::clone(&plan), ctx.task_ctx()).await.unwrap();
            let shown = displayable(plan.as_ref()).indent(false).to_string();
            let scan = shown.lines().find(|line| line.contains("numbers.parquet"));
            let scan = scan.unwrap_or_else(|| panic!("{shown}"));
            assert!(scan.contains(told), "{sql}: {scan}");
            assert!(shown.contains("Watched"), "{shown}");
        }
    }

    /// Whether the reader of `plan` may hold up some leaf of it.
    fn is_held_up(plan: &dyn ExecutionPlan) -> bool {
        let children = plan.children();
        !gathers(plan)
            && (children.is_empty() || children.iter().any(|child| is_held_up(child.as_ref())))
    }

    /// An operator that gathers rows reads on, whatever the reader of the answer does.
    #[tokio::test]
    async fn a_reader_holds_up_no_scan_whose_rows_are_gathered() {
        let ctx = SessionContext::new();
        let numbers = "CREATE TABLE numbers AS SELECT value AS n FROM generate_series(0, 99)";
        ctx.sql(numbers).await.unwrap().collect().await.unwrap();
        for (sql, is_held) in [
            ("SELECT n + 1 FROM numbers WHERE n % 2 = 0 LIMIT 7", true),
            (
                "SELECT n FROM numbers UNION ALL SELECT -n FROM numbers",
                true,
            ),
            ("SELECT sum(n) + 1 FROM numbers", false),
            ("SELECT n % 3, count(*) FROM numbers GROUP BY 1", false),
            ("SELECT n FROM numbers ORDER BY n DESC", false),
            (
                "SELECT a.n FROM numbers a JOIN numbers b ON a.n = b.n",
                false,
            ),
        ] {
            let plan = ctx.sql(sql).await.unwrap().create_physical_plan().await;
            assert_eq!(is_held_up(plan.unwrap().as_ref()), is_held, "{sql}");
        }
    }

    #[tokio::test]
    async fn every_join_yields_for_the_batches_it_makes() {
        for sql in [
            NESTED_LOOP,
            "SELECT sum(a.n * b.n) FROM numbers a CROSS JOIN numbers b",
            "SELECT count(*) FROM numbers a JOIN numbers b ON a.n % 7 = b.n % 7",
        ] {
            let (plan, rows) = run(sql, &Interrupt::idle()).await;
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
