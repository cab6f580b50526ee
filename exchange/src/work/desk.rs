// SPDX-License-Identifier: Apache-2.0
//! Who works for this process, and on what.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use dovetail_log::catalog::random_u64;
use dovetail_model::{Problem, RowsRead, RunMode, ViewId};
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use super::{Answered, Beat, HOLD, Order, Orders, SILENCE};

/// The workers of this process and what they have in hand. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Desk(Arc<Inner>);

impl Default for Desk {
    fn default() -> Self {
        Self::with_patience(SILENCE)
    }
}

#[derive(Debug)]
struct Inner {
    /// After which a worker is lost.
    silence: Duration,
    workers: Mutex<BTreeMap<u64, Worker>>,
    /// Told when a place may have become free.
    freed: watch::Sender<()>,
}

#[derive(Debug)]
struct Worker {
    name: String,
    runs: usize,
    heard: Instant,
    /// Those that somebody here holds.
    places: BTreeMap<u64, Taken>,
    /// Told when it is to hear something.
    news: Arc<Notify>,
}

/// A place that is held, with the task that is computed there if there is one yet.
#[derive(Debug)]
struct Taken {
    mode: RunMode,
    task: Option<Task>,
}

#[derive(Debug)]
struct Task {
    number: u64,
    view: ViewId,
    work: Box<RawValue>,
    read: watch::Sender<RowsRead>,
    answer: oneshot::Sender<Box<RawValue>>,
}

/// A worker, as `dovetail status` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerStatus {
    /// Its name.
    pub name: String,
    /// How many full or repair runs it computes at a time, and how many incremental ones beside them.
    pub runs: usize,
    /// What it computes.
    pub tasks: Vec<WorkerTask>,
}

/// A task of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerTask {
    /// The view.
    pub view: ViewId,
    /// What kind of run it is of.
    pub mode: RunMode,
    /// What it has read.
    pub read: RowsRead,
}

/// Why a task has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WorkerLost(String);

/// A place in a worker. It is free again when this is dropped.
#[derive(Debug)]
pub struct WorkPlace {
    desk: Desk,
    worker: u64,
    place: u64,
    name: String,
}

/// Withdraws the task of a place when it is dropped.
struct Handed<'a>(&'a WorkPlace);

impl Desk {
    /// A desk for which a worker is lost after so much silence.
    pub(super) fn with_patience(silence: Duration) -> Self {
        Self(Arc::new(Inner {
            silence,
            workers: Mutex::default(),
            freed: watch::Sender::default(),
        }))
    }

    /// A free place for a run of `mode`, as soon as a worker has one. Of several, one of the worker that has most.
    pub async fn place(&self, mode: RunMode) -> WorkPlace {
        let mut freed = self.0.freed.subscribe();
        loop {
            freed.borrow_and_update();
            if let Some(place) = self.free_place(mode) {
                return place;
            }
            // The sender is in `self`.
            let _ = freed.changed().await;
        }
    }

    fn free_place(&self, mode: RunMode) -> Option<WorkPlace> {
        let mut workers = self.0.living();
        let free = workers
            .iter_mut()
            .filter(|(_, worker)| worker.free(mode) > 0)
            .max_by_key(|(_, worker)| (worker.free(mode), std::cmp::Reverse(worker.places.len())));
        let (number, worker) = free?;
        let place = random_u64();
        worker.places.insert(place, Taken { mode, task: None });
        Some(WorkPlace {
            desk: self.clone(),
            worker: *number,
            place,
            name: worker.name.clone(),
        })
    }

    /// Every worker that beats.
    pub fn workers(&self) -> Vec<WorkerStatus> {
        let workers = self.0.living();
        let task = |taken: &Taken| {
            let task = taken.task.as_ref()?;
            Some(WorkerTask {
                view: task.view.clone(),
                mode: taken.mode,
                read: *task.read.borrow(),
            })
        };
        let shown = workers.values().map(|worker| WorkerStatus {
            name: worker.name.clone(),
            runs: worker.runs,
            tasks: worker.places.values().filter_map(task).collect(),
        });
        let mut shown: Vec<_> = shown.collect();
        shown.sort_by(|a, b| a.name.cmp(&b.name));
        shown
    }

