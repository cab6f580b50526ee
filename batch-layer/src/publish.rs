// SPDX-License-Identifier: Apache-2.0
//! Moving the live pointer: refresh, promote, rollback. Each computes forward to a pinned edge, moves the
//! pointer by compare-and-set in the catalog, then swaps the cut.

use std::sync::Arc;

use dovetail_model::{
    BatchRun, CatalogState, Entry, Exclusion, GenerationInputs, GenerationNumber, Manifest,
    Outcome, Position, PublishReason, RunId, RunMode, Span, ViewId, ViewState,
};
use dovetail_seam::{Generation, SeamError, StreamCell, Target};
use dovetail_view::Answered;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::compute::{Computation, Computed};
use crate::layer::{Seat, Unnamed, known_poison, live_view, manifest, staged, unless_cancelled};
use crate::ledger::{self, NewGeneration};
use crate::{BatchError, BatchLayer, Progress, StreamHandle, project};

/// How a view stands after its pointer moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The view.
    pub view: ViewId,
    /// The generation that was live before.
    pub before: Option<GenerationNumber>,
    /// The generation that was asked for.
    pub candidate: GenerationNumber,
    /// The generation that is live now: the candidate, or what it became when it was brought forward.
    pub live: GenerationNumber,
    /// Whether the view's full schedule is paused now.
    pub schedule_paused: bool,
    /// The definition that was being built, which a rollback gives up.
    pub given_up: Option<u64>,
}

/// A generation on its way to the live pointer.
struct Candidate {
    generation: Generation,
    /// Not in the catalog yet: made by catching up.
    unwritten: Option<(NewGeneration, Computed)>,
    /// Keeps its files until they are.
    _unnamed: Option<Unnamed>,
    /// Keeps its horizon an edge of the runs until the cut is swapped.
    _edge: Option<Target>,
}

/// An old definition that is part of the stream again, so that the speed layer holds its runs when the pointer
/// moves to a generation of it. It leaves the stream with this, unless it has become the live one. Made under the
/// publish lock: two of one definition would take it from each other.
struct Joined {
    cell: Arc<StreamCell>,
    view: ViewId,
    version: u64,
}

impl Joined {
    /// None when the cut holds the definition already.
    fn new(cell: &Arc<StreamCell>, id: &ViewId, candidate: &Generation) -> Option<Self> {
        let name = cell.load().views().get(id)?.name.clone();
        let version = candidate.manifest().definition_version;
        let joined = cell.join_candidate(id, &name, version, Arc::clone(candidate.view()));
        joined.then(|| Self {
            cell: Arc::clone(cell),
            view: id.clone(),
            version,
        })
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.cell.remove_candidate(&self.view, self.version);
    }
}

