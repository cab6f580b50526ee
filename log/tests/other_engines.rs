// SPDX-License-Identifier: Apache-2.0
//! The raw log as other engines see it: delta-rs, Polars and DuckDB read it with the right types and counts, before
//! and after its schema grew.
//!
//! Needs a Python with `log/tests/requirements.txt` installed; `script/test` makes one:
//! `DOVETAIL_PYTHON=…/bin/python cargo test -p dovetail-log --test other_engines -- --ignored`

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, AsArray as _, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array,
    Int64Array, ListArray, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Fields, Int32Type, Int64Type};
use bytes::Bytes;
use dovetail_log::embedded::ONLY_PARTITION;
use dovetail_log::object::LocalStore;
use dovetail_log::raw::{Compaction, RawLog};
use dovetail_log::{CommittedBatch, DeadLetter, Format};
use dovetail_model::{
    Column, ColumnType, EventTime, Offset, Position, Span, StreamDef, StreamSchema, SystemClock,
    UnknownColumns,
};
use object_store::ObjectStore;
use object_store::path::Path;

const EVENTS: u64 = 2_000;
/// Events of one archive step.
const STEP: u64 = 250;

fn schema() -> StreamSchema {
    let column = |name: &str, column_type, nullable| Column {
        name: name.to_owned(),
        column_type,
        nullable,
    };
    StreamSchema {
        columns: vec![
            column("at", ColumnType::Timestamp, false),
            column("flag", ColumnType::Boolean, true),
            column("small", ColumnType::Int, true),
            column("big", ColumnType::BigInt, true),
            column("real", ColumnType::Double, true),
            column("price", ColumnType::Decimal(20, 2), true),
            column("odd text", ColumnType::Varchar, true),
            column("day", ColumnType::Date, true),
            column(
                "pair",
                ColumnType::Struct(vec![column("a", ColumnType::Int, true)]),
                true,
            ),
            column("list", ColumnType::List(Box::new(ColumnType::Int)), true),
        ],
        event_time: Some(EventTime {
            column: "at".to_owned(),
            epoch: None,
        }),
        unknown_columns: UnknownColumns::Ignore,
    }
}

fn between(first: u64, next: u64) -> Span {
    let at = |offset| Position::single(Offset(offset));
    Span::new(at(first), at(next)).expect("it does not run backwards")
}

/// The event at offset `o` has values made from `o`; the last of each batch is a dead letter instead.
fn batch(first: u64, next: u64) -> Arc<CommittedBatch> {
    let offsets: Vec<i64> = (first..next - 1).map(|o| o as i64).collect();
    let some = |o: &i64| (o % 10 != 0).then_some(*o);
    let small = || offsets.iter().map(|o| some(o).map(|o| o as i32));
    let DataType::Struct(pair) = schema().columns[8].column_type.to_arrow() else {
        unreachable!("a pair is a struct")
    };
    let pair = StructArray::new(
        Fields::from(pair.to_vec()),
        vec![Arc::new(Int32Array::from_iter(small()))],
        None,
    );
    let items = offsets.iter().map(|o| Some(vec![Some(*o as i32), None]));
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>(items);
    let DataType::List(item) = schema().columns[9].column_type.to_arrow() else {
        unreachable!("a list is a list")
    };
    let (_, ends, values, nulls) = list.into_parts();
    let prices = offsets
        .iter()
        .map(|o| some(o).map(|o| i128::from(o) * 100 + 7));
    let prices = Decimal128Array::from_iter(prices)
        .with_precision_and_scale(20, 2)
        .expect("twenty digits hold them");
    let count = offsets.len();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(TimestampMicrosecondArray::from_iter_values(
            offsets.iter().map(|o| 978_307_200_000_000 + o * 60_000_001),
        )),
        Arc::new(BooleanArray::from_iter(
            offsets.iter().map(|o| some(o).map(|o| o % 2 == 1)),
        )),
        Arc::new(Int32Array::from_iter(small())),
        Arc::new(Int64Array::from_iter(
            offsets.iter().map(|o| some(o).map(|o| o << 32)),
        )),
        Arc::new(Float64Array::from_iter(
            offsets.iter().map(|o| some(o).map(|o| o as f64 / 4.0)),
        )),
        Arc::new(prices),
        Arc::new(StringArray::from_iter(
            offsets.iter().map(|o| some(o).map(|o| format!("t{o:05}"))),
        )),
        Arc::new(Date32Array::from_iter(small())),
        Arc::new(pair),
        Arc::new(ListArray::new(item, ends, values, nulls)),
        Arc::new(Int32Array::from(vec![0; count])),
        Arc::new(Int64Array::from(offsets)),
        Arc::new(TimestampMicrosecondArray::from(vec![first as i64; count])),
    ];
    let letter = DeadLetter {
        bytes: Bytes::from_static(b"{\xff"),
        format: Format::Ndjson,
        reason: "not UTF-8".to_owned(),
        line: Some(next),
        column: None,
        origin: "http".to_owned(),
        envelope: None,
    };
    Arc::new(CommittedBatch {
        span: between(first, next),
        arrived_at_us: first as i64,
        events: RecordBatch::try_new(schema().events(), columns).expect("columns as declared"),
        dead_letters: vec![((ONLY_PARTITION, Offset(next - 1)), letter)],
        replayed: if first == STEP {
            vec![(ONLY_PARTITION, Offset(STEP - 1))]
        } else {
            Vec::new()
        },
    })
}

