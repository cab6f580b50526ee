// SPDX-License-Identifier: Apache-2.0
//! Memory of what a question brought here from another process.

use std::sync::Arc;

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use dovetail_model::Problem;
use parking_lot::Mutex;

use crate::problem::problem_of;

/// What a table has fetched counts as memory of queries for as long as the table lives: its question holds it to the
/// end, and plans made from it no longer.
#[derive(Debug, Default)]
pub(crate) struct Fetched(Mutex<Vec<Arc<MemoryReservation>>>);

/// A place on the account of all queries.
pub(crate) struct Reserved(Arc<MemoryReservation>);

impl Fetched {
    /// A new place on the account of the queries, which is `pool`.
    pub(crate) fn reserve(&self, pool: &Arc<dyn MemoryPool>) -> Reserved {
        let reservation = Arc::new(MemoryConsumer::new("Fetched").register(pool));
        self.0.lock().push(Arc::clone(&reservation));
        Reserved(reservation)
    }
}

impl Reserved {
    /// Takes so many bytes more.
    ///
    /// # Errors
    /// `Busy` when queries have no more memory.
    pub(crate) fn grow(&self, bytes: usize) -> Result<(), Problem> {
        self.0.try_grow(bytes).map_err(|error| problem_of(&error))
    }
}
