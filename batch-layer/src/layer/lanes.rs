// SPDX-License-Identifier: Apache-2.0
//! Whose turn it is to compute, and the memory that a turn comes with.
//!
//! Purpose: bound what batch computations take together, however many runs are started at one moment. There are
//! two lanes, one for full and repair runs and one for everything that brings a generation forward (incremental
//! runs, the base of a full run, promote and rollback), so that an hours-long full run never keeps the
//! speed layer's memory from being freed. In each lane [`super::BatchConfig::runs`] compute at a time; the others
//! wait in the order they came.
//! Memory: the limit of the configured pool is split evenly among all turns, and each computes in a pool of its own.
//! So a run gets the same memory whatever else computes, and all together never more than the limit.
//!
//! Nobody waits in a circle. What is held while waiting comes from one end of this order only, each once:
//!
//! ```text
//! turn of the full lane  <  publish lock of a view  <  turn of the incremental lane  <  nothing
//! ```
//!
//! A full run takes its turn before its base, so it waits with nothing in its hands and starts from the newest one.
//! Whoever has a turn of the incremental lane waits for the log, the archive and the computation, and no other run.

use std::sync::Arc;

use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{FairSpillPool, MemoryLimit, MemoryPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use dovetail_model::RunMode;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{BatchError, Progress};

/// Which of the two lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Full and repair runs.
    Full,
    /// Whatever brings a generation forward.
    Incremental,
}

impl Kind {
    /// That of a run of `mode`.
    pub(crate) fn of(mode: RunMode) -> Self {
        match mode {
            RunMode::Full | RunMode::Repair => Self::Full,
            RunMode::Incremental => Self::Incremental,
        }
    }
}

/// Both lanes of a process.
#[derive(Debug)]
pub(crate) struct Lanes {
    full: Arc<Lane>,
    incremental: Arc<Lane>,
}

#[derive(Debug)]
struct Lane {
    /// First come, first served.
    turns: Arc<Semaphore>,
    /// One for each turn that nobody has.
    free: Mutex<Vec<Arc<TaskContext>>>,
}

/// The right to compute until it is dropped, with the memory to do it in.
#[derive(Debug)]
pub(crate) struct Turn {
    task: Arc<TaskContext>,
    lane: Arc<Lane>,
    _permit: OwnedSemaphorePermit,
}

impl Lanes {
    /// Lanes of `runs` turns each, which share the memory of `task`'s pool.
    pub(crate) fn new(task: &Arc<TaskContext>, runs: usize) -> Self {
        let runs = runs.max(1);
        let share = match task.memory_pool().memory_limit() {
            MemoryLimit::Finite(bytes) => Some(bytes / (2 * runs)),
            _ => None,
        };
        let lane = || {
            let free = (0..runs).map(|_| with_own_memory(task, share)).collect();
            Arc::new(Lane {
                turns: Arc::new(Semaphore::new(runs)),
                free: Mutex::new(free),
            })
        };
        Self {
            full: lane(),
            incremental: lane(),
        }
    }

    /// Waits for a turn; `progress` says so meanwhile.
    pub(crate) async fn turn(&self, kind: Kind, progress: &Progress) -> Result<Turn, BatchError> {
        let lane = match kind {
            Kind::Full => &self.full,
            Kind::Incremental => &self.incremental,
        };
        let turns = Arc::clone(&lane.turns);
        let permit = match Arc::clone(&turns).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let _waiting = progress.wait();
                turns
                    .acquire_owned()
                    .await
                    .map_err(|_| BatchError::Cancelled)?
            }
        };
        let task = lane.free.lock().pop();
        Ok(Turn {
            task: task.expect("there is a context for each permit"),
            lane: Arc::clone(lane),
            _permit: permit,
        })
    }

    /// Gives no more turns, and cancels whoever waits for one: for shutdown.
    pub(crate) fn close(&self) {
        self.full.turns.close();
        self.incremental.turns.close();
    }

    /// Whether the process is stopping.
    pub(crate) fn is_closed(&self) -> bool {
        self.full.turns.is_closed()
    }
}

impl Turn {
    /// Where to compute.
    pub(crate) fn task(&self) -> &Arc<TaskContext> {
        &self.task
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Before the permit, which is dropped after this.
        self.lane.free.lock().push(Arc::clone(&self.task));
    }
}

