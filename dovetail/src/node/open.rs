// SPDX-License-Identifier: Apache-2.0
//! Opening a node: the catalog, then every stream with its views, then the loops.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::memory_pool::{FairSpillPool, GreedyMemoryPool};
use dovetail_batch_layer::{BatchConfig, BatchLayer, Scheduler, StartRequest};
use dovetail_exchange::{Desk, RemoteCuts, RemoteCutsConfig, RemoteTargets};
use dovetail_log::CommittedBatch;
use dovetail_log::catalog::Catalog;
use dovetail_log::embedded::{EmbeddedLog, FsDisk, LogOptions, ONLY_PARTITION};
use dovetail_log::object::is_full;
use dovetail_log::parquet_files::is_damage;
use dovetail_log::raw::{RawLog, RawSnapshot, RawWriter, root_of};
use dovetail_model::{
    CatalogState, Entry, IngestMembers, Offset, Position, ProblemKind, RunMode, Span, StreamDef,
    StreamState, ViewDef, ViewState,
};
use dovetail_seam::{Archiver, Generation, LocalCuts, Poison, Poisoned, StreamCell, ViewCut};
use dovetail_serving_layer::engine::{Engine, QuerySession};
use dovetail_speed_layer::{
    BatchSender, SpeedError, SpeedMemory, accumulate, batch_queue, rebuild_runs,
};
use dovetail_view::{View, words_of};
use futures::future::join_all;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::claim::{self, claim};
use super::data_dir::DataDir;
use super::feed::{Feed, Readers};
use super::intake::Intake;
use super::kafka::{Destination, KafkaAppender, KafkaFeed};
use super::load::offsets_between;
use super::members::Members;
use super::open_stream::{ArchivePolicy, OpenStream, QUEUE, QUEUE_BYTES};
use super::runtimes::Runtimes;
use super::storage::{engine_runtime, open_cache, open_store, task_context};
use super::streams::{MemoryPressure, Streams};
use super::workers::DeskWorkers;
use super::{Duty, Inner, Node, NodeConfig, NodeError};

/// How long a stop waits for the loops, of which the scheduler may be about to start a run.
const LOOPS_WAIT: Duration = Duration::from_secs(2);
/// How long a stop takes over the projections that a publish has left undone.
const PROJECTION_WAIT: Duration = Duration::from_secs(5);
/// For how long whoever reads the catalog later can ask for runs under a generation that is not live any more.
pub(crate) const RUNS_GRACE: Duration = Duration::from_secs(10);
/// Why a process that decides for others has no stream of its own.
pub(crate) const NO_EMBEDDED_LOG: &str = "it is on the embedded log of a data directory, which only a process with all roles has; a stream of other processes has source = 'kafka'";
/// How often old generations and orphans are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(600);

