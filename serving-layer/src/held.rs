// SPDX-License-Identifier: Apache-2.0
//! Memory of what is held for the readers of answers, who may be slow.
//!
//! ```text
//! files ─► fetched ─► plan ─► rows ─► up to AHEAD_BYTES that wait ─► rows that are encoded ─► a chunk ─► socket
//!          └────────── the share of all answers: half of the memory of queries ──────────┘
//! ```
//! Purpose: whatever a reader does not read is bounded by bytes, and on the account of the queries. Collaborators: the
//! engine asks for room for the rows that it made, its scans for what they fetch ([`fetched`]), [`crate::http`] for what
//! it encodes. Invariants: an answer has at most [`AHEAD_BYTES`] ahead of its reader, or one batch. What has room is on the
//! account, as far as that is not full: it never goes past its limit for readers. Once all answers hold their share, one
//! that has not begun waits for a while, in turn, and is refused then; readers that stall give way to it ([`stalled`]).
//! One that has begun waits until its reader has read what it holds: it always goes on then, so that no answer waits for
//! the reader of another. What it does beyond the share is one batch, and those that its parts have made next.
//! Answers that take an operator's memory have seats ([`lines`]). Non-goals: what operators hold, which ask the pool themselves.

mod fetched;
mod lines;
mod stalled;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arrow::array::RecordBatch;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation, human_readable_size,
};
use dovetail_model::Problem;
use dovetail_view::bytes_of;
use tokio::sync::{Mutex, OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use self::fetched::RowGroup;
pub(crate) use self::lines::Admission;
use self::lines::{Admitted, Lines};
use self::stalled::{Reader, Readers};
use crate::problem::problem_of;

/// Bytes of rows that wait for the reader of one answer: enough for a fast one never to wait.
const AHEAD_BYTES: usize = 4 << 20;
/// Of the memory of all queries, all answers may hold one in so many bytes for their readers: the rest is for computing.
const SHARE: usize = 2;
/// The first rows of an answer are never refused where they take no more than this.
const SMALL_BYTES: usize = 1 << 20;
/// First rows that wait are made already: of the share, all of them may take one in so many bytes.
const WAITING: usize = 4;
/// What permits count.
const KIB: usize = 1024;

/// What is waited for, and for how long.
#[derive(Debug, Clone, Copy)]
struct Waits {
    /// For room for an answer that has not begun: longer than it takes until a reader that stalls gives way.
    begin: Duration,
    /// For a reader to ask for more of its answer, before it gives way to one that waits. More is a chunk of 64 KiB, beside
    /// what the kernel buffers.
    reader: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            begin: Duration::from_secs(5),
            reader: Duration::from_secs(3),
        }
    }
}

/// The share of all answers. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ReadersShare(Arc<Share>);

#[derive(Debug)]
struct Share {
    account: MemoryReservation,
    bytes: usize,
    /// In KiB.
    room: Arc<Semaphore>,
    /// First rows that wait for room, in KiB.
    waiting: Semaphore,
    readers: Readers,
    /// Held by who looks for a reader that gives its room away.
    looking: Mutex<()>,
    places: Lines,
    seats: Lines,
    waits: Waits,
}

impl ReadersShare {
    /// A share of what `pool` may give to queries, of which there are `places` at once.
    pub(crate) fn of(pool: &Arc<dyn MemoryPool>, places: usize) -> Self {
        Self::with_waits(pool, places, Waits::default())
    }

    fn with_waits(pool: &Arc<dyn MemoryPool>, places: usize, waits: Waits) -> Self {
        let most = Semaphore::MAX_PERMITS
            .min(u32::MAX as usize)
            .saturating_mul(KIB);
        let bytes = match pool.memory_limit() {
            MemoryLimit::Finite(bytes) => (bytes / SHARE).clamp(KIB, most),
            _ => most,
        };
        Self(Arc::new(Share {
            account: MemoryConsumer::new("Answers").register(pool),
            bytes,
            room: Arc::new(Semaphore::new(bytes / KIB)),
            waiting: Semaphore::new(kib(bytes / WAITING, bytes) as usize),
            readers: Readers::default(),
            looking: Mutex::default(),
            places: Lines::of(places),
            seats: Lines::seats(SHARE.saturating_mul(bytes)),
            waits,
        }))
    }

