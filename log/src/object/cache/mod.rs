// SPDX-License-Identifier: Apache-2.0
//! Parts of a remote store's immutable files, kept in memory and on the local disk.
//!
//! ```text
//! a range ─► blocks of 1 MiB ─► memory ─► disk ─► store      one fetch of a block at a time, whoever asks
//!                                 ▲         │       │
//!                                 └─────────┴───────┘        and what was fetched goes to the disk
//! ```
//! Purpose: a key lookup over a remote generation costs what one over a local file does. Blocks of one size, not the
//! ranges that were asked: a footer, its page index and the pages that it leads to overlap and differ from query to
//! query, and a block is fetched once for all of them. Collaborators: [`Disk`] holds the blocks that outlive the
//! process; queries read through [`BlockCache::filling`], everything else through [`BlockCache::sparing`].
//! Invariants: what is answered is what the store holds, or an error; only files that are never written over are
//! kept (Parquet files that are named by chance, never the catalog or a Delta log), so nothing grows stale; memory and
//! disk stay within their bounds. Non-goals: caching writes, listings, or that something is not there.

mod disk;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use moka::future::Cache;
use moka::notification::RemovalCause;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, RenameOptions, Result,
};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use disk::Disk;

/// Bytes of a block. A fetch of so many takes hardly longer from a remote store than one of a page; checking so many
/// from the disk takes a fraction of a millisecond.
const BLOCK: u64 = 1024 * 1024;
/// Blocks of one request that are fetched at a time.
const FETCHES: usize = 8;
/// Blocks that may wait for the disk; whoever fetches more waits with them.
const WRITES: usize = 16;

/// Where a cache lives and how large it may get.
#[derive(Debug, Clone)]
pub struct CacheConfig {
    /// A directory of its own, made if it is not there. One process at a time.
    pub directory: PathBuf,
    /// Which store it is of: entries of another are not found.
    pub store: String,
    /// Bytes on disk; 0 keeps nothing there.
    pub disk_bytes: u64,
    /// Bytes in memory; 0 keeps nothing there.
    pub memory_bytes: u64,
}

/// What a cache did since the start of the process, and what it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Blocks found in memory.
    pub memory_hits: u64,
    /// Blocks found on disk.
    pub disk_hits: u64,
    /// Blocks fetched from the store.
    pub misses: u64,
    /// Blocks that memory gave up for want of room.
    pub memory_evictions: u64,
    /// Blocks that the disk gave up for want of room.
    pub disk_evictions: u64,
    /// Blocks on disk that were not as they had been written.
    pub corrupt: u64,
    /// Blocks that could not be written to the disk.
    pub write_failures: u64,
    /// Bytes in memory.
    pub memory_bytes: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    memory_hits: AtomicU64,
    disk_hits: AtomicU64,
    misses: AtomicU64,
    memory_evictions: Arc<AtomicU64>,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Which part of which object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct BlockId {
    path: Path,
    index: u64,
}

/// A part of an object: all of [`BLOCK`] bytes but the last.
#[derive(Debug, Clone)]
struct Block {
    bytes: Bytes,
    object: Arc<ObjectMeta>,
}

/// The cache of one store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BlockCache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    memory: Cache<BlockId, Block>,
    disk: Arc<Disk>,
    /// Where files are read and written.
    io: Handle,
    writes: Arc<Semaphore>,
    counters: Counters,
}

impl BlockCache {
    /// Opens the cache with what its directory holds from before. Its files are read and written on `io`.
    ///
    /// # Errors
    /// When the directory cannot be made or listed.
    pub fn open(config: CacheConfig, io: &Handle) -> io::Result<Self> {
        let counters = Counters::default();
        let evictions = Arc::clone(&counters.memory_evictions);
        let memory = Cache::builder()
            .max_capacity(config.memory_bytes)
            .weigher(|id: &BlockId, block: &Block| {
                let held = block.bytes.len() + id.path.as_ref().len() + size_of::<ObjectMeta>();
                u32::try_from(held).unwrap_or(u32::MAX)
            })
            .eviction_listener(move |_, _, cause| {
                if cause == RemovalCause::Size {
                    count(&evictions);
                }
            })
            .build();
        Ok(Self(Arc::new(Inner {
            memory,
            disk: Arc::new(Disk::open(config)?),
            io: io.clone(),
            writes: Arc::new(Semaphore::new(WRITES)),
            counters,
        })))
    }

    /// `store` with what is read of it kept.
    pub fn filling(&self, store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        self.over(store, true)
    }

    /// `store` with what is kept of it used, for readers that read much and once: a batch run would drive out
    /// what queries come back to.
    pub fn sparing(&self, store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        self.over(store, false)
    }

