// SPDX-License-Identifier: Apache-2.0
//! How long a stage took for each thing that it did, as a histogram.
//!
//! Invariant: counts only grow, so that rates and quantiles of any time can be taken of two readings. Noting costs
//! two additions to atomics. Non-goals: exact quantiles.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the buckets, in seconds: from a micro-batch in memory to a full recompute.
pub const STAGE_BOUNDS_S: [f64; 9] = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 600.0];

const BUCKETS: usize = STAGE_BOUNDS_S.len() + 1;

/// The latencies of one stage.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

/// A reading of a [`Latency`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Latencies {
    /// Those within each of [`STAGE_BOUNDS_S`] and above the one before; the last of those above all.
    pub buckets: [u64; BUCKETS],
    /// Of all, in seconds.
    pub sum_s: f64,
}

impl Latency {
    /// Notes that something took so long.
    pub fn note(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = STAGE_BOUNDS_S.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(1, Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(micros, Relaxed);
    }

    /// All that was noted.
    pub fn read(&self) -> Latencies {
        Latencies {
            buckets: self.buckets.each_ref().map(|count| count.load(Relaxed)),
            sum_s: self.sum_us.load(Relaxed) as f64 / 1e6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_fall_between_their_bounds() {
        let latency = Latency::default();
        for ms in [1, 2, 600_001] {
            latency.note(Duration::from_millis(ms));
        }
        let read = latency.read();
        assert_eq!(read.buckets, [1, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(read.sum_s, 600.004);
    }
}
