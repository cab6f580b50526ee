// SPDX-License-Identifier: Apache-2.0
//! Definitions: what CREATE, ALTER, DROP and UNDROP do, and what `plan` says they would do.
//!
//! Order matters: a view joins the speed layer before the catalog names it, so that no event falls between;
//! what the catalog refuses leaves the speed layer again.

use std::sync::Arc;

use dovetail_batch_layer::StartRequest;
use dovetail_log::catalog::random_u64;
use dovetail_model::{
    CatalogState, Entry, GenerationInputs, Manifest, Position, Problem, ProblemKind, PublishReason,
    RunMode, StreamDef, StreamId, StreamState, ViewDef, ViewId, ViewState,
};
use dovetail_seam::Generation;
use dovetail_serving_layer::ports::{Change, DdlAnswer, DdlResult, LocatedDefinition};
use dovetail_serving_layer::sql::{AlterView, CreateStream, CreateView, Definition, ObjectKind};
use dovetail_view::View;
use tracing::{info, warn};

use super::Node;
use super::open::compile;

impl Node {
    /// Executes one definition.
    pub(crate) async fn define(&self, definition: Definition) -> Result<DdlAnswer, Problem> {
        let _one_at_a_time = self.0.defining.lock().await;
        match definition {
            Definition::CreateStream(create) => self.create_stream(create).await,
            Definition::CreateView(create) => self.create_view(create).await,
            Definition::AlterView(alter) => self.alter_view(alter).await,
            Definition::AlterStream(alter) => Err(Problem::invalid(format!(
                "the schema of stream `{}` cannot be changed; declare a new stream beside it",
                alter.name
            ))),
            Definition::Drop {
                kind: ObjectKind::Stream,
                name,
                if_exists,
            } => self.drop_stream(&name, if_exists).await,
            Definition::Drop {
                kind: ObjectKind::View,
                name,
                if_exists,
            } => self.drop_view(&name, if_exists).await,
            Definition::Undrop {
                kind: ObjectKind::Stream,
                name,
            } => self.undrop_stream(&name).await,
            Definition::Undrop {
                kind: ObjectKind::View,
                name,
            } => self.undrop_view(&name).await,
        }
    }

    /// What executing `definitions` in order would do; changes nothing.
    pub(crate) fn plan_definitions(
        &self,
        definitions: &[LocatedDefinition],
    ) -> Result<Vec<Change>, Problem> {
        let mut state = CatalogState::clone(&self.0.catalog.state());
        let mut changes = vec![];
        for located in definitions {
            let change = plan_one(&mut state, located).map_err(|problem| at(located, problem))?;
            changes.push(change);
        }
        Ok(changes)
    }

    /// Brings `definitions` into force in order.
    pub(crate) async fn apply_definitions(
        &self,
        definitions: Vec<LocatedDefinition>,
    ) -> Result<Vec<Change>, Problem> {
        let mut changes: Vec<Change> = vec![];
        for located in definitions {
            let mut state = CatalogState::clone(&self.0.catalog.state());
            let applied = async {
                let change = plan_one(&mut state, &located)?;
                if change.result != DdlResult::Unchanged {
                    self.define(as_replacement(located.definition.clone()))
                        .await?;
                }
                Ok(change)
            };
            match applied.await {
                Ok(change) => changes.push(change),
                Err(problem) => {
                    let applied: Vec<String> =
                        changes.iter().map(|change| change.name.clone()).collect();
                    return Err(at(&located, problem).with("applied", applied));
                }
            }
        }
        Ok(changes)
    }

    pub(crate) async fn commit(
        &self,
        decide: impl FnMut(&CatalogState) -> Result<Vec<Entry>, Problem> + Send,
    ) -> Result<Arc<CatalogState>, Problem> {
        self.0
            .catalog
            .commit(decide)
            .await
            .map_err(|error| error.into_problem())
    }