    fn over(&self, store: Arc<dyn ObjectStore>, fills: bool) -> Arc<dyn ObjectStore> {
        Arc::new(Cached {
            cache: self.clone(),
            store,
            fills,
        })
    }

    /// The counts now.
    pub fn counts(&self) -> CacheCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (inner, counters) = (&self.0, &self.0.counters);
        CacheCounts {
            memory_hits: get(&counters.memory_hits),
            disk_hits: get(&counters.disk_hits),
            misses: get(&counters.misses),
            memory_evictions: get(&counters.memory_evictions),
            memory_bytes: inner.memory.weighted_size(),
            ..inner.disk.counts()
        }
    }

    /// A block, from where it is found first.
    async fn block(&self, store: &Arc<dyn ObjectStore>, id: BlockId) -> Result<Block> {
        if let Some(block) = self.0.memory.get(&id).await {
            count(&self.0.counters.memory_hits);
            return Ok(block);
        }
        let found = self.0.memory.try_get_with_by_ref(&id, async {
            match self.on_disk(&id).await {
                Some(block) => Ok(block),
                None => self.fetch(store, &id).await,
            }
        });
        found.await.map_err(|error| shared(&error))
    }

    async fn on_disk(&self, id: &BlockId) -> Option<Block> {
        if !self.0.disk.contains(id) {
            return None;
        }
        let (disk, wanted) = (Arc::clone(&self.0.disk), id.clone());
        let reading = self.0.io.spawn_blocking(move || disk.read(&wanted));
        // A runtime that ends while it is asked has nothing to say.
        let block = reading.await.ok().flatten()?;
        count(&self.0.counters.disk_hits);
        Some(block)
    }

    async fn fetch(&self, store: &Arc<dyn ObjectStore>, id: &BlockId) -> Result<Block> {
        let start = id.index * BLOCK;
        let range = GetRange::Bounded(start..start + BLOCK);
        let got = store
            .get_opts(&id.path, GetOptions::new().with_range(Some(range)))
            .await?;
        count(&self.0.counters.misses);
        let object = Arc::new(got.meta.clone());
        let bytes = got.bytes().await?;
        let expected = BLOCK.min(object.size - start.min(object.size));
        if bytes.len() as u64 != expected {
            return Err(generic(format!(
                "`{}` has {} bytes, of which {} from {start} on came instead of {expected}",
                id.path,
                object.size,
                bytes.len()
            )));
        }
        let block = Block { bytes, object };
        self.keep(id.clone(), block.clone()).await;
        Ok(block)
    }

    /// Writes a block to the disk beside whoever waits for it.
    async fn keep(&self, id: BlockId, block: Block) {
        if !self.0.disk.is_used() {
            return;
        }
        let writes = Arc::clone(&self.0.writes);
        let turn = writes.acquire_owned().await;
        let turn = turn.expect("it is never closed");
        let disk = Arc::clone(&self.0.disk);
        self.0.io.spawn_blocking(move || {
            disk.write(&id, &block);
            drop(turn);
        });
    }

    fn contains(&self, id: &BlockId) -> bool {
        self.0.memory.contains_key(id) || self.0.disk.contains(id)
    }

    /// Forgets what is kept of an object.
    async fn forget(&self, path: &Path) {
        let kept: Vec<Arc<BlockId>> = self
            .0
            .memory
            .iter()
            .filter_map(|(id, _)| (id.path == *path).then_some(id))
            .collect();
        for id in kept {
            self.0.memory.invalidate(id.as_ref()).await;
        }
        let (disk, path) = (Arc::clone(&self.0.disk), path.clone());
        let forgetting = self.0.io.spawn_blocking(move || disk.forget(&path));
        // Where the runtime ends, the next start finds what stayed, and room for it runs out one day.
        let _ = forgetting.await;
    }
}

/// An error that several may have waited for.
fn shared(error: &Arc<Error>) -> Error {
    let source = Box::new(Shared(Arc::clone(error)));
    match error.as_ref() {
        Error::NotFound { path, .. } => Error::NotFound {
            path: path.clone(),
            source,
        },
        _ => Error::Generic {
            store: "cached",
            source,
        },
    }
}

#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Shared(Arc<Error>);

fn generic(reason: String) -> Error {
    Error::Generic {
        store: "cached",
        source: reason.into(),
    }
}

/// A store and its cache.
#[derive(Debug)]
struct Cached {
    cache: BlockCache,
    store: Arc<dyn ObjectStore>,
    fills: bool,
}

impl fmt::Display for Cached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cached {}", self.store)
    }
}

