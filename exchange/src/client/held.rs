// SPDX-License-Identifier: Apache-2.0
//! From what other processes hold for a question to a cut like one of this process.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use dovetail_log::raw::{RawReader, root_of};
use dovetail_model::{
    CatalogState, GenerationNumber, Position, Problem, StreamState, ViewId, ViewState,
};
use dovetail_seam::{
    Ages, Generation, HeldCut, HeldEvents, HeldTail, HeldView, Runs, ToldAges, Wanted,
};

use super::connections::unavailable;
use super::fetch::{Asker, Tails, ViewRuns, in_a_row};
use super::{Inner, RemoteCutsConfig, Taken};
use crate::wire::{TakenCut, TakenView};

/// More generations than this are not kept compiled.
const MOST_GENERATIONS: usize = 256;

impl Inner {
    /// What was taken, over this process's view of the store.
    pub(super) async fn held(
        &self,
        wanted: &Wanted,
        catalog: &CatalogState,
        parts: Vec<Taken>,
    ) -> Result<Option<HeldCut>, Problem> {
        let Some(stream) = catalog.streams.get(&wanted.stream) else {
            return Ok(None);
        };
        let shares: Vec<_> = parts.iter().map(|part| part.asker.peer.share).collect();
        let (askers, cuts): (Vec<Arc<Asker>>, Vec<TakenCut>) = parts
            .into_iter()
            .map(|part| (Arc::new(part.asker), part.cut))
            .unzip();
        let mut def = stream.def.clone();
        if let Some(first) = cuts.first() {
            if cuts.iter().any(|cut| cut.schema != first.schema) {
                return Err(unavailable(format!(
                    "the schema of stream `{}` is changing; ask again",
                    def.name
                )));
            }
            def.schema = first.schema.clone();
        }
        let join = |of: fn(&TakenCut) -> &Position| {
            let parts = shares.iter().zip(&cuts);
            let parts = parts.map(|(share, cut)| share.part(of(cut)));
            parts.fold(Position::zero(), |all, part| all.join(&part))
        };
        let (position, archived) = (join(|cut| &cut.position), join(|cut| &cut.archived));
        let ages = self.ages(wanted, catalog, &cuts);
        let events = if wanted.events {
            let reader = self.raw_reader(stream)?;
            let raw = reader.covering(&archived, &def.schema).await;
            Some(HeldEvents {
                raw: raw.map_err(|error| Problem::new(error.kind(), error.to_string()))?,
                archived,
                tail: HeldTail::Elsewhere(Arc::new(Tails(askers.clone()))),
            })
        } else {
            None
        };
        let mut views: BTreeMap<ViewId, Vec<(Arc<Asker>, TakenView)>> = BTreeMap::new();
        for (asker, cut) in askers.iter().zip(cuts) {
            for view in cut.views {
                let parts = views.entry(view.id.clone()).or_default();
                parts.push((Arc::clone(asker), view));
            }
        }
        let mut held = BTreeMap::new();
        for (id, parts) in views {
            // Dropped meanwhile: the names are resolved again.
            if let Some(state) = catalog.views.get(&id) {
                // Not in all of them yet, or not any more.
                if parts.len() < askers.len() {
                    return Err(unavailable(format!(
                        "view `{}` is joining its stream; ask again",
                        state.def.name
                    )));
                }
                held.insert(id, self.held_view(stream, state, parts)?);
            }
        }
        Ok(Some(HeldCut {
            stream: Arc::new(def),
            position,
            views: held,
            events,
            ages: Ages::Told(ages),
            notes: vec![],
            guard: Some(Arc::new(askers) as Arc<dyn Any + Send + Sync>),
        }))
    }

    fn held_view(
        &self,
        stream: &StreamState,
        state: &ViewState,
        parts: Vec<(Arc<Asker>, TakenView)>,
    ) -> Result<HeldView, Problem> {
        let number = parts.first().and_then(|(_, view)| view.generation);
        if parts.iter().any(|(_, view)| view.generation != number) {
            return Err(unavailable(format!(
                "view `{}` is being published; ask again",
                state.def.name
            )));
        }
        let name = parts.first().map(|(_, view)| view.name.clone());
        let generation = number.map(|number| self.generation(stream, state, number));
        let generation = generation.transpose()?;
        let mut poisoned = vec![];
        let mut runs = vec![];
        for (asker, view) in parts {
            poisoned.extend(view.poisoned);
            runs.push((asker, view.runs));
        }
        let runs = match &generation {
            Some(generation) => Runs::Elsewhere(Arc::new(ViewRuns {
                id: state.def.id.clone(),
                view: Arc::clone(generation.view()),
                parts: in_a_row(runs),
            })),
            None => Runs::default(),
        };
        Ok(HeldView {
            name: name.unwrap_or_else(|| state.def.name.clone()),
            generation,
            runs,
            poisoned,
        })
    }

