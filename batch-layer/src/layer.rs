// SPDX-License-Identifier: Apache-2.0
//! Starting, watching and ending batch runs. What one does in between is in [`execute`].

mod execute;
mod lanes;
mod seat;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use datafusion::execution::TaskContext;
use dovetail_log::catalog::Catalog;
use dovetail_model::{
    BatchRun, CatalogState, Clock, Entry, Exclusion, GenerationNumber, Manifest, Outcome,
    RepairScope, RunId, RunMode, StreamId, StreamSchema, ViewDef, ViewId, ViewState, Volume,
};
use dovetail_seam::{Failing, Latencies, Latency, Meter, Poisoned};
use dovetail_view::{Predicate, View};
use object_store::ObjectStore;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::compute::changed_exclusions;
use crate::ledger;
use crate::relief::Stuck;
use crate::retention::Superfluous;
use crate::{BatchError, Progress, StreamAccess, StreamHandle, Workers};

pub(crate) use lanes::{Kind, Lanes};
use seat::UnnamedFiles;
pub(crate) use seat::{Seat, Unnamed};

/// How long a stop waits for its runs to end by themselves, and then for the catalog to take down that they did not.
/// The engine gives way in milliseconds as a rule; merging long lists keeps it for half a minute.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// Between two tries to mark what a stop cut off.
const MARK_PAUSE: Duration = Duration::from_secs(2);

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
    /// Spill directory of the computations; the store is registered in it. The limit of its memory pool is what all
    /// runs together may take: each that computes gets an even share of it.
    pub task: Arc<TaskContext>,
    /// Parallelism of one run.
    pub partitions: usize,
    /// How many full or repair runs compute at a time, and how many incremental ones beside them: the others wait.
    /// At least one of each.
    pub runs: usize,
    /// Processes that compute for this one: where one of them has a place, a run is computed there.
    pub workers: Arc<dyn Workers>,
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
    /// Who asks: `user`, `schedule`, `volume`, `memory`, `build`, `upgrade`.
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
    /// Of all runs that ended, however they did.
    run_latency: Arc<Latency>,
    /// What stands against starting runs and recording their ends.
    pub(crate) trouble: Arc<Meter>,
    pub(crate) lanes: Arc<Lanes>,
    pub(crate) stuck: Arc<Stuck>,
    /// Views of which files are being written, or are written and in no manifest yet.
    pub(crate) unnamed: UnnamedFiles,
    /// What sweeps remember of each view.
    pub(crate) superfluous: Arc<Mutex<HashMap<ViewId, Superfluous>>>,
    /// Whether runs and publishes may commit nothing any more, nor be waited for.
    sealed: Arc<AtomicBool>,
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
        let lanes = Arc::new(Lanes::new(&config.task, config.runs));
        Self {
            config,
            in_flight: Arc::default(),
            unnamed: UnnamedFiles::default(),
            superfluous: Arc::default(),
            ended: Arc::new(watch::Sender::new(())),
            publish_locks: Arc::default(),
            run_latency: Arc::default(),
            trouble: Arc::default(),
            lanes,
            stuck: Arc::default(),
            sealed: Arc::default(),
        }
    }

    /// An open stream.
    pub fn stream(&self, id: &StreamId) -> Option<StreamHandle> {
        self.config.streams.stream(id)
    }

    /// Spill directory and registered store, with a pool of the whole limit: for what is computed before any run.
    pub fn task_context(&self) -> &Arc<TaskContext> {
        &self.config.task
    }

    /// Marks runs that a crash cut off as failed: those at work, and those staged that were to promote
    /// themselves. Call once, before anything is started; a stop that leaves runs behind does the same at its end.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn fail_interrupted(&self) -> Result<usize, BatchError> {
        self.mark_interrupted(&self.at_work()).await
    }

    /// The runs that the ledger has at work.
    fn at_work(&self) -> BTreeSet<RunId> {
        let state = self.config.catalog.state();
        let at_work = state.runs.values().filter(|run| run.is_at_work());
        at_work.map(|run| run.id).collect()
    }

    /// Does what [`BatchLayer::fail_interrupted`] could not for want of room on the disk, once there is some. Call at
    /// once, so that it takes no run for one of those that is started later.
    pub fn fail_interrupted_later(
        &self,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + use<> {
        let (layer, runs) = (self.clone(), self.at_work());
        async move {
            while let Err(error) = layer.mark_interrupted(&runs).await {
                layer.trouble.fails(format_args!(
                    "runs that the last stop cut off cannot be marked failed: {error}"
                ));
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(MARK_PAUSE) => {}
                }
            }
            layer.trouble.succeeds();
            info!(
                runs = runs.len(),
                "batch runs that the last stop cut off are marked failed"
            );
        }
    }

    async fn mark_interrupted(&self, runs: &BTreeSet<RunId>) -> Result<usize, BatchError> {
        let now = self.config.clock.now();
        let mut count = 0;
        ledger::commit(&self.config.catalog, |state| {
            let runs = runs.iter().filter_map(|id| state.runs.get(id));
            let cut_off = runs.filter(|run| run.is_at_work());
            let entries: Vec<Entry> = cut_off
                .map(|run| {
                    let mut run = BatchRun::clone(run);
                    ledger::end(&mut run, Outcome::Failed, now);
                    // Nobody knows when it stopped.
                    run.seconds = None;
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

    /// Waits until a run of this process is over, and new queries see what it published; or until a stop has left it
    /// behind.
    ///
    /// # Errors
    /// When there is no such run.
    pub async fn wait(&self, id: RunId) -> Result<Arc<BatchRun>, BatchError> {
        let mut ended = self.ended.subscribe();
        loop {
            ended.borrow_and_update();
            let is_over = self.is_sealed() || !self.is_in_flight(id);
            if is_over || ended.changed().await.is_err() {
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
                found: run.outcome.as_str(),
                needed: "running",
            });
        };
        token.cancel();
        self.wait(id).await
    }

    /// Cancels every run, and waits a moment for them to stop. For shutdown: a promote or a rollback that waits for its
    /// turn is cancelled, too.
    ///
    /// A run that the engine holds in the middle of its work is left there. It is marked in the ledger as one that a
    /// crash cut off, and whatever it still does, it commits nothing: a caller may go on to end the process.
    pub async fn close(&self) {
        self.lanes.close();
        if tokio::time::timeout(CLOSE_WAIT, self.cancel_all())
            .await
            .is_err()
        {
            self.abandon().await;
        }
    }

    /// Lets no run, promote or rollback commit from now on: for the end of a process, after [`BatchLayer::close`].
    /// Whoever still computes, because the engine does not give way, works in vain.
    pub fn seal(&self) {
        self.sealed.store(true, Ordering::SeqCst);
        self.ended.send_replace(());
    }

    fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::SeqCst)
    }

    async fn abandon(&self) {
        self.seal();
        // Commits follow each other: behind this one, those that did not see the mark yet are over.
        let marking = tokio::time::timeout(CLOSE_WAIT, self.fail_interrupted());
        match marking.await {
            Ok(Ok(runs)) => warn!(
                runs,
                "batch runs did not stop in time; they are marked failed"
            ),
            Ok(Err(error)) => {
                warn!(%error, "batch runs did not stop in time; the next start marks them failed")
            }
            Err(_) => warn!(
                "batch runs did not stop in time, and the catalog does not answer; the next start marks them failed"
            ),
        }
    }

    /// Commits what a run or a publish decides, unless the process is ending without it.
    pub(crate) async fn commit_work(
        &self,
        mut decide: impl FnMut(&CatalogState) -> Result<Vec<Entry>, BatchError> + Send,
    ) -> Result<Arc<CatalogState>, BatchError> {
        ledger::commit(&self.config.catalog, |state| {
            // Looked at in its turn to commit, so that none comes behind the marks of a stop.
            if self.is_sealed() {
                return Err(BatchError::Cancelled);
            }
            decide(state)
        })
        .await
    }

    /// Cancels every run, and waits until all have stopped.
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

    pub(crate) fn handle(&self, view: &ViewDef) -> Result<StreamHandle, BatchError> {
        let missing = || BatchError::NotFound {
            what: "open stream of view",
            name: view.name.clone(),
        };
        self.config.streams.stream(&view.stream).ok_or_else(missing)
    }

    /// How long runs took since the start, from being asked for to their end.
    pub fn run_latencies(&self) -> Latencies {
        self.run_latency.read()
    }

    /// What stands against starting runs and recording their ends, if something does.
    pub fn failing(&self) -> Option<Failing> {
        self.trouble.failing()
    }

    /// What is archived behind the last full run of a view that volume recomputes; None of any other.
    pub fn archived_since_full(&self, view: &ViewState) -> Option<Volume> {
        if view.def.recompute_after.is_none() {
            return None;
        }
        let stream = self.handle(&view.def).ok()?;
        Some(stream.cell.load().raw().volume_behind(&view.recomputed_to))
    }

    /// Takes a target that covers everything durable at this moment.
    pub(crate) async fn take_target(
        &self,
        stream: &StreamHandle,
    ) -> Result<dovetail_seam::Target, BatchError> {
        Ok(stream.targets.take().await?)
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
        state: &CatalogState,
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
        let exclusions: Vec<Exclusion> = stream.exclusions.values().cloned().collect();
        if request.mode == RunMode::Repair {
            check_scope(&request.scope, &stream.def.schema, &compiled)?;
            let live = view.live_manifest();
            let carried = live.map_or(&[][..], |live| &live.inputs.exclusions);
            let all = request.scope == RepairScope::default();
            if all && changed_exclusions(carried, &exclusions).is_empty() {
                return Err(BatchError::Invalid(format!(
                    "a repair of view `{}` needs `from`, `to` or `where` (--from, --to, --where): no exclusion has come or gone since its live generation, so nothing else says which groups to repair; to recompute every group use mode full (--mode full)",
                    view.def.name
                )));
            }
        }
        Ok(Start {
            target: Target {
                view: compiled,
                version: def.version,
                building,
            },
            exclusions,
            pointer_epoch: view.pointer_epoch,
        })
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
        scope: (request.mode == RunMode::Repair).then(|| request.scope.clone()),
        dry_run: request.dry_run,
        ..BatchRun::begun(id, view.clone(), request.mode, request.trigger, now)
    }
}

/// Where the speed layer could not compute an event with this version of the view.
pub(crate) fn known_poison(stream: &StreamHandle, id: &ViewId, version: u64) -> Vec<Poisoned> {
    let cut = stream.cell.load();
    let definition = cut.definition(id, version);
    let poisoned = definition.into_iter().flat_map(|view| &view.poisoned);
    poisoned.filter(|p| !p.is_of_memory()).cloned().collect()
}

/// A view that is not dropped.
pub(crate) fn live_view<'a>(
    state: &'a CatalogState,
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
            found: run.outcome.as_str(),
            needed: "staged",
        });
    }
    Ok(BatchRun::clone(run))
}

fn check_scope(scope: &RepairScope, schema: &StreamSchema, view: &View) -> Result<(), BatchError> {
    if let Some(predicate) = &scope.predicate {
        Predicate::over_keys(predicate, view)?.check_computable()?;
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
    Ok(())
}