/// Whether what lies at `path` is never written over: files of tables and generations, which are named by chance.
fn is_immutable(path: &Path) -> bool {
    let first = path.parts().next();
    let of_tables = first.is_some_and(|part| ["streams", "views"].contains(&part.as_ref()));
    let of_a_log = path.parts().any(|part| part.as_ref() == "_delta_log");
    of_tables && !of_a_log && path.extension() == Some("parquet")
}

/// The range that `options` ask for, if they ask for no more than that. Our readers know how long files are, and ask
/// for what lies between two offsets.
fn plain_range(options: &GetOptions) -> Option<Range<u64>> {
    let Some(GetRange::Bounded(range)) = &options.range else {
        return None;
    };
    let plain = GetOptions::new().with_range(options.range.clone());
    let is_plain = options.if_match == plain.if_match
        && options.if_none_match == plain.if_none_match
        && options.if_modified_since == plain.if_modified_since
        && options.if_unmodified_since == plain.if_unmodified_since
        && options.version == plain.version
        && !options.head;
    (is_plain && range.start < range.end).then(|| range.clone())
}

impl Cached {
    /// Whether `range` of the object at `path` is to come through the cache.
    fn takes(&self, path: &Path, range: &Range<u64>) -> bool {
        is_immutable(path) && (self.fills || blocks(path, range).all(|id| self.cache.contains(&id)))
    }

    /// The bytes of `range` as far as the object goes, and the object.
    async fn read(&self, path: &Path, range: &Range<u64>) -> Result<(Bytes, Arc<ObjectMeta>)> {
        let mut ids = blocks(path, range);
        let first = ids.next().ok_or_else(|| generic("an empty range".into()))?;
        let start = first.index * BLOCK;
        let first = self.cache.block(&self.store, first).await?;
        let object = Arc::clone(&first.object);
        let end = range.end.min(object.size);
        if range.start >= end {
            return Err(generic(format!(
                "bytes from {} on are asked of `{path}`, which has {}",
                range.start, object.size
            )));
        }
        let place = |offset: u64| usize::try_from(offset).expect("a block fits into memory");
        if end <= start + BLOCK {
            let within = place(range.start - start)..place(end - start);
            return Ok((first.bytes.slice(within), object));
        }
        let mut joined = BytesMut::with_capacity(place(end - range.start));
        joined.extend_from_slice(&first.bytes[place(range.start - start)..]);
        let rest = ids.take_while(|id| id.index * BLOCK < end);
        let mut rest = stream::iter(rest)
            .map(|id| self.cache.block(&self.store, id))
            .buffered(FETCHES);
        while let Some(block) = rest.try_next().await? {
            if (block.object.size, &block.object.e_tag) != (object.size, &object.e_tag) {
                self.cache.forget(path).await;
                return Err(generic(format!(
                    "`{path}` was written over, which nothing here does"
                )));
            }
            let left = place(end - range.start) - joined.len();
            joined.extend_from_slice(&block.bytes[..left.min(block.bytes.len())]);
        }
        Ok((joined.freeze(), object))
    }
}

/// The blocks that `range` of the object at `path` lies in.
fn blocks(path: &Path, range: &Range<u64>) -> impl Iterator<Item = BlockId> + use<> {
    let path = path.clone();
    (range.start / BLOCK..range.end.div_ceil(BLOCK)).map(move |index| BlockId {
        path: path.clone(),
        index,
    })
}

#[async_trait]
impl ObjectStore for Cached {
    async fn put_opts(
        &self,
        path: &Path,
        data: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.store.put_opts(path, data, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let range = plain_range(&options).filter(|range| self.takes(path, range));
        let Some(range) = range else {
            return self.store.get_opts(path, options).await;
        };
        let (bytes, object) = self.read(path, &range).await?;
        Ok(GetResult {
            range: range.start..range.start + bytes.len() as u64,
            payload: GetResultPayload::Stream(stream::iter([Ok(bytes)]).boxed()),
            meta: ObjectMeta::clone(&object),
            attributes: Default::default(),
        })
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if !ranges.iter().all(|range| self.takes(path, range)) {
            return self.store.get_ranges(path, ranges).await;
        }
        stream::iter(ranges.to_vec())
            .map(|range| async move { Ok(self.read(path, &range).await?.0) })
            .buffered(FETCHES)
            .try_collect()
            .await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let cache = self.cache.clone();
        let deleted = self.store.delete_stream(paths);
        deleted
            .and_then(move |path| {
                let cache = cache.clone();
                async move {
                    cache.forget(&path).await;
                    Ok(path)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.store.rename_opts(from, to, options).await
    }
}
