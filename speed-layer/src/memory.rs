// SPDX-License-Identifier: Apache-2.0
//! The bound on what all speed layers of the process hold in memory.

use std::collections::HashMap;

use dovetail_model::StreamId;
use parking_lot::Mutex;
use tokio::sync::watch;

/// How full the speed layer's memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Below the soft limit.
    Low,
    /// Past the soft limit: incremental runs are asked for, so that generations take over.
    High,
    /// Past the hard limit: ingest waits.
    Full,
}

/// Counts the bytes of runs and tails per stream against two limits.
#[derive(Debug)]
pub struct SpeedMemory {
    soft_bytes: usize,
    hard_bytes: usize,
    used: Mutex<HashMap<StreamId, usize>>,
    pressure: watch::Sender<Pressure>,
}

impl SpeedMemory {
    /// Limits in bytes; the hard one is at least the soft one.
    pub fn new(soft_bytes: usize, hard_bytes: usize) -> Self {
        let (pressure, _) = watch::channel(Pressure::Low);
        Self {
            soft_bytes,
            hard_bytes: hard_bytes.max(soft_bytes),
            used: Mutex::default(),
            pressure,
        }
    }

    /// Notes what the cut of one stream holds now.
    pub fn set(&self, stream: &StreamId, bytes: usize) {
        let total: usize = {
            let mut used = self.used.lock();
            used.insert(stream.clone(), bytes);
            used.values().sum()
        };
        let now = self.classify(total);
        self.pressure
            .send_if_modified(|pressure| std::mem::replace(pressure, now) != now);
    }

    /// Forgets a stream that was dropped.
    pub fn remove(&self, stream: &StreamId) {
        self.set(stream, 0);
        self.used.lock().remove(stream);
    }

    /// Bytes in use over all streams.
    pub fn used_bytes(&self) -> usize {
        self.used.lock().values().sum()
    }

    /// The stream that holds most, and how much.
    pub fn largest(&self) -> Option<(StreamId, usize)> {
        self.used
            .lock()
            .iter()
            .max_by_key(|(_, bytes)| **bytes)
            .map(|(id, bytes)| (id.clone(), *bytes))
    }

    /// The hard limit in bytes.
    pub fn hard_bytes(&self) -> usize {
        self.hard_bytes
    }

    /// The soft limit in bytes.
    pub fn soft_bytes(&self) -> usize {
        self.soft_bytes
    }

    /// How many bytes a merge may take on top of what runs and tails hold.
    pub fn merge_bytes(&self) -> usize {
        self.hard_bytes / 2
    }

    /// Told of each change of the pressure.
    pub fn watch(&self) -> watch::Receiver<Pressure> {
        self.pressure.subscribe()
    }

    /// The pressure now.
    pub fn pressure(&self) -> Pressure {
        *self.pressure.borrow()
    }

    /// Returns at once below the hard limit, else when the use has fallen below it. Put a time-out around
    /// it: only an incremental run, or an archive, makes room.
    pub async fn admit(&self) {
        let mut watch = self.watch();
        // The sender lives in `self`, so waiting cannot fail while we hold it.
        let _ = watch.wait_for(|pressure| *pressure < Pressure::Full).await;
    }

    fn classify(&self, total: usize) -> Pressure {
        if total >= self.hard_bytes {
            Pressure::Full
        } else if total >= self.soft_bytes {
            Pressure::High
        } else {
            Pressure::Low
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn id(text: &str) -> StreamId {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn ingest_waits_past_the_hard_limit_and_goes_on_below_it() {
        let memory = Arc::new(SpeedMemory::new(10, 20));
        memory.set(&id("a"), 9);
        memory.set(&id("b"), 5);
        assert_eq!(memory.pressure(), Pressure::High);
        memory.set(&id("b"), 15);
        assert_eq!(memory.pressure(), Pressure::Full);
        let waiting = tokio::spawn({
            let memory = Arc::clone(&memory);
            async move { memory.admit().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        memory.remove(&id("b"));
        waiting.await.unwrap();
        assert_eq!(memory.pressure(), Pressure::Low);
    }
}
