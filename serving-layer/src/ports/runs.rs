// SPDX-License-Identifier: Apache-2.0
//! Batch runs as the API shows and starts them.

use dovetail_model::{
    BatchRun, ExclusionId, GenerationNumber, Outcome, PositionToken, RepairScope, RunId, RunMode,
    Span, StreamDef, ViewId,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::iso_us;

/// A batch run to start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecomputeRequest {
    /// How it computes.
    pub mode: RunMode,
    /// For a repair: which groups; empty means all. None for other modes.
    pub scope: Option<RepairScope>,
    /// Whether it ends staged instead of promoting itself.
    pub dry_run: bool,
}

/// Which batch runs to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunsQuery {
    /// Only of this view.
    pub view: Option<String>,
    /// Only with this outcome.
    pub outcome: Option<Outcome>,
    /// Only older than this one.
    pub before: Option<RunId>,
    /// Most to list, 1 to 1000.
    pub limit: usize,
}

/// A span as two position tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SpanInfo {
    /// First position inside.
    pub from: String,
    /// First position behind.
    pub to: String,
}

impl SpanInfo {
    /// The tokens of a span of `stream`.
    pub fn new(stream: &StreamDef, span: &Span) -> Self {
        let token = |position: &dovetail_model::Position| {
            let token = PositionToken {
                name: stream.name.clone(),
                stream: stream.id.clone(),
                position: position.clone(),
            };
            token.to_string()
        };
        Self {
            from: token(span.from()),
            to: token(span.to()),
        }
    }
}

/// Which groups a repair recomputes, with readable times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScopeInfo {
    /// First event time inside.
    pub from: Option<String>,
    /// First event time behind.
    pub to: Option<String>,
    /// A predicate over the view's key columns.
    #[serde(rename = "where")]
    pub predicate: Option<String>,
}

/// A batch run, as the API shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunInfo {
    /// Its number.
    pub id: RunId,
    /// The view's name.
    pub view: String,
    /// The view's id.
    pub view_id: ViewId,
    /// How it computes.
    pub mode: RunMode,
    /// For a repair: which groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<ScopeInfo>,
    /// Whether it was to end staged.
    pub dry_run: bool,
    /// Where it stands, or how it ended.
    pub outcome: Outcome,
    /// While it runs: whether it waits for others to have computed, of which only so many do at a time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waiting: bool,
    /// For a staged run: why it can no longer be promoted, if it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<String>,
    /// The generation it started from.
    pub base: Option<GenerationNumber>,
    /// The generation it made.
    pub generation: Option<GenerationNumber>,
    /// What of the stream it covers.
    pub span: Option<SpanInfo>,
    /// The exclusions it applied.
    pub exclusions: Vec<ExclusionId>,
    /// Rows read from the raw log until it was staged or had ended, by all passes together. An event counts once for
    /// each pass that reads it: a full or repair run brings the live generation forward first, and a repair reads once
    /// to find its groups and once more to recompute them.
    pub rows_read: u64,
    /// Groups written.
    pub groups: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Seconds from start to end.
    pub seconds: Option<f64>,
    /// When it started, ISO 8601, UTC.
    pub started_at: String,
    /// When it reached its outcome.
    pub ended_at: Option<String>,
    /// What stopped it.
    pub error: Option<String>,
    /// Who asked.
    pub trigger: String,
    /// The worker that computes it, or computed it; none where the process that takes the events did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
}

impl RunInfo {
    /// The record of a run of the view named `view` over `stream`, not stale.
    pub fn new(run: &BatchRun, view: &str, stream: &StreamDef) -> Self {
        Self {
            id: run.id,
            view: view.to_owned(),
            view_id: run.view.clone(),
            mode: run.mode,
            scope: run.scope.as_ref().map(|scope| ScopeInfo {
                from: scope.from_us.map(iso_us),
                to: scope.to_us.map(iso_us),
                predicate: scope.predicate.clone(),
            }),
            dry_run: run.dry_run,
            outcome: run.outcome,
            waiting: false,
            stale: None,
            base: run.base,
            generation: run.generation,
            span: run.span.as_ref().map(|span| SpanInfo::new(stream, span)),
            exclusions: run.exclusions.clone(),
            rows_read: run.rows_read,
            groups: run.groups,
            bytes: run.bytes,
            seconds: run.seconds,
            started_at: iso_us(run.started_at.timestamp_micros()),
            ended_at: run.ended_at.map(|at| iso_us(at.timestamp_micros())),
            error: run.error.clone(),
            trigger: run.trigger.clone(),
            worker: run.worker.clone(),
        }
    }
}

/// A change that is done, or that goes on without its caller: 200 or 202.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled<T> {
    /// It is done, and new queries see it.
    Done(T),
    /// It takes longer than a caller waits, and goes on.
    Pending(T),
}

/// What a rollback did. While it is pending nobody knows: then it says what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rollback {
    /// The view.
    pub view: String,
    /// The generation that was live before. None while pending.
    pub from: Option<GenerationNumber>,
    /// The generation that was brought back; the one that was asked for, if any, while pending.
    pub to: Option<GenerationNumber>,
    /// The generation that is live now: `to`, brought forward to the seam. None while pending.
    pub generation: Option<GenerationNumber>,
    /// Whether the view's full schedule is paused now. None while pending.
    pub schedule_paused: Option<bool>,
    /// What a reader should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}
