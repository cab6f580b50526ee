// SPDX-License-Identifier: Apache-2.0
//! A generation that is open for reading.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use dovetail_log::parquet_files::{FileToScan, ParquetScan, parquet_scan};
use dovetail_model::{DataFile, GenerationNumber, Manifest, Position, StreamDef, ViewId};
use dovetail_view::{View, ViewError};
use object_store::path::Path;
use parking_lot::Mutex;

/// Which columns of a generation's files to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileColumns {
    /// Finished columns and states: for merging.
    All,
    /// These columns of the view's file schema, in this order.
    Some(Vec<usize>),
}

/// One batch result of a view: its manifest and the definition that reads it.
#[derive(Debug, Clone)]
pub struct Generation {
    manifest: Arc<Manifest>,
    view: Arc<View>,
    /// Of its files, in key order; made when a group is first looked for.
    ranges: Arc<OnceLock<Vec<KeyRange>>>,
    /// What the last answer that failed on a group said, for whoever asks how the view does.
    failed: Arc<Mutex<Option<String>>>,
}

/// A file of a generation, as a group finds it.
#[derive(Debug, Clone)]
pub(crate) struct KeyRange {
    /// From the store's root.
    pub(crate) path: Path,
    pub(crate) bytes: u64,
    pub(crate) rows: u64,
    /// Its smallest and largest sort key.
    pub(crate) first: Box<[u8]>,
    pub(crate) last: Box<[u8]>,
}

impl Generation {
    /// Notes that an answer from it and the runs behind it failed: the select list cannot be computed for some group.
    pub fn note_failed(&self, said: &str) {
        *self.failed.lock() = Some(said.to_owned());
    }

    /// What the last answer that failed said, if one has.
    pub fn failed(&self) -> Option<String> {
        self.failed.lock().clone()
    }

    /// Opens a generation under the definition that it answers. Reads nothing yet.
    pub fn new(manifest: Arc<Manifest>, view: Arc<View>) -> Self {
        Self {
            manifest,
            view,
            ranges: Arc::default(),
            failed: Arc::default(),
        }
    }

    /// The same of a generation of `stream`, under the definition that its manifest carries.
    ///
    /// # Errors
    /// When that definition cannot be compiled any more.
    pub fn compiled(manifest: Arc<Manifest>, stream: &StreamDef) -> Result<Self, ViewError> {
        let schemas = BTreeMap::from([(stream.name.clone(), stream.schema.clone())]);
        let view = View::compile(&manifest.sql, &schemas)?;
        Ok(Self::new(manifest, Arc::new(view)))
    }

    /// Where the files of a view live in the object store.
    pub fn view_root(view: &ViewId) -> Path {
        Path::from(format!("views/{view}"))
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// The definition that reads it.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Its number.
    pub fn number(&self) -> GenerationNumber {
        self.manifest.number
    }

    /// The position up to which it covers the stream: the seam.
    pub fn horizon(&self) -> &Position {
        &self.manifest.inputs.horizon
    }

    /// Whether its states merge with ours. If not, only its finished columns answer.
    pub fn is_mergeable(&self) -> bool {
        self.manifest.inputs.state_fingerprint == self.view.state_fingerprint()
    }

    /// The file whose range of sort keys holds `key`, if there is one.
    ///
    /// # Errors
    /// When a key in the manifest is none.
    pub(crate) fn file_of(&self, key: &[u8]) -> datafusion::error::Result<Option<&KeyRange>> {
        let ranges = match self.ranges.get() {
            Some(ranges) => ranges,
            None => {
                let files = self.manifest.files.iter();
                let ranges = files.map(|file| self.range_of(file));
                let ranges = ranges.collect::<datafusion::error::Result<_>>()?;
                self.ranges.get_or_init(|| ranges)
            }
        };
        let before = ranges.partition_point(|range| *range.last < *key);
        Ok(ranges.get(before).filter(|range| *range.first <= *key))
    }

    fn range_of(&self, file: &DataFile) -> datafusion::error::Result<KeyRange> {
        let key = |text: &str| {
            let key = dovetail_model::unhex(text).map(Vec::into_boxed_slice);
            let refuse = || format!("`{text}` in a manifest is not a key");
            key.ok_or_else(|| DataFusionError::Execution(refuse()))
        };
        Ok(KeyRange {
            path: self.path_of(file),
            bytes: file.bytes,
            rows: file.rows,
            first: key(&file.first_key)?,
            last: key(&file.last_key)?,
        })
    }

    /// Where a file of it lies, from the store's root.
    fn path_of(&self, file: &DataFile) -> Path {
        let root = Self::view_root(&self.manifest.view);
        Path::from(format!("{root}/{}", file.path))
    }

    /// A scan of some of its files, in key order within each output partition.
    ///
    /// `predicate` is over the file schema and applied exactly.
    ///
    /// # Errors
    /// When the plan cannot be made; a missing file fails the execution.
    pub fn scan(
        &self,
        files: &[DataFile],
        columns: &FileColumns,
        predicate: Option<Arc<dyn PhysicalExpr>>,
        partitions: usize,
    ) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        let files: Vec<FileToScan> = files
            .iter()
            .map(|file| FileToScan::whole(self.path_of(file), file.bytes))
            .collect();
        let projection = match columns {
            FileColumns::All => None,
            FileColumns::Some(columns) => Some(columns.clone()),
        };
        parquet_scan(ParquetScan {
            files: &files,
            file_schema: self.view.file_schema(),
            projection,
            dictionaries: None,
            predicate,
            exact: true,
            target_partitions: partitions,
        })
    }
}
