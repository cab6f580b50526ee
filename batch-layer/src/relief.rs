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

/// Definitions whose last incremental run failed in a way that the next one will too, until somebody does something about
/// it or other events come.
#[derive(Debug, Default)]
pub(crate) struct Stuck(Mutex<HashMap<(ViewId, u64), Obstacle>>);

/// What stands against incremental runs of a view, with the way out.
#[derive(Debug, Clone)]
enum Obstacle {
    /// They need more memory than they may have.
    Memory(String),
    /// The select list fails on a group.
    Group(String),
}

impl Stuck {
    /// Notes how bringing a definition of a view forward ended.
    pub(crate) fn note<T>(&self, view: &ViewId, version: u64, result: &Result<T, BatchError>) {
        let key = (view.clone(), version);
        match result {
            Ok(_) => {
                self.0.lock().remove(&key);
            }
            Err(BatchError::Memory { limit, reason, .. }) => {
                let lacks = format!(
                    "a run may have {} MiB, its share of --batch-memory: {reason}; start the server with more --batch-memory, or redefine the view so that its groups keep less",
                    limit >> 20
                );
                self.0.lock().insert(key, Obstacle::Memory(lacks));
            }
            Err(error @ BatchError::Finish { .. }) => {
                let fails = error.to_string();
                self.0.lock().insert(key, Obstacle::Group(fails));
            }
            // It says nothing about the next one.
            Err(_) => {}
        }
    }

    /// Notes that a generation of a definition was published that is up to date, whatever made it.
    pub(crate) fn forget(&self, view: &ViewId, version: u64) {
        self.0.lock().remove(&(view.clone(), version));
    }

    fn obstacle(&self, view: &ViewId, version: u64) -> Option<Obstacle> {
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
    obstacle: Option<Obstacle>,
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
            let first = sheddable.max_by_key(|runs| (runs.obstacle.is_none(), runs.bytes));
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

    /// The group that the last incremental run of a definition failed on, in words with the way out: queries that ask for
    /// it fail too.
    pub fn failing_group(&self, view: &ViewId, version: u64) -> Option<String> {
        match self.stuck.obstacle(view, version)? {
            Obstacle::Group(why) => Some(why),
            Obstacle::Memory(_) => None,
        }
    }

    fn sheddable(&self, cell: &Arc<StreamCell>) -> Vec<Sheddable> {
        let cut = cell.load();
        let sheddable = cut.all_views().filter_map(|(id, view)| {
            let obstacle = match &view.generation {
                Some(_) => Some(self.stuck.obstacle(id, view.version)?),
                None => None,
            };
            Some(Sheddable {
                cell: Arc::clone(cell),
                view: id.clone(),
                name: view.name.clone(),
                version: view.version,
                bytes: view.bytes(),
                obstacle,
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
        let reason = match &self.obstacle {
            Some(Obstacle::Memory(why) | Obstacle::Group(why)) => {
                format!("{held}, and no incremental run can take them over: {why}")
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
