// SPDX-License-Identifier: Apache-2.0
//! A Parquet file of ours that is read here and there: its footer once, then a few rows at a time.
//!
//! Purpose: key lookups. A read fetches and decodes only the pages that its rows lie in, so a place to stop at is
//! where a page ends ([`PagedFile::page_rows`]). Non-goals: keeping what was read, pruning.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use bytes::Bytes;
use datafusion::error::{DataFusionError, Result};
use futures::future::BoxFuture;
use futures::{FutureExt as _, TryFutureExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, RowSelection, RowSelector,
};
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use super::scan::FOOTER_HINT_BYTES;

/// A file whose footer and page index are in memory.
#[derive(Debug, Clone)]
pub struct PagedFile {
    path: Path,
    bytes: u64,
    metadata: ArrowReaderMetadata,
}

impl PagedFile {
    /// Reads the footer and the page index of the file of so many `bytes` at `path`.
    ///
    /// # Errors
    /// When it is not there, or not a Parquet file.
    pub async fn open(store: Arc<dyn ObjectStore>, path: Path, bytes: u64) -> Result<Self> {
        let mut ranges = Ranges {
            store,
            path: path.clone(),
            bytes,
        };
        let options = ArrowReaderOptions::new();
        let metadata = ArrowReaderMetadata::load_async(&mut ranges, options).await?;
        Ok(Self {
            path,
            bytes,
            metadata,
        })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Rows in the file.
    pub fn rows(&self) -> usize {
        let groups = self.metadata.metadata().row_groups().iter();
        groups.map(|group| rows_of(group.num_rows())).sum()
    }

    /// Which top-level column has this name.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.metadata.schema().index_of(name).ok()
    }

    /// Memory of the footer and the page index.
    pub fn memory_bytes(&self) -> usize {
        self.metadata.metadata().memory_size()
    }

    /// The rows of each page of the first leaf column; of each row group, where there is no page index.
    pub fn page_rows(&self) -> Vec<Range<usize>> {
        let metadata = self.metadata.metadata();
        let mut pages = vec![];
        let mut first = 0;
        for (index, group) in metadata.row_groups().iter().enumerate() {
            let end = first + rows_of(group.num_rows());
            let offsets = metadata
                .offset_index()
                .and_then(|groups| groups.get(index)?.first());
            let mut starts: Vec<usize> = match offsets {
                Some(column) => {
                    let pages = column.page_locations().iter();
                    pages.map(|p| first + rows_of(p.first_row_index)).collect()
                }
                None => vec![first],
            };
            starts.push(end);
            pages.extend(starts.windows(2).map(|pair| pair[0]..pair[1]));
            first = end;
        }
        pages
    }

    /// Some rows of the file, of them these top-level columns, in the order of the file; all where none are named.
    ///
    /// # Errors
    /// When the store fails, or the pages are not what they were written as; when there are fewer rows.
    pub async fn read(
        &self,
        store: Arc<dyn ObjectStore>,
        rows: Range<usize>,
        columns: Option<&[usize]>,
    ) -> Result<RecordBatch> {
        let ranges = Ranges {
            store,
            path: self.path.clone(),
            bytes: self.bytes,
        };
        let mut builder =
            ParquetRecordBatchStreamBuilder::new_with_metadata(ranges, self.metadata.clone());
        if let Some(columns) = columns {
            let schema = self.metadata.metadata().file_metadata().schema_descr();
            let mask = ProjectionMask::roots(schema, columns.iter().copied());
            builder = builder.with_projection(mask);
        }
        let (groups, skipped) = self.groups_of(&rows);
        let stream = builder
            .with_row_groups(groups)
            .with_row_selection(RowSelection::from(vec![
                RowSelector::skip(skipped),
                RowSelector::select(rows.len()),
            ]))
            .with_batch_size(rows.len().max(1))
            .build()?;
        let schema = Arc::clone(stream.schema());
        let batches: Vec<RecordBatch> = stream.try_collect().await?;
        let read = concat_batches(&schema, &batches)?;
        if read.num_rows() != rows.len() {
            let (path, read) = (&self.path, read.num_rows());
            return Err(DataFusionError::Execution(format!(
                "{read} of the rows {rows:?} of `{path}` came"
            )));
        }
        Ok(read)
    }

    /// The row groups that `rows` lie in, and how many rows of them are before these.
    fn groups_of(&self, rows: &Range<usize>) -> (Vec<usize>, usize) {
        let mut groups = vec![];
        let (mut first, mut skipped) = (0, 0);
        for (index, group) in self.metadata.metadata().row_groups().iter().enumerate() {
            let end = first + rows_of(group.num_rows());
            if first < rows.end && rows.start < end {
                if groups.is_empty() {
                    skipped = rows.start - first;
                }
                groups.push(index);
            }
            first = end;
        }
        (groups, skipped)
    }
}

/// What a reader of Parquet asks of a file.
struct Ranges {
    store: Arc<dyn ObjectStore>,
    path: Path,
    bytes: u64,
}

impl AsyncFileReader for Ranges {
    fn get_bytes(
        &mut self,
        range: Range<u64>,
    ) -> BoxFuture<'_, std::result::Result<Bytes, ParquetError>> {
        let got = self.store.get_range(&self.path, range);
        got.map_err(ParquetError::from).boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, std::result::Result<Vec<Bytes>, ParquetError>> {
        async move { Ok(self.store.get_ranges(&self.path, &ranges).await?) }.boxed()
    }

    /// The footer, and where pages lie. Their statistics are not needed.
    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, std::result::Result<Arc<ParquetMetaData>, ParquetError>> {
        let bytes = self.bytes;
        let reader = ParquetMetaDataReader::new()
            .with_offset_index_policy(PageIndexPolicy::Optional)
            .with_prefetch_hint(Some(FOOTER_HINT_BYTES));
        let loaded = reader.load_and_finish(self, bytes);
        loaded.map_ok(Arc::new).boxed()
    }
}

/// Counts of rows are signed in the format, and never negative.
fn rows_of(number: i64) -> usize {
    usize::try_from(number).unwrap_or(0)
}
