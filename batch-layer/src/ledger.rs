// SPDX-License-Identifier: Apache-2.0
//! Writing runs and generations into the catalog.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use dovetail_log::catalog::{Catalog, CommitError};
use dovetail_model::{
    BatchRun, CatalogState, Entry, GenerationInputs, GenerationNumber, Manifest, Outcome, RunId,
    RunMode, ViewId, ViewState,
};

use crate::compute::Computed;
use crate::{BatchError, Progress};

/// Commits what `decide` makes of the newest state; an empty list commits nothing.
pub(crate) async fn commit(
    catalog: &Catalog,
    decide: impl FnMut(&CatalogState) -> Result<Vec<Entry>, BatchError> + Send,
) -> Result<Arc<CatalogState>, BatchError> {
    catalog.commit(decide).await.map_err(|error| match error {
        CommitError::Refused(error) => error,
        CommitError::Conflict(conflict) => BatchError::Conflict(conflict),
        other => BatchError::Commit(other.into_problem()),
    })
}

/// A generation that is computed and has no number yet.
#[derive(Debug, Clone)]
pub(crate) struct NewGeneration {
    pub(crate) view: ViewId,
    pub(crate) parent: Option<GenerationNumber>,
    pub(crate) definition_version: u64,
    pub(crate) sql: String,
    pub(crate) mode: RunMode,
    pub(crate) run: Option<RunId>,
    pub(crate) inputs: GenerationInputs,
}

impl NewGeneration {
    /// Its manifest under the next number of `view`.
    pub(crate) fn manifest(
        &self,
        view: &ViewState,
        computed: &Computed,
        now: DateTime<Utc>,
    ) -> Manifest {
        Manifest {
            view: self.view.clone(),
            stream: view.def.stream.clone(),
            number: view.next_generation,
            parent: self.parent,
            definition_version: self.definition_version,
            sql: self.sql.clone(),
            mode: Some(self.mode),
            run: self.run,
            inputs: self.inputs.clone(),
            files: computed.files.clone(),
            created_at: now,
        }
    }
}

/// The record of a run that must not have ended.
pub(crate) fn open_run(state: &CatalogState, id: RunId) -> Result<BatchRun, BatchError> {
    let run = state.runs.get(&id).ok_or_else(|| BatchError::NotFound {
        what: "run",
        name: id.to_string(),
    })?;
    Ok(BatchRun::clone(run))
}

/// Notes what a run read and wrote, and where it was computed.
pub(crate) fn count(run: &mut BatchRun, computed: &Computed, progress: &Progress) {
    run.rows_read = progress.total();
    run.worker = progress.worker();
    run.groups = computed.files.iter().map(|file| file.rows).sum();
    run.bytes = computed.bytes_written;
}

/// Gives a run its outcome. `seconds` counts until it was staged or ended without that.
pub(crate) fn end(run: &mut BatchRun, outcome: Outcome, now: DateTime<Utc>) {
    run.outcome = outcome;
    run.ended_at = Some(now);
    let elapsed = (now - run.started_at)
        .num_microseconds()
        .unwrap_or(0)
        .max(0);
    run.seconds.get_or_insert(elapsed as f64 / 1e6);
}
