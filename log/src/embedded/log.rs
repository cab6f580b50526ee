// SPDX-License-Identifier: Apache-2.0
//! The handle on a log, and the thread behind it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use dovetail_model::{Clock, Offset, StreamSchema};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::admission::Request;
use super::committer::Committer;
use super::disk::Disk;
use super::error::LogError;
use super::keys::{KeyHash, KeyIndex};
use super::payload::{ColumnMap, Encoder, Shape};
use super::reader::TailReader;
use super::recovery::{self, Recovered};
use super::segment::Segments;
use super::{Append, Appended, CommitSink, LogOptions};
use crate::DeadLetter;

/// Bytes that one frame gathers at most, but for the append that reaches it.
const GROUP_MAX_BYTES: usize = 16 << 20;
/// What one permit of the queue stands for.
const ROOM_UNIT_BYTES: usize = 1024;

/// A durable log of one stream with one partition. Clones share it; when the last one is dropped, what
/// waits is committed still and the committer ends. [`Self::close`] waits for that: only then may the log
/// be opened again.
#[derive(Debug, Clone)]
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Command>,
    /// Bytes that may still enter the queue, in units.
    room: Arc<Semaphore>,
    room_units: usize,
    stopped: watch::Receiver<bool>,
}

/// What the committer, readers and forgetting share.
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) options: LogOptions,
    /// What the committer takes and hands on now. Locked for moments.
    shape: Mutex<Arc<Shape>>,
    durable: AtomicU64,
    /// Locked for moments, never during an fsync.
    pub(super) keys: Mutex<KeyIndex>,
    /// Locked for moments, never during an fsync.
    pub(super) segments: Mutex<Segments>,
    /// One forgets at a time.
    pub(super) forgetting: Mutex<()>,
}

impl Shared {
    pub(super) fn durable(&self) -> Offset {
        Offset(self.durable.load(Ordering::Acquire))
    }

    pub(super) fn set_durable(&self, next: Offset) {
        self.durable.store(next.0, Ordering::Release);
    }

    pub(super) fn shape(&self) -> Arc<Shape> {
        Arc::clone(&self.shape.lock())
    }

    pub(super) fn set_shape(&self, shape: Arc<Shape>) {
        *self.shape.lock() = shape;
    }

    pub(super) fn oldest(&self) -> Offset {
        let segments = self.segments.lock();
        segments
            .front()
            .map_or(Offset(0), |first| first.header.first)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("oldest", &self.oldest())
            .field("durable", &self.durable())
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum Command {
    Append(Request),
    /// What is queued behind it is of the new shape, or was checked before.
    Evolve(Evolve),
    Close,
}

struct Evolve {
    shape: Arc<Shape>,
    encoder: Encoder,
    done: oneshot::Sender<()>,
}

impl fmt::Debug for Evolve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Evolve")
            .field("columns", &self.shape.columns)
            .finish_non_exhaustive()
    }
}

