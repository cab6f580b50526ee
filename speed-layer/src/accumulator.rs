// SPDX-License-Identifier: Apache-2.0
//! Turns committed micro-batches into runs, one thread per stream.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use dovetail_log::CommittedBatch;
use dovetail_model::ViewId;
use dovetail_seam::{Accumulated, Cut, SeamError, StreamCell};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::{BatchReceiver, SpeedError, SpeedMemory};

/// The thread that accumulates one stream. It ends when the sender of its batches is dropped.
#[derive(Debug)]
pub struct Accumulator {
    thread: JoinHandle<()>,
}

impl Accumulator {
    /// Starts the thread. `after` is called after each batch, to wake the merger and the archiver. Batches that come
    /// or wait once `closing` is cancelled are not accumulated any more: the log has them, and the next start reads
    /// them.
    ///
    /// # Errors
    /// When the system has no thread for it.
    pub fn start(
        cell: Arc<StreamCell>,
        memory: Arc<SpeedMemory>,
        mut batches: BatchReceiver,
        closing: CancellationToken,
        after: impl Fn() + Send + 'static,
    ) -> Result<Self, SpeedError> {
        let name = format!("speed-{}", cell.load().stream().id);
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || {
                while let Some(queued) = batches.blocking_recv() {
                    let batch = &queued.batch;
                    if closing.is_cancelled() {
                        continue;
                    }
                    if let Err(error) = accumulate(&cell, batch) {
                        // The cut stays at its last sound position and says so by its freshness.
                        error!(%error, span = %batch.span, "the speed layer stopped; restart to rebuild it");
                        return;
                    }
                    cell.meters().accumulate.took(queued.since.elapsed());
                    let cut = cell.load();
                    memory.set(&cut.stream().id, cut.bytes());
                    after();
                }
            })
            .map_err(|source| SpeedError::Thread { name, source })?;
        Ok(Self { thread })
    }

    /// Waits until the thread has ended.
    pub fn join(self) {
        if self.thread.join().is_err() {
            error!("an accumulator thread panicked");
        }
    }
}

/// Accumulates one batch into every view of the cut and advances the cut, all views together.
///
/// # Errors
/// When the batch does not start where the cut ends.
pub fn accumulate(cell: &StreamCell, batch: &Arc<CommittedBatch>) -> Result<(), SeamError> {
    let meter = &cell.meters().accumulate;
    let _at_work = meter.busy();
    let mut runs = BTreeMap::new();
    loop {
        let cut = cell.load();
        accumulate_missing(&cut, batch, &mut runs);
        match cell.advance(batch, &runs) {
            // A view joined since the cut was loaded: it needs this batch too.
            Err(SeamError::NoView(_)) => continue,
            result => {
                meter.count(batch.events.num_rows() as u64);
                return result;
            }
        }
    }
}

type Runs = BTreeMap<(ViewId, u64), Accumulated>;

fn accumulate_missing(cut: &Cut, batch: &CommittedBatch, runs: &mut Runs) {
    let span = &batch.span;
    for (id, view) in cut.all_views() {
        let key = (id.clone(), view.version);
        if runs.contains_key(&key) {
            continue;
        }
        let run = view.view.accumulate(&batch.events, span.clone()).map_err(|error| {
            // Said once: each batch behind it belongs to the same poisoned span.
            let failed = if view.poisoned.is_empty() {
                warn!(view = %view.name, %span, %error, "a micro-batch could not be accumulated; the view answers again once a generation covers it");
                view.view.failing_event(&batch.events)
            } else {
                None
            };
            failed.map_or_else(|| error.to_string(), |failed| failed.to_string())
        });
        runs.insert(key, run.map(Arc::new));
    }
}
