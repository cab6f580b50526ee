// SPDX-License-Identifier: Apache-2.0
//! Which events of the raw log a computation reads, as a plan.

use std::sync::Arc;

use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, lit};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use dovetail_log::parquet_files::Dictionaries;
use dovetail_log::raw::{EventTimeRange, RawScan};
use dovetail_model::{Exclusion, Span};
use dovetail_view::exclusion_predicate;

use super::Job;
use crate::BatchError;

/// Events of a span, narrowed by exclusions and event time.
#[derive(Debug, Clone)]
pub(crate) struct EventsOf {
    span: Span,
    between: Option<EventTimeRange>,
    exclude: Vec<Exclusion>,
    only: Vec<Exclusion>,
    whole: bool,
}

impl EventsOf {
    pub(crate) fn span(span: Span) -> Self {
        Self {
            span,
            between: None,
            exclude: vec![],
            only: vec![],
            whole: false,
        }
    }

    /// Without the events that one of `exclusions` matches before its bound.
    pub(crate) fn excluding(mut self, exclusions: &[Exclusion]) -> Self {
        self.exclude = exclusions.to_vec();
        self
    }

    /// Only the events that one of `exclusions` matches before its bound.
    pub(crate) fn matching(mut self, exclusions: &[Exclusion]) -> Self {
        self.only = exclusions.to_vec();
        self
    }

    /// With all of their columns.
    pub(crate) fn whole(mut self) -> Self {
        self.whole = true;
        self
    }

    /// Only events whose event time lies in `[from, to)`, microseconds since the Unix epoch.
    pub(crate) fn between(mut self, from: Option<i64>, to: Option<i64>) -> Self {
        self.between = (from.is_some() || to.is_some()).then_some(EventTimeRange { from, to });
        self
    }

    /// The scan and its filters, over columns of the stream's events schema by name.
    pub(crate) fn plan(&self, job: &Job) -> Result<Arc<dyn ExecutionPlan>, BatchError> {
        // The raw log may be a column ahead of the schema that the view was compiled for, or behind it.
        let schema = job.raw.schema();
        let columns = job.view.event_columns_in(job.raw.events())?;
        let coded = job.view.coded_columns_in(job.raw.events())?;
        // A predicate may read any column, and texts as texts.
        let needs_all = self.whole || !self.exclude.is_empty() || !self.only.is_empty();
        let mut plan = job.raw.scan(RawScan {
            columns: (!needs_all).then_some(columns),
            dictionaries: match needs_all {
                true => None,
                false => Some(Dictionaries::new(coded, &job.task)?),
            },
            event_time: self.between,
            target_partitions: job.partitions,
            ..RawScan::of(self.span.clone())
        })?;
        if !self.exclude.is_empty() {
            let matches = exclusion_predicate(&self.exclude, schema)?;
            let keep = Arc::new(BinaryExpr::new(
                matches,
                Operator::IsDistinctFrom,
                lit(true),
            ));
            plan = filtered(plan, keep)?;
        }
        if !self.only.is_empty() {
            plan = filtered(plan, exclusion_predicate(&self.only, schema)?)?;
        }
        Ok(plan)
    }
}

fn filtered(
    plan: Arc<dyn ExecutionPlan>,
    expr: Arc<dyn PhysicalExpr>,
) -> Result<Arc<dyn ExecutionPlan>, BatchError> {
    Ok(Arc::new(FilterExec::try_new(expr, plan)?))
}