    /// The memory of a new answer, which has a place.
    pub(crate) fn answer(&self, place: &Admission) -> AnswerMemory {
        self.answer_at(Arc::downgrade(place))
    }

    fn answer_without_place(&self) -> AnswerMemory {
        self.answer_at(Weak::new())
    }

    fn answer_at(&self, place: Weak<Admitted>) -> AnswerMemory {
        AnswerMemory(Some(Arc::new(One {
            share: Arc::clone(&self.0),
            ahead: Arc::new(Semaphore::new(AHEAD_BYTES / KIB)),
            turn: Mutex::default(),
            begun: AtomicBool::new(false),
            group: OnceCell::new(),
            own_group: Arc::new(Semaphore::new(1)),
            place,
            seat: OnceLock::new(),
            reader: Reader::default(),
        })))
    }

    /// The memory of an answer that consists of `rows`, which were looked up: most are nothing to speak of.
    pub(crate) fn answer_of(&self, rows: &RecordBatch) -> AnswerMemory {
        match rows.get_array_memory_size() {
            ..=AHEAD_BYTES => AnswerMemory::default(),
            _ => self.answer_without_place(),
        }
    }
}

impl Share {
    fn kib(&self, bytes: usize) -> u32 {
        kib(bytes, self.bytes)
    }

    /// As far as computing has left so much: past its limit, the pool would refuse even steps that need nothing.
    fn account(&self, bytes: usize) -> Option<MemoryReservation> {
        let account = self.account.new_empty();
        account.try_grow(bytes).ok()?;
        Some(account)
    }

    fn try_room(&self, bytes: usize) -> Option<Room> {
        let room = Arc::clone(&self.room).try_acquire_many_owned(self.kib(bytes));
        Some((room.ok()?, self.account(bytes)))
    }

    async fn room(&self, bytes: usize) -> Option<Room> {
        let room = acquired(&self.room, self.kib(bytes)).await;
        Some((room?, self.account(bytes)))
    }

    /// Room for an answer that has not begun.
    async fn begin(&self, bytes: usize) -> Result<Room> {
        let Self {
            readers,
            looking,
            waits,
            ..
        } = self;
        let waiting = async {
            tokio::select! {
                biased;
                room = self.room(bytes) => room,
                never = readers.make_room(waits.reader, looking, One::holds_room) => match never {},
            }
        };
        let room = timeout(self.waits.begin, waiting).await.ok().flatten();
        room.ok_or_else(|| self.full(bytes))
    }

    /// Room for the first rows of an answer.
    async fn begin_with_rows(&self, bytes: usize) -> Result<Room> {
        let waits = kib(bytes, self.bytes / WAITING);
        let waits = self.waiting.try_acquire_many(waits);
        let _waits = waits.map_err(|_| self.full(bytes))?;
        self.begin(bytes).await
    }

    fn full(&self, bytes: usize) -> DataFusionError {
        let [bytes, most] = [bytes, self.bytes].map(human_readable_size);
        DataFusionError::ResourcesExhausted(format!(
            "the answer has no room for {bytes} of rows, as readers of all answers may have {most} wait for them"
        ))
    }
}

/// A part of the share, on the account.
type Room = (OwnedSemaphorePermit, Option<MemoryReservation>);

/// Memory of one answer; by default of one that is made of what is there anyway, which counts nothing. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct AnswerMemory(Option<Arc<One>>);

#[derive(Debug)]
struct One {
    share: Arc<Share>,
    /// In KiB.
    ahead: Arc<Semaphore>,
    /// Who waits for room for rows holds it: the parts of an answer wait in turn.
    turn: Mutex<()>,
    /// Whether something was given room.
    begun: AtomicBool,
    /// What it keeps of the share for one of its row groups, so that it can go on.
    group: OnceCell<RowGroup>,
    /// Whose row group that is for now.
    own_group: Arc<Semaphore>,
    /// Its place, as long as it has one.
    place: Weak<Admitted>,
    /// Its seat to compute, as long as it has one.
    seat: OnceLock<Weak<Admitted>>,
    reader: Reader,
}

impl One {
    fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    fn begins(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }
}

/// What something takes, until this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Held {
    _room: Option<Arc<Room>>,
    _ahead: Option<OwnedSemaphorePermit>,
}

