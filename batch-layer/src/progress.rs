// SPDX-License-Identifier: Apache-2.0
//! How far a run is, wherever it is computed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::physical_plan::ExecutionPlan;
use dovetail_model::RowsRead;
use parking_lot::Mutex;

/// How far a run is.
#[derive(Debug, Default)]
pub struct Progress {
    at: Mutex<At>,
    waiting: AtomicBool,
}

#[derive(Debug, Default)]
struct At {
    /// Rows of the passes before the present one.
    before: u64,
    now: Option<Pass>,
    /// Where the present computation is, or the last one was: at a worker, or here.
    worker: Option<String>,
}

/// What is being read.
#[derive(Debug)]
enum Pass {
    /// By a plan of this process, about so many rows.
    Here(Arc<dyn ExecutionPlan>, u64),
    /// By a worker, as it said last.
    There(RowsRead),
}

impl Pass {
    fn read(&self) -> RowsRead {
        match self {
            Self::Here(plan, expected) => RowsRead {
                before: 0,
                present: Some((leaf_rows(plan.as_ref()), *expected)),
            },
            Self::There(said) => *said,
        }
    }
}

/// Marks a run as waiting until it is dropped.
pub(crate) struct Waiting<'a>(&'a Progress);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.store(false, Ordering::Relaxed);
    }
}

impl Progress {
    /// Rows that the run has read in its present pass, and about how many that pass has to read.
    pub fn rows(&self) -> Option<(u64, u64)> {
        self.read().present
    }

    /// Whether the run waits for others to have computed.
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(crate) fn wait(&self) -> Waiting<'_> {
        self.waiting.store(true, Ordering::Relaxed);
        Waiting(self)
    }

    /// Rows that the run has read in all its passes.
    pub fn total(&self) -> u64 {
        self.read().total()
    }

    /// The same with the present pass apart.
    pub fn read(&self) -> RowsRead {
        let at = self.at.lock();
        let now = at.now.as_ref().map(Pass::read).unwrap_or_default();
        RowsRead {
            before: at.before + now.before,
            present: now.present,
        }
    }

    /// The worker that computes the run, or computed it last.
    pub fn worker(&self) -> Option<String> {
        self.at.lock().worker.clone()
    }

    pub(crate) fn watch(&self, plan: Arc<dyn ExecutionPlan>, expected: u64) {
        self.at.lock().begin(Some(Pass::Here(plan, expected)));
    }

    /// This process computes next.
    pub(crate) fn is_here(&self) {
        self.at.lock().worker = None;
    }

    /// A worker computes next, and will say how far it is.
    pub(crate) fn is_at(&self, worker: &str) {
        let mut at = self.at.lock();
        at.begin(Some(Pass::There(RowsRead::default())));
        at.worker = Some(worker.to_owned());
    }

    /// What the worker says.
    pub(crate) fn hear(&self, said: RowsRead) {
        self.at.lock().now = Some(Pass::There(said));
    }

    /// What the worker read came to nothing.
    pub(crate) fn forget_worker(&self) {
        let mut at = self.at.lock();
        at.now = None;
        at.worker = None;
    }
}

impl At {
    fn begin(&mut self, next: Option<Pass>) {
        let last = std::mem::replace(&mut self.now, next);
        self.before += last.map_or(0, |last| last.read().total());
    }
}

/// Rows that came out of the leaves of a plan so far.
fn leaf_rows(plan: &dyn ExecutionPlan) -> u64 {
    let children = plan.children();
    if children.is_empty() {
        return plan.metrics().and_then(|m| m.output_rows()).unwrap_or(0) as u64;
    }
    children
        .into_iter()
        .map(|child| leaf_rows(child.as_ref()))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_read_counts_once_and_not_at_all_when_it_came_to_nothing() {
        let said = |before, read| RowsRead {
            before,
            present: Some((read, 100)),
        };
        let progress = Progress::default();
        progress.is_at("a");
        progress.hear(said(0, 70));
        assert_eq!((progress.rows(), progress.total()), (Some((70, 100)), 70));
        progress.forget_worker();
        assert_eq!((progress.rows(), progress.total()), (None, 0));
        assert_eq!(progress.worker(), None);
        progress.is_at("b");
        progress.hear(said(0, 30));
        progress.hear(said(100, 10));
        assert_eq!(progress.total(), 110);
        // The next computation of the same run.
        progress.is_at("c");
        assert_eq!((progress.rows(), progress.total()), (None, 110));
        progress.hear(said(0, 5));
        assert_eq!(progress.total(), 115);
        assert_eq!(progress.worker().as_deref(), Some("c"));
        progress.is_here();
        assert_eq!((progress.worker(), progress.total()), (None, 115));
    }
}
