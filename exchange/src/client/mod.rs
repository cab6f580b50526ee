// SPDX-License-Identifier: Apache-2.0
//! Takes cuts and targets of the processes that take the events.

mod connections;
mod fetch;
mod held;
mod peers;
mod targets;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::FlightDescriptor;
use async_trait::async_trait;
use dovetail_log::catalog::Catalog;
use dovetail_log::raw::RawReader;
use dovetail_model::{CatalogState, Clock, GenerationNumber, Position, Problem, StreamId, ViewId};
use dovetail_seam::{CutSource, Generation, HeldCut, Wanted};
use futures::future::join_all;
use object_store::ObjectStore;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use crate::wire::{GREET, Heard, RELEASE, REPORT, Report, TakeCut, TakenCut};
use connections::{ANSWER_WAIT, Failed, Peer, failed, json, slow, unavailable, understood};
use fetch::Asker;
use peers::{Peers, decider};

pub(crate) use connections::Connections;
pub use connections::PeerToken;
pub use targets::RemoteTargets;

/// How long a question that needs no runs waits to hear how fresh its answer is.
const AGES_WAIT: Duration = Duration::from_secs(1);
/// A cut is held a little longer than its question may take.
const HOLD_LONGER: Duration = Duration::from_secs(5);
/// How long a cut is taken again because who takes the events, or the catalog, is changing.
const CHANGE_WAIT: Duration = Duration::from_secs(3);
/// Between two tries of that.
const CHANGE_PAUSE: Duration = Duration::from_millis(100);

/// What a reader of cuts works with.
#[derive(Debug, Clone)]
pub struct RemoteCutsConfig {
    /// The catalog of the store, which a replica only reads.
    pub catalog: Arc<Catalog>,
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// This process's clock.
    pub clock: Arc<dyn Clock>,
    /// What it shows.
    pub token: PeerToken,
    /// Where cuts are let go of in the background.
    pub runtime: Handle,
}

/// Takes cuts of whichever processes the catalog names. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RemoteCuts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: RemoteCutsConfig,
    connections: Connections,
    raw: Mutex<HashMap<StreamId, Arc<RawReader>>>,
    generations: Mutex<HashMap<(ViewId, GenerationNumber), Arc<Generation>>>,
}

/// How a process takes another one that greets it.
#[derive(Debug)]
pub enum Greeted {
    /// As a peer.
    LetIn,
    /// It lives, and does not take the token that it was shown: what, and the way out.
    NotLetIn(Problem),
    /// It does not answer, or has not said where it is.
    Silent(Problem),
}

/// One process's part of a cut.
struct Taken {
    asker: Asker,
    cut: TakenCut,
}

impl RemoteCuts {
    /// Reads nothing yet, and connects to nobody.
    pub fn new(config: RemoteCutsConfig) -> Self {
        Self(Arc::new(Inner {
            connections: Connections::new(config.token.clone()),
            config,
            raw: Mutex::default(),
            generations: Mutex::default(),
        }))
    }

    /// Whether every process that takes events answers.
    ///
    /// # Errors
    /// `Unavailable`, saying who does not.
    pub async fn ready(&self) -> Result<(), Problem> {
        let catalog = self.0.config.catalog.state();
        let peers = Peers::of(&catalog)?;
        let asked = peers.all.iter().map(|peer| self.answers(peer));
        join_all(asked).await.into_iter().collect()
    }

    /// How the process that has the store takes a peer that greets it.
    pub async fn greet(&self) -> Greeted {
        let catalog = self.0.config.catalog.state();
        let peer = match decider(&catalog) {
            Ok(peer) => peer,
            Err(problem) => return Greeted::Silent(problem),
        };
        let connections = &self.0.connections;
        match connections.act_unanswered(&peer, GREET, ANSWER_WAIT).await {
            Err(Failed::NotLetIn(problem)) => Greeted::NotLetIn(problem),
            Err(Failed::Silent(problem)) => Greeted::Silent(problem),
            // Whatever else it says, it lives.
            Ok(()) | Err(_) => Greeted::LetIn,
        }
    }

    async fn answers(&self, peer: &Peer) -> Result<(), Problem> {
        let connections = &self.0.connections;
        // No cut has this number: who may only read may ask.
        let asked = connections.act_unanswered(peer, RELEASE, ANSWER_WAIT);
        asked.await.map_err(Failed::problem)
    }

    /// Says to whoever decides how this process stands, and hears how far the catalog is.
    ///
    /// # Errors
    /// `Unavailable` when it does not answer.
    pub async fn report(&self, report: &Report) -> Result<Heard, Problem> {
        let catalog = self.0.config.catalog.state();
        let peer = decider(&catalog)?;
        let said = self.0.connections.act(&peer, REPORT, report, ANSWER_WAIT);
        said.await.map_err(Failed::problem)
    }
}