/// Memory of one of the parts that an answer comes in.
#[derive(Debug)]
pub(crate) struct PartMemory {
    one: Option<Arc<One>>,
    cuts: bool,
    /// What the rows before were cut from, and its room.
    whole: Option<(usize, Arc<Room>)>,
}

impl PartMemory {
    /// Room for rows that were made: waits until the reader has come near enough.
    ///
    /// # Errors
    /// `ResourcesExhausted` for the first rows, where readers of others hold too much.
    pub(crate) async fn rows(&mut self, rows: &RecordBatch) -> Result<Held> {
        let Some(one) = &self.one else {
            return Ok(Held::default());
        };
        let bytes = bytes_of(rows);
        let needed = kib(bytes, AHEAD_BYTES);
        let whole = self.cuts.then(|| whole_of(rows, bytes)).flatten();
        if let (Some((known, room)), Some((at, _))) = (&self.whole, whole)
            && *known == at
        {
            return Ok(Held {
                _room: Some(Arc::clone(room)),
                _ahead: acquired(&one.ahead, needed).await,
            });
        }
        self.whole = None;
        let bytes = whole.map_or(bytes, |(_, bytes)| bytes);
        let _turn = one.turn.lock().await;
        let mut room = one.share.try_room(bytes);
        if room.is_none() && !one.has_begun() && bytes > SMALL_BYTES {
            room = Some(one.share.begin_with_rows(bytes).await?);
        }
        one.begins();
        let ahead = acquired(&one.ahead, needed).await;
        if room.is_none() {
            let all_others = kib(AHEAD_BYTES, AHEAD_BYTES) - needed;
            room = tokio::select! {
                biased;
                room = one.share.room(bytes) => room,
                _ = acquired(&one.ahead, all_others) => None,
            };
        }
        let room = room.map(Arc::new);
        if let (Some((at, _)), Some(room)) = (whole, &room) {
            self.whole = Some((at, Arc::clone(room)));
        }
        Ok(Held {
            _room: room,
            _ahead: ahead,
        })
    }
}

/// Where something much larger is that `rows`, which take so many bytes, were cut from, and how large. It is there for
/// as long as any of its rows is.
fn whole_of(rows: &RecordBatch, bytes: usize) -> Option<(usize, usize)> {
    let whole = rows.get_array_memory_size();
    // What grew as it was filled has room for twice as much.
    if whole <= 2 * bytes + SMALL_BYTES {
        return None;
    }
    let first = rows.columns().first()?.to_data();
    let at = first.buffers().first()?.data_ptr();
    Some((at.as_ptr() as usize, whole))
}

impl AnswerMemory {
    /// For one of its parts; `cuts` says that batches are cut from larger ones that nobody has an account of.
    pub(crate) fn part(&self, cuts: bool) -> PartMemory {
        PartMemory {
            one: self.0.clone(),
            cuts,
            whole: None,
        }
    }

    /// Room for rows that are collected before an answer begins.
    ///
    /// # Errors
    /// `Busy` where there is none.
    pub(crate) async fn collected(&self, rows: &RecordBatch) -> Result<Held, Problem> {
        let Some(one) = &self.0 else {
            return Ok(Held::default());
        };
        let bytes = bytes_of(rows);
        let mut room = one.share.try_room(bytes);
        if room.is_none() && bytes > SMALL_BYTES {
            let waited = one.share.begin_with_rows(bytes).await;
            room = Some(waited.map_err(|full| problem_of(&full))?);
        }
        Ok(Held {
            _room: room.map(Arc::new),
            _ahead: None,
        })
    }

    /// What rows are encoded into: so many bytes, which are there already.
    pub(crate) fn encoded(&self, bytes: usize) -> Option<MemoryReservation> {
        self.0.as_ref()?.share.account(bytes)
    }
}

/// `bytes` in KiB, of `most` at most.
fn kib(bytes: usize, most: usize) -> u32 {
    let kib = bytes.div_ceil(KIB).clamp(1, most / KIB);
    u32::try_from(kib).unwrap_or(u32::MAX)
}

async fn acquired(room: &Arc<Semaphore>, kib: u32) -> Option<OwnedSemaphorePermit> {
    // Nobody closes it.
    Arc::clone(room).acquire_many_owned(kib).await.ok()
}

#[cfg(test)]
mod tests;
