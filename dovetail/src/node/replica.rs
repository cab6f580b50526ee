// SPDX-License-Identifier: Apache-2.0
//! A replica: queries over the store of another process, and what that one holds in memory.
//!
//! Purpose: more readers than one process can serve, none of which can make an answer wrong: a replica holds nothing
//! but caches. Collaborators: the catalog on the store names the process that takes the events; `dovetail-exchange`
//! takes cuts of it. Invariants: it writes nothing to the store, and works where it may only read; unless it computes, too
//! ([`super::worker`]). Non-goals: taking over from that process.

use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::execution::memory_pool::GreedyMemoryPool;
use dovetail_exchange::{Greeted, PeerToken, RemoteCuts, RemoteCutsConfig};
use dovetail_log::catalog::Catalog;
use dovetail_log::object::{StoreUrl, Usage};
use dovetail_model::{CatalogState, Clock, Problem, ProblemKind};
use dovetail_serving_layer::engine::{Engine, QuerySession};
use dovetail_serving_layer::ports::{Elsewhere, ReadPorts};
use object_store::ObjectStore;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::data_dir::DataDir;
use super::measures::ReaderMeasures;
use super::queries::MeteredQueries;
use super::runtimes::Runtimes;
use super::storage::{engine_runtime, open_cache, open_place};
use super::{Node, NodeConfig, NodeError};
use crate::cli::{Limits, StorePlace};

/// How often the catalog is looked at while no question does.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(2);

/// What a replica is told.
#[derive(Debug)]
pub(super) struct ReplicaConfig {
    /// Its own directory: it spills there.
    pub(super) data: PathBuf,
    /// The store that it reads.
    pub(super) store: StorePlace,
    /// What it may take.
    pub(super) limits: Limits,
    /// What it shows to the process that takes the events.
    pub(super) peer_token: Option<String>,
    /// Whether it computes, too, and so writes files.
    pub(super) computes: bool,
}

/// One replica. Its threads end with it.
#[derive(Debug)]
pub(super) struct Replica {
    /// Held for as long as it lives.
    data_dir: DataDir,
    url: StoreUrl,
    /// The store, without what queries keep of it at hand.
    store: Arc<dyn ObjectStore>,
    clock: Arc<dyn Clock>,
    token: PeerToken,
    partitions: usize,
    catalog: Arc<Catalog>,
    cuts: RemoteCuts,
    engine: Engine,
    measures: ReaderMeasures,
    runtimes: Runtimes,
}

impl Replica {
    /// Opens the store for reading. The process that takes the events need not be there yet.
    ///
    /// # Errors
    /// When the directory is in use, or the catalog on the store cannot be read.
    pub(super) async fn open(config: ReplicaConfig) -> Result<Self, NodeError> {
        let data_dir = DataDir::open(&config.data)?;
        // The same limits as those of a process that does everything.
        let NodeConfig {
            clock,
            query_memory_bytes,
            queries,
            query_timeout,
            cache_bytes,
            partitions,
            ..
        } = NodeConfig::within(config.data, &config.limits);
        let cache = open_cache(Some(&config.store), cache_bytes, &data_dir)?;
        let usage = if config.computes {
            Usage::Adding
        } else {
            Usage::Reading
        };
        let requests = Arc::default();
        let store = open_place(&config.store, usage, &requests)?;
        let catalog = Arc::new(Catalog::open(Arc::clone(&store), Arc::clone(&clock)).await?);
        let runtimes = Runtimes::new(partitions).map_err(|source| NodeError::Io {
            action: "start threads",
            source,
        })?;
        let token = PeerToken::new(config.peer_token.as_deref());
        let cuts = RemoteCuts::new(RemoteCutsConfig {
            catalog: Arc::clone(&catalog),
            store: Arc::clone(&store),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            token: token.clone(),
            runtime: runtimes.query(),
        });
        let pool = Arc::new(GreedyMemoryPool::new(query_memory_bytes));
        // What is computed reads everything once, and pushes nothing out.
        let (store, queried) = match &cache {
            Some(cache) => (cache.sparing(Arc::clone(&store)), cache.filling(store)),
            None => (Arc::clone(&store), store),
        };
        let runtime = engine_runtime(&data_dir, pool, &queried)?;
        let engine = Engine::new(
            Arc::clone(&catalog),
            Arc::new(cuts.clone()),
            Arc::clone(&clock),
            QuerySession::new(runtime, partitions)?,
            runtimes.query(),
        )
        .with_queries_at_once(queries, query_timeout);
        let measures = ReaderMeasures {
            catalog: Arc::clone(&catalog),
            clock: Arc::clone(&clock),
            started_at: clock.now(),
            queries: Arc::default(),
            data: data_dir.root().to_owned(),
            requests,
            cache,
        };
        let state = catalog.state();
        match &state.claim {
            Some(claim) => info!(
                sequence = state.sequence,
                "a replica of the store of {claim}"
            ),
            None => warn!("nothing has written to this store yet: a replica of nothing"),
        }
        Ok(Self {
            data_dir,
            url: config.store.url,
            store,
            clock,
            token,
            partitions,
            catalog,
            cuts,
            engine,
            measures,
            runtimes,
        })
    }

    /// How the process that has the store takes this one.
    pub(super) async fn greet(&self) -> Greeted {
        self.cuts.greet().await
    }

    /// The store and where it is.
    pub(super) fn store(&self) -> (&StoreUrl, &Arc<dyn ObjectStore>) {
        (&self.url, &self.store)
    }

    pub(super) fn data_dir(&self) -> &DataDir {
        &self.data_dir
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    pub(super) fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// What it shows to the process that takes the events.
    pub(super) fn peer_token(&self) -> PeerToken {
        self.token.clone()
    }

    /// Parallelism of a query, or of a run.
    pub(super) fn partitions(&self) -> usize {
        self.partitions
    }

    /// Threads that yield to those of queries.
    pub(super) fn batch_runtime(&self) -> Handle {
        self.runtimes.batch()
    }

    /// What it answers.
    pub(super) fn ports(&self) -> ReadPorts {
        ReadPorts {
            queries: Arc::new(MeteredQueries::new(&self.engine, &self.measures.queries)),
            measures: Arc::new(self.measures.clone()),
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
