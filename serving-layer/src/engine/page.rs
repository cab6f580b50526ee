// SPDX-License-Identifier: Apache-2.0
//! A page of the rows of a view.
//!
//! Purpose: a group that the select list cannot be computed for is in the way of the pages that show it, and of no
//! others. Which groups a page shows is told by the columns of its filters and its order alone; then those groups are
//! finished, and nothing else. As all of it takes longer than reading everything once, it is done where that has failed.
//! Collaborators: [`RowsPlan`] says what is asked for, `MergedScan` finishes what is left. Invariants: each reading is of
//! the one snapshot. Non-goals: `ORDER BY … LIMIT` in SQL, which reads what its tables hold.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::dataframe::DataFrame;
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::context::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use dovetail_model::Problem;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::merged_scan::fails_on_a_group;
use super::query::Kept;
use super::view_table::{ViewAnswer, ViewTable};
use super::wanted::Groups;
use super::{Engine, problem_of};
use crate::ports::{Answer, Limits, RowsAnswer};
use crate::rows::RowsPlan;

/// Whose rows are asked for.
pub(super) struct RowsQuestion {
    pub(super) kept: Kept,
    pub(super) view: String,
    pub(super) limits: Limits,
}

impl RowsQuestion {
    fn source(&self) -> Result<&ViewAnswer, Problem> {
        let view = self.kept.1.view();
        view.ok_or_else(|| Problem::internal("what has pages is a view"))
    }

    fn table(&self) -> Result<ViewTable, Problem> {
        Ok(ViewTable::new(&self.view, self.source()?.clone()))
    }
}

impl Engine {
    /// The rows of `plan` over the view's columns, of which `keys` are its keys.
    pub(super) async fn page(
        &self,
        question: &RowsQuestion,
        plan: RowsPlan,
        keys: Vec<usize>,
    ) -> Result<RowsAnswer, Problem> {
        let mut page = plan.page.clone();
        let mut answer = self.rows_of(question, question.table()?, &plan).await?;
        // Nothing of a sorted page is there before all of it is.
        let first = match keys.is_empty() {
            true => None,
            false => answer.batches.next().await,
        };
        if let Some(Err(error)) = &first
            && fails_on_a_group(error)
        {
            drop(answer);
            let (groups, more) = self.groups_shown(question, &plan, keys).await?;
            page.more = more;
            let table = question.table()?.only(groups);
            let answer = self.rows_of(question, table, &plan).await?;
            return Ok(RowsAnswer { answer, page });
        }
        let schema = answer.batches.schema();
        let batches = stream::iter(first).chain(answer.batches);
        answer.batches = Box::pin(RecordBatchStreamAdapter::new(schema, batches));
        Ok(RowsAnswer { answer, page })
    }

    async fn rows_of(
        &self,
        question: &RowsQuestion,
        table: ViewTable,
        plan: &RowsPlan,
    ) -> Result<Answer, Problem> {
        let state = self
            .session
            .state(vec![], question.kept.1.row_bytes())
            .map_err(|error| problem_of(&error))?;
        let plan = plan.clone();
        let planning = async move { rows_frame(state, Arc::new(table), plan) };
        self.answer(&question.kept, planning, &question.limits)
            .await
    }

    /// The groups that the page of `plan` shows, and whether there are more behind them.
    async fn groups_shown(
        &self,
        question: &RowsQuestion,
        plan: &RowsPlan,
        keys: Vec<usize>,
    ) -> Result<(Groups, bool), Problem> {
        let of_keys = RowsPlan {
            projection: keys,
            ..plan.clone()
        };
        let answer = self.rows_of(question, question.table()?, &of_keys).await?;
        let rows: Vec<RecordBatch> = answer
            .batches
            .try_collect()
            .await
            .map_err(|error| problem_of(&error))?;
        let limit = plan.fetch.saturating_sub(1);
        let found: usize = rows.iter().map(RecordBatch::num_rows).sum();
        let mut left = limit;
        let shown = rows.iter().map(|batch| {
            let rows = batch.num_rows().min(left);
            left -= rows;
            batch.slice(0, rows)
        });
        let view = question.source()?.generation.view();
        let groups = Groups::of(view, shown).map_err(Problem::internal)?;
        Ok((groups, found > limit))
    }
}

fn rows_frame(
    state: SessionState,
    table: Arc<dyn TableProvider>,
    plan: RowsPlan,
) -> Result<DataFrame, DataFusionError> {
    let source = provider_as_source(table);
    let mut builder = LogicalPlanBuilder::scan("view", source, None)?;
    if let Some(filter) = plan.filter {
        builder = builder.filter(filter)?;
    }
    if !plan.sort.is_empty() {
        builder = builder.sort_with_limit(plan.sort, Some(plan.fetch))?;
    }
    let fields = builder.schema().columns();
    let columns = plan
        .projection
        .iter()
        .map(|i| Expr::Column(fields[*i].clone()));
    let builder = builder
        .limit(0, Some(plan.fetch))?
        .project(columns.collect::<Vec<_>>())?;
    Ok(DataFrame::new(state, builder.build()?))
}