impl BatchLayer {
    /// Brings the live generation forward to everything durable now, and returns the one that is live then.
    /// The caller holds the publish lock. `run` ends promoted in the commit that moves the pointer, so that no
    /// crash comes between them.
    pub(crate) async fn refresh_locked(
        &self,
        id: &ViewId,
        run: Option<RunId>,
        progress: &Arc<Progress>,
        cancel: &CancellationToken,
    ) -> Result<GenerationNumber, BatchError> {
        let state = self.config.catalog.state();
        let view = live_view(&state, id)?;
        let stream = self.handle(&view.def)?;
        let base_number = view.live.ok_or_else(|| not_built(view))?;
        let base = self.open(&state, view, manifest(view, base_number)?)?;
        check_mergeable(view, &base)?;
        let seat = self.seat_unless_current(&base, &stream, progress);
        let seat = unless_cancelled(cancel, seat).await?;
        let pin = unless_cancelled(cancel, self.take_target(&stream)).await?;
        let span =
            Span::new(base.horizon().clone(), pin.position().clone()).map_err(SeamError::from)?;
        let now = || self.config.clock.now();
        let ended = |state: &CatalogState, live: GenerationNumber, computed: &Computed| {
            let Some(run) = run else {
                return Ok(None);
            };
            let mut run = ledger::open_run(state, run)?;
            run.base = Some(base_number);
            run.generation = Some(live);
            run.span = Some(span.clone());
            ledger::count(&mut run, computed, progress);
            ledger::end(&mut run, Outcome::Promoted, now());
            Ok::<_, BatchError>(Some(Entry::Run { run: Box::new(run) }))
        };
        if span.is_empty() {
            self.commit_work(|state| {
                let entry = ended(state, base_number, &Computed::default())?;
                Ok(entry.into_iter().collect())
            })
            .await?;
            return Ok(base_number);
        }
        let seat = unless_cancelled(cancel, self.seat_at_last(seat, progress)).await?;
        let forward = forward(&base, pin.position());
        let assignment = self.assignment(id, base.view(), &stream, forward);
        let _unnamed = self.unnamed.of(id);
        let computing = self.compute(seat, &assignment, progress);
        let computed = unless_cancelled(cancel, Box::pin(computing)).await;
        let version = base.manifest().definition_version;
        let computed = computed.map_err(|error| explained(error, &base, view, &stream, &span));
        self.stuck.note(id, version, &computed);
        let computed = computed?;
        let new = NewGeneration {
            view: id.clone(),
            parent: Some(base_number),
            definition_version: base.manifest().definition_version,
            sql: base.manifest().sql.clone(),
            mode: RunMode::Incremental,
            run,
            inputs: GenerationInputs {
                horizon: pin.position().clone(),
                raw_version: assignment.raw_version(),
                ..base.manifest().inputs.clone()
            },
        };
        let mut written = None;
        self.commit_work(|state| {
            let view = live_view(state, id)?;
            let manifest = Arc::new(new.manifest(view, &computed, now()));
            written = Some(Arc::clone(&manifest));
            let reason = PublishReason::Refreshed;
            let mut entries = publish_entries(&manifest, true, Some(base_number), reason);
            entries.extend(ended(state, manifest.number, &computed)?);
            Ok(entries)
        })
        .await?;
        let manifest =
            written.ok_or_else(|| BatchError::Refused("the catalog did not commit".to_owned()))?;
        dovetail_log::crash_point("pointer:moved");
        let live = manifest.number;
        stream.cell.publish(
            id,
            Arc::new(Generation::new(manifest, Arc::clone(base.view()))),
        )?;
        self.project_or_warn(id).await;
        Ok(live)
    }

    /// Promotes a staged run: brings its generation forward to the present and moves the pointer to it.
    ///
    /// # Errors
    /// When the run is not staged, or is stale.
    pub async fn promote(&self, id: RunId) -> Result<Published, BatchError> {
        let state = self.config.catalog.state();
        let run = staged(state.runs.get(&id), id)?;
        let view = live_view(&state, &run.view)?;
        let number = run
            .generation
            .ok_or_else(|| BatchError::Refused(format!("run {id} has no generation")))?;
        let check = |state: &CatalogState| check_fresh(state, id, number);
        check(&state)?;
        let candidate = self.open(&state, view, manifest(view, number)?)?;
        let published = self
            .publish_forward(
                &run.view,
                candidate,
                PublishReason::Promoted,
                Some(id),
                &check,
            )
            .await?;
        info!(run = id.0, view = %view.def.name, id = %run.view, generation = published.live.0, "promoted");
        Ok(published)
    }

    /// Moves the pointer back: to `target`, or to the generation that was live just before the last full or
    /// repair promote. It is brought forward to the present first. Pauses the view's full schedule, and gives up
    /// a new definition that is being built: nothing is to take its place but by a user's word. Where one is being
    /// built beside a live generation and no target is named, that is all it does: what answers stays.
    ///
    /// # Errors
    /// When there is nothing to go back to, or its states are of another engine.
    pub async fn rollback(
        &self,
        id: &ViewId,
        target: Option<GenerationNumber>,
    ) -> Result<Published, BatchError> {
        let state = self.config.catalog.state();
        let view = live_view(&state, id)?;
        if target.is_none()
            && let Some(given_up) = self.give_up_pending(id, |_| true).await?
        {
            let state = self.config.catalog.state();
            let view = live_view(&state, id)?;
            let live = view.live.ok_or_else(|| not_built(view))?;
            return Ok(Published {
                view: id.clone(),
                before: Some(live),
                candidate: live,
                live,
                schedule_paused: view.schedule_paused,
                given_up: Some(given_up),
            });
        }
        let nothing = || {
            BatchError::Refused(format!(
                "view `{0}` has no earlier promote to go back from; name a generation with --generation N (`generation` of the API): `dovetail runs --view {0}` lists those of its runs",
                view.def.name
            ))
        };
        let number = target.or(view.before_promote).ok_or_else(nothing)?;
        if Some(number) == view.live {
            return Err(BatchError::Refused(format!(
                "generation {number} is live already"
            )));
        }
        let candidate = self.open(&state, view, manifest(view, number)?)?;
        check_mergeable(view, &candidate)?;
        let check = |_: &CatalogState| Ok(());
        let published = self
            .publish_forward(id, candidate, PublishReason::RolledBack, None, &check)
            .await
            .map_err(|error| error.of_instead(number))?;
        info!(view = %view.def.name, %id, generation = published.live.0, "rolled back; the full schedule is paused");
        Ok(published)
    }

