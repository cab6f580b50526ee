// SPDX-License-Identifier: Apache-2.0
//! A process that takes its share of the events: it follows the catalog, which says what that is, and what is read.
//!
//! ```text
//! report ─► the process that decides ─► catalog: who takes part ─► close all ─► claim the raw logs ─► open the share
//!                                       catalog: views, pointers ─► the runs follow
//! ```
//! Purpose: the cells of this process hold what the catalog says. Collaborators: `open` opens a stream as after a
//! restart, from what is archived; [`dovetail_exchange::CutServer`] asks before it hands out a cut or a target.
//! Invariants: it writes the raw logs of its share and nothing else, and where a step from what the catalog said to what
//! it says is not simple, the stream is opened anew: that is always right. Non-goals: deciding anything.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use dovetail_exchange::{Member, Report, StreamReport, TakeTarget};
use dovetail_model::{
    CatalogState, Endpoints, Hole, IngestEpoch, IngestMember, Problem, ProblemKind, StreamId,
    StreamSchema, StreamState, ViewId, ViewState,
};
use dovetail_seam::{Cut, Generation, SeamError, StreamCell, Target};
use dovetail_serving_layer::ports::Elsewhere;
use dovetail_speed_layer::Pressure;
use futures::future::join_all;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Node;
use super::claim::host;
use super::open::compile;
use super::open_stream::OpenStream;

/// How often it says how it stands.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);
/// How often it looks at the catalog by itself, while nobody says that there is more.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(2);
/// How long accumulating and archiving up to a target may take.
const TARGET_WAIT: Duration = Duration::from_secs(50);
/// How long a definition that joined for a target stays without the catalog naming it.
const JOINED_FOR: Duration = Duration::from_secs(900);
/// The epoch of a process that has no streams open: a share begins with a later one.
const NO_EPOCH: IngestEpoch = IngestEpoch(0);

/// This process, among those that take the events.
#[derive(Debug)]
pub(super) struct Membership {
    node: Node,
    endpoints: Arc<Endpoints>,
    epoch: AtomicU64,
    /// The catalog up to here is what the cells hold.
    applied: AtomicU64,
    /// Held while they change.
    known: Mutex<Known>,
    /// Why it cannot report, if so.
    trouble: parking_lot::Mutex<Option<Problem>>,
}

/// What the cells were opened with, beside what they tell themselves.
#[derive(Debug, Default)]
struct Known {
    /// Whether some stream could not be opened.
    is_incomplete: bool,
    streams: HashMap<StreamId, (StreamSchema, Vec<Hole>)>,
    joined: HashMap<(ViewId, u64), Instant>,
}

/// Whether a cell could follow the catalog.
enum Followed {
    Yes,
    /// It has to be opened anew: why.
    No(String),
}

impl Membership {
    pub(super) fn new(node: Node, endpoints: Endpoints) -> Self {
        Self {
            node,
            endpoints: Arc::new(endpoints),
            epoch: AtomicU64::new(NO_EPOCH.0),
            applied: AtomicU64::new(0),
            known: Mutex::default(),
            trouble: parking_lot::Mutex::default(),
        }
    }

    /// Reports and follows until `stop`; then its share is given up.
    pub(super) async fn keep(&self, stop: CancellationToken) {
        let (mut silent, mut failing) = (None, None);
        let mut looked = Instant::now();
        while !stop.is_cancelled() {
            let mut sequence = match self.node.0.cuts.report(&self.report(false)).await {
                Ok(heard) => {
                    *self.trouble.lock() = None;
                    if silent.take().is_some() {
                        info!("the process that decides answers again");
                    }
                    heard.sequence
                }
                Err(problem) => {
                    *self.trouble.lock() = Some(problem.clone());
                    said_once(
                        &mut silent,
                        problem,
                        "cannot report to the process that decides",
                    );
                    0
                }
            };
            if looked.elapsed() > FOLLOW_INTERVAL {
                looked = Instant::now();
                match self.node.0.catalog.reload().await {
                    Ok(state) => sequence = sequence.max(state.sequence),
                    Err(error) => debug!(%error, "the catalog cannot be read"),
                }
            }
            match self.bring_up(sequence, true).await {
                Ok(()) => failing = None,
                Err(problem) => said_once(&mut failing, problem, "cannot follow the catalog"),
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(REPORT_INTERVAL) => {}
            }
        }
        if let Err(problem) = self.node.0.cuts.report(&self.report(true)).await {
            debug!(%problem, "nobody heard that this process stops");
        }
    }

    fn id(&self) -> &str {
        self.node.0.data_dir.id()
    }