    async fn create_stream(&self, create: CreateStream) -> Result<DdlAnswer, Problem> {
        let state = self.0.catalog.state();
        if let Some(known) = state.stream_named(&create.name)
            && create.if_not_exists
        {
            let same = known.def.schema == create.schema;
            let note = (!same).then(|| "it was there already, with another schema".to_owned());
            return Ok(DdlAnswer {
                result: DdlResult::Unchanged,
                note,
            });
        }
        let def = StreamDef {
            id: StreamId::from_random(random_u64()),
            name: create.name,
            schema: create.schema,
            created_at: self.0.config.clock.now(),
        };
        let state = self
            .commit(|_| {
                Ok(vec![Entry::StreamCreated {
                    stream: def.clone(),
                }])
            })
            .await?;
        self.open_declared(&state, &def.id).await?;
        info!(stream = %def.name, id = %def.id, "created");
        Ok(DdlAnswer {
            result: DdlResult::Created,
            note: None,
        })
    }

    async fn open_declared(&self, state: &CatalogState, id: &StreamId) -> Result<(), Problem> {
        let stream = state
            .streams
            .get(id)
            .ok_or_else(|| Problem::not_found("stream", id))?;
        self.open_stream(state, stream)
            .await
            .map_err(Problem::internal)
    }

    async fn create_view(&self, create: CreateView) -> Result<DdlAnswer, Problem> {
        let state = self.0.catalog.state();
        if let Some(known) = state.view_named(&create.name) {
            if create.or_replace {
                return self.redefine_view(&state, known, create).await;
            }
            if create.if_not_exists {
                return Ok(DdlAnswer {
                    result: DdlResult::Unchanged,
                    note: None,
                });
            }
        }
        let (stream, compiled) = compile_any(&state, &create.select)?;
        let def = self.view_def(
            &create,
            stream,
            &compiled,
            ViewId::from_random(random_u64()),
            1,
        );
        let open = self.stream_named(&stream.def.name)?;
        let cell = open.cell();
        let joined = cell.join_view(
            def.id.clone(),
            Arc::new(def.clone()),
            Arc::clone(&compiled),
            false,
        );
        let empty = joined == Position::zero();
        let manifest = Arc::new(self.empty_manifest(&def, &compiled));
        let committed = self
            .commit(|_| {
                let mut entries = vec![Entry::ViewCreated { view: def.clone() }];
                if empty {
                    entries.push(Entry::GenerationWritten {
                        manifest: Arc::clone(&manifest),
                    });
                    entries.push(Entry::GenerationPublished {
                        view: def.id.clone(),
                        expected: None,
                        generation: manifest.number,
                        reason: PublishReason::Created,
                    });
                }
                Ok(entries)
            })
            .await;
        if let Err(problem) = committed {
            cell.remove_view(&def.id, false);
            return Err(problem);
        }
        info!(view = %def.name, id = %def.id, stream = %stream.def.name, "created");
        if empty {
            cell.publish(&def.id, Arc::new(Generation::new(manifest, compiled)))
                .map_err(Problem::internal)?;
            self.project_or_warn(&def.id).await;
            return Ok(DdlAnswer {
                result: DdlResult::Created,
                note: None,
            });
        }
        let note = self.start_build(&def.id).await;
        Ok(DdlAnswer {
            result: DdlResult::Created,
            note: Some(note),
        })
    }

    async fn redefine_view(
        &self,
        state: &CatalogState,
        known: &ViewState,
        create: CreateView,
    ) -> Result<DdlAnswer, Problem> {
        let (stream, compiled) = compile_any(state, &create.select)?;
        if stream.def.id != known.def.stream {
            return Err(Problem::conflict(format!(
                "view `{}` reads another stream; a redefinition keeps the stream, so drop the view first",
                create.name
            )));
        }
        let latest = known.pending.as_ref().unwrap_or(&known.def);
        if latest.definition_hash == compiled.definition_hash() {
            let alter = AlterView {
                name: create.name,
                recompute: Some(create.options.recompute),
                refresh_s: Some(create.options.refresh_s),
            };
            return self.alter_view(alter).await;
        }
        let def = self.view_def(
            &create,
            stream,
            &compiled,
            known.def.id.clone(),
            known.next_version,
        );
        let cell = Arc::clone(self.stream_named(&stream.def.name)?.cell());
        self.cancel_full(state, &def.id).await;
        cell.join_view(def.id.clone(), Arc::new(def.clone()), compiled, true);
        if let Err(problem) = self
            .commit(|_| Ok(vec![Entry::ViewRedefined { view: def.clone() }]))
            .await
        {
            cell.remove_view(&def.id, true);
            return Err(problem);
        }
        info!(view = %def.name, version = def.version, "redefined; the new generation is built beside the old one");
        let note = self.start_build(&def.id).await;
        Ok(DdlAnswer {
            result: DdlResult::Redefined,
            note: Some(note),
        })
    }

