// SPDX-License-Identifier: Apache-2.0
//! Scans that ask their caller for room before they fetch from files.
//!
//! A scan fetches the columns of a whole row group before it decodes the first batch, and holds them until it has
//! decoded the last one: behind a reader who is slow, for as long as that takes. One at a time: the next one is fetched
//! when that is gone.

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
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;

/// Has room for bytes that are to be fetched.
pub trait Holder: Debug + Send + Sync {
    /// Waits for room for so many more, which is taken until the result is dropped.
    ///
    /// # Errors
    /// Where there is none; the scan fails with it.
    fn hold(&self, bytes: usize) -> BoxFuture<'_, Result<Note>>;
}

/// Of room that is taken.
pub type Note = Box<dyn Any + Send + Sync>;

/// The same scan, if `leaf` is one of Parquet files, which asks `holder` before it fetches. `task` executes it.
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
        async move {
            let note = room(&self.holder, std::slice::from_ref(&range)).await?;
            Ok(held(self.reader.get_bytes(range).await?, &note))
        }
        .boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        async move {
            let note = room(&self.holder, &ranges).await?;
            let all = self.reader.get_byte_ranges(ranges).await?;
            Ok(all.into_iter().map(|bytes| held(bytes, &note)).collect())
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        self.reader.get_metadata(options)
    }
}

async fn room(
    holder: &Arc<dyn Holder>,
    ranges: &[Range<u64>],
) -> parquet::errors::Result<Arc<Note>> {
    let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    holder.hold(bytes).await.map(Arc::new).map_err(external)
}

/// Bytes, and the note of them for as long as somebody has a part of them.
struct Held {
    bytes: Bytes,
    _note: Arc<Note>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn held(bytes: Bytes, note: &Arc<Note>) -> Bytes {
    let _note = Arc::clone(note);
    Bytes::from_owner(Held { bytes, _note })
}

fn external(error: DataFusionError) -> ParquetError {
    ParquetError::External(Box::new(error))
}
