// SPDX-License-Identifier: Apache-2.0
//! What exists and where it stands. Positions are tokens, times ISO 8601 in UTC.

use std::fmt;

use arrow::datatypes::Field;
use dovetail_model::{
    Column, EpochUnit, EventTime, ExclusionId, GenerationNumber, Hole, Offset, PartitionId, RunId,
    RunMode, StreamId, UnknownColumns, ViewId, Volume,
};
use dovetail_seam::{Failing, Latencies};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::sql::sql_type;

/// A column of a stream or view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ColumnInfo {
    /// Its name.
    pub name: String,
    /// Its SQL type.
    #[serde(rename = "type")]
    pub sql_type: String,
    /// Whether values may be null.
    pub nullable: bool,
    /// Whether it is a key column of a view.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub key: bool,
}

impl ColumnInfo {
    /// A column of an Arrow schema.
    pub fn of_field(field: &Field, key: bool) -> Self {
        Self {
            name: field.name().clone(),
            sql_type: sql_type(field.data_type()),
            nullable: field.is_nullable(),
            key,
        }
    }
}

impl From<&Column> for ColumnInfo {
    fn from(column: &Column) -> Self {
        Self {
            name: column.name.clone(),
            sql_type: column.column_type.to_string(),
            nullable: column.nullable,
            key: false,
        }
    }
}

/// Which column of a stream is its event time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventTimeInfo {
    /// The column.
    pub column: String,
    /// The unit of numbers, if it arrives as one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<EpochUnit>,
}

impl From<&EventTime> for EventTimeInfo {
    fn from(event_time: &EventTime) -> Self {
        Self {
            column: event_time.column.clone(),
            unit: event_time.epoch,
        }
    }
}

/// A stream, and how far each stage has come.
///
/// ```text
/// archived <= accumulated <= position
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StreamInfo {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: StreamId,
    /// Its columns.
    pub columns: Vec<ColumnInfo>,
    /// Its event time.
    pub event_time: Option<EventTimeInfo>,
    /// What it does with fields of events that it does not declare.
    #[serde(default)]
    pub unknown_columns: UnknownColumns,
    /// Its declaration as SQL.
    pub definition: String,
    /// When it was declared.
    pub created_at: String,
    /// The views that read it.
    pub views: Vec<String>,
    /// The durable position.
    pub position: String,
    /// The position that merged answers cover.
    pub accumulated: String,
    /// The position that the raw log covers.
    pub archived: String,
    /// Age of the oldest durable event that answers do not cover, in milliseconds.
    pub freshness_ms: u64,
    /// Offsets that are durable and that answers do not cover.
    pub lag: u64,
    /// Events in the raw log.
    pub archived_events: u64,
    /// Bytes of the raw log.
    pub archived_bytes: u64,
    /// Dead letters that wait for a replay, as counted last; none where the store has not told yet, or another process
    /// counts them.
    pub dead_letters: Option<u64>,
    /// Exclusions in force.
    pub exclusions: u64,
    /// How it stands to the topic that it reads; none for a stream of the embedded log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceInfo>,
    /// What it goes on without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holes: Vec<SkippedHole>,
}

/// Offsets of a topic that were lost before they were read. Shown as `partition@from..to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HoleInfo {
    /// Their partition.
    pub partition: PartitionId,
    /// The first that was lost.
    pub from: Offset,
    /// The first behind them.
    pub to: Offset,
}

impl From<&Hole> for HoleInfo {
    fn from(hole: &Hole) -> Self {
        Self {
            partition: hole.partition,
            from: hole.from,
            to: hole.to,
        }
    }
}

impl fmt::Display for HoleInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            partition,
            from,
            to,
        } = self;
        write!(f, "{partition}@{from}..{to}")
    }
}

/// A hole that a stream goes on without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SkippedHole {
    /// Where it is.
    #[serde(flatten)]
    pub hole: HoleInfo,
    /// When that was decided.
    pub skipped_at: String,
}

/// How a stream stands to its topic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SourceInfo {
    /// `kafka`.
    pub kind: String,
    /// The topic.
    pub topic: String,
    /// `connecting`, `reading`, `retrying`, or `stopped` until an operator has decided.
    pub phase: String,
    /// Why it is not reading.
    pub reason: Option<String>,
    /// Offsets that it is behind, at most so many events; of all partitions.
    pub lag: u64,
    /// Age of the record that was read last, of the partition that is furthest behind; 0 when none is. While the topic
    /// cannot be read: at least the time since it was last heard of.
    pub lag_seconds: f64,
    /// Each partition.
    pub partitions: Vec<PartitionInfo>,
    /// Records without a value that were left out since the server started.
    pub skipped_tombstones: u64,
    /// Replays of other streams' dead letters that were left out since the server started: this one has read their records in their first place.
    #[serde(default)]
    pub skipped_replays: u64,
}

