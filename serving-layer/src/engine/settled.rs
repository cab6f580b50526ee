// SPDX-License-Identifier: Apache-2.0
//! What runs make of the groups of a generation's files, kept for whoever asks again while neither has changed.
//!
//! A merged read finds the groups that a file and the runs have in common, and merges their states. As long as no refresh
//! brings other runs, that comes out the same each time: the second whole read of a generation and its runs keeps it, and
//! the next ones read a file as if no run touched it and put rows in their places.
//!
//! Collaborators: `merged_scan` reads and settles; the account of all queries lends the memory. Invariants: what is kept
//! belongs to exactly one generation and one list of runs, which it does not keep alive; all of it together takes at most
//! [`Settlements::new`]'s part of the queries' memory, and what was not asked for longest goes first.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};
use dovetail_seam::Generation;
use dovetail_view::Run;
use parking_lot::Mutex;

/// Of the queries' memory, one part in so many.
const PART: usize = 16;
/// Bytes where that has no limit.
const UNLIMITED: usize = 64 * 1024 * 1024;
/// Generations and runs that are known at a time.
const KNOWN: usize = 32;

/// All that is kept.
#[derive(Debug)]
pub(crate) struct Settlements {
    pool: Arc<dyn MemoryPool>,
    bytes: usize,
    /// The one that was asked for last is the last.
    known: Mutex<Vec<Arc<Settlement>>>,
}

/// What is kept of a generation and the runs behind it.
#[derive(Debug)]
pub(crate) struct Settlement {
    generation: Weak<Generation>,
    runs: Vec<Weak<Run>>,
    /// By their place among the generation's.
    files: Mutex<HashMap<usize, Arc<SettledFile>>>,
    memory: MemoryReservation,
}

/// The groups of a file that runs touch, and those between its rows that only runs have.
#[derive(Debug)]
pub(crate) struct SettledFile {
    /// Of the file's and the runs' events, in key order.
    states: RecordBatch,
    /// Where each belongs, in order.
    places: Vec<Place>,
}

/// Where a group belongs in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its row; for a group that is not in the file, a row that it may come with.
    pub(crate) row: usize,
    pub(crate) is_new: bool,
}

impl Settlements {
    /// Nothing yet; it may take a sixteenth of `pool`.
    pub(crate) fn new(pool: &Arc<dyn MemoryPool>) -> Self {
        let bytes = match pool.memory_limit() {
            MemoryLimit::Finite(bytes) => bytes / PART,
            MemoryLimit::Infinite | MemoryLimit::Unknown => UNLIMITED,
        };
        Self {
            pool: Arc::clone(pool),
            bytes,
            known: Mutex::default(),
        }
    }

    /// Notes that somebody reads all of `generation` and `runs`: what is kept of them, unless it is the first time.
    pub(crate) fn asked(
        &self,
        generation: &Arc<Generation>,
        runs: &[Arc<Run>],
    ) -> Option<Arc<Settlement>> {
        let mut known = self.known.lock();
        known.retain(|settlement| settlement.is_alive());
        let found = known.iter().position(|known| known.is_of(generation, runs));
        if let Some(found) = found {
            let settlement = known.remove(found);
            known.push(Arc::clone(&settlement));
            return Some(settlement);
        }
        if known.len() == KNOWN {
            known.remove(0);
        }
        known.push(Arc::new(Settlement {
            generation: Arc::downgrade(generation),
            runs: runs.iter().map(Arc::downgrade).collect(),
            files: Mutex::default(),
            memory: MemoryConsumer::new("Settled").register(&self.pool),
        }));
        None
    }

    /// Takes so many bytes for `settlement`, at the cost of others that were asked for longer ago. Whether there are any.
    fn grow(&self, settlement: &Settlement, bytes: usize) -> bool {
        if settlement.memory.size() + bytes > self.bytes {
            return false;
        }
        let mut known = self.known.lock();
        let is_other = |known: &Arc<Settlement>| !std::ptr::eq(known.as_ref(), settlement);
        if known.iter().all(is_other) {
            return false;
        }
        let mut taken: usize = known.iter().map(|known| known.memory.size()).sum();
        while taken + bytes > self.bytes {
            let Some(oldest) = known.iter().position(is_other) else {
                return false;
            };
            taken -= known.remove(oldest).memory.size();
        }
        settlement.memory.try_grow(bytes).is_ok()
    }
}

