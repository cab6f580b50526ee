// SPDX-License-Identifier: Apache-2.0
//! The conformance of the embedded log, on a disk that loses what was not synced.

mod appends;
mod crashes;
mod damage;
mod faults;
mod keys;

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use dovetail_model::{
    Column, ColumnType, ManualClock, OFFSET, Offset, StreamSchema, UnknownColumns,
};
use parking_lot::Mutex;

use super::*;
use crate::Format;

/// A log's surroundings, which outlive it.
struct World {
    disk: SimDisk,
    clock: Arc<ManualClock>,
    options: LogOptions,
    schema: StreamSchema,
    /// What the sink got, over all openings.
    sunk: Arc<Mutex<Vec<Arc<CommittedBatch>>>>,
}

impl World {
    fn new() -> Self {
        Self {
            disk: SimDisk::new(),
            clock: Arc::new(ManualClock::at(1_000_000)),
            options: LogOptions::default(),
            schema: StreamSchema {
                columns: vec![
                    column("id", ColumnType::BigInt, false),
                    column("text", ColumnType::Varchar, true),
                ],
                event_time: None,
                unknown_columns: UnknownColumns::Ignore,
            },
            sunk: Arc::default(),
        }
    }

    /// With segments that take one frame each.
    fn with_small_segments() -> Self {
        let mut world = Self::new();
        world.options.segment_max_bytes = 1;
        world
    }

    fn try_open(&self) -> Result<(EmbeddedLog, Recovered), LogError> {
        let sunk = Arc::clone(&self.sunk);
        EmbeddedLog::open(
            Arc::new(self.disk.clone()),
            &self.schema,
            self.options,
            Arc::clone(&self.clock) as _,
            Box::new(move |batches| sunk.lock().extend(batches)),
        )
    }

    fn open(&self) -> EmbeddedLog {
        self.try_open().unwrap().0
    }

    /// Opens without a committer: what recovery finds.
    fn recover(&self) -> Result<Recovered, LogError> {
        let now = self.clock.as_ref();
        recovery::open(
            &self.disk,
            &self.schema.columns,
            &self.options,
            dovetail_model::Clock::moment(now),
        )
        .map(|opened| opened.recovered)
    }

    fn segment_names(&self) -> Vec<String> {
        let mut names = self.disk.list().unwrap();
        names.retain(|name| segment::Segment::sequence_of(name).is_some());
        names.sort();
        names
    }
}

fn column(name: &str, column_type: ColumnType, nullable: bool) -> Column {
    Column {
        name: name.to_owned(),
        column_type,
        nullable,
    }
}

fn events(ids: std::ops::Range<i64>) -> RecordBatch {
    let texts: StringArray = ids
        .clone()
        .map(|id| (id % 3 != 0).then(|| format!("event {id}")))
        .collect();
    let columns: [(&str, ArrayRef, bool); 2] = [
        ("id", Arc::new(Int64Array::from_iter_values(ids)), false),
        ("text", Arc::new(texts), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn letter(text: &str) -> DeadLetter {
    DeadLetter {
        bytes: Bytes::copy_from_slice(text.as_bytes()),
        format: Format::Ndjson,
        reason: "not JSON".to_owned(),
        line: Some(3),
        column: None,
        origin: "http".to_owned(),
        envelope: None,
    }
}

fn append(ids: std::ops::Range<i64>) -> Append {
    Append {
        events: events(ids),
        dead_letters: Vec::new(),
        key: None,
        replayed: Vec::new(),
    }
}

fn keyed(ids: std::ops::Range<i64>, key: &str, body: u8) -> Append {
    let key = IdempotencyKey {
        key: key.to_owned(),
        body_hash: [body; 32],
    };
    Append {
        key: Some(key),
        ..append(ids)
    }
}

/// Offset and id of each event.
fn pairs(batch: &CommittedBatch) -> Vec<(u64, i64)> {
    let offsets = batch.events[OFFSET].as_primitive::<Int64Type>().values();
    let ids = batch.events["id"].as_primitive::<Int64Type>().values();
    let offsets = offsets.iter().map(|offset| offset.cast_unsigned());
    offsets.zip(ids.iter().copied()).collect()
}

fn read(log: &EmbeddedLog, from: u64, to: u64) -> Vec<CommittedBatch> {
    log.read(Offset(from), Offset(to))
        .collect::<Result<_, _>>()
        .unwrap()
}

/// Offset and id of each event in the log.
fn read_all(log: &EmbeddedLog) -> Vec<(u64, i64)> {
    let batches = read(log, log.oldest_retained().0, u64::MAX);
    batches.iter().flat_map(pairs).collect()
}
