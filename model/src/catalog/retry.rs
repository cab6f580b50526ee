// SPDX-License-Identifier: Apache-2.0
//! When a batch run that failed is tried again, as a law over the ledger: the scheduler follows it, and whoever
//! waits for a view is told.

use chrono::{DateTime, TimeDelta, Utc};

use super::{CatalogState, ViewState};
use crate::{BatchRun, Outcome, RunMode, ViewId};

/// Pause after a failed run of a lane before the scheduler tries again; doubled by each more in a row.
const RETRY_AFTER: TimeDelta = TimeDelta::minutes(1);
/// How often it is doubled at most: the longest pause is about an hour.
const MAX_DOUBLINGS: i32 = 6;
/// No pause is longer.
pub const LONGEST_RETRY: TimeDelta = TimeDelta::minutes(1 << MAX_DOUBLINGS);

impl CatalogState {
    /// When a lane of `view` may be tried again whose last runs since `since` failed: what fails on its data fails
    /// every time, and must not fill the ledger. None when nothing stands against it. A run of either lane that was
    /// promoted ends the row of failures.
    pub fn retry_at(
        &self,
        view: &ViewId,
        incremental: bool,
        since: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        self.pause_over_at(view, incremental, since, false)
    }

    fn pause_over_at(
        &self,
        view: &ViewId,
        incremental: bool,
        since: DateTime<Utc>,
        interrupted_counts: bool,
    ) -> Option<DateTime<Utc>> {
        let mut failures = 0;
        let mut last_ended = None;
        let latest = self.runs.values().rev().filter(|run| run.view == *view);
        for run in latest.take_while(|run| run.started_at >= since) {
            let of_lane = (run.mode == RunMode::Incremental) == incremental;
            match run.outcome {
                Outcome::Promoted => break,
                Outcome::Failed | Outcome::Cancelled if of_lane => {
                    let is_interrupted = run.error.as_deref() == Some("interrupted");
                    if (is_interrupted && !interrupted_counts) || failures > MAX_DOUBLINGS {
                        break;
                    }
                    failures += 1;
                    last_ended = last_ended.or(run.ended_at);
                }
                _ => {}
            }
        }
        let doublings = (failures - 1).clamp(0, MAX_DOUBLINGS);
        let pause = RETRY_AFTER * 2_i32.pow(u32::try_from(doublings).unwrap_or(0));
        Some(last_ended? + pause)
    }

    /// When the scheduler tries to build a definition of `view` again: the first one, or a newer one. None: at once.
    /// What may have healed it, a newer definition or exclusion, makes it due at once.
    pub fn rebuild_at(&self, view: &ViewState) -> Option<DateTime<Utc>> {
        self.retry_at(&view.def.id, false, self.healed_at(view))
    }

    /// When the scheduler recomputes `view` again whose volume is reached, and whose last full or repair runs failed. A
    /// run that was interrupted counts, too: it may have been what brought the process down.
    pub fn recompute_again_at(&self, view: &ViewState) -> Option<DateTime<Utc>> {
        self.pause_over_at(&view.def.id, false, self.healed_at(view), true)
    }

    /// Since when nothing has changed that may heal `view`: a definition or an exclusion.
    fn healed_at(&self, view: &ViewState) -> DateTime<Utc> {
        let defined = view.pending.as_ref().unwrap_or(&view.def).defined_at;
        let exclusions = self.streams.get(&view.def.stream).into_iter();
        exclusions
            .flat_map(|stream| stream.exclusions.values())
            .map(|exclusion| exclusion.declared_at)
            .fold(defined, Ord::max)
    }

    /// The last attempt to build the present definition of `view`, if it came to nothing and none is at work since.
    pub fn failed_build(&self, view: &ViewState) -> Option<&BatchRun> {
        let defined = view.pending.as_ref().unwrap_or(&view.def).defined_at;
        let runs = self.runs.values().rev();
        let last = runs
            .filter(|run| run.view == view.def.id)
            .take_while(|run| run.started_at >= defined)
            .find(|run| run.mode == RunMode::Full)?;
        matches!(last.outcome, Outcome::Failed | Outcome::Cancelled).then_some(last)
    }
}
