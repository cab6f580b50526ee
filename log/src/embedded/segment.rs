// SPDX-License-Identifier: Apache-2.0
//! One file of the log: a header, then frames.
//!
//! ```text
//! {sequence:010}-{first offset:020}.segment
//! header     magic, checksum, format version, length, JSON padded with spaces to a multiple of 16
//! frames     one per group commit, each on the link of the one before
//! ```
//! A segment gets its name when its header is durable, so a segment with a bad header is damaged.

use std::sync::Arc;

use arrow::buffer::{Buffer, MutableBuffer};
use dovetail_model::{Column, Offset};
use serde::{Deserialize, Serialize};

use super::disk::{Disk, DiskFile};
use super::error::LogError;
use super::frame::{ALIGNMENT, FrameHeader, HEADER_LEN};
use super::payload::ColumnMap;

const MAGIC: [u8; 8] = *b"DvtlSeg\n";
/// The newest format that this build reads, and the one it writes.
pub(super) const VERSION: u32 = 1;
/// Magic, checksum, version, length.
const FIXED_LEN: usize = 20;
const SUFFIX: &str = ".segment";

/// What a segment says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SegmentHeader {
    /// Offset of the first event or dead letter that it can hold.
    pub(super) first: Offset,
    /// Link of the last frame before it, 0 for the first segment.
    pub(super) previous: u32,
    /// Arrival of the last frame before it: what follows did not arrive earlier.
    pub(super) arrived_at_us: i64,
    /// The stream's columns when it was begun: how its events are to be read.
    pub(super) columns: Vec<Column>,
}

impl SegmentHeader {
    fn encode(&self) -> Vec<u8> {
        let mut json =
            serde_json::to_vec(self).expect("columns and numbers can be written as JSON");
        let padded = (FIXED_LEN + json.len()).next_multiple_of(ALIGNMENT);
        json.resize(padded - FIXED_LEN, b' ');
        let len = u32::try_from(json.len()).expect("a schema is smaller than 4 GiB");
        let fields = [&VERSION.to_le_bytes()[..], &len.to_le_bytes(), &json].concat();
        let crc = crc32fast::hash(&fields).to_le_bytes();
        [&MAGIC[..], &crc, &fields].concat()
    }
}

/// A segment that can be read.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) name: String,
    pub(super) sequence: u64,
    pub(super) header: SegmentHeader,
    /// Where its first frame starts.
    pub(super) start: u64,
}

impl Segment {
    pub(super) fn name(sequence: u64, first: Offset) -> String {
        format!("{sequence:010}-{:020}{SUFFIX}", first.0)
    }

    /// The sequence in the name of a segment; none for another name.
    pub(super) fn sequence_of(name: &str) -> Option<u64> {
        let (sequence, first) = name.strip_suffix(SUFFIX)?.split_once('-')?;
        let (sequence, first) = (sequence.parse().ok()?, first.parse().ok()?);
        (Self::name(sequence, Offset(first)) == name).then_some(sequence)
    }

    /// Creates a segment durably. Until this returns nothing stands under its name.
    pub(super) fn create(
        disk: &dyn Disk,
        sequence: u64,
        header: SegmentHeader,
    ) -> std::io::Result<(Self, Box<dyn DiskFile>)> {
        let name = Self::name(sequence, header.first);
        let bytes = header.encode();
        publish(disk, &name, &bytes)?;
        let file = disk.open(&name)?;
        let segment = Self {
            name,
            sequence,
            header,
            start: bytes.len() as u64,
        };
        Ok((segment, file))
    }

    /// Reads the header of the segment `name`, whose events must be readable as `declared` columns.
    pub(super) fn open(
        disk: &dyn Disk,
        name: &str,
        sequence: u64,
        declared: &[Column],
    ) -> Result<(Self, Box<dyn DiskFile>), LogError> {
        let file = disk.open(name).map_err(LogError::io("open", name))?;
        let (header, start) = read_header(file.as_ref(), name)?;
        let segment = Self {
            name: name.to_owned(),
            sequence,
            header,
            start,
        };
        segment.columns(declared)?;
        Ok((segment, file))
    }

    /// How its events become events with the `declared` columns.
    pub(super) fn columns(&self, declared: &[Column]) -> Result<ColumnMap, LogError> {
        ColumnMap::new(&self.header.columns, declared).map_err(|reason| LogError::Schema {
            file: self.name.clone(),
            reason,
        })
    }

    pub(super) fn corrupt(
        &self,
        position: u64,
        offset: Offset,
        reason: impl Into<String>,
    ) -> LogError {
        LogError::Corrupt {
            file: self.name.clone(),
            position,
            offset,
            reason: reason.into(),
        }
    }
}

/// Writes a whole file under a name that it gets only when its content is durable.
pub(super) fn publish(disk: &dyn Disk, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let unfinished = format!("{name}{UNFINISHED}");
    let mut file = disk.create(&unfinished)?;
    let named = file
        .write_at(0, &[bytes])
        .and_then(|()| file.sync())
        .and_then(|()| disk.rename(&unfinished, name));
    if named.is_err() {
        // Swept at the next open otherwise; a full disk is glad of the room now.
        let _ = disk.remove(&unfinished);
    }
    named?;
    disk.sync_dir()
}

