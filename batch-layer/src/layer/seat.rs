// SPDX-License-Identifier: Apache-2.0
//! Where a run is computed: at a worker that has a place, else here when it is its turn.
//!
//! The rule is the simplest that is right: a place in a worker is taken when there is one, and otherwise whichever
//! comes first, a place or our own turn. A worker that is lost costs the run its time and nothing else: it is computed
//! again, here or at another. Places come where turns do in the order of what is held while waiting (see [`super::lanes`]).

use std::collections::HashMap;
use std::sync::Arc;

use dovetail_log::raw::RawSnapshot;
use dovetail_model::{RunMode, ViewId};
use dovetail_seam::Generation;
use dovetail_view::View;
use parking_lot::Mutex;
use tracing::{info, warn};

use super::lanes::Turn;
use super::{BatchLayer, Kind};
use crate::compute::{Computation, Computed, Job};
use crate::{BatchError, Place, Progress, StreamHandle, Work};

/// How often a run is handed to workers: one on which they die must not take them all.
const HANDED_OUT: usize = 3;

/// The right to compute until it is dropped.
#[derive(Debug)]
pub(crate) enum Seat {
    /// In this process.
    Here(Turn),
    /// At a worker.
    There(Box<dyn Place>),
}

/// What is computed, with what this process holds of its input.
#[derive(Debug)]
pub(crate) struct Assignment {
    view: Arc<View>,
    /// Held for as long as somebody computes: its files stay, whoever reads them.
    raw: Arc<RawSnapshot>,
    work: Work,
}

impl Assignment {
    /// The version of the raw log that it reads.
    pub(crate) fn raw_version(&self) -> u64 {
        self.raw.version()
    }
}

impl BatchLayer {
    /// Waits for a seat for a run of `mode`; `progress` says so meanwhile.
    pub(crate) async fn seat(
        &self,
        mode: RunMode,
        progress: &Progress,
    ) -> Result<Seat, BatchError> {
        if self.lanes.is_closed() {
            return Err(BatchError::Cancelled);
        }
        tokio::select! {
            biased;
            place = self.config.workers.place(mode) => Ok(Seat::There(place)),
            turn = self.lanes.turn(Kind::of(mode), progress) => turn.map(Seat::Here),
        }
    }

    /// `computation` under the definition `view` of the view `id`, over the raw log as it is now.
    pub(crate) fn assignment(
        &self,
        id: &ViewId,
        view: &Arc<View>,
        stream: &StreamHandle,
        computation: Computation,
    ) -> Assignment {
        let cut = stream.cell.load();
        let raw = Arc::clone(cut.raw());
        let state = self.config.catalog.state();
        let name = state.view_name(id);
        Assignment {
            work: Work::new(id, name, view, cut.stream(), &raw, computation),
            view: Arc::clone(view),
            raw,
        }
    }

    /// Computes where `seat` is, and elsewhere when its worker is lost.
    pub(crate) async fn compute(
        &self,
        mut seat: Seat,
        assignment: &Assignment,
        progress: &Arc<Progress>,
    ) -> Result<Computed, BatchError> {
        let mode = assignment.work.mode();
        let mut handed_out = 0;
        loop {
            let place = match &mut seat {
                Seat::Here(turn) => return self.compute_here(turn, assignment, progress).await,
                Seat::There(place) => place,
            };
            let error = match there(place.as_mut(), &assignment.work, progress).await {
                Ok(result) => return result,
                Err(error) => error,
            };
            let (view, worker) = (&assignment.work.name, place.worker());
            warn!(%view, id = %assignment.work.view, %mode, worker, %error, "a worker did not compute what it was handed; it is computed again");
            handed_out += 1;
            drop(seat);
            seat = match handed_out {
                HANDED_OUT.. => Seat::Here(self.lanes.turn(Kind::of(mode), progress).await?),
                _ => self.seat(mode, progress).await?,
            };
        }
    }

    async fn compute_here(
        &self,
        turn: &Turn,
        assignment: &Assignment,
        progress: &Arc<Progress>,
    ) -> Result<Computed, BatchError> {
        progress.is_here();
        let job = Job {
            view: Arc::clone(&assignment.view),
            raw: Arc::clone(&assignment.raw),
            root: Generation::view_root(&assignment.work.view),
            store: Arc::clone(&self.config.store),
            task: Arc::clone(turn.task()),
            at_a_time: self.config.runs,
            partitions: self.config.partitions,
            progress: Arc::clone(progress),
        };
        job.compute(&assignment.work.computation).await
    }
}

/// What the worker answers of the run; else why it is to be computed elsewhere.
async fn there(
    place: &mut dyn Place,
    work: &Work,
    progress: &Progress,
) -> Result<Result<Computed, BatchError>, String> {
    let worker = place.worker().to_owned();
    info!(view = %work.name, id = %work.view, mode = %work.mode(), worker, "handed to a worker");
    progress.is_at(&worker);
    let answer = place.compute(work, &|said| progress.hear(said)).await;
    let failure = match answer {
        Ok(answer) => {
            progress.hear(answer.read);
            match answer.result {
                Ok(computed) => return Ok(Ok(computed)),
                Err(failure) => failure,
            }
        }
        Err(lost) => {
            progress.forget_worker();
            return Err(lost.to_string());
        }
    };
    match failure.into_error(work.mode(), &worker) {
        Ok(error) => Ok(Err(error)),
        Err(trouble) => {
            progress.forget_worker();
            Err(trouble)
        }
    }
}

/// Counts, for each view, the computations whose files no manifest names yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct UnnamedFiles(Arc<Mutex<HashMap<ViewId, usize>>>);

/// Keeps a view's unnamed files from being swept until it is dropped: from before the first is written, by whichever
/// process, until the commit that names them.
#[derive(Debug)]
pub(crate) struct Unnamed {
    all: UnnamedFiles,
    view: ViewId,
}

impl UnnamedFiles {
    pub(crate) fn of(&self, view: &ViewId) -> Unnamed {
        *self.0.lock().entry(view.clone()).or_default() += 1;
        Unnamed {
            all: self.clone(),
            view: view.clone(),
        }
    }

    /// Whether there may be some of `view`.
    pub(crate) fn are_there(&self, view: &ViewId) -> bool {
        self.0.lock().contains_key(view)
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        let mut all = self.all.0.lock();
        if let Some(count) = all.get_mut(&self.view) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.view);
            }
        }
    }
}
