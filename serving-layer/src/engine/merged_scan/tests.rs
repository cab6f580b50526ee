// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{ArrayRef, AsArray as _, Int64Array};
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use chrono::DateTime;
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool};
use datafusion::object_store::memory::InMemory;
use datafusion::object_store::{ObjectStore, ObjectStoreExt as _};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::prelude::SessionContext;
use dovetail_log::parquet_files::{Note, register_store};
use dovetail_model::{
    Column, ColumnType, Manifest, Offset, PartitionId, Position, Span, StreamSchema,
    UnknownColumns, ViewDef,
};
use dovetail_seam::Generation;
use dovetail_view::View;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::*;
use crate::held::AnswerMemory;

const SQL: &str = "SELECT n, count(*) AS c FROM events GROUP BY n";
const ONLY: PartitionId = PartitionId(0);
/// More groups than a batch of a scan has rows.
const GROUPS: i64 = 20_000;

fn view() -> Arc<View> {
    let schema = StreamSchema {
        columns: vec![Column {
            name: "n".to_owned(),
            column_type: ColumnType::BigInt,
            nullable: false,
        }],
        event_time: None,
        unknown_columns: UnknownColumns::Ignore,
    };
    let streams = BTreeMap::from([("events".to_owned(), schema)]);
    Arc::new(View::compile(SQL, &streams).unwrap())
}

/// One event of each of these numbers from an offset on, as a run.
fn run(view: &View, numbers: impl IntoIterator<Item = i64>, from: u64) -> Arc<Run> {
    let numbers = Int64Array::from_iter_values(numbers);
    let to = from + numbers.len() as u64;
    let events = RecordBatch::try_from_iter([("n", Arc::new(numbers) as ArrayRef)]).unwrap();
    let span = Span::new(Position::single(Offset(from)), Position::single(Offset(to)));
    Arc::new(view.accumulate(&events, span.unwrap()).unwrap())
}

/// A generation of one file, and runs behind it or none.
async fn scan(is_touched: bool) -> (MergedScan, Arc<TaskContext>) {
    scan_of(is_touched, None).await
}

async fn scan_of(is_touched: bool, columns: Option<Vec<usize>>) -> (MergedScan, Arc<TaskContext>) {
    let touched = is_touched.then_some(5..8);
    let (source, context) = source(0..GROUPS, touched).await;
    let scan = MergedScan::new("v", source, columns, Wanted::default(), None, 1).unwrap();
    (scan, context)
}

