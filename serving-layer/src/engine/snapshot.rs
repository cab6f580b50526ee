// SPDX-License-Identifier: Apache-2.0
//! What one question reads: one cut per stream, and its tables over them.
//!
//! Purpose: law 3, one snapshot. Merged, every view and the stream itself stand at the cut's position. From the
//! batch layer alone each view stands at its own generation's horizon, and views of one stream may differ there:
//! no position is true of all of them. So the answer's position of a stream is the *meet* of where its parts
//! end (what every part covers), the stream's own table is read up to exactly that, and each view that reaches
//! further says so, with its generation and its end. Non-goals: bringing generations to one horizon.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use datafusion::catalog::TableProvider;
use dovetail_model::{
    CatalogState, GenerationNumber, Outcome, Position, PositionToken, Problem, ProblemKind,
    StreamId, ViewState,
};
use dovetail_seam::{Cut, Generation, StreamCell, ViewCut};
use dovetail_view::View;

use super::Engine;
use super::provenance::{freshness_ms, token};
use super::stream_table::StreamTable;
use super::view_table::{ViewSource, ViewTable};
use crate::ports::{HoleInfo, Layer, Limits, Provenance, StreamProvenance, ViewProvenance};

/// An incremental run that gives a view back what it let go of takes about so long at least.
const MEMORY_PAUSE_S: u64 = 5;
/// Bytes that a column of a file, once decoded, or of a run may take without any rows: few rows are not wide for that.
const EMPTY_COLUMN_BYTES: usize = 16 * 1024;
/// What an event has spoiled heals when somebody excludes it or redefines the view.
const USERS_PAUSE_S: u64 = 60;

/// The cuts of one question and what was taken from them.
pub(crate) struct Snapshot {
    cuts: BTreeMap<StreamId, (Arc<StreamCell>, Arc<Cut>)>,
    /// What every view that was taken of a stream covers: the meet of where they end.
    covered: BTreeMap<StreamId, Position>,
    tables: Vec<(String, Arc<dyn TableProvider>)>,
    provenance: Provenance,
    keys: Vec<usize>,
    row_bytes: usize,
}

/// A name in a question, resolved.
enum Resolved<'a> {
    Stream(&'a StreamId),
    View(&'a ViewState),
}

impl Resolved<'_> {
    fn stream(&self) -> &StreamId {
        match self {
            Self::Stream(id) => id,
            Self::View(view) => &view.def.stream,
        }
    }
}

impl Engine {
    /// Takes one cut of every stream that `names` need, each once, when every position of `limits.after` is
    /// covered, and makes the tables.
    pub(crate) async fn snapshot(
        &self,
        names: &[String],
        limits: &Limits,
        system_columns: bool,
    ) -> Result<Snapshot, Problem> {
        let catalog = self.catalog.state();
        let resolved = names
            .iter()
            .map(|name| resolve(&catalog, name))
            .collect::<Result<Vec<_>, _>>()?;
        let mut snapshot = Snapshot {
            cuts: BTreeMap::new(),
            covered: BTreeMap::new(),
            tables: vec![],
            provenance: Provenance::default(),
            keys: vec![],
            row_bytes: 0,
        };
        for stream in resolved.iter().map(Resolved::stream) {
            if !snapshot.cuts.contains_key(stream) {
                let cell = self
                    .cuts
                    .cell(stream)
                    .ok_or_else(|| Problem::not_found("stream", stream))?;
                let cut = cell.load();
                snapshot.cuts.insert(stream.clone(), (cell, cut));
            }
        }
        snapshot.wait(limits).await?;
        check_generation(&resolved, limits)?;
        let named = || names.iter().zip(&resolved);
        for (name, resolved) in named() {
            if let Resolved::View(view) = resolved {
                let now = self.clock.now();
                snapshot.add_view(name, view, &catalog, now, limits)?;
            }
        }
        // A stream is read as far as all its views go, so after them.
        for (name, resolved) in named() {
            if let Resolved::Stream(id) = resolved {
                snapshot.add_stream(name, id, &catalog, system_columns)?;
            }
        }
        snapshot.note_streams(self)?;
        Ok(snapshot)
    }
}

/// About how much a file of so many `bytes` takes in memory.
fn decoded_bytes(bytes: u64) -> usize {
    const PARQUET_SAVES: usize = 8;
    usize::try_from(bytes)
        .unwrap_or(usize::MAX)
        .saturating_mul(PARQUET_SAVES)
}