    /// Why a staged run can no longer be promoted; None when it can, or is not staged.
    pub fn staleness(&self, state: &CatalogState, run: &BatchRun) -> Option<String> {
        let generation = run.generation.filter(|_| run.outcome == Outcome::Staged)?;
        match check_fresh(state, run.id, generation) {
            Err(BatchError::Stale { reason, .. }) => Some(reason),
            _ => None,
        }
    }

    /// Brings the live generation of a view that joined the stream again, after UNDROP, to where its runs
    /// start, so that it answers.
    ///
    /// # Errors
    /// When the generation cannot be brought forward.
    pub async fn rejoin(&self, id: &ViewId) -> Result<Published, BatchError> {
        let state = self.config.catalog.state();
        let view = live_view(&state, id)?;
        let live = view.live.ok_or_else(|| not_built(view))?;
        let candidate = self.open(&state, view, manifest(view, live)?)?;
        check_mergeable(view, &candidate)?;
        self.publish_forward(id, candidate, PublishReason::Refreshed, None, &|_| Ok(()))
            .await
    }

    /// Makes the Delta projection of a view equal to its pointer again, as after a crash.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn project_view(&self, id: &ViewId) -> Result<(), BatchError> {
        let state = self.config.catalog.state();
        let view = live_view(&state, id)?;
        let Some(live) = view.live_manifest() else {
            return Ok(());
        };
        let generation = self.open(&state, view, Arc::clone(live))?;
        project(&self.config.store, view, &generation, &self.config.clock).await
    }

    /// Opens a generation of `view` under the definition it was made for.
    pub(crate) fn open(
        &self,
        state: &CatalogState,
        view: &ViewState,
        manifest: Arc<Manifest>,
    ) -> Result<Generation, BatchError> {
        let stream = state
            .streams
            .get(&view.def.stream)
            .ok_or_else(|| BatchError::NotFound {
                what: "stream of view",
                name: view.def.name.clone(),
            })?;
        Ok(Generation::compiled(manifest, &stream.def)?)
    }

    /// Catches the candidate up and publishes it. The first round works beside other publishers; the last
    /// one holds the publish lock, and covers only what arrived during the first.
    async fn publish_forward(
        &self,
        id: &ViewId,
        candidate: Generation,
        reason: PublishReason,
        run: Option<RunId>,
        check: &(dyn Fn(&CatalogState) -> Result<(), BatchError> + Sync),
    ) -> Result<Published, BatchError> {
        let asked = candidate.number();
        let state = self.config.catalog.state();
        let stream = self.handle(&live_view(&state, id)?.def)?;
        let first = Candidate {
            generation: candidate,
            unwritten: None,
            _unnamed: None,
            _edge: None,
        };
        let near = self.catch_up(id, &stream, first, run).await?;

        let lock = self.publish_lock(id);
        let _publishing = lock.lock().await;
        let joined = Joined::new(&stream.cell, id, &near.generation);
        let last = self.catch_up(id, &stream, near, run).await?;
        let mut before = None;
        let mut given_up = None;
        let mut allowed = |state: &CatalogState| {
            check(state)?;
            let view = live_view(state, id)?;
            before = view.live;
            // What was brought forward shares files with it: expired meanwhile, they may be gone.
            manifest(view, asked)?;
            let version = last.generation.manifest().definition_version;
            let pending = view.pending.as_ref().map(|pending| pending.version);
            if joined.is_none() && version != view.def.version && pending != Some(version) {
                return Err(BatchError::Refused(format!(
                    "view `{}` was redefined meanwhile; ask again",
                    view.def.name
                )));
            }
            given_up = pending
                .filter(|pending| reason == PublishReason::RolledBack && *pending != version);
            Ok(())
        };
        let live = self
            .move_pointer(id, &last, reason, run, &mut allowed)
            .await?;
        dovetail_log::crash_point("pointer:moved");
        stream.cell.publish(id, Arc::clone(&live))?;
        self.stuck.forget(id, live.manifest().definition_version);
        if let Some(version) = given_up {
            stream.cell.remove_candidate(id, version);
        }
        self.project_or_warn(id).await;
        let state = self.config.catalog.state();
        let schedule_paused = live_view(&state, id)?.schedule_paused;
        Ok(Published {
            view: id.clone(),
            before,
            candidate: asked,
            live: live.number(),
            schedule_paused,
            given_up,
        })
    }

    /// A seat to bring `base` forward in, taken before the target, so that what is pinned waits for nobody; None where
    /// there is nothing to compute.
    async fn seat_unless_current(
        &self,
        base: &Generation,
        stream: &StreamHandle,
        progress: &Progress,
    ) -> Result<Option<Seat>, BatchError> {
        if base.horizon().covers(&stream.cell.durable()) {
            return Ok(None);
        }
        let seat = self.seat(RunMode::Incremental, progress).await?;
        Ok(Some(seat))
    }

    /// `seat`, or the one that is needed after all: events came just before the target was taken.
    async fn seat_at_last(
        &self,
        seat: Option<Seat>,
        progress: &Progress,
    ) -> Result<Seat, BatchError> {
        match seat {
            Some(seat) => Ok(seat),
            None => self.seat(RunMode::Incremental, progress).await,
        }
    }

    /// One round: the candidate brought forward through the raw log to a fresh pinned edge.
    async fn catch_up(
        &self,
        id: &ViewId,
        stream: &StreamHandle,
        candidate: Candidate,
        run: Option<RunId>,
    ) -> Result<Candidate, BatchError> {
        let base = &candidate.generation;
        let progress = Arc::default();
        let seat = self.seat_unless_current(base, stream, &progress).await?;
        let pin = self.take_target(stream).await?;
        if base.horizon() == pin.position() {
            return Ok(Candidate {
                _edge: Some(pin),
                ..candidate
            });
        }
        let state = self.config.catalog.state();
        let view = live_view(&state, id)?;
        let seat = self.seat_at_last(seat, &progress).await?;
        let forward = forward(base, pin.position());
        let assignment = self.assignment(id, base.view(), stream, forward);
        let span =
            Span::new(base.horizon().clone(), pin.position().clone()).map_err(SeamError::from)?;
        // Those of the round before, if there was one, are among these or not needed any more.
        let unnamed = self.unnamed.of(id);
        let computed = Box::pin(self.compute(seat, &assignment, &progress))
            .await
            .map_err(|error| explained(error, base, view, stream, &span))?;
        let parent = match &candidate.unwritten {
            Some((new, _)) => new.parent,
            None => Some(base.number()),
        };
        let new = NewGeneration {
            view: id.clone(),
            parent,
            definition_version: base.manifest().definition_version,
            sql: base.manifest().sql.clone(),
            mode: RunMode::Incremental,
            run,
            inputs: GenerationInputs {
                horizon: pin.position().clone(),
                raw_version: assignment.raw_version(),
                ..base.manifest().inputs.clone()
            },
        };
        let manifest = Arc::new(new.manifest(view, &computed, self.config.clock.now()));
        let generation = Generation::new(manifest, Arc::clone(base.view()));
        Ok(Candidate {
            generation,
            unwritten: Some((new, computed)),
            _unnamed: Some(unnamed),
            _edge: Some(pin),
        })
    }

    async fn move_pointer(
        &self,
        id: &ViewId,
        candidate: &Candidate,
        reason: PublishReason,
        run: Option<RunId>,
        allowed: &mut (dyn FnMut(&CatalogState) -> Result<(), BatchError> + Send),
    ) -> Result<Arc<Generation>, BatchError> {
        let now = self.config.clock.now();
        let mut published = None;
        self.commit_work(|state| {
            allowed(state)?;
            let view = live_view(state, id)?;
            let manifest = match &candidate.unwritten {
                Some((new, computed)) => Arc::new(new.manifest(view, computed, now)),
                None => Arc::clone(candidate.generation.manifest()),
            };
            let mut entries =
                publish_entries(&manifest, candidate.unwritten.is_some(), view.live, reason);
            if let Some(run) = run {
                let mut run = ledger::open_run(state, run)?;
                ledger::end(&mut run, Outcome::Promoted, now);
                entries.push(Entry::Run { run: Box::new(run) });
            }
            if reason == PublishReason::RolledBack {
                entries.push(Entry::SchedulePaused {
                    view: id.clone(),
                    paused: true,
                });
            }
            published = Some(manifest);
            Ok(entries)
        })
        .await?;
        let manifest = published
            .ok_or_else(|| BatchError::Refused("the catalog did not commit".to_owned()))?;
        Ok(Arc::new(Generation::new(
            manifest,
            Arc::clone(candidate.generation.view()),
        )))
    }

    pub(crate) async fn project_or_warn(&self, id: &ViewId) {
        if let Err(error) = self.project_view(id).await {
            let state = self.config.catalog.state();
            warn!(view = state.view_name(id), %id, %error, "the delta projection lags behind; it is redone at the next publish or start");
        }
        dovetail_log::crash_point("projection:committed");
    }
}