impl Node {
    /// Opens the data directory and everything in it. Appends and queries work when it returns.
    ///
    /// # Errors
    /// When the directory is in use, or something in it is not as it was written: the error names it.
    pub async fn open(config: NodeConfig) -> Result<Self, NodeError> {
        let data_dir = DataDir::open(&config.data)?;
        let io = |action| move |source| NodeError::Io { action, source };
        let requests = Arc::default();
        let store = open_store(&config, &data_dir, &requests).await?;
        let cache = open_cache(config.store.as_ref(), config.cache_bytes, &data_dir)?;
        let (store, queried) = match &cache {
            Some(cache) => (cache.sparing(Arc::clone(&store)), cache.filling(store)),
            None => (Arc::clone(&store), store),
        };
        let catalog = Arc::new(Catalog::open(Arc::clone(&store), Arc::clone(&config.clock)).await?);
        let epoch = match config.duty {
            Duty::Ingests => catalog.state().epoch(),
            // Boxed: it opens raw logs, and this future is everybody's.
            Duty::Everything | Duty::Decides => {
                let claiming = claim(
                    &data_dir,
                    &store,
                    &catalog,
                    &config.clock,
                    config.takes_over,
                );
                Box::pin(claiming).await?
            }
        };
        let runtimes = Runtimes::new(config.partitions).map_err(io("start threads"))?;
        let streams = Arc::new(Streams::default());
        let query_pool = Arc::new(GreedyMemoryPool::new(config.query_memory_bytes));
        let query_runtime = engine_runtime(&data_dir, query_pool, &queried)?;
        let batch_pool = Arc::new(FairSpillPool::new(config.batch_memory_bytes));
        let batch_runtime = engine_runtime(&data_dir, batch_pool, &store)?;
        let workers = DeskWorkers(Desk::default());
        let batch = BatchLayer::new(BatchConfig {
            catalog: Arc::clone(&catalog),
            store: Arc::clone(&store),
            streams: Arc::clone(&streams) as _,
            clock: Arc::clone(&config.clock),
            runtime: runtimes.batch(),
            task: task_context(batch_runtime, config.partitions),
            partitions: config.partitions,
            runs: config.batch_runs,
            workers: Arc::new(workers.clone()),
        });
        let cuts = RemoteCuts::new(RemoteCutsConfig {
            catalog: Arc::clone(&catalog),
            store: Arc::clone(&store),
            clock: Arc::clone(&config.clock),
            token: config.peer_token.clone(),
            runtime: runtimes.query(),
        });
        let engine = Engine::new(
            Arc::clone(&catalog),
            match config.duty {
                Duty::Everything => Arc::new(LocalCuts(Arc::clone(&streams) as _)) as _,
                Duty::Decides | Duty::Ingests => Arc::new(cuts.clone()) as _,
            },
            Arc::clone(&config.clock),
            QuerySession::new(query_runtime, config.partitions)?,
            runtimes.query(),
        )
        .with_queries_at_once(config.queries, config.query_timeout);
        let memory = Arc::new(SpeedMemory::new(
            config.speed_soft_bytes,
            config.speed_hard_bytes,
        ));
        let started_at = config.clock.now();
        let members = Arc::new(Members::new(Arc::clone(&catalog)));
        let node = Self(Arc::new(Inner {
            config,
            data_dir,
            store,
            requests,
            cache,
            epoch,
            catalog,
            streams,
            cuts,
            members,
            batch,
            workers,
            engine,
            memory,
            runtimes,
            defining: Mutex::new(()),
            queries: Arc::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            started_at,
        }));
        match node.0.config.duty {
            Duty::Ingests => {}
            Duty::Everything => {
                node.take_all_events().await?;
                node.recover().await?;
                node.start_loops();
            }
            Duty::Decides => {
                node.recover().await?;
                node.start_loops();
                let (members, stop) = (Arc::clone(&node.0.members), node.0.stop.clone());
                node.0.tasks.spawn(async move { members.keep(stop).await });
            }
        }
        node.0.tasks.close();
        Ok(node)
    }

    /// What a crash may have left undone, then every stream.
    async fn recover(&self) -> Result<(), NodeError> {
        let inner = &self.0;
        let interrupted = match inner.batch.fail_interrupted().await {
            // That is no reason not to answer.
            Err(error) if is_full(&error) => {
                warn!(%error, "batch runs were cut off by the last stop; they are marked failed when there is room");
                let stop = inner.stop.clone();
                inner.tasks.spawn(inner.batch.fail_interrupted_later(stop));
                0
            }
            marked => marked?,
        };
        if interrupted > 0 {
            warn!(
                interrupted,
                "batch runs were cut off by the last stop; they are marked failed"
            );
        }
        let state = self.0.catalog.state();
        for stream in state.live_streams() {
            self.open_stream(&state, stream).await?;
        }
        for view in state.live_views() {
            if let Err(error) = self.0.batch.project_view(&view.def.id).await {
                warn!(view = %view.def.name, %error, "the delta projection lags behind");
            }
        }
        self.start_upgrades(&state).await;
        Ok(())
    }

    /// A generation of another state fingerprint answers alone until a full run has replaced it.
    async fn start_upgrades(&self, state: &CatalogState) {
        for view in state.live_views() {
            let cell = self
                .0
                .streams
                .get(&view.def.stream)
                .map(|open| open.cell().load());
            let cut = cell.as_ref().and_then(|cut| cut.views().get(&view.def.id));
            if cut
                .and_then(|cut| cut.generation.as_ref())
                .is_none_or(|generation| generation.is_mergeable())
            {
                continue;
            }
            let request = StartRequest {
                mode: RunMode::Full,
                trigger: "upgrade",
                ..StartRequest::default()
            };
            match self.0.batch.start(&view.def.id, request).await {
                Ok(run) => {
                    info!(view = %view.def.name, run = run.id.0, "recomputing: its states are of another engine")
                }
                Err(error) => {
                    warn!(view = %view.def.name, %error, "the full run after an upgrade could not start")
                }
            }
        }
    }

