// SPDX-License-Identifier: Apache-2.0
//! One execution of the batch layer, as the ledger keeps it.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ExclusionId, GenerationNumber, RunId, Span, ViewId};

/// How a batch run computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunMode {
    /// Recompute every group from the raw log: the accuracy pass.
    #[default]
    Full,
    /// Merge the newly archived span into the live generation.
    Incremental,
    /// Recompute the groups of a time range or of keys.
    Repair,
}

impl RunMode {
    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Incremental => "incremental",
            Self::Repair => "repair",
        }
    }
}

impl fmt::Display for RunMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RunMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "full" => Ok(Self::Full),
            "incremental" => Ok(Self::Incremental),
            "repair" => Ok(Self::Repair),
            other => Err(format!(
                "`{other}` is not a mode: use full, incremental or repair"
            )),
        }
    }
}

/// Where a batch run stands, or how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// At work.
    Running,
    /// Its generation is written and waits for a decision.
    Staged,
    /// Its generation became the live one.
    Promoted,
    /// Its generation was thrown away.
    Discarded,
    /// It stopped on an error.
    Failed,
    /// Someone stopped it.
    Cancelled,
}

impl Outcome {
    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Staged => "staged",
            Self::Promoted => "promoted",
            Self::Discarded => "discarded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more will happen to the run.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Running | Self::Staged)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which groups a repair recomputes: those with an event in the time range that match the predicate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairScope {
    /// First event time inside, microseconds since the Unix epoch.
    pub from_us: Option<i64>,
    /// First event time behind.
    pub to_us: Option<i64>,
    /// A predicate over the view's key columns.
    #[serde(rename = "where")]
    pub predicate: Option<String>,
}

/// One group that differs between the base and a staged generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LargestChange {
    /// Its key columns.
    pub key: serde_json::Value,
    /// Its other columns in the base; null if it was added.
    pub before: serde_json::Value,
    /// Its other columns in the staged generation; null if it was removed.
    pub after: serde_json::Value,
}

/// A staged generation compared with its base at the same position, in groups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DiffSummary {
    /// The generation compared with.
    pub base: GenerationNumber,
    /// Groups only in the staged generation.
    pub added: u64,
    /// Groups only in the base.
    pub removed: u64,
    /// Groups in both whose values differ by more than their aggregates' equality allows.
    pub changed: u64,
    /// The largest changes, largest first.
    pub largest: Vec<LargestChange>,
}

/// One execution of the batch layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchRun {
    /// Its number.
    pub id: RunId,
    /// The view it computes.
    pub view: ViewId,
    /// How it computes.
    pub mode: RunMode,
    /// For a repair: which groups.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub scope: Option<RepairScope>,
    /// Whether it was to end staged.
    #[serde(default)]
    pub dry_run: bool,
    /// Where it stands.
    pub outcome: Outcome,
    /// The generation it started from, and compares with.
    pub base: Option<GenerationNumber>,
    /// The generation it made.
    pub generation: Option<GenerationNumber>,
    /// What of the stream it covers.
    pub span: Option<Span>,
    /// The exclusions it applied.
    #[serde(default)]
    pub exclusions: Vec<ExclusionId>,
    /// The raw log's table version it read.
    pub raw_version: Option<u64>,
    /// The view's pointer epoch when it started: another one now makes a staged run stale.
    #[serde(default)]
    pub pointer_epoch: u64,
    /// Rows read from the raw log until it was staged or had ended, by all passes together. An event counts once for
    /// each pass that reads it: a full or repair run brings the live generation forward first, and a repair reads once
    /// to find its groups and once more to recompute them.
    pub rows_read: u64,
    /// Groups written.
    pub groups: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Seconds from start to end, or until staged.
    pub seconds: Option<f64>,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// When it reached its outcome.
    pub ended_at: Option<DateTime<Utc>>,
    /// What stopped it.
    pub error: Option<String>,
    /// Who asked: `user`, `schedule`, `volume`, `memory`, `build` or `upgrade`.
    pub trigger: String,
    /// The worker that computed it; none when the process that keeps the ledger did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
}

/// Rows that a computation has read from the raw log so far. An event counts once for each pass that reads it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsRead {
    /// In the passes before the present one.
    pub before: u64,
    /// In the present pass, and about how many that has to read.
    pub present: Option<(u64, u64)>,
}

impl RowsRead {
    /// In all passes.
    pub fn total(self) -> u64 {
        self.before + self.present.map_or(0, |(read, _)| read)
    }
}

impl BatchRun {
    /// The record of a run that has just begun: nothing is read or made.
    pub fn begun(
        id: RunId,
        view: ViewId,
        mode: RunMode,
        trigger: &str,
        now: DateTime<Utc>,
    ) -> Self {
        Self {
            id,
            view,
            mode,
            scope: None,
            dry_run: false,
            outcome: Outcome::Running,
            base: None,
            generation: None,
            span: None,
            exclusions: vec![],
            raw_version: None,
            pointer_epoch: 0,
            rows_read: 0,
            groups: 0,
            bytes: 0,
            seconds: None,
            started_at: now,
            ended_at: None,
            error: None,
            trigger: trigger.to_owned(),
            worker: None,
        }
    }

    /// Whether it will go on by itself: it computes, or is staged and about to promote itself.
    pub fn is_at_work(&self) -> bool {
        match self.outcome {
            Outcome::Running => true,
            Outcome::Staged => !self.dry_run,
            _ => false,
        }
    }
}
