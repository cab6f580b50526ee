// SPDX-License-Identifier: Apache-2.0
//! CREATE, ALTER, DROP and UNDROP of views.

use std::sync::Arc;

use dovetail_batch_layer::{BatchError, StartRequest};
use dovetail_log::catalog::random_u64;
use dovetail_model::{CatalogState, Entry, Problem, StreamState, ViewDef, ViewId, ViewState};
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
        let answers = self.0.batch.create_view(&def, &compiled).await?;
        let note = match answers {
            true => None,
            false => Some(self.start_build(&def.id).await),
        };
        Ok(DdlAnswer {
            result: DdlResult::Created,
            note,
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
        let alter = AlterView {
            name: create.name.clone(),
            recompute: Some(create.options.recompute.clone()),
            recompute_after_events: Some(create.options.recompute_after.events),
            recompute_after_bytes: Some(create.options.recompute_after.bytes),
            refresh_s: Some(create.options.refresh_s),
        };
        if latest.definition_hash == compiled.definition_hash() {
            return self.alter_view(alter).await;
        }
        let wanted = |live: &ViewDef| live.definition_hash == compiled.definition_hash();
        let given_up = self.0.batch.give_up_pending(&known.def.id, wanted).await?;
        if given_up.is_some() {
            self.alter_view(alter).await?;
            return Ok(DdlAnswer {
                result: DdlResult::Redefined,
                note: Some(
                    "the definition that was being built is given up for the one that answers"
                        .to_owned(),
                ),
            });
        }
        let def = self.view_def(
            &create,
            stream,
            &compiled,
            known.def.id.clone(),
            known.next_version,
        );
        self.0.batch.redefine_view(&def, &compiled).await?;
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
            if let Some(events) = alter.recompute_after_events {
                def.recompute_after.events = events;
            }
            if let Some(bytes) = alter.recompute_after_bytes {
                def.recompute_after.bytes = bytes;
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
        self.0.batch.drop_view(&view.def.id).await?;
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
        let compiled = compile_again(stream, &view.def)?;
        let pending = view.pending.as_ref();
        let pending = pending.map(|def| compile_again(stream, def)).transpose()?;
        let building = pending.is_some();
        let answers = self.0.batch.undrop_view(view, compiled, pending).await?;
        let note = match answers && !building {
            true => None,
            false => Some(self.start_build(&view.def.id).await),
        };
        Ok(DdlAnswer {
            result: DdlResult::Undropped,
            note,
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
            recompute_after: create.options.recompute_after,
            refresh_s: create.options.refresh_s,
            version,
            definition_hash: view.definition_hash().to_owned(),
            defined_at: self.0.config.clock.now(),
        }
    }

    /// Starts the first full run of a definition. The scheduler does if this cannot.
    pub(in crate::node) async fn start_build(&self, id: &ViewId) -> String {
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

/// Compiles a definition that was in force before, if it still means the same.
fn compile_again(stream: &StreamState, def: &ViewDef) -> Result<Arc<View>, Problem> {
    let compiled = compile(stream, &def.sql).ok();
    compiled
        .filter(|compiled| compiled.definition_hash() == def.definition_hash)
        .ok_or_else(|| {
            Problem::conflict(format!(
                "the schema of stream `{}` has changed since, and view `{}` would be another one: create it again",
                stream.def.name, def.name
            ))
        })
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