    async fn alter_view(&self, alter: AlterView) -> Result<DdlAnswer, Problem> {
        let mut altered = None;
        self.commit(|state| {
            let view = state
                .view_named(&alter.name)
                .ok_or_else(|| Problem::not_found("view", &alter.name))?;
            let mut def = view.def.clone();
            if let Some(recompute) = &alter.recompute {
                def.recompute.clone_from(recompute);
            }
            if let Some(refresh_s) = alter.refresh_s {
                def.refresh_s = refresh_s;
            }
            if def == view.def && !view.schedule_paused {
                altered = None;
                return Ok(vec![]);
            }
            altered = Some(def.clone());
            let resumed = Entry::SchedulePaused {
                view: def.id.clone(),
                paused: false,
            };
            Ok(vec![Entry::ViewAltered { view: def }, resumed])
        })
        .await?;
        let Some(def) = altered else {
            return Ok(DdlAnswer {
                result: DdlResult::Unchanged,
                note: None,
            });
        };
        if let Some(open) = self.0.streams.get(&def.stream) {
            open.cell().alter_view(&def.id.clone(), Arc::new(def));
        }
        Ok(DdlAnswer {
            result: DdlResult::Altered,
            note: None,
        })
    }

    async fn drop_stream(&self, name: &str, if_exists: bool) -> Result<DdlAnswer, Problem> {
        let state = self.0.catalog.state();
        let Some(stream) = state.stream_named(name) else {
            return missing("stream", name, if_exists);
        };
        let id = stream.def.id.clone();
        self.commit(|_| Ok(vec![Entry::StreamDropped { id: id.clone() }]))
            .await?;
        if let Some(open) = self.0.streams.remove(&id) {
            open.close().await;
        }
        self.0.memory.remove(&id);
        Ok(DdlAnswer {
            result: DdlResult::Dropped,
            note: Some(format!("UNDROP STREAM {name} restores it")),
        })
    }

    async fn undrop_stream(&self, name: &str) -> Result<DdlAnswer, Problem> {
        let state = self.0.catalog.state();
        let dropped = state
            .streams
            .values()
            .filter(|s| s.def.name == name && s.dropped_at.is_some());
        let last = dropped
            .max_by_key(|s| s.dropped_at)
            .ok_or_else(|| Problem::not_found("dropped stream", name))?;
        let id = last.def.id.clone();
        let state = self
            .commit(|_| Ok(vec![Entry::StreamUndropped { id: id.clone() }]))
            .await?;
        self.open_declared(&state, &id).await?;
        Ok(DdlAnswer {
            result: DdlResult::Undropped,
            note: None,
        })
    }

    async fn drop_view(&self, name: &str, if_exists: bool) -> Result<DdlAnswer, Problem> {
        let state = self.0.catalog.state();
        let Some(view) = state.view_named(name) else {
            return missing("view", name, if_exists);
        };
        let (id, stream) = (view.def.id.clone(), view.def.stream.clone());
        self.commit(|_| Ok(vec![Entry::ViewDropped { id: id.clone() }]))
            .await?;
        self.cancel_full(&state, &id).await;
        if let Some(open) = self.0.streams.get(&stream) {
            open.cell().remove_view(&id, false);
        }
        Ok(DdlAnswer {
            result: DdlResult::Dropped,
            note: Some(format!("UNDROP VIEW {name} restores it")),
        })
    }

    async fn undrop_view(&self, name: &str) -> Result<DdlAnswer, Problem> {
        let state = self.0.catalog.state();
        let dropped = state
            .views
            .values()
            .filter(|v| v.def.name == name && v.dropped_at.is_some());
        let view = dropped
            .max_by_key(|v| v.dropped_at)
            .ok_or_else(|| Problem::not_found("dropped view", name))?;
        let stream = state
            .streams
            .get(&view.def.stream)
            .ok_or_else(|| Problem::not_found("stream of view", name))?;
        let compiled = compile(stream, &view.def.sql).map_err(Problem::internal)?;
        let open = self.stream_named(&stream.def.name)?;
        let id = view.def.id.clone();
        open.cell()
            .join_view(id.clone(), Arc::new(view.def.clone()), compiled, false);
        if let Err(problem) = self
            .commit(|_| Ok(vec![Entry::ViewUndropped { id: id.clone() }]))
            .await
        {
            open.cell().remove_view(&id, false);
            return Err(problem);
        }
        if view.live.is_none() {
            let note = self.start_build(&id).await;
            return Ok(DdlAnswer {
                result: DdlResult::Undropped,
                note: Some(note),
            });
        }
        self.0
            .batch
            .rejoin(&id)
            .await
            .map_err(|error| error.problem())?;
        Ok(DdlAnswer {
            result: DdlResult::Undropped,
            note: None,
        })
    }

