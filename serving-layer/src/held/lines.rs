// SPDX-License-Identifier: Apache-2.0
//! Places of queries, and seats of those that compute: aggregates, sorts and joins take memory that is on no account.
//!
//! ```text
//! scan ─► filter ─► reader        as many at once as there are places
//! scan ─► aggregate ─► reader     as many at once as have OWN_BYTES of the memory of queries each; others wait in line
//! ```
//! Purpose: what a query takes beside the account, its row groups and batches on their way, times the queries at work is
//! in proportion to the memory of queries. Invariants: both are kept until all rows are made, so a reader with less than
//! [`super::AHEAD_BYTES`] to go keeps nobody waiting; those who have one and stall give way to who waits for one. Who
//! has a seat waits for nobody else's. Those who may take longer than usual leave some of both to others, who wait for no
//! more than usual then. Non-goals: which query deserves to go first.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use super::{AnswerMemory, One, ReadersShare, Share, acquired};

/// Of the memory of all queries, what each that computes has at least. An aggregate of wide rows takes about as much beside
/// the account: row groups, what they decode into, and groups that are copied on their way out.
const OWN_BYTES: usize = 64 << 20;
/// However little memory there is: so that a short question need not wait for a long one.
const FEWEST: usize = 4;

/// Of what there is, those who may take longer than usual leave one in so many to others.
const KEPT: usize = 4;

/// What there are so many of, for all and for those who may take longer than usual.
#[derive(Debug)]
pub(super) struct Lines {
    all: Line,
    long: Line,
}

/// What is there to be had, and who waits for it.
#[derive(Debug)]
struct Line {
    free: Arc<Semaphore>,
    /// Held by who looks for one who gives way.
    looking: Mutex<()>,
}

/// A place or a seat, held by a query until its rows are made.
pub(crate) type Admission = Arc<Admitted>;

#[derive(Debug)]
pub(crate) struct Admitted {
    _one: OwnedSemaphorePermit,
    for_long: Option<OwnedSemaphorePermit>,
}

impl Line {
    fn of(most: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(most)),
            looking: Mutex::default(),
        }
    }

    /// Waits for one; readers that stall give way whose answers have one by `has`.
    async fn wait(
        &self,
        share: &Share,
        has: impl Fn(&One) -> bool,
    ) -> Option<OwnedSemaphorePermit> {
        let stalls = share.waits.reader;
        tokio::select! {
            biased;
            one = acquired(&self.free, 1) => one,
            never = share.readers.make_room(stalls, &self.looking, has) => match never {},
        }
    }
}

impl Lines {
    pub(super) fn of(most: usize) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        Self {
            all: Line::of(most),
            long: Line::of(most - most / KEPT),
        }
    }

    /// The seats of queries that have `bytes` together.
    pub(super) fn seats(bytes: usize) -> Self {
        Self::of((bytes / OWN_BYTES).max(FEWEST))
    }

    /// Waits for one, of those for who may take longer than usual if `is_long`; `held` says what an answer has of these.
    async fn wait(
        &self,
        share: &Share,
        is_long: bool,
        held: impl Fn(&One) -> Option<Admission>,
    ) -> Option<Admission> {
        let is_of_long = |one: &One| held(one).is_some_and(|held| held.for_long.is_some());
        let for_long = match is_long {
            true => Some(self.long.wait(share, is_of_long).await?),
            false => None,
        };
        let _one = self.all.wait(share, |one| held(one).is_some()).await?;
        Some(Arc::new(Admitted { _one, for_long }))
    }
}

impl ReadersShare {
    /// A place of all queries: waits until there is one, or one for those who may take longer than usual.
    pub(crate) async fn place(&self, is_long: bool) -> Option<Admission> {
        let share = &self.0;
        let held = |one: &One| one.place.upgrade();
        share.places.wait(share, is_long, held).await
    }
}

impl AnswerMemory {
    /// A seat to compute this answer, once: waits until there is one, or one for those who may take longer than usual.
    pub(crate) async fn seat(&self, is_long: bool) -> Option<Admission> {
        let one = self.0.as_ref()?;
        let held = |one: &One| one.seat.get()?.upgrade();
        let seat = one.share.seats.wait(&one.share, is_long, held).await?;
        let _ = one.seat.set(Arc::downgrade(&seat));
        Some(seat)
    }
}
