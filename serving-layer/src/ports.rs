// SPDX-License-Identifier: Apache-2.0
//! What the HTTP API asks of the rest of the platform.
//!
//! Purpose: narrow traits between the router and the roles behind it, so that the router is tested
//! with a fake and roles may later run apart. Collaborators: [`crate::http`] calls them, the binary
//! implements them over the SQL engine, the log and the batch layer.
//! Invariants: the router checks form (roles, media types, parameters, statement syntax), a port checks
//! meaning (names, types, states) and reports it as a [`Problem`]. A dropped future or answer is a caller
//! that went away: stop a read; a change of several steps must go on without it, so its implementation
//! detaches it. Non-goals: transport, encoding.

mod answer;
mod control;
mod ingest;
mod metrics;
mod runs;
mod status;

use std::sync::Arc;

use async_trait::async_trait;
use dovetail_model::{DiffSummary, ExclusionId, GenerationNumber, Problem, RunId};

pub use answer::{
    Answer, Filter, FilterOp, Layer, Limits, OrderBy, Page, Provenance, QueryRequest, RowsAnswer,
    RowsRequest, StreamProvenance, ViewProvenance,
};
pub use control::{
    Change, DdlAnswer, DdlResult, ExclusionInfo, ExclusionRequest, LocatedDefinition,
};
pub use ingest::{
    AppendAnswer, AppendRequest, DeadLetterId, DeadLetterInfo, DeadLetterPage, DeadLetterQuery,
    OnError, RecordInfo, ReplayAnswer, ReplayRequest, StillBad,
};
pub use metrics::{BatchRunCount, Holds, Measurements};
pub use runs::{RecomputeRequest, Rollback, RunInfo, RunsQuery, ScopeInfo, Settled, SpanInfo};
pub use status::{
    BuildProgress, ColumnInfo, DiskStatus, EventTimeInfo, FailingInfo, GenerationInfo, HoleInfo,
    IngestInfo, MemoryStatus, PartitionInfo, SkippedHole, SourceInfo, StageStatus, Status,
    StreamInfo, ViewInfo, ViewPhase, ViewStatus, WorkerInfo, WorkerTaskInfo,
};

pub use crate::held::AnswerMemory;
use crate::sql::Definition;

/// Reads: SQL and key lookups.
#[async_trait]
pub trait Queries: Send + Sync {
    /// Plans one SELECT or EXPLAIN over one cut per stream and starts it. The statement is
    /// syntactically one query; anything else in it (unknown tables, volatile calls) is refused here.
    ///
    /// Wait for [`QueryRequest::limits`]`.after` first; on the deadline answer
    /// [`Timeout`](dovetail_model::ProblemKind::Timeout), naming the awaited and the reached position. The
    /// router cuts off what is still running half a second past the deadline.
    ///
    /// # Errors
    /// `Invalid`, `NotFound` for names, `Timeout`, `Unavailable` while a view is building (with members
    /// `progress` and `retry_after_s`), `Conflict` for a generation that cannot be read.
    async fn query(&self, request: QueryRequest) -> Result<Answer, Problem>;

    /// Rows of one view by key and filters; no SQL. [`crate::rows::RowsPlan`] turns the request into
    /// expressions over the view's output schema and refuses unknown columns and values of the wrong type.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    async fn rows(&self, request: RowsRequest) -> Result<RowsAnswer, Problem>;
}

/// The process that does what is not a read, as a replica knows it.
#[async_trait]
pub trait Elsewhere: Send + Sync {
    /// Its HTTP API, as a URL: scheme, host and port.
    ///
    /// # Errors
    /// `Unavailable` when no process has said where it is.
    fn url(&self) -> Result<String, Problem>;

    /// Waits until it is another process than the one at `url`, or somewhere else.
    async fn moved(&self, url: &str);

    /// Whether it answers: `/readyz` of the replica.
    ///
    /// # Errors
    /// `Unavailable`, saying who does not.
    async fn ready(&self) -> Result<(), Problem>;
}

/// What `/metrics` shows, in every process its own.
#[async_trait]
pub trait Measures: Send + Sync {
    /// All of it.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn measurements(&self) -> Result<Measurements, Problem>;
}

/// Writes of events.
#[async_trait]
pub trait Ingest: Send + Sync {
    /// Decodes a body and commits it, whole or not at all; answers once it is durable.
    ///
    /// # Errors
    /// `NotFound` for the stream; `Invalid` with members `line`, `column`, `reason` for an event that
    /// cannot be decoded; `Unprocessable` for an idempotency key that came with another body; `Busy` and
    /// `Unavailable` when memory is at its hard limit or the server stops.
    async fn append(&self, stream: &str, request: AppendRequest) -> Result<AppendAnswer, Problem>;

    /// A page of what could not be decoded and has not been replayed, oldest first.
    ///
    /// # Errors
    /// `NotFound` for the stream.
    async fn dead_letters(
        &self,
        stream: &str,
        query: DeadLetterQuery,
    ) -> Result<DeadLetterPage, Problem>;

    /// Tries dead letters again under the stream's present schema. What decodes now is committed as new
    /// events and leaves the list; the rest stays.
    ///
    /// # Errors
    /// `NotFound` for the stream or for a listed dead letter.
    async fn replay_dead_letters(
        &self,
        stream: &str,
        request: ReplayRequest,
    ) -> Result<ReplayAnswer, Problem>;
}

