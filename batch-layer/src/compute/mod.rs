// SPDX-License-Identifier: Apache-2.0
//! Computing the files of a generation. Pure of the catalog: from a raw snapshot, exclusions and perhaps a
//! base generation to new files, bounded in memory and able to spill.

mod events;
mod key_set;
mod rewrite;
mod states;
mod writer;

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::MemoryLimit;
use datafusion::physical_plan::execute_stream;
use dovetail_log::raw::RawSnapshot;
use dovetail_model::{DataFile, Exclusion, Manifest, Position, RepairScope, RunMode, Span};
use dovetail_seam::Generation;
use dovetail_view::{Predicate, View, ViewError};
use futures::TryStreamExt as _;
use object_store::ObjectStore;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use crate::{BatchError, Progress};
use events::EventsOf;
use key_set::{KeyCollector, KeySet};
use states::SortedStates;
use writer::GenerationWriter;

/// Groups per file that the writer aims at. Small enough that new events rewrite little, large enough
/// that a view of a million groups is a handful of files.
pub(crate) const FILE_ROWS: usize = 64 * 1024;

/// Memory of the states in a file that the writer aims at, where groups are wide (sketches, long texts): it holds
/// about two files' worth.
pub(crate) const FILE_BYTES: usize = 16 * 1024 * 1024;

/// Everything that a computation reads.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) view: Arc<View>,
    pub(crate) raw: Arc<RawSnapshot>,
    /// The view's directory in the object store.
    pub(crate) root: Path,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) task: Arc<TaskContext>,
    /// How many runs of its kind may compute at a time: each has its part of the memory.
    pub(crate) at_a_time: usize,
    pub(crate) partitions: usize,
    pub(crate) progress: Arc<Progress>,
}

/// Which files are computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Computation {
    /// Every group from the raw log before a horizon.
    Full {
        /// The horizon.
        horizon: Position,
        /// Whose events are left out.
        exclusions: Vec<Exclusion>,
    },
    /// A base brought forward.
    Forward {
        /// The base.
        base: Arc<Manifest>,
        /// The new horizon.
        to: Position,
    },
    /// A base with some groups recomputed whole.
    Repair {
        /// The base.
        base: Arc<Manifest>,
        /// Which groups.
        scope: RepairScope,
        /// Whose events are left out.
        exclusions: Vec<Exclusion>,
    },
}

impl Computation {
    /// The kind of run that computes it.
    pub(crate) fn mode(&self) -> RunMode {
        match self {
            Self::Full { .. } => RunMode::Full,
            Self::Forward { .. } => RunMode::Incremental,
            Self::Repair { .. } => RunMode::Repair,
        }
    }
}

/// The files of a new generation, in key order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Computed {
    /// All of them, also those of the base that stay.
    pub files: Vec<DataFile>,
    /// Bytes of the files that are new.
    pub bytes_written: u64,
}

impl Job {
    /// The one way to compute anything, in this process and for others.
    pub(crate) async fn compute(&self, what: &Computation) -> Result<Computed, BatchError> {
        let opened =
            |base: &Arc<Manifest>| Generation::new(Arc::clone(base), Arc::clone(&self.view));
        match what {
            Computation::Full {
                horizon,
                exclusions,
            } => self.full(horizon, exclusions).await,
            Computation::Forward { base, to } => self.incremental(&opened(base), to).await,
            Computation::Repair {
                base,
                scope,
                exclusions,
            } => self.repair(&opened(base), scope, exclusions).await,
        }
    }

    /// Every group from the raw log before `horizon`, without the excluded events.
    pub(crate) async fn full(
        &self,
        horizon: &Position,
        exclusions: &[Exclusion],
    ) -> Result<Computed, BatchError> {
        let events = EventsOf::span(Span::up_to(horizon.clone())).excluding(exclusions);
        let computing = async {
            let mut states = self.sorted_states(&events)?;
            let mut writer = GenerationWriter::new(self);
            while let Some(batch) = states.next().await? {
                writer.push(&batch).await?;
            }
            writer.finish().await
        };
        let computed = self.within_memory(RunMode::Full, computing).await;
        self.located(computed, &events).await
    }

