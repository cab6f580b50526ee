// SPDX-License-Identifier: Apache-2.0
//! A process: the wiring of log, speed, batch and serving over one data directory, for all roles or some of them ([`Duty`]).
//!
//! Purpose: open what the catalog names, run the loops between the layers (archive, merge, schedule,
//! retention), and answer the ports of the HTTP API. Collaborators: every layer; this is the only place
//! that knows them all.
//! Invariants: one process per data directory, one data directory at a time that has the store; a stream takes appends only once its views are rebuilt;
//! shutdown loses nothing that was acknowledged. Non-goals: deciding how a layer works.

mod claim;
mod control;
mod data_dir;
mod definitions;
mod describe;
mod error;
mod feed;
mod ingest;
mod intake;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(not(feature = "kafka"))]
#[path = "no_kafka.rs"]
mod kafka;
mod letter_count;
mod load;
mod measures;
mod members;
mod membership;
mod open;
mod open_stream;
mod peers;
mod queries;
mod replica;
mod runtimes;
mod server;
mod spill;
mod standby;
mod storage;
mod streams;
mod worker;
mod workers;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use dovetail_batch_layer::{BatchLayer, RetentionPolicy};
use dovetail_exchange::{PeerToken, RemoteCuts};
use dovetail_log::catalog::Catalog;
use dovetail_log::object::{BlockCache, StoreRequests};
use dovetail_model::{Clock, StoreEpoch, SystemClock};
use dovetail_seam::Meter;
use dovetail_serving_layer::engine::Engine;
use dovetail_speed_layer::SpeedMemory;
use object_store::ObjectStore;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use data_dir::{DataDir, DataDirError};
pub use error::NodeError;
pub use server::NodeServer;

use crate::cli::{Limits, StorePlace};
use members::Members;
use runtimes::Runtimes;
use streams::Streams;
use workers::DeskWorkers;

/// What a node is told. Every limit has a default that suits a laptop.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// The data directory; made when it is not there.
    pub data: PathBuf,
    /// Where raw log, generations and catalog live; in the data directory if none.
    pub store: Option<StorePlace>,
    /// What it does of the work.
    pub duty: Duty,
    /// What it shows to the other processes of its store.
    pub peer_token: PeerToken,
    /// Whether the store is taken from another data directory that has it.
    pub takes_over: bool,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Past this many bytes of runs and tails, incremental runs start by themselves.
    pub speed_soft_bytes: usize,
    /// Past this many, appends wait.
    pub speed_hard_bytes: usize,
    /// Memory of all queries together.
    pub query_memory_bytes: usize,
    /// How many queries run at once.
    pub queries: usize,
    /// How long they usually may take.
    pub query_timeout: Duration,
    /// Memory of all batch runs together, in even shares; a run spills what does not fit into its share.
    pub batch_memory_bytes: usize,
    /// How many full or repair runs compute at a time, and how many incremental ones beside them.
    pub batch_runs: usize,
    /// What parts of a remote store's files may take.
    pub cache_bytes: CacheBytes,
    /// A tail is archived at least this often.
    pub archive_interval: Duration,
    /// And as soon as it holds this many bytes.
    pub archive_bytes: usize,
    /// How long generations stay.
    pub retention: RetentionPolicy,
    /// How long the embedded log remembers idempotency keys.
    pub key_ttl: Duration,
    /// Parallelism of a query and of a batch run.
    pub partitions: usize,
}

/// What a node does of the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// All of it.
    Everything,
    /// It has the store: definitions, batch runs and pointers. Other processes take the events.
    Decides,
    /// It takes its share of the events, for a process that decides.
    Ingests,
}

/// Bounds of a cache.
#[derive(Debug, Clone, Copy)]
pub struct CacheBytes {
    /// On disk.
    pub disk: usize,
    /// In memory.
    pub memory: usize,
}

impl NodeConfig {
    /// The defaults over one data directory.
    pub fn new(data: PathBuf) -> Self {
        Self::within(data, &Limits::default())
    }

    /// The same within `limits`.
    pub fn within(data: PathBuf, limits: &Limits) -> Self {
        let Limits {
            memory, keeping, ..
        } = limits;
        let config = Self {
            data,
            store: None,
            duty: Duty::Everything,
            peer_token: PeerToken::default(),
            takes_over: false,
            clock: Arc::new(SystemClock),
            speed_soft_bytes: memory.speed_memory_soft(),
            speed_hard_bytes: memory.speed_memory_bytes,
            query_memory_bytes: memory.query_memory_bytes,
            queries: limits.requests.queries,
            query_timeout: limits.requests.query_timeout,
            batch_memory_bytes: memory.batch_memory_bytes,
            batch_runs: memory.batch_runs,
            cache_bytes: CacheBytes {
                disk: memory.cache_disk_bytes,
                memory: memory.cache_memory_bytes,
            },
            archive_interval: keeping.archive_interval,
            archive_bytes: keeping.archive_size,
            retention: RetentionPolicy {
                keep_newest: keeping.keep_generations,
                keep_for: TimeDelta::from_std(keeping.keep_generations_for)
                    .unwrap_or(TimeDelta::MAX),
                keep_runs: keeping.keep_runs,
                ..RetentionPolicy::default()
            },
            key_ttl: keeping.keep_keys_for,
            partitions: std::thread::available_parallelism().map_or(2, usize::from),
        };
        config.with_tail_within_memory()
    }

    /// A tail is archived before it takes much of the memory of runs and tails.
    fn with_tail_within_memory(mut self) -> Self {
        self.archive_bytes = self.archive_bytes.min(self.speed_hard_bytes / 8);
        self
    }

    /// The same with so many bytes of runs and tails at most: at half of them incremental runs start, and a tail is
    /// archived before it takes much of them.
    pub fn with_speed_memory(mut self, hard_bytes: usize) -> Self {
        self.speed_soft_bytes = hard_bytes / 2;
        self.speed_hard_bytes = hard_bytes;
        self.with_tail_within_memory()
    }
}

/// One running process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Node(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: NodeConfig,
    /// Held for as long as the node lives.
    data_dir: DataDir,
    store: Arc<dyn ObjectStore>,
    /// What it was asked, if it is remote.
    requests: Arc<StoreRequests>,
    /// What is kept of it here, if it is remote.
    cache: Option<BlockCache>,
    /// In which everything is written there.
    epoch: StoreEpoch,
    catalog: Arc<Catalog>,
    streams: Arc<Streams>,
    /// Cuts and targets of other processes.
    cuts: RemoteCuts,
    /// The processes that take the events, where this one decides.
    members: Arc<Members>,
    batch: BatchLayer,
    /// Processes that compute for it.
    workers: DeskWorkers,
    engine: Engine,
    memory: Arc<SpeedMemory>,
    runtimes: Runtimes,
    /// Definitions change one at a time.
    defining: Mutex<()>,
    /// How busy queries are; the meters of what works on a stream are in its cell.
    queries: Arc<Meter>,
    stop: CancellationToken,
    tasks: TaskTracker,
    started_at: DateTime<Utc>,
}

impl Node {
    /// The SQL engine.
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// The batch layer.
    pub fn batch(&self) -> &BatchLayer {
        &self.0.batch
    }

    /// The catalog.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.0.catalog
    }
}
