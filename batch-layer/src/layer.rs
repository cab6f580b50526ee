// SPDX-License-Identifier: Apache-2.0
//! Starting, executing and ending batch runs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, Utc};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use dovetail_log::catalog::Catalog;
use dovetail_model::{
    BatchRun, Clock, Entry, Exclusion, GenerationInputs, GenerationNumber, Manifest, Outcome,
    Position, RepairScope, RunId, RunMode, Span, StreamId, StreamSchema, ViewId, ViewState,
};
use dovetail_seam::{Generation, Pin, Poisoned};
use dovetail_view::{Predicate, View};
use object_store::ObjectStore;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::compute::{Computed, Job};
use crate::error::outcome_name;
use crate::ledger::{self, NewGeneration};
use crate::{BatchError, StreamAccess, StreamHandle};

/// What the batch layer is made of.
#[derive(Debug, Clone)]
pub struct BatchConfig {
    /// Ledger and pointers.
    pub catalog: Arc<Catalog>,
    /// Where generations live.
    pub store: Arc<dyn ObjectStore>,
    /// The open streams.
    pub streams: Arc<dyn StreamAccess>,
    /// For the ledger's times.
    pub clock: Arc<dyn Clock>,
    /// Runs the computations: its own threads, so that a recompute never starves ingest or queries.
    pub runtime: Handle,
    /// Memory pool and spill directory of the computations; the store is registered in it.
    pub task: Arc<TaskContext>,
    /// Parallelism of one run.
    pub partitions: usize,
}

/// What to start.
#[derive(Debug, Clone, Default)]
pub struct StartRequest {
    /// How to compute.
    pub mode: RunMode,
    /// For a repair: which groups.
    pub scope: RepairScope,
    /// End staged instead of promoting.
    pub dry_run: bool,
    /// Who asks: `user`, `schedule`, `memory`, `build`, `upgrade`.
    pub trigger: &'static str,
    /// Start only where the view's definition has no generation yet: two may see that at once, one builds.
    pub only_to_build: bool,
}

impl StartRequest {
    /// The first full run of a definition.
    pub fn build() -> Self {
        Self {
            mode: RunMode::Full,
            trigger: "build",
            only_to_build: true,
            ..Self::default()
        }
    }
}

/// How far a run is.
#[derive(Debug, Default)]
pub struct Progress {
    now: Mutex<Option<(Arc<dyn ExecutionPlan>, u64)>>,
    /// Rows of the passes before the present one.
    before: AtomicU64,
}

impl Progress {
    /// Rows that the run has read in its present pass, and about how many that pass has to read.
    pub fn rows(&self) -> Option<(u64, u64)> {
        let now = self.now.lock();
        let (plan, expected) = now.as_ref()?;
        Some((leaf_rows(plan.as_ref()), *expected))
    }

    /// Rows that the run has read in all its passes.
    pub fn total(&self) -> u64 {
        let present = self.rows().map_or(0, |(read, _)| read);
        self.before.load(Ordering::Relaxed) + present
    }

    pub(crate) fn watch(&self, plan: Arc<dyn ExecutionPlan>, expected: u64) {
        let last = self.now.lock().replace((plan, expected));
        let read = last.map_or(0, |(plan, _)| leaf_rows(plan.as_ref()));
        self.before.fetch_add(read, Ordering::Relaxed);
    }
}

/// Rows that came out of the leaves of a plan so far.
fn leaf_rows(plan: &dyn ExecutionPlan) -> u64 {
    let children = plan.children();
    if children.is_empty() {
        return plan.metrics().and_then(|m| m.output_rows()).unwrap_or(0) as u64;
    }
    children
        .into_iter()
        .map(|child| leaf_rows(child.as_ref()))
        .sum()
}

struct InFlight {
    cancel: CancellationToken,
    progress: Arc<Progress>,
}

/// Runs the batch layer of one process. Cheap to clone.
#[derive(Clone)]
pub struct BatchLayer {
    pub(crate) config: BatchConfig,
    in_flight: Arc<Mutex<HashMap<RunId, InFlight>>>,
    /// Told whenever a run leaves `in_flight`.
    ended: Arc<watch::Sender<()>>,
    publish_locks: Arc<Mutex<HashMap<ViewId, Arc<tokio::sync::Mutex<()>>>>>,
}

