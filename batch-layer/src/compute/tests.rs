// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::TimestampMicrosecondArray;
use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::util::pretty::pretty_format_batches;
use datafusion::execution::memory_pool::{FairSpillPool, MemoryPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::physical_plan::collect;
use dovetail_log::CommittedBatch;
use dovetail_log::embedded::ONLY_PARTITION;
use dovetail_log::parquet_files::register_store;
use dovetail_log::raw::RawLog;
use dovetail_model::{
    Column, ColumnType, ManualClock, Offset, StreamDef, StreamSchema, UnknownColumns, ViewDef,
    ViewId,
};
use dovetail_seam::FileColumns;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::memory::InMemory;

use super::*;
use crate::ComputerConfig;
use crate::layer::{Kind, Lanes};

const MEMORY: usize = 64 << 20;
/// Groups of a batch.
const ROWS: i64 = 4096;

fn schema() -> StreamSchema {
    let column = |name: &str, column_type| Column {
        name: name.to_owned(),
        column_type,
        nullable: false,
    };
    StreamSchema {
        columns: vec![
            column("n", ColumnType::BigInt),
            column("text", ColumnType::Varchar),
        ],
        event_time: None,
        unknown_columns: UnknownColumns::Ignore,
    }
}

fn runtime() -> Arc<RuntimeEnv> {
    let pool = Arc::new(FairSpillPool::new(MEMORY));
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool);
    runtime.build_arc().unwrap()
}

async fn job(sql: &str) -> Job {
    let task = Arc::new(TaskContext::default().with_runtime(runtime()));
    job_over(sql, &[], task).await
}

/// A job over a raw log of the events in `batches`, in as many segments.
async fn job_over(sql: &str, batches: &[RecordBatch], task: Arc<TaskContext>) -> Job {
    let stream = Stream::over(sql, task).await;
    for events in batches {
        stream.archive(events).await;
    }
    stream.job()
}

/// A stream's raw log on a store in memory, and a view of it.
pub(crate) struct Stream {
    pub(crate) def: StreamDef,
    store: Arc<dyn ObjectStore>,
    clock: Arc<ManualClock>,
    log: RawLog,
    view: Arc<View>,
    task: Arc<TaskContext>,
    /// Of the job that was made last.
    last: parking_lot::Mutex<Arc<Progress>>,
}

impl Stream {
    pub(crate) async fn new(sql: &str) -> Self {
        let task = Arc::new(TaskContext::default().with_runtime(runtime()));
        Self::over(sql, task).await
    }

    async fn over(sql: &str, task: Arc<TaskContext>) -> Self {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let clock = Arc::new(ManualClock::at(0));
        let def = StreamDef {
            id: "s1".parse().unwrap(),
            name: "s".to_owned(),
            schema: schema(),
            source: dovetail_model::Source::Embedded,
            created_at: dovetail_model::Clock::now(clock.as_ref()),
        };
        let log = RawLog::open(
            Arc::clone(&store),
            Path::from("streams/s1"),
            &def,
            dovetail_model::StoreEpoch(0),
            Arc::clone(&clock) as _,
        );
        let schemas = BTreeMap::from([("s".to_owned(), schema())]);
        register_store(&task.runtime_env(), Arc::clone(&store));
        Self {
            log: log.await.unwrap(),
            view: Arc::new(View::compile(sql, &schemas).unwrap()),
            last: Default::default(),
            def,
            store,
            clock,
            task,
        }
    }

    /// Puts more events, numbered from where the last ones ended, into a segment of their own.
    pub(crate) async fn archive(&self, events: &RecordBatch) {
        let first = self.raw().archived().get(ONLY_PARTITION).0.cast_signed();
        let span = span(first, events.num_rows());
        let (at, _) = events.schema().column_with_name("_offset").unwrap();
        let mut columns = events.columns().to_vec();
        let behind = first + events.num_rows() as i64;
        columns[at] = Arc::new(Int64Array::from_iter_values(first..behind));
        let batch = CommittedBatch {
            span: span.clone(),
            arrived_at_us: 0,
            events: RecordBatch::try_new(events.schema(), columns).unwrap(),
            dead_letters: vec![],
            replayed: vec![],
        };
        self.log.archive(&span, &[Arc::new(batch)]).await.unwrap();
    }

