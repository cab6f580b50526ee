// SPDX-License-Identifier: Apache-2.0
//! The catalog as a pure fold: commits of entries in, a state out.
//!
//! Purpose: streams, views, live pointers, exclusions and the ledger of batch runs, and which change of
//! them is allowed. Collaborators: `dovetail-log` stores the commits and races for the next sequence.
//! Invariants: [`CatalogState::apply`] either applies a whole commit or leaves the state as it was; the
//! live pointer moves only from the generation that the entry names; ids are never given twice.
//! Non-goals: storage, time, randomness (entries carry theirs).

mod entry;
mod retry;
mod state;

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::{
    BatchRun, ExclusionId, GenerationNumber, Hole, Manifest, Outcome, Position, RunId, RunMode,
    StoreClaim, StreamDef, StreamId, StreamSchema, ViewDef, ViewId,
};

pub use entry::{Commit, Entry, PublishReason};
pub use retry::LONGEST_RETRY;
pub use state::{CatalogState, ExpiredGeneration, StreamState, ViewState};

/// Why a commit cannot follow the state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogConflict {
    /// Another commit took the sequence: reload and check again.
    #[error("catalog commit {found} cannot follow commit {last}")]
    Sequence {
        /// The state's last sequence.
        last: u64,
        /// The commit's sequence.
        found: u64,
    },
    /// The name is taken.
    #[error("{what} `{name}` exists already; take another name, or drop it first")]
    NameTaken {
        /// `stream` or `view`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// The entry speaks of something that is not there.
    #[error("there is no {what} with id `{id}`")]
    Missing {
        /// What kind of thing.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// A stream that views read cannot be dropped.
    #[error("stream `{stream}` is read by view `{view}`; drop the view first")]
    InUse {
        /// The stream's name.
        stream: String,
        /// One of the views.
        view: String,
    },
    /// The live pointer has moved since the entry was made.
    #[error(
        "the live generation of view `{view}` is {found}, not {expected} as the change expected"
    )]
    PointerMoved {
        /// The view's name.
        view: String,
        /// What the entry expected.
        expected: String,
        /// What is live.
        found: String,
    },
    /// The entry contradicts the state.
    #[error("{0}")]
    Contradiction(String),
}

impl CatalogState {
    /// Applies a whole commit, or leaves the state as it was.
    ///
    /// # Errors
    /// When the commit does not follow, or one of its entries contradicts the state.
    pub fn apply(&mut self, commit: &Commit) -> Result<(), CatalogConflict> {
        if commit.sequence != self.sequence + 1 {
            return Err(CatalogConflict::Sequence {
                last: self.sequence,
                found: commit.sequence,
            });
        }
        let mut next = self.clone();
        next.sequence = commit.sequence;
        for entry in &commit.entries {
            next.apply_entry(entry, commit)?;
        }
        *self = next;
        Ok(())
    }

