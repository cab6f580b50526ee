// SPDX-License-Identifier: Apache-2.0
//! Writes sorted states as the files of a generation.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use dovetail_log::parquet_files::{WriterOptions, write_parquet};
use dovetail_model::{DataFile, hex};
use object_store::path::Path;

use super::{Computed, FILE_ROWS, Job};
use crate::BatchError;

/// Collects states in key order and cuts them into files of about [`FILE_ROWS`] groups.
pub(crate) struct GenerationWriter<'a> {
    job: &'a Job,
    pending: Vec<RecordBatch>,
    pending_rows: usize,
    computed: Computed,
}

impl<'a> GenerationWriter<'a> {
    pub(crate) fn new(job: &'a Job) -> Self {
        Self {
            job,
            pending: vec![],
            pending_rows: 0,
            computed: Computed::default(),
        }
    }

    /// Adds states whose keys are behind all keys so far.
    pub(crate) async fn push(&mut self, states: &RecordBatch) -> Result<(), BatchError> {
        self.pending.push(states.clone());
        self.pending_rows += states.num_rows();
        // Twice the size, so that the last file is never a sliver.
        while self.pending_rows >= 2 * FILE_ROWS {
            self.write(FILE_ROWS).await?;
        }
        Ok(())
    }

    /// Adds a file of the base as it is. Its keys are behind all keys so far.
    pub(crate) async fn keep(&mut self, file: DataFile) -> Result<(), BatchError> {
        self.flush().await?;
        self.computed.files.push(file);
        Ok(())
    }

    /// Ends the current file.
    pub(crate) async fn flush(&mut self) -> Result<(), BatchError> {
        while self.pending_rows > 0 {
            let rows = if self.pending_rows >= 2 * FILE_ROWS {
                FILE_ROWS
            } else {
                self.pending_rows
            };
            self.write(rows).await?;
        }
        Ok(())
    }

    pub(crate) async fn finish(mut self) -> Result<Computed, BatchError> {
        self.flush().await?;
        Ok(self.computed)
    }

    async fn write(&mut self, rows: usize) -> Result<(), BatchError> {
        let schema = self.job.view.state_schema();
        let all = concat_batches(&schema, &self.pending)
            .map_err(datafusion::error::DataFusionError::from)?;
        let states = all.slice(0, rows);
        let rest = all.slice(rows, all.num_rows() - rows);
        self.pending_rows = rest.num_rows();
        self.pending = if rest.num_rows() == 0 {
            vec![]
        } else {
            vec![rest]
        };

        let keys = self.job.view.encode_keys(&states)?;
        let batch = self.job.view.to_file(&states)?;
        let path = format!(
            "files/{:032x}.parquet",
            u128::from(random()) << 64 | u128::from(random())
        );
        let place = Path::from(format!("{}/{path}", self.job.root));
        let (store, schema) = (Arc::clone(&self.job.store), batch.schema());
        let batches = futures::stream::iter([Ok(batch)]);
        let options = WriterOptions::default();
        let writing = write_parquet(store, place, schema, &options, batches);
        let written = Box::pin(writing).await?;
        self.computed.bytes_written += written.bytes;
        self.computed.files.push(DataFile {
            path,
            rows: rows as u64,
            bytes: written.bytes,
            checksum: written.checksum,
            first_key: hex(keys.row(0).as_ref()),
            last_key: hex(keys.row(rows - 1).as_ref()),
        });
        Ok(())
    }
}

fn random() -> u64 {
    dovetail_log::catalog::random_u64()
}
