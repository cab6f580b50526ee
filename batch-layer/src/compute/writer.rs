// SPDX-License-Identifier: Apache-2.0
//! Writes sorted states as the files of a generation.
//!
//! What it holds is bounded by the size of a file, in groups and in bytes, and counted in the run's memory pool. A part
//! of the pool is set aside for it from the start: operators that could spill would leave it nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryReservation};
use dovetail_log::parquet_files::{ParquetFileWriter, WriterOptions};
use dovetail_model::{DataFile, hex};
use dovetail_view::bytes_of;
use object_store::path::Path;

use super::{Computed, FILE_BYTES, FILE_ROWS, Job};
use crate::BatchError;

/// The part of a run's memory that is set aside for what is written: a file of narrow groups needs less.
const SET_ASIDE: usize = 8;

/// Groups of a page: what a key lookup decodes for one of them, where it is the first to ask for any.
const PAGE_ROWS: usize = 4096;

/// Collects states in key order and cuts them into files of about [`FILE_ROWS`] groups, or [`FILE_BYTES`] of states.
pub(crate) struct GenerationWriter<'a> {
    job: &'a Job,
    pending: VecDeque<RecordBatch>,
    pending_rows: usize,
    pending_bytes: usize,
    computed: Computed,
    memory: MemoryReservation,
    set_aside: usize,
}

impl<'a> GenerationWriter<'a> {
    pub(crate) fn new(job: &'a Job) -> Self {
        let pool = job.task.memory_pool();
        let set_aside = match pool.memory_limit() {
            MemoryLimit::Finite(bytes) => bytes / SET_ASIDE,
            _ => 0,
        };
        let memory = MemoryConsumer::new("files of the generation").register(pool);
        memory.grow(set_aside);
        Self {
            job,
            pending: VecDeque::new(),
            pending_rows: 0,
            pending_bytes: 0,
            computed: Computed::default(),
            memory,
            set_aside,
        }
    }

    /// Adds states whose keys are behind all keys so far.
    pub(crate) async fn push(&mut self, states: &RecordBatch) -> Result<(), BatchError> {
        self.pending_rows += states.num_rows();
        self.pending_bytes += bytes_of(states);
        self.pending.push_back(states.clone());
        self.count(0);
        while self.is_ample() {
            Box::pin(self.write(self.rows_of_a_file())).await?;
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
            let rows = if self.is_ample() {
                self.rows_of_a_file()
            } else {
                self.pending_rows
            };
            Box::pin(self.write(rows)).await?;
        }
        Ok(())
    }

    pub(crate) async fn finish(mut self) -> Result<Computed, BatchError> {
        self.flush().await?;
        Ok(self.computed)
    }

    /// Twice the size of a file, so that the last one is never a sliver.
    fn is_ample(&self) -> bool {
        self.pending_rows >= 2 * FILE_ROWS
            || (self.pending_bytes >= 2 * FILE_BYTES && self.pending_rows > 1)
    }

    fn rows_of_a_file(&self) -> usize {
        let bytes_of_a_row = self.pending_bytes.div_ceil(self.pending_rows).max(1);
        FILE_ROWS.min(FILE_BYTES / bytes_of_a_row).max(1)
    }

    /// Counts what is held, and what a file's writer holds. It is little and there already: the operators make room.
    fn count(&self, writer_bytes: usize) {
        let held = self.pending_bytes + writer_bytes;
        self.memory.resize(held.max(self.set_aside));
    }

    /// The first `rows` of what is pending at most, as much of it as one batch holds.
    fn take(&mut self, rows: usize) -> Option<RecordBatch> {
        let batch = self.pending.pop_front()?;
        let whole = bytes_of(&batch);
        let taken = batch.slice(0, rows.min(batch.num_rows()));
        let rest = batch.slice(taken.num_rows(), batch.num_rows() - taken.num_rows());
        let mut left = 0;
        if rest.num_rows() > 0 {
            left = bytes_of(&rest);
            self.pending.push_front(rest);
        }
        self.pending_rows -= taken.num_rows();
        self.pending_bytes = (self.pending_bytes + left).saturating_sub(whole);
        Some(taken)
    }

    async fn write(&mut self, rows: usize) -> Result<(), BatchError> {
        let view = Arc::clone(&self.job.view);
        let path = format!(
            "files/{:032x}.parquet",
            u128::from(random()) << 64 | u128::from(random())
        );
        let mut writer = self.create(&path, view.file_schema())?;
        let (mut first, mut last) = (None, None);
        let mut left = rows;
        while left > 0
            && let Some(states) = self.take(left)
        {
            left -= states.num_rows();
            let ends = [states.slice(0, 1), states.slice(states.num_rows() - 1, 1)];
            let [from, to] = ends.map(|row| view.encode_keys(&row));
            first = first.or(Some(hex(from?.row(0).as_ref())));
            last = Some(hex(to?.row(0).as_ref()));
            if let Err(error) = writer.write(&view.to_file(&states)?).await {
                // The first error is the one to report.
                let _ = writer.abort().await;
                return Err(error.into());
            }
            self.count(writer.memory_bytes());
        }
        let written = writer.finish().await?;
        dovetail_log::crash_point("generation:file-written");
        self.count(0);
        self.computed.bytes_written += written.bytes;
        self.computed.files.push(DataFile {
            path,
            rows: written.rows,
            bytes: written.bytes,
            checksum: written.checksum,
            first_key: first.unwrap_or_default(),
            last_key: last.unwrap_or_default(),
        });
        Ok(())
    }

    fn create(&self, path: &str, schema: SchemaRef) -> Result<ParquetFileWriter, BatchError> {
        let place = Path::from(format!("{}/{path}", self.job.root));
        let store = Arc::clone(&self.job.store);
        let options = WriterOptions {
            page_rows: PAGE_ROWS,
            ..WriterOptions::default()
        };
        Ok(ParquetFileWriter::create(store, place, schema, &options)?)
    }
}

fn random() -> u64 {
    dovetail_log::catalog::random_u64()
}