    fn view_def(
        &self,
        create: &CreateView,
        stream: &StreamState,
        view: &View,
        id: ViewId,
        version: u64,
    ) -> ViewDef {
        ViewDef {
            id,
            name: create.name.clone(),
            stream: stream.def.id.clone(),
            sql: view.sql().to_owned(),
            recompute: create.options.recompute.clone(),
            refresh_s: create.options.refresh_s,
            version,
            definition_hash: view.definition_hash().to_owned(),
            defined_at: self.0.config.clock.now(),
        }
    }

    fn empty_manifest(&self, def: &ViewDef, view: &View) -> Manifest {
        Manifest {
            view: def.id.clone(),
            stream: def.stream.clone(),
            number: dovetail_model::GenerationNumber(1),
            parent: None,
            definition_version: def.version,
            sql: def.sql.clone(),
            mode: None,
            run: None,
            inputs: GenerationInputs {
                horizon: Position::zero(),
                raw_version: 0,
                definition_hash: def.definition_hash.clone(),
                exclusions: vec![],
                state_fingerprint: view.state_fingerprint().to_owned(),
            },
            files: vec![],
            created_at: def.defined_at,
        }
    }

    /// Starts the first full run of a definition. The scheduler does if this cannot.
    async fn start_build(&self, id: &ViewId) -> String {
        let request = StartRequest {
            mode: RunMode::Full,
            trigger: "build",
            ..StartRequest::default()
        };
        match self.0.batch.start(id, request).await {
            Ok(run) => format!("building from the stream's history: run {}", run.id),
            Err(error) => {
                warn!(view = %id, %error, "the first full run could not start yet");
                "building from the stream's history".to_owned()
            }
        }
    }

    async fn cancel_full(&self, state: &CatalogState, id: &ViewId) {
        let Some(run) = state.running(id, false) else {
            return;
        };
        if let Err(error) = self.0.batch.cancel(run.id).await {
            warn!(run = run.id.0, %error, "a run of the old definition goes on; it will end stale");
        }
    }

    pub(crate) async fn project_or_warn(&self, id: &ViewId) {
        if let Err(error) = self.0.batch.project_view(id).await {
            warn!(view = %id, %error, "the delta projection lags behind");
        }
    }
}

/// Compiles a SELECT over whichever stream it reads.
fn compile_any<'a>(
    state: &'a CatalogState,
    select: &str,
) -> Result<(&'a StreamState, Arc<View>), Problem> {
    let schemas = state
        .live_streams()
        .map(|s| (s.def.name.clone(), s.def.schema.clone()))
        .collect();
    let view = View::compile(select, &schemas)
        .map_err(|error| Problem::new(error.kind(), error.to_string()))?;
    let stream = state
        .stream_named(view.stream())
        .ok_or_else(|| Problem::not_found("stream", view.stream()))?;
    Ok((stream, Arc::new(view)))
}

fn missing(kind: &'static str, name: &str, allowed: bool) -> Result<DdlAnswer, Problem> {
    if allowed {
        return Ok(DdlAnswer {
            result: DdlResult::Unchanged,
            note: None,
        });
    }
    Err(Problem::not_found(kind, name))
}

fn at(located: &LocatedDefinition, problem: Problem) -> Problem {
    problem
        .with("file", located.file.clone())
        .with("line", located.line)
}

/// In a directory, a definition says how things are to be: what is there is replaced.
fn as_replacement(definition: Definition) -> Definition {
    match definition {
        Definition::CreateView(create) => Definition::CreateView(CreateView {
            or_replace: true,
            ..create
        }),
        other => other,
    }
}

