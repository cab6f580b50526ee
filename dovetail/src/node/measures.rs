// SPDX-License-Identifier: Apache-2.0
//! What each process measures of itself, for `/metrics`.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use dovetail_log::catalog::Catalog;
use dovetail_log::object::{BlockCache, StoreRequests};
use dovetail_model::{CatalogState, Clock, Problem};
use dovetail_seam::Meter;
use dovetail_serving_layer::ports::{BatchRunCount, Holds, Measurements, Measures, Status};
use dovetail_serving_layer::time::iso_us;

use super::load::queries;
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

/// What a process measures that has neither the store nor runs.
#[derive(Debug, Clone)]
pub(super) struct ReaderMeasures {
    pub(super) catalog: Arc<Catalog>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) started_at: DateTime<Utc>,
    pub(super) queries: Arc<Meter>,
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

fn batch_run_counts(state: &CatalogState) -> Vec<BatchRunCount> {
    let mut counts = BTreeMap::new();
    for run in state.runs.values() {
        let kind = (&run.view, run.mode.as_str(), run.outcome.as_str());
        let (_, runs) = counts.entry(kind).or_insert((run, 0));
        *runs += 1;
    }
    let counts = counts.into_values().filter_map(|(run, runs)| {
        let view = state
            .views
            .get(&run.view)
            .filter(|view| view.dropped_at.is_none())?;
        Some(BatchRunCount {
            view: view.def.name.clone(),
            mode: run.mode,
            outcome: run.outcome,
            runs,
        })
    });
    counts.collect()
}