impl Settlement {
    fn is_alive(&self) -> bool {
        let mut runs = self.runs.iter();
        self.generation.strong_count() > 0 && runs.all(|run| run.strong_count() > 0)
    }

    fn is_of(&self, generation: &Arc<Generation>, runs: &[Arc<Run>]) -> bool {
        // What a `Weak` points at is not reused as long as there is one.
        std::ptr::eq(self.generation.as_ptr(), Arc::as_ptr(generation))
            && self.runs.len() == runs.len()
            && (self.runs.iter().zip(runs))
                .all(|(known, run)| std::ptr::eq(known.as_ptr(), Arc::as_ptr(run)))
    }

    /// What is kept of this file.
    pub(crate) fn file(&self, index: usize) -> Option<Arc<SettledFile>> {
        self.files.lock().get(&index).cloned()
    }
}

impl SettledFile {
    /// How many of its groups come before this row.
    pub(crate) fn before(&self, row: usize) -> usize {
        self.places.partition_point(|place| place.row < row)
    }

    /// Some of its groups, and where they belong.
    pub(crate) fn groups(&self, groups: std::ops::Range<usize>) -> (RecordBatch, &[Place]) {
        let states = self.states.slice(groups.start, groups.len());
        (states, &self.places[groups])
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

/// A file that is being settled, batch by batch.
#[derive(Debug)]
pub(crate) struct Settling {
    settlements: Arc<Settlements>,
    settlement: Arc<Settlement>,
    index: usize,
    /// How many of the file's rows there were.
    rows: usize,
    states: Vec<RecordBatch>,
    places: Vec<Place>,
    /// Taken of the memory.
    bytes: usize,
}

impl Settling {
    /// Begins with a file of the generation.
    pub(crate) fn new(
        settlements: &Arc<Settlements>,
        settlement: &Arc<Settlement>,
        index: usize,
    ) -> Self {
        Self {
            settlements: Arc::clone(settlements),
            settlement: Arc::clone(settlement),
            index,
            rows: 0,
            states: vec![],
            places: vec![],
            bytes: 0,
        }
    }

    /// Adds what came with the next `rows` of the file: merged states in key order, and which of the rows and of the states
    /// are of one group. False when there is no more memory: it is not to be kept, then.
    #[must_use]
    pub(crate) fn add(
        &mut self,
        rows: usize,
        states: RecordBatch,
        pairs: &[(usize, usize)],
    ) -> bool {
        let columns = states.columns().iter();
        let columns = columns.map(|column| column.to_data().get_slice_memory_size());
        let Ok(bytes) = columns.sum::<Result<usize, _>>() else {
            return false;
        };
        let bytes = bytes + states.num_rows() * size_of::<Place>();
        if !self.settlements.grow(&self.settlement, bytes) {
            return false;
        }
        self.bytes += bytes;
        let mut pairs = pairs.iter().peekable();
        let mut row = self.rows;
        self.places.extend((0..states.num_rows()).map(|index| {
            let pair = pairs.next_if(|(_, of_states)| *of_states == index);
            if let Some((of_file, _)) = pair {
                row = self.rows + of_file;
            }
            Place {
                row,
                is_new: pair.is_none(),
            }
        }));
        self.rows += rows;
        if states.num_rows() > 0 {
            self.states.push(states);
        }
        true
    }

    /// Keeps the file, of which this is all; `schema` is that of states.
    pub(crate) fn keep(mut self, schema: &SchemaRef) {
        let Ok(states) = concat_batches(schema, &self.states) else {
            return;
        };
        let file = SettledFile {
            states,
            places: std::mem::take(&mut self.places),
        };
        let mut files = self.settlement.files.lock();
        if let std::collections::hash_map::Entry::Vacant(place) = files.entry(self.index) {
            place.insert(Arc::new(file));
            self.bytes = 0;
        }
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        self.settlement.memory.shrink(self.bytes);
    }
}
