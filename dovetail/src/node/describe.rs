// SPDX-License-Identifier: Apache-2.0
//! What exists and where it stands, as the API shows it.

use std::sync::Arc;

use chrono::Utc;
use dovetail_batch_layer::{next_full, next_incremental};
use dovetail_model::{
    CatalogState, Hole, Outcome, Position, PositionToken, Problem, StreamDef, StreamId,
    StreamState, ViewState,
};
use dovetail_seam::{Cut, Poisoned, ViewCut};
use dovetail_serving_layer::engine::{build_failure, freshness_ms};
use dovetail_serving_layer::ports::{
    BuildProgress, ColumnInfo, EventTimeInfo, GenerationInfo, MemoryStatus, SkippedHole, Status,
    StreamInfo, ViewInfo, ViewPhase, ViewStatus,
};
use dovetail_serving_layer::sql::{render_bytes, render_interval, render_stream, render_view};
use dovetail_serving_layer::time::iso_us;
use futures::future::try_join_all;

use super::letter_count::LetterCount;
use super::load;
use super::measures::disk;
use super::open_stream::OpenStream;
use super::{Duty, Node};

impl Node {
    pub(crate) async fn describe_streams(&self) -> Result<Vec<StreamInfo>, Problem> {
        let state = self.0.catalog.state();
        let shown = state.live_streams().filter(|s| self.shows(&s.def.id));
        let described = shown.map(|stream| self.describe_stream(&state, stream));
        let mut infos = try_join_all(described).await?;
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(infos)
    }

    /// Whether a stream is one of those that this process is to have open.
    fn shows(&self, stream: &StreamId) -> bool {
        self.0.config.duty != Duty::Ingests || self.0.streams.get(stream).is_some()
    }

    /// How many dead letters wait for a replay. Whoever has the store counts them; one that takes events does not know
    /// which of its letters others have settled.
    async fn pending(&self, open: &Arc<OpenStream>) -> Option<u64> {
        match self.0.config.duty {
            Duty::Ingests => None,
            Duty::Everything | Duty::Decides => LetterCount::of(open).await,
        }
    }

    pub(crate) async fn describe_stream(
        &self,
        state: &CatalogState,
        stream: &StreamState,
    ) -> Result<StreamInfo, Problem> {
        let def = &stream.def;
        let open = self.stream_named(&def.name)?;
        let cut = open.cell().load();
        let source = open.feed().info(def, self.now_ms());
        let accumulated = open.feed().accumulated(open.cell());
        let freshness_ms = self.freshness(&open, &cut, cut.position());
        Ok(StreamInfo {
            name: def.name.clone(),
            id: def.id.clone(),
            columns: def.schema.columns.iter().map(ColumnInfo::from).collect(),
            event_time: def.schema.event_time.as_ref().map(EventTimeInfo::from),
            unknown_columns: def.schema.unknown_columns,
            definition: render_stream(def),
            created_at: iso_us(def.created_at.timestamp_micros()),
            views: state
                .views_of(&def.id)
                .map(|view| view.def.name.clone())
                .collect(),
            position: token(def, &accumulated.join(&open.cell().durable())),
            accumulated: token(def, &accumulated),
            archived: token(def, cut.raw().archived()),
            freshness_ms,
            lag: load::lag(&open, &cut),
            archived_events: cut.raw().rows(),
            archived_bytes: cut.raw().bytes(),
            dead_letters: self.pending(&open).await,
            exclusions: stream.exclusions.len() as u64,
            source,
            holes: stream.holes.iter().map(skipped_hole).collect(),
        })
    }

    pub(crate) async fn describe_views(&self) -> Result<Vec<ViewStatus>, Problem> {
        let state = self.0.catalog.state();
        let shown = |view: &&ViewState| {
            let held = self.0.streams.get(&view.def.stream);
            // One that takes events follows the catalog a little later.
            self.0.config.duty != Duty::Ingests
                || held.is_some_and(|open| open.cell().load().views().contains_key(&view.def.id))
        };
        let mut infos = state
            .live_views()
            .filter(shown)
            .map(|view| self.describe_view(&state, view))
            .collect::<Result<Vec<_>, _>>()?;
        infos.sort_by(|a, b| a.view.name.cmp(&b.view.name));
        Ok(infos)
    }