/// What names of unfinished files end in.
pub(super) const UNFINISHED: &str = ".unfinished";

fn read_header(file: &dyn DiskFile, name: &str) -> Result<(SegmentHeader, u64), LogError> {
    let damaged = |reason: &str| LogError::Corrupt {
        file: name.to_owned(),
        position: 0,
        offset: first_of(name),
        reason: reason.to_owned(),
    };
    let read = |position, len: usize| {
        let mut bytes = vec![0; len];
        match file.read_at(position, &mut bytes) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(damaged("its header is cut short"))
            }
            Err(error) => Err(LogError::io("read", name)(error)),
        }
    };
    let fixed = read(0, FIXED_LEN)?;
    let number =
        |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let (crc, version, len) = (number(8), number(12), number(16));
    let end = file.len().map_err(LogError::io("read", name))?;
    if !fixed.starts_with(&MAGIC) || u64::from(len) > end {
        return Err(damaged("its header is not one of a segment"));
    }
    let json = read(FIXED_LEN as u64, usize::try_from(len).unwrap_or(usize::MAX))?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&fixed[12..]);
    hasher.update(&json);
    if hasher.finalize() != crc {
        return Err(damaged("the checksum of its header does not match"));
    }
    if version > VERSION {
        return Err(LogError::NewerFormat {
            file: name.to_owned(),
            found: version,
            known: VERSION,
        });
    }
    let header: SegmentHeader =
        serde_json::from_slice(&json).map_err(|error| damaged(&error.to_string()))?;
    let start = (FIXED_LEN + json.len()) as u64;
    if first_of(name) != header.first {
        return Err(damaged(&format!(
            "its header says that it starts at offset {}",
            header.first
        )));
    }
    Ok((header, start))
}

fn first_of(name: &str) -> Offset {
    let first = name
        .strip_suffix(SUFFIX)
        .and_then(|name| name.split_once('-'))
        .and_then(|(_, first)| first.parse().ok());
    Offset(first.unwrap_or_default())
}

/// A place in a segment's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) position: u64,
    /// Link of the frame before.
    pub(super) link: u32,
    /// Offset of the next event or dead letter.
    pub(super) next: Offset,
    /// Arrival of the frame before.
    pub(super) arrived_at_us: i64,
}

impl Cursor {
    /// Before the first frame of `segment`.
    pub(super) fn start(segment: &Segment) -> Self {
        Self {
            position: segment.start,
            link: segment.header.previous,
            next: segment.header.first,
            arrived_at_us: segment.header.arrived_at_us,
        }
    }
}

/// What stands at a cursor.
#[derive(Debug)]
pub(super) enum Found {
    /// A frame whose header, place and lengths are right. The cursor is behind it.
    Frame(FrameHeader, u64),
    /// The end of the file.
    End,
    /// What a crash in the middle of a write could leave, if it is the last.
    Torn(&'static str),
    /// A frame that was written for another place. No crash leaves that.
    Foreign(&'static str),
}

impl Cursor {
    /// Reads the header at the cursor and, if a frame stands there, steps behind it. `end` is the length
    /// of the file; the content starts at the position in the answer and is not read.
    pub(super) fn step(&mut self, file: &dyn DiskFile, end: u64) -> std::io::Result<Found> {
        if self.position == end {
            return Ok(Found::End);
        }
        let content = self.position + HEADER_LEN as u64;
        if content > end {
            return Ok(Found::Torn("the header of a frame is cut short"));
        }
        let mut bytes = [0; HEADER_LEN];
        file.read_at(self.position, &mut bytes)?;
        let Some((header, link)) = FrameHeader::decode(&bytes) else {
            return Ok(Found::Torn(
                "the checksum of a frame's header does not match",
            ));
        };
        if header.previous != self.link || header.first != self.next {
            return Ok(Found::Foreign("a frame does not follow the one before it"));
        }
        if header.next < header.first || header.arrived_at_us < self.arrived_at_us {
            return Ok(Found::Foreign("a frame runs backwards"));
        }
        if header.content_len > end - content {
            return Ok(Found::Torn("the content of a frame is cut short"));
        }
        *self = Self {
            position: content + header.content_len,
            link,
            next: header.next,
            arrived_at_us: header.arrived_at_us,
        };
        Ok(Found::Frame(header, content))
    }
}

/// The content of a frame, aligned for Arrow; none if its checksum does not match.
pub(super) fn read_content(
    file: &dyn DiskFile,
    header: &FrameHeader,
    position: u64,
) -> std::io::Result<Option<Buffer>> {
    let len = usize::try_from(header.content_len).map_err(std::io::Error::other)?;
    let mut bytes = MutableBuffer::from_len_zeroed(len);
    file.read_at(position, &mut bytes)?;
    let bytes = Buffer::from(bytes);
    Ok((crc32fast::hash(&bytes) == header.content_crc).then_some(bytes))
}

/// Segments in order, shared with readers.
pub(super) type Segments = std::collections::VecDeque<Arc<Segment>>;