    fn report(&self, leaves: bool) -> Report {
        let inner = &self.node.0;
        let now_ms = inner.config.clock.now().timestamp_millis();
        let streams = inner.streams.all().into_iter().map(|open| {
            let (cut, def) = (open.cell().load(), open.def());
            let source = open.feed().info(&def, now_ms);
            StreamReport {
                stream: def.id.clone(),
                position: cut.position().clone(),
                bytes: cut.bytes() as u64,
                source: source.and_then(|source| serde_json::to_value(source).ok()),
                hole: open.feed().hole(&def, inner.config.clock.now()).ok(),
            }
        });
        let pressed = match inner.memory.pressure() {
            Pressure::Low => None,
            Pressure::High | Pressure::Full => inner.memory.largest().map(|(id, _)| id),
        };
        Report {
            member: IngestMember {
                id: self.id().to_owned(),
                host: host(),
                endpoints: Arc::clone(&self.endpoints),
            },
            applied: self.applied.load(Ordering::SeqCst),
            leaves,
            pressed,
            streams: streams.collect(),
        }
    }

    /// Makes the cells hold what the catalog says, at least up to `sequence`; `again` opens also what could not be opened
    /// the last time.
    async fn bring_up(&self, sequence: u64, again: bool) -> Result<(), Problem> {
        let mut known = self.known.lock().await;
        let mut state = self.node.0.catalog.state();
        if state.sequence < sequence {
            let reloaded = self.node.0.catalog.reload().await;
            state = reloaded.map_err(|error| Problem::new(error.kind(), error.to_string()))?;
        }
        let is_applied = self.applied.load(Ordering::SeqCst) == state.sequence;
        if is_applied && !(again && known.is_incomplete) {
            return Ok(());
        }
        let applied = self.apply(&state, &mut known).await;
        known.is_incomplete = applied.is_err();
        self.applied.store(state.sequence, Ordering::SeqCst);
        applied
    }

    /// Makes the cells hold what `state` says. A stream that cannot be opened does not keep the others from it.
    async fn apply(&self, state: &CatalogState, known: &mut Known) -> Result<(), Problem> {
        let streams = &self.node.0.streams;
        if self.epoch() != state.ingest.epoch {
            // From here on no cut of ours is of any epoch.
            self.epoch.store(NO_EPOCH.0, Ordering::SeqCst);
            join_all(streams.all().iter().map(|open| self.close(open))).await;
        }
        let share = state.ingest.share_of(self.id());
        for open in streams.all() {
            let id = &open.def().id;
            if state.streams.get(id).is_none_or(|s| s.dropped_at.is_some()) {
                self.close(&open).await;
            }
        }
        let mut failed = None;
        let topics = state
            .live_streams()
            .filter(|s| s.def.source.kafka().is_some());
        for stream in topics.filter(|_| share.is_some()) {
            if let Err(problem) = self.apply_stream(state, stream, known).await {
                failed = Some(problem);
            }
        }
        if let Some(share) = share
            && self.epoch() != state.ingest.epoch
        {
            info!(epoch = %state.ingest.epoch, %share, "taking events");
        }
        self.epoch.store(state.ingest.epoch.0, Ordering::SeqCst);
        failed.map_or(Ok(()), Err)
    }

    async fn apply_stream(
        &self,
        state: &CatalogState,
        stream: &StreamState,
        known: &mut Known,
    ) -> Result<(), Problem> {
        let def = &stream.def;
        if let Some(open) = self.node.0.streams.get(&def.id) {
            let declared = known.streams.get(&def.id);
            let is_same = declared
                .is_some_and(|(schema, holes)| *schema == def.schema && *holes == stream.holes);
            let followed = match is_same {
                true => follow_views(state, stream, open.cell(), &mut known.joined)?,
                false => Followed::No("its declaration has changed".to_owned()),
            };
            let Followed::No(reason) = followed else {
                let cut = open.cell().load();
                self.node.0.memory.set(&def.id, cut.bytes());
                return Ok(());
            };
            info!(stream = %def.name, %reason, "opening the stream anew");
            self.close(&open).await;
        }
        self.node.open_stream(state, stream).await?;
        let declared = (def.schema.clone(), stream.holes.clone());
        known.streams.insert(def.id.clone(), declared);
        Ok(())
    }

    async fn close(&self, open: &Arc<OpenStream>) {
        let id = &open.def().id;
        self.node.0.streams.remove(id);
        open.close().await;
        self.node.0.memory.remove(id);
    }
}

/// Makes the views of a cell those of the catalog, as far as what it holds suffices.
fn follow_views(
    state: &CatalogState,
    stream: &StreamState,
    cell: &Arc<StreamCell>,
    joined: &mut HashMap<(ViewId, u64), Instant>,
) -> Result<Followed, Problem> {
    for view in state.views_of(&stream.def.id) {
        if let Err(error) = follow_view(stream, view, cell)? {
            return Ok(Followed::No(format!("view `{}`: {error}", view.def.name)));
        }
    }
    joined.retain(|_, since| since.elapsed() < JOINED_FOR);
    leave(&cell.load(), state, cell, joined);
    Ok(Followed::Yes)
}