/// What one definition would do to `state`, which is changed as if it had, so that later ones see it.
fn plan_one(state: &mut CatalogState, located: &LocatedDefinition) -> Result<Change, Problem> {
    let (kind, name, result, details) = match &located.definition {
        Definition::CreateStream(create) => plan_stream(state, create)?,
        Definition::CreateView(create) => plan_view(state, create)?,
        other => {
            return Err(Problem::invalid(format!(
                "{} does not belong in a directory of definitions; it holds CREATE STREAM and CREATE VIEW",
                other.verb()
            )));
        }
    };
    Ok(Change {
        file: located.file.clone(),
        line: located.line,
        kind: kind.to_owned(),
        name,
        result,
        details,
    })
}

type Planned = (&'static str, String, DdlResult, Vec<String>);

fn plan_stream(state: &mut CatalogState, create: &CreateStream) -> Result<Planned, Problem> {
    if let Some(known) = state.stream_named(&create.name) {
        if known.def.schema != create.schema {
            return Err(Problem::conflict(format!(
                "stream `{}` is there with another schema, and the schema of a stream with events cannot be replaced; declare a new stream",
                create.name
            )));
        }
        return Ok(("stream", create.name.clone(), DdlResult::Unchanged, vec![]));
    }
    let def = StreamDef {
        id: StreamId::from_random(random_u64()),
        name: create.name.clone(),
        schema: create.schema.clone(),
        created_at: chrono::DateTime::UNIX_EPOCH,
    };
    simulate(state, Entry::StreamCreated { stream: def })?;
    let columns = create
        .schema
        .columns
        .iter()
        .map(ToString::to_string)
        .collect();
    Ok(("stream", create.name.clone(), DdlResult::Created, columns))
}

fn plan_view(state: &mut CatalogState, create: &CreateView) -> Result<Planned, Problem> {
    let (stream, view) = compile_any(state, &create.select)?;
    let name = create.name.clone();
    let Some(known) = state.view_named(&name) else {
        let def = ViewDef {
            id: ViewId::from_random(random_u64()),
            name: name.clone(),
            stream: stream.def.id.clone(),
            sql: view.sql().to_owned(),
            recompute: create.options.recompute.clone(),
            refresh_s: create.options.refresh_s,
            version: 1,
            definition_hash: view.definition_hash().to_owned(),
            defined_at: chrono::DateTime::UNIX_EPOCH,
        };
        let details = vec![format!("reads stream {}", stream.def.name)];
        simulate(state, Entry::ViewCreated { view: def })?;
        return Ok(("view", name, DdlResult::Created, details));
    };
    if stream.def.id != known.def.stream {
        return Err(Problem::conflict(format!(
            "view `{name}` reads another stream; drop it first"
        )));
    }
    let latest = known.pending.as_ref().unwrap_or(&known.def);
    let mut details = vec![];
    if latest.definition_hash != view.definition_hash() {
        details.push(format!("- {}", latest.sql));
        details.push(format!("+ {}", view.sql()));
    }
    if latest.recompute != create.options.recompute {
        details.push(format!(
            "recompute: {} -> {}",
            shown(&latest.recompute),
            shown(&create.options.recompute)
        ));
    }
    if latest.refresh_s != create.options.refresh_s {
        details.push(format!(
            "refresh: {} -> {}",
            seconds(latest.refresh_s),
            seconds(create.options.refresh_s)
        ));
    }
    let result = if latest.definition_hash != view.definition_hash() {
        DdlResult::Redefined
    } else if details.is_empty() {
        DdlResult::Unchanged
    } else {
        DdlResult::Altered
    };
    Ok(("view", name, result, details))
}

fn simulate(state: &mut CatalogState, entry: Entry) -> Result<(), Problem> {
    let commit = dovetail_model::Commit {
        sequence: state.sequence + 1,
        nonce: 0,
        at: chrono::DateTime::UNIX_EPOCH,
        entries: vec![entry],
    };
    state
        .apply(&commit)
        .map_err(|conflict| Problem::new(ProblemKind::Conflict, conflict.to_string()))
}

fn shown(option: &Option<String>) -> &str {
    option.as_deref().unwrap_or("none")
}

fn seconds(option: Option<u64>) -> String {
    option.map_or_else(|| "none".to_owned(), |s| format!("{s} s"))
}
