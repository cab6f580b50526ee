// SPDX-License-Identifier: Apache-2.0
//! One group of a generation, by its key: what a key lookup reads of files.
//!
//! ```text
//! key ─► manifest: which file ─► footer and first keys: which block ─► binary search ─► row
//!           in memory                kept, once read                     kept, once decoded
//! ```
//! Purpose: a lookup decodes nothing that an earlier one has, and else one block: the rows of a page. Collaborators:
//! [`PagedFile`] reads, `dovetail-view` encodes keys; the serving layer merges the row with those of runs and finishes.
//! Invariants: what is kept never grows stale, since files are immutable and named by chance; it is bounded, and
//! counts as memory of queries. A file whose keys are not where its manifest or its order says is an error.
//! Non-goals: ranges of keys.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::row::Rows;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};
use dovetail_log::parquet_files::PagedFile;
use dovetail_view::{GroupKey, View, ViewError, rows_while};
use moka::future::Cache;
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::runtime::Handle;

use crate::Generation;
use crate::generation::KeyRange;

/// What may be kept of the memory of queries: a share of it, or so many bytes where it has no limit.
const SHARE_OF_MEMORY: usize = 8;
const UNLIMITED_BYTES: usize = 128 * 1024 * 1024;
/// What may be kept of that for footers and first keys; the rest is for blocks.
const SHARE_OF_FILES: usize = 8;

/// Finds groups in generations. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GroupFinder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn ObjectStore>,
    /// Where files are read and decoded.
    runtime: Handle,
    pool: Arc<dyn MemoryPool>,
    files: Cache<Path, Arc<IndexedFile>>,
    blocks: Cache<BlockId, Arc<Block>>,
    next_file: AtomicU64,
}

/// The file as it was indexed, and which of its blocks.
type BlockId = (u64, usize);

/// Why there is no answer from here. The planned read says it better.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct NotFindable(Arc<DataFusionError>);

/// A file with what tells where a key is.
#[derive(Debug)]
struct IndexedFile {
    /// No other one in this process has it.
    id: u64,
    file: PagedFile,
    /// Each block's rows and its first key; at least one.
    blocks: Vec<(Range<usize>, Box<[u8]>)>,
    held: Option<MemoryReservation>,
    bytes: usize,
}

/// Decoded rows of a file, in key order.
#[derive(Debug)]
struct Block {
    rows: RecordBatch,
    keys: Rows,
    held: Option<MemoryReservation>,
    bytes: usize,
}

/// What may be kept.
trait Kept: Sized + Send + Sync + 'static {
    fn bytes(&self) -> usize;
    fn hold(&mut self, memory: MemoryReservation);
}

/// Why something was not kept.
enum Unkept<T> {
    /// Queries need the memory.
    NoRoom(Arc<T>),
    Failed(Arc<DataFusionError>),
}

impl GroupFinder {
    /// A finder in the generations of `store`, which reads on `runtime` and keeps what it read on the account of
    /// `pool`, up to an eighth of it.
    pub fn new(store: Arc<dyn ObjectStore>, runtime: Handle, pool: Arc<dyn MemoryPool>) -> Self {
        let bytes = match pool.memory_limit() {
            MemoryLimit::Finite(bytes) => bytes / SHARE_OF_MEMORY,
            _ => UNLIMITED_BYTES,
        };
        let of_files = bytes / SHARE_OF_FILES;
        Self(Arc::new(Inner {
            store,
            runtime,
            pool,
            files: cache(of_files),
            blocks: cache(bytes - of_files),
            next_file: AtomicU64::new(0),
        }))
    }

    /// The row of a group in the files of `generation`, in its view's file schema; none where it is not there.
    ///
    /// # Errors
    /// When a file cannot be read, or is not what was written.
    pub async fn find(
        &self,
        generation: &Generation,
        key: &GroupKey,
    ) -> std::result::Result<Option<RecordBatch>, NotFindable> {
        let range = generation.file_of(key.encoded());
        let Some(range) = range.map_err(|error| NotFindable(Arc::new(error)))? else {
            return Ok(None);
        };
        let file = self.file(generation, range).await?;
        let starts = &file.blocks;
        let behind = starts.partition_point(|(_, first)| **first <= *key.encoded());
        // A key before the first one of its file was told by the manifest.
        let Some(index) = behind.checked_sub(1) else {
            return Ok(None);
        };
        let block = self.block(generation.view(), &file, index).await?;
        let found = block.row_of(key.encoded());
        Ok(found.map(|row| block.rows.slice(row, 1)))
    }

    async fn file(
        &self,
        generation: &Generation,
        range: &KeyRange,
    ) -> std::result::Result<Arc<IndexedFile>, NotFindable> {
        if let Some(file) = self.0.files.get(&range.path).await {
            return Ok(file);
        }
        let inner = Arc::clone(&self.0);
        let (view, range) = (Arc::clone(generation.view()), range.clone());
        let path = range.path.clone();
        let loading = async move { IndexedFile::read(&inner, &view, &range).await };
        let kept = self.kept(loading);
        self.0
            .files
            .try_get_with_by_ref(&path, kept)
            .await
            .or_else(given)
    }

    async fn block(
        &self,
        view: &Arc<View>,
        file: &Arc<IndexedFile>,
        index: usize,
    ) -> std::result::Result<Arc<Block>, NotFindable> {
        let id = (file.id, index);
        if let Some(block) = self.0.blocks.get(&id).await {
            return Ok(block);
        }
        let store = Arc::clone(&self.0.store);
        let (view, file) = (Arc::clone(view), Arc::clone(file));
        let loading = async move { Block::read(store, &view, &file, index).await };
        let kept = self.kept(loading);
        self.0
            .blocks
            .try_get_with_by_ref(&id, kept)
            .await
            .or_else(given)
    }