    /// Answers a beat once there is news, or after [`HOLD`].
    pub(crate) async fn beat(&self, beat: Beat) -> Result<Orders, Problem> {
        let ours = env!("CARGO_PKG_VERSION");
        if beat.version != ours {
            return Err(Problem::invalid(format!(
                "a worker must be of the version of the process that it works for: it is of {}, this is {ours}",
                beat.version
            )));
        }
        if beat.leaves {
            self.0.leave(beat.worker);
            return Ok(Orders::default());
        }
        let news = self.0.hear(&beat);
        let orders = self.0.orders(&beat);
        if !orders.is_empty() {
            return Ok(orders);
        }
        let _nothing = timeout(HOLD, news.notified()).await;
        Ok(self.0.orders(&beat))
    }

    /// As if nothing had been heard of `worker` for too long.
    #[cfg(test)]
    pub(super) fn silence(&self, worker: u64) {
        let mut workers = self.0.workers.lock();
        let heard = &mut workers.get_mut(&worker).expect("it is there").heard;
        *heard = heard
            .checked_sub(self.0.silence)
            .expect("the machine is up");
        drop(workers);
        let _pruned = self.0.living();
    }

    /// Takes an answer. Whether somebody waited for it.
    pub(crate) fn answer(&self, answered: Answered) -> bool {
        let task = {
            let mut workers = self.0.living();
            let worker = workers.get_mut(&answered.worker);
            worker.and_then(|worker| worker.take(answered.task))
        };
        task.is_some_and(|task| task.answer.send(answered.answer).is_ok())
    }
}

impl Inner {
    /// The workers, without those that have fallen silent: their tasks end without an answer.
    fn living(&self) -> parking_lot::MutexGuard<'_, BTreeMap<u64, Worker>> {
        let mut workers = self.workers.lock();
        workers.retain(|_, worker| {
            let lives = worker.heard.elapsed() < self.silence;
            if !lives {
                warn!(worker = %worker.name, tasks = worker.places.len(), "a worker is silent; what it was handed is computed elsewhere");
            }
            lives
        });
        workers
    }

    fn hear(&self, beat: &Beat) -> Arc<Notify> {
        let mut workers = self.living();
        let mut joined = false;
        let worker = workers.entry(beat.worker).or_insert_with(|| {
            joined = true;
            Worker {
                name: beat.name.clone(),
                runs: beat.runs,
                heard: Instant::now(),
                places: BTreeMap::new(),
                news: Arc::default(),
            }
        });
        worker.heard = Instant::now();
        for told in &beat.computing {
            if let Some(task) = worker.task(told.task) {
                task.read.send_replace(told.read);
            }
        }
        let news = Arc::clone(&worker.news);
        drop(workers);
        if joined {
            info!(worker = %beat.name, runs = beat.runs, "a worker is there");
            self.freed.send_replace(());
        }
        news
    }

    fn leave(&self, worker: u64) {
        let left = self.workers.lock().remove(&worker);
        if let Some(left) = left {
            info!(worker = %left.name, "a worker has left");
        }
    }

    /// What a worker is to be told that has in hand what `beat` says.
    fn orders(&self, beat: &Beat) -> Orders {
        let workers = self.workers.lock();
        let Some(worker) = workers.get(&beat.worker) else {
            return Orders::default();
        };
        let in_hand: HashSet<u64> = beat.computing.iter().map(|told| told.task).collect();
        let handed = worker.places.values();
        let handed: Vec<(&Taken, &Task)> = handed
            .filter_map(|taken| Some((taken, taken.task.as_ref()?)))
            .collect();
        let wanted: HashSet<u64> = handed.iter().map(|(_, task)| task.number).collect();
        let new = handed
            .iter()
            .filter(|(_, task)| !in_hand.contains(&task.number));
        Orders {
            begin: new
                .map(|(taken, task)| Order {
                    task: task.number,
                    view: task.view.clone(),
                    mode: taken.mode,
                    work: task.work.clone(),
                })
                .collect(),
            give_up: in_hand.difference(&wanted).copied().collect(),
        }
    }
}

