// SPDX-License-Identifier: Apache-2.0
//! What `/metrics` shows beyond the status.

use dovetail_log::object::{CacheCounts, Counts};
use dovetail_model::{Outcome, RunMode};

use super::Status;

/// Everything that is measured, read at one moment.
#[derive(Debug, Clone)]
pub struct Measurements {
    /// As `/v1/status` shows it.
    pub status: Status,
    /// Batch runs in the ledger.
    pub batch_runs: Vec<BatchRunCount>,
    /// What a remote store was asked.
    pub requests: Counts,
    /// What is kept of it here.
    pub cache: Option<CacheCounts>,
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
