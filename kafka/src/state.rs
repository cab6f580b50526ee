// SPDX-License-Identifier: Apache-2.0
//! How a stream stands to its topic.

use dovetail_model::{Offset, PartitionId};

use crate::KafkaError;

/// What a [`crate::KafkaLog`] is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Phase {
    /// It has not yet heard from a broker.
    #[default]
    Connecting,
    /// It reads.
    Reading,
    /// It cannot read for now and goes on trying: why.
    Retrying(KafkaError),
    /// It reads no more until an operator has decided: why.
    Stopped(KafkaError),
}

/// How a stream stands to its topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// What it is doing.
    pub phase: Phase,
    /// How far it is in each partition, in their order.
    pub partitions: Vec<PartitionLag>,
    /// When the ends of the partitions were last heard of, milliseconds since the Unix epoch.
    pub looked_ms: Option<i64>,
    /// Records without a value that were left out since the start, if the stream skips them.
    pub skipped_tombstones: u64,
    /// Replays of other streams' dead letters that were left out since the start: their records were read before.
    pub skipped_replays: u64,
}

/// How far a stream is in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionLag {
    /// The partition.
    pub partition: PartitionId,
    /// The next offset that it reads.
    pub position: Offset,
    /// The last stable offset, as last heard; it may be behind `position`.
    pub end: Offset,
    /// When the record read last was made or appended, milliseconds since the Unix epoch; before the first one, when
    /// the partition was first looked at.
    pub last_timestamp_ms: Option<i64>,
}

impl PartitionLag {
    /// Offsets that it is behind, at most so many events.
    pub fn offsets(&self) -> u64 {
        self.end.0.saturating_sub(self.position.0)
    }
}
