// SPDX-License-Identifier: Apache-2.0
//! Seats of queries that compute: aggregates, sorts and joins take memory that is on no account.
//!
//! ```text
//! scan ─► filter ─► reader        as many at once as there are places for queries
//! scan ─► aggregate ─► reader     as many at once as have OWN_BYTES of the memory of queries each; others wait in line
//! ```
//! Purpose: what a query takes beside the account, its row groups and batches on their way, times the queries at work is
//! in proportion to the memory of queries. Invariants: a seat is kept until all rows are made, so a reader with less than
//! [`super::AHEAD_BYTES`] to go keeps nobody waiting; those who have one and stall give way to who waits for one. Who
//! has a seat waits for nobody else's. Non-goals: which query deserves to go first.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use super::{AnswerMemory, One, acquired};

/// Of the memory of all queries, what each at work has at least. An aggregate of wide rows takes about as much beside the
/// account: row groups, what they decode into, and groups that are copied on their way out.
const OWN_BYTES: usize = 64 << 20;
/// However little memory there is: so that a short question need not wait for a long one.
const FEWEST: usize = 4;

/// The seats of all queries.
#[derive(Debug)]
pub(super) struct Seats {
    free: Arc<Semaphore>,
    /// Held by who looks for one who gives way.
    looking: Mutex<()>,
}

/// Held by a query that computes, until its rows are made.
pub(crate) type Seat = Arc<OwnedSemaphorePermit>;

impl Seats {
    /// Where all queries have `bytes`.
    pub(super) fn of(bytes: usize) -> Self {
        let most = (bytes / OWN_BYTES).clamp(FEWEST, Semaphore::MAX_PERMITS);
        Self {
            free: Arc::new(Semaphore::new(most)),
            looking: Mutex::default(),
        }
    }
}

impl One {
    fn has_seat(&self) -> bool {
        let seat = self.seat.get();
        seat.is_some_and(|seat| seat.strong_count() > 0)
    }
}

impl AnswerMemory {
    /// A seat to compute this answer, once: waits until there is one.
    pub(crate) async fn seat(&self) -> Option<Seat> {
        let one = self.0.as_ref()?;
        let share = &one.share;
        let Seats { free, looking } = &share.seats;
        let long = share.waits.reader;
        let seat = tokio::select! {
            biased;
            seat = acquired(free, 1) => Arc::new(seat?),
            never = share.readers.make_room(long, looking, One::has_seat) => match never {},
        };
        let _ = one.seat.set(Arc::downgrade(&seat));
        Some(seat)
    }
}
