// SPDX-License-Identifier: Apache-2.0
//! Merges runs geometrically, off the ingest path, one thread per stream.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use dovetail_seam::{StreamCell, ViewCut};
use dovetail_view::{Run, View};
use tracing::{error, warn};

use crate::{SpeedError, SpeedMemory, next_merge};

/// The thread that merges one stream's runs. It ends when it is dropped or joined.
#[derive(Debug)]
pub struct Merger {
    wake: SyncSender<()>,
    thread: JoinHandle<()>,
}

/// Wakes a merger; cheap to clone and to call.
#[derive(Debug, Clone)]
pub struct Wake(SyncSender<()>);

impl Wake {
    /// Asks the merger to look again. Does not wait.
    pub fn wake(&self) {
        match self.0.try_send(()) {
            // Full: it will look again anyhow. Disconnected: it has ended.
            Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
        }
    }
}

impl Merger {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread for it.
    pub fn start(cell: Arc<StreamCell>, memory: Arc<SpeedMemory>) -> Result<Self, SpeedError> {
        let (wake, woken) = sync_channel(1);
        let name = format!("merge-{}", cell.load().stream().id);
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || work(&cell, &memory, &woken))
            .map_err(|source| SpeedError::Thread { name, source })?;
        Ok(Self { wake, thread })
    }

    /// A handle that wakes it. The thread ends only after every handle is dropped.
    pub fn handle(&self) -> Wake {
        Wake(self.wake.clone())
    }

    /// Ends the thread once every handle is dropped, and waits for it.
    pub fn join(self) {
        drop(self.wake);
        if self.thread.join().is_err() {
            error!("a merger thread panicked");
        }
    }
}

fn work(cell: &StreamCell, memory: &SpeedMemory, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        while merge_once(cell, memory.merge_bytes()) {
            let cut = cell.load();
            memory.set(&cut.stream().id, cut.bytes());
        }
    }
}

/// Merges one window of one view, one that takes about `memory` bytes at most. Returns whether there was one. A view
/// whose runs do not merge holds up no other.
pub fn merge_once(cell: &StreamCell, memory: usize) -> bool {
    let cut = cell.load();
    let meter = &cell.meters().merge;
    cut.all_views().any(|(id, view)| {
        let Some(runs) = window(cell, view, memory) else {
            return false;
        };
        let _at_work = meter.busy();
        let began = Instant::now();
        meter.count(runs.iter().map(|run| run.rows() as u64).sum());
        let merged = merge(&view.view, &runs);
        meter.took(began.elapsed());
        merged.is_some_and(|merged| cell.replace_runs(id, view.version, merged))
    })
}

fn merge(view: &View, runs: &[Arc<Run>]) -> Option<Run> {
    let is_looked_up = runs.iter().any(|run| run.is_indexed());
    let merged = view.merge(runs).and_then(|merged| {
        if is_looked_up {
            // Here nobody waits for it.
            merged.make_index()?;
        }
        Ok(merged)
    });
    merged
        .inspect_err(|error| warn!(%error, "runs could not be merged; they stay as they are"))
        .ok()
}

fn window(cell: &StreamCell, view: &ViewCut, memory: usize) -> Option<Vec<Arc<Run>>> {
    let sizes: Vec<usize> = view.runs.iter().map(|run| run.bytes()).collect();
    let allowed = |range: std::ops::Range<usize>| {
        let bytes = sizes[range.clone()].iter().sum();
        let runs = &view.runs[range];
        let joined = runs[1..]
            .iter()
            .try_fold(runs[0].span().clone(), |span, run| {
                span.followed_by(run.span())
            });
        joined.is_ok_and(|span| !cell.is_pinned_inside(&span))
            && view.view.merge_memory(bytes) <= memory
    };
    next_merge(&sizes, allowed).map(|range| view.runs[range].to_vec())
}
