// SPDX-License-Identifier: Apache-2.0
//! What a batch run does once it has begun: its base, its computation, its record, its promote.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use dovetail_log::parquet_files::is_damage;
use dovetail_model::{
    BatchRun, Entry, GenerationInputs, Outcome, Position, ProblemKind, RunId, RunMode, Span, ViewId,
};
use dovetail_seam::Generation;
use tracing::{info, warn};

use super::{BatchLayer, Begun, Start, known_poison, live_view, manifest, unless_cancelled};
use crate::compute::{Computation, Computed};
use crate::ledger::{self, NewGeneration};
use crate::publish::{answered_without, check_epoch};
use crate::{BatchError, StreamHandle};

/// Between two tries to record the end of a run.
const RECORD_PAUSE: Duration = Duration::from_secs(2);

impl BatchLayer {
    /// Drives a run in a task of its own, so that even a panic in it ends with a record.
    pub(super) async fn supervise(&self, begun: Begun) {
        let (id, view) = (begun.run.id, begun.run.view.clone());
        let (layer, began) = (self.clone(), Instant::now());
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
        self.run_latency.note(began.elapsed());
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
        let state = self.config.catalog.state();
        let name = state.view_name(view);
        if error.is_users_act() {
            info!(run = id.0, view = name, id = %view, %error, "batch run given up");
        } else {
            warn!(run = id.0, view = name, id = %view, %error, "batch run failed");
        }
        let now = self.config.clock.now();
        // Until then nothing else of its kind can run on the view: an outage of the store that ended the run must not
        // keep it in the ledger as one that is at work.
        while let Err(problem) = self.record_end(id, outcome, now, error).await {
            let over = self.lanes.is_closed() || self.config.catalog.superseded_by().is_some();
            if over || problem.kind() != ProblemKind::Unavailable {
                warn!(run = id.0, error = %problem, "the end of a run could not be recorded; it will read interrupted");
                self.trouble.succeeds();
                return;
            }
            warn!(run = id.0, error = %problem, "the end of a run could not be recorded; it is tried again");
            self.trouble.fails(format_args!(
                "the end of run {id} of view `{name}` cannot be recorded: {problem}"
            ));
            tokio::time::sleep(RECORD_PAUSE).await;
        }
        self.trouble.succeeds();
    }

    async fn record_end(
        &self,
        id: RunId,
        outcome: Outcome,
        now: DateTime<Utc>,
        error: &BatchError,
    ) -> Result<(), BatchError> {
        let recorded = ledger::commit(&self.config.catalog, |state| {
            let Some(run) = state.runs.get(&id).filter(|run| !run.outcome.is_final()) else {
                return Ok(vec![]);
            };
            let mut run = BatchRun::clone(run);
            ledger::end(&mut run, outcome, now);
            run.worker = self.progress(id).and_then(|progress| progress.worker());
            run.error = match error {
                // The outcome says it all.
                BatchError::Cancelled => None,
                // Nothing is staged that could be discarded.
                BatchError::Stale { reason, .. } => {
                    Some(format!("stale: {reason}; start a new one"))
                }
                other => Some(other.to_string()),
            };
            Ok(vec![Entry::Run { run: Box::new(run) }])
        });
        recorded.await.map(|_| ())
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
        let _publishing = unless_cancelled(&begun.cancel, async { Ok(lock.lock().await) }).await?;
        self.refresh_locked(view, Some(begun.run.id), &begun.progress, &begun.cancel)
            .await?;
        Ok(())
    }

