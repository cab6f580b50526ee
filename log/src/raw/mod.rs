// SPDX-License-Identifier: Apache-2.0
//! The raw log: the immutable master dataset of a stream, a Delta Lake table of Parquet segments.
//!
//! ```text
//! streams/{id}/raw/           events:       segment ─ segment ─ segment      zero ……… archived
//! streams/{id}/dead-letters/  dead letters and marks that they were replayed
//! ```
//! Purpose: archive committed batches exactly once, and scan any archived span. Collaborators: the archiver
//! that calls [`RawLog::archive`], the seam and the batch layer that scan [`RawSnapshot`]s, other engines that
//! read the tables. Invariants: one commit per span, advancing one `txn` per partition from `span.from` to
//! `span.to`; the segments' spans form a chain from zero to the archived position; the Delta log *is* that
//! position and nothing repeats it; dead letters are durable before the events of their span.
//! Non-goals: the tail that is not archived yet, what an event means, leases.

mod access;
mod batches;
mod compact;
mod dead_letters;
pub mod delta;
mod error;
mod log;
mod nonce;
mod reader;
mod replay;
mod scan;
mod schema;
mod segment;
mod snapshot;
mod stats;
mod vacuum;
mod writer;

#[cfg(test)]
mod tests;

pub use compact::{Compacted, Compaction};
pub use dead_letters::{ArchivedDeadLetter, DeadLetters};
pub use error::RawError;
pub use log::RawLog;
pub use reader::RawReader;
pub use scan::{EventTimeRange, RawScan};
pub use segment::Segment;
pub use snapshot::RawSnapshot;
pub use vacuum::Vacuumed;
pub use writer::RawWriter;

use dovetail_model::StreamId;
use object_store::path::Path;

/// Where the tables of a stream are on a store.
pub fn root_of(stream: &StreamId) -> Path {
    Path::from(format!("streams/{stream}"))
}

/// How often a commit is based on a newer version before we give up: each try means that another writer won.
const MAX_TRIES: usize = 8;