/// `base` brought forward.
fn forward(base: &Generation, to: &Position) -> Computation {
    Computation::Forward {
        base: Arc::clone(base.manifest()),
        to: to.clone(),
    }
}

fn publish_entries(
    manifest: &Arc<Manifest>,
    is_new: bool,
    expected: Option<GenerationNumber>,
    reason: PublishReason,
) -> Vec<Entry> {
    let written = is_new.then(|| Entry::GenerationWritten {
        manifest: Arc::clone(manifest),
    });
    let published = Entry::GenerationPublished {
        view: manifest.view.clone(),
        expected,
        generation: manifest.number,
        reason,
    };
    written.into_iter().chain([published]).collect()
}

/// A staged run answers for the pointer, definition and exclusions that it started from.
fn check_fresh(
    state: &CatalogState,
    id: RunId,
    number: GenerationNumber,
) -> Result<(), BatchError> {
    let stale = |reason: String| BatchError::Stale { run: id, reason };
    let run = staged(state.runs.get(&id), id)?;
    let view = live_view(state, &run.view)?;
    let manifest = manifest(view, number)?;
    check_epoch(id, view, run.pointer_epoch)?;
    let expected = view
        .pending
        .as_ref()
        .map_or(view.def.version, |pending| pending.version);
    if manifest.definition_version != expected {
        return Err(stale(
            "the view has been redefined since it started".to_owned(),
        ));
    }
    let now: Vec<&Exclusion> = state
        .streams
        .get(&view.def.stream)
        .iter()
        .flat_map(|s| s.exclusions.values())
        .collect();
    if now.into_iter().ne(manifest.inputs.exclusions.iter()) {
        return Err(stale(
            "the stream's exclusions have changed since it started".to_owned(),
        ));
    }
    Ok(())
}

