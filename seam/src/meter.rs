// SPDX-License-Identifier: Apache-2.0
//! How busy a stage of the data path is: what it handled and how long it was at work, over the last seconds, and how long
//! each thing took, since the start.
//!
//! A stage is busy while at least one [`Busy`] of its meter lives; several at once count once, so that the
//! share is one of time and never above 1. Non-goals: histories.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::latency::{Latencies, Latency};

/// Seconds that are looked back on.
const WINDOW: usize = 10;

/// What a stage did over the last ten seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// Things handled in a second.
    pub per_second: f64,
    /// Share of the time in which it was at work, 0 to 1.
    pub busy: f64,
}

/// What a stage has failed at since it last succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// How long ago it failed for the first time.
    pub since: Duration,
    /// How often it has failed.
    pub times: u64,
    /// Why it failed last.
    pub reason: String,
}

/// The meter of one stage.
#[derive(Debug)]
pub struct Meter {
    started: Instant,
    work: Mutex<Work>,
    latency: Latency,
    waiting: Mutex<Waiting>,
    /// [`Failing::since`] is read as the time of the first failure here.
    failing: Mutex<Option<Failing>>,
}

/// The meters of one stream's stages.
#[derive(Debug, Clone, Default)]
pub struct StageMeters {
    /// Appends that are decoded and made durable; counts events, times appends.
    pub ingest: Arc<Meter>,
    /// Micro-batches on their way into the views' runs; counts events, times batches from durable to visible.
    pub accumulate: Arc<Meter>,
    /// Runs that become one; counts the groups read, times merges.
    pub merge: Arc<Meter>,
    /// The tail on its way into the raw log; counts events, times archives.
    pub archive: Arc<Meter>,
}

/// Work that goes on: the stage is busy until this is dropped.
#[derive(Debug)]
pub struct Busy(Arc<Meter>);

/// Who waits for a stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// How many.
    pub count: usize,
    /// Why the last one who came does.
    pub why: &'static str,
}

/// Somebody who waits for the stage until this is dropped.
#[derive(Debug)]
pub struct Waits(Arc<Meter>);

#[derive(Debug, Default)]
struct Work {
    /// The second that was looked at last.
    second: u64,
    counts: [u64; WINDOW],
    busy: [Duration; WINDOW],
    /// Of all time.
    total: u64,
    /// How many are at work.
    active: usize,
    /// Up to when their time is in `busy`.
    settled: Duration,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            work: Mutex::default(),
            latency: Latency::default(),
            waiting: Mutex::default(),
            failing: Mutex::default(),
        }
    }
}

impl Meter {
    /// The time over which rates are taken.
    pub const WINDOW: Duration = Duration::from_secs(WINDOW as u64);

    /// The stage is at work from now on.
    pub fn busy(self: &Arc<Self>) -> Busy {
        self.work.lock().enter(self.started.elapsed());
        Busy(Arc::clone(self))
    }

    /// Somebody waits for the stage from now on.
    pub fn waits(self: &Arc<Self>, why: &'static str) -> Waits {
        let mut waiting = self.waiting.lock();
        waiting.count += 1;
        waiting.why = why;
        Waits(Arc::clone(self))
    }

    /// Who waits for the stage.
    pub fn waiting(&self) -> Waiting {
        *self.waiting.lock()
    }

    /// Notes that `count` things were handled.
    pub fn count(&self, count: u64) {
        self.work.lock().count(self.started.elapsed(), count);
    }

    /// Notes how long something took, from when it was there to when it was done.
    pub fn took(&self, time: Duration) {
        self.latency.note(time);
    }

    /// Notes that the stage failed: it is tried again, or waits for somebody.
    pub fn fails(&self, reason: impl ToString) {
        let now = self.started.elapsed();
        let mut failing = self.failing.lock();
        let (since, times) = failing.as_ref().map_or((now, 0), |f| (f.since, f.times));
        *failing = Some(Failing {
            since,
            times: times + 1,
            reason: reason.to_string(),
        });
    }

    /// Notes that what failed before does not any more.
    pub fn succeeds(&self) {
        *self.failing.lock() = None;
    }

    /// What the stage has failed at since it last succeeded; none when it did not.
    pub fn failing(&self) -> Option<Failing> {
        let now = self.started.elapsed();
        let failing = self.failing.lock().clone()?;
        Some(Failing {
            since: now.saturating_sub(failing.since),
            ..failing
        })
    }

