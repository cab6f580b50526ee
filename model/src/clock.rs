// SPDX-License-Identifier: Apache-2.0
//! Time as an argument. Arrival times, schedules and freshness read a [`Clock`], never the system's directly.

use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, TimeZone, Utc};

/// Wall-clock time. It may jump; nothing correct depends on it growing.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Now, in UTC.
    fn now(&self) -> DateTime<Utc>;

    /// Now, in microseconds since the Unix epoch.
    fn now_us(&self) -> i64 {
        self.now().timestamp_micros()
    }
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
}

/// A clock that stands still until it is moved, for tests and the simulation.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock standing at `us` microseconds since the Unix epoch.
    pub fn at(us: i64) -> Self {
        Self(AtomicI64::new(us))
    }

    /// Moves the clock by `us` microseconds, back if negative.
    pub fn advance(&self, us: i64) {
        self.0.fetch_add(us, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        let us = self.0.load(Ordering::SeqCst);
        Utc.timestamp_micros(us)
            .single()
            .unwrap_or(DateTime::UNIX_EPOCH)
    }
}
