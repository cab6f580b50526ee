// SPDX-License-Identifier: Apache-2.0
//! The control port: definitions, exclusions, batch runs.

use std::future::Future;

use async_trait::async_trait;
use dovetail_batch_layer::{BatchError, Published, StartRequest};
use dovetail_model::{
    BatchRun, CatalogState, DiffSummary, Entry, Exclusion, ExclusionId, GenerationNumber, Outcome,
    PositionToken, Problem, ProblemKind, RunId, StreamState, ViewId, ViewState,
};
use dovetail_serving_layer::ports::{
    Change, Control, DdlAnswer, ExclusionInfo, ExclusionRequest, LocatedDefinition,
    POINTER_MOVE_WAIT, RecomputeRequest, Rollback, RunInfo, RunsQuery, Settled, StageStatus,
    Status, StreamInfo, ViewInfo, ViewStatus,
};
use dovetail_serving_layer::sql::Definition;
use dovetail_serving_layer::time::iso_us;
use dovetail_view::Predicate;

use super::Node;

#[async_trait]
impl Control for Node {
    async fn execute(&self, definition: Definition) -> Result<DdlAnswer, Problem> {
        let node = self.clone();
        // A definition has several steps; a caller that leaves must not stop between them.
        detached(async move { node.define(definition).await }).await
    }

    async fn plan(&self, definitions: Vec<LocatedDefinition>) -> Result<Vec<Change>, Problem> {
        self.plan_definitions(&definitions)
    }

    async fn apply(&self, definitions: Vec<LocatedDefinition>) -> Result<Vec<Change>, Problem> {
        let node = self.clone();
        detached(async move { node.apply_definitions(definitions).await }).await
    }

    async fn streams(&self) -> Result<Vec<StreamInfo>, Problem> {
        self.describe_streams().await
    }

    async fn stream(&self, name: &str) -> Result<StreamInfo, Problem> {
        let state = self.0.catalog.state();
        let stream = state
            .stream_named(name)
            .ok_or_else(|| Problem::not_found("stream", name))?;
        self.describe_stream(&state, stream).await
    }

    async fn views(&self) -> Result<Vec<ViewInfo>, Problem> {
        let statuses = self.describe_views().await?;
        Ok(statuses.into_iter().map(|status| status.view).collect())
    }

    async fn view_status(&self, name: &str) -> Result<ViewStatus, Problem> {
        let state = self.0.catalog.state();
        self.describe_view(&state, view_named(&state, name)?)
    }

    async fn status(&self) -> Result<Status, Problem> {
        self.describe_all().await
    }

    async fn ready(&self) -> Result<Vec<String>, Problem> {
        let state = self.0.catalog.state();
        match state
            .live_streams()
            .find(|stream| self.0.streams.get(&stream.def.id).is_none())
        {
            None => {
                let stages = self.stages(&state);
                Ok(stages.iter().filter_map(StageStatus::failure).collect())
            }
            Some(stream) => Err(Problem::new(
                ProblemKind::Unavailable,
                format!("stream `{}` is not open yet", stream.def.name),
            )),
        }
    }

    async fn declare_exclusion(
        &self,
        stream: &str,
        request: ExclusionRequest,
    ) -> Result<ExclusionInfo, Problem> {
        let open = self.stream_named(stream)?;
        Predicate::over_events(&request.predicate, &open.def().schema)
            .and_then(|predicate| predicate.check_computable())
            .map_err(|error| Problem::new(error.kind(), error.to_string()))?;
        open.catch_up().await?;
        let now = self.0.config.clock.now();
        let mut declared = None;
        let state = self
            .commit(|state| {
                let stream = stream_named(state, stream)?;
                let exclusion = Exclusion {
                    id: stream.next_exclusion,
                    predicate: request.predicate.clone(),
                    reason: request.reason.clone(),
                    bound: open.cell().durable(),
                    declared_at: now,
                };
                declared = Some(exclusion.clone());
                Ok(vec![Entry::ExclusionDeclared {
                    stream: stream.def.id.clone(),
                    exclusion,
                }])
            })
            .await?;
        let exclusion = declared.ok_or_else(|| Problem::internal("the catalog did not commit"))?;
        Ok(exclusion_info(
            &state,
            stream_named(&state, stream)?,
            &exclusion,
        ))
    }