/// A generation of one file, which has a group of one event for each of these numbers, and a run behind it for each of
/// `runs`.
async fn source(
    groups: impl IntoIterator<Item = i64>,
    runs: impl IntoIterator<Item = impl IntoIterator<Item = i64>>,
) -> (ViewSource, Arc<TaskContext>) {
    let view = view();
    let groups = run(&view, groups, 0);
    let states = arrow::compute::concat_batches(&view.state_schema(), groups.states()).unwrap();
    let rows = view.to_file(&states).unwrap();
    let mut file = vec![];
    let mut writer = ArrowWriter::try_new(&mut file, view.file_schema(), None).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
    let keys = view.encode_keys(&states).unwrap();
    let key = |row: usize| {
        let bytes = keys.row(row).data().iter();
        bytes.map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let id: dovetail_model::ViewId = "v1".parse().unwrap();
    let def = ViewDef {
        id: id.clone(),
        name: "v".to_owned(),
        stream: "k3f".parse().unwrap(),
        sql: SQL.to_owned(),
        recompute: None,
        recompute_after: Default::default(),
        refresh_s: None,
        version: 1,
        definition_hash: view.definition_hash().to_owned(),
        defined_at: DateTime::UNIX_EPOCH,
    };
    let mut manifest = Manifest::empty(&def, view.state_fingerprint());
    manifest.files = vec![DataFile {
        path: "files/one.parquet".to_owned(),
        rows: rows.num_rows() as u64,
        bytes: file.len() as u64,
        decoded_bytes: None,
        checksum: String::new(),
        first_key: key(0),
        last_key: key(rows.num_rows() - 1),
    }];
    let store = InMemory::new();
    let path = format!("{}/files/one.parquet", Generation::view_root(&id));
    store.put(&path.into(), file.into()).await.unwrap();
    let ctx = SessionContext::new();
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    register_store(&ctx.runtime_env(), store);
    let mut behind = vec![];
    for numbers in runs {
        let from = behind.last().unwrap_or(&groups).span().to().get(ONLY).0;
        behind.push(run(&view, numbers, from));
    }
    let source = ViewSource {
        generation: Arc::new(Generation::new(Arc::new(manifest), view)),
        runs: behind,
        merged: true,
    };
    (source, ctx.task_ctx())
}

/// What is read of these columns, by number, and how many bytes are fetched for it.
async fn read(scan: MergedScan, context: &Arc<TaskContext>) -> (BTreeMap<i64, Vec<i64>>, usize) {
    let bytes = Arc::new(Fetched::default());
    let holder: Arc<dyn Holder> = Arc::clone(&bytes) as _;
    let scan = scan.watched(&Interrupt::idle(), &holder);
    let rows = scan.execute(0, Arc::clone(context)).unwrap();
    let rows: Vec<RecordBatch> = rows.try_collect().await.unwrap();
    let rows = concat_batches(&scan.schema(), &rows).unwrap();
    let columns = rows.columns().iter().map(|c| c.as_primitive::<Int64Type>());
    let columns: Vec<_> = columns.collect();
    let mut found = BTreeMap::new();
    for row in 0..rows.num_rows() {
        let values = columns.iter().map(|column| column.value(row)).collect();
        let earlier = found.insert(columns[0].value(row), values);
        assert_eq!(earlier, None, "no group is there twice");
    }
    (found, bytes.0.load(Ordering::Relaxed))
}

/// Whoever asks again reads what the first one does, and of the file no more than of one that nothing touches.
#[tokio::test]
async fn what_runs_make_of_a_file_is_kept_for_who_asks_again() {
    let even = || (0..GROUPS).map(|n| n * 2);
    let last = GROUPS * 2;
    let cases: [Vec<Vec<i64>>; 6] = [
        vec![vec![4, 16_390, 16_384, last - 2]],
        vec![(0..last).step_by(10).collect(), vec![10, 11, 13]],
        vec![vec![-7, -5, 0, 1, 16_383, 16_385], vec![-7, last, last + 1]],
        vec![vec![last + 9]],
        vec![vec![-1]],
        vec![(-3..last + 3).collect()],
    ];
    for runs in cases {
        let (source, context) = source(even(), runs.clone()).await;
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(64 << 20));
        let settlements = Arc::new(Settlements::new(&pool));
        let scan = |columns: &[usize], settlements: Option<&Arc<Settlements>>| {
            let columns = Some(columns.to_vec());
            let scan =
                MergedScan::new("v", source.clone(), columns, Wanted::default(), None, 1).unwrap();
            scan.settled(settlements.cloned())
        };
        let mut expected: BTreeMap<i64, i64> = even().map(|n| (n, 1)).collect();
        for n in runs.iter().flatten() {
            *expected.entry(*n).or_default() += 1;
        }
        for columns in [vec![0, 1], vec![0], vec![0, 1]] {
            for _ in 0..3 {
                let (found, _) = read(scan(&columns, Some(&settlements)), &context).await;
                let values =
                    |(n, count): (&i64, &i64)| (*n, [*n, *count][..columns.len()].to_vec());
                assert_eq!(found, expected.iter().map(values).collect());
            }
        }
        assert!(pool.reserved() > 0);
        let (_, by_first) = read(scan(&[0], None), &context).await;
        let (_, by_next) = read(scan(&[0], Some(&settlements)), &context).await;
        assert!(by_next < by_first, "{by_next} of {by_first} bytes");
    }
}

/// Counts what is fetched.
#[derive(Debug, Default)]
struct Fetched(AtomicUsize);

impl Holder for Fetched {
    fn hold(&self, bytes: usize) -> BoxFuture<'_, Result<Note>> {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        async { Ok(Box::new(()) as Note) }.boxed()
    }
}