    /// The base brought forward from its horizon to `to`.
    pub(crate) async fn incremental(
        &self,
        base: &Generation,
        to: &Position,
    ) -> Result<Computed, BatchError> {
        let span = Span::new(base.horizon().clone(), to.clone())
            .map_err(dovetail_seam::SeamError::from)?;
        let events = EventsOf::span(span).excluding(&base.manifest().inputs.exclusions);
        let computing = async {
            let states = self.sorted_states(&events)?;
            rewrite::rewrite(self, base, states, &KeySet::default()).await
        };
        let computed = self.within_memory(RunMode::Incremental, computing).await;
        self.located(computed, &events).await
    }

    /// The base with the groups of `scope` recomputed whole. Where `exclusions` differ from the base's, the
    /// groups that a matching event falls in are recomputed too, so that equal inputs give equal content.
    ///
    /// Two passes over the raw log: which groups, then all of their events. The first reads the event times that
    /// the scope names. The second reads the event times that can fall into those groups, where the view's time
    /// key tells; else everything.
    pub(crate) async fn repair(
        &self,
        base: &Generation,
        scope: &RepairScope,
        exclusions: &[Exclusion],
    ) -> Result<Computed, BatchError> {
        let repairing = async {
            let keys = self.keys_to_repair(base, scope, exclusions).await?;
            self.recompute(base, exclusions, &keys).await
        };
        self.within_memory(RunMode::Repair, repairing).await
    }

    async fn keys_to_repair(
        &self,
        base: &Generation,
        scope: &RepairScope,
        exclusions: &[Exclusion],
    ) -> Result<KeySet, BatchError> {
        let mut keys = KeyCollector::new(self.task.memory_pool());
        // Of no scope are no groups: then only the exclusions say which.
        if *scope != RepairScope::default() {
            let span = Span::up_to(base.horizon().clone());
            let asked = EventsOf::span(span).between(scope.from_us, scope.to_us);
            let keys_match = match &scope.predicate {
                Some(sql) => Some(Predicate::over_keys(sql, &self.view)?),
                None => None,
            };
            let states = self.sorted_states(&asked)?;
            let collected = keys.collect(&self.view, states, keys_match.as_ref()).await;
            if let Err(error) = collected {
                return Err(self.with_event(error, &asked, keys_match.as_ref()).await);
            }
        }
        let changed = changed_exclusions(&base.manifest().inputs.exclusions, exclusions);
        if !changed.is_empty() {
            // Before its bound, and no later, an event matches.
            let bounds = changed.iter().map(|exclusion| &exclusion.bound);
            let bound = bounds.fold(Position::zero(), |all, bound| all.join(bound));
            let before = Span::up_to(bound.meet(base.horizon()));
            let touched = EventsOf::span(before).matching(&changed);
            keys.collect(&self.view, self.sorted_states(&touched)?, None)
                .await?;
        }
        Ok(keys.sorted())
    }

    /// `error` with an event that falls in such a group, where the `where` of a repair fails for one. Which events a group
    /// has only another pass over them tells.
    async fn with_event(
        &self,
        error: BatchError,
        asked: &EventsOf,
        keys_match: Option<&Predicate>,
    ) -> BatchError {
        let Some(predicate) = keys_match else {
            return error;
        };
        if !matches!(error, BatchError::View(ViewError::Where(_))) {
            return error;
        }
        let failing = |events: &RecordBatch| self.view.event_failing(predicate, events);
        match self.first_of(asked, failing).await {
            Ok(Some(failed)) => BatchError::View(ViewError::Where(Box::new(failed))),
            // It stands without one, too.
            Ok(None) | Err(_) => error,
        }
    }

