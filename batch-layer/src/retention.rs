// SPDX-License-Identifier: Apache-2.0
//! Letting go of old generations, of files that no generation names, and of old records of the ledger.
//!
//! Purpose: bounded storage. Two ways make a file garbage, and each has its own start of the grace that queries
//! and diffs get which read it already: a generation that was discarded or expired says in the catalog since
//! when nothing new reads it; what a crash or a failed run left was never named, and counts from when it was
//! first seen; none goes while a computation of its view is under way, which may be about to name it.
//! Invariants: a file that a readable generation names is never deleted; a file goes before the catalog
//! forgets the generation that named it, so that a crash in between repeats the step.

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use dovetail_log::object::Sightings;
use dovetail_log::raw::delta::DeltaLogError;
use dovetail_model::{
    CatalogState, DataFile, Entry, GenerationNumber, Outcome, Problem, RunId, ViewId, ViewState,
};
use dovetail_seam::Generation;
use futures::TryStreamExt as _;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use tracing::{debug, info};

use crate::{BatchError, BatchLayer, ledger, projection};

/// Which generations and records of runs stay readable.
#[derive(Debug, Clone, Copy)]
pub struct RetentionPolicy {
    /// At least this many of the newest.
    pub keep_newest: usize,
    /// And all that are younger than this.
    pub keep_for: TimeDelta,
    /// At least this many of the newest runs of each view stay in the ledger, and all that made a generation that
    /// is readable.
    pub keep_runs: usize,
    /// Files stay this long after the commit that expired the last generation that names them, for queries and
    /// diffs that still read them; and files that no generation ever named, after a sweep saw them first, for runs
    /// that have not named them yet.
    pub orphans_after: TimeDelta,
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        Self {
            keep_newest: 10,
            keep_for: TimeDelta::hours(24),
            keep_runs: 1000,
            orphans_after: TimeDelta::hours(1),
        }
    }
}

/// The generations of `view` that may go at `now`: never the live one, the one that a rollback would go to,
/// or one that a run at work or staged needs.
fn expired(
    state: &CatalogState,
    view: &ViewState,
    policy: &RetentionPolicy,
    now: DateTime<Utc>,
) -> Vec<GenerationNumber> {
    let open = state.runs.values().filter(|run| run.view == view.def.id);
    let open = open.filter(|run| matches!(run.outcome, Outcome::Running | Outcome::Staged));
    let needed: BTreeSet<GenerationNumber> = open
        .flat_map(|run| [run.base, run.generation])
        .chain([view.live, view.before_promote])
        .flatten()
        .collect();
    let old = view.generations.iter().rev().skip(policy.keep_newest);
    old.filter(|(number, manifest)| {
        !needed.contains(number) && now - manifest.created_at > policy.keep_for
    })
    .map(|(number, _)| *number)
    .collect()
}

/// The records of `view`'s runs that may go.
fn expired_runs(state: &CatalogState, view: &ViewState, policy: &RetentionPolicy) -> Vec<RunId> {
    let made: BTreeSet<RunId> = view.generations.values().filter_map(|m| m.run).collect();
    let runs = state.runs.values().rev();
    runs.filter(|run| run.view == view.def.id)
        .skip(policy.keep_runs)
        .filter(|run| run.outcome.is_final() && !made.contains(&run.id))
        .map(|run| run.id)
        .collect()
}

/// What of a view's files may go.
#[derive(Debug, Default, PartialEq, Eq)]
struct Garbage {
    /// Files.
    files: Vec<Path>,
    /// Expired generations none of whose files is left then, shared ones aside.
    generations: Vec<GenerationNumber>,
}

/// What may go at `now` of the files `listed` below `root`; of those that were never named, `seen` remembers since when.
fn garbage(
    view: &ViewState,
    root: &Path,
    listed: Vec<Path>,
    seen: &mut Sightings,
    policy: &RetentionPolicy,
    now: DateTime<Utc>,
) -> Garbage {
    let path = |file: &DataFile| Path::from(format!("{root}/{}", file.path));
    let named: HashSet<Path> = view
        .generations
        .values()
        .flat_map(|manifest| manifest.files.iter().map(path))
        .collect();
    let mut expired: HashMap<Path, DateTime<Utc>> = HashMap::new();
    for generation in view.expired.values() {
        for file in &generation.manifest.files {
            let since = expired.entry(path(file)).or_insert(generation.at);
            *since = generation.at.max(*since);
        }
    }
    let due = |since: DateTime<Utc>| now - since > policy.orphans_after;
    let unneeded = listed.into_iter().filter(|path| !named.contains(path));
    let (once_named, never_named): (Vec<Path>, Vec<Path>) =
        unneeded.partition(|path| expired.contains_key(path));
    let mut files = seen.due(never_named, now, policy.orphans_after);
    files.extend(once_named.into_iter().filter(|path| due(expired[path])));
    let forgotten = view.expired.iter().filter(|(_, g)| due(g.at));
    Garbage {
        files,
        generations: forgotten.map(|(number, _)| *number).collect(),
    }
}

/// What sweeps remember of a view: the files that no generation names, and what its Delta log could do without.
#[derive(Debug, Default)]
pub(crate) struct Superfluous {
    files: Sightings,
    log: Sightings,
}