    /// How old what the cut does not cover is, by this process's clock.
    fn ages(&self, wanted: &Wanted, catalog: &CatalogState, cuts: &[TakenCut]) -> ToldAges {
        let now_us = self.config.clock.now_us();
        let mut ages = ToldAges::default();
        for cut in cuts {
            // Its clock need not be ours.
            let skew = now_us - cut.now_us;
            let here = |arrived: Option<i64>| arrived.map(|arrived| arrived + skew);
            let behind_cut = here(cut.behind_cut);
            ages.behind_cut = ages.behind_cut.into_iter().chain(behind_cut).min();
            let ends = wanted.ends.iter().cloned();
            let ends = ends.zip(cut.behind.iter().copied());
            let horizons = cut.views.iter().filter_map(|view| {
                let state = catalog.views.get(&view.id)?;
                let manifest = state.generations.get(&view.generation?)?;
                Some((manifest.inputs.horizon.clone(), view.behind))
            });
            for (end, arrived) in ends.chain(horizons) {
                ages.behind.push((end, here(arrived)));
            }
        }
        ages
    }

    /// The generations alone, while nobody has runs for us.
    pub(super) async fn alone(
        &self,
        wanted: &Wanted,
        catalog: &CatalogState,
        why: &Problem,
    ) -> Result<Option<HeldCut>, Problem> {
        let Some(stream) = catalog.streams.get(&wanted.stream) else {
            return Ok(None);
        };
        let mut views = BTreeMap::new();
        let mut position = Position::zero();
        for state in wanted.views.iter().filter_map(|id| catalog.views.get(id)) {
            let generation = state.live.map(|live| self.generation(stream, state, live));
            let generation = generation.transpose()?;
            if let Some(generation) = &generation {
                position = position.join(generation.horizon());
            }
            let held = HeldView {
                name: state.def.name.clone(),
                generation,
                runs: Runs::default(),
                poisoned: vec![],
            };
            views.insert(state.def.id.clone(), held);
        }
        let schema = &stream.def.schema;
        let events = if wanted.events {
            let reader = self.raw_reader(stream)?;
            let raw = match wanted.views.is_empty() {
                true => reader.newest(schema).await,
                false => reader.covering(&position, schema).await,
            };
            let raw = raw.map_err(|error| Problem::new(error.kind(), error.to_string()))?;
            if wanted.views.is_empty() {
                position = raw.archived().clone();
            }
            Some(HeldEvents {
                archived: position.clone(),
                raw,
                tail: HeldTail::Here(dovetail_seam::Tail::default()),
            })
        } else {
            None
        };
        if let Some(awaited) = wanted
            .after
            .iter()
            .find(|token| !position.covers(&token.position))
        {
            let detail = format!("`{awaited}` cannot be waited for: {}", why.detail);
            return Err(unavailable(detail).with("awaited", awaited.to_string()));
        }
        Ok(Some(HeldCut {
            stream: Arc::new(stream.def.clone()),
            position,
            views,
            events,
            ages: Ages::Unknown,
            notes: vec![format!("how fresh this is cannot be said: {}", why.detail)],
            guard: None,
        }))
    }

    fn raw_reader(&self, stream: &StreamState) -> Result<Arc<RawReader>, Problem> {
        let id = &stream.def.id;
        if let Some(reader) = self.raw.lock().get(id) {
            return Ok(Arc::clone(reader));
        }
        let RemoteCutsConfig { store, clock, .. } = &self.config;
        let reader = RawReader::new(
            Arc::clone(store),
            root_of(id),
            id.clone(),
            Arc::clone(clock),
        );
        let reader = reader.map_err(|error| Problem::new(error.kind(), error.to_string()))?;
        let reader = Arc::new(reader);
        self.raw.lock().insert(id.clone(), Arc::clone(&reader));
        Ok(reader)
    }

    /// A generation under its own definition, compiled once.
    fn generation(
        &self,
        stream: &StreamState,
        state: &ViewState,
        number: GenerationNumber,
    ) -> Result<Arc<Generation>, Problem> {
        let key = (state.def.id.clone(), number);
        if let Some(known) = self.generations.lock().get(&key) {
            return Ok(Arc::clone(known));
        }
        let manifest = state.generations.get(&number).ok_or_else(|| {
            unavailable(format!(
                "generation {number} of view `{}` is not in the catalog any more; ask again",
                state.def.name
            ))
        })?;
        let generation = Generation::compiled(Arc::clone(manifest), &stream.def);
        let generation = Arc::new(generation.map_err(Problem::internal)?);
        let mut known = self.generations.lock();
        if known.len() >= MOST_GENERATIONS {
            known.clear();
        }
        known.insert(key, Arc::clone(&generation));
        Ok(generation)
    }
}