impl std::fmt::Debug for BatchLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchLayer")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// The definition that a run computes: the view's own, or its pending one.
pub(crate) struct Target {
    pub(crate) view: Arc<View>,
    pub(crate) version: u64,
    /// The pending definition, or a view without its first generation: no base, no diff.
    pub(crate) building: bool,
}

/// What a run starts from.
struct Start {
    target: Target,
    exclusions: Vec<Exclusion>,
    pointer_epoch: u64,
}

impl BatchLayer {
    /// A batch layer over `config`.
    pub fn new(config: BatchConfig) -> Self {
        Self {
            config,
            in_flight: Arc::default(),
            ended: Arc::new(watch::Sender::new(())),
            publish_locks: Arc::default(),
        }
    }

    /// An open stream.
    pub fn stream(&self, id: &StreamId) -> Option<StreamHandle> {
        self.config.streams.stream(id)
    }

    /// Where the computations run: memory pool, spill directory, registered store.
    pub fn task_context(&self) -> &Arc<TaskContext> {
        &self.config.task
    }

    /// Marks runs that a crash cut off as failed: those at work, and those staged that were to promote
    /// themselves. Call once, before anything is started.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn fail_interrupted(&self) -> Result<usize, BatchError> {
        let now = self.config.clock.now();
        let mut count = 0;
        ledger::commit(&self.config.catalog, |state| {
            let cut_off = state.runs.values().filter(|run| run.is_at_work());
            let entries: Vec<Entry> = cut_off
                .map(|run| {
                    let mut run = BatchRun::clone(run);
                    ledger::end(&mut run, Outcome::Failed, now);
                    run.error = Some("interrupted".to_owned());
                    Entry::Run { run: Box::new(run) }
                })
                .collect();
            count = entries.len();
            Ok(entries)
        })
        .await?;
        Ok(count)
    }

    /// Starts a run of `view` and returns its record; the run goes on by itself.
    ///
    /// # Errors
    /// When a run of the same kind is at work, or the request makes no sense for the view.
    pub async fn start(
        &self,
        view: &ViewId,
        request: StartRequest,
    ) -> Result<Arc<BatchRun>, BatchError> {
        let begun = self.begin(view, request).await?;
        let run = Arc::clone(&begun.run);
        let layer = self.clone();
        self.config
            .runtime
            .spawn(async move { layer.supervise(begun).await });
        Ok(run)
    }

    /// Starts a run and waits for its end.
    ///
    /// # Errors
    /// As [`BatchLayer::start`]. A run that failed is returned, not an error.
    pub async fn run_to_end(
        &self,
        view: &ViewId,
        request: StartRequest,
    ) -> Result<Arc<BatchRun>, BatchError> {
        let run = self.start(view, request).await?;
        self.wait(run.id).await
    }

    /// Waits until a run of this process is over, and new queries see what it published.
    ///
    /// # Errors
    /// When there is no such run.
    pub async fn wait(&self, id: RunId) -> Result<Arc<BatchRun>, BatchError> {
        let mut ended = self.ended.subscribe();
        loop {
            ended.borrow_and_update();
            if !self.is_in_flight(id) || ended.changed().await.is_err() {
                return self.run(id);
            }
        }
    }

    /// Whether the run is at work in this process. Its record may say that it was promoted a moment before
    /// the cut is swapped.
    pub fn is_in_flight(&self, id: RunId) -> bool {
        self.in_flight.lock().contains_key(&id)
    }

    /// A run's record.
    ///
    /// # Errors
    /// When there is none.
    pub fn run(&self, id: RunId) -> Result<Arc<BatchRun>, BatchError> {
        let state = self.config.catalog.state();
        state
            .runs
            .get(&id)
            .cloned()
            .ok_or_else(|| BatchError::NotFound {
                what: "run",
                name: id.to_string(),
            })
    }

    /// How far a run of this process is.
    pub fn progress(&self, id: RunId) -> Option<Arc<Progress>> {
        self.in_flight
            .lock()
            .get(&id)
            .map(|run| Arc::clone(&run.progress))
    }

    /// Stops a running run, and waits until it has stopped.
    ///
    /// # Errors
    /// When it is not running, or is past the point where its pointer moves.
    pub async fn cancel(&self, id: RunId) -> Result<Arc<BatchRun>, BatchError> {
        let run = self.run(id)?;
        let token = self.in_flight.lock().get(&id).map(|run| run.cancel.clone());
        let Some(token) = token.filter(|_| run.outcome == Outcome::Running) else {
            return Err(BatchError::WrongOutcome {
                run: id,
                found: outcome_name(run.outcome),
                needed: "running",
            });
        };
        token.cancel();
        self.wait(id).await
    }

    /// Cancels every run, and waits until all have stopped: for shutdown.
    pub async fn cancel_all(&self) {
        let running: Vec<RunId> = self
            .in_flight
            .lock()
            .iter()
            .map(|(id, run)| {
                run.cancel.cancel();
                *id
            })
            .collect();
        for id in running {
            if let Err(error) = self.wait(id).await {
                warn!(run = id.0, %error, "a run could not be waited for");
            }
        }
    }

    /// Throws a staged run's generation away.
    ///
    /// # Errors
    /// When it is not staged.
    pub async fn discard(&self, id: RunId) -> Result<Arc<BatchRun>, BatchError> {
        let now = self.config.clock.now();
        ledger::commit(&self.config.catalog, |state| {
            let mut run = staged(state.runs.get(&id), id)?;
            ledger::end(&mut run, Outcome::Discarded, now);
            let expired = run.generation.map(|generation| Entry::GenerationsExpired {
                view: run.view.clone(),
                generations: vec![generation],
            });
            Ok([Entry::Run { run: Box::new(run) }]
                .into_iter()
                .chain(expired)
                .collect())
        })
        .await?;
        self.run(id)
    }

    /// The lock under which the pointer of `view` moves.
    pub(crate) fn publish_lock(&self, view: &ViewId) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.publish_locks.lock().entry(view.clone()).or_default())
    }

    pub(crate) fn handle(&self, state: &ViewState) -> Result<StreamHandle, BatchError> {
        let missing = || BatchError::NotFound {
            what: "open stream of view",
            name: state.def.name.clone(),
        };
        self.config
            .streams
            .stream(&state.def.stream)
            .ok_or_else(missing)
    }

    /// Takes a target that covers everything durable at this moment: accumulate reaches it, it is pinned,
    /// and the archive covers it.
    pub(crate) async fn take_target(&self, stream: &StreamHandle) -> Result<Pin, BatchError> {
        let durable = stream.cell.durable();
        stream.cell.wait_for(&durable).await;
        let (pin, _) = stream.cell.pin();
        stream.archiver.archive_through(pin.position()).await?;
        Ok(pin)
    }

    pub(crate) fn job(
        &self,
        view: &Arc<View>,
        id: &ViewId,
        stream: &StreamHandle,
        progress: &Arc<Progress>,
    ) -> Job {
        Job {
            view: Arc::clone(view),
            raw: Arc::clone(stream.cell.load().raw()),
            root: Generation::view_root(id),
            store: Arc::clone(&self.config.store),
            task: Arc::clone(&self.config.task),
            partitions: self.config.partitions,
            progress: Arc::clone(progress),
        }
    }

    async fn begin(&self, view: &ViewId, request: StartRequest) -> Result<Begun, BatchError> {
        let now = self.config.clock.now();
        let mut begun = None;
        ledger::commit(&self.config.catalog, |state| {
            let view_state = live_view(state, view)?;
            let incremental = request.mode == RunMode::Incremental;
            if let Some(running) = state.running(view, incremental) {
                return Err(BatchError::AlreadyRunning {
                    view: view_state.def.name.clone(),
                    run: running.id,
                });
            }
            if request.only_to_build && !view_state.is_building() {
                return Err(BatchError::NothingToBuild(view_state.def.name.clone()));
            }
            let start = self.start_of(state, view_state, &request)?;
            let run = new_run(RunId(state.next_run.0.max(1)), view, &request, now);
            begun = Some((start, run.clone()));
            Ok(vec![Entry::Run { run: Box::new(run) }])
        })
        .await?;
        let (start, run) =
            begun.ok_or_else(|| BatchError::Refused("the catalog did not commit".to_owned()))?;
        let cancel = CancellationToken::new();
        let progress = Arc::new(Progress::default());
        let entry = InFlight {
            cancel: cancel.clone(),
            progress: Arc::clone(&progress),
        };
        self.in_flight.lock().insert(run.id, entry);
        Ok(Begun {
            run: Arc::new(run),
            request,
            start,
            cancel,
            progress,
        })
    }

    fn start_of(
        &self,
        state: &dovetail_model::CatalogState,
        view: &ViewState,
        request: &StartRequest,
    ) -> Result<Start, BatchError> {
        let stream = state
            .streams
            .get(&view.def.stream)
            .ok_or_else(|| BatchError::NotFound {
                what: "stream of view",
                name: view.def.name.clone(),
            })?;
        let def = if request.mode == RunMode::Full {
            view.pending.as_ref().unwrap_or(&view.def)
        } else {
            &view.def
        };
        let schemas = BTreeMap::from([(stream.def.name.clone(), stream.def.schema.clone())]);
        let compiled = Arc::new(View::compile(&def.sql, &schemas)?);
        let building = view.live.is_none()
            || view
                .pending
                .as_ref()
                .is_some_and(|p| p.version == def.version);
        if building && request.mode != RunMode::Full {
            return Err(BatchError::Refused(format!(
                "view `{}` has no generation yet; its first full run must end before a {} run",
                view.def.name, request.mode
            )));
        }
        if request.mode == RunMode::Repair {
            check_scope(&request.scope, &stream.def.schema, &compiled)?;
        }
        Ok(Start {
            target: Target {
                view: compiled,
                version: def.version,
                building,
            },
            exclusions: stream.exclusions.values().cloned().collect(),
            pointer_epoch: view.pointer_epoch,
        })
    }

    /// Drives a run in a task of its own, so that even a panic in it ends with a record.
    async fn supervise(&self, begun: Begun) {
        let (id, view) = (begun.run.id, begun.run.view.clone());
        let layer = self.clone();
        let driven = self
            .config
            .runtime
            .spawn(async move { layer.drive(&begun).await })
            .await;
        let result = driven
            .unwrap_or_else(|error| Err(BatchError::Refused(format!("the run stopped: {error}"))));
        if let Err(error) = result {
            self.record_failure(id, &view, &error).await;
        }
        self.in_flight.lock().remove(&id);
        self.ended.send_replace(());
        let state = self.config.catalog.state();
        info!(run = id.0, view = state.view_name(&view), id = %view, "batch run ended");
    }

    async fn drive(&self, begun: &Begun) -> Result<(), BatchError> {
        self.execute(begun).await?;
        if begun.request.dry_run || begun.request.mode == RunMode::Incremental {
            return Ok(());
        }
        self.promote(begun.run.id).await?;
        Ok(())
    }

    async fn record_failure(&self, id: RunId, view: &ViewId, error: &BatchError) {
        let outcome = if matches!(error, BatchError::Cancelled) {
            Outcome::Cancelled
        } else {
            Outcome::Failed
        };
        if outcome == Outcome::Failed {
            let state = self.config.catalog.state();
            warn!(run = id.0, view = state.view_name(view), id = %view, %error, "batch run failed");
        }
        let now = self.config.clock.now();
        let recorded = ledger::commit(&self.config.catalog, |state| {
            let Some(run) = state.runs.get(&id).filter(|run| !run.outcome.is_final()) else {
                return Ok(vec![]);
            };
            let mut run = BatchRun::clone(run);
            ledger::end(&mut run, outcome, now);
            run.error = Some(error.to_string());
            Ok(vec![Entry::Run { run: Box::new(run) }])
        })
        .await;
        if let Err(error) = recorded {
            warn!(run = id.0, %error, "the end of a run could not be recorded; it will read interrupted");
        }
    }

    /// Computes the run's generation and records it as staged; an incremental run publishes at once.
    async fn execute(&self, begun: &Begun) -> Result<(), BatchError> {
        match begun.request.mode {
            RunMode::Incremental => self.execute_incremental(begun).await,
            RunMode::Full | RunMode::Repair => self.execute_staged(begun).await,
        }
    }

    async fn execute_incremental(&self, begun: &Begun) -> Result<(), BatchError> {
        let view = &begun.run.view;
        let lock = self.publish_lock(view);
        let _publishing = lock.lock().await;
        self.refresh_locked(view, Some(begun.run.id), &begun.progress, &begun.cancel)
            .await?;
        Ok(())
    }

    async fn execute_staged(&self, begun: &Begun) -> Result<(), BatchError> {
        let view_id = &begun.run.view;
        let start = &begun.start;
        let state = self.config.catalog.state();
        let stream = self.handle(live_view(&state, view_id)?)?;
        let view = &start.target.view;
        let (base, horizon) = self.base(begun, &stream).await?;
        let job = self.job(view, view_id, &stream, &begun.progress);
        let computing = async {
            match (begun.request.mode, &base) {
                (RunMode::Repair, Some(base)) => {
                    job.repair(base, &begun.request.scope, &start.exclusions)
                        .await
                }
                _ => job.full(&horizon, &start.exclusions).await,
            }
        };
        let computed = unless_cancelled(&begun.cancel, Box::pin(computing))
            .await
            .map_err(|error| {
                // What the speed layer knows holds only where no exclusion may have taken its events out.
                let version = start.exclusions.is_empty().then_some(start.target.version);
                let known = known_poison(&stream, view_id, version);
                let name = &state.views[view_id].def.name;
                let span = Span::up_to(horizon.clone());
                error.explained(name, &stream.cell.load().stream().name, &span, &known)
            })?;
        dovetail_log::crash_point("run:computed");
        let inputs = GenerationInputs {
            horizon: horizon.clone(),
            raw_version: job.raw.version(),
            definition_hash: view.definition_hash().to_owned(),
            exclusions: start.exclusions.clone(),
            state_fingerprint: view.state_fingerprint().to_owned(),
        };
        let new = NewGeneration {
            view: view_id.clone(),
            parent: base.as_ref().map(Generation::number),
            definition_version: start.target.version,
            sql: view.sql().to_owned(),
            mode: begun.request.mode,
            run: Some(begun.run.id),
            inputs,
        };
        self.stage(begun, new, &computed, base.as_ref(), horizon)
            .await
    }

    /// The base of a full or repair run and the position to compute to: the horizon of the live generation
    /// after an incremental run; or a fresh target and no base for a view that is building, and for a full run
    /// where the live generation cannot be brought forward.
    async fn base(
        &self,
        begun: &Begun,
        stream: &StreamHandle,
    ) -> Result<(Option<Generation>, Position), BatchError> {
        if begun.start.target.building {
            let target = unless_cancelled(&begun.cancel, self.take_target(stream)).await?;
            return Ok((None, target.position().clone()));
        }
        let view = &begun.run.view;
        let lock = self.publish_lock(view);
        let _publishing = lock.lock().await;
        let state = self.config.catalog.state();
        let mergeable = live_view(&state, view)?.live_manifest().is_some_and(|m| {
            m.inputs.state_fingerprint == begun.start.target.view.state_fingerprint()
        });
        if !mergeable {
            // States of another engine never merge: this full run is the way over, without a base.
            let target = unless_cancelled(&begun.cancel, self.take_target(stream)).await?;
            return Ok((None, target.position().clone()));
        }
        let refreshed = self
            .refresh_locked(view, None, &begun.progress, &begun.cancel)
            .await;
        let live = match refreshed {
            // An exclusion that the live generation does not carry yet may be just what heals it.
            Err(error @ BatchError::Poisoned { .. }) if begun.request.mode == RunMode::Full => {
                info!(run = begun.run.id.0, %error, "the full run has no base to compare with");
                let target = unless_cancelled(&begun.cancel, self.take_target(stream)).await?;
                return Ok((None, target.position().clone()));
            }
            refreshed => refreshed?,
        };
        let state = self.config.catalog.state();
        let manifest = manifest(live_view(&state, view)?, live)?;
        let horizon = manifest.inputs.horizon.clone();
        let base = Generation::new(manifest, Arc::clone(&begun.start.target.view));
        Ok((Some(base), horizon))
    }

    async fn stage(
        &self,
        begun: &Begun,
        new: NewGeneration,
        computed: &Computed,
        base: Option<&Generation>,
        horizon: Position,
    ) -> Result<(), BatchError> {
        let now = self.config.clock.now();
        let rows_read = begun.progress.total();
        ledger::commit(&self.config.catalog, |state| {
            let view = live_view(state, &begun.run.view)?;
            let manifest = new.manifest(view, computed, now);
            let mut run = ledger::open_run(state, begun.run.id)?;
            run.base = base.map(Generation::number);
            run.generation = Some(manifest.number);
            run.span = Some(Span::up_to(horizon.clone()));
            run.raw_version = Some(manifest.inputs.raw_version);
            run.exclusions = manifest.inputs.exclusions.iter().map(|e| e.id).collect();
            run.pointer_epoch = begun.start.pointer_epoch;
            ledger::count(&mut run, computed, rows_read);
            ledger::end(&mut run, Outcome::Staged, now);
            Ok(vec![
                Entry::GenerationWritten {
                    manifest: Arc::new(manifest),
                },
                Entry::Run { run: Box::new(run) },
            ])
        })
        .await?;
        dovetail_log::crash_point("run:staged");
        Ok(())
    }
}

