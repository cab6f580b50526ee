// SPDX-License-Identifier: Apache-2.0
//! When runs start by themselves: cron, interval, volume, memory pressure, first generations, upgrades.

use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use croner::Cron;
use dovetail_model::{
    BatchRun, CatalogState, Entry, LONGEST_RETRY, ProblemKind, RunMode, ViewId, ViewState, Volume,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::layer::live_view;
use crate::relief::{MemoryDemand, SpeedLayerMemory};
use crate::{BatchError, BatchLayer, StartRequest, ledger};

/// A run that should start now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The view.
    pub view: ViewId,
    /// Full or incremental.
    pub mode: RunMode,
    /// Why.
    pub trigger: &'static str,
    /// For a scheduled full run, the time it was due: the latest one passed, so that any number of missed
    /// times is made up for by one run.
    pub due: Option<DateTime<Utc>>,
}

/// The next time of the view's full schedule after `after`; None when it has none or is paused.
pub fn next_full(view: &ViewState, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    cron_of(view)?.find_next_occurrence(&after, false).ok()
}

fn cron_of(view: &ViewState) -> Option<Cron> {
    let cron = view.def.recompute.as_deref();
    Cron::from_str(cron.filter(|_| !view.schedule_paused)?).ok()
}

/// The next time of the view's incremental schedule: `now` when it is due, later when runs of it fail; None when it
/// has none, or no generation yet.
pub fn next_incremental(
    state: &CatalogState,
    view: &ViewState,
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    view.live?;
    let again = state.retry_at(&view.def.id, true, view.def.defined_at);
    let next = refresh_due(state, view, now)?.max(now);
    let again = again.filter(|again| is_ahead(*again, now));
    Some(again.map_or(next, |again| next.max(again)))
}

/// Whether a run that failed waits until `again`. No pause is that long if the clock was not ahead when it failed.
fn is_ahead(again: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    now < again && again - now <= LONGEST_RETRY
}

/// When the view's interval since its last incremental run is over.
fn refresh_due(
    state: &CatalogState,
    view: &ViewState,
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let interval = TimeDelta::try_seconds(i64::try_from(view.def.refresh_s?).ok()?)?;
    let last = last_incremental(state, view);
    if last > now {
        // The clock was ahead then: how long ago that was is not known.
        return Some(now);
    }
    last.checked_add_signed(interval)
}

/// When the last incremental run started, or the definition was made.
fn last_incremental(state: &CatalogState, view: &ViewState) -> DateTime<Utc> {
    let of_view =
        |run: &&Arc<BatchRun>| run.view == view.def.id && run.mode == RunMode::Incremental;
    let last = state.runs.values().rev().find(of_view);
    last.map_or(view.def.defined_at, |run| run.started_at)
}

/// Which runs are due at `now`, one per view and lane. Pure: the caller starts them.
///
/// `memory` is what the speed layers' memory wants, `archived` what each view that volume recomputes has behind its last
/// full run.
pub fn due_runs(
    state: &CatalogState,
    now: DateTime<Utc>,
    memory: &MemoryDemand,
    archived: &BTreeMap<ViewId, Volume>,
) -> Vec<Due> {
    state
        .live_views()
        .flat_map(|view| {
            [
                due_full(state, view, now, archived.get(&view.def.id)),
                due_incremental(state, view, now, memory),
            ]
        })
        .flatten()
        .collect()
}

fn due_full(
    state: &CatalogState,
    view: &ViewState,
    now: DateTime<Utc>,
    archived: Option<&Volume>,
) -> Option<Due> {
    let id = &view.def.id;
    if state.running(id, false).is_some() {
        return None;
    }
    let due = |trigger, due| {
        Some(Due {
            view: id.clone(),
            mode: RunMode::Full,
            trigger,
            due,
        })
    };
    if view.is_building() {
        // A first generation that failed is tried again only after a pause, or by hand.
        return match state.rebuild_at(view) {
            Some(again) if is_ahead(again, now) => None,
            _ => due("build", None),
        };
    }
    if let Some(time) = passed_full(view, now) {
        return due("schedule", Some(time));
    }
    let is_reached = archived.is_some_and(|volume| view.def.recompute_after.is_reached_by(*volume));
    if !is_reached || view.schedule_paused {
        return None;
    }
    // What fails on its data is due as before: it waits longer each time.
    match state.recompute_again_at(view) {
        Some(again) if is_ahead(again, now) => None,
        _ => due("volume", None),
    }
}

/// The latest time of the view's full schedule that has passed and was not served.
fn passed_full(view: &ViewState, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let since = view.schedule_served.unwrap_or(view.def.defined_at);
    if next_full(view, now)? < since {
        // The clock was ahead then. What was served before is not known: one run makes up for it.
        return Some(now);
    }
    let latest = cron_of(view)?.find_previous_occurrence(&now, true).ok()?;
    (latest > since).then_some(latest)
}

