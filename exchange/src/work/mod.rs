// SPDX-License-Identifier: Apache-2.0
//! Work for other processes, over the same server as the cuts.
//!
//! ```text
//! worker                                   process that takes the events
//!   beat: who, places, rows read so far ──►   held for a second, or until there is news
//!        ◄─────────────────────────────────   begin this; give that up
//!   answer: of one task ──────────────────►   accepted, once; or nobody waits for it
//! ```
//! Purpose: batch runs computed elsewhere. What the work is, and what its answer means, is not known here.
//! Invariants: a task has one answer at most: whichever comes first of its answer, its withdrawal, and the silence of
//! its worker ends it. A worker is known by a number that it drew at its start, and to this process since it beat here
//! first: what it still has from before is given up. Each side goes by its own clock, and only for how long it waits.
//! Non-goals: what is computed, and what becomes of it.

mod desk;
mod hand;

use std::time::Duration;

use dovetail_model::{RowsRead, RunMode, ViewId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use desk::{Desk, WorkPlace, WorkerLost, WorkerStatus, WorkerTask};
pub use hand::{Begun, Computes, Hand, HandConfig};

/// The action of a beat.
pub(crate) const BEAT: &str = "work-beat";
/// The action of an answer.
pub(crate) const ANSWER: &str = "work-answer";

/// For how long a beat is held while there is no news.
const HOLD: Duration = Duration::from_secs(1);
/// A worker that has not beaten for so long is lost, and what it was handed is computed elsewhere.
pub(crate) const SILENCE: Duration = Duration::from_secs(10);

/// What a worker says every second.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Beat {
    /// Drawn at its start.
    worker: u64,
    /// What people call it.
    name: String,
    /// Of Dovetail.
    version: String,
    /// How many full or repair runs it computes at a time, and how many incremental ones beside them.
    runs: usize,
    /// What it has in hand.
    computing: Vec<Told>,
    /// Whether it stops.
    leaves: bool,
}

/// How far a task is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Told {
    task: u64,
    read: RowsRead,
}

/// What a worker is told.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Orders {
    /// What it has not begun yet.
    begin: Vec<Order>,
    /// What nobody waits for.
    give_up: Vec<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    task: u64,
    view: ViewId,
    mode: RunMode,
    work: Box<RawValue>,
}

/// The answer to a task.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answered {
    worker: u64,
    task: u64,
    answer: Box<RawValue>,
}

impl Orders {
    fn is_empty(&self) -> bool {
        self.begin.is_empty() && self.give_up.is_empty()
    }
}

#[cfg(test)]
mod tests;