/// Runs `work` unless the run is cancelled first. Only work that moves no pointer may be wrapped.
pub(crate) async fn unless_cancelled<T>(
    cancel: &CancellationToken,
    work: impl Future<Output = Result<T, BatchError>>,
) -> Result<T, BatchError> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(BatchError::Cancelled),
        result = work => result,
    }
}

struct Begun {
    run: Arc<BatchRun>,
    request: StartRequest,
    start: Start,
    cancel: CancellationToken,
    progress: Arc<Progress>,
}

fn new_run(id: RunId, view: &ViewId, request: &StartRequest, now: DateTime<Utc>) -> BatchRun {
    BatchRun {
        id,
        view: view.clone(),
        mode: request.mode,
        scope: (request.mode == RunMode::Repair).then(|| request.scope.clone()),
        dry_run: request.dry_run,
        outcome: Outcome::Running,
        base: None,
        generation: None,
        span: None,
        exclusions: vec![],
        raw_version: None,
        pointer_epoch: 0,
        rows_read: 0,
        groups: 0,
        bytes: 0,
        seconds: None,
        started_at: now,
        ended_at: None,
        error: None,
        trigger: request.trigger.to_owned(),
    }
}

/// Where the speed layer could not compute this version of the view.
pub(crate) fn known_poison(
    stream: &StreamHandle,
    id: &ViewId,
    version: Option<u64>,
) -> Vec<Poisoned> {
    let cut = stream.cell.load();
    let of_version = cut
        .all_views()
        .find(|(known, view, _)| *known == id && Some(view.def.version) == version);
    of_version.map_or_else(Vec::new, |(_, view, _)| view.poisoned.clone())
}

