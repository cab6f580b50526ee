// SPDX-License-Identifier: Apache-2.0
//! Scans whose caller takes note of what they hold of files.
//!
//! A scan fetches the columns of a whole row group before it decodes the first batch, and holds them until it has
//! decoded the last one: behind a reader who is slow, for as long as that takes.

use std::any::Any;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::DefaultParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{
    FileScanConfigBuilder, ParquetFileReaderFactory, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::future::BoxFuture;
use futures::{FutureExt as _, TryFutureExt as _};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::file::metadata::ParquetMetaData;

/// Takes note of bytes that are there.
pub trait Holder: Debug + Send + Sync {
    /// So many more, until the result is dropped.
    fn hold(&self, bytes: usize) -> Box<dyn Any + Send + Sync>;
}

/// The same scan, if `leaf` is one of Parquet files, whose `holder` takes note of what it fetches. `task` executes it.
///
/// # Errors
/// When the task has not the store of the files.
pub fn accounted(
    leaf: Arc<dyn ExecutionPlan>,
    task: &TaskContext,
    holder: &Arc<dyn Holder>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let scan = leaf.downcast_ref::<DataSourceExec>();
    let scan = scan.and_then(|scan| scan.downcast_to_file_source::<ParquetSource>());
    let Some((config, source)) = scan else {
        return Ok(leaf);
    };
    if source.parquet_file_reader_factory().is_some() {
        return Ok(leaf);
    }
    let store = task.runtime_env().object_store(&config.object_store_url)?;
    let readers = Arc::new(Readers {
        readers: DefaultParquetFileReaderFactory::new(store),
        holder: Arc::clone(holder),
    });
    let source = source.clone().with_parquet_file_reader_factory(readers);
    let config = FileScanConfigBuilder::from(config.clone());
    let config = config.with_source(Arc::new(source)).build();
    Ok(DataSourceExec::from_data_source(config))
}

#[derive(Debug)]
struct Readers {
    readers: DefaultParquetFileReaderFactory,
    holder: Arc<dyn Holder>,
}

impl ParquetFileReaderFactory for Readers {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let reader = self
            .readers
            .create_reader(partition, file, metadata_size_hint, metrics)?;
        let holder = Arc::clone(&self.holder);
        Ok(Box::new(Reader { reader, holder }))
    }
}

struct Reader {
    reader: Box<dyn AsyncFileReader + Send>,
    holder: Arc<dyn Holder>,
}

impl AsyncFileReader for Reader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        let holder = &self.holder;
        let fetched = self.reader.get_bytes(range);
        fetched.map_ok(|bytes| held(bytes, holder)).boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        let holder = &self.holder;
        let fetched = self.reader.get_byte_ranges(ranges);
        let all = |all: Vec<Bytes>| all.into_iter().map(|bytes| held(bytes, holder)).collect();
        fetched.map_ok(all).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        self.reader.get_metadata(options)
    }
}

/// Bytes, and the note of them for as long as somebody has a part of them.
struct Held {
    bytes: Bytes,
    _note: Box<dyn Any + Send + Sync>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn held(bytes: Bytes, holder: &Arc<dyn Holder>) -> Bytes {
    let note = holder.hold(bytes.len());
    Bytes::from_owner(Held { bytes, _note: note })
}
