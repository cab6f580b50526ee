// SPDX-License-Identifier: Apache-2.0
//! The one writer of a log: each step commits a group of appends.
//!
//! A full disk fails its group and nothing else, after what was written of it is cut off again; so does a new segment that
//! may not be made. Any other
//! failure of a write, and every failure of a sync, poisons the log: what the kernel holds in memory then
//! need not be what is on the disk, and only an open, which reads the disk anew, can tell.

use std::sync::Arc;

use dovetail_model::{Clock, Offset};
use tokio::sync::oneshot;

use super::admission::{Admitted, Answer, Request, admit, answer};
use super::batch::{Entry, Packed, committed, pack};
use super::disk::DiskFile;
use super::error::LogError;
use super::frame::{BatchMeta, EncodedFrame, FrameHeader};
use super::log::Shared;
use super::payload::{Encoder, Shape};
use super::segment::{Cursor, Segment, SegmentHeader};
use super::{Appended, CommitSink, keys};
use crate::{CommittedBatch, crash_point};

pub(super) struct Committer {
    shared: Arc<Shared>,
    sink: CommitSink,
    clock: Arc<dyn Clock>,
    encoder: Encoder,
    shape: Arc<Shape>,
    /// The last segment's.
    file: Box<dyn DiskFile>,
    cursor: Cursor,
    /// Where the last segment's first frame starts.
    start: u64,
    sequence: u64,
    /// Whether the last segment holds other columns than the stream has now.
    outgrown: bool,
    /// Whether the last frame is a seal, or there is none in the last segment.
    sealed: bool,
    /// Why nothing is written any more.
    poison: Option<LogError>,
}

/// A frame and what becomes of it when it is durable.
struct Commit {
    frame: EncodedFrame,
    batches: Vec<CommittedBatch>,
    cursor: Cursor,
}

impl Committer {
    pub(super) fn new(
        shared: Arc<Shared>,
        sink: CommitSink,
        clock: Arc<dyn Clock>,
        encoder: Encoder,
        file: Box<dyn DiskFile>,
        cursor: Cursor,
        sealed: bool,
    ) -> Self {
        let shape = shared.shape();
        let (start, sequence, outgrown) = {
            let segments = shared.segments.lock();
            let last = segments.back().expect("a log has a segment");
            let outgrown = last.header.columns != shape.columns;
            (last.start, last.sequence, outgrown)
        };
        Self {
            shared,
            sink,
            clock,
            encoder,
            shape,
            file,
            cursor,
            start,
            sequence,
            outgrown,
            sealed,
            poison: None,
        }
    }

    /// Takes appends of `shape` from now on; those that were checked before get null in its new columns. The
    /// next frame begins a segment.
    pub(super) fn evolve(&mut self, shape: &Arc<Shape>, encoder: Encoder) {
        let segments = self.shared.segments.lock();
        let last = segments.back().expect("a log has a segment");
        self.outgrown = last.header.columns != shape.columns;
        drop(segments);
        self.encoder = encoder;
        self.shape = Arc::clone(shape);
        self.shared.set_shape(Arc::clone(shape));
    }

    /// Commits a group: when this returns, it is durable, the sink has had it, and each request has its
    /// answer.
    pub(super) fn commit(&mut self, group: Vec<Request>) {
        if let Some(reason) = &self.poison {
            let refusal = LogError::Poisoned {
                reason: reason.to_string(),
            };
            for request in group {
                answer(request.answer, Err(refusal.clone()));
            }
            return;
        }
        let arrived_at_us = self.cursor.arrived_at_us.max(self.clock.now_us());
        let admitted = {
            let mut keys = self.shared.keys.lock();
            keys.expire(self.clock.moment());
            admit(group, &keys, self.cursor.next, &self.shared.options)
        };
        if admitted.writes.is_empty() {
            return;
        }
        let (entries, waiting) = take_apart(admitted);
        match self.write(entries, arrived_at_us) {
            Ok((commit, answers)) => self.release(commit, waiting, &answers),
            Err(error) => {
                for waiter in waiting {
                    answer(waiter.to, Err(error.clone()));
                }
            }
        }
    }

