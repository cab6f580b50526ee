// SPDX-License-Identifier: Apache-2.0
//! Reading committed batches back.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Arc;

use dovetail_model::Offset;

use super::batch::{clip, committed, offsets};
use super::disk::DiskFile;
use super::error::LogError;
use super::frame::{FrameHeader, decode_content};
use super::log::Shared;
use super::payload::{ColumnMap, Shape, decode, with_system_columns};
use super::segment::{Cursor, Found, Segment, Segments, read_content};
use crate::CommittedBatch;

/// Iterates the committed batches of a range of offsets; see [`super::EmbeddedLog::read`]. It holds one
/// frame in memory at a time.
#[derive(Debug)]
pub struct TailReader {
    shared: Arc<Shared>,
    /// What every batch looks like, whatever its segment's columns are.
    shape: Arc<Shape>,
    from: Offset,
    to: Offset,
    /// Those that are not opened yet.
    segments: Segments,
    open: Option<OpenSegment>,
    ready: VecDeque<CommittedBatch>,
    ended: bool,
}

#[derive(Debug)]
struct OpenSegment {
    segment: Arc<Segment>,
    columns: ColumnMap,
    file: Box<dyn DiskFile>,
    end: u64,
    cursor: Cursor,
}

impl TailReader {
    pub(super) fn new(shared: Arc<Shared>, from: Offset, to: Offset) -> Self {
        let to = to.min(shared.durable());
        let mut segments = shared.segments.lock().clone();
        // The segment that holds `from` is the last one that starts at or before it.
        while segments.get(1).is_some_and(|s| s.header.first <= from) {
            segments.pop_front();
        }
        Self {
            ended: from >= to,
            // Behind the segments: it knows the columns of each of them.
            shape: shared.shape(),
            shared,
            from,
            to,
            segments,
            open: None,
            ready: VecDeque::new(),
        }
    }

    fn advance(&mut self) -> Result<Option<CommittedBatch>, LogError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(batch));
            }
            let Some(open) = &mut self.open else {
                self.open_next(None)?;
                continue;
            };
            if open.cursor.next >= self.to {
                return Ok(None);
            }
            let at = open.cursor;
            let read = LogError::io("read", &open.segment.name);
            match open
                .cursor
                .step(open.file.as_ref(), open.end)
                .map_err(read)?
            {
                Found::End => {
                    let before = open.cursor;
                    self.open_next(Some(before))?;
                }
                Found::Torn(reason) | Found::Foreign(reason) => {
                    return Err(open.segment.corrupt(at.position, at.next, reason));
                }
                Found::Frame(header, _) if header.next <= self.from => {}
                Found::Frame(header, position) => {
                    let batches = open.batches(&self.shape, &header, position)?;
                    let (from, to) = (self.from, self.to);
                    let inside = batches
                        .into_iter()
                        .filter(|batch| {
                            let (first, next) = offsets(batch);
                            first < to && next > from
                        })
                        .map(|batch| clip(batch, from, to));
                    self.ready.extend(inside);
                }
            }
        }
    }

    /// Opens the next segment, which must go on where `before` ended.
    fn open_next(&mut self, before: Option<Cursor>) -> Result<(), LogError> {
        let segment = self.segments.pop_front().ok_or_else(|| {
            let last = self.open.as_ref().map(|open| &open.segment);
            LogError::Missing {
                sequence: last.map_or(0, |last| last.sequence + 1),
                witness: last.map_or_else(String::new, |last| last.name.clone()),
            }
        })?;
        let cursor = Cursor::start(&segment);
        let follows = before.is_none_or(|b| (b.link, b.next) == (cursor.link, cursor.next));
        if !follows {
            let reason = "it does not follow the segment before it";
            return Err(segment.corrupt(0, cursor.next, reason));
        }
        if before.is_none() && cursor.next > self.from {
            return Err(self.forgotten());
        }
        let opened = self.shared.disk.open(&segment.name);
        let file = opened.map_err(|error| match error.kind() {
            ErrorKind::NotFound => self.forgotten(),
            _ => LogError::io("open", &segment.name)(error),
        })?;
        let end = file.len().map_err(LogError::io("read", &segment.name))?;
        self.open = Some(OpenSegment {
            columns: segment.columns(&self.shape.columns)?,
            segment,
            file,
            end,
            cursor,
        });
        Ok(())
    }

    fn forgotten(&self) -> LogError {
        LogError::Forgotten {
            from: self.from,
            oldest: self.shared.oldest(),
        }
    }
}

impl OpenSegment {
    fn batches(
        &self,
        shape: &Shape,
        header: &FrameHeader,
        position: u64,
    ) -> Result<Vec<CommittedBatch>, LogError> {
        let segment = &self.segment;
        let corrupt = |reason: String| segment.corrupt(position, header.first, reason);
        let content = read_content(self.file.as_ref(), header, position)
            .map_err(LogError::io("read", &segment.name))?
            .ok_or_else(|| {
                corrupt("the checksum of a frame's content does not match".to_owned())
            })?;
        let mut first = header.first;
        let mut batches = Vec::new();
        let placed = decode_content(header, &content).map_err(|e| corrupt(e.to_owned()))?;
        for (meta, place) in placed {
            let next = Offset(first.0 + meta.offsets());
            let message = content.slice_with_length(place.start, place.len());
            let columns = &self.columns;
            let events = if meta.events() == 0 {
                arrow::array::RecordBatch::new_empty(Arc::clone(&shape.events))
            } else {
                decode(columns.written(), &message)
                    .map(|written| columns.apply(&written, &shape.declared))
                    .and_then(|declared| {
                        let at = header.arrived_at_us;
                        with_system_columns(&shape.events, declared, &meta.appends, first, at)
                    })
                    .map_err(|error| corrupt(error.to_string()))?
            };
            batches.push(committed(meta, first, header.arrived_at_us, events));
            first = next;
        }
        Ok(batches)
    }
}

impl Iterator for TailReader {
    type Item = Result<CommittedBatch, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.advance().transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }
}
