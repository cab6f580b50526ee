// SPDX-License-Identifier: Apache-2.0
//! One stream with views over it: every layer but the embedded log, on an object store in memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::{Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::prelude::{SessionConfig, SessionContext};
use dovetail_batch_layer::{
    BatchConfig, BatchLayer, NoWorkers, StartRequest, StreamAccess, StreamHandle, Workers,
};
use dovetail_log::CommittedBatch;
use dovetail_log::catalog::Catalog;
use dovetail_log::parquet_files::register_store;
use dovetail_log::raw::{RawLog, root_of};
use dovetail_model::{
    BatchRun, Clock, Column, ColumnType, Entry, EventTime, Exclusion, GenerationNumber,
    ManualClock, Offset, Outcome, PartitionId, Position, Problem, Span, StreamDef, StreamId,
    StreamSchema, UnknownColumns, ViewDef, ViewId,
};
use dovetail_seam::{Archiver, Cells, Forget, LocalCuts, LocalTargets, Poison, StreamCell};
use dovetail_serving_layer::engine::{Engine, QuerySession};
use dovetail_serving_layer::ports::{
    Answer, Layer, Limits, Provenance, Queries as _, QueryRequest, RowsRequest,
};
use dovetail_speed_layer::{accumulate, merge_once};
use dovetail_view::View;
use futures::TryStreamExt as _;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::{Oracle, lookup};

/// The stream's name.
pub const STREAM: &str = "flights";

/// What its events look like: `at`, `origin`, `delay`, `distance`.
pub fn event_schema() -> StreamSchema {
    let column = |name: &str, column_type, nullable| Column {
        name: name.to_owned(),
        column_type,
        nullable,
    };
    StreamSchema {
        columns: vec![
            column("at", ColumnType::Timestamp, false),
            column("origin", ColumnType::Varchar, true),
            column("delay", ColumnType::Int, true),
            column("distance", ColumnType::BigInt, false),
        ],
        event_time: Some(EventTime {
            column: "at".to_owned(),
            epoch: None,
        }),
        unknown_columns: UnknownColumns::Ignore,
    }
}

/// Columns that a test may add, in this order. Their values follow from the offset.
pub const MORE_COLUMNS: [&str; 3] = ["more1", "more2", "more3"];

/// `schema` with the column that comes next.
fn grown(mut schema: StreamSchema) -> Option<StreamSchema> {
    let added = schema.columns.len() - event_schema().columns.len();
    schema.columns.push(Column {
        name: (*MORE_COLUMNS.get(added)?).to_owned(),
        column_type: ColumnType::Int,
        nullable: true,
    });
    Some(schema)
}

/// The value of the `nth` added column in the event at `offset`.
fn more(nth: usize, offset: u64) -> Option<i32> {
    (offset % 7 > nth as u64).then_some((offset % 50) as i32 * (nth as i32 + 1))
}

#[derive(Debug)]
struct OneStream {
    id: StreamId,
    handle: StreamHandle,
}

impl StreamAccess for OneStream {
    fn stream(&self, id: &StreamId) -> Option<StreamHandle> {
        (*id == self.id).then(|| self.handle.clone())
    }
}

impl Cells for OneStream {
    fn cell(&self, id: &StreamId) -> Option<Arc<StreamCell>> {
        (*id == self.id).then(|| Arc::clone(&self.handle.cell))
    }
}

#[derive(Debug)]
struct KeepsEverything;

impl Forget for KeepsEverything {
    fn forget(&self, _: &Position) -> Result<(), String> {
        Ok(())
    }
}

