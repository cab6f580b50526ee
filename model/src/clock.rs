// SPDX-License-Identifier: Apache-2.0
//! Time as an argument. Arrival times, schedules and freshness read a [`Clock`], never the system's directly.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use chrono::{DateTime, TimeZone, Utc};

/// Wall-clock time. It may jump; nothing correct depends on it growing.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Now, in UTC.
    fn now(&self) -> DateTime<Utc>;

    /// Now, in microseconds since the Unix epoch.
    fn now_us(&self) -> i64 {
        self.now().timestamp_micros()
    }

    /// Microseconds since some moment of this process. It never jumps: for how long something has lasted.
    fn steady_us(&self) -> i64;

    /// Both readings.
    fn moment(&self) -> Moment {
        Moment {
            now_us: self.now_us(),
            steady_us: self.steady_us(),
        }
    }
}

/// A moment by both readings of a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// [`Clock::now_us`].
    pub now_us: i64,
    /// [`Clock::steady_us`].
    pub steady_us: i64,
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the machine's clock"
    )]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }

    fn steady_us(&self) -> i64 {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        i64::try_from(START.elapsed().as_micros()).unwrap_or(i64::MAX)
    }
}

/// A clock that stands still until it is moved, for tests and the simulation.
#[derive(Debug, Default)]
pub struct ManualClock {
    us: AtomicI64,
    /// By how much the wall clock is off.
    jumped_us: AtomicI64,
}

impl ManualClock {
    /// A clock standing at `us` microseconds since the Unix epoch.
    pub fn at(us: i64) -> Self {
        Self {
            us: AtomicI64::new(us),
            jumped_us: AtomicI64::new(0),
        }
    }

    /// Lets `us` microseconds pass.
    pub fn advance(&self, us: i64) {
        self.us.fetch_add(us, Ordering::SeqCst);
    }

    /// Sets the wall clock forward by `us` microseconds, back if negative, while no time passes.
    pub fn jump(&self, us: i64) {
        self.jumped_us.fetch_add(us, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        let us = self.us.load(Ordering::SeqCst) + self.jumped_us.load(Ordering::SeqCst);
        Utc.timestamp_micros(us)
            .single()
            .unwrap_or(DateTime::UNIX_EPOCH)
    }

    fn steady_us(&self) -> i64 {
        self.us.load(Ordering::SeqCst)
    }
}
