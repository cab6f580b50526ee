// SPDX-License-Identifier: Apache-2.0
//! What is said over the wire: JSON inside of Flight's descriptors, tickets and metadata; states and events as Arrow.

use dovetail_model::{
    GenerationNumber, Position, Problem, ProblemKind, Span, StoreEpoch, StreamId, StreamSchema,
    ViewId,
};
use dovetail_seam::Poisoned;
use serde::{Deserialize, Serialize};
use tonic::{Code, Status};

use crate::filter::KeyFilter;

/// The action that lets go of a held cut; its body is the cut's number.
pub(crate) const RELEASE: &str = "release";
/// The column before the states that says which run a row is of: the place of the run in [`TakenView::runs`].
pub(crate) const RUN_COLUMN: &str = "_run";

/// The command of `GetFlightInfo`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TakeCut {
    pub(crate) stream: StreamId,
    pub(crate) views: Vec<ViewId>,
    /// Whether runs will be fetched.
    pub(crate) merged: bool,
    /// Whether the tail will be.
    pub(crate) events: bool,
    /// Of what lies behind each, the age is asked; of live generations that answer alone it is always said.
    pub(crate) ends: Vec<Position>,
    /// What the cut must cover.
    pub(crate) after: Option<Position>,
    /// For how long that is waited for, and for how long the cut is held.
    pub(crate) wait_ms: u64,
    pub(crate) hold_ms: u64,
}

/// The metadata of its answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TakenCut {
    /// In which the process writes.
    pub(crate) epoch: StoreEpoch,
    /// A catalog of this sequence names everything in the cut.
    pub(crate) sequence: u64,
    /// What the cut is called in tickets.
    pub(crate) cut: u64,
    pub(crate) position: Position,
    pub(crate) archived: Position,
    pub(crate) schema: StreamSchema,
    /// The clock that the ages were read from, microseconds since the Unix epoch.
    pub(crate) now_us: i64,
    pub(crate) behind_cut: Option<i64>,
    /// For each of the ends that were asked about.
    pub(crate) behind: Vec<Option<i64>>,
    pub(crate) views: Vec<TakenView>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TakenView {
    pub(crate) id: ViewId,
    pub(crate) name: String,
    pub(crate) generation: Option<GenerationNumber>,
    /// When the oldest event arrived that the generation does not cover, where it answers alone.
    pub(crate) behind: Option<i64>,
    pub(crate) runs: Vec<TakenRun>,
    pub(crate) poisoned: Vec<Poisoned>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TakenRun {
    pub(crate) span: Span,
    pub(crate) rows: u64,
    pub(crate) bytes: usize,
}

/// The ticket of `DoGet`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Fetch {
    pub(crate) cut: u64,
    pub(crate) part: Part,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Part {
    /// The runs of a view: of each row that passes `filters`, [`RUN_COLUMN`] and the state.
    Runs {
        view: ViewId,
        filters: Vec<KeyFilter>,
    },
    /// The tail's events, these columns of them.
    Tail { columns: Vec<usize> },
}

/// A problem as the status of a call.
pub(crate) fn status_of(problem: &Problem) -> Status {
    let code = match problem.kind {
        ProblemKind::NotFound => Code::NotFound,
        ProblemKind::Timeout => Code::DeadlineExceeded,
        ProblemKind::Unauthenticated => Code::Unauthenticated,
        ProblemKind::Forbidden => Code::PermissionDenied,
        ProblemKind::Busy => Code::ResourceExhausted,
        ProblemKind::Internal => Code::Internal,
        ProblemKind::Unavailable => Code::Unavailable,
        _ => Code::InvalidArgument,
    };
    let details = serde_json::to_vec(problem).unwrap_or_default();
    Status::with_details(code, problem.detail.clone(), details.into())
}

/// The problem that a status carries, if it is one of ours.
pub(crate) fn problem_in(status: &Status) -> Option<Problem> {
    serde_json::from_slice(status.details()).ok()
}
