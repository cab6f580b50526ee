// SPDX-License-Identifier: Apache-2.0
//! What a directory of definitions would do, and doing it.

use dovetail_log::catalog::random_u64;
use dovetail_model::{
    CatalogState, Entry, Problem, ProblemKind, Source, StreamDef, StreamId, ViewDef, ViewId,
};
use dovetail_serving_layer::ports::{Change, DdlResult, LocatedDefinition};
use dovetail_serving_layer::sql::{CreateStream, CreateView, Definition, problem_in, render_bytes};

use super::schema_change::{check_views, details, growth, statement};
use super::views::compile_any;
use crate::node::Node;

impl Node {
    /// What executing `definitions` in order would do; changes nothing.
    pub(crate) fn plan_definitions(
        &self,
        definitions: &[LocatedDefinition],
    ) -> Result<Vec<Change>, Problem> {
        let mut state = CatalogState::clone(&self.0.catalog.state());
        let mut changes = vec![];
        for located in definitions {
            let change =
                plan_one(&mut state, located).map_err(|problem| problem_in(located, problem))?;
            changes.push(change);
        }
        Ok(changes)
    }

    /// Brings `definitions` into force in order; none of them if one could not be.
    pub(crate) async fn apply_definitions(
        &self,
        definitions: Vec<LocatedDefinition>,
    ) -> Result<Vec<Change>, Problem> {
        self.plan_definitions(&definitions)?;
        let mut found = vec![];
        for located in &definitions {
            let source = self.source_of(&located.definition).await;
            found.push(source.map_err(|problem| problem_in(located, problem))?);
        }
        let mut changes: Vec<Change> = vec![];
        for (located, found) in definitions.into_iter().zip(found) {
            let mut state = CatalogState::clone(&self.0.catalog.state());
            let applied = async {
                let change = plan_one(&mut state, &located)?;
                if change.result != DdlResult::Unchanged {
                    let known = self.0.catalog.state();
                    let definition = as_replacement(&known, located.definition.clone())?;
                    self.define_found(definition, found).await?;
                }
                Ok(change)
            };
            match applied.await {
                Ok(change) => changes.push(change),
                Err(problem) => {
                    let applied: Vec<String> =
                        changes.iter().map(|change| change.name.clone()).collect();
                    return Err(problem_in(&located, problem).with("applied", applied));
                }
            }
        }
        Ok(changes)
    }
}

/// In a directory, a definition says how things are to be: what is there is replaced.
fn as_replacement(state: &CatalogState, definition: Definition) -> Result<Definition, Problem> {
    Ok(match definition {
        Definition::CreateView(create) => Definition::CreateView(CreateView {
            or_replace: true,
            ..create
        }),
        Definition::CreateStream(create) => match state.stream_named(&create.name) {
            Some(known) => {
                let growth = growth(known, &create.schema)?;
                Definition::AlterStream(statement(&create.name, growth))
            }
            None => Definition::CreateStream(create),
        },
        other => other,
    })
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
        same_source(&known.def, create)?;
        let growth = growth(known, &create.schema)?;
        if growth.is_empty() {
            return Ok(("stream", create.name.clone(), DdlResult::Unchanged, vec![]));
        }
        check_views(state, known, &growth)?;
        let entry = Entry::StreamAltered {
            id: known.def.id.clone(),
            schema: create.schema.clone(),
        };
        simulate(state, entry)?;
        let details = details(&growth);
        return Ok(("stream", create.name.clone(), DdlResult::Altered, details));
    }
    let def = StreamDef {
        id: StreamId::from_random(random_u64()),
        name: create.name.clone(),
        schema: create.schema.clone(),
        source: Source::Embedded,
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

/// A stream keeps its source: its offsets mean events of that log and no other.
fn same_source(known: &StreamDef, create: &CreateStream) -> Result<(), Problem> {
    let settings = known.source.kafka().map(|kafka| &kafka.settings);
    if settings == create.kafka.as_deref() {
        return Ok(());
    }
    Err(Problem::conflict(format!(
        "stream `{}` is declared on another source or with other options of it, and these stay: declare a new stream, or drop this one first",
        known.name
    )))
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
            recompute_after: create.options.recompute_after,
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
    let (before, after) = (latest.recompute_after, create.options.recompute_after);
    if before.events != after.events {
        let events = |events: Option<u64>| events.map(|events| events.to_string());
        details.push(format!(
            "recompute_after_events: {} -> {}",
            shown(&events(before.events)),
            shown(&events(after.events))
        ));
    }
    if before.bytes != after.bytes {
        details.push(format!(
            "recompute_after_bytes: {} -> {}",
            shown(&before.bytes.map(render_bytes)),
            shown(&after.bytes.map(render_bytes))
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
