// SPDX-License-Identifier: Apache-2.0
//! What `/metrics` shows beyond the status.

use dovetail_log::object::{CacheCounts, Counts};
use dovetail_model::{Outcome, RunMode};

use super::Status;

/// Everything that a process measures of itself, read at one moment.
#[derive(Debug, Clone)]
pub struct Measurements {
    /// As `/v1/status` shows it, or would.
    pub status: Status,
    /// What of it is known here.
    pub holds: Holds,
    /// Batch runs in the ledger.
    pub batch_runs: Vec<BatchRunCount>,
    /// What a remote store was asked.
    pub requests: Counts,
    /// What is kept of it here.
    pub cache: Option<CacheCounts>,
}

/// What a process has. What it does not have is not shown, since a zero would be a wrong one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holds {
    /// Runs and tails: of all that streams have, or of its share of the partitions.
    pub runs: bool,
    /// The store: what is archived, generations, batch runs.
    pub store: bool,
}

/// How many batch runs of a view the ledger has that are of one mode and came to one outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchRunCount {
    /// The view's name.
    pub view: String,
    /// What kind of run.
    pub mode: RunMode,
    /// What it came to.
    pub outcome: Outcome,
    /// How many.
    pub runs: u64,
}