    /// Writes and syncs one frame of all entries. Answers the commit and what each entry is answered, with
    /// its key.
    fn write(
        &mut self,
        entries: Vec<Entry>,
        arrived_at_us: i64,
    ) -> Result<(Commit, Vec<Entered>), LogError> {
        self.roll_if_due()?;
        let answers = enter(&entries, self.cursor.next);
        let commit = self.encode(entries, arrived_at_us)?;
        self.append(&commit.frame)?;
        self.cursor = commit.cursor;
        self.sealed = false;
        Ok((commit, answers))
    }

    fn encode(&mut self, entries: Vec<Entry>, arrived_at_us: i64) -> Result<Commit, LogError> {
        let mut packed = pack(entries, self.cursor.next, arrived_at_us, &self.shape)
            .map_err(LogError::bad_append)?;
        let mut messages = Vec::new();
        for batch in &mut packed {
            if batch.declared.num_rows() > 0 {
                let message = self
                    .encoder
                    .encode(&batch.declared)
                    .map_err(LogError::bad_append)?;
                batch.meta.message_len = message.iter().map(|part| part.len() as u64).sum();
                messages.extend(message);
            }
        }
        let next = packed.last().map_or(self.cursor.next, Packed::next);
        let (metas, rest): (Vec<BatchMeta>, Vec<_>) = packed
            .into_iter()
            .map(|batch| (batch.meta, (batch.first, batch.events)))
            .unzip();
        let frame = EncodedFrame::new(self.header(next, arrived_at_us), &metas, messages);
        let batches = metas
            .into_iter()
            .zip(rest)
            .map(|(meta, (first, events))| committed(meta, first, arrived_at_us, events))
            .collect();
        Ok(Commit {
            cursor: self.behind(&frame, next, arrived_at_us),
            frame,
            batches,
        })
    }

    fn header(&self, next: Offset, arrived_at_us: i64) -> FrameHeader {
        FrameHeader {
            first: self.cursor.next,
            next,
            arrived_at_us,
            previous: self.cursor.link,
            meta_len: 0,
            content_len: 0,
            content_crc: 0,
        }
    }

    fn behind(&self, frame: &EncodedFrame, next: Offset, arrived_at_us: i64) -> Cursor {
        Cursor {
            position: self.cursor.position + frame.len,
            link: frame.link,
            next,
            arrived_at_us,
        }
    }

    /// Makes a frame durable at the cursor.
    fn append(&mut self, frame: &EncodedFrame) -> Result<(), LogError> {
        if let Err(error) = self.file.write_at(self.cursor.position, &frame.parts()) {
            let error = LogError::write(&error);
            return Err(match error {
                LogError::DiskFull { .. } => self.undo(error),
                error => self.poisoned(error),
            });
        }
        crash_point("log-append:written");
        if let Err(error) = self.file.sync() {
            let reason = error.to_string();
            return Err(self.poisoned(LogError::CommitFailed {
                action: "sync",
                reason,
            }));
        }
        crash_point("log-append:synced");
        Ok(())
    }

    /// Cuts off what was written of a frame that did not fit.
    fn undo(&mut self, full: LogError) -> LogError {
        let cut = self
            .file
            .truncate(self.cursor.position)
            .and_then(|()| self.file.sync());
        match cut {
            Ok(()) => {
                tracing::warn!(error = %full, "an append did not fit on the disk");
                full
            }
            Err(error) => self.poisoned(LogError::CommitFailed {
                action: "take back a write that did not fit",
                reason: error.to_string(),
            }),
        }
    }

    fn poisoned(&mut self, error: LogError) -> LogError {
        tracing::error!(%error, "the log takes no more appends until it is opened anew");
        self.poison = Some(error.clone());
        error
    }

    /// Begins a new segment when the last one is full or has other columns.
    fn roll_if_due(&mut self) -> Result<(), LogError> {
        let full = self.cursor.position >= self.shared.options.segment_max_bytes;
        let used = self.cursor.position > self.start;
        let due = self.outgrown || (full && used);
        if !due {
            return Ok(());
        }
        let header = SegmentHeader {
            first: self.cursor.next,
            previous: self.cursor.link,
            arrived_at_us: self.cursor.arrived_at_us,
            columns: self.shape.columns.clone(),
        };
        let sequence = self.sequence + 1;
        let disk = self.shared.disk.as_ref();
        let created = Segment::create(disk, sequence, header);
        let (segment, file) = created.map_err(|error| match LogError::segment(&error) {
            goes_on @ (LogError::DiskFull { .. } | LogError::NoSegment { .. }) => goes_on,
            error => self.poisoned(error),
        })?;
        self.cursor = Cursor::start(&segment);
        self.start = segment.start;
        self.file = file;
        self.sequence = sequence;
        self.outgrown = false;
        self.shared.segments.lock().push_back(Arc::new(segment));
        Ok(())
    }

