// SPDX-License-Identifier: Apache-2.0
//! What the catalog knows after some commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    BatchRun, Exclusion, ExclusionId, GenerationNumber, Hole, IngestMembers, Manifest, Position,
    RunId, StoreClaim, StoreEpoch, StreamDef, StreamId, ViewDef, ViewId,
};

/// A stream as the catalog knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamState {
    /// Its declaration.
    pub def: StreamDef,
    /// When it was dropped, if it was.
    pub dropped_at: Option<DateTime<Utc>>,
    /// The exclusions in force, by id.
    pub exclusions: BTreeMap<ExclusionId, Exclusion>,
    /// Id of the next exclusion.
    pub next_exclusion: ExclusionId,
    /// What it goes on without, in order of partition and offset.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holes: Vec<Hole>,
}

/// A generation that nothing new reads, and whose files may still be there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExpiredGeneration {
    /// Its manifest.
    pub manifest: Arc<Manifest>,
    /// When the commit was made that expired it.
    pub at: DateTime<Utc>,
}

/// A view as the catalog knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ViewState {
    /// The definition that is in force: the one of the live generation, or the first one while building.
    pub def: ViewDef,
    /// A newer definition whose first generation is being built.
    pub pending: Option<ViewDef>,
    /// Version of the next definition. A version is never used twice, even where a rollback brought an earlier
    /// one back: runs and generations are told apart by it.
    pub next_version: u64,
    /// When the view was dropped, if it was.
    pub dropped_at: Option<DateTime<Utc>>,
    /// The live pointer. None while the first generation is being built.
    pub live: Option<GenerationNumber>,
    /// Where a rollback without a number goes: the generation live just before the last full or repair
    /// promote.
    pub before_promote: Option<GenerationNumber>,
    /// All generations that can be read.
    pub generations: BTreeMap<GenerationNumber, Arc<Manifest>>,
    /// Generations that were readable, until their files are deleted.
    #[serde(default)]
    pub expired: BTreeMap<GenerationNumber, ExpiredGeneration>,
    /// Number of the next generation.
    pub next_generation: GenerationNumber,
    /// Sequence of the commit that last moved the pointer by a promote of a full or repair run, a rollback
    /// or a creation. A staged run that started before it is stale.
    pub pointer_epoch: u64,
    /// Sequence of the commit that last published a generation for any reason: the `txn` version of the
    /// view's Delta projection.
    pub published_at: u64,
    /// Whether the full schedule is paused.
    pub schedule_paused: bool,
    /// The last scheduled time that was served.
    pub schedule_served: Option<DateTime<Utc>>,
    /// Up to where the last full run that was promoted recomputed the stream; the start before the first one.
    #[serde(default)]
    pub recomputed_to: Position,
}

impl ViewState {
    /// Whether the newest definition has no generation yet.
    pub fn is_building(&self) -> bool {
        self.live.is_none() || self.pending.is_some()
    }

    /// The live generation's manifest.
    pub fn live_manifest(&self) -> Option<&Arc<Manifest>> {
        self.live.and_then(|number| self.generations.get(&number))
    }
    /// Position up to which the live generation covers the stream; the start while building.
    pub fn horizon(&self) -> Position {
        self.live_manifest()
            .map(|m| m.inputs.horizon.clone())
            .unwrap_or_default()
    }
}

/// Everything the catalog knows after some commit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CatalogState {
    /// Sequence of the last commit applied; 0 before the first.
    pub sequence: u64,
    /// Whose the store is, once it was claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<StoreClaim>,
    /// Who takes the events, where processes do it that do nothing else.
    #[serde(default)]
    pub ingest: Arc<IngestMembers>,
    /// Streams, dropped ones too.
    pub streams: BTreeMap<StreamId, StreamState>,
    /// Views, dropped ones too.
    pub views: BTreeMap<ViewId, ViewState>,
    /// The ledger.
    pub runs: BTreeMap<RunId, Arc<BatchRun>>,
    /// Id of the next batch run.
    pub next_run: RunId,
}

impl CatalogState {
    /// How many claims there were.
    pub fn epoch(&self) -> StoreEpoch {
        self.claim
            .as_ref()
            .map_or(StoreEpoch::default(), |claim| claim.epoch)
    }

    /// The stream that has this name and is not dropped.
    pub fn stream_named(&self, name: &str) -> Option<&StreamState> {
        self.streams
            .values()
            .find(|s| s.dropped_at.is_none() && s.def.name == name)
    }

    /// The view that has this name and is not dropped.
    pub fn view_named(&self, name: &str) -> Option<&ViewState> {
        self.views
            .values()
            .find(|v| v.dropped_at.is_none() && v.def.name == name)
    }

    /// What to call a view in messages: its name, also if it was dropped, or the id where nothing is known of it.
    pub fn view_name<'a>(&'a self, id: &'a ViewId) -> &'a str {
        self.views.get(id).map_or(id.as_str(), |v| &v.def.name)
    }

    /// Streams that are not dropped, by id.
    pub fn live_streams(&self) -> impl Iterator<Item = &StreamState> {
        self.streams.values().filter(|s| s.dropped_at.is_none())
    }

    /// Views that are not dropped, by id.
    pub fn live_views(&self) -> impl Iterator<Item = &ViewState> {
        self.views.values().filter(|v| v.dropped_at.is_none())
    }

    /// Views of `stream` that are not dropped.
    pub fn views_of<'a>(&'a self, stream: &'a StreamId) -> impl Iterator<Item = &'a ViewState> {
        self.live_views().filter(move |v| v.def.stream == *stream)
    }

    /// The run of `view` that is at work on the same lane: incremental, or full and repair together.
    pub fn running(&self, view: &ViewId, incremental: bool) -> Option<&Arc<BatchRun>> {
        let lane = |run: &BatchRun| (run.mode == crate::RunMode::Incremental) == incremental;
        self.runs
            .values()
            .find(|run| run.view == *view && run.is_at_work() && lane(run))
    }
}