    /// Opens a stream: its raw log, its log, its views with rebuilt runs, and the log's tail.
    pub(crate) async fn open_stream(
        &self,
        state: &CatalogState,
        stream: &StreamState,
    ) -> Result<(), NodeError> {
        let def = &stream.def;
        let failed = |reason: String| NodeError::Stream {
            stream: def.name.clone(),
            reason,
        };
        let inner = &self.0;
        let writer = self.raw_writer(state).map_err(failed)?;
        let raw = RawLog::open(
            Arc::clone(&inner.store),
            root_of(&def.id),
            def,
            writer,
            Arc::clone(&inner.config.clock),
        )
        .await
        .map_err(|error| failed(error.to_string()))?;
        let declared = Arc::new(def.clone());
        let cell = match inner.config.duty {
            Duty::Everything => StreamCell::new(declared, raw.snapshot()),
            Duty::Decides => StreamCell::elsewhere(declared, raw.snapshot()),
            Duty::Ingests => StreamCell::new(declared, raw.snapshot()).with_grace(RUNS_GRACE),
        };
        let cell = Arc::new(cell);
        let policy = ArchivePolicy {
            interval: inner.config.archive_interval,
            bytes: inner.config.archive_bytes,
            keeps: inner.config.duty != Duty::Ingests,
            keeping: inner.runtimes.batch(),
        };
        if inner.config.duty == Duty::Decides {
            let Some(source) = def.source.kafka() else {
                return Err(failed(NO_EMBEDDED_LOG.to_owned()));
            };
            let appender = KafkaAppender::new(def, source, Arc::clone(&inner.config.clock));
            let raw = Arc::new(raw);
            let cuts = inner.cuts.clone();
            let targets = RemoteTargets::new(cuts, Arc::clone(&cell), Arc::clone(&raw));
            let views: Vec<&ViewState> = state.views_of(&def.id).collect();
            self.add_views(&cell, stream, &views, &Intake::default())
                .await?;
            let readers = Readers::new(Arc::clone(&inner.members), state.sequence);
            let feed = Feed::Elsewhere { readers, appender };
            let archiver = Archiver::new(Arc::clone(&cell), raw, feed.forgets());
            let open = OpenStream::elsewhere(cell, archiver, feed, Arc::new(targets), policy);
            inner.streams.insert(open);
            return Ok(());
        }
        let (sender, receiver) = batch_queue(QUEUE, QUEUE_BYTES);
        let intake = Arc::new(Intake::default());
        let reporting = intake.reported(&def.name);
        let views: Vec<&ViewState> = state.views_of(&def.id).collect();
        for view in &views {
            intake.expect(behind_generation(&cell, view));
        }
        let feed = match def.source.kafka() {
            None => {
                let log = self.open_log(def, &cell, sender).await.map_err(failed)?;
                let archived = cell.load().position().get(ONLY_PARTITION);
                intake.expect(log.durable().0.saturating_sub(archived.0));
                self.add_views(&cell, stream, &views, &intake).await?;
                let replaying = self.replay_tail(&cell, &log, &intake);
                replaying.await.map_err(failed)?;
                Feed::Embedded(log)
            }
            // What lies behind the archived position is read again.
            Some(source) => {
                self.add_views(&cell, stream, &views, &intake).await?;
                let to = Destination {
                    cell: Arc::clone(&cell),
                    batches: sender,
                    memory: Arc::clone(&inner.memory),
                };
                let clock = Arc::clone(&inner.config.clock);
                let share = raw.snapshot().share();
                let appender = KafkaAppender::new(def, source, Arc::clone(&clock));
                let started = KafkaFeed::start(def, source, share, &stream.holes, clock, to);
                let reader = started.map_err(|error| failed(error.to_string()))?;
                Feed::Kafka { reader, appender }
            }
        };
        drop(reporting);
        if !intake.is_empty() {
            info!(stream = %def.name, "took in the events behind the last generation: {intake}");
        }
        let cut = cell.load();
        inner.memory.set(&def.id, cut.bytes());
        let archiver = Archiver::new(Arc::clone(&cell), raw, feed.forgets());
        let open = OpenStream::start(
            cell,
            archiver,
            feed,
            receiver,
            Arc::clone(&inner.memory),
            policy,
        )
        .map_err(|error| failed(error.to_string()))?;
        inner.streams.insert(open);
        Ok(())
    }