    pub(crate) fn raw(&self) -> Arc<RawSnapshot> {
        self.log.snapshot()
    }

    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view)
    }

    pub(crate) fn view_id(&self) -> ViewId {
        "v1".parse().unwrap()
    }

    /// What computes in this process, in order.
    pub(crate) fn job(&self) -> Job {
        let progress = Arc::<Progress>::default();
        *self.last.lock() = Arc::clone(&progress);
        Job {
            view: self.view(),
            raw: self.raw(),
            root: Path::from("views/v1"),
            store: Arc::clone(&self.store),
            task: Arc::clone(&self.task),
            at_a_time: 1,
            partitions: 1,
            progress,
        }
    }

    /// Rows that the last of them read.
    pub(crate) fn read_last(&self) -> u64 {
        self.last.lock().total()
    }

    /// What a worker over the same store is made of.
    pub(crate) fn computer(&self) -> ComputerConfig {
        let task = Arc::new(TaskContext::default().with_runtime(runtime()));
        register_store(&task.runtime_env(), Arc::clone(&self.store));
        ComputerConfig {
            store: Arc::clone(&self.store),
            clock: Arc::clone(&self.clock) as _,
            task,
            partitions: 1,
            runs: 1,
        }
    }

    /// The manifest of what was computed.
    pub(crate) fn manifest(
        &self,
        computed: Computed,
        horizon: &Position,
        exclusions: &[Exclusion],
    ) -> Arc<Manifest> {
        let generation = generation_at(&self.job(), computed, horizon);
        let mut manifest = Manifest::clone(generation.manifest());
        manifest.inputs.exclusions = exclusions.to_vec();
        Arc::new(manifest)
    }

    /// That of nothing at all.
    pub(crate) fn nothing(&self) -> Arc<Manifest> {
        self.manifest(Computed::default(), &Position::zero(), &[])
    }

    /// All that the files of a generation hold.
    pub(crate) async fn rows(&self, manifest: &Arc<Manifest>) -> String {
        let generation = Generation::new(Arc::clone(manifest), self.view());
        let plan = generation.scan(&manifest.files, &FileColumns::All, None, 1);
        let batches = collect(plan.unwrap(), Arc::clone(&self.task))
            .await
            .unwrap();
        pretty_format_batches(&batches).unwrap().to_string()
    }
}

/// An event of each of `numbers`.
pub(crate) fn events_of(numbers: &[i64]) -> RecordBatch {
    let texts = numbers.iter().map(|n| format!("t{n}"));
    batch_of(numbers.iter().copied(), texts)
}

fn span(first: i64, events: usize) -> Span {
    let at = |offset: i64| Position::single(Offset(offset.cast_unsigned()));
    Span::new(at(first), at(first + events as i64)).unwrap()
}

/// One event each of the numbers from `first` on, every one with a text of `width` bytes.
fn events(first: i64, width: usize) -> RecordBatch {
    let text = "x".repeat(width);
    let texts = (first..first + ROWS).map(|n| format!("{n:09}{text}"));
    batch_of(first..first + ROWS, texts)
}

/// Offsets are given by who archives them.
fn batch_of(
    numbers: impl Iterator<Item = i64> + Clone,
    texts: impl Iterator<Item = String>,
) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(numbers.clone())),
        Arc::new(StringArray::from_iter_values(texts)),
        Arc::new(Int32Array::from_iter_values(numbers.clone().map(|_| 0))),
        Arc::new(Int64Array::from_iter_values(numbers.clone())),
        Arc::new(TimestampMicrosecondArray::from_iter_values(
            numbers.map(|_| 0),
        )),
    ];
    RecordBatch::try_new(schema().events(), columns).unwrap()
}

/// The states of [`events`].
fn states(view: &View, first: i64, width: usize) -> RecordBatch {
    let events = events(first, width);
    let span = span(first, events.num_rows());
    let run = view.accumulate(&events, span).unwrap();
    assert_eq!(run.states().len(), 1);
    run.states()[0].clone()
}

