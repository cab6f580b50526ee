// SPDX-License-Identifier: Apache-2.0
//! Parquet files on the object store: how every layer writes and reads them.
//!
//! Purpose: one way to stream batches into a checksummed file ([`ParquetFileWriter`]), one way to plan a
//! scan over files ([`parquet_scan`], for queries [`accounted()`]), one way to read a few rows ([`PagedFile`]), and the one URL under which a DataFusion runtime finds the store
//! ([`store_url`], [`register_store`]). Collaborators: the raw log's segments and the generations' files.
//! Invariants: files are immutable once finished; a missing file fails a scan, it never shrinks it; statistics
//! never prune a row that a predicate would keep (so DOUBLE columns carry none: their NaNs escape minimum and
//! maximum); what is read through a registered store is what was written, or an error ([`Damaged`]). Non-goals: which files make up a table, and retention.

mod accounted;
mod checked;
mod decoded;
mod dictionaries;
mod paged;
mod scan;
mod sums;
mod writer;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use object_store::ObjectStore;

pub use accounted::{Holder, Note, accounted};
pub use checked::{Damaged, is_damage};
pub use dictionaries::Dictionaries;
pub use paged::PagedFile;
pub use scan::{FileToScan, ParquetScan, RowGroupSelection, parquet_scan};
pub use writer::{
    ColumnStats, ParquetFileWriter, WriterOptions, WrittenFile, WrittenRowGroup, write_parquet,
};

/// The URL under which every scan of ours looks for its store: `dovetail://store`. File paths are relative
/// to the store's root.
pub fn store_url() -> ObjectStoreUrl {
    ObjectStoreUrl::parse("dovetail://store").expect("a constant URL without a path")
}

/// Makes `store` the one that scans executed in `runtime` read from, and checks what they read.
pub fn register_store(runtime: &RuntimeEnv, store: Arc<dyn ObjectStore>) {
    let checked = Arc::new(checked::Checked::over(store));
    runtime.register_object_store(store_url().as_ref(), checked);
}
