// SPDX-License-Identifier: Apache-2.0
//! Keeps every view of a stream fresh in memory.
//!
//! Purpose: turn each committed micro-batch into one run per view ([`Accumulator`]), merge runs
//! geometrically off the ingest path ([`Merger`]), bound the memory ([`SpeedMemory`]), and rebuild the
//! runs after a restart ([`rebuild_runs`]).
//! Collaborators: `dovetail-seam` holds the cut that all views advance in together.
//! Invariants: a micro-batch enters all views in one swap; merging never crosses a pinned edge; nothing
//! here is durable, everything can be rebuilt from generation, raw log and log tail.
//! Non-goals: generations, queries.

mod accumulator;
mod error;
mod memory;
mod merge_policy;
mod merger;
mod queue;
mod rebuild;

pub use accumulator::{Accumulator, accumulate};
pub use error::SpeedError;
pub use memory::{Pressure, SpeedMemory};
pub use merge_policy::{FAN_IN, next_merge};
pub use merger::{Merger, Wake, merge_once};
pub use queue::{BatchReceiver, BatchSender, batch_queue};
pub use rebuild::rebuild_runs;
