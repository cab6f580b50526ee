// SPDX-License-Identifier: Apache-2.0
//! Appends to a topic: each request whole or not at all, and once however often it is sent.
//!
//! Purpose: `POST /v1/streams/{s}` on a stream that reads a topic. Collaborators: the node hands in what [`compose`]
//! made of a body; librdkafka's transactional producer does the work.
//! Invariants: a request is within one transaction, and is answered only when that is committed. An idempotency key
//! commits in the transaction of its events. Each key belongs to one of `LANES` lanes, by its hash. A lane is a
//! thread, a `transactional.id` and a partition of the keys' topic; whoever initialises the id last is the only one
//! who can commit there (Kafka fences all others), and reads the partition to its end before it decides anything.
//! Non-goals: creating the stream's topic; formats that need a schema registry.
//!
//! ```text
//!  requests ──► lane ──► begin ─ events ─ flush ─ keys with their answers ─ commit ──► answers
//!               all that wait share a transaction        (topic `dovetail.keys.{stream id}`)
//! ```

pub mod compose;
mod error;
mod keys;
mod keys_topic;
mod lane;
mod reports;
mod session;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use bytes::Bytes;
use dovetail_model::{Clock, KafkaSource, Moment, Position, StreamId};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tracing::error;

pub use error::ProduceError;
pub use keys::IdempotencyKey;

use keys::KeyHash;
use lane::{Lane, Request};

/// Lanes of a stream. Fixed for good: a key must always meet the same one.
pub(crate) const LANES: u32 = 4;
/// Requests that wait for a lane; more wait outside.
const QUEUE: usize = 256;

/// A record to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Its value.
    pub value: Bytes,
    /// Its key, which decides its partition.
    pub key: Option<Bytes>,
    /// Its timestamp, milliseconds since the Unix epoch; the moment when it is sent if none.
    pub timestamp_ms: Option<i64>,
    /// Its headers.
    pub headers: Vec<(String, Option<Bytes>)>,
}

/// What one request appends.
#[derive(Debug, Clone, Default)]
pub struct Append {
    /// The records, in their order.
    pub messages: Vec<Message>,
    /// How many of them are not events of the stream, and will be its dead letters.
    pub rejected: u64,
    /// Makes a retry harmless.
    pub key: Option<IdempotencyKey>,
    /// Where the answer's position stands in the partitions that the request does not touch.
    pub read: Position,
}

/// What was appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Records that are events of the stream.
    pub accepted: u64,
    /// Records that are not.
    pub rejected: u64,
    /// Behind all of them.
    pub position: Position,
    /// Whether an earlier request with the same key did it.
    pub duplicate: bool,
}

/// Appends to the topic of one stream. It connects with the first append.
#[derive(Clone)]
pub struct KafkaWriter(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    lanes: Mutex<Option<[Option<Running>; LANES as usize]>>,
}

struct Running {
    requests: mpsc::Sender<Request>,
    thread: JoinHandle<()>,
}

/// What all lanes of a stream share.
struct Shared {
    stream: StreamId,
    name: String,
    source: KafkaSource,
    clock: Arc<dyn Clock>,
    opened: Moment,
    /// Counts the requests that go whole into one partition.
    turn: AtomicU32,
}

impl fmt::Debug for KafkaWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaWriter")
            .field("stream", &self.0.shared.name)
            .finish_non_exhaustive()
    }
}

impl KafkaWriter {
    /// Appends to `source`, the topic of the stream `name`.
    pub fn new(stream: &StreamId, name: &str, source: &KafkaSource, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            shared: Arc::new(Shared {
                stream: stream.clone(),
                name: name.to_owned(),
                source: source.clone(),
                opened: clock.moment(),
                clock,
                turn: AtomicU32::new(0),
            }),
            lanes: Mutex::new(Some(Default::default())),
        }))
    }

    /// Appends, and returns when the transaction is committed, or when it cannot be. Dropping the future does not
    /// stop the append.
    ///
    /// # Errors
    /// Why nothing was appended; or, as [`ProduceError::Unknown`], that it cannot be told.
    pub async fn append(&self, append: Append) -> Result<Appended, ProduceError> {
        let (answer, answered) = oneshot::channel();
        let lane = append.key.as_ref().map(|key| KeyHash::of(&key.key).lane());
        let requests = self.requests(lane.unwrap_or(0))?;
        let sent = requests.send(Request { append, answer }).await;
        sent.map_err(|_| ProduceError::Closed)?;
        answered.await.map_err(|_| ProduceError::Closed)?
    }

    /// Where a lane takes its requests; it is started when it is needed first.
    fn requests(&self, number: u32) -> Result<mpsc::Sender<Request>, ProduceError> {
        let mut lanes = self.0.lanes.lock();
        let lanes = lanes.as_mut().ok_or(ProduceError::Closed)?;
        let lane = &mut lanes[number as usize];
        if let Some(running) = lane {
            return Ok(running.requests.clone());
        }
        let (requests, waiting) = mpsc::channel(QUEUE);
        let shared = Arc::clone(&self.0.shared);
        let started = std::thread::Builder::new()
            .name(format!("kafka-{}-{number}", shared.name))
            .spawn(move || Lane::new(shared, number).run(waiting));
        let thread = started.map_err(|error| ProduceError::NotKept {
            reason: error.to_string(),
        })?;
        let running = Running { requests, thread };
        Ok(lane.insert(running).requests.clone())
    }

    /// Takes no more appends, and waits for those that were taken.
    pub fn close(&self) {
        let lanes = self.0.lanes.lock().take();
        let running = lanes.into_iter().flatten().flatten();
        let threads: Vec<_> = running.map(|running| running.thread).collect();
        for thread in threads {
            if thread.join().is_err() {
                error!(stream = %self.0.shared.name, "a thread that appends to the topic panicked");
            }
        }
    }
}

impl Shared {
    /// The time by which keys live: what the wall clock said at first, and the time since. A clock that is set forward
    /// meanwhile makes no retry count twice.
    fn now_us(&self) -> i64 {
        self.opened.now_us + (self.clock.steady_us() - self.opened.steady_us)
    }

    /// The partition of a request that goes into one as a whole: each takes its turn.
    fn next_partition(&self, partitions: u32) -> u32 {
        self.turn.fetch_add(1, Ordering::Relaxed) % partitions.max(1)
    }
}
