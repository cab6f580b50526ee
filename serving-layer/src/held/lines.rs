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

/// What there are so many of, and who waits for one.
#[derive(Debug)]
pub(super) struct Line {
    free: Arc<Semaphore>,
    /// What those may have who may take longer than usual.
    for_long: Arc<Semaphore>,
    /// Held by who looks for one who gives way.
    looking: Mutex<()>,
}

/// A place or a seat, held by a query until its rows are made.
pub(crate) type Admission = Arc<Admitted>;

#[derive(Debug)]
pub(crate) struct Admitted {
    _one: OwnedSemaphorePermit,
    _for_long: Option<OwnedSemaphorePermit>,
}

impl Line {
    pub(super) fn of(most: usize) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        Self {
            free: Arc::new(Semaphore::new(most)),
            for_long: Arc::new(Semaphore::new(most - most / KEPT)),
            looking: Mutex::default(),
        }
    }

    /// The seats of queries that have `bytes` together.
    pub(super) fn seats(bytes: usize) -> Self {
        Self::of((bytes / OWN_BYTES).max(FEWEST))
    }

    /// Waits for one; readers that stall give way whose answers have one by `has`.
    async fn wait(
        &self,
        share: &Share,
        is_long: bool,
        has: impl Fn(&One) -> bool,
    ) -> Option<Admission> {
        let admitted = async {
            let _for_long = match is_long {
                true => Some(acquired(&self.for_long, 1).await?),
                false => None,
            };
            let _one = acquired(&self.free, 1).await?;
            Some(Arc::new(Admitted { _one, _for_long }))
        };
        let stalls = share.waits.reader;
        tokio::select! {
            biased;
            admitted = admitted => admitted,
            never = share.readers.make_room(stalls, &self.looking, has) => match never {},
        }
    }
}

impl ReadersShare {
    /// A place of all queries: waits until there is one, or one for those who may take longer than usual.
    pub(crate) async fn place(&self, is_long: bool) -> Option<Admission> {
        let share = &self.0;
        let has_place = |one: &One| one.place.strong_count() > 0;
        share.places.wait(share, is_long, has_place).await
    }
}

impl AnswerMemory {
    /// A seat to compute this answer, once: waits until there is one, or one for those who may take longer than usual.
    pub(crate) async fn seat(&self, is_long: bool) -> Option<Admission> {
        let one = self.0.as_ref()?;
        let has_seat = |one: &One| one.seat.get().is_some_and(|seat| seat.strong_count() > 0);
        let seat = one.share.seats.wait(&one.share, is_long, has_seat).await?;
        let _ = one.seat.set(Arc::downgrade(&seat));
        Some(seat)
    }
}