/// Pause between incremental runs of a view under memory pressure: time for the last one to show.
const MEMORY_PAUSE: TimeDelta = TimeDelta::seconds(2);

fn due_incremental(
    state: &CatalogState,
    view: &ViewState,
    now: DateTime<Utc>,
    memory: &MemoryDemand,
) -> Option<Due> {
    let id = &view.def.id;
    view.live?;
    if state.running(id, true).is_some() {
        return None;
    }
    let due = |trigger| {
        Some(Due {
            view: id.clone(),
            mode: RunMode::Incremental,
            trigger,
            due: None,
        })
    };
    let again = state.retry_at(id, true, view.def.defined_at);
    if again.is_some_and(|again| is_ahead(again, now)) {
        return None;
    }
    let wanted = memory.shed.contains(id) || memory.pressed.as_ref() == Some(&view.def.stream);
    let paused = now - last_incremental(state, view);
    // Less than nothing: the clock was ahead then.
    if wanted && (paused >= MEMORY_PAUSE || paused < TimeDelta::zero()) {
        return due("memory");
    }
    if refresh_due(state, view, now)? <= now {
        due("schedule")
    } else {
        None
    }
}

/// Starts runs as they fall due, until cancelled.
#[derive(Debug, Clone)]
pub struct Scheduler {
    batch: BatchLayer,
    memory: Arc<dyn SpeedLayerMemory>,
}

/// How often the clock is looked at. Catalog changes wake the scheduler at once.
const TICK: Duration = Duration::from_millis(500);
/// Pause after the catalog could not be written: it is out, or its disk is full, and each try says so in the log.
const STORE_PAUSE: Duration = Duration::from_secs(5);

impl Scheduler {
    /// A scheduler over `batch` that keeps an eye on `memory`.
    pub fn new(batch: BatchLayer, memory: Arc<dyn SpeedLayerMemory>) -> Self {
        Self { batch, memory }
    }

    /// Runs until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let mut changes = self.batch.config.catalog.subscribe();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
                changed = changes.changed() => if changed.is_err() { return },
            }
            let now = self.batch.config.clock.now();
            let state = self.batch.config.catalog.state();
            let memory = self.batch.relieve(&state, self.memory.as_ref());
            let mut is_store_out = false;
            for due in due_runs(&state, now, &memory, &self.archived(&state)) {
                match self.start(&due).await {
                    // Someone else was quicker: what was due is done.
                    Ok(()) => self.batch.trouble.succeeds(),
                    Err(BatchError::AlreadyRunning { .. } | BatchError::NothingToBuild(_)) => {}
                    Err(error) => {
                        if error.kind() == ProblemKind::Unavailable {
                            is_store_out = true;
                            let view = state.view_name(&due.view);
                            self.batch.trouble.fails(format_args!(
                                "a due {} run of view `{view}` cannot be started: {error}",
                                due.mode
                            ));
                        }
                        warn!(view = state.view_name(&due.view), id = %due.view, mode = %due.mode, trigger = due.trigger, %error, "a due run could not be started")
                    }
                }
            }
            if is_store_out {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(STORE_PAUSE) => {}
                }
            }
        }
    }

    async fn start(&self, due: &Due) -> Result<(), BatchError> {
        if due.mode == RunMode::Incremental && self.nothing_new(&due.view)? {
            return Ok(());
        }
        if let Some(time) = due.due {
            // Served first: a run that crashes at once must not be started in a loop.
            let view = due.view.clone();
            ledger::commit(&self.batch.config.catalog, move |_| {
                Ok(vec![Entry::ScheduleServed {
                    view: view.clone(),
                    due: time,
                }])
            })
            .await?;
        }
        let request = match due.trigger {
            "build" => StartRequest::build(),
            trigger => StartRequest {
                mode: due.mode,
                trigger,
                ..StartRequest::default()
            },
        };
        let run = self.batch.start(&due.view, request).await?;
        let state = self.batch.config.catalog.state();
        info!(run = run.id.0, view = state.view_name(&due.view), id = %due.view, mode = %due.mode, trigger = due.trigger, "started by schedule");
        Ok(())
    }
}

impl Scheduler {
    /// What is archived behind the last full run of each view that volume recomputes.
    fn archived(&self, state: &CatalogState) -> BTreeMap<ViewId, Volume> {
        let views = state.live_views().filter_map(|view| {
            let archived = self.batch.archived_since_full(view)?;
            Some((view.def.id.clone(), archived))
        });
        views.collect()
    }

    /// Whether the live generation covers everything durable: an incremental run would do nothing.
    fn nothing_new(&self, id: &ViewId) -> Result<bool, BatchError> {
        let state = self.batch.config.catalog.state();
        let view = live_view(&state, id)?;
        Ok(view
            .horizon()
            .covers(&self.batch.handle(&view.def)?.cell.durable()))
    }
}

#[cfg(test)]
#[path = "scheduler/tests.rs"]
mod tests;