    /// Opens the embedded log of a stream; `batches` gets what it commits from then on.
    async fn open_log(
        &self,
        def: &StreamDef,
        cell: &Arc<StreamCell>,
        batches: BatchSender,
    ) -> Result<EmbeddedLog, String> {
        let sink = {
            let cell = Arc::clone(cell);
            Box::new(move |committed: Vec<Arc<CommittedBatch>>| {
                for batch in committed {
                    cell.note_durable(&batch);
                    // The receiver is gone only when the stream is closed; the batch is durable all the same.
                    let _ = batches.blocking_send(batch);
                }
            })
        };
        let place = self.0.data_dir.log(&def.id);
        let directory = place.clone();
        let (schema, clock) = (def.schema.clone(), Arc::clone(&self.0.config.clock));
        let options = LogOptions {
            key_ttl: self.0.config.key_ttl,
            ..LogOptions::default()
        };
        let opening = tokio::task::spawn_blocking(move || {
            let disk = FsDisk::open(directory).map_err(|error| error.to_string())?;
            EmbeddedLog::open(Arc::new(disk), &schema, options, clock, sink)
                .map_err(|error| error.to_string())
        });
        let (log, recovered) = opening.await.map_err(|error| error.to_string())??;
        if let Some(torn) = &recovered.dropped {
            let file = place.join(&torn.file);
            warn!(stream = %def.name, file = %file.display(), position = torn.position, bytes = torn.bytes, offset = torn.offset.0, reason = torn.reason, "dropped a torn last frame, which was never acknowledged");
        }
        info!(stream = %def.name, events = recovered.next.0, oldest = recovered.oldest.0, "opened the log");
        check_continuous(cell.load().raw(), recovered.oldest, recovered.next)?;
        Ok(log)
    }

    /// In whose name this node writes the raw logs.
    fn raw_writer(&self, state: &CatalogState) -> Result<RawWriter, String> {
        let inner = &self.0;
        let IngestMembers { epoch, .. } = *state.ingest;
        match inner.config.duty {
            Duty::Everything => Ok(RawWriter::owner(inner.epoch).taking_all(epoch)),
            Duty::Decides => Ok(RawWriter::owner(inner.epoch)),
            Duty::Ingests => {
                let share = state.ingest.share_of(inner.data_dir.id());
                let share = share.ok_or("this process takes no partitions")?;
                Ok(RawWriter::member(epoch, share))
            }
        }
    }

    /// Where processes took the events that do nothing else, this one takes them from now on.
    async fn take_all_events(&self) -> Result<(), NodeError> {
        let taken = self.0.catalog.commit(|state| {
            let nobody = IngestMembers {
                epoch: state.ingest.epoch.next(),
                members: vec![],
            };
            let change = Entry::IngestChanged { members: nobody };
            let is_divided = !state.ingest.members.is_empty();
            Ok::<_, Infallible>(is_divided.then_some(change).into_iter().collect())
        });
        taken
            .await
            .map_err(|error| NodeError::Claim(error.to_string()))?;
        Ok(())
    }

    async fn add_views(
        &self,
        cell: &StreamCell,
        stream: &StreamState,
        views: &[&ViewState],
        intake: &Intake,
    ) -> Result<(), NodeError> {
        for view in views {
            self.add_view(cell, stream, view).await?;
            intake.took(behind_generation(cell, view));
        }
        Ok(())
    }

