// SPDX-License-Identifier: Apache-2.0
//! CREATE, ALTER, DROP and UNDROP of views.

use std::sync::Arc;

use dovetail_batch_layer::{BatchError, StartRequest};
use dovetail_log::catalog::random_u64;
use dovetail_model::{
    CatalogState, Entry, Manifest, Position, Problem, PublishReason, StreamState, ViewDef, ViewId,
    ViewState,
};
use dovetail_seam::Generation;
use dovetail_serving_layer::ports::{DdlAnswer, DdlResult};
use dovetail_serving_layer::sql::{AlterView, CreateView};
use dovetail_view::{View, ViewError};
use tracing::{info, warn};

use super::missing;
use crate::node::Node;
use crate::node::open::compile;

impl Node {
    pub(super) async fn create_view(&self, create: CreateView) -> Result<DdlAnswer, Problem> {
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
        let manifest = Arc::new(Manifest::empty(&def, compiled.state_fingerprint()));
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

    pub(super) async fn alter_view(&self, alter: AlterView) -> Result<DdlAnswer, Problem> {
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
        info!(view = %def.name, id = %def.id, "altered");
        if let Some(open) = self.0.streams.get(&def.stream) {
            open.cell().alter_view(&def.id.clone(), &Arc::new(def));
        }
        Ok(DdlAnswer {
            result: DdlResult::Altered,
            note: None,
        })
    }

    pub(super) async fn drop_view(
        &self,
        name: &str,
        if_exists: bool,
    ) -> Result<DdlAnswer, Problem> {
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

    pub(super) async fn undrop_view(&self, name: &str) -> Result<DdlAnswer, Problem> {
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
        let compiled = compile(stream, &view.def.sql);
        let compiled = compiled
            .ok()
            .filter(|compiled| compiled.definition_hash() == view.def.definition_hash)
            .ok_or_else(|| {
                Problem::conflict(format!(
                    "the schema of stream `{}` has changed since, and view `{name}` would be another one: create it again",
                    stream.def.name
                ))
            })?;
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

    /// Starts the first full run of a definition. The scheduler does if this cannot.
    async fn start_build(&self, id: &ViewId) -> String {
        match self.0.batch.start(id, StartRequest::build()).await {
            Ok(run) => format!("building from the stream's history: run {}", run.id),
            // The scheduler saw the definition first.
            Err(BatchError::AlreadyRunning { run, .. }) => {
                format!("building from the stream's history: run {run}")
            }
            Err(BatchError::NothingToBuild(_)) => "built from the stream's history".to_owned(),
            Err(error) => {
                let state = self.0.catalog.state();
                warn!(view = state.view_name(id), %id, %error, "the first full run could not start yet");
                "building from the stream's history".to_owned()
            }
        }
    }

    async fn cancel_full(&self, state: &CatalogState, id: &ViewId) {
        let Some(run) = state.running(id, false) else {
            return;
        };
        if let Err(error) = self.0.batch.cancel(run.id).await {
            warn!(run = run.id.0, view = state.view_name(id), %id, %error, "a run of the old definition goes on; it will end stale");
        }
    }

    async fn project_or_warn(&self, id: &ViewId) {
        if let Err(error) = self.0.batch.project_view(id).await {
            let state = self.0.catalog.state();
            warn!(view = state.view_name(id), %id, %error, "the delta projection lags behind");
        }
    }
}

/// Compiles a SELECT over whichever stream it reads.
pub(super) fn compile_any<'a>(
    state: &'a CatalogState,
    select: &str,
) -> Result<(&'a StreamState, Arc<View>), Problem> {
    let schemas = state
        .live_streams()
        .map(|s| (s.def.name.clone(), s.def.schema.clone()))
        .collect();
    let view = View::compile(select, &schemas).map_err(|error| not_a_view(state, &error))?;
    let stream = state
        .stream_named(view.stream())
        .ok_or_else(|| Problem::not_found("stream", view.stream()))?;
    Ok((stream, Arc::new(view)))
}

fn not_a_view(state: &CatalogState, error: &ViewError) -> Problem {
    match error {
        ViewError::UnknownStream { name, known } if state.view_named(name).is_some() => {
            Problem::invalid(format!(
                "`{name}` is a view, and a view reads a stream: there {known}; combine views in the query that reads them"
            ))
        }
        error => Problem::new(error.kind(), error.to_string()),
    }
}