    fn apply_entry(&mut self, entry: &Entry, commit: &Commit) -> Result<(), CatalogConflict> {
        match entry {
            Entry::StoreClaimed { owner, host } => {
                let known = self.claim.as_ref().map(|claim| claim.store.clone());
                self.claim = Some(StoreClaim {
                    store: known.unwrap_or_else(|| format!("{:016x}", commit.nonce)),
                    owner: owner.clone(),
                    host: host.clone(),
                    at: commit.at,
                    epoch: self.epoch().next(),
                    endpoints: None,
                });
                Ok(())
            }
            Entry::StoreServed { epoch, endpoints } => {
                let ours = self.claim.as_mut().filter(|claim| claim.epoch == *epoch);
                let claim = ours.ok_or_else(|| missing("epoch", epoch))?;
                claim.endpoints = endpoints.clone().map(Arc::new);
                Ok(())
            }
            Entry::IngestChanged { members } => {
                if members.epoch != self.ingest.epoch.next() {
                    return Err(contradiction(
                        "a change of who takes the events begins the next epoch",
                    ));
                }
                self.ingest = Arc::new(members.clone());
                Ok(())
            }
            Entry::StreamCreated { stream } => self.create_stream(stream),
            Entry::StreamAltered { id, schema } => self.alter_stream(id, schema),
            Entry::HoleSkipped { id, hole } => self.skip_hole(id, hole),
            Entry::StreamDropped { id } => self.drop_stream(id, commit.at),
            Entry::StreamUndropped { id } => self.undrop_stream(id),
            Entry::ViewCreated { view } => self.create_view(view),
            Entry::ViewAltered { view } => {
                let state = self.view_mut(&view.id)?;
                let unchanged = state.def.version == view.version
                    && state.def.sql == view.sql
                    && state.def.name == view.name;
                if !unchanged {
                    return Err(contradiction(
                        "altering a view cannot change its definition",
                    ));
                }
                state.def = view.clone();
                if let Some(pending) = &mut state.pending {
                    pending.take_options(view);
                }
                Ok(())
            }
            Entry::ViewRedefined { view } => {
                let state = self.view_mut(&view.id)?;
                if view.version != state.next_version || view.stream != state.def.stream {
                    return Err(contradiction(
                        "a redefinition needs the next version and the same stream",
                    ));
                }
                state.next_version += 1;
                state.def.take_options(view);
                state.pending = Some(view.clone());
                Ok(())
            }
            Entry::RedefinitionDropped { view } => {
                self.view_mut(view)?.pending = None;
                Ok(())
            }
            Entry::ViewDropped { id } => {
                self.live_view_mut(id)?.dropped_at = Some(commit.at);
                Ok(())
            }
            Entry::ViewUndropped { id } => self.undrop_view(id),
            Entry::ExclusionDeclared { stream, exclusion } => {
                let state = self.stream_mut(stream)?;
                if exclusion.id != state.next_exclusion {
                    return Err(contradiction("the exclusion's number is taken"));
                }
                state.next_exclusion.0 += 1;
                state.exclusions.insert(exclusion.id, exclusion.clone());
                Ok(())
            }
            Entry::ExclusionWithdrawn { stream, id } => {
                let removed = self.stream_mut(stream)?.exclusions.remove(id);
                removed.map(|_| ()).ok_or_else(|| missing("exclusion", id))
            }
            Entry::Run { run } => self.record_run(run),
            Entry::GenerationWritten { manifest } => {
                let state = self.view_mut(&manifest.view)?;
                if manifest.number < state.next_generation {
                    return Err(contradiction("the generation's number is taken"));
                }
                if manifest.definition_version >= state.next_version {
                    return Err(contradiction("the generation is of an unknown definition"));
                }
                state.next_generation = GenerationNumber(manifest.number.0 + 1);
                state
                    .generations
                    .insert(manifest.number, Arc::clone(manifest));
                Ok(())
            }
            Entry::GenerationPublished {
                view,
                expected,
                generation,
                reason,
            } => self.publish(view, *expected, *generation, *reason, commit.sequence),
            Entry::SchedulePaused { view, paused } => {
                self.view_mut(view)?.schedule_paused = *paused;
                Ok(())
            }
            Entry::ScheduleServed { view, due } => {
                self.view_mut(view)?.schedule_served = Some(*due);
                Ok(())
            }
            Entry::GenerationsExpired { view, generations } => {
                self.view_mut(view)?.expire(generations, commit.at)
            }
            Entry::GenerationsDeleted { view, generations } => {
                let state = self.view_mut(view)?;
                state
                    .expired
                    .retain(|number, _| !generations.contains(number));
                Ok(())
            }
            Entry::RunsExpired { runs } => {
                self.runs
                    .retain(|id, run| !(runs.contains(id) && run.outcome.is_final()));
                Ok(())
            }
        }
    }

    fn create_stream(&mut self, stream: &StreamDef) -> Result<(), CatalogConflict> {
        if self.stream_named(&stream.name).is_some() {
            return Err(name_taken("stream", &stream.name));
        }
        if self.view_named(&stream.name).is_some() {
            return Err(name_taken("view", &stream.name));
        }
        if self.streams.contains_key(&stream.id) {
            return Err(contradiction("the stream's id is taken"));
        }
        let state = StreamState {
            def: stream.clone(),
            dropped_at: None,
            exclusions: BTreeMap::new(),
            next_exclusion: ExclusionId(1),
            holes: vec![],
        };
        self.streams.insert(stream.id.clone(), state);
        Ok(())
    }