/// Whether the pointer stands as at the `epoch` when the run started, incremental runs aside.
pub(crate) fn check_epoch(id: RunId, view: &ViewState, epoch: u64) -> Result<(), BatchError> {
    if view.pointer_epoch == epoch {
        return Ok(());
    }
    Err(BatchError::Stale {
        run: id,
        reason: "another full or repair run, or a rollback, has moved the pointer since it started"
            .to_owned(),
    })
}

/// The error of bringing `base` forward over `span`, with the way out where an expression of the view failed.
fn explained(
    error: BatchError,
    base: &Generation,
    view: &ViewState,
    stream: &StreamHandle,
    span: &Span,
) -> BatchError {
    let version = base.manifest().definition_version;
    let known = known_poison(stream, &view.def.id, version);
    error.explained(
        &view.def.name,
        &stream.cell.load().stream().name,
        span,
        answered_without(view, version),
        &known,
    )
}

/// What a view answers while definition `version` of it cannot be computed.
pub(crate) fn answered_without(view: &ViewState, version: u64) -> Answered {
    match view.live_manifest() {
        None => Answered::Nothing,
        Some(live) if live.definition_version != version => Answered::Live,
        Some(_) => Answered::Others,
    }
}

fn check_mergeable(view: &ViewState, generation: &Generation) -> Result<(), BatchError> {
    if generation.is_mergeable() {
        return Ok(());
    }
    Err(BatchError::Refused(format!(
        "generation {} of view `{}` was made by another engine (state fingerprint `{}`, ours is `{}`); start a full run",
        generation.number(),
        view.def.name,
        generation.manifest().inputs.state_fingerprint,
        generation.view().state_fingerprint(),
    )))
}

fn not_built(view: &ViewState) -> BatchError {
    BatchError::Refused(format!(
        "view `{}` has no generation yet: its first full run is still to end",
        view.def.name
    ))
}