impl Worker {
    /// Free places for runs of `mode`: one that brings a generation forward takes none of the others.
    fn free(&self, mode: RunMode) -> usize {
        let forward = |mode| mode == RunMode::Incremental;
        let taken = self.places.values();
        let taken = taken.filter(|taken| forward(taken.mode) == forward(mode));
        self.runs.saturating_sub(taken.count())
    }

    fn task(&mut self, number: u64) -> Option<&mut Task> {
        let mut tasks = self.places.values_mut().filter_map(|t| t.task.as_mut());
        tasks.find(|task| task.number == number)
    }

    fn take(&mut self, number: u64) -> Option<Task> {
        let mut places = self.places.values_mut();
        let place = places.find(|taken| taken.task.as_ref().is_some_and(|t| t.number == number));
        place?.task.take()
    }
}

impl WorkPlace {
    /// The worker's name.
    pub fn worker(&self) -> &str {
        &self.name
    }

    /// Has `work` of `view` computed; `hear` is told what was read so far. Dropped, the worker is told to give up.
    ///
    /// # Errors
    /// [`WorkerLost`] when the worker has left or fallen silent.
    pub async fn compute(
        &self,
        view: &ViewId,
        work: Box<RawValue>,
        hear: &(dyn Fn(RowsRead) + Send + Sync),
    ) -> Result<Box<RawValue>, WorkerLost> {
        let (read, mut told) = watch::channel(RowsRead::default());
        let (answer, mut answered) = oneshot::channel();
        let task = Task {
            number: random_u64(),
            view: view.clone(),
            work,
            read,
            answer,
        };
        self.hand(task)?;
        let _withdrawn = Handed(self);
        loop {
            let silent = self.silent_from()?;
            tokio::select! {
                biased;
                answered = &mut answered => return answered.map_err(|_| self.lost()),
                Ok(()) = told.changed() => hear(*told.borrow_and_update()),
                // Whether it is silent is looked at again then.
                () = sleep_until(silent) => {}
            }
        }
    }

    fn hand(&self, task: Task) -> Result<(), WorkerLost> {
        let mut workers = self.desk.0.living();
        let worker = workers.get_mut(&self.worker).ok_or_else(|| self.lost())?;
        let taken = worker.places.get_mut(&self.place);
        taken.ok_or_else(|| self.lost())?.task = Some(task);
        worker.news.notify_one();
        Ok(())
    }

    /// When the worker is lost if it is not heard until then.
    fn silent_from(&self) -> Result<Instant, WorkerLost> {
        let workers = self.desk.0.living();
        let worker = workers.get(&self.worker).ok_or_else(|| self.lost())?;
        Ok(worker.heard + self.desk.0.silence)
    }

    fn lost(&self) -> WorkerLost {
        WorkerLost(format!(
            "the worker `{}` has stopped, or was silent for {} s",
            self.name,
            self.desk.0.silence.as_secs()
        ))
    }
}

impl Drop for Handed<'_> {
    fn drop(&mut self) {
        let WorkPlace {
            desk,
            worker,
            place,
            ..
        } = self.0;
        let mut workers = desk.0.workers.lock();
        if let Some(worker) = workers.get_mut(worker)
            && let Some(taken) = worker.places.get_mut(place)
            && taken.task.take().is_some()
        {
            worker.news.notify_one();
        }
    }
}

impl Drop for WorkPlace {
    fn drop(&mut self) {
        if let Some(worker) = self.desk.0.workers.lock().get_mut(&self.worker) {
            worker.places.remove(&self.place);
            worker.news.notify_one();
        }
        self.desk.0.freed.send_replace(());
    }
}