impl EmbeddedLog {
    /// Opens the log on `disk`, or begins one, and verifies all of it. A torn last frame is dropped and
    /// named in what was recovered. The schema may have grown by columns that may be null since the log was
    /// written; older events have null there.
    ///
    /// `commits` gets every batch committed from now on; read what was there before with [`Self::read`].
    /// Whether the log fits the raw log, `oldest <= archived <= next`, is for the caller to check: the log
    /// cannot know that its newest segments, or all of them, are missing.
    ///
    /// # Errors
    /// When a file is damaged, missing, of a newer format or of another schema, and when the disk fails.
    pub fn open(
        disk: Arc<dyn Disk>,
        schema: &StreamSchema,
        options: LogOptions,
        clock: Arc<dyn Clock>,
        commits: CommitSink,
    ) -> Result<(EmbeddedLog, Recovered), LogError> {
        let shape = Shape::new(schema);
        let encoder = encoder_of(&shape);
        let opened = recovery::open(disk.as_ref(), &schema.columns, &options, clock.moment())?;
        let shared = Arc::new(Shared {
            disk,
            options,
            shape: Mutex::new(Arc::new(shape)),
            durable: AtomicU64::new(opened.cursor.next.0),
            keys: Mutex::new(opened.keys),
            segments: Mutex::new(opened.segments),
            forgetting: Mutex::new(()),
        });
        let committer = Committer::new(
            Arc::clone(&shared),
            commits,
            clock,
            encoder,
            opened.file,
            opened.cursor,
            opened.sealed,
        );
        let (queue, commands) = mpsc::channel(options.queue_max_requests.max(1));
        let (stop, stopped) = watch::channel(false);
        std::thread::Builder::new()
            .name("log-committer".to_owned())
            .spawn(move || {
                let _stop = StopOnDrop(stop);
                run(committer, commands);
            })
            .map_err(LogError::io("start the committer of", "."))?;
        let room_units = (options.queue_max_bytes / ROOM_UNIT_BYTES)
            .clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let log = EmbeddedLog {
            shared,
            queue,
            room: Arc::new(Semaphore::new(room_units)),
            room_units,
            stopped,
        };
        Ok((log, opened.recovered))
    }

