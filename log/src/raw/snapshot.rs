// SPDX-License-Identifier: Apache-2.0
//! The raw log as it stood at one version of its table.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use dovetail_model::{Position, Share, StreamSchema, Volume};
use object_store::path::Path;

use super::access::Access;
use super::delta::Changes;
use super::{RawError, Segment};

/// All archived events at one moment: immutable, shared, scanned without a lock.
///
/// Hold it for as long as a plan made by [`RawSnapshot::scan`] runs: [`super::RawLog::vacuum`] deletes no file
/// of a snapshot that somebody holds.
#[derive(Debug)]
pub struct RawSnapshot {
    pub(super) root: Path,
    pub(super) version: u64,
    pub(super) schema: StreamSchema,
    pub(super) events: SchemaRef,
    /// Whose the archived position is.
    pub(super) share: Share,
    pub(super) archived: Position,
    /// In the partitions of others, too.
    pub(super) archived_of_all: Position,
    pub(super) segments: Vec<Arc<Segment>>,
    rows: u64,
    bytes: u64,
}

impl RawSnapshot {
    /// The snapshot of `segments`, which come in any order, for a writer of `share`.
    ///
    /// # Errors
    /// [`RawError::Hole`] when their spans do not form one chain from the start of the stream.
    pub(super) fn new(
        root: Path,
        version: u64,
        schema: StreamSchema,
        mut segments: Vec<Arc<Segment>>,
        share: Share,
    ) -> Result<Self, RawError> {
        // Along the chain no offset ever shrinks and at least one grows, so their sum orders it.
        segments.sort_by_key(|segment| {
            let offsets = segment.span.from().iter();
            offsets
                .map(|(_, offset)| u128::from(offset.0))
                .sum::<u128>()
        });
        let mut archived = Position::zero();
        for segment in &segments {
            if segment.span.from() != &archived || segment.span.is_empty() {
                return Err(RawError::Hole {
                    table: root,
                    reason: format!(
                        "the segment behind position `{archived}` is missing: `{}` covers `{}`",
                        segment.path, segment.span
                    ),
                });
            }
            archived = segment.span.to().clone();
        }
        Ok(Self {
            root,
            version,
            events: schema.events(),
            schema,
            share,
            archived: share.part(&archived),
            archived_of_all: archived,
            rows: segments.iter().map(|s| s.rows).sum(),
            bytes: segments.iter().map(|s| s.bytes).sum(),
            segments,
        })
    }

    /// The snapshot behind `changes` of its table. None when segments and transactions contradict each other then:
    /// loading the table tells where, if it is so.
    pub(super) fn behind(
        self: &Arc<Self>,
        access: &Access,
        changes: &Changes,
    ) -> Option<Arc<Self>> {
        if changes.version() == self.version {
            return Some(Arc::clone(self));
        }
        let mut segments = self.segments.clone();
        segments.retain(|segment| !changes.touches(&segment.path));
        for add in changes.adds() {
            segments.push(Arc::new(Segment::from_add(&self.root, add).ok()?));
        }
        let (root, schema) = (self.root.clone(), self.schema.clone());
        let next = Self::new(root, changes.version(), schema, segments, self.share).ok()?;
        let is_sound = next.archived_of_all.iter().all(|(partition, offset)| {
            let known = self.archived_of_all.get(partition).0.cast_signed();
            let committed = changes.transaction(&access.transaction_id(partition));
            committed.unwrap_or(known) == offset.0.cast_signed()
        });
        is_sound.then(|| Arc::new(next))
    }

    /// The same events, read as `schema`.
    ///
    /// # Errors
    /// As [`RawSnapshot::new`].
    pub(super) fn read_as(self: &Arc<Self>, schema: &StreamSchema) -> Result<Arc<Self>, RawError> {
        if self.schema == *schema {
            return Ok(Arc::clone(self));
        }
        let (root, segments) = (self.root.clone(), self.segments.clone());
        let same = Self::new(root, self.version, schema.clone(), segments, self.share)?;
        Ok(Arc::new(same))
    }

    /// The table's version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What the stream's events look like at this version.
    pub fn schema(&self) -> &StreamSchema {
        &self.schema
    }

    /// The schema of its events in memory: [`StreamSchema::events`].
    pub fn events(&self) -> &SchemaRef {
        &self.events
    }

    /// The partitions that this process archives; all where no others do.
    pub fn share(&self) -> Share {
        self.share
    }

    /// The position up to which everything is archived of [`Self::share`].
    pub fn archived(&self) -> &Position {
        &self.archived
    }

    /// The files, in the order of the stream.
    pub fn segments(&self) -> &[Arc<Segment>] {
        &self.segments
    }

    /// Archived events.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Size of all files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How much lies behind `position`. Of a file that begins before it, the share of its offsets behind it counts: no
    /// file does where an archive ended there, until it is compacted with others.
    pub fn volume_behind(&self, position: &Position) -> Volume {
        let behind = self.segments.iter().rev();
        let behind = behind.take_while(|segment| !position.covers(segment.span.to()));
        behind.fold(Volume::default(), |sum, segment| {
            let (from, to) = (segment.span.from(), segment.span.to());
            let offsets = |from: &Position| -> u64 {
                let ends = to.iter();
                ends.map(|(partition, end)| end.0.saturating_sub(from.get(partition).0))
                    .sum()
            };
            let (all, inside) = (offsets(from), offsets(&from.join(position)));
            let share = |amount: u64| {
                let part = u128::from(amount) * u128::from(inside) / u128::from(all.max(1));
                u64::try_from(part).unwrap_or(amount)
            };
            Volume {
                events: sum.events + share(segment.rows),
                bytes: sum.bytes + share(segment.bytes),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use dovetail_model::{Column, ColumnType, Offset, PartitionId, Span, UnknownColumns};

    use super::*;

    fn segment(from: u64, to: u64, rows: u64, bytes: u64) -> Arc<Segment> {
        let [from, to] =
            [from, to].map(|offset| Position::zero().with(PartitionId(0), Offset(offset)));
        Arc::new(Segment {
            path: Path::from("part"),
            rows,
            bytes,
            decoded_bytes: None,
            span: Span::new(from, to).unwrap(),
            event_time: None,
            arrived: None,
        })
    }

    #[test]
    fn what_lies_behind_a_position_is_counted_by_files_and_of_one_by_its_share() {
        let schema = StreamSchema {
            columns: vec![Column {
                name: "x".to_owned(),
                column_type: ColumnType::Int,
                nullable: true,
            }],
            event_time: None,
            unknown_columns: UnknownColumns::Ignore,
        };
        // The second has dead letters, too.
        let segments = vec![
            segment(0, 10, 10, 100),
            segment(10, 30, 16, 200),
            segment(30, 40, 10, 50),
        ];
        let snapshot =
            RawSnapshot::new(Path::from("raw"), 3, schema, segments, Share::ALL).unwrap();
        let behind = |offset| {
            let Volume { events, bytes } =
                snapshot.volume_behind(&Position::single(Offset(offset)));
            (events, bytes)
        };
        assert_eq!(behind(0), (36, 350));
        assert_eq!(behind(10), (26, 250));
        assert_eq!(behind(20), (18, 150));
        assert_eq!(behind(30), (10, 50));
        assert_eq!(behind(40), (0, 0));
        assert_eq!(behind(50), (0, 0));
    }
}
