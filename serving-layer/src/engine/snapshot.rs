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
    CatalogState, GenerationNumber, Outcome, PartitionId, Position, PositionToken, Problem,
    ProblemKind, StreamId, ViewState,
};
use dovetail_seam::{AgeUnknown, Generation, HeldCut, HeldView, Runs, Wanted, token};

use super::Engine;
use super::provenance::age_ms;
use super::stream_table::StreamTable;
use super::view_table::{ViewAnswer, ViewTable};
use crate::ports::{HoleInfo, Layer, Limits, Provenance, StreamProvenance, ViewProvenance};

/// An incremental run that gives a view back what it let go of takes about so long at least.
const MEMORY_PAUSE_S: u64 = 5;
/// Bytes that a column of a file, once decoded, or of a run may take without any rows: few rows are not wide for that.
const EMPTY_COLUMN_BYTES: usize = 16 * 1024;
/// What an event has spoiled heals when somebody excludes it or redefines the view.
pub(super) const USERS_PAUSE_S: u64 = 60;

/// The cuts of one question and what was taken from them.
pub(crate) struct Snapshot {
    cuts: BTreeMap<StreamId, Arc<HeldCut>>,
    /// What every view that was taken of a stream covers: the meet of where they end.
    covered: BTreeMap<StreamId, Position>,
    tables: Vec<(String, Arc<dyn TableProvider>)>,
    /// What the views among the tables answer from, as in the provenance.
    views: Vec<ViewAnswer>,
    provenance: Provenance,
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

/// How often names are resolved again because definitions change meanwhile.
const RESOLVE_TRIES: usize = 4;

impl Engine {
    /// Takes one cut of every stream that `names` need, each once, when every position of `limits.after` is
    /// covered, and makes the tables.
    pub(crate) async fn snapshot(
        &self,
        names: &[String],
        limits: &Limits,
        system_columns: bool,
    ) -> Result<Snapshot, Problem> {
        for _ in 0..RESOLVE_TRIES {
            let before = self.known(names).await?;
            let resolved = resolve_all(&before, names)?;
            check_after(&before, &resolved, limits)?;
            check_generation(&resolved, limits)?;
            let mut cuts = BTreeMap::new();
            for wanted in wanted(&resolved, limits) {
                let Some(cut) = self.cuts.take(&wanted).await? else {
                    break;
                };
                cuts.insert(wanted.stream, Arc::new(cut));
            }
            // A cut may be of newer definitions than the names were resolved in.
            let catalog = self.catalog.state();
            let resolved = resolve_all(&catalog, names)?;
            if resolved.iter().all(|name| cuts.contains_key(name.stream())) {
                return self.tables_over(cuts, names, &resolved, &catalog, limits, system_columns);
            }
        }
        Err(Problem::new(
            ProblemKind::Unavailable,
            "the definitions that the statement names are changing; ask again",
        )
        .with("retry_after_s", 1))
    }

    /// The catalog, in which all `names` are known if they are known anywhere.
    async fn known(&self, names: &[String]) -> Result<Arc<CatalogState>, Problem> {
        let catalog = self.catalog.state();
        if resolve_all(&catalog, names).is_ok() {
            return Ok(catalog);
        }
        self.cuts.catch_up().await;
        Ok(self.catalog.state())
    }