    async fn exclusions(&self, stream: &str) -> Result<Vec<ExclusionInfo>, Problem> {
        let state = self.0.catalog.state();
        let stream = stream_named(&state, stream)?;
        Ok(stream
            .exclusions
            .values()
            .map(|exclusion| exclusion_info(&state, stream, exclusion))
            .collect())
    }

    async fn withdraw_exclusion(
        &self,
        stream: &str,
        id: ExclusionId,
    ) -> Result<ExclusionInfo, Problem> {
        let mut withdrawn = None;
        self.commit(|state| {
            let of = stream_named(state, stream)?;
            let exclusion = of
                .exclusions
                .get(&id)
                .ok_or_else(|| Problem::not_found("exclusion", id))?;
            withdrawn = Some(exclusion_info(state, of, exclusion));
            Ok(vec![Entry::ExclusionWithdrawn {
                stream: of.def.id.clone(),
                id,
            }])
        })
        .await?;
        // A first full run may have failed because of it: it need not wait for its next turn.
        let state = self.0.catalog.state();
        let views = state.views_of(&stream_named(&state, stream)?.def.id);
        for view in views.filter(|view| view.is_building()) {
            self.start_build(&view.def.id).await;
        }
        withdrawn.ok_or_else(|| Problem::internal("the catalog did not commit"))
    }

    async fn recompute(&self, view: &str, request: RecomputeRequest) -> Result<RunInfo, Problem> {
        let state = self.0.catalog.state();
        let id = view_named(&state, view)?.def.id.clone();
        let start = StartRequest {
            mode: request.mode,
            scope: request.scope.unwrap_or_default(),
            dry_run: request.dry_run,
            trigger: "user",
            ..StartRequest::default()
        };
        self.catch_up(&state, &id).await;
        let run = self.0.batch.start(&id, start).await.map_err(problem)?;
        self.run_info(&self.0.catalog.state(), &run)
    }

    async fn runs(&self, query: RunsQuery) -> Result<Vec<RunInfo>, Problem> {
        let state = self.0.catalog.state();
        let view = match &query.view {
            Some(name) => Some(view_named(&state, name)?.def.id.clone()),
            None => None,
        };
        let wanted = state.runs.values().rev().filter(|run| {
            view.as_ref().is_none_or(|view| run.view == *view)
                && query.outcome.is_none_or(|outcome| run.outcome == outcome)
                && query.before.is_none_or(|before| run.id < before)
        });
        wanted
            .take(query.limit)
            .map(|run| self.run_info(&state, run))
            .collect()
    }

    async fn run(&self, run: RunId) -> Result<RunInfo, Problem> {
        let record = self.0.batch.run(run).map_err(problem)?;
        self.run_info(&self.0.catalog.state(), &record)
    }

    async fn diff(&self, run: RunId) -> Result<DiffSummary, Problem> {
        self.0.batch.diff(run).await.map_err(problem)
    }

    async fn promote(&self, run: RunId) -> Result<Settled<RunInfo>, Problem> {
        let batch = self.0.batch.clone();
        let work = detached(async move { batch.promote(run).await.map_err(problem) });
        let finished = tokio::time::timeout(POINTER_MOVE_WAIT, work).await;
        self.settled(run, finished.map(|done| done.map(|_| ())))
    }

    async fn discard(&self, run: RunId) -> Result<Settled<RunInfo>, Problem> {
        let batch = self.0.batch.clone();
        let work = detached(async move { batch.discard(run).await.map_err(problem) });
        let finished = tokio::time::timeout(POINTER_MOVE_WAIT, work).await;
        self.settled(run, finished.map(|done| done.map(|_| ())))
    }

    async fn cancel(&self, run: RunId) -> Result<RunInfo, Problem> {
        let record = self.0.batch.cancel(run).await.map_err(problem)?;
        self.run_info(&self.0.catalog.state(), &record)
    }

    async fn rollback(
        &self,
        view: &str,
        generation: Option<GenerationNumber>,
    ) -> Result<Settled<Rollback>, Problem> {
        let id = view_named(&self.0.catalog.state(), view)?.def.id.clone();
        let batch = self.0.batch.clone();
        let work = detached(async move { batch.rollback(&id, generation).await.map_err(problem) });
        Ok(match tokio::time::timeout(POINTER_MOVE_WAIT, work).await {
            Ok(published) => Settled::Done(self.rolled_back(view, published?)),
            Err(_) => Settled::Pending(Rollback {
                view: view.to_owned(),
                from: None,
                to: generation,
                generation: None,
                schedule_paused: None,
                notes: vec![],
            }),
        })
    }
}