    pub(crate) fn describe_view(
        &self,
        state: &CatalogState,
        view: &ViewState,
    ) -> Result<ViewStatus, Problem> {
        let def = &view.def;
        let stream = state
            .streams
            .get(&def.stream)
            .ok_or_else(|| Problem::not_found("stream", &def.stream))?;
        let open = self.stream_named(&stream.def.name)?;
        let cut = open.cell().load();
        let in_cut = cut
            .views()
            .get(&def.id)
            .ok_or_else(|| Problem::not_found("view", &def.name))?;
        let now = self.0.config.clock.now();
        let accumulated = open.feed().accumulated(open.cell());
        let info = self.view_info(state, view, &stream.def, &accumulated, in_cut);
        let covered = match info.phase {
            ViewPhase::Live => cut.position(),
            ViewPhase::Building
            | ViewPhase::Batch
            | ViewPhase::OutOfMemory
            | ViewPhase::Poisoned => &in_cut.start,
        };
        let time = |at: chrono::DateTime<Utc>| iso_us(at.timestamp_micros());
        Ok(ViewStatus {
            view: info,
            freshness_ms: self.freshness(&open, &cut, covered),
            runs: in_cut.runs.len() as u64,
            run_groups: in_cut.runs.iter().map(|run| run.rows() as u64).sum(),
            run_bytes: in_cut.bytes() as u64,
            building: self.build_progress(state, view),
            schedule_paused: view.schedule_paused,
            next_recompute: next_full(view, now).map(time),
            archived_since_full: self.0.batch.archived_since_full(view),
            next_refresh: next_incremental(state, view, now).map(time),
            rollback_to: view.before_promote.filter(|to| view.live != Some(*to)),
            generations: view
                .generations
                .values()
                .rev()
                .map(|manifest| GenerationInfo {
                    number: manifest.number,
                    parent: manifest.parent,
                    mode: manifest.mode,
                    run: manifest.run,
                    live: view.live == Some(manifest.number),
                    horizon: token(&stream.def, &manifest.inputs.horizon),
                    definition_version: manifest.definition_version,
                    exclusions: manifest.inputs.exclusions.iter().map(|e| e.id).collect(),
                    groups: manifest.rows(),
                    bytes: manifest.bytes(),
                    created_at: time(manifest.created_at),
                })
                .collect(),
        })
    }

    fn view_info(
        &self,
        state: &CatalogState,
        view: &ViewState,
        stream: &StreamDef,
        accumulated: &Position,
        in_cut: &ViewCut,
    ) -> ViewInfo {
        let def = &view.def;
        let mut notes = vec![];
        let failure = view.is_building().then(|| build_failure(view, state));
        match (failure.flatten(), &view.pending) {
            (Some(failure), Some(_)) => notes.push(format!(
                "a new definition is to be built, and the old one answers; {failure}"
            )),
            (None, Some(_)) => {
                notes.push("a new definition is building; the old one answers".to_owned());
            }
            (Some(failure), None) => notes.push(format!("it answers nothing: {failure}")),
            (None, None) => {}
        }
        // What a view that is being built let go of to free memory is computed once it is built.
        let matters = |p: &&Poisoned| in_cut.generation.is_some() || !p.is_of_memory();
        if let Some(poisoned) = in_cut.poisoned.iter().find(matters) {
            notes.push(poisoned.explain(&def.name, &stream.name));
        }
        let generation = in_cut.generation.as_ref();
        if let Some(fails) = self.0.batch.failing_group(&def.id, in_cut.version) {
            notes.push(format!("the last incremental run failed: {fails}"));
        } else if let Some(fails) = generation.and_then(|generation| generation.failed()) {
            notes.push(format!(
                "an answer has found since the last batch run: {fails}"
            ));
        }
        let phase = match &in_cut.generation {
            None => ViewPhase::Building,
            Some(generation) if !generation.is_mergeable() => ViewPhase::Batch,
            Some(_) if in_cut.poisoned.is_empty() => ViewPhase::Live,
            Some(_) if in_cut.is_out_of_memory() => ViewPhase::OutOfMemory,
            Some(_) => ViewPhase::Poisoned,
        };
        let keys: Vec<usize> = in_cut
            .view
            .keys()
            .iter()
            .map(|key| key.output_index)
            .collect();
        let schema = in_cut.view.output_schema();
        let columns = schema
            .fields()
            .iter()
            .enumerate()
            .map(|(i, field)| ColumnInfo::of_field(field, keys.contains(&i)));
        ViewInfo {
            name: def.name.clone(),
            id: def.id.clone(),
            stream: stream.name.clone(),
            phase,
            generation: view.live,
            horizon: token(stream, &in_cut.start),
            position: token(stream, accumulated),
            columns: columns.collect(),
            definition: render_view(def),
            version: def.version,
            recompute: def.recompute.clone(),
            recompute_after_events: def.recompute_after.events,
            recompute_after_bytes: def.recompute_after.bytes.map(render_bytes),
            refresh: def.refresh_s.map(render_interval),
            notes,
        }
    }