/// How far a stream is in one partition of its topic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PartitionInfo {
    /// Its number.
    pub partition: PartitionId,
    /// The next offset that is read.
    pub position: Offset,
    /// The last stable offset, as last heard.
    pub end: Offset,
    /// Offsets between the two.
    pub lag: u64,
    /// Age of the record that was read last, while there are more; in seconds.
    pub lag_seconds: f64,
}

/// How a view answers now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ViewPhase {
    /// Its first generation is being built: queries get 503.
    Building,
    /// From generation and runs.
    Live,
    /// From the generation alone, see `notes`.
    Batch,
    /// It let go of its runs for want of memory, see `notes`: merged queries get 503 until the next incremental run
    /// succeeds, `layer=batch` answers.
    OutOfMemory,
    /// It cannot compute some event, see `notes`: merged queries get 503, `layer=batch` answers.
    Poisoned,
}

impl ViewPhase {
    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Building => "building",
            Self::Live => "live",
            Self::Batch => "batch",
            Self::OutOfMemory => "out_of_memory",
            Self::Poisoned => "poisoned",
        }
    }
}

/// A view, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ViewInfo {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: ViewId,
    /// The stream it reads.
    pub stream: String,
    /// How it answers now.
    pub phase: ViewPhase,
    /// The live generation.
    pub generation: Option<GenerationNumber>,
    /// Where that generation ends and the runs begin: the seam.
    pub horizon: String,
    /// The position that merged answers cover.
    pub position: String,
    /// Its columns.
    pub columns: Vec<ColumnInfo>,
    /// Its declaration as SQL.
    pub definition: String,
    /// Counts redefinitions, from 1.
    pub version: u64,
    /// Cron schedule of full runs, UTC.
    pub recompute: Option<String>,
    /// Events archived since the last full run at which another one starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recompute_after_events: Option<u64>,
    /// The same in bytes of the raw log, such as `10 GiB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recompute_after_bytes: Option<String>,
    /// Interval of incremental runs, such as `5 minutes`.
    pub refresh: Option<String>,
    /// What a reader should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// How far the first generation of a definition has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BuildProgress {
    /// The run that builds it.
    pub run: Option<RunId>,
    /// Whether that run waits for others to have computed, of which only so many do at a time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waiting: bool,
    /// Version of the definition.
    pub version: u64,
    /// Events read.
    pub rows_read: u64,
    /// Events to read, as far as known.
    pub rows_total: Option<u64>,
    /// Seconds to go, as far as known.
    pub seconds_left: Option<f64>,
}

/// One readable generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GenerationInfo {
    /// Its number.
    pub number: GenerationNumber,
    /// The generation it started from.
    pub parent: Option<GenerationNumber>,
    /// What kind of run made it.
    pub mode: Option<RunMode>,
    /// Which run.
    pub run: Option<RunId>,
    /// Whether it is live.
    pub live: bool,
    /// Its horizon.
    pub horizon: String,
    /// Version of the definition it belongs to.
    pub definition_version: u64,
    /// The exclusions it carries.
    pub exclusions: Vec<ExclusionId>,
    /// Its groups.
    pub groups: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// When it was made.
    pub created_at: String,
}

/// A view and where its seam stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ViewStatus {
    /// The view in short.
    #[serde(flatten)]
    pub view: ViewInfo,
    /// Age of the oldest durable event that merged answers do not cover, in milliseconds.
    pub freshness_ms: u64,
    /// Runs in the speed layer, from the horizon on.
    pub runs: u64,
    /// Groups in them.
    pub run_groups: u64,
    /// Their memory.
    pub run_bytes: u64,
    /// A definition that is being built: the first, or a newer one.
    pub building: Option<BuildProgress>,
    /// Whether the full schedule is paused.
    pub schedule_paused: bool,
    /// When the next full run is due.
    pub next_recompute: Option<String>,
    /// What is archived since the last full run, where volume starts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived_since_full: Option<Volume>,
    /// When the next incremental run is due: now at the earliest, later than its interval says when such runs fail.
    pub next_refresh: Option<String>,
    /// Where a rollback without a number goes.
    pub rollback_to: Option<GenerationNumber>,
    /// Readable generations, newest first.
    pub generations: Vec<GenerationInfo>,
}

