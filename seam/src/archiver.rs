// SPDX-License-Identifier: Apache-2.0
//! Moves the archived position of one stream: tail batches go to the raw log, then the log forgets them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dovetail_log::CommittedBatch;
use dovetail_log::raw::{Compaction, RawLog, RawSnapshot};
use dovetail_model::{Position, Span, StreamDef};
use futures::future::BoxFuture;
use tokio::sync::{Mutex, MutexGuard};

use crate::{Cut, SeamError, StreamCell};

/// Bytes of the tail that go into one commit, or a batch more: where events come faster than they are archived, a commit
/// of all of them would take the longer the more there are, and their memory as long.
const STEP_BYTES: usize = 128 * 1024 * 1024;

/// The log below, which may drop what is archived.
pub trait Forget: Send + Sync + std::fmt::Debug {
    /// Everything before `archived` is in the raw log now.
    ///
    /// # Errors
    /// A sentence for the operator. Nothing is lost: the next call tries again.
    fn forget(&self, archived: &Position) -> Result<(), String>;
}

/// The only writer of a stream's raw log in this process; where other processes archive, it is who keeps it. Order of things, each safe to be cut off after:
/// commit to the raw log, swap the cut, forget in the log.
#[derive(Debug)]
pub struct Archiver {
    cell: Arc<StreamCell>,
    raw: Arc<RawLog>,
    log: Arc<dyn Forget>,
    busy: Mutex<()>,
}

impl Archiver {
    /// An archiver from `cell`'s tail to `raw`.
    pub fn new(cell: Arc<StreamCell>, raw: impl Into<Arc<RawLog>>, log: Arc<dyn Forget>) -> Self {
        Self {
            cell,
            raw: raw.into(),
            log,
            busy: Mutex::new(()),
        }
    }

    /// The raw log it writes.
    pub fn raw(&self) -> &Arc<RawLog> {
        &self.raw
    }

    /// Archives everything that is accumulated now, and returns the raw log that holds it.
    ///
    /// # Errors
    /// When the raw log cannot be written. The tail stays as it was.
    pub async fn archive_all(self: &Arc<Self>) -> Result<Arc<RawSnapshot>, SeamError> {
        let position = self.cell.load().position().clone();
        self.archive_through(&position).await
    }

    /// Archives at least through `position`, which the cut must cover. Once begun it runs to its end, whoever
    /// waits for it or goes away: the raw log and the cut advance together or not at all.
    ///
    /// # Errors
    /// When the raw log cannot be written. The tail stays as it was.
    pub async fn archive_through(
        self: &Arc<Self>,
        position: &Position,
    ) -> Result<Arc<RawSnapshot>, SeamError> {
        let (this, position) = (Arc::clone(self), position.clone());
        let archiving = tokio::spawn(async move { this.archive_whole(&position).await });
        archiving
            .await
            .map_err(|ended| SeamError::Unfinished(ended.to_string()))?
    }

    async fn archive_whole(&self, position: &Position) -> Result<Arc<RawSnapshot>, SeamError> {
        let _busy = self.busy.lock().await;
        // An archive that failed, or was cut off, may have been committed all the same: the cut follows first.
        let raw = self.raw.current().await?;
        if raw.archived() != self.cell.load().raw().archived() {
            self.cell.archived(raw)?;
        }
        loop {
            let cut = self.cell.load();
            if cut.raw().archived().covers(position) || cut.tail().is_empty() {
                return Ok(Arc::clone(cut.raw()));
            }
            self.archive_step(&cut, position).await?;
        }
    }

    /// Archives the first part of the tail, towards `position`: its memory is free before the next part is begun.
    async fn archive_step(&self, cut: &Cut, position: &Position) -> Result<(), SeamError> {
        let meter = &self.cell.meters().archive;
        let _at_work = meter.busy();
        let began = Instant::now();
        let mut bytes = 0;
        let batches: Vec<Arc<CommittedBatch>> = cut
            .tail()
            .iter()
            .take_while(|batch| {
                let is_asked = !batch.span.from().covers(position) && bytes < STEP_BYTES;
                bytes += batch.bytes();
                is_asked
            })
            .cloned()
            .collect();
        let archived_to = batches
            .last()
            .map_or_else(|| cut.raw().archived().clone(), |b| b.span.to().clone());
        let span = Span::new(cut.raw().archived().clone(), archived_to)?;
        // Boxed, as what writes Parquet below: a large future inside every run would make theirs large.
        let snapshot = Box::pin(self.raw.archive(&span, &batches)).await?;
        self.cell.archived(Arc::clone(&snapshot))?;
        meter.took(began.elapsed());
        meter.count(batches.iter().map(|b| b.events.num_rows() as u64).sum());
        let (log, archived) = (Arc::clone(&self.log), snapshot.archived().clone());
        // Forgetting deletes files and may rewrite the keys: not on a thread that serves others.
        tokio::task::spawn_blocking(move || log.forget(&archived))
            .await
            .map_err(|error| SeamError::Forget(error.to_string()))?
            .map_err(SeamError::Forget)
    }

    /// Prepares the raw log for the schema of `def`, which must be the stream's, grown. Nothing shows it until
    /// [`Evolution::finish`]; dropped before that, nothing has changed. No archive comes between.
    ///
    /// # Errors
    /// When the raw log cannot hold the schema, or cannot be written.
    pub async fn prepare(&self, def: Arc<StreamDef>) -> Result<Evolution<'_>, SeamError> {
        let busy = self.busy.lock().await;
        self.raw.widen(&def.schema).await?;
        Ok(Evolution {
            archiver: self,
            def,
            _busy: busy,
        })
    }

    /// Keeps the raw log quick to read: merges small segments, writes a checkpoint of its log, and deletes
    /// files that neither a reader of this process nor `grace` still needs.
    ///
    /// # Errors
    /// When the store refuses; what was not done is done by the next upkeep.
    pub fn upkeep(&self, grace: Duration) -> BoxFuture<'_, Result<(), SeamError>> {
        // Boxed: the compiler cannot see by itself that the store's streams below may change threads.
        Box::pin(async move {
            self.raw.compact(Compaction::default()).await?;
            {
                let _busy = self.busy.lock().await;
                let raw = self.raw.snapshot();
                match self.cell.is_elsewhere() {
                    true => self.cell.follow(raw)?,
                    false => self.cell.archived(raw)?,
                }
            }
            self.raw.checkpoint().await?;
            self.raw.vacuum(grace).await?;
            Ok(())
        })
    }
}

/// A change of the stream's schema, between its preparation in the raw log and its place in the cut: the catalog
/// commits it there.
#[derive(Debug)]
pub struct Evolution<'a> {
    archiver: &'a Archiver,
    def: Arc<StreamDef>,
    _busy: MutexGuard<'a, ()>,
}

impl Evolution<'_> {
    /// Swaps the cut to the new schema.
    ///
    /// # Errors
    /// When the cut's tail does not fit it.
    pub async fn finish(self) -> Result<(), SeamError> {
        let raw = self.archiver.raw.adopt(&self.def.schema).await?;
        self.archiver.cell.evolve(self.def, raw)
    }
}
