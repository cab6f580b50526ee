// SPDX-License-Identifier: Apache-2.0
//! One group by its key, without a plan.
//!
//! Purpose: a lookup that costs about what a database's does. Of the very cut that the planned read would take, it finds
//! the group's states in each run and its row in the generation, and merges and finishes them with the functions that
//! [`MergedScan`](super::merged_scan::MergedScan) uses, in the same order. Collaborators: [`GroupFinder`] and
//! [`Run::find`](dovetail_view::Run::find).
//! Invariants: the answer is the planned read's. Where something is in the way (keys that `=` does not tell apart as
//! groups are, a file that cannot be read, a select list that fails) there is none from here, and the planned read
//! answers, or says what is wrong. Non-goals: ranges, filters on other columns.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use dovetail_model::Problem;
use dovetail_seam::{GroupFinder, Runs};
use dovetail_view::{GroupKey, Run, View, bytes_of};
use futures::stream;
use tracing::debug;

use super::Engine;
use super::fetched::Fetched;
use super::query::timed_out;
use super::snapshot::Snapshot;
use super::view_table::ViewAnswer;
use crate::ports::Limits;
use crate::rows::RowsPlan;

/// Groups of a run that are indexed, and bytes of states that are merged, in less time than handing the work to a query
/// thread and back takes some hundred times over.
const ROWS_AT_ONCE: usize = 32 * 1024;
const BYTES_AT_ONCE: usize = 64 * 1024;

/// Why the planned read must answer.
type NotHere = String;

impl Engine {
    /// The columns of `plan` of the one group that it asks for, or no row; None where the planned read must answer.
    ///
    /// # Errors
    /// `Timeout`; what stands in the way of the runs of another process.
    pub(super) async fn looked_up(
        &self,
        snapshot: &Snapshot,
        plan: &RowsPlan,
        limits: &Limits,
    ) -> Result<Option<RecordBatch>, Problem> {
        let (Some(source), Some(values)) = (snapshot.view(), &plan.key) else {
            return Ok(None);
        };
        let view = source.generation.view();
        if !view.has_exact_keys() {
            return Ok(None);
        }
        let _at_work = self.meter.busy();
        let key = view.group_key(values).map_err(Problem::internal)?;
        let looking = self.look(source, &key, plan);
        let found = tokio::time::timeout_at(limits.deadline, looking).await;
        match found.map_err(|_| timed_out(limits))?? {
            Ok(rows) => {
                self.direct_lookups.fetch_add(1, Ordering::Relaxed);
                let rows = rows.project(&plan.projection);
                rows.map(Some).map_err(Problem::internal)
            }
            Err(why) => {
                debug!(why, "a lookup is planned");
                Ok(None)
            }
        }
    }

    async fn look(
        &self,
        source: &ViewAnswer,
        key: &GroupKey,
        plan: &RowsPlan,
    ) -> Result<Result<RecordBatch, NotHere>, Problem> {
        let fetched = Fetched::default();
        let reserved;
        let elsewhere;
        let runs = match &source.runs {
            Runs::Here(runs) => runs,
            remote @ Runs::Elsewhere(_) => {
                reserved = fetched.reserve(self.session.memory_pool());
                let filters = plan.filter.clone().map(split_conjunction_owned);
                let mut account = |bytes| reserved.grow(bytes);
                elsewhere = remote
                    .fetch(&filters.unwrap_or_default(), &mut account)
                    .await?;
                &elsewhere
            }
        };
        Ok(self.answer_of(source, runs, key).await)
    }

    async fn answer_of(
        &self,
        source: &ViewAnswer,
        runs: &[Arc<Run>],
        key: &GroupKey,
    ) -> Result<RecordBatch, NotHere> {
        self.index(runs).await?;
        let mut found = Vec::new();
        for run in runs {
            found.extend(run.find(key).map_err(|error| error.to_string())?);
        }
        let group = Group {
            view: Arc::clone(source.generation.view()),
            merges: runs.len() > 1,
            found,
            row: self
                .finder
                .find(&source.generation, key)
                .await
                .map_err(|error| error.to_string())?,
        };
        if group.states_bytes() <= BYTES_AT_ONCE {
            return group.finish();
        }
        let finishing = self.runtime.spawn(async move { group.finish() });
        finishing.await.map_err(|error| error.to_string())?
    }

    /// Makes the indexes of large runs that have none on the query threads: whoever waits for connections must not.
    async fn index(&self, runs: &[Arc<Run>]) -> Result<(), NotHere> {
        for run in runs {
            if run.rows() > ROWS_AT_ONCE && !run.is_indexed() {
                let run = Arc::clone(run);
                let indexing = self.runtime.spawn(async move { run.make_index() });
                let indexed = indexing.await.map_err(|error| error.to_string())?;
                indexed.map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }
}

/// What there is of one group.
struct Group {
    view: Arc<View>,
    /// Whether there are several runs, whose states are merged before the generation's are.
    merges: bool,
    /// Its states in the runs, in their order.
    found: Vec<RecordBatch>,
    /// Its row in the generation.
    row: Option<RecordBatch>,
}

impl Group {
    fn states_bytes(&self) -> usize {
        let row = self.row.iter().filter(|_| !self.found.is_empty());
        self.found.iter().chain(row).map(bytes_of).sum()
    }

    /// Its finished row; no row where there is nothing of it.
    fn finish(self) -> Result<RecordBatch, NotHere> {
        let Self {
            view,
            merges,
            mut found,
            row,
        } = self;
        let finished = match row {
            None if found.is_empty() => return Ok(RecordBatch::new_empty(view.output_schema())),
            Some(row) if found.is_empty() => view.output_of_file(&row),
            row => {
                let merged = if merges {
                    view.merge_states(&found).map(|merged| vec![merged])
                } else {
                    Ok(std::mem::take(&mut found))
                };
                merged.and_then(|mut states| {
                    states.extend(row.map(|row| view.states_of_file(&row)).transpose()?);
                    view.finish(&states)
                })
            }
        };
        finished.map_err(|error| error.to_string())
    }
}

/// A stream of one batch.
pub(super) fn one_batch(rows: RecordBatch) -> SendableRecordBatchStream {
    let schema = rows.schema();
    Box::pin(RecordBatchStreamAdapter::new(
        schema,
        stream::iter([Ok(rows)]),
    ))
}

/// A finder in what queries of `session` read.
pub(super) fn finder(
    session: &super::QuerySession,
    runtime: &tokio::runtime::Handle,
) -> GroupFinder {
    let pool = Arc::clone(session.memory_pool());
    GroupFinder::new(Arc::clone(session.store()), runtime.clone(), pool)
}