#[async_trait]
impl CutSource for RemoteCuts {
    async fn take(&self, wanted: &Wanted) -> Result<Option<HeldCut>, Problem> {
        let begun = Instant::now();
        loop {
            let catalog = self.0.config.catalog.state();
            let taken = match Peers::of(&catalog) {
                Ok(peers) => self.0.take_of(&peers, &catalog, wanted).await,
                Err(problem) => Err(Failed::Silent(problem)),
            };
            let problem = match taken {
                Ok(parts) => {
                    let newest = parts.iter().map(|part| part.cut.sequence).max();
                    if newest > Some(catalog.sequence) {
                        self.0.reload().await?;
                    }
                    let known = self.0.config.catalog.state();
                    let is_over = |part: &Taken| part.cut.epoch < known.epoch();
                    // It does not know yet that another has the store, or that others take the events.
                    if known.ingest.epoch == catalog.ingest.epoch
                        && (!known.ingest.members.is_empty() || !parts.iter().any(is_over))
                    {
                        return self.0.held(wanted, &known, parts).await;
                    }
                    unavailable("the store changes hands; ask again".to_owned())
                }
                Err(Failed::NoStream) => {
                    let newer = self.0.reload().await?;
                    let stream = newer.streams.get(&wanted.stream);
                    let is_gone = stream.is_none_or(|stream| stream.dropped_at.is_some());
                    if is_gone || newer.ingest.members.is_empty() {
                        return Ok(None);
                    }
                    Failed::NoStream.problem()
                }
                Err(Failed::Refused(problem) | Failed::NotLetIn(problem)) => return Err(problem),
                Err(Failed::Moved(problem)) => {
                    self.0.reload().await?;
                    problem
                }
                Err(Failed::Silent(problem)) => {
                    // Perhaps others take the events by now, and have said so.
                    let newer = self.0.reload().await?;
                    if newer.claim != catalog.claim || newer.ingest != catalog.ingest {
                        problem
                    } else if wanted.merged {
                        return Err(problem);
                    } else {
                        return self.0.alone(wanted, &newer, &problem).await;
                    }
                }
            };
            if begun.elapsed() > CHANGE_WAIT || Instant::now() + CHANGE_PAUSE > wanted.deadline {
                return Err(problem);
            }
            sleep(CHANGE_PAUSE).await;
        }
    }

    async fn catch_up(&self) {
        if let Err(problem) = self.0.reload().await {
            warn!(%problem, "the catalog cannot be followed");
        }
    }
}

impl Inner {
    async fn reload(&self) -> Result<Arc<CatalogState>, Problem> {
        let reloaded = self.config.catalog.reload().await;
        reloaded.map_err(|error| unavailable(format!("the catalog cannot be read: {error}")))
    }

    /// Takes the parts of one cut, all of them under the same generations.
    async fn take_of(
        &self,
        peers: &Peers,
        catalog: &CatalogState,
        wanted: &Wanted,
    ) -> Result<Vec<Taken>, Failed> {
        let request = request(peers, catalog, wanted);
        let asked = peers
            .all
            .iter()
            .map(|peer| self.ask(peer, wanted, &request));
        let parts: Result<Vec<Taken>, Failed> = join_all(asked).await.into_iter().collect();
        let mut parts = parts?;
        let Some(newest) = parts.iter().max_by_key(|part| part.cut.sequence) else {
            return Ok(parts);
        };
        let generations = generations(&newest.cut);
        let request = TakeCut {
            sequence: newest.cut.sequence,
            generations: generations.clone(),
            ..request
        };
        // Between a publish and the next look at the catalog they differ. What one has retired it still has runs for.
        let behind: Vec<usize> = (0..parts.len())
            .filter(|part| self::generations(&parts[*part].cut) != generations)
            .collect();
        let asked = behind.iter();
        let asked = asked.map(|part| self.ask(&peers.all[*part], wanted, &request));
        for (part, taken) in behind.iter().zip(join_all(asked).await) {
            parts[*part] = taken?;
        }
        Ok(parts)
    }

    async fn ask(&self, peer: &Peer, wanted: &Wanted, request: &TakeCut) -> Result<Taken, Failed> {
        let left = Duration::from_millis(request.wait_ms);
        let patience = match (wanted.merged, &request.after) {
            (false, None) => AGES_WAIT,
            (true, None) => ANSWER_WAIT,
            (_, Some(_)) => left + ANSWER_WAIT,
        };
        let request = TakeCut {
            after: request.after.as_ref().map(|after| peer.share.part(after)),
            ..request.clone()
        };
        let mut client = self
            .connections
            .client(&peer.url)
            .map_err(Failed::Refused)?;
        let descriptor = FlightDescriptor::new_cmd(json(&request));
        let asking = timeout(patience, client.get_flight_info(descriptor)).await;
        let said = asking.map_err(|_| slow(patience, peer))?;
        let said = said.map_err(|error| failed(error, peer))?;
        let cut: TakenCut = understood(&said.app_metadata, peer)?;
        let asker = Asker {
            client,
            peer: peer.clone(),
            cut: cut.cut,
            runtime: self.config.runtime.clone(),
        };
        Ok(Taken { asker, cut })
    }
}

/// What is asked of every process for `wanted`.
fn request(peers: &Peers, catalog: &CatalogState, wanted: &Wanted) -> TakeCut {
    let left = wanted.deadline.saturating_duration_since(Instant::now());
    let after = wanted.after.iter().map(|token| &token.position);
    let after = after.fold(None, |all: Option<Position>, one| {
        Some(all.map_or_else(|| one.clone(), |all| all.join(one)))
    });
    TakeCut {
        stream: wanted.stream.clone(),
        views: wanted.views.clone(),
        merged: wanted.merged,
        events: wanted.events,
        ends: wanted.ends.clone(),
        after,
        ingest: peers.epoch,
        sequence: if peers.is_divided {
            catalog.sequence
        } else {
            0
        },
        generations: vec![],
        wait_ms: millis(left),
        hold_ms: millis(left + HOLD_LONGER),
    }
}

/// The generation of each view in a part of a cut.
fn generations(cut: &TakenCut) -> Vec<(ViewId, Option<GenerationNumber>)> {
    let views = cut.views.iter();
    views
        .map(|view| (view.id.clone(), view.generation))
        .collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
