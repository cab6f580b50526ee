// SPDX-License-Identifier: Apache-2.0
//! Streams batches into one immutable, checksummed Parquet file.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use bytes::Bytes;
use datafusion::error::Result;
use datafusion::scalar::ScalarValue;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt, pin_mut};
use object_store::ObjectStore;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use parking_lot::Mutex;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::arrow::async_writer::AsyncFileWriter;
use parquet::arrow::{ArrowSchemaConverter, AsyncArrowWriter};
use parquet::basic::{Compression, Encoding, Type as PhysicalType, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::{
    DEFAULT_DATA_PAGE_ROW_COUNT_LIMIT, EnabledStatistics, WriterProperties,
};
use parquet::schema::types::ColumnPath;

use super::decoded::decoded_bytes;
use super::sums::{SUMMED, Summing};

/// Rows encoded between two chances for other tasks to run: about a millisecond's worth.
const ROWS_PER_POLL: usize = 8 * 1024;

/// Wide rows end a row group sooner: writing one takes its memory, and reading too, however slowly it is read.
const ROW_GROUP_MAX_BYTES: usize = 8 * 1024 * 1024;

/// Bytes on their way to the store: a part that fills up, and those that are sent. Parts are made one after the other,
/// so more of them in flight would mostly be more memory.
const PART_BYTES: usize = 10 * 1024 * 1024;
const PARTS_IN_FLIGHT: usize = 2;

/// How a file is laid out.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// Rows of a row group, the unit of pruning and of parallel reading. A group is encoded in memory
    /// before it is written.
    pub row_group_rows: usize,
    /// Most rows of a page, the least that a lookup decodes: fewer cost a little of each page's compression.
    pub page_rows: usize,
    /// Integer columns that mostly grow (offsets): delta-encoded, they take next to nothing.
    pub delta_encoded: Vec<String>,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            row_group_rows: 256 * 1024,
            page_rows: DEFAULT_DATA_PAGE_ROW_COUNT_LIMIT,
            delta_encoded: Vec::new(),
        }
    }
}

/// What is known of a top-level column of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnStats {
    /// No value is smaller. Absent for nested and DOUBLE columns and where every value is null. A long
    /// text's bound is cut short.
    pub min: Option<ScalarValue>,
    /// No value is larger; else as `min`.
    pub max: Option<ScalarValue>,
    /// How many values are null, exactly.
    pub null_count: u64,
}

/// One row group of a written file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenRowGroup {
    /// Its rows.
    pub rows: u64,
    /// Its size in the file.
    pub bytes: u64,
}

/// A finished file.
#[derive(Debug, Clone, PartialEq)]
pub struct WrittenFile {
    /// Path from the store's root.
    pub path: Path,
    /// Rows in the file.
    pub rows: u64,
    /// Size of the file.
    pub bytes: u64,
    /// About what its rows take in memory.
    pub decoded_bytes: u64,
    /// BLAKE3 of the whole file, hex.
    pub checksum: String,
    /// By top-level column of the schema.
    pub columns: Vec<ColumnStats>,
    /// Its row groups, in order.
    pub row_groups: Vec<WrittenRowGroup>,
}

/// Writes one file. Nothing is visible under its path before [`ParquetFileWriter::finish`] returns.
pub struct ParquetFileWriter {
    writer: AsyncArrowWriter<HashingWriter>,
    summing: Arc<Mutex<Summing>>,
    path: Path,
    schema: SchemaRef,
    rows: u64,
    decoded_bytes: usize,
    null_counts: Vec<u64>,
}

impl fmt::Debug for ParquetFileWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParquetFileWriter")
            .field("path", &self.path)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

