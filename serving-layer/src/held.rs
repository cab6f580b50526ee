// SPDX-License-Identifier: Apache-2.0
//! Memory of what is held for the readers of answers, who may be slow.
//!
//! ```text
//! plan ─► rows ─► up to AHEAD_BYTES that wait ─► rows that are encoded ─► a chunk ─► socket
//!         └───────────────── on the account of all queries ──────────────────────┘
//!                 └── share of all answers: half of it ──┘
//! ```
//! Purpose: whatever a reader does not read is on the account of the queries, and bounded by bytes. Collaborators: the
//! engine asks for room for the rows that it made, [`crate::http`] for what it encodes them into.
//! Invariants: an answer has at most [`AHEAD_BYTES`] ahead of its reader, or one batch. Once all answers hold their
//! share, one that has not begun is refused, and one that has waits until its reader has read what it holds: it always
//! goes on then, so that no answer waits for the reader of another.
//! Non-goals: what operators hold, which ask the pool themselves.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation, human_readable_size,
};
use dovetail_model::Problem;
use dovetail_view::bytes_of;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use crate::problem::problem_of;

/// Bytes of rows that wait for the reader of one answer: enough for a fast one never to wait.
const AHEAD_BYTES: usize = 4 << 20;
/// Of the memory of all queries, all answers may hold one in so many bytes for their readers: the rest is for computing.
const SHARE: usize = 2;
/// The first rows of an answer are never refused where they take no more than this.
const SMALL_BYTES: usize = 256 << 10;
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
        let most = (Semaphore::MAX_PERMITS.min(u32::MAX as usize)).saturating_mul(KIB);
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

    /// The memory of an answer that consists of `rows`, which were looked up: most are nothing to speak of.
    pub(crate) fn answer_of(&self, rows: &RecordBatch) -> AnswerMemory {
        match rows.get_array_memory_size() {
            ..=AHEAD_BYTES => AnswerMemory::default(),
            _ => self.answer(),
        }
    }

    /// The memory of a new answer.
    pub(crate) fn answer(&self) -> AnswerMemory {
        AnswerMemory(Some(Arc::new(One {
            share: self.clone(),
            ahead: Arc::new(Semaphore::new(AHEAD_BYTES / KIB)),
            begun: Mutex::new(false),
        })))
    }

    fn full(&self, bytes: usize) -> DataFusionError {
        let [bytes, most] = [bytes, self.0.bytes].map(human_readable_size);
        DataFusionError::ResourcesExhausted(format!(
            "the answer has no room for {bytes} of rows, as readers of all answers may have {most} wait for them"
        ))
    }
}

/// Memory of one answer; by default of one that is made of what is there anyway, which counts nothing. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct AnswerMemory(Option<Arc<One>>);

#[derive(Debug)]
struct One {
    share: ReadersShare,
    /// In KiB.
    ahead: Arc<Semaphore>,
    /// Whether some rows were given room. Who waits for room holds it: the parts of an answer wait in turn.
    begun: Mutex<bool>,
}

/// Room that something takes, until this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Held {
    account: Option<MemoryReservation>,
    _room: Option<OwnedSemaphorePermit>,
    _ahead: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// Makes it so many bytes on the account, whatever there is.
    pub(crate) fn resize(&self, bytes: usize) {
        if let Some(account) = &self.account {
            account.resize(bytes);
        }
    }
}

impl AnswerMemory {
    /// Room for rows that were made: waits until the reader has come near enough.
    ///
    /// # Errors
    /// `ResourcesExhausted` for the first rows, where readers of others hold too much.
    pub(crate) async fn rows(&self, rows: &RecordBatch) -> Result<Held> {
        let Some(one) = &self.0 else {
            return Ok(Held::default());
        };
        let bytes = bytes_of(rows);
        let account = self.account(bytes);
        let (needed, of_share) = (kib(bytes, AHEAD_BYTES), one.share.kib(bytes));
        let room = &one.share.0.room;
        let mut begun = one.begun.lock().await;
        let mut taken = Arc::clone(room).try_acquire_many_owned(of_share).ok();
        if taken.is_none() && !*begun && bytes > SMALL_BYTES {
            return Err(one.share.full(bytes));
        }
        *begun = true;
        let ahead = acquired(&one.ahead, needed).await;
        if taken.is_none() {
            let all_others = (AHEAD_BYTES / KIB) as u32 - needed;
            taken = tokio::select! {
                biased;
                taken = acquired(room, of_share) => taken,
                _ = acquired(&one.ahead, all_others) => None,
            };
        }
        Ok(Held {
            account,
            _room: taken,
            _ahead: ahead,
        })
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
        let account = one.share.0.account.new_empty();
        let room = Arc::clone(&one.share.0.room).try_acquire_many_owned(one.share.kib(bytes));
        match room {
            Ok(room) => {
                account.try_grow(bytes).map_err(|e| problem_of(&e))?;
                Ok(Held {
                    account: Some(account),
                    _room: Some(room),
                    _ahead: None,
                })
            }
            Err(_) if bytes <= SMALL_BYTES => Ok(self.encoded(bytes)),
            Err(_) => Err(problem_of(&one.share.full(bytes))),
        }
    }

    /// What rows were encoded into: so many bytes, which are there already.
    pub(crate) fn encoded(&self, bytes: usize) -> Held {
        Held {
            account: self.account(bytes),
            ..Held::default()
        }
    }

    fn account(&self, bytes: usize) -> Option<MemoryReservation> {
        let account = self.0.as_ref()?.share.0.account.new_empty();
        account.grow(bytes);
        Some(account)
    }
}

impl ReadersShare {
    fn kib(&self, bytes: usize) -> u32 {
        kib(bytes, self.0.bytes)
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
