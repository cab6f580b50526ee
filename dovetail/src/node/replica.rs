// SPDX-License-Identifier: Apache-2.0
//! A replica: queries over the store of another process, and what that one holds in memory.
//!
//! Purpose: more readers than one process can serve, none of which can make an answer wrong: a replica holds nothing
//! but caches. Collaborators: the catalog on the store names the process that takes the events; `dovetail-exchange`
//! takes cuts of it. Invariants: it writes nothing to the store, and works where it may only read. Non-goals: taking
//! over from that process.

use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::execution::memory_pool::GreedyMemoryPool;
use dovetail_exchange::{PeerToken, RemoteCuts, RemoteCutsConfig};
use dovetail_log::catalog::Catalog;
use dovetail_log::object::Usage;
use dovetail_model::{CatalogState, Clock, Problem, ProblemKind};
use dovetail_seam::Meter;
use dovetail_serving_layer::engine::{Engine, QuerySession};
use dovetail_serving_layer::ports::{Elsewhere, ReadPorts};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::data_dir::DataDir;
use super::open::{engine_runtime, open_cache, open_place};
use super::queries::MeteredQueries;
use super::runtimes::Runtimes;
use super::{CacheBytes, Node, NodeConfig, NodeError};
use crate::cli::StorePlace;

/// How often the catalog is looked at while no question does.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(2);

/// What a replica is told.
#[derive(Debug)]
pub(super) struct ReplicaConfig {
    /// Its own directory: it spills there.
    pub(super) data: PathBuf,
    /// The store that it reads.
    pub(super) store: StorePlace,
    /// Disk and memory for parts of the store's files.
    pub(super) cache_bytes: CacheBytes,
    /// What it shows to the process that takes the events.
    pub(super) peer_token: Option<String>,
}

/// One replica. Its threads end with it.
#[derive(Debug)]
pub(super) struct Replica {
    /// Held for as long as it lives.
    _data_dir: DataDir,
    catalog: Arc<Catalog>,
    cuts: RemoteCuts,
    engine: Engine,
    _runtimes: Runtimes,
}

impl Replica {
    /// Opens the store for reading. The process that takes the events need not be there yet.
    ///
    /// # Errors
    /// When the directory is in use, or the catalog on the store cannot be read.
    pub(super) async fn open(config: ReplicaConfig) -> Result<Self, NodeError> {
        let data_dir = DataDir::open(&config.data)?;
        let cache = open_cache(Some(&config.store), config.cache_bytes, &data_dir)?;
        // The same limits as those of a process that does everything.
        let NodeConfig {
            clock,
            query_memory_bytes,
            partitions,
            ..
        } = NodeConfig::new(config.data);
        let store = open_place(&config.store, Usage::Reading, &Arc::default())?;
        let catalog = Arc::new(Catalog::open(Arc::clone(&store), Arc::clone(&clock)).await?);
        let runtimes = Runtimes::new(partitions).map_err(|source| NodeError::Io {
            action: "start threads",
            source,
        })?;
        let cuts = RemoteCuts::new(RemoteCutsConfig {
            catalog: Arc::clone(&catalog),
            store: Arc::clone(&store),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            token: PeerToken::new(config.peer_token.as_deref()),
            runtime: runtimes.query(),
        });
        let pool = Arc::new(GreedyMemoryPool::new(query_memory_bytes));
        let queried = match cache {
            Some(cache) => cache.filling(store),
            None => store,
        };
        let runtime = engine_runtime(&data_dir, pool, &queried)?;
        let engine = Engine::new(
            Arc::clone(&catalog),
            Arc::new(cuts.clone()),
            clock,
            QuerySession::new(runtime, partitions)?,
            runtimes.query(),
        );
        let state = catalog.state();
        match &state.claim {
            Some(claim) => info!(
                sequence = state.sequence,
                "a replica of the store of {claim}"
            ),
            None => warn!("nothing has written to this store yet: a replica of nothing"),
        }
        Ok(Self {
            _data_dir: data_dir,
            catalog,
            cuts,
            engine,
            _runtimes: runtimes,
        })
    }

    /// What it answers.
    pub(super) fn ports(&self) -> ReadPorts {
        ReadPorts {
            queries: Arc::new(MeteredQueries::new(&self.engine, &Arc::<Meter>::default())),
            others: Arc::new(Taker {
                catalog: Arc::clone(&self.catalog),
                cuts: self.cuts.clone(),
            }),
        }
    }

    /// Follows the catalog until `stop`, or until the result is dropped.
    pub(super) fn follow(&self, stop: CancellationToken) -> AbortOnDropHandle<()> {
        let catalog = Arc::clone(&self.catalog);
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut failing = false;
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(FOLLOW_INTERVAL) => {}
                }
                match catalog.reload().await {
                    Ok(_) => failing = false,
                    // Once, not every two seconds.
                    Err(_) if failing => {}
                    Err(error) => {
                        warn!(%error, "the catalog cannot be followed");
                        failing = true;
                    }
                }
            }
        }))
    }
}

/// The process that takes the events, as the catalog names it.
#[derive(Debug)]
pub(super) struct Taker {
    catalog: Arc<Catalog>,
    cuts: RemoteCuts,
}

impl Node {
    /// The process that has the store, for one that does not.
    pub(super) fn decider(&self) -> Taker {
        Taker {
            catalog: Arc::clone(&self.0.catalog),
            cuts: self.0.cuts.clone(),
        }
    }
}

#[async_trait]
impl Elsewhere for Taker {
    fn url(&self) -> Result<String, Problem> {
        let catalog = self.catalog.state();
        url_in(&catalog).map(str::to_owned).ok_or_else(|| {
            Problem::new(
                ProblemKind::Unavailable,
                "this is a replica, and no process has said where it does what is not a read: start the one that takes the events with --cuts ADDRESS",
            )
            .with("retry_after_s", 2)
        })
    }

    async fn moved(&self, url: &str) {
        let mut changes = self.catalog.subscribe();
        let moved = changes.wait_for(|catalog| url_in(catalog) != Some(url));
        if moved.await.is_err() {
            // Nobody changes the catalog any more, so neither does this.
            pending().await
        }
    }

    async fn ready(&self) -> Result<(), Problem> {
        self.cuts.ready().await
    }
}

/// Where the process that has the store has its HTTP API, as far as it has said so.
fn url_in(catalog: &CatalogState) -> Option<&str> {
    let endpoints = catalog.claim.as_ref()?.endpoints.as_ref()?;
    Some(&endpoints.http)
}