    /// A view of the catalog enters the cell: its live generation and the runs from its horizon to the
    /// archived position; a definition without a generation starts at the archived position.
    async fn add_view(
        &self,
        cell: &StreamCell,
        stream: &StreamState,
        view: &ViewState,
    ) -> Result<(), NodeError> {
        let failed = |reason: String| NodeError::View {
            view: view.def.name.clone(),
            reason,
        };
        let id = view.def.id.clone();
        let archived = cell.load().position().clone();
        let cut = match view.live_manifest() {
            None => self
                .building(stream, &view.def, archived.clone())
                .map_err(failed)?,
            Some(manifest) => {
                let compiled = compile(stream, &manifest.sql).map_err(failed)?;
                let generation = Generation::new(Arc::clone(manifest), Arc::clone(&compiled));
                let start = cell.load().raw().share().part(generation.horizon());
                let mut cut = ViewCut::new(&view.def.name, view.def.version, compiled, start);
                let task = Arc::clone(self.0.batch.task_context());
                let raw = Arc::clone(cell.load().raw());
                let partitions = self.0.config.partitions;
                let rebuilt = match cell.is_elsewhere() {
                    true => Ok(None),
                    false => {
                        rebuild_runs(
                            &view.def.name,
                            &cut.view,
                            &raw,
                            &cut.start,
                            &task,
                            partitions,
                            self.speed_memory_left(cell),
                        )
                        .await
                    }
                };
                match rebuilt {
                    Ok(run) => cut.runs.extend(run.map(Arc::new)),
                    // What this view cannot compute must not keep the others from answering.
                    Err(error)
                        if error.kind() == ProblemKind::Unprocessable
                            || error.is_out_of_memory()
                            || is_damage(&error) =>
                    {
                        let reason = poison(&error);
                        warn!(view = %view.def.name, reason = %reason.text(), "the view answers again once a generation covers what it cannot compute");
                        let span = Span::new(cut.start.clone(), archived.clone())
                            .map_err(|error| failed(error.to_string()))?;
                        cut.poisoned.push(Poisoned {
                            failed: span.clone(),
                            span,
                            reason,
                        });
                    }
                    Err(error) => return Err(failed(error.to_string())),
                }
                cut.generation = Some(Arc::new(generation));
                cut
            }
        };
        cell.restore_view(id.clone(), cut)
            .map_err(|error| failed(error.to_string()))?;
        if let Some(pending) = &view.pending {
            let candidate = self.building(stream, pending, archived).map_err(failed)?;
            cell.restore_candidate(id, candidate)
                .map_err(|error| failed(error.to_string()))?;
        }
        Ok(())
    }

    /// What a view that enters `cell` may hold.
    fn speed_memory_left(&self, cell: &StreamCell) -> usize {
        let memory = &self.0.memory;
        let used = memory.used_bytes() + cell.load().bytes();
        memory.hard_bytes().saturating_sub(used)
    }

    fn building(
        &self,
        stream: &StreamState,
        def: &ViewDef,
        start: Position,
    ) -> Result<ViewCut, String> {
        let compiled = compile(stream, &def.sql)?;
        Ok(ViewCut::new(&def.name, def.version, compiled, start))
    }

    /// Everything that the log holds behind the archived position goes through the speed layer again. Its thread ends
    /// with the next batch when nobody waits any more.
    async fn replay_tail(
        &self,
        cell: &Arc<StreamCell>,
        log: &EmbeddedLog,
        intake: &Arc<Intake>,
    ) -> Result<(), String> {
        let (cell, log, intake) = (Arc::clone(cell), log.clone(), Arc::clone(intake));
        let given_up = CancellationToken::new();
        let _gives_up = given_up.clone().drop_guard();
        let replaying = tokio::task::spawn_blocking(move || {
            let archived = cell.load().position().get(ONLY_PARTITION);
            for batch in log.read(archived, log.durable()) {
                if given_up.is_cancelled() {
                    return Err("the start was given up".to_owned());
                }
                let batch = Arc::new(batch.map_err(|error| error.to_string())?);
                cell.note_durable(&batch);
                accumulate(&cell, &batch).map_err(|error| error.to_string())?;
                intake.took(offsets_between(batch.span.from(), batch.span.to()));
            }
            Ok(())
        });
        replaying.await.map_err(|error| error.to_string())?
    }