    /// What was computed of `events`; where the view fails on one of them, with that event. Nothing but another pass tells
    /// which it is: states are made of many at once.
    async fn located(
        &self,
        computed: Result<Computed, BatchError>,
        events: &EventsOf,
    ) -> Result<Computed, BatchError> {
        let error = match computed {
            Ok(computed) => return Ok(computed),
            Err(error) => error,
        };
        if !error.is_of_an_event() {
            return Err(error);
        }
        let failing = |events: &RecordBatch| self.view.failing_event(events);
        match self.first_of(events, failing).await {
            Ok(Some(failed)) => Err(BatchError::View(ViewError::Event(Box::new(failed)))),
            // It stands without one, too.
            Ok(None) | Err(_) => Err(error),
        }
    }

    /// The first that `find` finds in a batch of `events`.
    async fn first_of<T>(
        &self,
        events: &EventsOf,
        find: impl Fn(&RecordBatch) -> Option<T>,
    ) -> Result<Option<T>, BatchError> {
        let plan = events.clone().whole().plan(self)?;
        let mut events = execute_stream(plan, Arc::clone(&self.task))?;
        while let Some(batch) = events.try_next().await? {
            let found = find(&batch);
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The base with the groups of `keys` recomputed whole.
    async fn recompute(
        &self,
        base: &Generation,
        exclusions: &[Exclusion],
        keys: &KeySet,
    ) -> Result<Computed, BatchError> {
        let Some((first, last)) = keys.ends() else {
            return Ok(Computed {
                files: base.manifest().files.clone(),
                bytes_written: 0,
            });
        };
        let span = Span::up_to(base.horizon().clone());
        let mut events = EventsOf::span(span).excluding(exclusions);
        if let Some((from, to)) = self.event_times_between(first, last) {
            events = events.between(Some(from), to);
        }
        let states = self.sorted_states(&events)?.keeping(keys);
        let computed = rewrite::rewrite(self, base, states, keys).await;
        self.located(computed, &events).await
    }

    /// The event times outside of which no event falls into a group from `first` to `last`; None when all events
    /// must be read to know.
    fn event_times_between(&self, first: &[u8], last: &[u8]) -> Option<(i64, Option<i64>)> {
        let times = self.raw.segments().iter().filter_map(|s| s.event_time);
        let within = times.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))?;
        self.view.event_times_between(first, last, within)
    }

    /// What `computing` answers; where it used up the memory of a run, with the way out.
    async fn within_memory(
        &self,
        mode: RunMode,
        computing: impl Future<Output = Result<Computed, BatchError>>,
    ) -> Result<Computed, BatchError> {
        let error = match computing.await {
            Ok(computed) => return Ok(computed),
            Err(error) => error,
        };
        if let Some(reason) = error.unspilled() {
            return Err(BatchError::Spill(reason));
        }
        let limit = self.task.memory_pool().memory_limit();
        match (limit, error.exhausted()) {
            (MemoryLimit::Finite(limit), Some(reason)) => Err(BatchError::Memory {
                limit,
                at_a_time: self.at_a_time,
                mode,
                worker: None,
                reason,
            }),
            _ => Err(error),
        }
    }

    fn sorted_states(&self, events: &EventsOf) -> Result<SortedStates, BatchError> {
        let plan = events.plan(self)?;
        self.progress.watch(Arc::clone(&plan), self.raw.rows());
        let states = self.view.states_plan(plan)?;
        SortedStates::start(Arc::clone(&self.view), states, &self.task)
    }
}

/// Exclusions that are in one list and not in the other.
pub(crate) fn changed_exclusions(before: &[Exclusion], now: &[Exclusion]) -> Vec<Exclusion> {
    let only = |a: &[Exclusion], b: &[Exclusion]| {
        a.iter()
            .filter(|e| !b.contains(e))
            .cloned()
            .collect::<Vec<_>>()
    };
    [only(before, now), only(now, before)].concat()
}

#[cfg(test)]
pub(crate) mod tests;
