// SPDX-License-Identifier: Apache-2.0
//! Memory of what is held for the readers of answers, who may be slow.
//!
//! ```text
//! files ─► fetched ─► plan ─► rows ─► up to AHEAD_BYTES that wait ─► rows that are encoded ─► a chunk ─► socket
//!          └────────── the share of all answers: half of the memory of queries ──────────┘
//! ```
//! Purpose: whatever a reader does not read is bounded by bytes, and on the account of the queries. Collaborators: the
//! engine asks for room for the rows that it made, its scans for what they fetched, [`crate::http`] for what it encodes.
//! Invariants: an answer has at most [`AHEAD_BYTES`] ahead of its reader, or one batch. What has room is on the account,
//! as far as that is not full: it never goes past its limit for readers. Once all answers hold their share, one that has
//! not begun is refused, and one that has waits until its reader has read what it holds: it always goes on then, so that
//! no answer waits for the reader of another. What it does beyond the share is one batch, those that its parts have made
//! next, and the row groups that they are in.
//! Non-goals: what operators hold, which ask the pool themselves.

use std::any::Any;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation, human_readable_size,
};
use dovetail_log::parquet_files::Holder;
use dovetail_model::Problem;
use dovetail_view::bytes_of;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use crate::problem::problem_of;

/// Bytes of rows that wait for the reader of one answer: enough for a fast one never to wait.
const AHEAD_BYTES: usize = 4 << 20;
/// Of the memory of all queries, all answers may hold one in so many bytes for their readers: the rest is for computing.
const SHARE: usize = 2;
/// The first rows of an answer are never refused where they take no more than this.
const SMALL_BYTES: usize = 1 << 20;
/// What permits count.
const KIB: usize = 1024;

/// The share of all answers. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ReadersShare(Arc<Share>);

#[derive(Debug)]
struct Share {
    account: MemoryReservation,
    bytes: usize,
    /// In KiB.
    room: Arc<Semaphore>,
}