    /// Begins a log on an empty `disk` whose first event will be `first`: what lies before it is archived, and was in
    /// another log. Open it then.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn begin(disk: &dyn Disk, schema: &StreamSchema, first: Offset) -> Result<(), LogError> {
        let options = LogOptions::default();
        let keys = KeyIndex::new(options.key_ttl, options.keys_max);
        recovery::begin(disk, &schema.columns, keys, first).map(|_| ())
    }

    /// Appends, and answers once all of it is durable and handed to the sink. Waits for room in the queue
    /// first.
    ///
    /// An append that is dropped while it waits for its answer may be committed all the same.
    ///
    /// # Errors
    /// `Invalid` when it does not fit the stream's schema, `Unprocessable` when its key was used for
    /// another body, `Busy` when too many keys are remembered; nothing was kept then. `Unavailable` when
    /// the disk is full (nothing was kept), when the disk fails (unknown) and when the log is closed.
    pub async fn append(&self, append: Append) -> Result<Appended, LogError> {
        let request_bytes = self.check(&append)?;
        let units = (request_bytes / ROOM_UNIT_BYTES + 1).min(self.room_units);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(units);
        let room = room.await.map_err(|_| LogError::Closed)?;
        let (answer, answered) = oneshot::channel();
        let request = Request {
            key: append
                .key
                .as_ref()
                .map(|key| (KeyHash::of(&key.key), key.body_hash)),
            append,
            bytes: request_bytes,
            answer,
            room: Some(room),
        };
        let sent = self.queue.send(Command::Append(request)).await;
        sent.map_err(|_| LogError::Closed)?;
        answered.await.unwrap_or_else(|_| {
            Err(LogError::CommitFailed {
                action: "answer",
                reason: "its committer stopped".to_owned(),
            })
        })
    }

    /// Checks an append; answers about how many bytes it holds.
    fn check(&self, append: &Append) -> Result<usize, LogError> {
        let shape = self.shared.shape();
        let declared = &shape.declared;
        let found = append.events.schema_ref();
        let named = |schema: &SchemaRef| -> Vec<String> {
            schema.fields().iter().map(|f| f.name().clone()).collect()
        };
        if named(found) != named(declared) {
            return Err(LogError::BadAppend(format!(
                "its columns are {:?}, those of the stream {:?}",
                named(found),
                named(declared)
            )));
        }
        // Types and missing values.
        RecordBatch::try_new(Arc::clone(declared), append.events.columns().to_vec())
            .map_err(LogError::bad_append)?;
        if !append.replayed.is_empty()
            && append.events.num_rows() == 0
            && append.dead_letters.is_empty()
        {
            return Err(LogError::BadAppend(
                "it settles dead letters, but neither as events nor as dead letters".to_owned(),
            ));
        }
        let letter_bytes = |letter: &DeadLetter| letter.bytes.len() + letter.reason.len();
        let letters: usize = append.dead_letters.iter().map(letter_bytes).sum();
        let columns = append.events.columns().iter();
        let events: usize = columns
            .map(|column| column.to_data().get_slice_memory_size().unwrap_or(0))
            .sum();
        Ok(letters + events)
    }

    /// Takes and hands on events of `schema` from now on: the one before, grown by columns that may be null, or
    /// by columns that may be null now. Appends that were made before this are committed before it, or get null in
    /// the new columns.
    ///
    /// # Errors
    /// `Schema` when it is not the one before, grown; `Closed`.
    pub async fn evolve(&self, schema: &StreamSchema) -> Result<(), LogError> {
        let shape = Arc::new(Shape::new(schema));
        ColumnMap::new(&self.shared.shape().columns, &shape.columns).map_err(|reason| {
            LogError::Schema {
                file: "the log".to_owned(),
                reason,
            }
        })?;
        let (done, evolved) = oneshot::channel();
        let evolve = Evolve {
            encoder: encoder_of(&shape),
            shape,
            done,
        };
        let sent = self.queue.send(Command::Evolve(evolve)).await;
        sent.map_err(|_| LogError::Closed)?;
        evolved.await.map_err(|_| LogError::Closed)
    }

    /// Offset behind the last durable event.
    pub fn durable(&self) -> Offset {
        self.shared.durable()
    }

    /// First offset that the log still has.
    pub fn oldest_retained(&self) -> Offset {
        self.shared.oldest()
    }

    /// Reads the durable part of `[from, to)`, in order and cut to it. Reads files: not for an async task.
    ///
    /// The first item is an error when `from` was forgotten already; any error ends the iteration.
    pub fn read(&self, from: Offset, to: Offset) -> TailReader {
        TailReader::new(Arc::clone(&self.shared), from, to)
    }

    /// Deletes the segments that lie wholly below `archived`, except the last one. Their keys that still
    /// live are kept. Writes files: not for an async task. Answers the first offset that is retained.
    ///
    /// # Errors
    /// When `archived` is not durable here, and when the disk fails; the log stays whole then. When the
    /// log is closed, since somebody else may have opened it.
    pub fn forget(&self, archived: Offset) -> Result<Offset, LogError> {
        if *self.stopped.borrow() {
            return Err(LogError::Closed);
        }
        self.shared.forget(archived)
    }

    /// Takes no more appends, commits those that are queued, and waits until the committer has ended.
    /// Appends that still wait for room are refused as closed. The files are free after that.
    pub async fn close(&self) {
        self.room.close();
        // It may have been closed before.
        let _ = self.queue.send(Command::Close).await;
        let mut stopped = self.stopped.clone();
        // An error means that the sender is gone, and the committer with it.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }
}

/// Says that the committer has stopped, also when it panics.
struct StopOnDrop(watch::Sender<bool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

fn run(mut committer: Committer, mut commands: mpsc::Receiver<Command>) {
    while let Some(first) = commands.blocking_recv() {
        let mut group = Vec::new();
        let mut bytes = 0;
        let mut evolve = None;
        let mut command = Some(first);
        while let Some(taken) = command {
            match taken {
                Command::Append(request) => {
                    bytes += request.bytes;
                    group.push(request);
                }
                // It ends the group: what was queued before it is committed before it.
                Command::Evolve(next) => {
                    evolve = Some(next);
                    break;
                }
                // What was queued before stays and is drained.
                Command::Close => commands.close(),
            }
            command = if bytes < GROUP_MAX_BYTES {
                commands.try_recv().ok()
            } else {
                None
            };
        }
        committer.commit(group);
        if let Some(Evolve {
            shape,
            encoder,
            done,
        }) = evolve
        {
            committer.evolve(&shape, encoder);
            // Whoever asked may have gone.
            let _ = done.send(());
        }
    }
    committer.seal();
}

fn encoder_of(shape: &Shape) -> Encoder {
    Encoder::new(&shape.declared).expect("every declared type has an IPC form")
}
