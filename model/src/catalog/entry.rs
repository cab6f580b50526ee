// SPDX-License-Identifier: Apache-2.0
//! What a commit of the catalog says.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    BatchRun, Endpoints, Exclusion, ExclusionId, GenerationNumber, Hole, IngestMembers, Manifest,
    RunId, StoreEpoch, StreamDef, StreamId, StreamSchema, ViewDef, ViewId,
};

/// Why a live pointer moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PublishReason {
    /// The empty generation of a new view on an empty stream.
    Created,
    /// An incremental run brought the live generation forward.
    Refreshed,
    /// A full or repair run was promoted.
    Promoted,
    /// An earlier generation was brought back, and a new definition that was being built is given up.
    RolledBack,
}

/// One change of the catalog.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum Entry {
    /// A data directory claimed the store: from now on only its process decides here.
    StoreClaimed {
        /// The id of the data directory.
        owner: String,
        /// The machine that it is on.
        host: String,
    },
    /// The process of the data directory that has the store says where it is reached.
    StoreServed {
        /// The epoch that it writes in.
        epoch: StoreEpoch,
        /// Where; none when it is not to be asked.
        endpoints: Option<Endpoints>,
    },
    /// Other processes take the events from now on.
    IngestChanged {
        /// All of them.
        members: IngestMembers,
    },
    /// A stream was declared.
    StreamCreated {
        /// Its declaration.
        stream: StreamDef,
    },
    /// The schema of a stream grew: nullable columns at its end, or columns that may be NULL from now on.
    StreamAltered {
        /// The stream.
        id: StreamId,
        /// All of its schema as it is now.
        schema: StreamSchema,
    },
    /// A stream goes on without offsets that its topic lost. Everything before them is archived.
    HoleSkipped {
        /// The stream.
        id: StreamId,
        /// Which offsets.
        hole: Hole,
    },
    /// A stream was dropped; its data stays until retention.
    StreamDropped {
        /// The stream.
        id: StreamId,
    },
    /// A dropped stream was restored under its name.
    StreamUndropped {
        /// The stream.
        id: StreamId,
    },
    /// A view was declared.
    ViewCreated {
        /// Its declaration.
        view: ViewDef,
    },
    /// The options of a view changed, those of a new definition that is being built, too; its content did not.
    ViewAltered {
        /// The declaration with the same version and definition.
        view: ViewDef,
    },
    /// A view got a new definition, whose first generation is not there yet: the old one stays live. The options
    /// are those of the view, and hold at once.
    ViewRedefined {
        /// The declaration with the next version.
        view: ViewDef,
    },
    /// A redefinition was given up before its first generation.
    RedefinitionDropped {
        /// The view.
        view: ViewId,
    },
    /// A view was dropped; its generations stay until retention.
    ViewDropped {
        /// The view.
        id: ViewId,
    },
    /// A dropped view was restored under its name.
    ViewUndropped {
        /// The view.
        id: ViewId,
    },
    /// Events were declared wrong.
    ExclusionDeclared {
        /// The stream.
        stream: StreamId,
        /// Which events.
        exclusion: Exclusion,
    },
    /// An exclusion was withdrawn.
    ExclusionWithdrawn {
        /// The stream.
        stream: StreamId,
        /// The exclusion.
        id: ExclusionId,
    },
    /// A batch run started, was staged or ended: its record as it now reads.
    Run {
        /// The record.
        run: Box<BatchRun>,
    },
    /// A generation's manifest was written. It is readable from now on, and live only when published.
    GenerationWritten {
        /// The manifest.
        manifest: Arc<Manifest>,
    },
    /// The live pointer moved: the compare-and-set of promote, rollback and refresh.
    GenerationPublished {
        /// The view.
        view: ViewId,
        /// The generation that must be live for the entry to apply.
        expected: Option<GenerationNumber>,
        /// The generation that is live afterwards.
        generation: GenerationNumber,
        /// Why.
        reason: PublishReason,
    },
    /// The full schedule of a view was paused or resumed.
    SchedulePaused {
        /// The view.
        view: ViewId,
        /// Whether it is paused now.
        paused: bool,
    },
    /// A scheduled time was served, so that a restart knows which were missed.
    ScheduleServed {
        /// The view.
        view: ViewId,
        /// The scheduled time.
        due: DateTime<Utc>,
    },
    /// Generations were discarded or removed by retention: nothing new reads them. Their files are deleted some
    /// time after this entry, for what reads them already.
    GenerationsExpired {
        /// The view.
        view: ViewId,
        /// Which.
        generations: Vec<GenerationNumber>,
    },
    /// The files of expired generations were deleted, those aside that others share.
    GenerationsDeleted {
        /// The view.
        view: ViewId,
        /// Which.
        generations: Vec<GenerationNumber>,
    },
    /// Old ledger entries were removed by retention.
    RunsExpired {
        /// Which.
        runs: Vec<RunId>,
    },
}

/// One atomic, checksummed step of the catalog.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// Its place in the log, from 1 without gaps.
    pub sequence: u64,
    /// Random, to tell our own commit from a rival's when a put's result is unknown.
    pub nonce: u64,
    /// When it was made.
    pub at: DateTime<Utc>,
    /// The changes, applied together or not at all.
    pub entries: Vec<Entry>,
}