/// All layers over one stream.
pub struct Rig {
    /// Where definitions, pointers and the ledger live.
    pub catalog: Arc<Catalog>,
    /// Batch runs.
    pub batch: BatchLayer,
    /// Queries.
    pub engine: Engine,
    /// The stream's cut.
    pub cell: Arc<StreamCell>,
    archiver: Arc<Archiver>,
    /// Where everything durable but the embedded log lives.
    pub store: Arc<dyn ObjectStore>,
    /// What was pushed so far.
    pub oracle: Oracle,
    clock: Arc<ManualClock>,
    def: Mutex<StreamDef>,
    /// Held while a batch is pushed: batches follow each other.
    next: Mutex<Position>,
    partitions: u32,
    next_view: AtomicU64,
    next_lookup: AtomicUsize,
}

/// One event: event time in microseconds, origin, delay, distance.
pub type Event = (i64, Option<&'static str>, Option<i32>, i64);

impl Rig {
    /// An empty stream of one partition without views. Batch runs share `batch_memory` bytes.
    pub async fn new(batch_memory: usize) -> Self {
        Self::with_partitions(batch_memory, 1).await
    }

    /// The same with events spread over several partitions.
    pub async fn with_partitions(batch_memory: usize, partitions: u32) -> Self {
        Self::over(Arc::new(InMemory::new()), batch_memory, partitions).await
    }

    /// The same over an empty `store`.
    pub async fn over(store: Arc<dyn ObjectStore>, batch_memory: usize, partitions: u32) -> Self {
        Self::with_workers(store, batch_memory, partitions, Arc::new(NoWorkers)).await
    }

    /// The same with `workers` that compute batch runs.
    pub async fn with_workers(
        store: Arc<dyn ObjectStore>,
        batch_memory: usize,
        partitions: u32,
        workers: Arc<dyn Workers>,
    ) -> Self {
        let manual = Arc::new(ManualClock::at(1_800_000_000_000_000));
        let clock: Arc<dyn Clock> = Arc::clone(&manual) as _;
        let catalog = Arc::new(
            Catalog::open(Arc::clone(&store), Arc::clone(&clock))
                .await
                .expect("a new catalog opens"),
        );
        let stream: StreamId = "k3f".parse().expect("an id");
        let def = StreamDef {
            id: stream.clone(),
            name: STREAM.to_owned(),
            schema: event_schema(),
            source: dovetail_model::Source::Embedded,
            created_at: clock.now(),
        };
        commit(
            &catalog,
            vec![Entry::StreamCreated {
                stream: def.clone(),
            }],
        )
        .await;
        let root = root_of(&stream);
        let raw = RawLog::open(
            Arc::clone(&store),
            root,
            &def,
            catalog.state().epoch(),
            Arc::clone(&clock),
        )
        .await
        .expect("a new raw log opens");
        let cell = Arc::new(StreamCell::new(Arc::new(def.clone()), raw.snapshot()));
        let archiver = Arc::new(Archiver::new(
            Arc::clone(&cell),
            raw,
            Arc::new(KeepsEverything),
        ));
        let one = Arc::new(OneStream {
            id: stream.clone(),
            handle: StreamHandle {
                cell: Arc::clone(&cell),
                targets: Arc::new(LocalTargets::new(Arc::clone(&cell), Arc::clone(&archiver))),
            },
        });
        let runtime = || runtime(batch_memory, &store);
        let config = SessionConfig::new()
            .with_target_partitions(2)
            .with_batch_size(64);
        let batch = BatchLayer::new(BatchConfig {
            catalog: Arc::clone(&catalog),
            store: Arc::clone(&store),
            streams: Arc::clone(&one) as _,
            clock: Arc::clone(&clock),
            runtime: Handle::current(),
            task: SessionContext::new_with_config_rt(config, runtime()).task_ctx(),
            partitions: 2,
            runs: 1,
            workers,
        });
        let session = QuerySession::new(runtime(), 2).expect("the engine starts");
        let cuts = Arc::new(LocalCuts(one));
        let engine = Engine::new(
            Arc::clone(&catalog),
            cuts,
            clock,
            session,
            Handle::current(),
        );
        let mut all = def.clone();
        while let Some(schema) = grown(all.schema.clone()) {
            all.schema = schema;
        }
        let oracle = Oracle::new(&all);
        Self {
            catalog,
            batch,
            engine,
            cell,
            archiver,
            store,
            oracle,
            clock: manual,
            def: Mutex::new(def),
            next: Mutex::default(),
            partitions,
            next_view: AtomicU64::new(1),
            next_lookup: AtomicUsize::default(),
        }
    }

    /// Lets time pass.
    pub fn wait(&self, time: Duration) {
        let us = i64::try_from(time.as_micros()).expect("a test waits no ages");
        self.clock.advance(us);
    }

    /// Declares a view: live at once on an empty stream, else building.
    pub async fn create_view(&self, name: &str, sql: &str) -> ViewId {
        let view = self.compile(sql);
        let number = self.next_view.fetch_add(1, Ordering::Relaxed);
        let def = ViewDef {
            id: format!("v{number}").parse().expect("an id"),
            name: name.to_owned(),
            stream: self.stream(),
            sql: view.sql().to_owned(),
            recompute: None,
            recompute_after: Default::default(),
            refresh_s: None,
            version: 1,
            definition_hash: view.definition_hash().to_owned(),
            defined_at: self.clock.now(),
        };
        let created = self.batch.create_view(&def, &view).await;
        created.expect("the view is new");
        def.id
    }

    /// Gives a view a new definition, which is built by the next full run.
    pub async fn redefine_view(&self, id: &ViewId, sql: &str) {
        let view = self.compile(sql);
        let state = self.catalog.state();
        let known = &state.views[id];
        let def = ViewDef {
            sql: view.sql().to_owned(),
            version: known.next_version,
            definition_hash: view.definition_hash().to_owned(),
            ..known.def.clone()
        };
        let redefined = self.batch.redefine_view(&def, &view).await;
        redefined.expect("nobody else redefines");
    }

    /// Compiles the SELECT of a view over the stream.
    pub fn compile(&self, sql: &str) -> Arc<View> {
        let schemas = BTreeMap::from([(STREAM.to_owned(), self.schema())]);
        Arc::new(View::compile(sql, &schemas).expect("the test's view compiles"))
    }

    /// Commits one micro-batch, as the embedded log hands it on, and accumulates it.
    pub fn push(&self, events: &[Event]) {
        let mut at = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = self.committed(&at, events);
        *at = batch.span.to().clone();
        self.cell.note_durable(&batch);
        self.oracle.push(&batch);
        accumulate(&self.cell, &batch).expect("the batch follows the cut");
    }

    /// Adds the next of [`MORE_COLUMNS`], if there is one, while `events` are on their way from the log to the speed
    /// layer under the schema before.
    pub async fn add_column(&self, events: &[Event]) {
        let mut def = self.def();
        let Some(schema) = grown(def.schema) else {
            return self.push(events);
        };
        def.schema = schema;
        let batch = {
            let mut at = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let batch = self.committed(&at, events);
            *at = batch.span.to().clone();
            batch
        };
        self.cell.note_durable(&batch);
        self.oracle.push(&batch);
        let prepared = self.archiver.prepare(Arc::new(def.clone())).await;
        let altered = Entry::StreamAltered {
            id: def.id.clone(),
            schema: def.schema.clone(),
        };
        commit(&self.catalog, vec![altered]).await;
        let evolution = prepared.expect("the raw log makes room");
        evolution.finish().await.expect("the cut is swapped");
        *self.def.lock().unwrap_or_else(PoisonError::into_inner) = def;
        accumulate(&self.cell, &batch).expect("the batch follows the cut");
    }

    fn def(&self) -> StreamDef {
        self.def
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn stream(&self) -> StreamId {
        self.def().id
    }

    /// What its events look like now.
    pub fn schema(&self) -> StreamSchema {
        self.def().schema
    }

    /// `events` in order of partition from `from` on. Of several partitions, some end with an offset that no event
    /// takes, as behind a transaction.
    fn committed(&self, from: &Position, events: &[Event]) -> Arc<CommittedBatch> {
        self.clock.advance(1000);
        let arrived = self.clock.now_us();
        let partition_of = |event: &Event| PartitionId(event.3 as u32 % self.partitions);
        let mut events: Vec<&Event> = events.iter().collect();
        events.sort_by_key(|event| partition_of(event));
        let mut to = from.clone();
        let mut offsets = vec![];
        for event in &events {
            let partition = partition_of(event);
            let offset = to.get(partition).0;
            offsets.push(offset);
            to = to.with(partition, Offset(offset + 1));
        }
        if self.partitions > 1 && events.len() % 3 == 1 {
            let partition = partition_of(events[0]);
            to = to.clone().with(partition, Offset(to.get(partition).0 + 1));
        }
        let times = |values: Vec<i64>| TimestampMicrosecondArray::from(values);
        let mut columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(times(events.iter().map(|e| e.0).collect())),
            Arc::new(StringArray::from_iter(events.iter().map(|e| e.1))),
            Arc::new(Int32Array::from_iter(events.iter().map(|e| e.2))),
            Arc::new(Int64Array::from_iter_values(events.iter().map(|e| e.3))),
        ];
        let schema = self.schema();
        for nth in 0..schema.columns.len() - columns.len() {
            let values = offsets.iter().map(|offset| more(nth, *offset));
            columns.push(Arc::new(Int32Array::from_iter(values)));
        }
        let partitions = events.iter().map(|event| partition_of(event).0 as i32);
        let offsets = offsets.into_iter().map(|offset| offset as i64);
        columns.push(Arc::new(Int32Array::from_iter_values(partitions)));
        columns.push(Arc::new(Int64Array::from_iter_values(offsets)));
        columns.push(Arc::new(times(vec![arrived; events.len()])));
        let events =
            RecordBatch::try_new(schema.events(), columns).expect("the batch fits the schema");
        Arc::new(CommittedBatch {
            span: Span::new(from.clone(), to).expect("offsets grow"),
            arrived_at_us: arrived,
            events,
            dead_letters: vec![],
            replayed: vec![],
        })
    }

    /// Every definition of a view lets go of its runs, as for want of memory.
    pub fn shed(&self, view: &ViewId) {
        let reason = Poison::Memory("there is no more memory".to_owned());
        let cut = self.cell.load();
        for (_, definition) in cut.all_views().filter(|(id, _)| *id == view) {
            self.cell.shed(view, definition.version, &reason);
        }
    }

    /// Merges one window of runs, if one is due.
    pub fn merge(&self) -> bool {
        merge_once(&self.cell, usize::MAX)
    }

    /// Archives the tail.
    pub async fn archive(&self) {
        self.archiver
            .archive_all()
            .await
            .expect("the archive is written");
    }

    /// Commits the tail to the raw log, and the cut never hears of it.
    pub async fn archive_unheard(&self) {
        let cut = self.cell.load();
        let span = Span::new(cut.raw().archived().clone(), cut.position().clone());
        let batches: Vec<_> = cut.tail().iter().cloned().collect();
        let raw = self.archiver.raw();
        raw.archive(&span.expect("the cut covers its archive"), &batches)
            .await
            .expect("the archive is written");
    }

    /// Compacts the raw log, and at once deletes the files that nobody in this process needs any more.
    pub async fn upkeep(&self) {
        self.archiver
            .upkeep(Duration::ZERO)
            .await
            .expect("the raw log is kept");
    }

    /// Runs a batch run to its end, or until it is staged.
    pub async fn run(&self, view: &ViewId, request: StartRequest) -> Arc<BatchRun> {
        let run = self
            .batch
            .run_to_end(view, request)
            .await
            .expect("the run starts");
        assert!(
            !matches!(run.outcome, Outcome::Failed),
            "run failed: {:?}",
            run.error
        );
        run
    }

    /// Declares events wrong, up to the durable position.
    pub async fn exclude(&self, predicate: &str) -> Exclusion {
        let state = self.catalog.state();
        let exclusion = Exclusion {
            id: state.streams[&self.stream()].next_exclusion,
            predicate: predicate.to_owned(),
            reason: "wrong".to_owned(),
            bound: self.cell.durable(),
            declared_at: self.clock.now(),
        };
        let entry = Entry::ExclusionDeclared {
            stream: self.stream(),
            exclusion: exclusion.clone(),
        };
        commit(&self.catalog, vec![entry]).await;
        exclusion
    }

    /// Answers a query at one cut.
    ///
    /// # Errors
    /// What the engine refuses.
    pub async fn query(
        &self,
        sql: &str,
        layer: Layer,
    ) -> Result<(Vec<RecordBatch>, Provenance), Problem> {
        collect(self.ask(sql, layer).await?).await
    }

    /// Asks a query at one cut, and reads nothing yet.
    ///
    /// # Errors
    /// What the engine refuses.
    pub async fn ask(&self, sql: &str, layer: Layer) -> Result<Answer, Problem> {
        let timeout = Duration::from_secs(60);
        let limits = Limits {
            after: vec![],
            layer,
            generation: None,
            timeout,
            deadline: Instant::now() + timeout,
        };
        self.engine
            .query(QueryRequest {
                sql: sql.to_owned(),
                parameters: None,
                limits,
            })
            .await
    }

    /// Checks that the stream read as a table equals the oracle at its own stated position, in every column it has.
    pub async fn check_stream(&self) {
        let columns = self.schema().columns.into_iter().skip(2);
        let sums =
            columns.map(|c| format!(", count({0}) AS {0}_count, sum({0}) AS {0}_sum", c.name));
        let sql = format!(
            "SELECT count(*) AS n{} FROM {STREAM}",
            sums.collect::<String>()
        );
        let (rows, provenance) = self
            .query(&sql, Layer::Merged)
            .await
            .expect("the stream answers");
        let token: dovetail_model::PositionToken =
            provenance.streams[0].position.parse().expect("a token");
        let expected = self.oracle.answer(&sql, &token.position, &[]).await;
        let shown = |rows: &[RecordBatch]| {
            arrow::util::pretty::pretty_format_batches(rows)
                .map(|table| table.to_string())
                .expect("rows can be shown")
        };
        assert_eq!(shown(&rows), shown(&expected), "{sql}");
    }

    /// Checks that a view's merged answer is of its live generation and equals the oracle. Not while something
    /// moves the pointer.
    pub async fn check(&self, name: &str) {
        let answered = self.check_answer(name).await.expect("the view answers");
        let state = self.catalog.state();
        let view = state.view_named(name).expect("the view is there");
        assert_eq!(Some(answered), view.live, "the cut follows the pointer");
    }

    /// Checks that a view's merged answer equals the oracle at its own stated position, for the definition and with
    /// the exclusions of the generation that it states, and returns that.
    ///
    /// # Errors
    /// What the engine refuses.
    pub async fn check_answer(&self, name: &str) -> Result<GenerationNumber, Problem> {
        let sql = format!("SELECT * FROM {name}");
        // The second who asks the same settles what the next ones find: each of them is checked in turn.
        for _ in 0..self.next_lookup.load(Ordering::Relaxed) % 3 {
            self.query(&sql, Layer::Merged).await?;
        }
        let (rows, provenance) = self.query(&sql, Layer::Merged).await?;
        let state = self.catalog.state();
        let source = &provenance.views[0];
        let answered = source.generation;
        let manifest = &state.views[&source.id].generations[&answered];
        let compiled = self.compile(&manifest.sql);
        let token: dovetail_model::PositionToken =
            provenance.streams[0].position.parse().expect("a token");
        let expected = self
            .oracle
            .answer(&manifest.sql, &token.position, &manifest.inputs.exclusions)
            .await;
        crate::same_rows(&compiled, &rows, &expected);
        self.check_lookup(name, &compiled, &rows).await?;
        Ok(answered)
    }

    /// Checks that one of the `rows` of a view, or a group that is not there, is answered by key as in SQL: another one
    /// each time. Where another cut was taken for one of the two, nothing is compared.
    async fn check_lookup(
        &self,
        name: &str,
        view: &View,
        rows: &[RecordBatch],
    ) -> Result<(), Problem> {
        let keys = lookup::keys(view, rows);
        let turn = self.next_lookup.fetch_add(1, Ordering::Relaxed);
        match keys.get(turn % keys.len().max(1)) {
            Some(key) => self.check_key(name, view, key).await,
            None => Ok(()),
        }
    }

    /// Checks that one key is answered as in SQL, and without a plan where its view allows.
    ///
    /// # Errors
    /// What the engine refuses.
    pub async fn check_key(
        &self,
        name: &str,
        view: &View,
        key: &[lookup::KeyValue],
    ) -> Result<(), Problem> {
        let direct = self.engine.direct_lookups();
        let (found, by_key) = self.look_up(name, key, Layer::Merged).await?;
        assert!(
            !view.has_exact_keys() || self.engine.direct_lookups() > direct,
            "{key:?} of {name} was planned"
        );
        let sql = lookup::sql(name, key);
        let (expected, by_sql) = self.query(&sql, Layer::Merged).await?;
        let stands_at = |from: &Provenance| {
            let position = from.streams[0].position.clone();
            (from.views[0].generation, position)
        };
        if stands_at(&by_key) == stands_at(&by_sql) {
            // Runs are merged, and notes come and go, between the two.
            let lasting = |from: &Provenance| {
                let mut views = from.views.clone();
                for view in &mut views {
                    view.notes.clear();
                    view.runs = 0;
                }
                views
            };
            assert_eq!(lasting(&by_key), lasting(&by_sql), "{sql}");
            assert_eq!(lookup::shown(&found), lookup::shown(&expected), "{sql}");
        }
        Ok(())
    }

    /// Answers a lookup by key, at one cut.
    ///
    /// # Errors
    /// What the engine refuses.
    pub async fn look_up(
        &self,
        name: &str,
        key: &[lookup::KeyValue],
        layer: Layer,
    ) -> Result<(Vec<RecordBatch>, Provenance), Problem> {
        let timeout = Duration::from_secs(60);
        let request = RowsRequest {
            view: name.to_owned(),
            columns: vec![],
            filters: key.iter().map(lookup::KeyValue::filter).collect(),
            order: vec![],
            limit: 2,
            cursor: None,
            limits: Limits {
                after: vec![],
                layer,
                generation: None,
                timeout,
                deadline: Instant::now() + timeout,
            },
        };
        collect(self.engine.rows(request).await?.answer).await
    }
}

/// Reads an answer to its end; its last batch is empty, so that there is always one.
///
/// # Errors
/// What stopped it.
pub async fn collect(answer: Answer) -> Result<(Vec<RecordBatch>, Provenance), Problem> {
    let provenance = answer.provenance.clone();
    let schema = answer.batches.schema();
    let mut rows: Vec<RecordBatch> = answer
        .batches
        .try_collect()
        .await
        .map_err(|e| dovetail_serving_layer::engine::problem_of(&e))?;
    rows.push(RecordBatch::new_empty(schema));
    Ok((rows, provenance))
}

async fn commit(catalog: &Catalog, entries: Vec<Entry>) {
    let mut entries = Some(entries);
    let decide =
        |_: &dovetail_model::CatalogState| Ok::<_, Problem>(entries.take().unwrap_or_default());
    catalog.commit(decide).await.expect("the catalog commits");
}

fn runtime(memory: usize, store: &Arc<dyn ObjectStore>) -> Arc<RuntimeEnv> {
    let pool = Arc::new(FairSpillPool::new(memory));
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(pool)
        .build_arc()
        .expect("a runtime");
    register_store(&runtime, Arc::clone(store));
    runtime
}