/// The schema after a column was added.
fn grown() -> StreamSchema {
    let mut schema = schema();
    schema.columns.push(Column {
        name: "note".to_owned(),
        column_type: ColumnType::Varchar,
        nullable: true,
    });
    schema
}

/// A batch whose events carry a note with their offset.
fn with_notes(batch: &CommittedBatch) -> Arc<CommittedBatch> {
    let mut batch = batch.in_schema(&grown().events()).expect("columns added");
    let offsets = batch.events["_offset"].as_primitive::<Int64Type>();
    let notes = StringArray::from_iter_values(offsets.values().iter().map(|o| format!("n{o}")));
    let mut columns = batch.events.columns().to_vec();
    columns[schema().columns.len()] = Arc::new(notes);
    batch.events = RecordBatch::try_new(batch.events.schema(), columns).expect("as declared");
    Arc::new(batch)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs DOVETAIL_PYTHON, a Python with log/tests/requirements.txt"]
async fn delta_rs_polars_and_duckdb_read_the_raw_log() {
    let python = std::env::var("DOVETAIL_PYTHON").expect("DOVETAIL_PYTHON names a Python");
    let directory = tempfile::tempdir().unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(LocalStore::open(directory.path()).unwrap());
    let def = StreamDef {
        id: "k3f".parse().unwrap(),
        name: "flights".to_owned(),
        schema: schema(),
        source: dovetail_model::Source::Embedded,
        created_at: chrono::DateTime::UNIX_EPOCH,
    };
    let log = RawLog::open(
        store,
        Path::from("streams/k3f"),
        &def,
        dovetail_model::StoreEpoch(1),
        Arc::new(SystemClock),
    )
    .await;
    let log = log.unwrap();
    for first in (0..EVENTS).step_by(STEP as usize) {
        let span = between(first, first + STEP);
        let mut events = batch(first, first + STEP);
        if first == EVENTS / 2 {
            log.widen(&grown()).await.unwrap();
            log.adopt(&grown()).await.unwrap();
        }
        if first >= EVENTS / 2 {
            events = with_notes(&events);
        }
        log.archive(&span, &[events]).await.unwrap();
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/other_engines.py");
    let read = |files: usize| {
        let status = Command::new(&python)
            .arg(script)
            .arg(directory.path().join("streams/k3f"))
            .args([EVENTS, STEP].map(|n| n.to_string()))
            .arg(files.to_string())
            .status()
            .unwrap();
        assert!(
            status.success(),
            "{script} found a difference; see its output"
        );
    };
    read(8);
    log.compact(Compaction::default()).await.unwrap();
    log.checkpoint().await.unwrap();
    log.vacuum(Duration::ZERO).await.unwrap();
    read(1);
}
