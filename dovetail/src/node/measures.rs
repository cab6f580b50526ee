// SPDX-License-Identifier: Apache-2.0
//! What each process measures of itself, for `/metrics`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use dovetail_log::catalog::Catalog;
use dovetail_log::object::{BlockCache, StoreRequests};
use dovetail_model::{CatalogState, Clock, Outcome, Problem, RunMode};
use dovetail_seam::Meter;
use dovetail_serving_layer::ports::{
    BatchRunCount, DiskStatus, Holds, Measurements, Measures, Status,
};
use dovetail_serving_layer::time::iso_us;

use super::load::queries;
use super::spill::Room;
use super::{Duty, Node};

#[async_trait]
impl Measures for Node {
    async fn measurements(&self) -> Result<Measurements, Problem> {
        let duty = self.0.config.duty;
        Ok(Measurements {
            status: self.describe_all().await?,
            holds: Holds {
                runs: duty != Duty::Decides,
                store: duty != Duty::Ingests,
            },
            batch_runs: batch_run_counts(&self.0.catalog.state()),
            requests: self.0.requests.read(),
            cache: self.0.cache.as_ref().map(BlockCache::counts),
        })
    }
}

/// The disk that a data directory is on, if the system says.
pub(super) fn disk(directory: &Path) -> Option<DiskStatus> {
    let room = Room::of(directory).ok()?;
    Some(DiskStatus {
        directory: directory.display().to_string(),
        free_bytes: room.free_bytes,
        all_bytes: room.all_bytes,
    })
}

/// What a process measures that has neither the store nor runs.
#[derive(Debug, Clone)]
pub(super) struct ReaderMeasures {
    pub(super) catalog: Arc<Catalog>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) started_at: DateTime<Utc>,
    pub(super) queries: Arc<Meter>,
    /// The data directory.
    pub(super) data: PathBuf,
    /// What the store was asked.
    pub(super) requests: Arc<StoreRequests>,
    pub(super) cache: Option<BlockCache>,
}

#[async_trait]
impl Measures for ReaderMeasures {
    async fn measurements(&self) -> Result<Measurements, Problem> {
        let up = self.clock.now() - self.started_at;
        Ok(Measurements {
            status: Status {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                started_at: iso_us(self.started_at.timestamp_micros()),
                uptime_s: u64::try_from(up.num_seconds()).unwrap_or(0),
                catalog_sequence: self.catalog.state().sequence,
                memory: None,
                disk: disk(&self.data),
                bottleneck: None,
                stages: vec![queries(&self.queries)],
                streams: vec![],
                views: vec![],
                runs: vec![],
                ingest: vec![],
                workers: vec![],
            },
            holds: Holds {
                runs: false,
                store: false,
            },
            batch_runs: vec![],
            requests: self.requests.read(),
            cache: self.cache.as_ref().map(BlockCache::counts),
        })
    }
}

/// Modes that a run may have.
const MODES: [RunMode; 3] = [RunMode::Full, RunMode::Incremental, RunMode::Repair];

/// How many runs of each view came to what. That none failed is said, too: an alert sees the first one as a change.
fn batch_run_counts(state: &CatalogState) -> Vec<BatchRunCount> {
    let views = state.views.keys();
    let failed = views.flat_map(|id| MODES.map(|mode| (id, mode, Outcome::Failed)));
    let runs = state.runs.values();
    let ended = runs.map(|run| (&run.view, run.mode, run.outcome));
    let mut counts: BTreeMap<_, BatchRunCount> = BTreeMap::new();
    let kinds = failed
        .map(|kind| (kind, 0))
        .chain(ended.map(|kind| (kind, 1)));
    for ((id, mode, outcome), runs) in kinds {
        let view = state.views.get(id).filter(|view| view.dropped_at.is_none());
        let Some(view) = view else { continue };
        let count = counts
            .entry((id, mode.as_str(), outcome.as_str()))
            .or_insert_with(|| BatchRunCount {
                view: view.def.name.clone(),
                mode,
                outcome,
                runs: 0,
            });
        count.runs += runs;
    }
    counts.into_values().collect()
}