    async fn execute_staged(&self, begun: &Begun) -> Result<(), BatchError> {
        let view_id = &begun.run.view;
        let waiting = self.seat(begun.request.mode, &begun.progress);
        let seat = unless_cancelled(&begun.cancel, waiting).await?;
        let start = &self.start_at_turn(begun)?;
        let state = self.config.catalog.state();
        let stream = self.handle(&live_view(&state, view_id)?.def)?;
        let view = &start.target.view;
        let (base, horizon) = self.base(begun, start, &stream).await?;
        let exclusions = start.exclusions.clone();
        let computation = match (begun.request.mode, &base) {
            (RunMode::Repair, Some(base)) => Computation::Repair {
                base: Arc::clone(base.manifest()),
                scope: begun.request.scope.clone(),
                exclusions,
            },
            _ => Computation::Full {
                horizon: horizon.clone(),
                exclusions,
            },
        };
        let assignment = self.assignment(view_id, view, &stream, computation);
        let _unnamed = self.unnamed.of(view_id);
        let computing = self.compute(seat, &assignment, &begun.progress);
        let computed = unless_cancelled(&begun.cancel, Box::pin(computing))
            .await
            .map_err(|error| {
                // What the speed layer knows holds only where no exclusion may have taken its events out.
                let known = if start.exclusions.is_empty() {
                    known_poison(&stream, view_id, start.target.version)
                } else {
                    vec![]
                };
                let view = &state.views[view_id];
                let answered = answered_without(view, start.target.version);
                let name = &view.def.name;
                let span = Span::up_to(horizon.clone());
                error.explained(
                    name,
                    &stream.cell.load().stream().name,
                    &span,
                    answered,
                    &known,
                )
            })?;
        dovetail_log::crash_point("run:computed");
        let inputs = GenerationInputs {
            horizon: horizon.clone(),
            raw_version: assignment.raw_version(),
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

    /// What a full or repair run starts from when it is its turn: exclusions that came or went while it waited count.
    /// A pointer that moved or another definition take its ground away, before it has computed in vain.
    fn start_at_turn(&self, begun: &Begun) -> Result<Start, BatchError> {
        let state = self.config.catalog.state();
        let view = live_view(&state, &begun.run.view)?;
        check_epoch(begun.run.id, view, begun.start.pointer_epoch)?;
        let start = self.start_of(&state, view, &begun.request)?;
        if start.target.version != begun.start.target.version {
            return Err(BatchError::Stale {
                run: begun.run.id,
                reason: "the view has been redefined since it started".to_owned(),
            });
        }
        Ok(start)
    }

    /// The base of a full or repair run and the position to compute to: the horizon of the live generation
    /// after an incremental run; or a fresh target and no base for a view that is building, and for a full run
    /// where the live generation cannot be brought forward.
    async fn base(
        &self,
        begun: &Begun,
        start: &Start,
        stream: &StreamHandle,
    ) -> Result<(Option<Generation>, Position), BatchError> {
        if start.target.building {
            let target = unless_cancelled(&begun.cancel, self.take_target(stream)).await?;
            return Ok((None, target.position().clone()));
        }
        let view = &begun.run.view;
        let lock = self.publish_lock(view);
        let _publishing = unless_cancelled(&begun.cancel, async { Ok(lock.lock().await) }).await?;
        let state = self.config.catalog.state();
        let live = live_view(&state, view)?;
        check_epoch(begun.run.id, live, start.pointer_epoch)?;
        let mergeable = live
            .live_manifest()
            .is_some_and(|m| m.inputs.state_fingerprint == start.target.view.state_fingerprint());
        if !mergeable {
            // States of another engine never merge: this full run is the way over, without a base.
            let target = unless_cancelled(&begun.cancel, self.take_target(stream)).await?;
            return Ok((None, target.position().clone()));
        }
        let refreshed = self
            .refresh_locked(view, None, &begun.progress, &begun.cancel)
            .await;
        let live = match refreshed {
            // An exclusion that the live generation does not carry yet may be just what heals it; a file of it that is
            // damaged is made anew of the raw log.
            Err(error)
                if begun.request.mode == RunMode::Full
                    && (is_damage(&error)
                        || matches!(
                            error,
                            BatchError::Poisoned { .. } | BatchError::Finish { .. }
                        )) =>
            {
                info!(run = begun.run.id.0, %error, "the full run has no base to compare with");
                let target = unless_cancelled(&begun.cancel, self.take_target(stream)).await?;
                return Ok((None, target.position().clone()));
            }
            Err(error @ (BatchError::Poisoned { .. } | BatchError::Finish { .. }))
                if begun.request.mode == RunMode::Repair =>
            {
                return Err(BatchError::Refused(format!(
                    "{error}; a range is recomputed beside what is live, which this stands against: replay without a range"
                )));
            }
            refreshed => refreshed?,
        };
        let state = self.config.catalog.state();
        let manifest = manifest(live_view(&state, view)?, live)?;
        let horizon = manifest.inputs.horizon.clone();
        let base = Generation::new(manifest, Arc::clone(&start.target.view));
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
        self.commit_work(|state| {
            let view = live_view(state, &begun.run.view)?;
            let manifest = new.manifest(view, computed, now);
            let mut run = ledger::open_run(state, begun.run.id)?;
            run.base = base.map(Generation::number);
            run.generation = Some(manifest.number);
            run.span = Some(Span::up_to(horizon.clone()));
            run.raw_version = Some(manifest.inputs.raw_version);
            run.exclusions = manifest.inputs.exclusions.iter().map(|e| e.id).collect();
            run.pointer_epoch = begun.start.pointer_epoch;
            ledger::count(&mut run, computed, &begun.progress);
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