#[tokio::test]
async fn columns_that_nobody_asks_for_are_not_fetched() {
    let mut fetched = vec![];
    for columns in [vec![0], vec![0, 1], vec![1, 0], vec![1], vec![]] {
        let (scan, context) = scan_of(false, Some(columns.clone())).await;
        let bytes = Arc::new(Fetched::default());
        let holder: Arc<dyn Holder> = Arc::clone(&bytes) as _;
        let scan = scan.watched(&Interrupt::idle(), &holder);
        let rows = scan.execute(0, context).unwrap();
        let rows: Vec<RecordBatch> = rows.try_collect().await.unwrap();
        let rows = concat_batches(&scan.schema(), &rows).unwrap();
        assert_eq!(rows.num_rows() as i64, GROUPS);
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..GROUPS));
        let ones: ArrayRef = Arc::new(Int64Array::from_value(1, GROUPS as usize));
        let expected = columns.iter().map(|column| [&numbers, &ones][*column]);
        assert!(rows.columns().iter().eq(expected), "{columns:?}");
        fetched.push(bytes.0.load(Ordering::Relaxed));
    }
    let [key, both, turned, with_key, nothing] = fetched[..] else {
        unreachable!("five");
    };
    assert!(key < both, "{key} of {both} bytes");
    assert_eq!([turned, with_key, nothing], [both, both, key]);
}

#[tokio::test]
async fn a_scan_that_nobody_waits_for_reads_no_further() {
    for is_touched in [false, true] {
        let (scan, context) = scan(is_touched).await;
        let interrupt = Interrupt::idle();
        let nobody = AnswerMemory::default().fetched_for_reader();
        let scan = scan.watched(&interrupt, &nobody);
        let whole: Vec<RecordBatch> = scan
            .execute(0, Arc::clone(&context))
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        let rows: usize = whole.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(rows as i64, GROUPS);
        assert!(whole.len() > 2, "it is read in batches");

        let mut rows = scan.execute(0, Arc::clone(&context)).unwrap();
        if !is_touched {
            rows.next().await.unwrap().unwrap();
        }
        interrupt.gone.cancel();
        let error = rows.next().await.unwrap().unwrap_err();
        assert!(error.to_string().contains("nobody waits"), "{error}");
    }
}

/// Reads everything so many times.
async fn asked(
    source: &ViewSource,
    settlements: &Arc<Settlements>,
    context: &Arc<TaskContext>,
    times: usize,
) {
    for _ in 0..times {
        let scan = MergedScan::new("v", source.clone(), None, Wanted::default(), None, 1).unwrap();
        let (groups, _) = read(scan.settled(Some(Arc::clone(settlements))), context).await;
        assert!(groups.len() as i64 >= GROUPS);
    }
}

#[tokio::test]
async fn what_is_kept_goes_with_its_runs_and_has_its_bounds() {
    let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(64 << 20));
    let settlements = Arc::new(Settlements::new(&pool));
    let mut sources = vec![];
    for _ in 0..4 {
        sources.push(source(0..GROUPS, [0..GROUPS, GROUPS..GROUPS * 2]).await);
    }
    let (one, context) = &sources[0];
    asked(one, &settlements, context, 1).await;
    assert_eq!(pool.reserved(), 0, "nothing is kept for who asks once");
    asked(one, &settlements, context, 1).await;
    let of_one = pool.reserved();
    assert!(
        of_one > GROUPS as usize * 2 * 16 && of_one < 4 << 20,
        "{of_one}"
    );
    // The fourth part of the memory takes three of them, not four: that which was asked for longest ago goes.
    for (other, context) in &sources[1..] {
        asked(other, &settlements, context, 2).await;
    }
    let kept = pool.reserved();
    assert!(kept <= 4 << 20 && kept > of_one, "{kept}");
    asked(one, &settlements, context, 1).await;
    assert!(pool.reserved() <= kept, "it is asked for anew");
    let (last, context) = sources.pop().unwrap();
    asked(&last, &settlements, &context, 1).await;
    drop((last, sources));
    let (another, context) = source(0..GROUPS, Some(0..1)).await;
    asked(&another, &settlements, &context, 1).await;
    assert_eq!(pool.reserved(), 0, "what is gone is not kept");
    // Too large for a sixteenth: it is read, and not kept.
    let small: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(1 << 20));
    let settlements = Arc::new(Settlements::new(&small));
    let (large, context) = source(0..GROUPS, Some(0..GROUPS)).await;
    asked(&large, &settlements, &context, 3).await;
    assert_eq!(small.reserved(), 0);
}