    fn start_loops(&self) {
        let inner = &self.0;
        let scheduler = Scheduler::new(
            inner.batch.clone(),
            Arc::new(MemoryPressure {
                memory: Arc::clone(&inner.memory),
                members: Arc::clone(&inner.members),
            }),
        );
        let stop = inner.stop.clone();
        inner.tasks.spawn(async move { scheduler.run(stop).await });
        let (batch, policy, stop) = (
            inner.batch.clone(),
            inner.config.retention,
            inner.stop.clone(),
        );
        inner.tasks.spawn(async move {
            loop {
                // Whatever a sweep is in the middle of, the next one finds again.
                let swept = tokio::select! {
                    () = stop.cancelled() => return,
                    swept = batch.sweep(&policy) => swept,
                };
                if let Err(error) = swept {
                    warn!(%error, "retention could not finish; it goes on at the next sweep");
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(SWEEP_INTERVAL) => {}
                }
            }
        });
        // A store on this machine is locked: nobody else can claim it.
        let place = inner.config.store.as_ref();
        if place.is_some_and(|place| place.url.is_remote()) {
            let watching = claim::watch(Arc::clone(&inner.catalog), inner.stop.clone());
            inner.tasks.spawn(watching);
        }
    }

    /// Starts no runs any more, and cancels those at work: whoever waits for one over HTTP hears of it.
    pub(super) async fn stop_batch_layer(&self) {
        let inner = &self.0;
        inner.stop.cancel();
        if timeout(LOOPS_WAIT, inner.tasks.wait()).await.is_err() {
            warn!("the scheduler still waits for the store; the stop goes on without it");
        }
        inner.batch.close().await;
    }

    async fn finish_projections(&self) {
        let batch = &self.0.batch;
        for view in self.0.catalog.state().live_views() {
            if let Err(error) = batch.project_view(&view.def.id).await {
                warn!(view = %view.def.name, %error, "the delta projection is finished at the next start");
            }
        }
    }

    /// Stops everything in order: no new runs, runs cancelled or left behind, logs closed, projections finished.
    pub async fn shutdown(&self) {
        let inner = &self.0;
        self.stop_batch_layer().await;
        inner.batch.seal();
        let streams = inner.streams.all();
        join_all(streams.iter().map(|stream| stream.close())).await;
        if inner.config.duty == Duty::Ingests || inner.catalog.superseded_by().is_some() {
            // What is left to finish is no longer ours.
            return;
        }
        let projecting = timeout(PROJECTION_WAIT, self.finish_projections());
        if projecting.await.is_err() {
            warn!("the delta projections are finished at the next start");
        }
        info!("stopped");
    }
}

/// The way out for a view that needs too much memory.
const KEEP_LESS: &str =
    "start the server with more of it, or redefine the view so that its groups keep less";

/// What the engine said, without where it was asked.
fn poison(error: &SpeedError) -> Poison {
    match error {
        SpeedError::Rebuild { source, .. } if error.is_out_of_memory() => Poison::Memory(format!(
            "its runs need more memory at a start than --batch-memory gives ({}); {KEEP_LESS}",
            words_of(source)
        )),
        SpeedError::RunTooLarge { most_bytes, .. } => Poison::Memory(format!(
            "its runs need more memory than --speed-memory leaves at a start, {} MiB; {KEEP_LESS}",
            most_bytes >> 20
        )),
        SpeedError::Rebuild { source, .. } if is_damage(error) => Poison::Damage(words_of(source)),
        SpeedError::Rebuild { source, .. } => Poison::Event(words_of(source)),
        other => Poison::Event(other.to_string()),
    }
}

/// Archived events that the live generation of `view` does not cover, while the cut stands at the archived position.
fn behind_generation(cell: &StreamCell, view: &ViewState) -> u64 {
    let generation = view.live_manifest();
    generation.map_or(0, |live| {
        offsets_between(&live.inputs.horizon, cell.load().position())
    })
}

/// The log must reach from the archived position to its end: what lies between is nowhere else.
fn check_continuous(raw: &RawSnapshot, oldest: Offset, next: Offset) -> Result<(), String> {
    let archived = raw.archived().get(ONLY_PARTITION);
    if oldest > archived {
        return Err(format!(
            "events {archived} to {oldest} are lost: the raw log ends at {archived} and the log starts at {oldest}; restore the missing log segments"
        ));
    }
    if next < archived {
        return Err(format!(
            "the log ends at {next}, but the raw log holds events up to {archived}: log segments are missing; restore them"
        ));
    }
    Ok(())
}

/// Compiles the SELECT of a view over its stream.
pub(crate) fn compile(stream: &StreamState, sql: &str) -> Result<Arc<View>, String> {
    let schemas = BTreeMap::from([(stream.def.name.clone(), stream.def.schema.clone())]);
    View::compile(sql, &schemas)
        .map(Arc::new)
        .map_err(|error| error.to_string())
}
