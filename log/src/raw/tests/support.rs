// SPDX-License-Identifier: Apache-2.0
//! Streams, batches and scans for the raw log's tests.

pub(super) mod counting;
pub(super) mod faulty;

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int32Builder,
    Int64Array, ListBuilder, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Fields};
use bytes::Bytes;
use chrono::DateTime;
use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::{ExecutionPlan, collect};
use dovetail_model::{
    Column, ColumnType, EventTime, ManualClock, Offset, PartitionId, Position, Span, StoreEpoch,
    StreamDef, StreamSchema, UnknownColumns,
};
use object_store::ObjectStore;
use object_store::path::Path;

use crate::parquet_files::register_store;
use crate::raw::delta::DeltaLog;
use crate::raw::{ArchivedDeadLetter, RawError, RawLog, RawScan, RawSnapshot};
use crate::{CommittedBatch, DeadLetter, Format};

pub(super) fn column(name: &str, column_type: ColumnType, nullable: bool) -> Column {
    Column {
        name: name.to_owned(),
        column_type,
        nullable,
    }
}

/// A stream with a column of every type, `at` being its event time.
pub(super) fn every_type() -> StreamDef {
    let nested = vec![
        column("a", ColumnType::Int, true),
        column("b", ColumnType::Varchar, true),
    ];
    let columns = vec![
        column("at", ColumnType::Timestamp, true),
        column("flag", ColumnType::Boolean, true),
        column("small", ColumnType::Int, true),
        column("big", ColumnType::BigInt, false),
        column("real", ColumnType::Double, true),
        column("price", ColumnType::Decimal(38, 4), true),
        column("odd name", ColumnType::Varchar, true),
        column("day", ColumnType::Date, true),
        column("nested", ColumnType::Struct(nested), true),
        column("list", ColumnType::List(Box::new(ColumnType::Int)), true),
    ];
    def(columns, Some("at"))
}

/// A stream `id BIGINT NOT NULL, at TIMESTAMP`.
pub(super) fn plain() -> StreamDef {
    let columns = vec![
        column("id", ColumnType::BigInt, false),
        column("at", ColumnType::Timestamp, true),
    ];
    def(columns, Some("at"))
}

pub(super) fn def(columns: Vec<Column>, event_time: Option<&str>) -> StreamDef {
    StreamDef {
        id: "k3f".parse().unwrap(),
        name: "flights".to_owned(),
        schema: StreamSchema {
            columns,
            event_time: event_time.map(|column| EventTime {
                column: column.to_owned(),
                epoch: None,
            }),
            unknown_columns: UnknownColumns::Ignore,
        },
        source: dovetail_model::Source::Embedded,
        created_at: DateTime::UNIX_EPOCH,
    }
}

pub(super) fn root() -> Path {
    Path::from("streams/k3f")
}

pub(super) async fn open(
    store: &Arc<dyn ObjectStore>,
    def: &StreamDef,
) -> Result<RawLog, RawError> {
    let clock = Arc::new(ManualClock::at(1_700_000_000_000_000));
    RawLog::open(Arc::clone(store), root(), def, StoreEpoch(0), clock).await
}

/// Values of every type for the given offsets; every third value of each column is null.
fn every_value(offsets: &[i64]) -> Vec<ArrayRef> {
    fn sparse<T>(offsets: &[i64], make: impl Fn(i64) -> T) -> Vec<Option<T>> {
        let value = |o: &i64| (o % 3 != 1).then(|| make(*o));
        offsets.iter().map(value).collect()
    }
    let a = Int32Array::from(sparse(offsets, |o| o as i32));
    let b = StringArray::from(sparse(offsets, |o| format!("b{o}")));
    let fields = Fields::from(vec![
        Field::new("a", DataType::Int32, true),
        Field::new("b", DataType::Utf8, true),
    ]);
    let nulls = offsets.iter().map(|o| o % 5 != 0).collect::<Vec<_>>();
    let nested = StructArray::new(fields, vec![Arc::new(a), Arc::new(b)], Some(nulls.into()));
    let item = Field::new("element", DataType::Int32, true);
    let mut list = ListBuilder::new(Int32Builder::new()).with_field(Arc::new(item));
    for offset in offsets {
        for value in 0..offset % 4 {
            list.values()
                .append_option((value != 1).then_some(value as i32));
        }
        list.append(offset % 7 != 3);
    }
    let prices = sparse(offsets, |o| i128::from(o) * 10_i128.pow(30) - 7);
    let prices = Decimal128Array::from(prices).with_precision_and_scale(38, 4);
    let real = |o: i64| if o % 4 == 0 { f64::NAN } else { o as f64 / 3.0 };
    vec![
        Arc::new(TimestampMicrosecondArray::from(sparse(offsets, event_time))),
        Arc::new(BooleanArray::from(sparse(offsets, |o| o % 2 == 0))),
        Arc::new(Int32Array::from(sparse(offsets, |o| -o as i32))),
        Arc::new(Int64Array::from(offsets.to_vec())),
        Arc::new(Float64Array::from(sparse(offsets, real))),
        Arc::new(prices.unwrap()),
        Arc::new(StringArray::from(sparse(offsets, |o| {
            "ü".repeat(o as usize % 90)
        }))),
        Arc::new(Date32Array::from(sparse(offsets, |o| o as i32 - 3))),
        Arc::new(nested),
        Arc::new(list.finish()),
    ]
}

/// Event time of the event at `offset` in every stream here: an hour apart, so that later is larger.
pub(super) fn event_time(offset: i64) -> i64 {
    offset * 3_600_000_000
}

