// SPDX-License-Identifier: Apache-2.0
//! Writes sorted states as the files of a generation.
//!
//! Files are written beside one another, as many at a time as there are partitions: encoding one takes a core, and making
//! one durable takes none. What is held is bounded by the size of these files, in groups and in bytes, and counted in the
//! run's memory pool. A part of the pool is set aside for it from the start: operators that could spill would leave it
//! nothing. Where that part is small, one file is written at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::RecordBatch;
use datafusion::common::runtime::SpawnedTask;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryReservation};
use dovetail_log::parquet_files::{ParquetFileWriter, WriterOptions};
use dovetail_model::{DataFile, hex};
use dovetail_view::{View, bytes_of};
use object_store::ObjectStore;
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
    /// In key order, and behind all that is computed.
    under_way: VecDeque<UnderWay>,
    at_a_time: usize,
    computed: Computed,
    memory: MemoryReservation,
    set_aside: usize,
}

/// A file on its way.
enum UnderWay {
    /// Of the base, as it is.
    Kept(DataFile),
    Written {
        task: SpawnedTask<Result<DataFile, BatchError>>,
        /// Bytes that it has in memory.
        held: Arc<AtomicUsize>,
    },
}

impl<'a> GenerationWriter<'a> {
    pub(crate) fn new(job: &'a Job) -> Self {
        let pool = job.task.memory_pool();
        let set_aside = match pool.memory_limit() {
            MemoryLimit::Finite(bytes) => bytes / SET_ASIDE,
            _ => 0,
        };
        let is_ample = set_aside == 0 || set_aside >= (2 + job.partitions) * FILE_BYTES;
        let memory = MemoryConsumer::new("files of the generation").register(pool);
        memory.grow(set_aside);
        Self {
            job,
            pending: VecDeque::new(),
            pending_rows: 0,
            pending_bytes: 0,
            under_way: VecDeque::new(),
            at_a_time: if is_ample { job.partitions.max(1) } else { 1 },
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
        self.count();
        while self.is_ample() {
            self.write(self.rows_of_a_file()).await?;
        }
        Ok(())
    }

    /// Adds a file of the base as it is. Its keys are behind all keys so far.
    pub(crate) async fn keep(&mut self, file: DataFile) -> Result<(), BatchError> {
        self.flush().await?;
        self.under_way.push_back(UnderWay::Kept(file));
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
            self.write(rows).await?;
        }
        Ok(())
    }

    pub(crate) async fn finish(mut self) -> Result<Computed, BatchError> {
        self.flush().await?;
        while !self.under_way.is_empty() {
            self.settle().await?;
        }
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

    /// Counts what is held, and what the files' writers hold. It is little and there already: the operators make room.
    fn count(&self) {
        let writers = self.under_way.iter().map(|file| match file {
            UnderWay::Kept(_) => 0,
            UnderWay::Written { held, .. } => held.load(Ordering::Relaxed),
        });
        let held = self.pending_bytes + writers.sum::<usize>();
        self.memory.resize(held.max(self.set_aside));
    }

    /// The first `rows` of what is pending.
    fn take(&mut self, mut rows: usize) -> Vec<RecordBatch> {
        let mut taken = Vec::new();
        while rows > 0
            && let Some(batch) = self.pending.pop_front()
        {
            let here = batch.slice(0, rows.min(batch.num_rows()));
            let rest = batch.slice(here.num_rows(), batch.num_rows() - here.num_rows());
            rows -= here.num_rows();
            self.pending_rows -= here.num_rows();
            self.pending_bytes -= bytes_of(&batch).min(self.pending_bytes);
            if rest.num_rows() > 0 {
                self.pending_bytes += bytes_of(&rest);
                self.pending.push_front(rest);
            }
            taken.push(here);
        }
        taken
    }

    /// Starts the file of the first `rows` of what is pending, once there is a place for it.
    async fn write(&mut self, rows: usize) -> Result<(), BatchError> {
        let states = self.take(rows);
        let held = Arc::new(AtomicUsize::new(states.iter().map(bytes_of).sum()));
        let file = GenerationFile {
            view: Arc::clone(&self.job.view),
            root: self.job.root.clone(),
            store: Arc::clone(&self.job.store),
            held: Arc::clone(&held),
        };
        let task = SpawnedTask::spawn(file.write(states));
        self.under_way.push_back(UnderWay::Written { task, held });
        self.count();
        while self.writing() >= self.at_a_time {
            self.settle().await?;
        }
        Ok(())
    }

    /// How many files are being written.
    fn writing(&self) -> usize {
        let files = self.under_way.iter();
        files
            .filter(|file| matches!(file, UnderWay::Written { .. }))
            .count()
    }

    /// Waits for the first file that is under way.
    async fn settle(&mut self) -> Result<(), BatchError> {
        let file = match self.under_way.front_mut() {
            None => return Ok(()),
            Some(UnderWay::Kept(file)) => file.clone(),
            Some(UnderWay::Written { task, .. }) => {
                let written = task.await.map_err(|error| {
                    BatchError::from(DataFusionError::ExecutionJoin(Box::new(error)))
                })??;
                self.computed.bytes_written += written.bytes;
                written
            }
        };
        self.under_way.pop_front();
        self.computed.files.push(file);
        self.count();
        Ok(())
    }
}

/// One file of a generation.
struct GenerationFile {
    view: Arc<View>,
    root: Path,
    store: Arc<dyn ObjectStore>,
    held: Arc<AtomicUsize>,
}

impl GenerationFile {
    /// Writes sorted states, which are not empty; when this returns they are durable.
    async fn write(self, states: Vec<RecordBatch>) -> Result<DataFile, BatchError> {
        let path = format!(
            "files/{:032x}.parquet",
            u128::from(random()) << 64 | u128::from(random())
        );
        let key = |states: Option<&RecordBatch>, row: fn(&RecordBatch) -> usize| {
            let row = states.map(|states| states.slice(row(states), 1));
            let keys = row.map(|row| self.view.encode_keys(&row)).transpose()?;
            Ok::<_, BatchError>(keys.map_or_else(String::new, |keys| hex(keys.row(0).as_ref())))
        };
        let first_key = key(states.first(), |_| 0)?;
        let last_key = key(states.last(), |states| states.num_rows() - 1)?;
        let mut writer = self.create(&path)?;
        for states in states {
            let bytes = bytes_of(&states);
            let encoded_before = writer.memory_bytes();
            let written = match self.view.to_file(&states) {
                Ok(rows) => writer.write(&rows).await.map_err(BatchError::from),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = written {
                // The first error is the one to report.
                let _ = writer.abort().await;
                return Err(error);
            }
            self.held
                .fetch_add(writer.memory_bytes(), Ordering::Relaxed);
            self.held
                .fetch_sub(encoded_before + bytes, Ordering::Relaxed);
        }
        let written = writer.finish().await?;
        dovetail_log::crash_point("generation:file-written");
        Ok(DataFile {
            path,
            rows: written.rows,
            bytes: written.bytes,
            decoded_bytes: Some(written.decoded_bytes),
            checksum: written.checksum,
            first_key,
            last_key,
        })
    }

    fn create(&self, path: &str) -> Result<ParquetFileWriter, BatchError> {
        let place = Path::from(format!("{}/{path}", self.root));
        let options = WriterOptions {
            page_rows: PAGE_ROWS,
            ..WriterOptions::default()
        };
        let (store, schema) = (Arc::clone(&self.store), self.view.file_schema());
        Ok(ParquetFileWriter::create(store, place, schema, &options)?)
    }
}

fn random() -> u64 {
    dovetail_log::catalog::random_u64()
}