    /// What `loading` gives, on the account of queries.
    async fn kept<T: Kept>(
        &self,
        loading: impl Future<Output = Result<T>> + Send + 'static,
    ) -> std::result::Result<Arc<T>, Unkept<T>> {
        let failed = |error| Unkept::Failed(Arc::new(error));
        // Decoding takes milliseconds, which whoever waits for connections does not have.
        let loaded = self.0.runtime.spawn(loading).await;
        let loaded = loaded.map_err(|error| failed(DataFusionError::External(Box::new(error))))?;
        let mut loaded = loaded.map_err(failed)?;
        let memory = MemoryConsumer::new("GroupFinder").register(&self.0.pool);
        if memory.try_grow(loaded.bytes()).is_err() {
            return Err(Unkept::NoRoom(Arc::new(loaded)));
        }
        loaded.hold(memory);
        Ok(Arc::new(loaded))
    }
}

fn cache<K, T>(bytes: usize) -> Cache<K, Arc<T>>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    T: Kept,
{
    Cache::builder()
        .max_capacity(bytes as u64)
        .weigher(|_, kept: &Arc<T>| u32::try_from(kept.bytes()).unwrap_or(u32::MAX))
        .build()
}

/// What was loaded in vain is good for those who waited for it.
fn given<T>(unkept: Arc<Unkept<T>>) -> std::result::Result<Arc<T>, NotFindable> {
    match unkept.as_ref() {
        Unkept::NoRoom(loaded) => Ok(Arc::clone(loaded)),
        Unkept::Failed(error) => Err(NotFindable(Arc::clone(error))),
    }
}

impl IndexedFile {
    async fn read(inner: &Inner, view: &View, range: &KeyRange) -> Result<Self> {
        let store = || Arc::clone(&inner.store);
        let file = PagedFile::open(store(), range.path.clone(), range.bytes).await?;
        if file.rows() as u64 != range.rows || range.rows == 0 {
            let rows = file.rows();
            return Err(corrupt(&range.path, format!("it has {rows} rows")));
        }
        let names = view.keys().iter().map(|key| key.name.as_str());
        let columns: Option<Vec<usize>> = names.map(|name| file.column(name)).collect();
        let columns = columns.ok_or_else(|| corrupt(&range.path, "it lacks a key".to_owned()))?;
        let keys = file.read(store(), 0..file.rows(), Some(&columns)).await?;
        let key_at = |row: usize| {
            let keys = view.encode_keys(&keys.slice(row, 1)).map_err(external)?;
            Ok::<_, DataFusionError>(Box::from(keys.row(0).data()))
        };
        let blocks = file.page_rows().into_iter().filter(|rows| !rows.is_empty());
        let blocks = blocks.map(|rows| Ok((rows.clone(), key_at(rows.start)?)));
        let blocks = blocks.collect::<Result<Vec<_>>>()?;
        let ends = (&blocks[0].1, &key_at(file.rows() - 1)?);
        if ends != (&range.first, &range.last) {
            return Err(corrupt(&range.path, "its ends are others".to_owned()));
        }
        if !blocks.is_sorted_by(|(_, one), (_, next)| one < next) {
            return Err(corrupt(&range.path, "its keys are not in order".to_owned()));
        }
        let of_blocks = blocks
            .iter()
            .map(|(rows, key)| size_of_val(rows) + key.len());
        Ok(Self {
            id: inner.next_file.fetch_add(1, Ordering::Relaxed),
            bytes: file.memory_bytes() + of_blocks.sum::<usize>() + size_of::<Self>(),
            file,
            blocks,
            held: None,
        })
    }
}

impl Block {
    async fn read(
        store: Arc<dyn ObjectStore>,
        view: &View,
        file: &IndexedFile,
        index: usize,
    ) -> Result<Self> {
        let (range, first) = &file.blocks[index];
        let read = file.file.read(store, range.clone(), None).await?;
        let schema = view.file_schema();
        let columns = schema.fields().iter().map(|field| {
            let column = read.column_by_name(field.name()).cloned();
            column.ok_or_else(|| corrupt(file.file.path(), format!("it lacks `{}`", field.name())))
        });
        // A column of another type, or one that lacks values, is refused here.
        let rows = RecordBatch::try_new(Arc::clone(&schema), columns.collect::<Result<_>>()?)?;
        let keys = view.encode_keys(&rows).map_err(external)?;
        let in_order = (1..keys.num_rows()).all(|row| keys.row(row - 1) < keys.row(row));
        if !in_order || keys.row(0).data() != &**first {
            let why = format!("the keys of rows {range:?} are not in order");
            return Err(corrupt(file.file.path(), why));
        }
        Ok(Self {
            bytes: rows.get_array_memory_size() + keys.size(),
            rows,
            keys,
            held: None,
        })
    }

    fn row_of(&self, key: &[u8]) -> Option<usize> {
        let at = rows_while(&self.keys, |before| before < key);
        (at < self.keys.num_rows() && self.keys.row(at).data() == key).then_some(at)
    }
}

impl Kept for IndexedFile {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn hold(&mut self, memory: MemoryReservation) {
        self.held = Some(memory);
    }
}

impl Kept for Block {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn hold(&mut self, memory: MemoryReservation) {
        self.held = Some(memory);
    }
}

fn corrupt(path: &Path, why: String) -> DataFusionError {
    DataFusionError::Execution(format!("`{path}` is not what its manifest says: {why}"))
}

fn external(error: ViewError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

#[cfg(test)]
mod tests;