/// A view that is not dropped.
pub(crate) fn live_view<'a>(
    state: &'a dovetail_model::CatalogState,
    id: &ViewId,
) -> Result<&'a ViewState, BatchError> {
    let view = state.views.get(id).ok_or_else(|| BatchError::NotFound {
        what: "view",
        name: id.to_string(),
    })?;
    if view.dropped_at.is_some() {
        let view = view.def.name.clone();
        return Err(BatchError::Dropped { view });
    }
    Ok(view)
}

/// The manifest of one of the view's generations.
pub(crate) fn manifest(
    view: &ViewState,
    number: GenerationNumber,
) -> Result<Arc<Manifest>, BatchError> {
    let missing = || BatchError::NotFound {
        what: "generation",
        name: number.to_string(),
    };
    view.generations.get(&number).cloned().ok_or_else(missing)
}

/// The record of a run that must be staged.
pub(crate) fn staged(run: Option<&Arc<BatchRun>>, id: RunId) -> Result<BatchRun, BatchError> {
    let run = run.ok_or_else(|| BatchError::NotFound {
        what: "run",
        name: id.to_string(),
    })?;
    if run.outcome != Outcome::Staged {
        return Err(BatchError::WrongOutcome {
            run: id,
            found: outcome_name(run.outcome),
            needed: "staged",
        });
    }
    Ok(BatchRun::clone(run))
}

fn check_scope(scope: &RepairScope, schema: &StreamSchema, view: &View) -> Result<(), BatchError> {
    if let Some(predicate) = &scope.predicate {
        Predicate::over_keys(predicate, view)?;
    }
    let timed = scope.from_us.is_some() || scope.to_us.is_some();
    if timed && schema.event_time.is_none() {
        return Err(BatchError::Invalid(
            "the stream declares no event_time, so `from` and `to` name no events; use `where` or a full run".to_owned(),
        ));
    }
    if let (Some(from), Some(to)) = (scope.from_us, scope.to_us)
        && from >= to
    {
        return Err(BatchError::Invalid(
            "`from` must be before `to`: the range is half open".to_owned(),
        ));
    }
    if !timed && scope.predicate.is_none() {
        return Err(BatchError::Invalid(
            "a repair needs `from`, `to` or `where`; to recompute everything use mode full"
                .to_owned(),
        ));
    }
    Ok(())
}