impl BatchLayer {
    /// Expires old generations of every view and deletes files that nothing names any more. Answers how many files.
    ///
    /// # Errors
    /// When the catalog or the store refuses; what was not deleted is tried again at the next sweep.
    pub async fn sweep(&self, policy: &RetentionPolicy) -> Result<u64, BatchError> {
        let mut deleted = 0;
        let swept = self.sweep_counted(policy, &mut deleted).await;
        if deleted > 0 {
            info!(files = deleted, "deleted files that no generation names");
        }
        swept.map(|()| deleted)
    }

    /// A sweep that adds to `deleted` as it goes, so that one that fails has told too.
    async fn sweep_counted(
        &self,
        policy: &RetentionPolicy,
        deleted: &mut u64,
    ) -> Result<(), BatchError> {
        // In this order: a file that was seen long before `now` and is needed is named by the newest state, which also
        // says whether the store is still ours. Else a process that was paused while another took over would take the
        // files of that one's generations for orphans.
        let now = self.config.clock.now();
        let state = self.config.catalog.reload().await;
        let state = state
            .map_err(|error| BatchError::Commit(Problem::new(error.kind(), error.to_string())))?;
        if let Some(superseded) = self.config.catalog.superseded_by() {
            return Err(BatchError::Superseded(superseded));
        }
        for id in state.views.keys() {
            self.expire(id, policy, now).await?;
            self.delete_orphans(id, policy, now, deleted).await?;
            self.shorten_projection(id, policy, now).await?;
        }
        Ok(())
    }

    /// Takes what is too old of one view out of the catalog.
    async fn expire(
        &self,
        id: &ViewId,
        policy: &RetentionPolicy,
        now: DateTime<Utc>,
    ) -> Result<(), BatchError> {
        ledger::commit(&self.config.catalog, |state| {
            let Some(view) = state.views.get(id) else {
                return Ok(vec![]);
            };
            let generations = expired(state, view, policy, now);
            let runs = expired_runs(state, view, policy);
            let generations = (!generations.is_empty()).then(|| Entry::GenerationsExpired {
                view: id.clone(),
                generations,
            });
            let runs = (!runs.is_empty()).then_some(Entry::RunsExpired { runs });
            Ok(generations.into_iter().chain(runs).collect())
        })
        .await
        .map(|_| ())
    }

    /// Deletes what the view's Delta table needs no more of its log.
    async fn shorten_projection(
        &self,
        id: &ViewId,
        policy: &RetentionPolicy,
        now: DateTime<Utc>,
    ) -> Result<(), BatchError> {
        let failed = |error: DeltaLogError| BatchError::Projection {
            view: id.to_string(),
            reason: error.to_string(),
        };
        let table = projection::table(&self.config.store, id, &self.config.clock);
        // Taken out, since a lock lives through no wait; sweeps do not meet.
        let mut seen = {
            let mut superfluous = self.superfluous.lock();
            std::mem::take(&mut superfluous.entry(id.clone()).or_default().log)
        };
        let expired = table
            .map_err(failed)?
            .expire(&mut seen, now, policy.orphans_after)
            .await;
        self.superfluous.lock().entry(id.clone()).or_default().log = seen;
        expired.map(|_| ()).map_err(failed)
    }

    async fn delete_orphans(
        &self,
        id: &ViewId,
        policy: &RetentionPolicy,
        now: DateTime<Utc>,
        deleted: &mut u64,
    ) -> Result<(), BatchError> {
        // Before the state is read: what had no name until now is named in it. Whoever writes the files, here or in another
        // process and by whichever clock, this process waits for them.
        if self.unnamed.are_there(id) {
            return Ok(());
        }
        let state = self.config.catalog.state();
        if state
            .runs
            .values()
            .any(|run| run.view == *id && run.outcome == Outcome::Running)
        {
            return Ok(());
        }
        let Some(view) = state.views.get(id) else {
            return Ok(());
        };
        let root = Generation::view_root(id);
        let prefix = Path::from(format!("{root}/files"));
        let failed = |action: &'static str| {
            let path = prefix.to_string();
            move |source| BatchError::Store {
                action,
                path: path.clone(),
                source,
            }
        };
        let listed: Vec<Path> = self
            .config
            .store
            .list(Some(&prefix))
            .map_ok(|object| object.location)
            .try_collect()
            .await
            .map_err(failed("listing"))?;
        let garbage = {
            let mut seen = self.superfluous.lock();
            let seen = &mut seen.entry(id.clone()).or_default().files;
            garbage(view, &root, listed, seen, policy, now)
        };
        for path in garbage.files {
            self.config
                .store
                .delete(&path)
                .await
                .map_err(failed("deleting"))?;
            *deleted += 1;
            debug!(view = %view.def.name, %id, %path, "deleted a file that no generation names");
        }
        if garbage.generations.is_empty() {
            return Ok(());
        }
        ledger::commit(&self.config.catalog, |_| {
            Ok(vec![Entry::GenerationsDeleted {
                view: id.clone(),
                generations: garbage.generations.clone(),
            }])
        })
        .await?;
        Ok(())
    }
}

#[cfg(test)]
#[path = "retention/tests.rs"]
mod tests;