/// A batch of `def`'s events at `offsets` of `partition`, covering `[first, next)`.
pub(super) fn batch(
    def: &StreamDef,
    partition: u32,
    range: std::ops::Range<u64>,
    offsets: &[i64],
) -> Arc<CommittedBatch> {
    let mut columns = if def.schema.columns.len() > 3 {
        every_value(offsets)
    } else {
        let times = offsets.iter().map(|o| event_time(*o)).collect::<Vec<_>>();
        vec![
            Arc::new(Int64Array::from(offsets.to_vec())) as ArrayRef,
            Arc::new(TimestampMicrosecondArray::from(times)),
        ]
    };
    let arrived_at_us = range.start as i64 * 1000;
    let rows = offsets.len();
    columns.push(Arc::new(Int32Array::from(vec![partition as i32; rows])));
    columns.push(Arc::new(Int64Array::from(offsets.to_vec())));
    columns.push(Arc::new(TimestampMicrosecondArray::from(vec![
        arrived_at_us;
        rows
    ])));
    let at = |offset| Position::zero().with(PartitionId(partition), Offset(offset));
    Arc::new(CommittedBatch {
        span: Span::new(at(range.start), at(range.end)).unwrap(),
        arrived_at_us,
        events: RecordBatch::try_new(def.schema.events(), columns).unwrap(),
        dead_letters: Vec::new(),
        replayed: Vec::new(),
    })
}

/// A full batch of partition 0.
pub(super) fn full(def: &StreamDef, range: std::ops::Range<u64>) -> Arc<CommittedBatch> {
    let offsets = (range.start as i64..range.end as i64).collect::<Vec<_>>();
    batch(def, 0, range, &offsets)
}

/// `batch` with dead letters at `offsets`, and `replayed` marks.
pub(super) fn with_dead(
    batch: &CommittedBatch,
    offsets: &[u64],
    replayed: &[u64],
) -> Arc<CommittedBatch> {
    let mut batch = batch.clone();
    let (partition, _) = batch.span.to().iter().next().expect("it moves");
    let place = |offset: &u64| (partition, Offset(*offset));
    let letters = offsets.iter().map(|o| (place(o), letter(*o)));
    batch.dead_letters = letters.collect();
    batch.replayed = replayed.iter().map(place).collect();
    Arc::new(batch)
}

pub(super) fn letter(offset: u64) -> DeadLetter {
    DeadLetter {
        bytes: Bytes::from(format!("{{broken {offset}").into_bytes()),
        format: Format::Ndjson,
        reason: format!("expected `}}` at {offset}"),
        line: offset.is_multiple_of(2).then_some(offset + 1),
        column: (offset % 2 == 1).then(|| "a.b".to_owned()),
        origin: "http".to_owned(),
        envelope: None,
    }
}

pub(super) fn at(offset: u64) -> Position {
    Position::single(Offset(offset))
}

pub(super) fn span(from: u64, to: u64) -> Span {
    Span::new(at(from), at(to)).unwrap()
}

pub(super) fn position(offsets: &[(u32, u64)]) -> Position {
    offsets
        .iter()
        .map(|(p, o)| (PartitionId(*p), Offset(*o)))
        .collect()
}

pub(super) async fn run(
    store: &Arc<dyn ObjectStore>,
    plan: Arc<dyn ExecutionPlan>,
) -> datafusion::error::Result<RecordBatch> {
    let runtime = Arc::new(RuntimeEnv::default());
    register_store(&runtime, Arc::clone(store));
    let context = Arc::new(TaskContext::default().with_runtime(runtime));
    let schema = plan.schema();
    let batches = collect(plan, context).await?;
    Ok(concat_batches(&schema, &batches)?)
}

pub(super) async fn scan(
    store: &Arc<dyn ObjectStore>,
    snapshot: &RawSnapshot,
    request: RawScan,
) -> RecordBatch {
    run(store, snapshot.scan(request).unwrap()).await.unwrap()
}

/// The offsets of all archived events, in the order of a scan by one partition.
pub(super) async fn archived_offsets(
    store: &Arc<dyn ObjectStore>,
    snapshot: &RawSnapshot,
) -> Vec<i64> {
    let all = Span::up_to(snapshot.archived().clone());
    offsets_of(&scan(store, snapshot, RawScan::of(all)).await)
}

pub(super) fn offsets_of(batch: &RecordBatch) -> Vec<i64> {
    let column = batch.column_by_name("_offset").unwrap();
    let column = column.as_any().downcast_ref::<Int64Array>().unwrap();
    column.values().to_vec()
}

/// Rows of the dead letters' table, as another engine would count them.
pub(super) async fn letter_rows(store: &Arc<dyn ObjectStore>) -> u64 {
    let place = root().join("dead-letters");
    let clock = Arc::new(ManualClock::default());
    let log = DeltaLog::new(Arc::clone(store), place, clock).unwrap();
    let table = log.load().await.unwrap().unwrap();
    let rows = table.files().map(|file| {
        let stats: serde_json::Value = serde_json::from_str(&file.stats.unwrap()).unwrap();
        stats["numRecords"].as_u64().unwrap()
    });
    rows.sum()
}

/// How many archived dead letters wait for a replay.
pub(super) async fn dead_letter_count(log: &RawLog) -> u64 {
    log.dead_letters(None, 0, &|_, _| true).await.unwrap().total
}

/// The archived dead letters that wait for a replay.
pub(super) async fn dead_letters(log: &RawLog) -> Vec<ArchivedDeadLetter> {
    let page = log.dead_letters(None, 1000, &|_, _| true).await.unwrap();
    assert!(!page.more);
    page.letters
}