    fn alter_stream(
        &mut self,
        id: &StreamId,
        schema: &StreamSchema,
    ) -> Result<(), CatalogConflict> {
        let def = &mut self.stream_mut(id)?.def;
        let growth = def.schema.growth_to(schema);
        growth.map_err(|reason| {
            contradiction(&format!(
                "the schema of stream `{}` cannot change so: {reason}",
                def.name
            ))
        })?;
        def.schema = schema.clone();
        Ok(())
    }

    fn skip_hole(&mut self, id: &StreamId, hole: &Hole) -> Result<(), CatalogConflict> {
        let stream = self.stream_mut(id)?;
        if stream.def.source.kafka().is_none() {
            return Err(contradiction(&format!(
                "stream `{}` reads no topic, so it has no hole `{hole}`",
                stream.def.name
            )));
        }
        if hole.to <= hole.from {
            return Err(contradiction(&format!("the hole `{hole}` is empty")));
        }
        // One that overlaps was found when less was archived than there had been: the newer one is what was done.
        stream.holes.retain(|known| {
            known.partition != hole.partition || known.to <= hole.from || hole.to <= known.from
        });
        stream.holes.push(hole.clone());
        stream.holes.sort_by_key(|hole| (hole.partition, hole.from));
        Ok(())
    }

    fn drop_stream(&mut self, id: &StreamId, at: DateTime<Utc>) -> Result<(), CatalogConflict> {
        let stream = self.stream_mut(id)?.def.name.clone();
        if let Some(view) = self.views_of(id).next() {
            return Err(CatalogConflict::InUse {
                stream,
                view: view.def.name.clone(),
            });
        }
        self.stream_mut(id)?.dropped_at = Some(at);
        Ok(())
    }

    fn undrop_stream(&mut self, id: &StreamId) -> Result<(), CatalogConflict> {
        let name = self
            .streams
            .get(id)
            .map(|s| s.def.name.clone())
            .ok_or_else(|| missing("stream", id))?;
        self.check_free(&name)?;
        if let Some(stream) = self.streams.get_mut(id) {
            stream.dropped_at = None;
        }
        Ok(())
    }

    fn undrop_view(&mut self, id: &ViewId) -> Result<(), CatalogConflict> {
        let (name, stream) = self
            .views
            .get(id)
            .map(|v| (v.def.name.clone(), v.def.stream.clone()))
            .ok_or_else(|| missing("view", id))?;
        self.check_free(&name)?;
        self.stream_mut(&stream)?;
        if let Some(view) = self.views.get_mut(id) {
            view.dropped_at = None;
        }
        Ok(())
    }

    fn create_view(&mut self, view: &ViewDef) -> Result<(), CatalogConflict> {
        self.check_free(&view.name)?;
        self.stream_mut(&view.stream)?;
        if self.views.contains_key(&view.id) {
            return Err(contradiction("the view's id is taken"));
        }
        let state = ViewState {
            def: view.clone(),
            pending: None,
            next_version: view.version + 1,
            dropped_at: None,
            live: None,
            before_promote: None,
            generations: BTreeMap::new(),
            expired: BTreeMap::new(),
            next_generation: GenerationNumber(1),
            pointer_epoch: self.sequence,
            published_at: 0,
            schedule_paused: false,
            schedule_served: None,
            recomputed_to: Position::zero(),
        };
        self.views.insert(view.id.clone(), state);
        Ok(())
    }

    fn record_run(&mut self, run: &BatchRun) -> Result<(), CatalogConflict> {
        match self.runs.get(&run.id) {
            None if run.id < self.next_run => return Err(missing("batch run", run.id)),
            None => self.next_run = RunId(run.id.0 + 1),
            Some(known) if known.outcome.is_final() => {
                return Err(contradiction(&format!(
                    "batch run {} has ended already",
                    run.id
                )));
            }
            Some(_) => {}
        }
        if run.outcome == Outcome::Promoted
            && run.mode == RunMode::Full
            && let (Some(view), Some(span)) = (self.views.get_mut(&run.view), &run.span)
        {
            view.recomputed_to = span.to().clone();
        }
        self.runs.insert(run.id, Arc::new(run.clone()));
        Ok(())
    }

