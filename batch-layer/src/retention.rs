// SPDX-License-Identifier: Apache-2.0
//! Letting go of old generations, and of files that no generation names.

use std::collections::{BTreeSet, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use dovetail_model::{CatalogState, Entry, GenerationNumber, Outcome, ViewId, ViewState};
use dovetail_seam::Generation;
use futures::TryStreamExt as _;
use object_store::ObjectStoreExt as _;
use tracing::info;

use crate::{BatchError, BatchLayer, ledger};

/// Which generations stay readable.
#[derive(Debug, Clone, Copy)]
pub struct RetentionPolicy {
    /// At least this many of the newest.
    pub keep_newest: usize,
    /// And all that are younger than this.
    pub keep_for: TimeDelta,
    /// Files that no generation names stay this long, for queries that still read them and runs that have
    /// not named them yet.
    pub orphans_after: TimeDelta,
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        Self {
            keep_newest: 10,
            keep_for: TimeDelta::hours(24),
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

impl BatchLayer {
    /// Expires old generations of every view and deletes files that nothing names any more.
    ///
    /// # Errors
    /// When the catalog or the store refuses; what was not deleted is tried again at the next sweep.
    pub async fn sweep(&self, policy: &RetentionPolicy) -> Result<(), BatchError> {
        let now = self.config.clock.now();
        let state = self.config.catalog.state();
        for (id, view) in &state.views {
            if !expired(&state, view, policy, now).is_empty() {
                ledger::commit(&self.config.catalog, |state| {
                    let Some(view) = state.views.get(id) else {
                        return Ok(vec![]);
                    };
                    let generations = expired(state, view, policy, now);
                    Ok(vec![Entry::GenerationsExpired {
                        view: id.clone(),
                        generations,
                    }])
                })
                .await?;
            }
            self.delete_orphans(id, policy, now).await?;
        }
        Ok(())
    }

    async fn delete_orphans(
        &self,
        id: &ViewId,
        policy: &RetentionPolicy,
        now: DateTime<Utc>,
    ) -> Result<(), BatchError> {
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
        let named: HashSet<String> = view
            .generations
            .values()
            .flat_map(|manifest| {
                manifest
                    .files
                    .iter()
                    .map(|file| format!("{root}/{}", file.path))
            })
            .collect();
        let prefix = object_store::path::Path::from(format!("{root}/files"));
        let failed = |action: &'static str| {
            let path = prefix.to_string();
            move |source| BatchError::Store {
                action,
                path: path.clone(),
                source,
            }
        };
        let listed: Vec<_> = self
            .config
            .store
            .list(Some(&prefix))
            .try_collect()
            .await
            .map_err(failed("listing"))?;
        let old = |modified: DateTime<Utc>| now - modified > policy.orphans_after;
        let orphans = listed
            .into_iter()
            .filter(|o| !named.contains(o.location.as_ref()) && old(o.last_modified));
        for orphan in orphans {
            self.config
                .store
                .delete(&orphan.location)
                .await
                .map_err(failed("deleting"))?;
            info!(view = %id, path = %orphan.location, "deleted a file that no generation names");
        }
        Ok(())
    }
}