    fn tables_over(
        &self,
        cuts: BTreeMap<StreamId, Arc<HeldCut>>,
        names: &[String],
        resolved: &[Resolved<'_>],
        catalog: &CatalogState,
        limits: &Limits,
        system_columns: bool,
    ) -> Result<Snapshot, Problem> {
        let mut snapshot = Snapshot {
            cuts,
            covered: BTreeMap::new(),
            tables: vec![],
            views: vec![],
            provenance: Provenance::default(),
        };
        let named = || names.iter().zip(resolved);
        for (name, resolved) in named() {
            if let Resolved::View(view) = resolved {
                let now = self.clock.now();
                snapshot.add_view(name, view, catalog, now, limits)?;
            }
        }
        // A stream is read as far as all its views go, so after them.
        for (name, resolved) in named() {
            if let Resolved::Stream(id) = resolved {
                snapshot.add_stream(name, id, catalog, system_columns)?;
            }
        }
        snapshot.note_streams(self);
        Ok(snapshot)
    }
}

/// What is wanted of each stream that the names need.
fn wanted(resolved: &[Resolved<'_>], limits: &Limits) -> Vec<Wanted> {
    let mut of_streams: BTreeMap<&StreamId, Wanted> = BTreeMap::new();
    for name in resolved {
        let stream = name.stream();
        let wanted = of_streams.entry(stream).or_insert_with(|| Wanted {
            stream: stream.clone(),
            views: vec![],
            events: false,
            merged: limits.layer == Layer::Merged && limits.generation.is_none(),
            ends: vec![],
            after: limits
                .after
                .iter()
                .filter(|t| t.stream == *stream)
                .cloned()
                .collect(),
            deadline: limits.deadline,
            timeout: limits.timeout,
        });
        match name {
            Resolved::Stream(_) => wanted.events = true,
            Resolved::View(view) => {
                wanted.views.push(view.def.id.clone());
                let earlier = limits.generation;
                let earlier = earlier.and_then(|number| view.generations.get(&number));
                let end = earlier.map(|manifest| manifest.inputs.horizon.clone());
                wanted.ends.extend(end);
            }
        }
    }
    of_streams.into_values().collect()
}

/// About how much a file of so many `bytes` takes in memory, which `said` says where its writer did.
fn decoded_bytes(said: Option<u64>, bytes: u64) -> usize {
    const PARQUET_SAVES: u64 = 8;
    let bytes = said.unwrap_or(bytes.saturating_mul(PARQUET_SAVES));
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Of `pieces`, which are rows and bytes of files or runs of so many columns, the most that a row takes on average.
fn row_bytes(columns: usize, pieces: impl Iterator<Item = (u64, usize)>) -> usize {
    let of_each = pieces.map(|(rows, bytes)| {
        let rows = usize::try_from(rows).unwrap_or(1).max(1);
        bytes.saturating_sub(columns * EMPTY_COLUMN_BYTES) / rows
    });
    of_each.max().unwrap_or(0)
}

fn resolve_all<'a>(
    catalog: &'a CatalogState,
    names: &[String],
) -> Result<Vec<Resolved<'a>>, Problem> {
    names.iter().map(|name| resolve(catalog, name)).collect()
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

/// A position that is awaited must be of a stream that the question reads, by id and by name, and of partitions that it
/// can ever have. A stream with a log of its own has one for good. A topic may get more, and who holds the token may have
/// heard of them before us: those are waited for.
fn check_after(
    catalog: &CatalogState,
    resolved: &[Resolved<'_>],
    limits: &Limits,
) -> Result<(), Problem> {
    for awaited in &limits.after {
        let refuse = |what: String| {
            let detail = format!("`after` names `{awaited}`, but {what}");
            Err(Problem::invalid(detail).with("after", awaited.to_string()))
        };
        if !resolved.iter().any(|name| *name.stream() == awaited.stream) {
            return refuse("the question does not read that stream".to_owned());
        }
        let stream = catalog.streams.get(&awaited.stream);
        // Streams keep their names: whoever made up this one may mean another stream.
        if let Some(stream) = stream.filter(|stream| stream.def.name != awaited.name) {
            return refuse(format!(
                "the stream with the id `{}` is `{}`: give a token as an append or an answer gave it",
                awaited.stream, stream.def.name
            ));
        }
        let has_one = stream.is_some_and(|stream| stream.def.source.is_embedded());
        let mut partitions = awaited.position.iter().map(|(partition, _)| partition);
        if has_one && let Some(none) = partitions.find(|partition| *partition != PartitionId(0)) {
            return refuse(format!(
                "that stream has no partition {none}: 0 is its only one; give a token as an append or an answer gave it"
            ));
        }
    }
    Ok(())
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
        let of_views = self.views.iter().map(|view| {
            let columns = view.generation.view().file_schema().fields().len();
            let files = view.generation.manifest().files.iter();
            let files = files.map(|file| {
                let bytes = decoded_bytes(file.decoded_bytes, file.bytes);
                (file.rows, bytes)
            });
            row_bytes(columns, files.chain(view.runs.sizes()))
        });
        let streams = self.cuts.values();
        let streams = streams.filter_map(|cut| Some((cut, cut.events.as_ref()?)));
        let of_streams = streams.map(|(cut, events)| {
            let columns = cut.stream.schema.events().fields().len();
            let segments = events.raw.segments().iter();
            let segments = segments.map(|s| (s.rows, decoded_bytes(s.decoded_bytes, s.bytes)));
            row_bytes(columns, segments.chain(events.tail.size()))
        });
        of_views.chain(of_streams).max().unwrap_or(0)
    }

    /// What the one view that was taken answers from; none for a stream.
    pub(crate) fn view(&self) -> Option<&ViewAnswer> {
        self.views.first()
    }

    fn cut(&self, stream: &StreamId) -> Result<Arc<HeldCut>, Problem> {
        let cut = self.cuts.get(stream).map(Arc::clone);
        cut.ok_or_else(|| Problem::internal("a cut was not taken"))
    }

    fn add_stream(
        &mut self,
        name: &str,
        id: &StreamId,
        catalog: &CatalogState,
        system_columns: bool,
    ) -> Result<(), Problem> {
        let cut = self.cut(id)?;
        let events = cut.events.clone();
        let events = events.ok_or_else(|| Problem::internal("the events were not taken"))?;
        let exclusions = catalog
            .streams
            .get(id)
            .map(|s| s.exclusions.values().cloned().collect())
            .unwrap_or_default();
        let upto = self.covered(&cut);
        let table = StreamTable::new(cut, events, upto, exclusions, system_columns);
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
        let cut = self.cut(&state.def.stream)?;
        let view = cut
            .views
            .get(&state.def.id)
            .ok_or_else(|| building(state, catalog, now))?;
        let mut notes = cut.notes.clone();
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
        let layer = if source.merged {
            Layer::Merged
        } else {
            Layer::Batch
        };
        let end = view_end(&cut, layer, source.generation.horizon());
        let covered = self.covered(&cut).meet(end);
        self.covered.insert(cut.stream.id.clone(), covered);
        self.provenance.views.push(ViewProvenance {
            view: name.to_owned(),
            id: state.def.id.clone(),
            stream: cut.stream.name.clone(),
            generation: source.generation.number(),
            horizon: token(&cut.stream, source.generation.horizon()).to_string(),
            layer,
            runs: source.runs.count() as u64,
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
        self.views.push(source.clone());
        self.tables
            .push((name.to_owned(), Arc::new(ViewTable::new(name, source))));
        Ok(())
    }

    /// What every part of the answer covers of the cut's stream: the cut's position, or less where a view
    /// answers from its generation alone.
    fn covered(&self, cut: &HeldCut) -> Position {
        let covered = self.covered.get(&cut.stream.id);
        covered.unwrap_or(&cut.position).clone()
    }

    /// States the position of each stream and the holes before it, and notes at each view where it reaches beyond
    /// that.
    fn note_streams(&mut self, engine: &Engine) {
        // Taken after the cuts: what lies behind a hole is read only once the hole is in the catalog.
        let catalog = engine.catalog.state();
        for (id, cut) in &self.cuts {
            let position = self.covered(cut);
            let stated = token(&cut.stream, &position);
            let mut reach = position.clone();
            let views = self.provenance.views.iter_mut().zip(&self.views);
            for (view, source) in views.filter(|(view, _)| view.stream == cut.stream.name) {
                let end = view_end(cut, view.layer, source.generation.horizon());
                if *end != position {
                    reach = reach.join(end);
                    let end = token(&cut.stream, end);
                    view.notes.push(format!(
                        "this view's rows reach `{end}`, beyond the answer's position `{stated}`: the generations of its views end at different positions"
                    ));
                }
            }
            self.provenance.streams.push(StreamProvenance {
                stream: cut.stream.name.clone(),
                id: id.clone(),
                position: stated.to_string(),
                freshness_ms: freshness_ms(cut, &position, engine),
                holes: holes_before(&catalog, id, &reach),
            });
        }
    }
}

/// How fresh an answer up to `position` is; none where nobody can say.
fn freshness_ms(cut: &HeldCut, position: &Position, engine: &Engine) -> Option<u64> {
    match cut.oldest_behind(position) {
        Ok(oldest) => Some(age_ms(oldest, engine.clock.as_ref())),
        Err(AgeUnknown) => None,
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
fn view_end<'a>(cut: &'a HeldCut, layer: Layer, horizon: &'a Position) -> &'a Position {
    match layer {
        Layer::Merged => &cut.position,
        Layer::Batch => horizon,
    }
}

/// A generation that answers alone covers the stream up to its horizon, so `after` may ask for no more.
fn check_covered(cut: &HeldCut, source: &ViewAnswer, limits: &Limits) -> Result<(), Problem> {
    let horizon = source.generation.horizon();
    let beyond = |awaited: &&PositionToken| {
        awaited.stream == cut.stream.id && !horizon.covers(&awaited.position)
    };
    let Some(awaited) = limits.after.iter().find(beyond).filter(|_| !source.merged) else {
        return Ok(());
    };
    let reached = token(&cut.stream, horizon);
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
    cut: &HeldCut,
    view: &HeldView,
    generation: Arc<Generation>,
    layer: Layer,
    pause: impl FnOnce() -> u64,
    notes: &mut Vec<String>,
) -> Result<ViewAnswer, Problem> {
    let mut merged = layer == Layer::Merged;
    if merged && !generation.is_mergeable() {
        merged = false;
        notes.push(
            "the generation was made by another engine, so this answers from the batch layer alone until the full run that has started ends".to_owned(),
        );
    }
    if merged && let Some(poisoned) = view.poisoned.first() {
        let horizon = token(&cut.stream, generation.horizon());
        let problem = Problem::new(
            ProblemKind::Unavailable,
            format!(
                "{}; until then layer=batch answers up to `{horizon}`",
                poisoned.explain(&view.name, &cut.stream.name),
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
    let runs = if merged {
        view.runs.clone()
    } else {
        Runs::default()
    };
    Ok(ViewAnswer {
        generation,
        runs,
        merged,
    })
}

fn earlier_generation(
    state: &ViewState,
    catalog: &CatalogState,
    number: GenerationNumber,
) -> Result<ViewAnswer, Problem> {
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
    let stream = stream.ok_or_else(|| Problem::internal("the stream of a view is unknown"))?;
    let generation = Generation::compiled(Arc::clone(manifest), &stream.def);
    Ok(ViewAnswer {
        generation: Arc::new(generation.map_err(Problem::internal)?),
        runs: Runs::default(),
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
pub fn build_failure(state: &ViewState, catalog: &CatalogState) -> Option<String> {
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