    fn publish(
        &mut self,
        view: &ViewId,
        expected: Option<GenerationNumber>,
        generation: GenerationNumber,
        reason: PublishReason,
        sequence: u64,
    ) -> Result<(), CatalogConflict> {
        let state = self.view_mut(view)?;
        if state.live != expected {
            let show = |n: Option<GenerationNumber>| n.map_or("none".to_owned(), |n| n.to_string());
            return Err(CatalogConflict::PointerMoved {
                view: state.def.name.clone(),
                expected: show(expected),
                found: show(state.live),
            });
        }
        let Some(manifest) = state.generations.get(&generation).cloned() else {
            return Err(missing("generation", generation));
        };
        let horizon = &manifest.inputs.horizon;
        if let Some(live) = state.live_manifest()
            && !horizon.covers(&live.inputs.horizon)
        {
            return Err(contradiction(&format!(
                "the seam never moves back: generation {generation} ends at `{horizon}`, the live one at `{}`",
                live.inputs.horizon
            )));
        }
        if reason != PublishReason::Refreshed {
            state.pointer_epoch = sequence;
        }
        if reason == PublishReason::Promoted {
            state.before_promote = state.live;
        }
        state.live = Some(generation);
        state.published_at = sequence;
        state.adopt_definition(&manifest);
        if reason == PublishReason::RolledBack {
            state.pending = None;
        }
        Ok(())
    }

    fn check_free(&self, name: &str) -> Result<(), CatalogConflict> {
        if self.stream_named(name).is_some() {
            return Err(name_taken("stream", name));
        }
        if self.view_named(name).is_some() {
            return Err(name_taken("view", name));
        }
        Ok(())
    }

    fn stream_mut(&mut self, id: &StreamId) -> Result<&mut StreamState, CatalogConflict> {
        self.streams
            .get_mut(id)
            .filter(|s| s.dropped_at.is_none())
            .ok_or_else(|| missing("stream", id))
    }

    fn live_view_mut(&mut self, id: &ViewId) -> Result<&mut ViewState, CatalogConflict> {
        self.view_mut(id).and_then(|v| {
            if v.dropped_at.is_none() {
                Ok(v)
            } else {
                Err(missing("view", id))
            }
        })
    }

    fn view_mut(&mut self, id: &ViewId) -> Result<&mut ViewState, CatalogConflict> {
        self.views.get_mut(id).ok_or_else(|| missing("view", id))
    }
}

impl ViewState {
    /// Takes generations out of those that can be read, as of `at`.
    fn expire(
        &mut self,
        generations: &[GenerationNumber],
        at: DateTime<Utc>,
    ) -> Result<(), CatalogConflict> {
        if self.live.is_some_and(|live| generations.contains(&live)) {
            return Err(contradiction("the live generation cannot expire"));
        }
        for number in generations {
            if let Some(manifest) = self.generations.remove(number) {
                self.expired
                    .insert(*number, ExpiredGeneration { manifest, at });
            }
        }
        if self
            .before_promote
            .is_some_and(|n| generations.contains(&n))
        {
            self.before_promote = None;
        }
        Ok(())
    }

    /// Makes the definition of the generation that became live the view's own.
    fn adopt_definition(&mut self, manifest: &Manifest) {
        if let Some(pending) = self
            .pending
            .take_if(|p| p.version == manifest.definition_version)
        {
            self.def = pending;
        } else if self.def.version != manifest.definition_version {
            self.def.version = manifest.definition_version;
            self.def.sql.clone_from(&manifest.sql);
            self.def
                .definition_hash
                .clone_from(&manifest.inputs.definition_hash);
        }
    }
}

fn contradiction(text: &str) -> CatalogConflict {
    CatalogConflict::Contradiction(text.to_owned())
}

fn missing(what: &'static str, id: impl ToString) -> CatalogConflict {
    CatalogConflict::Missing {
        what,
        id: id.to_string(),
    }
}

fn name_taken(what: &'static str, name: &str) -> CatalogConflict {
    CatalogConflict::NameTaken {
        what,
        name: name.to_owned(),
    }
}

#[cfg(test)]
#[path = "catalog/tests.rs"]
mod tests;
