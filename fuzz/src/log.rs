// SPDX-License-Identifier: Apache-2.0
//! Files of the embedded log: what opens is what was written, and the rest is an error that names its place.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use bytes::Bytes;
use dovetail_log::embedded::{
    Append, Disk as _, EmbeddedLog, IdempotencyKey, LogError, LogOptions, SimDisk,
};
use dovetail_log::{CommittedBatch, DeadLetter, Format, Place};
use dovetail_model::{Column, ColumnType, ManualClock, Offset, Span, StreamSchema, UnknownColumns};

/// A log of three appends as its only segment, before it was closed.
struct Written {
    name: String,
    segment: Vec<u8>,
    /// What is in it.
    batches: Vec<CommittedBatch>,
}

static WRITTEN: LazyLock<Written> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime of this thread takes nothing");
    runtime.block_on(write())
});

/// Any bytes as a segment.
pub(crate) fn segment(data: &[u8]) {
    let disk = SimDisk::new();
    disk.set_contents(&WRITTEN.name, Some(data.to_vec()));
    if let Ok(batches) = read(&disk) {
        let again = read(&disk).expect("it opens as often as it is opened");
        assert_eq!(contents(&batches), contents(&again));
    }
}

/// A segment with bytes changed and its end cut off: it is refused, or holds a beginning of what was written. The bytes are
/// edits, three each: a place, and what is added to the byte there. One more is where it ends.
pub(crate) fn damage(data: &[u8]) {
    let mut segment = WRITTEN.segment.clone();
    let edits = data.chunks_exact(3);
    if let [end] = edits.remainder() {
        let kept = segment.len() * usize::from(*end) / usize::from(u8::MAX);
        segment.truncate(kept);
    }
    for edit in edits {
        let place = usize::from(u16::from_le_bytes([edit[0], edit[1]]));
        if let Some(byte) = segment.get_mut(place) {
            *byte = byte.wrapping_add(edit[2]);
        }
    }
    let whole = segment == WRITTEN.segment;
    let disk = SimDisk::new();
    disk.set_contents(&WRITTEN.name, Some(segment));
    let written = contents(&WRITTEN.batches);
    match read(&disk) {
        Ok(found) => {
            let found = contents(&found);
            assert!(written.starts_with(&found), "{found:?} was never written");
            assert!(!whole || found == written, "what is whole is read whole");
        }
        Err(error) => assert!(!whole, "{error}"),
    }
}

fn schema() -> StreamSchema {
    let column = |name: &str, column_type, nullable| Column {
        name: name.to_owned(),
        column_type,
        nullable,
    };
    StreamSchema {
        columns: vec![
            column("id", ColumnType::BigInt, false),
            column("text", ColumnType::Varchar, true),
        ],
        event_time: None,
        unknown_columns: UnknownColumns::Ignore,
    }
}

fn open(disk: &SimDisk) -> Result<EmbeddedLog, LogError> {
    let opened = EmbeddedLog::open(
        Arc::new(disk.clone()),
        &schema(),
        LogOptions::default(),
        Arc::new(ManualClock::at(1_000_000)),
        Box::new(|_| {}),
    );
    opened.map(|(log, _)| log)
}

fn read(disk: &SimDisk) -> Result<Vec<CommittedBatch>, LogError> {
    let log = open(disk)?;
    log.read(log.oldest_retained(), Offset(u64::MAX)).collect()
}

/// All of a batch.
type Content<'a> = (&'a Span, i64, &'a RecordBatch, &'a [(Place, DeadLetter)]);

fn contents(batches: &[CommittedBatch]) -> Vec<Content<'_>> {
    fn content(batch: &CommittedBatch) -> Content<'_> {
        let CommittedBatch {
            span,
            arrived_at_us,
            events,
            dead_letters,
            ..
        } = batch;
        (span, *arrived_at_us, events, &dead_letters[..])
    }
    batches.iter().map(content).collect()
}

async fn write() -> Written {
    let disk = SimDisk::new();
    let log = open(&disk).expect("an empty disk begins a log");
    for first in [0, 3, 6] {
        log.append(append(first)).await.expect("the disk works");
    }
    let names = disk.list().expect("the disk works");
    let name = names.into_iter().find(|name| name.ends_with(".segment"));
    let name = name.expect("what is appended is in a segment");
    let segment = disk.contents(&name).expect("it is listed");
    let batches: Result<_, LogError> = log.read(Offset(0), Offset(u64::MAX)).collect();
    Written {
        name,
        segment,
        batches: batches.expect("what was written is read"),
    }
}

fn append(first: i64) -> Append {
    let ids = first..first + 2;
    let texts: StringArray = ids
        .clone()
        .map(|id| (id % 3 != 0).then(|| format!("event {id}")))
        .collect();
    let columns: [(&str, ArrayRef, bool); 2] = [
        ("id", Arc::new(Int64Array::from_iter_values(ids)), false),
        ("text", Arc::new(texts), true),
    ];
    Append {
        events: RecordBatch::try_from_iter_with_nullable(columns).expect("two columns of two rows"),
        dead_letters: vec![DeadLetter {
            bytes: Bytes::from_static(b"x"),
            format: Format::Ndjson,
            reason: "not JSON".to_owned(),
            line: Some(3),
            column: None,
            origin: "fuzz".to_owned(),
            envelope: None,
        }],
        key: Some(IdempotencyKey {
            key: format!("key {first}"),
            body_hash: [7; 32],
        }),
        replayed: vec![],
    }
}