/// One stage of the data path and how it keeps up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StageStatus {
    /// `ingest`, `accumulate`, `merge`, `archive`, `batch` or `queries`.
    pub stage: String,
    /// The stream, for stages that work on one.
    pub stream: Option<String>,
    /// Events (`merge`: groups, `queries`: answers) a second over the last ten seconds.
    pub per_second: f64,
    /// The same since the server started; not of `batch`, whose runs the ledger has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// How long each thing took it since the server started; for `/metrics`.
    #[serde(skip)]
    pub latencies: Latencies,
    /// Offsets (`queries`: questions) that wait for the stage.
    pub waiting: u64,
    /// Share of the last ten seconds in which the stage was at work, 0 to 1.
    pub busy: f64,
    /// What limits it now, if something does.
    pub limited_by: Option<String>,
    /// What it has failed at since it last succeeded, such as for want of room on a disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing: Option<FailingInfo>,
}

/// What a stage fails at. What it has is kept, and tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailingInfo {
    /// Seconds since it failed for the first time.
    pub for_s: u64,
    /// How often it has failed.
    pub times: u64,
    /// Why it failed last.
    pub reason: String,
}

impl From<Failing> for FailingInfo {
    fn from(failing: Failing) -> Self {
        Self {
            for_s: failing.since.as_secs(),
            times: failing.times,
            reason: failing.reason,
        }
    }
}

impl StageStatus {
    /// In a sentence, what it fails at.
    pub fn failure(&self) -> Option<String> {
        let failing = self.failing.as_ref()?;
        let of = match &self.stream {
            Some(stream) => format!(" of stream `{stream}`"),
            None => String::new(),
        };
        Some(format!(
            "{}{of} has failed {} times in {} s: {}",
            self.stage, failing.times, failing.for_s, failing.reason
        ))
    }
}

/// Memory of the speed layer against its limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemoryStatus {
    /// Held by runs and tails.
    pub used_bytes: u64,
    /// Past it an incremental run starts.
    pub soft_limit_bytes: u64,
    /// Past it ingest slows.
    pub hard_limit_bytes: u64,
}

/// Room of the disk that a data directory is on: for the log, what is spilled, and a store in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskStatus {
    /// The data directory.
    pub directory: String,
    /// What may still be written.
    pub free_bytes: u64,
    /// All of it.
    pub all_bytes: u64,
}

/// Everything `dovetail status` shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Version of the server.
    pub version: String,
    /// When it started.
    pub started_at: String,
    /// Seconds since then.
    pub uptime_s: u64,
    /// Sequence of the catalog's last commit.
    pub catalog_sequence: u64,
    /// Memory of the speed layer; none where other processes take the events: `ingest` says what each holds.
    pub memory: Option<MemoryStatus>,
    /// The disk of the data directory; none where the system does not say.
    pub disk: Option<DiskStatus>,
    /// The stage that is busiest, or that a limit holds up; none when all are idle.
    pub bottleneck: Option<String>,
    /// Every stage.
    pub stages: Vec<StageStatus>,
    /// Every stream.
    pub streams: Vec<StreamInfo>,
    /// Every view.
    pub views: Vec<ViewStatus>,
    /// Batch runs that are running or staged.
    pub runs: Vec<super::RunInfo>,
    /// The processes that take the events for this one, in order of their shares.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingest: Vec<IngestInfo>,
    /// Processes that compute batch runs for this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workers: Vec<WorkerInfo>,
}

/// A process that takes a share of the events for another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IngestInfo {
    /// What it calls itself: the id of its data directory.
    pub id: String,
    /// The machine that it is on.
    pub host: String,
    /// Its HTTP API.
    pub url: String,
    /// The partitions that it takes of every stream.
    pub share: String,
    /// Milliseconds since it was last heard of; none when it never was since this process started.
    pub silent_ms: Option<u64>,
    /// Bytes of runs and tails that it holds in memory.
    pub bytes: u64,
}

/// A process that computes batch runs for another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerInfo {
    /// Its host and the port of its API.
    pub name: String,
    /// How many full or repair runs it computes at a time, and how many incremental ones beside them.
    pub runs: u64,
    /// What it computes.
    pub computing: Vec<WorkerTaskInfo>,
}

/// What a worker computes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerTaskInfo {
    /// The view.
    pub view: String,
    /// `full` or `repair`; `incremental` for whatever brings a generation forward.
    pub mode: RunMode,
    /// Rows read from the raw log, by all passes so far.
    pub rows_read: u64,
}
