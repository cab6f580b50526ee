// SPDX-License-Identifier: Apache-2.0
//! What the batch layer does for the speed layer's memory.
//!
//! Purpose: past the soft limit, incremental runs take runs over. A view whose states outgrow the memory of such a
//! run would fill the speed layer all the same, until every append to every stream waits: at the hard limit it lets
//! go of its runs instead. Invariants: nothing is let go of below the hard limit, nor while a run may still succeed;
//! no answer is ever made without what was let go; events stay in the raw log. Non-goals: which queries or appends
//! wait.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use dovetail_model::{CatalogState, StreamId, ViewId};
use dovetail_seam::{Cut, Poison, StreamCell, ViewCut};
use parking_lot::Mutex;
use tracing::warn;

use crate::{BatchError, BatchLayer};

/// The memory of all speed layers of the process.
pub trait SpeedLayerMemory: Send + Sync + std::fmt::Debug {
    /// The stream that should get incremental runs, past the soft limit.
    fn pressed(&self) -> Option<StreamId>;
    /// Whether it is at the hard limit, so that appends wait.
    fn is_full(&self) -> bool;
    /// Told that the cut of a stream has let go of something.
    fn note(&self, cut: &Cut);
}

/// What is to get incremental runs for the sake of memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryDemand {
    /// The stream whose speed layer holds most, past the soft limit.
    pub pressed: Option<StreamId>,
    /// Views that let go of their runs, and answer again once a generation covers them.
    pub shed: BTreeSet<ViewId>,
}

/// Definitions whose last incremental run needed more memory than it may have, and what it said.
#[derive(Debug, Default)]
pub(crate) struct Outgrown(Mutex<HashMap<(ViewId, u64), String>>);

impl Outgrown {
    /// Notes how bringing a definition of a view forward ended.
    pub(crate) fn note<T>(&self, view: &ViewId, version: u64, result: &Result<T, BatchError>) {
        let key = (view.clone(), version);
        match result {
            Ok(_) => {
                self.0.lock().remove(&key);
            }
            // The way out is said with it, for the view and not for one run.
            Err(BatchError::Memory { limit, reason, .. }) => {
                let lacks = format!(
                    "a run may have {} MiB, its share of --batch-memory: {reason}",
                    limit >> 20
                );
                self.0.lock().insert(key, lacks);
            }
            // It says nothing about memory.
            Err(_) => {}
        }
    }

    fn reason(&self, view: &ViewId, version: u64) -> Option<String> {
        self.0.lock().get(&(view.clone(), version)).cloned()
    }
}

/// Runs that can be let go of.
struct Sheddable {
    cell: Arc<StreamCell>,
    view: ViewId,
    name: String,
    version: u64,
    bytes: usize,
    /// Why no run takes them over; none of a definition that is being built, whose runs no answer needs yet.
    outgrown: Option<String>,
}

impl BatchLayer {
    /// What the speed layers' memory wants. At the hard limit, one view lets go of its runs first: one whose runs no
    /// answer needs, or else the largest that no incremental run can take over.
    pub(crate) fn relieve(
        &self,
        state: &CatalogState,
        memory: &dyn SpeedLayerMemory,
    ) -> MemoryDemand {
        let streams = state.live_streams().filter_map(|s| self.stream(&s.def.id));
        let cells: Vec<Arc<StreamCell>> = streams.map(|stream| stream.cell).collect();
        if memory.is_full() {
            let sheddable = cells.iter().flat_map(|cell| self.sheddable(cell));
            let first = sheddable.max_by_key(|runs| (runs.outgrown.is_none(), runs.bytes));
            if let Some(runs) = first {
                runs.let_go(memory);
            }
        }
        let of_memory = |view: &ViewCut| view.poisoned.iter().any(|p| p.is_of_memory());
        let cuts = cells.iter().map(|cell| cell.load());
        let shed = cuts.flat_map(|cut| {
            let views = cut.views().iter().filter(|(_, view)| of_memory(view));
            views.map(|(id, _)| id.clone()).collect::<Vec<_>>()
        });
        MemoryDemand {
            pressed: memory.pressed(),
            shed: shed.collect(),
        }
    }

    fn sheddable(&self, cell: &Arc<StreamCell>) -> Vec<Sheddable> {
        let cut = cell.load();
        let sheddable = cut.all_views().filter_map(|(id, view)| {
            let outgrown = match &view.generation {
                Some(_) => Some(self.outgrown.reason(id, view.version)?),
                None => None,
            };
            Some(Sheddable {
                cell: Arc::clone(cell),
                view: id.clone(),
                name: view.name.clone(),
                version: view.version,
                bytes: view.bytes(),
                outgrown,
            })
        });
        sheddable.filter(|runs| runs.bytes > 0).collect()
    }
}

impl Sheddable {
    fn let_go(self, memory: &dyn SpeedLayerMemory) {
        let held = format!(
            "its runs took {} MiB when the speed layer's memory was at its limit",
            self.bytes >> 20
        );
        let reason = match &self.outgrown {
            Some(outgrown) => {
                format!("{held}, and no incremental run can take them over ({outgrown})")
            }
            None => format!("{held}, and no answer needed them while it was being built"),
        };
        let bytes = self
            .cell
            .shed(&self.view, self.version, &Poison::Memory(reason.clone()));
        warn!(view = %self.name, id = %self.view, bytes, %reason, "the view let go of its runs to free memory");
        memory.note(&self.cell.load());
    }
}