/// `task` with a memory pool of `share` bytes; with its own where nothing is limited.
fn with_own_memory(task: &Arc<TaskContext>, share: Option<usize>) -> Arc<TaskContext> {
    let Some(bytes) = share else {
        return Arc::clone(task);
    };
    let pool: Arc<dyn MemoryPool> = Arc::new(FairSpillPool::new(bytes));
    let runtime = RuntimeEnvBuilder::from_runtime_env(&task.runtime_env())
        .with_memory_pool(pool)
        .build_arc()
        .expect("the disk manager is there already");
    Arc::new(TaskContext::new(
        task.task_id(),
        task.session_id(),
        task.session_config().clone(),
        task.scalar_functions().clone(),
        task.higher_order_functions().clone(),
        task.aggregate_functions().clone(),
        task.window_functions().clone(),
        runtime,
    ))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const LIMIT: usize = 64 << 20;

    fn limit(turn: &Turn) -> usize {
        match turn.task().memory_pool().memory_limit() {
            MemoryLimit::Finite(bytes) => bytes,
            _ => usize::MAX,
        }
    }

    fn lanes(runs: usize) -> Lanes {
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(LIMIT)))
            .build_arc()
            .unwrap();
        Lanes::new(
            &Arc::new(TaskContext::default().with_runtime(runtime)),
            runs,
        )
    }

    /// What `turn` gives at once.
    fn now(lanes: &Lanes, kind: Kind) -> Option<Turn> {
        let progress = Progress::default();
        lanes
            .turn(kind, &progress)
            .now_or_never()
            .map(Result::unwrap)
    }

    #[test]
    fn all_turns_together_have_the_memory_of_the_limit() {
        for runs in [1, 2, 3] {
            let lanes = lanes(runs);
            let mut turns = vec![];
            for kind in [Kind::Full, Kind::Incremental] {
                turns.extend(std::iter::from_fn(|| now(&lanes, kind)));
            }
            assert_eq!(turns.len(), 2 * runs);
            let sum: usize = turns.iter().map(limit).sum();
            assert!(sum <= LIMIT && sum > LIMIT - 2 * runs, "{sum}");
            // They are pools apart: what one takes, no other misses.
            let first = turns[0].task().memory_pool();
            let consumer = datafusion::execution::memory_pool::MemoryConsumer::new("test");
            let held = consumer.register(first);
            held.grow(1000);
            let reserved = turns
                .iter()
                .map(|turn| turn.task().memory_pool().reserved());
            assert_eq!(reserved.sum::<usize>(), 1000);
        }
    }

    #[test]
    fn a_lane_is_first_come_first_served_and_one_does_not_block_the_other() {
        let lanes = lanes(1);
        let full = now(&lanes, Kind::Full).unwrap();
        let (second, third) = (Progress::default(), Progress::default());
        let mut second_turn = Box::pin(lanes.turn(Kind::Full, &second));
        let mut third_turn = Box::pin(lanes.turn(Kind::Full, &third));
        assert!((&mut second_turn).now_or_never().is_none());
        assert!((&mut third_turn).now_or_never().is_none());
        assert!(second.is_waiting() && third.is_waiting());
        // The other lane is free.
        assert!(now(&lanes, Kind::Incremental).is_some());

        drop(full);
        assert!((&mut third_turn).now_or_never().is_none());
        let turn = (&mut second_turn).now_or_never().unwrap().unwrap();
        assert!(!second.is_waiting() && third.is_waiting());
        drop(turn);
        assert!((&mut third_turn).now_or_never().is_some());
    }

    #[test]
    fn whoever_gives_up_waiting_is_out_of_the_way() {
        let lanes = lanes(1);
        let full = now(&lanes, Kind::Full).unwrap();
        let (second, third) = (Progress::default(), Progress::default());
        let mut second_turn = Box::pin(lanes.turn(Kind::Full, &second));
        let mut third_turn = Box::pin(lanes.turn(Kind::Full, &third));
        assert!((&mut second_turn).now_or_never().is_none());
        assert!((&mut third_turn).now_or_never().is_none());
        drop(second_turn);
        assert!(!second.is_waiting());
        drop(full);
        assert!((&mut third_turn).now_or_never().is_some());
    }

    #[test]
    fn closed_lanes_cancel_whoever_waits() {
        let lanes = lanes(1);
        let full = now(&lanes, Kind::Full).unwrap();
        let waiting = Progress::default();
        let mut turn = Box::pin(lanes.turn(Kind::Full, &waiting));
        assert!((&mut turn).now_or_never().is_none());
        lanes.close();
        let ended = (&mut turn).now_or_never().unwrap();
        assert!(matches!(ended, Err(BatchError::Cancelled)));
        drop(full);
    }
}