fn generation(job: &Job, computed: Computed) -> Generation {
    generation_at(job, computed, &Position::zero())
}

fn generation_at(job: &Job, computed: Computed, horizon: &Position) -> Generation {
    let def = ViewDef {
        id: "v1".parse().unwrap(),
        name: "v".to_owned(),
        stream: "s1".parse().unwrap(),
        sql: job.view.sql().to_owned(),
        recompute: None,
        recompute_after: Default::default(),
        refresh_s: None,
        version: 1,
        definition_hash: job.view.definition_hash().to_owned(),
        defined_at: dovetail_model::Clock::now(&ManualClock::at(0)),
    };
    let mut manifest = Manifest::empty(&def, job.view.state_fingerprint());
    manifest.files = computed.files;
    manifest.inputs.horizon = horizon.clone();
    Generation::new(Arc::new(manifest), Arc::clone(&job.view))
}

/// What a rewrite held at most, seen whenever it asks for more states: groups that were handed to it and are in no
/// file yet, and bytes that it had reserved.
#[derive(Default)]
struct Most {
    groups: AtomicUsize,
    bytes: AtomicUsize,
}

/// Merges `batches` of states, from the group `first` on, into `base`.
async fn rewritten(
    job: &Job,
    base: &Generation,
    (first, batches): (i64, i64),
    width: usize,
) -> (Computed, Arc<Most>) {
    let most = Arc::<Most>::default();
    let (seen, view) = (Arc::clone(&most), Arc::clone(&job.view));
    let (store, task) = (Arc::clone(&job.store), Arc::clone(&job.task));
    let root = job.root.clone();
    let incoming = futures::stream::iter(0..batches).then(move |batch| {
        let (seen, view) = (Arc::clone(&seen), Arc::clone(&view));
        let (store, task, root) = (Arc::clone(&store), Arc::clone(&task), root.clone());
        async move {
            let files: Vec<_> = store.list(Some(&root)).try_collect().await.unwrap();
            // About: a file is as many groups as there may be in it.
            let written = files.len() * FILE_ROWS;
            let handed = usize::try_from(batch * ROWS).unwrap();
            seen.groups
                .fetch_max(handed.saturating_sub(written), Ordering::Relaxed);
            seen.bytes
                .fetch_max(task.memory_pool().reserved(), Ordering::Relaxed);
            Ok(states(&view, first + batch * ROWS, width))
        }
    });
    let incoming = SortedStates::new(Arc::clone(&job.view), incoming.boxed());
    let computed = rewrite::rewrite(job, base, incoming, &KeySet::default())
        .await
        .unwrap();
    (computed, most)
}

async fn keys(job: &Job, computed: Computed) -> Vec<Vec<u8>> {
    let written = generation(job, computed);
    let mut keys = vec![];
    for file in &written.manifest().files {
        let mut states = SortedStates::of_file(&written, file, &job.task).unwrap();
        while let Some(batch) = states.next().await.unwrap() {
            let rows = job.view.encode_keys(&batch).unwrap();
            keys.extend(rows.iter().map(|key| key.as_ref().to_vec()));
        }
    }
    keys
}

fn ascend(keys: &[Vec<u8>]) -> bool {
    keys.windows(2).all(|two| two[0] < two[1])
}

const NARROW: &str = "SELECT n, count(*) AS events FROM s GROUP BY n";
const WIDE: &str = "SELECT text, count(*) AS events FROM s GROUP BY text";

/// As with a key that follows time: a span's groups are all behind those of the base.
#[tokio::test]
async fn groups_behind_the_last_file_are_written_as_they_come() {
    let job = job(NARROW).await;
    let nothing = generation(&job, Computed::default());
    let (base, _) = rewritten(&job, &nothing, (0, 4), 0).await;
    let base = generation(&job, base);
    let (computed, most) = rewritten(&job, &base, (2 * ROWS, 100), 0).await;
    let held = most.groups.load(Ordering::Relaxed);
    assert!(held <= 3 * FILE_ROWS, "{held} groups were held at once");
    let keys = keys(&job, computed).await;
    assert_eq!(keys.len() as i64, 102 * ROWS, "two batches were merged");
    assert!(ascend(&keys));
    assert_eq!(job.task.memory_pool().reserved(), 0);
}