/// Definitions, batch runs, and what there is.
#[async_trait]
pub trait Control: Send + Sync {
    /// Executes one definition.
    ///
    /// # Errors
    /// `Invalid` for a view that cannot be merged, `NotFound`, `Conflict` for a taken name or a stream in use.
    async fn execute(&self, definition: Definition) -> Result<DdlAnswer, Problem>;

    /// What [`apply`](Self::apply) would do to each definition, in order; changes nothing.
    ///
    /// # Errors
    /// The first problem, with members `file` and `line`.
    async fn plan(&self, definitions: Vec<LocatedDefinition>) -> Result<Vec<Change>, Problem>;

    /// Brings a set of definitions into force. Nothing is dropped. Definitions are in file order; streams
    /// come first among them.
    ///
    /// # Errors
    /// The first problem, with members `file`, `line` and `applied` (the changes before it).
    async fn apply(&self, definitions: Vec<LocatedDefinition>) -> Result<Vec<Change>, Problem>;

    /// Streams that are not dropped, by name.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn streams(&self) -> Result<Vec<StreamInfo>, Problem>;

    /// One stream.
    ///
    /// # Errors
    /// `NotFound`.
    async fn stream(&self, name: &str) -> Result<StreamInfo, Problem>;

    /// Views that are not dropped, by name.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn views(&self) -> Result<Vec<ViewInfo>, Problem>;

    /// One view and where its seam stands.
    ///
    /// # Errors
    /// `NotFound`.
    async fn view_status(&self, name: &str) -> Result<ViewStatus, Problem>;

    /// Everything `dovetail status` shows.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn status(&self) -> Result<Status, Problem>;

    /// Whether queries are served: `/readyz`. Answers what fails meanwhile, such as appends for want of room on the disk.
    ///
    /// # Errors
    /// `Unavailable`, saying what is still missing.
    async fn ready(&self) -> Result<Vec<String>, Problem>;

    /// Declares events wrong, bounded by the durable position now.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` for a predicate that is not a boolean expression over the stream's columns.
    async fn declare_exclusion(
        &self,
        stream: &str,
        request: ExclusionRequest,
    ) -> Result<ExclusionInfo, Problem>;

    /// The exclusions in force on a stream, by id.
    ///
    /// # Errors
    /// `NotFound`.
    async fn exclusions(&self, stream: &str) -> Result<Vec<ExclusionInfo>, Problem>;

    /// Withdraws an exclusion; answers what it was.
    ///
    /// # Errors
    /// `NotFound`.
    async fn withdraw_exclusion(
        &self,
        stream: &str,
        id: ExclusionId,
    ) -> Result<ExclusionInfo, Problem>;

    /// Starts a batch run and answers its record; does not wait for it.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` for a predicate or range the view has no use for, `Conflict` with member `run`
    /// when one of the same kind is running.
    async fn recompute(&self, view: &str, request: RecomputeRequest) -> Result<RunInfo, Problem>;

    /// The ledger, newest first.
    ///
    /// # Errors
    /// `NotFound` for a named view.
    async fn runs(&self, query: RunsQuery) -> Result<Vec<RunInfo>, Problem>;

    /// One batch run.
    ///
    /// # Errors
    /// `NotFound`.
    async fn run(&self, run: RunId) -> Result<RunInfo, Problem>;

    /// A staged run compared with its base, at the same position.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` for a run that has no staged generation or no base.
    async fn diff(&self, run: RunId) -> Result<DiffSummary, Problem>;

    /// Promotes a staged run; `Done` once the pointer has moved and new queries see it. After
    /// [`POINTER_MOVE_WAIT`] the implementation answers `Pending` and goes on; so too when the caller leaves.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` for a run that is not staged or is stale.
    async fn promote(&self, run: RunId) -> Result<Settled<RunInfo>, Problem>;

    /// Throws a staged run away. Waits as [`promote`](Self::promote).
    ///
    /// # Errors
    /// `NotFound`, `Conflict` for a run that is not staged.
    async fn discard(&self, run: RunId) -> Result<Settled<RunInfo>, Problem>;

    /// Stops a running batch run; answers its record once it has stopped.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` for a run that is not running.
    async fn cancel(&self, run: RunId) -> Result<RunInfo, Problem>;

    /// Moves a view's pointer back: to `generation`, or to where it stood before the last full or repair
    /// promote. Waits as [`promote`](Self::promote).
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when there is nothing to go back to or the state fingerprint is another.
    async fn rollback(
        &self,
        view: &str,
        generation: Option<GenerationNumber>,
    ) -> Result<Settled<Rollback>, Problem>;
}

/// How long promote, discard and rollback keep their caller waiting before they answer 202.
pub const POINTER_MOVE_WAIT: std::time::Duration = std::time::Duration::from_secs(60);

/// The ports, as the router holds them.
#[derive(Clone)]
pub struct Ports {
    /// Reads.
    pub queries: Arc<dyn Queries>,
    /// Writes of events.
    pub ingest: Arc<dyn Ingest>,
    /// Definitions, batch runs, status.
    pub control: Arc<dyn Control>,
    /// What this process measures.
    pub measures: Arc<dyn Measures>,
}

/// What a replica answers itself, and who does the rest.
#[derive(Clone)]
pub struct ReadPorts {
    /// Reads.
    pub queries: Arc<dyn Queries>,
    /// What this process measures.
    pub measures: Arc<dyn Measures>,
    /// Everything else.
    pub others: Arc<dyn Elsewhere>,
}

/// What the API of a process answers.
#[derive(Clone)]
pub enum Served {
    /// Everything.
    All(Ports),
    /// Reads; the rest is handed on.
    Reads(ReadPorts),
}