    /// How long things took since the start.
    pub fn latencies(&self) -> Latencies {
        self.latency.read()
    }

    /// Things handled since the start.
    pub fn total(&self) -> u64 {
        self.work.lock().total
    }

    /// What happened over the last ten seconds, or since the start.
    pub fn rates(&self) -> Rates {
        self.work.lock().rates(self.started.elapsed())
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.waiting.lock().count -= 1;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let meter = &self.0;
        meter.work.lock().leave(meter.started.elapsed());
    }
}

impl Work {
    fn enter(&mut self, now: Duration) {
        self.settle(now);
        self.active += 1;
    }

    fn leave(&mut self, now: Duration) {
        self.settle(now);
        self.active -= 1;
    }

    fn count(&mut self, now: Duration, count: u64) {
        self.settle(now);
        self.counts[slot(self.second)] += count;
        self.total += count;
    }

    fn rates(&mut self, now: Duration) -> Rates {
        self.settle(now);
        let count: u64 = self.counts.iter().sum();
        let busy: Duration = self.busy.iter().sum();
        // Whole seconds, and the part of the present one that has passed.
        let covered = Duration::from_secs(WINDOW as u64 - 1)
            + Duration::from_nanos(now.subsec_nanos().into());
        let seconds = covered.min(now).as_secs_f64().max(1.0);
        Rates {
            per_second: count as f64 / seconds,
            busy: (busy.as_secs_f64() / seconds).min(1.0),
        }
    }

    /// Clears the seconds that have left the window, and puts the time of those at work where it belongs.
    fn settle(&mut self, now: Duration) {
        // Readings of the clock may arrive out of order.
        let now = now.max(self.settled);
        let second = now.as_secs();
        let passed = (second - self.second).min(WINDOW as u64);
        for step in 0..passed {
            let slot = slot(second - step);
            self.counts[slot] = 0;
            self.busy[slot] = Duration::ZERO;
        }
        self.second = second;
        if self.active > 0 {
            let oldest = Duration::from_secs((second + 1).saturating_sub(WINDOW as u64));
            let mut from = self.settled.max(oldest);
            while from < now {
                let to = now.min(Duration::from_secs(from.as_secs() + 1));
                self.busy[slot(from.as_secs())] += to - from;
                from = to;
            }
        }
        self.settled = now;
    }
}

fn slot(second: u64) -> usize {
    (second % WINDOW as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn only_the_last_seconds_count() {
        let mut work = Work::default();
        work.count(at(0.5), 100);
        assert_eq!(work.rates(at(1.0)).per_second, 100.0);
        assert_eq!(work.rates(at(5.0)).per_second, 20.0);
        assert_eq!(work.rates(at(10.0)).per_second, 0.0);
        assert_eq!(work.rates(at(1000.0)), Rates::default());
    }

    #[test]
    fn work_counts_while_it_goes_on_and_several_at_once_count_once() {
        let mut work = Work::default();
        work.enter(at(1.5));
        work.enter(at(2.0));
        assert_eq!(work.rates(at(2.5)).busy, 1.0 / 2.5);
        work.leave(at(3.0));
        work.leave(at(4.0));
        assert_eq!(work.rates(at(5.0)).busy, 0.5);
        // Longer than the window: all of it, and no more.
        work.enter(at(20.0));
        assert_eq!(work.rates(at(95.25)).busy, 1.0);
        work.leave(at(95.25));
        assert_eq!(work.rates(at(99.25)).busy, 5.25 / 9.25);
        assert_eq!(work.rates(at(200.0)).busy, 0.0);
    }

    #[test]
    fn failures_in_a_row_are_one_until_it_succeeds() {
        let meter = Meter::default();
        assert_eq!(meter.failing(), None);
        meter.fails("no space");
        meter.fails("still no space");
        let failing = meter.failing().unwrap();
        assert_eq!((failing.times, &*failing.reason), (2, "still no space"));
        meter.succeeds();
        assert_eq!(meter.failing(), None);
        meter.fails("again");
        assert_eq!(meter.failing().unwrap().times, 1);
    }

    #[test]
    fn a_meter_is_busy_until_its_guard_goes() {
        let meter = Arc::new(Meter::default());
        let busy = meter.busy();
        assert_eq!(meter.work.lock().active, 1);
        drop(busy);
        assert_eq!(meter.work.lock().active, 0);
        meter.count(7);
        meter.count(2);
        assert!(meter.rates().per_second > 0.0);
        assert_eq!(meter.total(), 9);
    }
}
