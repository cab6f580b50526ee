// SPDX-License-Identifier: Apache-2.0
//! Reads text columns in dictionary form: as the file holds them, not a copy of the text for each row.
//!
//! A reader takes the Arrow types of a file from the `ARROW:schema` entry of its footer. This one is told of other
//! types than the writer had: the footer is handed on with the entry changed.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::datasource::physical_plan::parquet::DefaultParquetFileReaderFactory;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::{ARROW_SCHEMA_META_KEY, encode_arrow_schema, parquet_to_arrow_schema};
use parquet::errors::ParquetError;
use parquet::file::metadata::{FileMetaData, KeyValue, ParquetMetaData, ParquetMetaDataBuilder};

use super::store_url;

/// Which columns of a scan come in dictionary form, `Dictionary(Int32, Utf8)`.
///
/// For columns of few values. Where a file gave up its dictionary for too many of them, each batch gets one of its own,
/// which costs more than plain texts do.
#[derive(Debug, Clone)]
pub struct Dictionaries {
    columns: Vec<usize>,
    readers: Arc<DefaultParquetFileReaderFactory>,
}

impl Dictionaries {
    /// Of these columns of a scan's `file_schema`, for a scan that `task` executes. Only columns of texts can be read so.
    ///
    /// # Errors
    /// When the task has no store.
    pub fn new(columns: Vec<usize>, task: &TaskContext) -> Result<Self> {
        let store = task.runtime_env().object_store(store_url())?;
        Ok(Self {
            columns,
            readers: Arc::new(DefaultParquetFileReaderFactory::new(store)),
        })
    }

    /// `schema` with dictionaries for its texts among the columns.
    pub(super) fn schema(&self, schema: &Schema) -> SchemaRef {
        let fields = schema.fields().iter().enumerate();
        let fields = fields.map(|(index, field)| match self.columns.contains(&index) {
            true => in_dictionary_form(field),
            false => field.as_ref().clone(),
        });
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// What reads the files of a scan of `schema`.
    pub(super) fn readers(&self, schema: &Schema) -> Arc<dyn ParquetFileReaderFactory> {
        let names = self.columns.iter().map(|c| schema.field(*c).name().clone());
        Arc::new(Readers {
            names: names.collect(),
            readers: Arc::clone(&self.readers),
        })
    }
}

fn in_dictionary_form(field: &Field) -> Field {
    match field.data_type() {
        text @ DataType::Utf8 => {
            let coded = DataType::Dictionary(Box::new(DataType::Int32), Box::new(text.clone()));
            field.clone().with_data_type(coded)
        }
        _ => field.clone(),
    }
}

#[derive(Debug)]
struct Readers {
    names: Arc<[String]>,
    readers: Arc<DefaultParquetFileReaderFactory>,
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
        Ok(Box::new(Reader {
            reader,
            names: Arc::clone(&self.names),
        }))
    }
}

struct Reader {
    reader: Box<dyn AsyncFileReader + Send>,
    names: Arc<[String]>,
}

impl AsyncFileReader for Reader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        self.reader.get_bytes(range)
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        self.reader.get_byte_ranges(ranges)
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move {
            let metadata = self.reader.get_metadata(options).await?;
            Ok(Arc::new(with_dictionaries(&metadata, &self.names)?))
        }
        .boxed()
    }
}

/// `metadata` without its page indexes, which are read when they are asked for, and with other Arrow types.
fn with_dictionaries(
    metadata: &ParquetMetaData,
    names: &[String],
) -> Result<ParquetMetaData, ParquetError> {
    let file = metadata.file_metadata();
    let schema = parquet_to_arrow_schema(file.schema_descr(), file.key_value_metadata())?;
    let fields = schema
        .fields()
        .iter()
        .map(|field| match names.contains(field.name()) {
            true => in_dictionary_form(field),
            false => field.as_ref().clone(),
        });
    let schema = Schema::new(fields.collect::<Vec<_>>());
    let mut entries = file.key_value_metadata().cloned().unwrap_or_default();
    entries.retain(|entry| entry.key != ARROW_SCHEMA_META_KEY);
    entries.push(KeyValue::new(
        ARROW_SCHEMA_META_KEY.to_owned(),
        encode_arrow_schema(&schema),
    ));
    let file = FileMetaData::new(
        file.version(),
        file.num_rows(),
        file.created_by().map(str::to_owned),
        Some(entries),
        file.schema_descr_ptr(),
        file.column_orders().cloned(),
    );
    let groups = metadata.row_groups().to_vec();
    Ok(ParquetMetaDataBuilder::new(file)
        .set_row_groups(groups)
        .build())
}