fn resolve<'a>(catalog: &'a CatalogState, name: &str) -> Result<Resolved<'a>, Problem> {
    if let Some(view) = catalog.view_named(name) {
        return Ok(Resolved::View(view));
    }
    if let Some(stream) = catalog.stream_named(name) {
        return Ok(Resolved::Stream(&stream.def.id));
    }
    Err(Problem::new(
        ProblemKind::NotFound,
        format!("there is no stream or view `{name}`; SHOW STREAMS and SHOW VIEWS list them"),
    )
    .with("name", name))
}

/// `generation=` names a generation of one view, so the question must read exactly that.
fn check_generation(resolved: &[Resolved<'_>], limits: &Limits) -> Result<(), Problem> {
    match (limits.generation, resolved) {
        (None, _) | (Some(_), [Resolved::View(_)]) => Ok(()),
        (Some(number), _) => Err(Problem::invalid(format!(
            "generation {number} can only be asked of a question that reads exactly one view, and nothing else"
        ))),
    }
}

impl Snapshot {
    pub(crate) fn tables(&self) -> Vec<(String, Arc<dyn TableProvider>)> {
        self.tables.clone()
    }

    pub(crate) fn provenance(&self) -> Provenance {
        self.provenance.clone()
    }

    /// About how many bytes a row takes in memory: of what is read, the average of the file or run where it is largest.
    pub(crate) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// `pieces` are rows and bytes of files or runs of so many columns.
    fn note_rows(&mut self, columns: usize, pieces: impl Iterator<Item = (u64, usize)>) {
        let of_each = pieces.map(|(rows, bytes)| {
            let rows = usize::try_from(rows).unwrap_or(1).max(1);
            bytes.saturating_sub(columns * EMPTY_COLUMN_BYTES) / rows
        });
        self.row_bytes = of_each.fold(self.row_bytes, usize::max);
    }

    /// Places of the key columns in the output of the one view that was taken; empty for a stream.
    pub(crate) fn key_columns(&self) -> Vec<usize> {
        self.keys.clone()
    }

    async fn wait(&mut self, limits: &Limits) -> Result<(), Problem> {
        for awaited in &limits.after {
            let Some((cell, cut)) = self.cuts.get_mut(&awaited.stream) else {
                return Err(Problem::invalid(format!(
                    "`after` names `{awaited}`, but the question does not read that stream"
                ))
                .with("after", awaited.to_string()));
            };
            let waiting = cell.wait_for(&awaited.position);
            *cut = tokio::time::timeout_at(limits.deadline, waiting)
                .await
                .map_err(|_| {
                    let reached = token(cut, cell.load().position());
                    Problem::new(
                        ProblemKind::Timeout,
                        format!(
                            "waited {} ms for `{awaited}`, and reached `{reached}`",
                            limits.timeout.as_millis()
                        ),
                    )
                    .with("awaited", awaited.to_string())
                    .with("reached", reached.to_string())
                })?;
        }
        Ok(())
    }

    fn cut(&self, stream: &StreamId) -> Result<&Arc<Cut>, Problem> {
        self.cuts
            .get(stream)
            .map(|(_, cut)| cut)
            .ok_or_else(|| Problem::internal("a cut was not taken"))
    }

    fn add_stream(
        &mut self,
        name: &str,
        id: &StreamId,
        catalog: &CatalogState,
        system_columns: bool,
    ) -> Result<(), Problem> {
        let cut = Arc::clone(self.cut(id)?);
        let exclusions = catalog
            .streams
            .get(id)
            .map(|s| s.exclusions.values().cloned().collect())
            .unwrap_or_default();
        let segments = cut.raw().segments().iter();
        let columns = cut.stream().schema.events().fields().len();
        self.note_rows(columns, segments.map(|s| (s.rows, decoded_bytes(s.bytes))));
        let upto = self.covered(&cut);
        let table = StreamTable::new(cut, upto, exclusions, system_columns);
        self.tables.push((name.to_owned(), Arc::new(table)));
        Ok(())
    }

    fn add_view(
        &mut self,
        name: &str,
        state: &ViewState,
        catalog: &CatalogState,
        now: DateTime<Utc>,
        limits: &Limits,
    ) -> Result<(), Problem> {
        let cut = Arc::clone(self.cut(&state.def.stream)?);
        let view = cut
            .views()
            .get(&state.def.id)
            .ok_or_else(|| building(state, catalog, now))?;
        let mut notes = vec![];
        if state.pending.is_some() {
            let mut note = "a new definition is building; this answers the old one".to_owned();
            if let Some(failure) = build_failure(state, catalog) {
                note += &format!("; {failure}");
            }
            notes.push(note);
        }
        let source = match limits.generation {
            Some(number) => earlier_generation(state, catalog, number)?,
            None => {
                let generation = view
                    .generation
                    .clone()
                    .ok_or_else(|| building(state, catalog, now))?;
                let again = || catalog.retry_at(&state.def.id, true, state.def.defined_at);
                let pause = || MEMORY_PAUSE_S.max(pause_s(again(), now));
                live_source(&cut, view, generation, limits.layer, pause, &mut notes)?
            }
        };
        check_covered(&cut, &source, limits)?;
        let columns = source.generation.view().file_schema().fields().len();
        let files = source.generation.manifest().files.iter();
        self.note_rows(
            columns,
            files.map(|file| (file.rows, decoded_bytes(file.bytes))),
        );
        let runs = source.runs.iter();
        self.note_rows(columns, runs.map(|run| (run.rows() as u64, run.bytes())));
        self.keys = source
            .generation
            .view()
            .keys()
            .iter()
            .map(|key| key.output_index)
            .collect();
        let layer = if source.merged {
            Layer::Merged
        } else {
            Layer::Batch
        };
        let end = view_end(&cut, layer, source.generation.horizon());
        let covered = self.covered(&cut).meet(end);
        self.covered.insert(cut.stream().id.clone(), covered);
        self.provenance.views.push(ViewProvenance {
            view: name.to_owned(),
            id: state.def.id.clone(),
            stream: cut.stream().name.clone(),
            generation: source.generation.number(),
            horizon: token(&cut, source.generation.horizon()).to_string(),
            layer,
            runs: source.runs.len() as u64,
            exclusions: source
                .generation
                .manifest()
                .inputs
                .exclusions
                .iter()
                .map(|e| e.id)
                .collect(),
            notes,
        });
        self.tables
            .push((name.to_owned(), Arc::new(ViewTable::new(name, source))));
        Ok(())
    }

    /// What every part of the answer covers of the cut's stream: the cut's position, or less where a view
    /// answers from its generation alone.
    fn covered(&self, cut: &Cut) -> Position {
        let covered = self.covered.get(&cut.stream().id);
        covered.unwrap_or_else(|| cut.position()).clone()
    }

    /// States the position of each stream and the holes before it, and notes at each view where it reaches beyond
    /// that.
    fn note_streams(&mut self, engine: &Engine) -> Result<(), Problem> {
        // Taken after the cuts: what lies behind a hole is read only once the hole is in the catalog.
        let catalog = engine.catalog.state();
        for (id, (cell, cut)) in &self.cuts {
            let position = self.covered(cut);
            let stated = token(cut, &position);
            let mut reach = position.clone();
            let views = self.provenance.views.iter_mut();
            for view in views.filter(|view| view.stream == cut.stream().name) {
                let horizon: PositionToken = view.horizon.parse().map_err(Problem::internal)?;
                let end = view_end(cut, view.layer, &horizon.position);
                if *end != position {
                    reach = reach.join(end);
                    let end = token(cut, end);
                    view.notes.push(format!(
                        "this view's rows reach `{end}`, beyond the answer's position `{stated}`: the generations of its views end at different positions"
                    ));
                }
            }
            self.provenance.streams.push(StreamProvenance {
                stream: cut.stream().name.clone(),
                id: id.clone(),
                position: stated.to_string(),
                freshness_ms: freshness_ms(cell, cut, &position, engine.clock.as_ref()),
                holes: holes_before(&catalog, id, &reach),
            });
        }
        Ok(())
    }
}

/// The holes of a stream that an answer up to `reach` runs over.
fn holes_before(catalog: &CatalogState, stream: &StreamId, reach: &Position) -> Vec<HoleInfo> {
    let known = catalog.streams.get(stream).into_iter();
    known
        .flat_map(|stream| &stream.holes)
        .filter(|hole| hole.is_before(reach))
        .map(HoleInfo::from)
        .collect()
}

/// Where the rows of a view end: at the cut's position, or at the horizon of a generation that answers alone.
fn view_end<'a>(cut: &'a Cut, layer: Layer, horizon: &'a Position) -> &'a Position {
    match layer {
        Layer::Merged => cut.position(),
        Layer::Batch => horizon,
    }
}

/// A generation that answers alone covers the stream up to its horizon, so `after` may ask for no more.
fn check_covered(cut: &Cut, source: &ViewSource, limits: &Limits) -> Result<(), Problem> {
    let horizon = source.generation.horizon();
    let beyond = |awaited: &&PositionToken| {
        awaited.stream == cut.stream().id && !horizon.covers(&awaited.position)
    };
    let Some(awaited) = limits.after.iter().find(beyond).filter(|_| !source.merged) else {
        return Ok(());
    };
    let reached = token(cut, horizon);
    Err(Problem::new(
        ProblemKind::Timeout,
        format!(
            "generation {} answers alone and ends at `{reached}`, before `{awaited}`; ask with layer=merged, or after an incremental run",
            source.generation.number()
        ),
    )
    .with("awaited", awaited.to_string())
    .with("reached", reached.to_string()))
}

/// What a view answers from. `pause` is in how many seconds to ask again for one that let go of its runs.
fn live_source(
    cut: &Cut,
    view: &ViewCut,
    generation: Arc<Generation>,
    layer: Layer,
    pause: impl FnOnce() -> u64,
    notes: &mut Vec<String>,
) -> Result<ViewSource, Problem> {
    let mut merged = layer == Layer::Merged;
    if merged && !generation.is_mergeable() {
        merged = false;
        notes.push(
            "the generation was made by another engine, so this answers from the batch layer alone until the full run that has started ends".to_owned(),
        );
    }
    if merged && let Some(poisoned) = view.poisoned.first() {
        let horizon = token(cut, generation.horizon());
        let problem = Problem::new(
            ProblemKind::Unavailable,
            format!(
                "{}; until then layer=batch answers up to `{horizon}`",
                poisoned.explain(&view.name, &cut.stream().name),
            ),
        )
        .with("view", view.name.as_str())
        .with("span", poisoned.named_span().to_string());
        let pause = if view.is_out_of_memory() {
            pause()
        } else {
            USERS_PAUSE_S
        };
        return Err(problem.with("retry_after_s", pause));
    }
    let runs = if merged { view.runs.clone() } else { vec![] };
    Ok(ViewSource {
        generation,
        runs,
        merged,
    })
}

fn earlier_generation(
    state: &ViewState,
    catalog: &CatalogState,
    number: GenerationNumber,
) -> Result<ViewSource, Problem> {
    let manifest = state.generations.get(&number).ok_or_else(|| {
        let known: Vec<String> = state.generations.keys().map(ToString::to_string).collect();
        Problem::new(
            ProblemKind::NotFound,
            format!(
                "view `{}` has no generation {number}; readable are {}",
                state.def.name,
                known.join(", ")
            ),
        )
    })?;
    let stream = catalog.streams.get(&state.def.stream);
    let schemas: BTreeMap<_, _> = stream
        .iter()
        .map(|s| (s.def.name.clone(), s.def.schema.clone()))
        .collect();
    let view = View::compile(&manifest.sql, &schemas).map_err(Problem::internal)?;
    let generation = Arc::new(Generation::new(Arc::clone(manifest), Arc::new(view)));
    Ok(ViewSource {
        generation,
        runs: vec![],
        merged: false,
    })
}

/// A view without a generation: its first one is on its way, or the attempt at it came to nothing. It says when to ask
/// again, in seconds.
fn building(state: &ViewState, catalog: &CatalogState, now: DateTime<Utc>) -> Problem {
    let name = &state.def.name;
    let (how, again) = match build_failure(state, catalog) {
        Some(failure) => (
            format!("has no generation yet, and none is being built: {failure}"),
            catalog.rebuild_at(state),
        ),
        None => (
            format!(
                "is building its first generation; GET /v1/views/{name}/status shows the progress"
            ),
            None,
        ),
    };
    Problem::new(ProblemKind::Unavailable, format!("view `{name}` {how}"))
        .with("view", name.as_str())
        .with("retry_after_s", pause_s(again, now))
}

/// Seconds until a run may start that is tried `again`, and a moment for it.
fn pause_s(again: Option<DateTime<Utc>>, now: DateTime<Utc>) -> u64 {
    let pause = again.and_then(|again| (again - now).to_std().ok());
    pause.unwrap_or_default().as_secs() + 1
}

/// How the last attempt to build a definition ended, if it came to nothing and none is at work since, with the way
/// out.
fn build_failure(state: &ViewState, catalog: &CatalogState) -> Option<String> {
    let last = catalog.failed_build(state)?;
    let how = match (last.outcome, &last.error) {
        (Outcome::Failed, Some(error)) => format!("failed: {error}"),
        (Outcome::Failed, None) => "failed".to_owned(),
        _ => "was cancelled".to_owned(),
    };
    let again = catalog.rebuild_at(state).map_or_else(
        || "it is tried again soon".to_owned(),
        |at| {
            let at = at.format("%Y-%m-%dT%H:%M:%SZ");
            format!("it is tried again by itself after {at}")
        },
    );
    let name = &state.def.name;
    Some(format!(
        "the last attempt, run {}, {how}; {again}, and at once with `dovetail recompute {name}`",
        last.id
    ))
}
