// SPDX-License-Identifier: Apache-2.0
//! What is said over the wire: JSON inside of Flight's descriptors, tickets and metadata; states and events as Arrow.

use dovetail_model::{
    GenerationNumber, IngestEpoch, IngestMember, Position, Problem, ProblemKind, Span, StoreEpoch,
    StreamId, StreamSchema, ViewId,
};
use dovetail_seam::Poisoned;
use serde::{Deserialize, Serialize};
use tonic::{Code, Status};

use crate::filter::KeyFilter;

/// The action that lets go of a held cut; its body is the cut's number.
pub(crate) const RELEASE: &str = "release";
/// The action that takes a target: its body is a [`TakeTarget`], its answer a [`TakenTarget`].
pub(crate) const TARGET: &str = "target";
/// The action after which a target's edge is kept for a little while only; its body is the target's number.
pub(crate) const RELEASE_TARGET: &str = "release-target";
/// The action of a process that takes events: its body is a [`Report`], its answer [`Heard`].
pub(crate) const REPORT: &str = "report";
/// The action of a process that wants to know whether it is let in as a peer; nothing is said in either direction.
pub(crate) const GREET: &str = "greet";
/// Said of a problem that is over once the reader knows the newest catalog.
pub(crate) const MOVED: &str = "moved";

/// The command of `GetFlightInfo`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TakeCut {
    pub(crate) stream: StreamId,
    pub(crate) views: Vec<ViewId>,
    /// Whether runs will be fetched.
    pub(crate) merged: bool,
    /// Whether the tail will be.
    pub(crate) events: bool,
    /// Of what lies behind each, the age is asked; of live generations that answer alone it is always said.
    pub(crate) ends: Vec<Position>,
    /// What the cut must cover; of other partitions than the process takes, nothing.
    pub(crate) after: Option<Position>,
    /// Who takes the events as the reader knows it: a cut of another division of the partitions is of no use to it.
    pub(crate) ingest: IngestEpoch,
    /// The cut must know of the catalog up to here.
    pub(crate) sequence: u64,
    /// The generations under which runs are wanted, where those must not be the live ones.
    pub(crate) generations: Vec<(ViewId, Option<GenerationNumber>)>,
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
    /// The runs of a view: of each row that passes `filters`, the place of its run in [`TakenView::runs`] and the state.
    Runs {
        view: ViewId,
        filters: Vec<KeyFilter>,
    },
    /// The tail's events, these columns of them.
    Tail { columns: Vec<usize> },
}

/// What a batch run asks of each process that takes events.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TakeTarget {
    /// The stream.
    pub stream: StreamId,
    /// Who takes the events as whoever asks knows it.
    pub ingest: IngestEpoch,
    /// The catalog up to here is followed first: a definition in it has joined the runs before the target.
    pub sequence: u64,
    /// Definitions that join them besides, though the catalog does not name them yet.
    pub joining: Vec<Joining>,
}

/// A definition of a view whose runs will be needed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Joining {
    /// The view.
    pub view: ViewId,
    /// Its name.
    pub name: String,
    /// The definition's version.
    pub version: u64,
    /// Its SELECT.
    pub sql: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TakenTarget {
    /// What the target is called when it is released.
    pub(crate) target: u64,
    pub(crate) position: Position,
}

/// What a process that takes events says of itself, again and again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Who it is.
    pub member: IngestMember,
    /// Its streams are as the catalog says up to here.
    pub applied: u64,
    /// Whether it stops, so that others may take its partitions at once.
    pub leaves: bool,
    /// The stream whose runs take the most memory, when that is scarce.
    pub pressed: Option<StreamId>,
    /// How each stream stands.
    pub streams: Vec<StreamReport>,
}

/// How a stream stands in a process that takes events of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StreamReport {
    /// The stream.
    pub stream: StreamId,
    /// Up to where it was accumulated.
    pub position: Position,
    /// Bytes of its runs and its tail in memory.
    pub bytes: u64,
    /// How it stands to its source.
    pub source: Option<serde_json::Value>,
    /// The hole in its topic that stops it.
    pub hole: Option<dovetail_model::Hole>,
}

/// What it hears.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Heard {
    /// The newest catalog that whoever decides knows.
    pub sequence: u64,
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
