// SPDX-License-Identifier: Apache-2.0
//! The embedded log: where an event becomes durable.
//!
//! ```text
//!  append ─┐                ┌─ one frame: write, fsync ─► durable ─► CommitSink ─► acknowledge
//!  append ─┼─► queue ─► committer                                  (archive, speed layer)
//!  append ─┘  (bounded)     └─ a key seen before ─► the first answer again
//!
//!  DIR/0000000000-00000000000000000000.segment   sealed
//!  DIR/0000000001-00000000000000004711.segment   the last one takes the frames
//!  DIR/keys                                      keys of forgotten segments, and how far was forgotten
//! ```
//! Purpose: one per stream, with one partition. Collaborators: ingest appends and takes the committed
//! batches from the sink; the archiver says what may be forgotten; a restart reads the tail.
//! Invariants: nothing is acknowledged, visible or handed on before its fsync; an append is there whole or
//! not at all; offsets have no gap within the log; a failed fsync is never tried again; what is damaged is
//! never served; only what is archived is forgotten, but for keys, which live their time.
//! Non-goals: decoding, several partitions, replication.

mod admission;
mod batch;
mod committer;
mod disk;
mod error;
mod forget;
mod frame;
mod keys;
mod log;
mod payload;
mod reader;
mod recovery;
mod segment;
mod sim_disk;
mod wire;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use dovetail_model::{Offset, PartitionId};

pub use disk::{Disk, DiskFile, FsDisk};
pub use error::LogError;
pub use log::EmbeddedLog;
pub use reader::TailReader;
pub use recovery::{Recovered, TornTail};
pub use sim_disk::SimDisk;

use crate::{CommittedBatch, DeadLetter};

/// The only partition of an embedded log.
pub const ONLY_PARTITION: PartitionId = PartitionId(0);

/// Takes committed batches in offset order, right after their fsync and before their acknowledgement: an
/// append that has answered is known to everything behind the sink, so a target or an exclusion asked for
/// next covers it.
///
/// It is called on the committer's thread, never twice at once, and may block: while it does, nothing is
/// acknowledged, the queue fills, and appends wait. It must not wait for [`EmbeddedLog::close`] or for an
/// append.
pub type CommitSink = Box<dyn FnMut(Vec<Arc<CommittedBatch>>) + Send>;

/// Bounds and times of an embedded log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogOptions {
    /// A segment that has grown to this many bytes takes no more frames. Smaller ones free space sooner,
    /// larger ones mean fewer files; forgetting works on whole segments. 64 MiB.
    pub segment_max_bytes: u64,
    /// How long an idempotency key lives. 24 h.
    pub key_ttl: Duration,
    /// Idempotency keys that are remembered at most, about 120 bytes of memory each. Past that, appends
    /// with new keys are refused as busy: forgetting one early could double an event. 1,000,000.
    pub keys_max: usize,
    /// Bytes of events and dead letters that wait for a commit at most; appends past that wait their turn.
    /// 64 MiB.
    pub queue_max_bytes: usize,
    /// Appends that wait for a commit at most. 4096.
    pub queue_max_requests: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_max_bytes: 64 << 20,
            key_ttl: Duration::from_secs(24 * 60 * 60),
            keys_max: 1_000_000,
            queue_max_bytes: 64 << 20,
            queue_max_requests: 4096,
        }
    }
}

/// What makes a retry harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The client's key, unique per stream and request.
    pub key: String,
    /// Hash of the request's body: the same key with another body is refused.
    pub body_hash: [u8; 32],
}

/// One request: all of it becomes durable, or nothing.
#[derive(Debug, Clone)]
pub struct Append {
    /// The events, with the stream's declared columns.
    pub events: RecordBatch,
    /// What could not be decoded. These get the offsets behind the events'.
    pub dead_letters: Vec<DeadLetter>,
    /// Makes a retry harmless, if given.
    pub key: Option<IdempotencyKey>,
    /// Earlier dead letters that this append settles, as events or as dead letters anew; so an append that
    /// has any must have one of those too.
    pub replayed: Vec<Offset>,
}

/// The answer to an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Events committed.
    pub accepted: u64,
    /// Dead letters committed.
    pub rejected: u64,
    /// Offset behind the append's last one: a reader that stands there sees all of it.
    pub next: Offset,
    /// Whether this is the answer of an earlier append with the same key.
    pub duplicate: bool,
}