impl ParquetFileWriter {
    /// Starts the file at `path`, which no other writer may use.
    ///
    /// # Errors
    /// When the schema cannot be stored as Parquet.
    pub fn create(
        store: Arc<dyn ObjectStore>,
        path: Path,
        schema: SchemaRef,
        options: &WriterOptions,
    ) -> Result<Self> {
        let summing = Arc::new(Mutex::new(Summing::default()));
        let sink = HashingWriter {
            inner: BufWriter::with_capacity(store, path.clone(), PART_BYTES)
                .with_max_concurrency(PARTS_IN_FLIGHT),
            hasher: blake3::Hasher::new(),
            bytes: 0,
            summing: Arc::clone(&summing),
        };
        let properties = properties(&schema, options)?;
        let writer = AsyncArrowWriter::try_new(sink, Arc::clone(&schema), Some(properties))?;
        Ok(Self {
            writer,
            summing,
            path,
            rows: 0,
            decoded_bytes: 0,
            null_counts: vec![0; schema.fields().len()],
            schema,
        })
    }

    /// Appends `batch`, whose schema is the file's. Other tasks get to run in between.
    ///
    /// # Errors
    /// When the batch does not fit or the store fails; then the file is lost: [`Self::abort`] it.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut done = 0;
        while done < batch.num_rows() {
            let rows = ROWS_PER_POLL.min(batch.num_rows() - done);
            self.writer.write(&batch.slice(done, rows)).await?;
            done += rows;
            tokio::task::yield_now().await;
        }
        for (count, column) in self.null_counts.iter_mut().zip(batch.columns()) {
            *count += column.logical_null_count() as u64;
        }
        self.rows += batch.num_rows() as u64;
        self.decoded_bytes += decoded_bytes(batch);
        Ok(())
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// About how large the file is so far, what is still in memory included.
    pub fn bytes(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    /// Memory that it holds: the row group that is being encoded (8 MiB of it end one), and what is on its way to
    /// the store (at most 30 MiB).
    pub fn memory_bytes(&self) -> usize {
        let on_its_way = (PARTS_IN_FLIGHT + 1) * PART_BYTES;
        self.writer.memory_size() + self.writer.bytes_written().min(on_its_way)
    }

    /// Ends the file; when this returns it is durable under its path.
    ///
    /// # Errors
    /// When the store fails. Whether the file is there is unknown then; nothing refers to it.
    pub async fn finish(mut self) -> Result<WrittenFile> {
        // All data first: its checksums go into the footer.
        self.writer.flush().await?;
        let sums = self.summing.lock().close();
        self.writer.append_key_value_metadata(sums);
        let metadata = self.writer.finish().await?;
        let columns = column_stats(&metadata, &self.schema, &self.null_counts)?;
        let sink = self.writer.into_inner();
        let row_groups = metadata
            .row_groups()
            .iter()
            .map(|group| WrittenRowGroup {
                rows: group.num_rows().unsigned_abs(),
                bytes: group.compressed_size().unsigned_abs(),
            })
            .collect();
        Ok(WrittenFile {
            path: self.path,
            rows: self.rows,
            bytes: sink.bytes,
            decoded_bytes: self.decoded_bytes as u64,
            checksum: sink.hasher.finalize().to_hex().to_string(),
            columns,
            row_groups,
        })
    }

    /// Gives the file up and frees what the store holds of it.
    ///
    /// # Errors
    /// When the store fails; the remains are then the store's to clean up.
    pub async fn abort(self) -> Result<()> {
        self.writer.into_inner().inner.abort().await?;
        Ok(())
    }
}

/// Writes all batches of `batches` into one file.
///
/// # Errors
/// The stream's, or when a batch does not fit or the store fails. Nothing is left behind then.
pub async fn write_parquet<S>(
    store: Arc<dyn ObjectStore>,
    path: Path,
    schema: SchemaRef,
    options: &WriterOptions,
    batches: S,
) -> Result<WrittenFile>
where
    S: Stream<Item = Result<RecordBatch>> + Send,
{
    let mut writer = ParquetFileWriter::create(store, path, schema, options)?;
    pin_mut!(batches);
    while let Some(batch) = batches.next().await {
        let written = match batch {
            Ok(batch) => writer.write(&batch).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            // The first error is the one to report.
            let _ = writer.abort().await;
            return Err(error);
        }
    }
    writer.finish().await
}

fn properties(schema: &SchemaRef, options: &WriterOptions) -> Result<WriterProperties> {
    let mut properties = WriterProperties::builder()
        .set_created_by(format!("dovetail {} {SUMMED}", env!("CARGO_PKG_VERSION")))
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_max_row_group_row_count(Some(options.row_group_rows))
        .set_data_page_row_count_limit(options.page_rows)
        .set_max_row_group_bytes(Some(ROW_GROUP_MAX_BYTES))
        .set_statistics_enabled(EnabledStatistics::Page);
    for name in &options.delta_encoded {
        let column = ColumnPath::from(vec![name.clone()]);
        properties = properties
            .set_column_dictionary_enabled(column.clone(), false)
            .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED);
    }
    let leaves = ArrowSchemaConverter::new().convert(schema)?;
    for leaf in leaves.columns() {
        // Wide decimals, as totals are: this version of the format has no dictionary for them, so each value is there with
        // all its zeros, and to decompress those takes Zstandard longer than all else that reading such a file takes.
        if leaf.physical_type() == PhysicalType::FIXED_LEN_BYTE_ARRAY {
            properties =
                properties.set_column_compression(leaf.path().clone(), Compression::LZ4_RAW);
        }
        // Parquet's minimum and maximum leave NaN out, but `NaN > 1` holds in SQL: pruning by them would lose rows.
        if matches!(
            leaf.physical_type(),
            PhysicalType::DOUBLE | PhysicalType::FLOAT
        ) {
            properties = properties
                .set_column_statistics_enabled(leaf.path().clone(), EnabledStatistics::None);
        }
    }
    Ok(properties.build())
}

