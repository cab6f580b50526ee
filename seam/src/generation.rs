// SPDX-License-Identifier: Apache-2.0
//! A generation that is open for reading.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use dovetail_log::parquet_files::{FileToScan, ParquetScan, parquet_scan};
use dovetail_model::{DataFile, GenerationNumber, Manifest, Position, StreamDef, ViewId};
use dovetail_view::{View, ViewError};
use object_store::path::Path;

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
}

impl Generation {
    /// Opens a generation under the definition that it answers. Reads nothing yet.
    pub fn new(manifest: Arc<Manifest>, view: Arc<View>) -> Self {
        Self { manifest, view }
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
        let root = Self::view_root(&self.manifest.view);
        let files: Vec<FileToScan> = files
            .iter()
            .map(|file| FileToScan::whole(Path::from(format!("{root}/{}", file.path)), file.bytes))
            .collect();
        let projection = match columns {
            FileColumns::All => None,
            FileColumns::Some(columns) => Some(columns.clone()),
        };
        parquet_scan(ParquetScan {
            files: &files,
            file_schema: self.view.file_schema(),
            projection,
            predicate,
            exact: true,
            target_partitions: partitions,
        })
    }
}
