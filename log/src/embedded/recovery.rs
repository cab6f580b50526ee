// SPDX-License-Identifier: Apache-2.0
//! Opening a log: everything is verified before anything is served.
//!
//! Only what a crash can leave is mended: unfinished files, segments whose deletion was decided, and a torn
//! last frame with nothing valid behind it. Everything else that is not as it was written is an error.

use std::sync::Arc;

use dovetail_model::{Column, Moment, Offset};

use super::LogOptions;
use super::disk::{Disk, DiskFile};
use super::error::LogError;
use super::frame::{self, BatchMeta, FrameHeader};
use super::keys::{Answer, KeyIndex, KeysFile, KeysFileError};
use super::segment::{Cursor, Found, Segment, SegmentHeader, Segments, UNFINISHED, read_content};

/// Name of the file with the keys of forgotten segments.
pub(super) const KEYS_FILE: &str = "keys";

/// What an open found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// First offset that the log still has.
    pub oldest: Offset,
    /// Offset of the next event: everything before it is durable.
    pub next: Offset,
    /// Segments verified.
    pub segments: usize,
    /// Group commits verified.
    pub frames: u64,
    /// Bytes verified.
    pub bytes: u64,
    /// Idempotency keys that live.
    pub keys: usize,
    /// The last frame, if a crash tore it. It was never acknowledged. Whoever opens the log is to say so: it knows whose it is.
    pub dropped: Option<TornTail>,
}

/// The remains of a frame that a crash tore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// Name of the segment.
    pub file: String,
    /// Where the frame started.
    pub position: u64,
    /// How many bytes of it there were.
    pub bytes: u64,
    /// Offset of its first event.
    pub offset: Offset,
    /// How it was told from a whole one.
    pub reason: &'static str,
}

/// A verified log, ready to be appended to.
pub(super) struct Opened {
    pub(super) segments: Segments,
    /// The last segment.
    pub(super) file: Box<dyn DiskFile>,
    pub(super) cursor: Cursor,
    /// Whether nothing but a seal can be damaged without being noticed.
    pub(super) sealed: bool,
    pub(super) keys: KeyIndex,
    pub(super) recovered: Recovered,
}

/// Opens and verifies the log on `disk`, or begins one.
pub(super) fn open(
    disk: &dyn Disk,
    columns: &[Column],
    options: &LogOptions,
    now: Moment,
) -> Result<Opened, LogError> {
    let mut keys = KeyIndex::new(options.key_ttl, options.keys_max);
    let names = sweep(disk)?;
    let forgotten = read_keys(disk, &names)?;
    let first_segment = forgotten.as_ref().map_or(0, |file| file.first_segment);
    for (key, answer) in forgotten.iter().flat_map(|file| &file.keys) {
        keys.remember(*key, *answer, now);
    }
    let listed = list_segments(disk, names, first_segment)?;
    if listed.is_empty() && forgotten.is_none() {
        return begin(disk, columns, keys, Offset(0));
    }
    let mut verifier = Verifier {
        disk,
        columns,
        now,
        keys,
        segments: Segments::new(),
        last: None,
        sealed: true,
        frames: 0,
        bytes: 0,
        dropped: None,
    };
    let count = listed.len();
    for (index, name) in listed.into_iter().enumerate() {
        verifier.segment(&name, first_segment + index as u64, index + 1 == count)?;
    }
    disk.sync_dir().map_err(LogError::io("sync", "."))?;
    verifier.finish(first_segment)
}

/// Begins a log whose first event will be `first`.
pub(super) fn begin(
    disk: &dyn Disk,
    columns: &[Column],
    keys: KeyIndex,
    first: Offset,
) -> Result<Opened, LogError> {
    let header = SegmentHeader {
        first,
        previous: 0,
        arrived_at_us: i64::MIN,
        columns: columns.to_vec(),
    };
    let (segment, file) = Segment::create(disk, 0, header)
        .map_err(LogError::io("create", &Segment::name(0, first)))?;
    Ok(Opened {
        cursor: Cursor::start(&segment),
        sealed: true,
        segments: [Arc::new(segment)].into(),
        file,
        keys,
        recovered: Recovered {
            oldest: first,
            next: first,
            segments: 1,
            frames: 0,
            bytes: 0,
            keys: 0,
            dropped: None,
        },
    })
}