fn column_stats(
    metadata: &ParquetMetaData,
    schema: &SchemaRef,
    null_counts: &[u64],
) -> Result<Vec<ColumnStats>> {
    let parquet_schema = metadata.file_metadata().schema_descr();
    let groups = metadata.row_groups();
    let mut stats = Vec::with_capacity(null_counts.len());
    for (field, null_count) in schema.fields().iter().zip(null_counts) {
        let (mut min, mut max) = (None, None);
        if has_bounds(field.data_type()) {
            let converter = StatisticsConverter::try_new(field.name(), schema, parquet_schema)?;
            min = bound(&converter.row_group_mins(groups)?, true)?;
            max = bound(&converter.row_group_maxes(groups)?, false)?;
        }
        stats.push(ColumnStats {
            min,
            max,
            null_count: *null_count,
        });
    }
    Ok(stats)
}

fn has_bounds(data_type: &DataType) -> bool {
    !data_type.is_nested() && !data_type.is_floating()
}

/// The smallest (or largest) of the row groups' bounds; a group of nulls has none.
fn bound(of_groups: &dyn Array, smallest: bool) -> Result<Option<ScalarValue>> {
    let mut best: Option<ScalarValue> = None;
    for group in 0..of_groups.len() {
        if of_groups.is_null(group) {
            continue;
        }
        let value = ScalarValue::try_from_array(of_groups, group)?;
        let better = match &best {
            None => true,
            Some(best) => value.try_cmp(best)?.is_lt() == smallest,
        };
        if better {
            best = Some(value);
        }
    }
    Ok(best)
}

/// Passes bytes on to the store, counting and hashing them.
#[derive(Debug)]
struct HashingWriter {
    inner: BufWriter,
    hasher: blake3::Hasher,
    bytes: u64,
    /// Locked for moments, by one.
    summing: Arc<Mutex<Summing>>,
}

impl AsyncFileWriter for HashingWriter {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), ParquetError>> {
        Box::pin(async move {
            let bytes = self.summing.lock().pass(bytes);
            self.hasher.update(&bytes);
            self.bytes += bytes.len() as u64;
            self.inner.put(bytes).await.map_err(external)
        })
    }

    fn complete(&mut self) -> BoxFuture<'_, Result<(), ParquetError>> {
        Box::pin(async move {
            tokio::io::AsyncWriteExt::shutdown(&mut self.inner)
                .await
                .map_err(external)
        })
    }
}

fn external(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ParquetError {
    ParquetError::External(error.into())
}