impl Node {
    /// Waits until the view's stream has read what its topic holds: a run that a user asks for covers that.
    async fn catch_up(&self, state: &CatalogState, view: &ViewId) {
        let stream = state.views.get(view).map(|view| &view.def.stream);
        if let Some(open) = stream.and_then(|stream| self.0.streams.get(stream)) {
            open.feed().catch_up(open.cell()).await;
        }
    }

    fn rolled_back(&self, view: &str, published: Published) -> Rollback {
        let state = self.0.catalog.state();
        let def = state.views.get(&published.view).map(|view| &view.def);
        let has_schedule = def.is_some_and(|def| def.recompute.is_some());
        let paused = (published.schedule_paused && has_schedule).then(|| {
            format!(
                "the full schedule is paused, so that it does not bring the same result back; ALTER VIEW {view} SET (recompute = …) resumes it"
            )
        });
        let given_up = published
            .given_up
            .map(|version| format!("definition {version}, which was being built, is given up"));
        Rollback {
            view: view.to_owned(),
            from: published.before,
            to: Some(published.candidate),
            generation: Some(published.live),
            schedule_paused: Some(published.schedule_paused),
            notes: paused.into_iter().chain(given_up).collect(),
        }
    }

    fn settled(
        &self,
        run: RunId,
        finished: Result<Result<(), Problem>, tokio::time::error::Elapsed>,
    ) -> Result<Settled<RunInfo>, Problem> {
        let done = match finished {
            Ok(done) => done.map(|()| true)?,
            Err(_) => false,
        };
        let record = self.0.batch.run(run).map_err(problem)?;
        let info = self.run_info(&self.0.catalog.state(), &record)?;
        Ok(if done {
            Settled::Done(info)
        } else {
            Settled::Pending(info)
        })
    }

    pub(crate) fn run_info(
        &self,
        state: &CatalogState,
        run: &BatchRun,
    ) -> Result<RunInfo, Problem> {
        let view = state
            .views
            .get(&run.view)
            .ok_or_else(|| Problem::not_found("view", &run.view))?;
        let stream = state
            .streams
            .get(&view.def.stream)
            .ok_or_else(|| Problem::not_found("stream", &view.def.stream))?;
        let mut info = RunInfo::new(run, &view.def.name, &stream.def);
        info.stale = self.0.batch.staleness(state, run);
        if self.0.batch.is_in_flight(run.id) {
            // Promoted in the catalog, perhaps, but not before new queries see it.
            info.outcome = Outcome::Running;
        }
        if let Some(progress) = self.0.batch.progress(run.id) {
            info.waiting = progress.is_waiting();
            info.rows_read = info.rows_read.max(progress.total());
            // The ledger knows once it has computed.
            info.worker = info.worker.or_else(|| progress.worker());
        }
        Ok(info)
    }
}

/// Runs `work` to its end even if the caller leaves.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    tokio::spawn(work).await.map_err(Problem::internal)?
}

fn problem(error: BatchError) -> Problem {
    error.problem()
}

pub(crate) fn view_named<'a>(
    state: &'a CatalogState,
    name: &str,
) -> Result<&'a ViewState, Problem> {
    state
        .view_named(name)
        .ok_or_else(|| Problem::not_found("view", name))
}

fn stream_named<'a>(state: &'a CatalogState, name: &str) -> Result<&'a StreamState, Problem> {
    state
        .stream_named(name)
        .ok_or_else(|| Problem::not_found("stream", name))
}

fn exclusion_info(
    state: &CatalogState,
    stream: &StreamState,
    exclusion: &Exclusion,
) -> ExclusionInfo {
    let carries = |view: &&ViewState| {
        view.live_manifest()
            .is_some_and(|manifest| manifest.inputs.exclusions.contains(exclusion))
    };
    let bound = PositionToken {
        name: stream.def.name.clone(),
        stream: stream.def.id.clone(),
        position: exclusion.bound.clone(),
    };
    ExclusionInfo {
        id: exclusion.id,
        stream: stream.def.name.clone(),
        predicate: exclusion.predicate.clone(),
        reason: exclusion.reason.clone(),
        bound: bound.to_string(),
        declared_at: iso_us(exclusion.declared_at.timestamp_micros()),
        carried_by: state
            .views_of(&stream.def.id)
            .filter(carries)
            .map(|view| view.def.name.clone())
            .collect(),
    }
}
