// SPDX-License-Identifier: Apache-2.0
//! The words and laws of Dovetail, as types. No I/O.
//!
//! Purpose: everything the layers must agree on: where the seam stands ([`Position`], [`Span`]), what a
//! stream, a view, a generation and a batch run are, and how the catalog's commits fold into a state.
//! Collaborators: every other crate; this one depends on none of them.
//! Invariants: a position never mixes two streams; a span is half open; catalog state is a pure fold.
//! Non-goals: storage, execution, HTTP.

mod batch_run;
mod calendar;
mod catalog;
mod cause;
mod claim;
mod clock;
mod exclusion;
mod generation;
mod growth;
mod hex;
mod hole;
mod ids;
mod position;
mod problem;
mod schema;
mod share;
mod source;
mod span;
mod stream;
mod token;
mod view_def;
mod volume;

pub use batch_run::{
    BatchRun, DiffSummary, LargestChange, Outcome, RepairScope, RowsRead, RunMode,
};
pub use calendar::{calendar_days, calendar_instants, calendar_years};
pub use catalog::{
    CatalogConflict, CatalogState, Commit, Entry, ExpiredGeneration, LONGEST_RETRY, PublishReason,
    StreamState, ViewState,
};
pub use cause::innermost;
pub use claim::{Endpoints, StoreClaim, StoreEpoch};
pub use clock::{Clock, ManualClock, Moment, SystemClock};
pub use exclusion::Exclusion;
pub use generation::{DataFile, GenerationInputs, Manifest};
pub use growth::SchemaGrowth;
pub use hex::{hex, unhex};
pub use hole::Hole;
pub use ids::{
    ExclusionId, GenerationNumber, IdError, Offset, PartitionId, RunId, StreamId, ViewId, digits,
};
pub use position::Position;
pub use problem::{Problem, ProblemKind, way_to_find};
pub use schema::{
    ARRIVED_AT, Column, ColumnType, EXCLUDED, EpochUnit, EventTime, MAX_COLUMNS, MAX_NAME_BYTES,
    NameError, OFFSET, PARTITION, SYSTEM_COLUMNS, StreamSchema, UnknownColumns, check_name,
};
pub use share::{IngestEpoch, IngestMember, IngestMembers, Share};
pub use source::{
    KafkaSettings, KafkaSource, MessageFormat, SchemaRegistry, Source, StartAt, Tombstones,
};
pub use span::{Span, SpanError};
pub use stream::StreamDef;
pub use token::{PositionToken, TokenError};
pub use view_def::ViewDef;
pub use volume::{Volume, VolumeTrigger};