    fn build_progress(&self, state: &CatalogState, view: &ViewState) -> Option<BuildProgress> {
        let version = match (&view.pending, view.live) {
            (Some(pending), _) => pending.version,
            (None, None) => view.def.version,
            (None, Some(_)) => return None,
        };
        let run = state.running(&view.def.id, false);
        let progress = run.and_then(|run| self.0.batch.progress(run.id));
        let waiting = progress
            .as_ref()
            .is_some_and(|progress| progress.is_waiting());
        let rows = progress.and_then(|progress| progress.rows());
        let (rows_read, rows_total) = rows.map_or((0, None), |(read, total)| (read, Some(total)));
        let elapsed = run.map(|run| {
            (self.0.config.clock.now() - run.started_at)
                .num_milliseconds()
                .max(0) as f64
                / 1000.0
        });
        let seconds_left = match (elapsed, rows_total) {
            (Some(elapsed), Some(total)) if rows_read > 0 => {
                Some(elapsed * total.saturating_sub(rows_read) as f64 / rows_read as f64)
            }
            _ => None,
        };
        Some(BuildProgress {
            run: run.map(|run| run.id),
            waiting,
            version,
            rows_read,
            rows_total,
            seconds_left,
        })
    }

    pub(crate) async fn describe_all(&self) -> Result<Status, Problem> {
        let inner = &self.0;
        let state = inner.catalog.state();
        let now = inner.config.clock.now();
        let stages = self.stages(&state);
        let open = state
            .runs
            .values()
            .filter(|run| matches!(run.outcome, Outcome::Running | Outcome::Staged));
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: iso_us(inner.started_at.timestamp_micros()),
            uptime_s: u64::try_from((now - inner.started_at).num_seconds()).unwrap_or(0),
            catalog_sequence: state.sequence,
            memory: (inner.config.duty != Duty::Decides).then(|| MemoryStatus {
                used_bytes: inner.memory.used_bytes() as u64,
                soft_limit_bytes: inner.memory.soft_bytes() as u64,
                hard_limit_bytes: inner.memory.hard_bytes() as u64,
            }),
            disk: disk(inner.data_dir.root()),
            bottleneck: load::bottleneck(&stages),
            stages,
            streams: self.describe_streams().await?,
            views: self.describe_views().await?,
            runs: open
                .map(|run| self.run_info(&state, run))
                .collect::<Result<_, _>>()?,
            ingest: inner.members.infos(&state),
            workers: inner.workers.describe(&state),
        })
    }

    /// The age of the oldest durable event that does not lie before `position`, in milliseconds; where other processes
    /// take the events, of those in the cut, or as far behind the topic as they say that they are.
    fn freshness(&self, open: &OpenStream, cut: &Cut, position: &Position) -> u64 {
        let known = freshness_ms(open.cell(), cut, position, self.0.config.clock.as_ref());
        if !open.cell().is_elsewhere() {
            return known;
        }
        let source = open.feed().info(cut.stream(), self.now_ms());
        let behind = source.map_or(0.0, |source| source.lag_seconds);
        known.max((behind * 1000.0) as u64)
    }

    fn now_ms(&self) -> i64 {
        self.0.config.clock.now().timestamp_millis()
    }
}

fn skipped_hole(hole: &Hole) -> SkippedHole {
    SkippedHole {
        hole: hole.into(),
        skipped_at: iso_us(hole.skipped_at.timestamp_micros()),
    }
}

pub(super) fn token(def: &StreamDef, position: &Position) -> String {
    PositionToken {
        name: def.name.clone(),
        stream: def.id.clone(),
        position: position.clone(),
    }
    .to_string()
}