/// As with a key that hashes: a span's groups are between those of the base, and many more.
#[tokio::test]
async fn groups_between_those_of_a_file_are_written_as_they_come() {
    let job = job(NARROW).await;
    let mut writer = GenerationWriter::new(&job);
    for batch in [0, 100] {
        writer
            .push(&states(&job.view, batch * ROWS, 0))
            .await
            .unwrap();
    }
    let base = generation(&job, writer.finish().await.unwrap());
    assert_eq!(base.manifest().files.len(), 1);
    let (computed, most) = rewritten(&job, &base, (ROWS / 2, 99), 0).await;
    let held = most.groups.load(Ordering::Relaxed);
    assert!(held <= 3 * FILE_ROWS, "{held} groups were held at once");
    let keys = keys(&job, computed).await;
    assert_eq!(keys.len() as i64, 101 * ROWS - ROWS / 2);
    assert!(ascend(&keys));
}

#[tokio::test]
async fn wide_groups_make_smaller_files_and_are_counted() {
    let job = job(WIDE).await;
    let pool: &Arc<dyn MemoryPool> = job.task.memory_pool();
    let nothing = generation(&job, Computed::default());
    // 64 MiB of states in 16 Ki groups.
    let (computed, most) = rewritten(&job, &nothing, (0, 4), 4 << 10).await;
    let files = computed.files.len();
    assert!((3..=5).contains(&files), "{files} files");
    let most = most.bytes.load(Ordering::Relaxed);
    assert!(
        (FILE_BYTES..=4 * FILE_BYTES).contains(&most),
        "{} MiB were counted",
        most >> 20
    );
    assert_eq!(pool.reserved(), 0);
    assert_eq!(keys(&job, computed).await.len() as i64, 4 * ROWS);
}

/// A sort would take the whole pool, and what is written would come on top of it.
#[tokio::test]
async fn a_part_of_the_memory_is_set_aside_for_what_is_written() {
    let job = job(NARROW).await;
    let _writer = GenerationWriter::new(&job);
    assert_eq!(job.task.memory_pool().reserved(), MEMORY / 8);
}

/// The least that `--batch-memory` may be: every kind of run of a simple view has enough, though a repair holds all keys
/// while it sorts the states.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_of_the_least_memory_is_enough_for_every_kind_of_run() {
    const WIDTH: usize = 60;
    const BATCHES: i64 = 28;
    let scope = RepairScope {
        predicate: Some("length(text) > 0".to_owned()),
        ..RepairScope::default()
    };
    let batches: Vec<_> = (0..BATCHES).map(|n| events(n * ROWS, WIDTH)).collect();
    for partitions in [1, 2, 8] {
        let task = Arc::new(TaskContext::default().with_runtime(runtime()));
        let lanes = Lanes::new(&task, 1);
        let turn = lanes.turn(Kind::Full, &Progress::default()).await.unwrap();
        let job = Job {
            partitions,
            ..job_over(WIDE, &batches, Arc::clone(turn.task())).await
        };
        let archived = job.raw.archived().clone();
        let half = span(0, (BATCHES / 2 * ROWS) as usize);
        let computed = job.full(half.to(), &[]).await.unwrap();
        let base = generation_at(&job, computed, half.to());
        let computed = job.incremental(&base, &archived).await.unwrap();
        let base = generation_at(&job, computed, &archived);
        for computed in [
            job.full(&archived, &[]).await.unwrap(),
            job.repair(&base, &scope, &[]).await.unwrap(),
        ] {
            let groups: u64 = computed.files.iter().map(|file| file.rows).sum();
            assert_eq!(groups as i64, BATCHES * ROWS, "{partitions} partitions");
        }
        assert_eq!(job.task.memory_pool().reserved(), 0);
    }
}
