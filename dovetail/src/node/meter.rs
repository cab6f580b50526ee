// SPDX-License-Identifier: Apache-2.0
//! Rates over the last minute, for `dovetail status`.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Seconds of the window.
const WINDOW: usize = 60;

/// Counts events and busy time in one-second buckets over the last minute.
#[derive(Debug)]
pub(crate) struct Meter {
    started: Instant,
    buckets: Mutex<Buckets>,
}

#[derive(Debug)]
struct Buckets {
    second: u64,
    counts: [u64; WINDOW],
    busy: [Duration; WINDOW],
}

impl Default for Meter {
    fn default() -> Self {
        let buckets = Buckets {
            second: 0,
            counts: [0; WINDOW],
            busy: [Duration::ZERO; WINDOW],
        };
        Self {
            started: Instant::now(),
            buckets: Mutex::new(buckets),
        }
    }
}

impl Meter {
    /// Notes that `count` events were handled in `busy`.
    pub(crate) fn note(&self, count: u64, busy: Duration) {
        self.buckets
            .lock()
            .note(self.started.elapsed(), count, busy);
    }

    /// Events a second, and the share of the time that was busy, over the last minute (or since the start).
    pub(crate) fn rates(&self) -> (f64, f64) {
        self.buckets.lock().rates(self.started.elapsed())
    }
}

impl Buckets {
    fn note(&mut self, now: Duration, count: u64, busy: Duration) {
        let slot = self.advance(now);
        self.counts[slot] += count;
        self.busy[slot] += busy;
    }

    fn rates(&mut self, now: Duration) -> (f64, f64) {
        self.advance(now);
        let seconds = now.as_secs_f64().clamp(1.0, WINDOW as f64);
        let count: u64 = self.counts.iter().sum();
        let busy: Duration = self.busy.iter().sum();
        (
            count as f64 / seconds,
            (busy.as_secs_f64() / seconds).min(1.0),
        )
    }

    /// Clears the buckets that time has passed, and gives the present one.
    fn advance(&mut self, now: Duration) -> usize {
        let now = now.as_secs();
        let passed = (now - self.second).min(WINDOW as u64);
        for step in 1..=passed {
            let slot = ((self.second + step) % WINDOW as u64) as usize;
            self.counts[slot] = 0;
            self.busy[slot] = Duration::ZERO;
        }
        self.second = now;
        (now % WINDOW as u64) as usize
    }
}

/// One meter per stage that is measured.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    pub(crate) ingest: Meter,
    pub(crate) serve: Meter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_minute_counts() {
        let mut buckets = Buckets {
            second: 0,
            counts: [0; WINDOW],
            busy: [Duration::ZERO; WINDOW],
        };
        buckets.note(Duration::ZERO, 120, Duration::from_secs(3));
        assert_eq!(buckets.rates(Duration::from_secs(30)), (4.0, 0.1));
        assert_eq!(buckets.rates(Duration::from_secs(91)), (0.0, 0.0));
    }
}