    /// Tells the world of a durable commit: the sink before the clients, so that what a client asks for next
    /// covers what it was just answered.
    fn release(&mut self, commit: Commit, waiting: Vec<Waiter>, answers: &[Entered]) {
        {
            let mut keys = self.shared.keys.lock();
            for entered in answers {
                if let Some((key, body)) = entered.key {
                    let answer = entered.remembered(body, commit.cursor.arrived_at_us);
                    keys.remember(key, answer, self.clock.moment());
                }
            }
        }
        self.shared.set_durable(commit.cursor.next);
        // An append of nothing but a key is of no interest to anybody else.
        let batches = commit.batches.into_iter();
        let batches: Vec<Arc<CommittedBatch>> = batches
            .filter(|batch| !batch.span.is_empty())
            .map(Arc::new)
            .collect();
        if !batches.is_empty() {
            (self.sink)(batches);
        }
        for waiter in waiting {
            let appended = Appended {
                duplicate: waiter.repeats,
                ..answers[waiter.entry].appended
            };
            answer(waiter.to, Ok(appended));
        }
    }

    /// Ends the log with a frame of nothing: behind it, damage of the last commit cannot pass for a torn
    /// write.
    pub(super) fn seal(&mut self) {
        if self.sealed || self.poison.is_some() {
            return;
        }
        let Cursor {
            next,
            arrived_at_us,
            ..
        } = self.cursor;
        let frame = EncodedFrame::new(self.header(next, arrived_at_us), &[], Vec::new());
        match self.append(&frame) {
            Ok(()) => {
                self.cursor = self.behind(&frame, next, arrived_at_us);
                self.sealed = true;
            }
            Err(error) => tracing::warn!(%error, "the log is closed without a seal"),
        }
    }
}

/// What an entry is answered once it is durable.
struct Entered {
    key: Option<(keys::KeyHash, keys::BodyHash)>,
    appended: Appended,
}

impl Entered {
    fn remembered(&self, body: keys::BodyHash, arrived_at_us: i64) -> keys::Answer {
        keys::Answer {
            body,
            accepted: self.appended.accepted,
            rejected: self.appended.rejected,
            next: self.appended.next,
            arrived_at_us,
        }
    }
}

fn enter(entries: &[Entry], first: Offset) -> Vec<Entered> {
    let mut next = first.0;
    let entered = entries.iter().map(|entry| {
        let (accepted, rejected) = (
            entry.events.num_rows() as u64,
            entry.dead_letters.len() as u64,
        );
        next += accepted + rejected;
        let appended = Appended {
            accepted,
            rejected,
            next: Offset(next),
            duplicate: false,
        };
        Entered {
            key: entry.key,
            appended,
        }
    });
    entered.collect()
}

/// Someone who waits for the answer of an entry.
struct Waiter {
    entry: usize,
    /// Whether it repeats the entry rather than being it.
    repeats: bool,
    to: oneshot::Sender<Answer>,
    /// Room in the queue, held until the answer.
    _room: Option<tokio::sync::OwnedSemaphorePermit>,
}

fn take_apart(admitted: Admitted) -> (Vec<Entry>, Vec<Waiter>) {
    let mut entries = Vec::with_capacity(admitted.writes.len());
    let mut waiting = Vec::with_capacity(admitted.writes.len() + admitted.repeats.len());
    for (index, request) in admitted.writes.into_iter().enumerate() {
        waiting.push(Waiter {
            entry: index,
            repeats: false,
            to: request.answer,
            _room: request.room,
        });
        entries.push(Entry {
            events: request.append.events,
            bytes: request.bytes,
            dead_letters: request.append.dead_letters,
            key: request.key,
            replayed: request.append.replayed,
        });
    }
    waiting.extend(admitted.repeats.into_iter().map(|(entry, to)| Waiter {
        entry,
        repeats: true,
        to,
        _room: None,
    }));
    (entries, waiting)
}