/// The inner result: why what the cell holds does not suffice.
fn follow_view(
    stream: &StreamState,
    view: &ViewState,
    cell: &Arc<StreamCell>,
) -> Result<Result<(), SeamError>, Problem> {
    let id = &view.def.id;
    let compiled = |sql: &str| compile(stream, sql).map_err(Problem::internal);
    if !cell.load().views().contains_key(id) {
        let joining = compiled(&view.def.sql)?;
        cell.join_view(id.clone(), &view.def.name, view.def.version, joining);
    }
    if let Some(pending) = &view.pending
        && cell.load().definition(id, pending.version).is_none()
    {
        let joining = compiled(&pending.sql)?;
        cell.join_candidate(id, &view.def.name, pending.version, joining);
    }
    let held = cell.load();
    let held = held
        .views()
        .get(id)
        .and_then(|view| view.generation.as_ref());
    let Some(live) = view.live_manifest() else {
        return Ok(Ok(()));
    };
    if held.is_some_and(|held| held.number() == live.number) {
        return Ok(Ok(()));
    }
    let generation = Generation::compiled(Arc::clone(live), &stream.def);
    let generation = generation.map_err(Problem::internal)?;
    Ok(cell.publish(id, Arc::new(generation)))
}

/// Takes out of the cell what neither the catalog names nor a target needs.
fn leave(
    cut: &Cut,
    state: &CatalogState,
    cell: &StreamCell,
    joined: &HashMap<(ViewId, u64), Instant>,
) {
    let live = |id: &ViewId| {
        let view = state.views.get(id);
        view.filter(|view| view.dropped_at.is_none())
    };
    for id in cut.views().keys().filter(|id| live(id).is_none()) {
        cell.remove_view(id);
    }
    for (id, candidate) in cut.candidates() {
        let pending = live(id).and_then(|view| view.pending.as_ref());
        let is_pending = pending.is_some_and(|pending| pending.version == candidate.version);
        if !is_pending && !joined.contains_key(&(id.clone(), candidate.version)) {
            cell.remove_candidate(id, candidate.version);
        }
    }
}

/// Warns of a problem once, until it is another one.
fn said_once(last: &mut Option<String>, problem: Problem, what: &str) {
    if last.as_ref() != Some(&problem.detail) {
        warn!(%problem, "{what}; it is tried again");
        *last = Some(problem.detail);
    }
}

#[async_trait]
impl Member for Membership {
    fn epoch(&self) -> IngestEpoch {
        IngestEpoch(self.epoch.load(Ordering::SeqCst))
    }

    async fn follow(&self, sequence: u64) {
        if self.applied.load(Ordering::SeqCst) >= sequence.max(1) {
            return;
        }
        // Whoever asks for a stream that could not be opened finds it missing; others go on.
        if let Err(problem) = self.bring_up(sequence, false).await {
            debug!(%problem, "a stream could not be opened");
        }
    }

    async fn target(&self, asked: &TakeTarget) -> Result<Target, Problem> {
        let open = self.node.0.streams.get(&asked.stream);
        let open = open.ok_or_else(|| Problem::not_found("stream", &asked.stream))?;
        let state = self.node.0.catalog.state();
        for joining in &asked.joining {
            let mut known = self.known.lock().await;
            let cell = open.cell();
            if cell
                .load()
                .definition(&joining.view, joining.version)
                .is_none()
            {
                let stream = state.streams.get(&asked.stream);
                let stream = stream.ok_or_else(|| Problem::not_found("stream", &asked.stream))?;
                let view = compile(stream, &joining.sql).map_err(Problem::internal)?;
                cell.join_candidate(&joining.view, &joining.name, joining.version, view);
            }
            let key = (joining.view.clone(), joining.version);
            known.joined.insert(key, Instant::now());
        }
        let taking = async {
            open.feed().catch_up(open.cell()).await;
            open.targets().take().await
        };
        let taken = timeout(TARGET_WAIT, taking).await.map_err(|_| {
            Problem::new(
                ProblemKind::Unavailable,
                "what was read is not accumulated and archived in time; try again",
            )
        })?;
        taken.map_err(|error| Problem::new(error.kind(), error.to_string()))
    }
}

/// What a process that takes events needs of others to answer.
#[derive(Debug)]
pub(super) struct OfMember<E> {
    pub(super) membership: Arc<Membership>,
    pub(super) others: E,
}

#[async_trait]
impl<E: Elsewhere> Elsewhere for OfMember<E> {
    fn url(&self) -> Result<String, Problem> {
        self.others.url()
    }

    async fn moved(&self, url: &str) {
        self.others.moved(url).await;
    }

    async fn ready(&self) -> Result<(), Problem> {
        let state = self.membership.node.0.catalog.state();
        let share = state.ingest.share_of(self.membership.id());
        if share.is_some() && self.membership.epoch() == state.ingest.epoch {
            return Ok(());
        }
        let trouble = self.membership.trouble.lock().clone();
        Err(trouble.unwrap_or_else(no_share))
    }
}

fn no_share() -> Problem {
    Problem::new(
        ProblemKind::Unavailable,
        "this process has no partitions yet: it waits for the one that decides (--roles batch) to give it some",
    )
    .with("retry_after_s", 2)
}