/// Removes unfinished files; answers the names of the others.
fn sweep(disk: &dyn Disk) -> Result<Vec<String>, LogError> {
    let names = disk.list().map_err(LogError::io("list", "."))?;
    let (unfinished, names): (Vec<_>, Vec<_>) = names
        .into_iter()
        .partition(|name| name.ends_with(UNFINISHED));
    for name in unfinished {
        disk.remove(&name).map_err(LogError::io("remove", &name))?;
    }
    Ok(names)
}

fn read_keys(disk: &dyn Disk, names: &[String]) -> Result<Option<KeysFile>, LogError> {
    if !names.iter().any(|name| name == KEYS_FILE) {
        return Ok(None);
    }
    let read = || {
        let file = disk.open(KEYS_FILE)?;
        let len = usize::try_from(file.len()?).map_err(std::io::Error::other)?;
        let mut bytes = vec![0; len];
        file.read_at(0, &mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(LogError::io("read", KEYS_FILE))?;
    match KeysFile::decode(&bytes) {
        Ok(file) => Ok(Some(file)),
        Err(KeysFileError::Newer { found, known }) => Err(LogError::NewerFormat {
            file: KEYS_FILE.to_owned(),
            found,
            known,
        }),
        Err(KeysFileError::Damaged) => Err(LogError::Corrupt {
            file: KEYS_FILE.to_owned(),
            position: 0,
            offset: Offset(0),
            reason: "its checksum does not match".to_owned(),
        }),
    }
}

/// The segments from `first` on, in order and without a gap. Removes those before: their deletion was
/// decided when `first` was written.
fn list_segments(disk: &dyn Disk, names: Vec<String>, first: u64) -> Result<Vec<String>, LogError> {
    let mut segments: Vec<(u64, String)> = names
        .into_iter()
        .filter_map(|name| Some((Segment::sequence_of(&name)?, name)))
        .collect();
    segments.sort();
    let mut kept = Vec::new();
    for (sequence, name) in segments {
        if sequence < first {
            disk.remove(&name).map_err(LogError::io("remove", &name))?;
            continue;
        }
        let expected = first + kept.len() as u64;
        if sequence != expected {
            return Err(missing(expected, &name));
        }
        kept.push(name);
    }
    if kept.is_empty() && first > 0 {
        return Err(missing(first, KEYS_FILE));
    }
    Ok(kept)
}

fn missing(sequence: u64, witness: &str) -> LogError {
    LogError::Missing {
        sequence,
        witness: witness.to_owned(),
    }
}

/// Goes through the segments once, in order.
struct Verifier<'a> {
    disk: &'a dyn Disk,
    columns: &'a [Column],
    /// When the log is opened: keys are as old as it says, whatever the clock said when later frames were written.
    now: Moment,
    keys: KeyIndex,
    segments: Segments,
    last: Option<(Box<dyn DiskFile>, Cursor)>,
    sealed: bool,
    frames: u64,
    bytes: u64,
    dropped: Option<TornTail>,
}

impl Verifier<'_> {
    fn segment(&mut self, name: &str, sequence: u64, is_last: bool) -> Result<(), LogError> {
        let (segment, mut file) = Segment::open(self.disk, name, sequence, self.columns)?;
        if is_last {
            // Frames that an earlier process did not sync, or could not, must not pass as durable.
            file.settle().map_err(LogError::io("sync", name))?;
        }
        let mut cursor = Cursor::start(&segment);
        if let Some((_, before)) = &self.last
            && (cursor.link, cursor.next, cursor.arrived_at_us)
                != (before.link, before.next, before.arrived_at_us)
        {
            let reason = "it does not follow the segment before it";
            return Err(segment.corrupt(0, before.next, reason));
        }
        let end = file.len().map_err(LogError::io("read", name))?;
        self.bytes += end;
        // That there is a segment proves that the one before it is whole.
        self.sealed = true;
        loop {
            let at = cursor;
            let found = cursor
                .step(file.as_ref(), end)
                .map_err(LogError::io("read", name))?;
            let torn = match found {
                Found::End => break,
                Found::Torn(reason) => Some(reason),
                Found::Foreign(reason) => {
                    return Err(segment.corrupt(at.position, at.next, reason));
                }
                Found::Frame(header, position) => {
                    self.frame(&segment, file.as_ref(), &header, position)?
                }
            };
            if let Some(reason) = torn {
                cursor = at;
                if !is_last {
                    return Err(segment.corrupt(at.position, at.next, reason));
                }
                self.drop_tail(&segment, file.as_mut(), at, end, reason)?;
                break;
            }
        }
        self.segments.push_back(Arc::new(segment));
        self.last = Some((file, cursor));
        Ok(())
    }

    /// Verifies one frame and remembers its keys. Answers what is wrong with its content, if anything.
    fn frame(
        &mut self,
        segment: &Segment,
        file: &dyn DiskFile,
        header: &FrameHeader,
        position: u64,
    ) -> Result<Option<&'static str>, LogError> {
        let content =
            read_content(file, header, position).map_err(LogError::io("read", &segment.name))?;
        let Some(content) = content else {
            return Ok(Some("the checksum of a frame's content does not match"));
        };
        // The checksum is right, so this is not a torn write: whoever wrote it wrote nonsense.
        let batches = frame::decode_content(header, &content)
            .map_err(|reason| segment.corrupt(position, header.first, reason))?;
        self.frames += 1;
        self.sealed = batches.is_empty();
        self.keys.expire(self.now);
        let mut next = header.first;
        for (batch, _) in &batches {
            next = self.remember(batch, next, header.arrived_at_us);
        }
        Ok(None)
    }

    /// Remembers the keys of a batch that starts at `next`; answers where it ends.
    fn remember(&mut self, batch: &BatchMeta, mut next: Offset, arrived_at_us: i64) -> Offset {
        for append in &batch.appends {
            next = Offset(next.0 + append.offsets());
            if let Some((key, body)) = append.key {
                let answer = Answer {
                    body,
                    accepted: append.events,
                    rejected: append.dead_letters,
                    next,
                    arrived_at_us,
                };
                self.keys.remember(key, answer, self.now);
            }
        }
        next
    }

    /// Cuts off what stands from `at` on, if it can be what a crash left of the last commit.
    fn drop_tail(
        &mut self,
        segment: &Segment,
        file: &mut dyn DiskFile,
        at: Cursor,
        end: u64,
        reason: &'static str,
    ) -> Result<(), LogError> {
        let name = &segment.name;
        let len = usize::try_from(end - at.position).unwrap_or(usize::MAX);
        let mut tail = vec![0; len];
        file.read_at(at.position, &mut tail)
            .map_err(LogError::io("read", name))?;
        if FrameHeader::is_anywhere_in(&tail[1..], at.next) {
            return Err(segment.corrupt(at.position, at.next, reason));
        }
        file.truncate(at.position)
            .and_then(|()| file.sync())
            .map_err(LogError::io("truncate", name))?;
        self.dropped = Some(TornTail {
            file: name.clone(),
            position: at.position,
            bytes: end - at.position,
            offset: at.next,
            reason,
        });
        Ok(())
    }

    fn finish(mut self, first_segment: u64) -> Result<Opened, LogError> {
        let (file, cursor) = self.last.ok_or_else(|| missing(first_segment, KEYS_FILE))?;
        self.keys.expire(self.now);
        let oldest = self.segments[0].header.first;
        Ok(Opened {
            recovered: Recovered {
                oldest,
                next: cursor.next,
                segments: self.segments.len(),
                frames: self.frames,
                bytes: self.bytes,
                keys: self.keys.len(),
                dropped: self.dropped,
            },
            segments: self.segments,
            file,
            cursor,
            sealed: self.sealed,
            keys: self.keys,
        })
    }
}