impl ReadersShare {
    /// A share of what `pool` may give to queries.
    pub(crate) fn of(pool: &Arc<dyn MemoryPool>) -> Self {
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
        }))
    }

    /// The memory of a new answer.
    pub(crate) fn answer(&self) -> AnswerMemory {
        AnswerMemory(Some(Arc::new(One {
            share: Arc::clone(&self.0),
            ahead: Arc::new(Semaphore::new(AHEAD_BYTES / KIB)),
            begun: Mutex::new(false),
        })))
    }

    /// The memory of an answer that consists of `rows`, which were looked up: most are nothing to speak of.
    pub(crate) fn answer_of(&self, rows: &RecordBatch) -> AnswerMemory {
        match rows.get_array_memory_size() {
            ..=AHEAD_BYTES => AnswerMemory::default(),
            _ => self.answer(),
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
    /// Whether some rows were given room. Who waits for room holds it: the parts of an answer wait in turn.
    begun: Mutex<bool>,
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
        let mut begun = one.begun.lock().await;
        let mut room = one.share.try_room(bytes);
        if room.is_none() && !*begun && bytes > SMALL_BYTES {
            return Err(one.share.full(bytes));
        }
        *begun = true;
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
    pub(crate) fn collected(&self, rows: &RecordBatch) -> Result<Held, Problem> {
        let Some(one) = &self.0 else {
            return Ok(Held::default());
        };
        let bytes = bytes_of(rows);
        match one.share.try_room(bytes) {
            None if bytes > SMALL_BYTES => Err(problem_of(&one.share.full(bytes))),
            room => Ok(Held {
                _room: room.map(Arc::new),
                _ahead: None,
            }),
        }
    }

    /// What was fetched for the answer takes room if there is some: it is bounded by what files are made of.
    fn fetched(&self, bytes: usize) -> Option<Room> {
        self.0.as_ref()?.share.try_room(bytes)
    }

    /// What rows are encoded into: so many bytes, which are there already.
    pub(crate) fn encoded(&self, bytes: usize) -> Option<MemoryReservation> {
        self.0.as_ref()?.share.account(bytes)
    }
}

impl Holder for AnswerMemory {
    fn hold(&self, bytes: usize) -> Box<dyn Any + Send + Sync> {
        Box::new(self.fetched(bytes))
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
mod tests {
    use std::time::Duration;

    use arrow::array::{ArrayRef, UInt8Array};
    use datafusion::execution::memory_pool::GreedyMemoryPool;
    use dovetail_model::ProblemKind;
    use futures::FutureExt as _;

    use super::*;

    const MIB: usize = 1 << 20;

    fn batch(bytes: usize) -> RecordBatch {
        let column: ArrayRef = Arc::new(UInt8Array::from(vec![0; bytes]));
        RecordBatch::try_from_iter([("x", column)]).unwrap()
    }

    /// Two answers may hold as much as one may have ahead.
    fn of_two() -> (Arc<dyn MemoryPool>, ReadersShare) {
        let pool = GreedyMemoryPool::new(SHARE * 2 * AHEAD_BYTES);
        let pool: Arc<dyn MemoryPool> = Arc::new(pool);
        (Arc::clone(&pool), ReadersShare::of(&pool))
    }

    #[tokio::test]
    async fn an_answer_has_so_many_bytes_ahead_of_its_reader_or_one_batch() {
        let (pool, share) = of_two();
        let mut answer = share.answer().part(true);
        let (half, large) = (batch(AHEAD_BYTES / 2), batch(AHEAD_BYTES));
        let first = answer.rows(&half).await.unwrap();
        let second = answer.rows(&half).await.unwrap();
        let mut third = Box::pin(answer.rows(&large));
        assert!(third.as_mut().now_or_never().is_none());
        // What waits is there, too.
        assert_eq!(pool.reserved(), 2 * AHEAD_BYTES);
        drop(first);
        assert!(third.as_mut().now_or_never().is_none());
        drop(second);
        let third = third.await.unwrap();
        assert!(answer.rows(&batch(1)).now_or_never().is_none());
        assert_eq!(pool.reserved(), AHEAD_BYTES);
        drop(third);
        assert_eq!(pool.reserved(), 0);
    }

    #[tokio::test]
    async fn where_readers_hold_their_share_no_answer_begins_and_others_wait_for_their_own_reader()
    {
        let (pool, share) = of_two();
        let answers = [(); 4].map(|()| share.answer());
        let [mut slow, mut other, mut begun, mut late] = answers.clone().map(|a| a.part(true));
        let [.., waiting] = answers;
        let piece = batch(3 * MIB / 2);
        let mine = begun.rows(&piece).await.unwrap();
        let _slow = slow.rows(&batch(AHEAD_BYTES)).await.unwrap();
        let others = other.rows(&batch(AHEAD_BYTES - 3 * MIB / 2)).await.unwrap();

        let refused = late.rows(&piece).await.unwrap_err();
        let problem = problem_of(&refused);
        assert_eq!(problem.kind, ProblemKind::Busy);
        for part in ["--query-memory", "readers of all answers may have 8.0 MB"] {
            assert!(problem.detail.contains(part), "{problem}");
        }
        let refused = waiting.collected(&piece).unwrap_err();
        assert_eq!(refused.kind, ProblemKind::Busy);
        // Of what is small there cannot be much.
        late.rows(&batch(SMALL_BYTES)).await.unwrap();
        waiting.collected(&batch(SMALL_BYTES)).unwrap();
        drop(waiting.hold(MIB));
        // The other half is for computing.
        assert_eq!(pool.reserved(), 2 * AHEAD_BYTES);

        // Its reader has not read it: no more for now.
        let mut more = Box::pin(begun.rows(&piece));
        assert!(more.as_mut().now_or_never().is_none());
        drop(mine);
        let mine = tokio::time::timeout(Duration::from_secs(60), more).await;
        let mine = mine.expect("others do not hold it up").unwrap();
        // Or until others have.
        let mut more = Box::pin(begun.rows(&piece));
        assert!(more.as_mut().now_or_never().is_none());
        drop(others);
        let _more = more.await.unwrap();
        assert!(late.rows(&piece).await.is_ok());
        drop(mine);
        assert_eq!(pool.reserved(), AHEAD_BYTES + 3 * MIB / 2);
    }

    /// Each part may have made its next rows; they must not wait for each other.
    #[tokio::test]
    async fn the_parts_of_an_answer_wait_in_turn() {
        let (_pool, share) = of_two();
        let [mut slow, mut other] = [(); 2].map(|()| share.answer().part(true));
        let answer = share.answer();
        let [mut first, mut second] = [(); 2].map(|()| answer.part(true));
        let piece = batch(MIB);
        let mine = first.rows(&piece).await.unwrap();
        let _slow = slow.rows(&batch(AHEAD_BYTES)).await.unwrap();
        let _other = other.rows(&batch(AHEAD_BYTES - MIB)).await.unwrap();
        let mut parts = [Box::pin(first.rows(&piece)), Box::pin(second.rows(&piece))];
        for part in &mut parts {
            assert!(part.as_mut().now_or_never().is_none());
        }
        drop(mine);
        for part in parts {
            let room = tokio::time::timeout(Duration::from_secs(60), part).await;
            drop(room.expect("it is its turn").unwrap());
        }
    }

    /// An aggregate cuts its result into batches once it has let go of its account.
    #[tokio::test]
    async fn what_batches_are_cut_from_is_there_until_the_last_one_is_read() {
        let (pool, share) = of_two();
        let answer = share.answer();
        let whole = batch(AHEAD_BYTES);
        let rows = whole.num_rows() / 8;
        let mut part = answer.part(true);
        let mut held = vec![];
        for cut in 0..8 {
            let room = part.rows(&whole.slice(cut * rows, rows)).await.unwrap();
            // It takes a little more than its values.
            assert_eq!(pool.reserved() / KIB, AHEAD_BYTES / KIB);
            held.push(room);
        }
        drop(part);
        let last = held.pop();
        drop(held);
        assert_eq!(pool.reserved() / KIB, AHEAD_BYTES / KIB);
        drop(last);
        assert_eq!(pool.reserved(), 0);

        // Unless somebody has an account of it.
        let _cut = answer.part(false).rows(&whole.slice(0, rows)).await;
        assert_eq!(pool.reserved(), rows);
    }

    /// Then even a step that needs nothing would be refused.
    #[tokio::test]
    async fn an_account_that_is_full_gets_no_fuller() {
        let (pool, share) = of_two();
        let computing = MemoryConsumer::new("sort").register(&pool);
        let limit = SHARE * 2 * AHEAD_BYTES;
        computing.grow(limit - MIB);
        let answer = share.answer();
        let mut part = answer.part(true);
        let rows = part.rows(&batch(2 * MIB)).await.unwrap();
        let chunk = answer.encoded(2 * MIB);
        assert_eq!(pool.reserved(), limit - MIB);
        computing.shrink(4 * MIB);
        let more = part.rows(&batch(2 * MIB)).await.unwrap();
        assert_eq!(pool.reserved(), limit - 3 * MIB);
        drop((rows, chunk, more));
        assert_eq!(pool.reserved(), limit - 5 * MIB);
    }
}
