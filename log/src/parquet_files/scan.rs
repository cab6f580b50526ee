// SPDX-License-Identifier: Apache-2.0
//! A physical plan that reads Parquet files of ours.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::ParquetAccessPlan;
use datafusion::datasource::physical_plan::{
    FileGroup, FileGroupPartitioner, FileScanConfigBuilder, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExecBuilder;
use object_store::ObjectMeta;
use object_store::path::Path;

use super::{Dictionaries, store_url};

/// Splitting a scan below this many bytes costs more than it gains.
const SPLIT_MIN_BYTES: usize = 4 * 1024 * 1024;
/// How much of a file's end is fetched at once; footers of ours with their page indexes mostly fit.
pub(super) const FOOTER_HINT_BYTES: usize = 64 * 1024;

/// The row groups of a file that a scan reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowGroupSelection {
    /// How many row groups the file has.
    pub total: usize,
    /// Indexes of those to read.
    pub selected: Vec<usize>,
}

/// One file of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileToScan {
    /// Path from the store's root.
    pub path: Path,
    /// Size of the file.
    pub bytes: u64,
    /// The row groups to read; all when absent.
    pub row_groups: Option<RowGroupSelection>,
}

impl FileToScan {
    /// The whole file at `path`.
    pub fn whole(path: Path, bytes: u64) -> Self {
        Self {
            path,
            bytes,
            row_groups: None,
        }
    }

    fn to_partitioned(&self) -> PartitionedFile {
        let file = PartitionedFile::new_from_meta(ObjectMeta {
            location: self.path.clone(),
            last_modified: chrono::DateTime::UNIX_EPOCH,
            size: self.bytes,
            e_tag: None,
            version: None,
        })
        .with_metadata_size_hint(FOOTER_HINT_BYTES);
        let Some(selection) = &self.row_groups else {
            return file;
        };
        let mut access = ParquetAccessPlan::new_none(selection.total);
        for index in &selection.selected {
            access.scan(*index);
        }
        file.with_extension(access)
    }
}

/// What [`parquet_scan`] reads.
#[derive(Debug, Clone)]
pub struct ParquetScan<'a> {
    /// The files, in the order in which one partition reads them.
    pub files: &'a [FileToScan],
    /// The schema that every file is read as: a column that a file lacks reads as null.
    pub file_schema: SchemaRef,
    /// Columns of `file_schema` to put out, in this order; all when absent.
    pub projection: Option<Vec<usize>>,
    /// Which of the columns come in dictionary form. The predicate may read none of them.
    pub dictionaries: Option<Dictionaries>,
    /// A predicate over `file_schema` (columns by index). It prunes row groups and pages by their
    /// statistics.
    pub predicate: Option<Arc<dyn PhysicalExpr>>,
    /// Whether the predicate is applied to each row too; else rows that do not match may come out.
    pub exact: bool,
    /// At most this many partitions. One partition reads the files in order; several share them out by
    /// size, in contiguous byte ranges.
    pub target_partitions: usize,
}

/// The plan of a scan; run it in a runtime that [`super::register_store`] has prepared. Its schema is
/// `file_schema` projected, with dictionaries where they are asked for. A file that is missing fails the execution with an error that names it.
///
/// # Errors
/// When the projection or the predicate does not fit the schema.
pub fn parquet_scan(scan: ParquetScan<'_>) -> Result<Arc<dyn ExecutionPlan>> {
    let width = scan.file_schema.fields().len();
    let file_schema = match &scan.dictionaries {
        Some(dictionaries) => dictionaries.schema(&scan.file_schema),
        None => scan.file_schema,
    };
    let output = scan
        .projection
        .unwrap_or_else(|| (0..width).collect::<Vec<_>>());
    if scan.files.is_empty() {
        let schema = Arc::new(file_schema.project(&output)?);
        return Ok(Arc::new(EmptyExec::new(schema)));
    }
    // Read what is put out and, behind it, what only the filter needs.
    let mut read = output.clone();
    let filter = scan.predicate.clone().filter(|_| scan.exact);
    if let Some(filter) = &filter {
        read.extend(columns_of(filter).difference(&output.iter().copied().collect()));
    }
    let mut source = ParquetSource::new(Arc::clone(&file_schema));
    if let Some(dictionaries) = &scan.dictionaries {
        source = source.with_parquet_file_reader_factory(dictionaries.readers(&file_schema));
    }
    if let Some(predicate) = &scan.predicate {
        source = source.with_predicate(Arc::clone(predicate));
    }
    let config = FileScanConfigBuilder::new(store_url(), Arc::new(source))
        .with_projection_indices(Some(read.clone()))?
        .with_file_groups(file_groups(scan.files, scan.target_partitions))
        .with_preserve_order(scan.target_partitions <= 1)
        .build();
    let plan: Arc<dyn ExecutionPlan> = DataSourceExec::from_data_source(config);
    let Some(filter) = filter else {
        return Ok(plan);
    };
    let filter = reassign_expr_columns(filter, &plan.schema())?;
    let projection = (read.len() > output.len()).then(|| (0..output.len()).collect());
    let filtered = FilterExecBuilder::new(filter, plan)
        .apply_projection(projection)?
        .build()?;
    Ok(Arc::new(filtered))
}

fn columns_of(predicate: &Arc<dyn PhysicalExpr>) -> BTreeSet<usize> {
    collect_columns(predicate)
        .iter()
        .map(Column::index)
        .collect()
}

fn file_groups(files: &[FileToScan], target_partitions: usize) -> Vec<FileGroup> {
    let one = vec![FileGroup::new(
        files.iter().map(FileToScan::to_partitioned).collect(),
    )];
    if target_partitions <= 1 {
        return one;
    }
    FileGroupPartitioner::new()
        .with_target_partitions(target_partitions)
        .with_repartition_file_min_size(SPLIT_MIN_BYTES)
        .repartition_file_groups(&one)
        .unwrap_or(one)
}
