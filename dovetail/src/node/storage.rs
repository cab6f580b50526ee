// SPDX-License-Identifier: Apache-2.0
//! The store of a process, its cache, and what the engines compute in over it.

use std::sync::Arc;

use datafusion::execution::TaskContext;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::prelude::{SessionConfig, SessionContext};
use dovetail_log::object::{
    self, BlockCache, CacheConfig, Environment, LocalStore, StoreError, StoreRequests, StoreUrl,
    Usage, check_beside_others, check_store,
};
use dovetail_log::parquet_files::register_store;
use object_store::ObjectStore;
use tokio::runtime::Handle;
use tracing::info;

use super::data_dir::DataDir;
use super::{CacheBytes, NodeConfig, NodeError, spill};
use crate::cli::StorePlace;

/// The store that the configuration names, known to keep its word; or the one in the data directory.
pub(super) async fn open_store(
    config: &NodeConfig,
    data_dir: &DataDir,
    requests: &Arc<StoreRequests>,
) -> Result<Arc<dyn ObjectStore>, NodeError> {
    let Some(place) = &config.store else {
        let opened = LocalStore::open(data_dir.store()).map_err(|source| NodeError::Io {
            action: "open the object store",
            source: std::io::Error::other(source),
        })?;
        return Ok(Arc::new(opened));
    };
    let store = open_place(place, Usage::Writing, requests)?;
    if place.url.is_remote() {
        check_store(&place.url, &store).await?;
        let open = |url: &StoreUrl| open_at(url, place, Usage::Reading, requests);
        check_beside_others(&place.url, open).await?;
    }
    Ok(store)
}

/// The store at `place`, of which nothing was asked yet.
pub(super) fn open_place(
    place: &StorePlace,
    usage: Usage,
    requests: &Arc<StoreRequests>,
) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let store = open_at(&place.url, place, usage, requests)?;
    info!(store = %place.url, "opened the object store");
    Ok(store)
}

/// Whether what is said of the store at `place` is complete and does not contradict itself. Nobody is asked, and nothing is
/// made.
pub(super) fn check_settings(place: &StorePlace) -> Result<(), StoreError> {
    if place.url.is_remote() || !place.options.is_empty() {
        let requests = Arc::new(StoreRequests::default());
        open_at(&place.url, place, Usage::Reading, &requests)?;
    }
    Ok(())
}

/// The store at `url`, reached as that at `place` is.
fn open_at(
    url: &StoreUrl,
    place: &StorePlace,
    usage: Usage,
    requests: &Arc<StoreRequests>,
) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let environment = Environment::of_process();
    let io = Handle::current();
    object::open_store(url, &place.options, &environment, &io, usage, requests)
}

/// The cache of a store that is not on this machine.
pub(super) fn open_cache(
    place: Option<&StorePlace>,
    bytes: CacheBytes,
    data_dir: &DataDir,
) -> Result<Option<BlockCache>, NodeError> {
    let Some(place) = place.filter(|place| place.url.is_remote()) else {
        return Ok(None);
    };
    let cache = CacheConfig {
        directory: data_dir.cache(),
        store: place.url.to_string(),
        disk_bytes: bytes.disk as u64,
        memory_bytes: bytes.memory as u64,
    };
    let opened = BlockCache::open(cache, &Handle::current());
    opened.map(Some).map_err(|source| NodeError::Io {
        action: "open the cache",
        source,
    })
}

/// What queries or batch runs compute in: memory of their own, a place to spill to, and the store.
pub(super) fn engine_runtime(
    data_dir: &DataDir,
    pool: Arc<dyn MemoryPool>,
    store: &Arc<dyn ObjectStore>,
) -> Result<Arc<RuntimeEnv>, NodeError> {
    let spill = DiskManagerBuilder::default()
        .with_mode(DiskManagerMode::Directories(vec![data_dir.spill()]));
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(pool)
        .with_disk_manager_builder(spill)
        .build_arc()?;
    register_store(&runtime, Arc::clone(store));
    spill::keep_within(&runtime, data_dir.spill());
    Ok(runtime)
}

pub(super) fn task_context(runtime: Arc<RuntimeEnv>, partitions: usize) -> Arc<TaskContext> {
    let config = SessionConfig::new().with_target_partitions(partitions);
    SessionContext::new_with_config_rt(config, runtime).task_ctx()
}
