// SPDX-License-Identifier: Apache-2.0
//! Hands out cuts.

use std::collections::HashMap;
use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use async_trait::async_trait;
use datafusion::error::DataFusionError;
use dovetail_log::catalog::Catalog;
use dovetail_model::{Clock, IngestEpoch, Position, Problem, ProblemKind, StoreEpoch, ViewId};
use dovetail_seam::{
    Answering, Cells, Cut, StreamCell, Target, ViewCut, not_reached, oldest_behind, token,
};
use dovetail_view::View;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::fetches::{Fetches, Fetching, Places, let_go, pieces};
use crate::states::{Batches, batches_of, encode};
use crate::wire::{
    Fetch, GREET, Heard, MOVED, Part, RELEASE, RELEASE_TARGET, REPORT, Report, TARGET, TakeCut,
    TakeTarget, TakenCut, TakenRun, TakenTarget, TakenView, status_of,
};
use crate::work::{ANSWER, BEAT, Desk};

/// Most cuts that are held at once: each keeps runs and files that would go otherwise.
const MOST_CUTS: usize = 1024;
/// No cut is held for longer, whatever a reader asks.
const LONGEST_HOLD: Duration = Duration::from_secs(3600);
/// For how long an edge is kept when whoever took the target has let go of it: a process that takes events hears of
/// what was published there a little later.
const EDGE_GRACE: Duration = Duration::from_secs(60);
/// How often it is looked for cuts whose time is up.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Requests at once on one connection.
const REQUESTS_AT_ONCE: usize = 256;
/// Answers that are under way on one connection.
const ANSWERS_AT_ONCE: u32 = 1024;
/// What a worker's answer may take, which names the files of a generation: some hundred bytes for 64 Ki groups.
const LARGEST_REQUEST: usize = 64 << 20;
/// A peer that is silent for so long is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Says whether whoever sends these headers may do what they ask.
pub type Permits = Arc<dyn Fn(&MetadataMap) -> Result<(), Problem> + Send + Sync>;

/// Hands out the cuts of this process.
#[derive(Clone)]
pub struct CutServer {
    cells: Arc<dyn Cells>,
    catalog: Arc<Catalog>,
    clock: Arc<dyn Clock>,
    reads: Permits,
    peers: Permits,
    role: Role,
    held: Arc<Mutex<HashMap<u64, Held>>>,
    places: Places,
    /// Who works for this process.
    work: Option<Desk>,
}

/// What this process does of what others need.
#[derive(Clone)]
enum Role {
    /// It has the store, and takes the events where no others do.
    Decider {
        epoch: StoreEpoch,
        reports: Option<Arc<dyn Reports>>,
    },
    /// It takes its share of the events.
    Member(Arc<dyn Member>),
}

/// A process that takes its share of the events, as others ask it.
#[async_trait]
pub trait Member: Send + Sync + fmt::Debug {
    /// The epoch in which its streams are open.
    fn epoch(&self) -> IngestEpoch;

    /// Follows the catalog at least up to `sequence`. A stream that cannot be opened as it says is missing then.
    async fn follow(&self, sequence: u64);

    /// Takes a target on its share of a stream.
    ///
    /// # Errors
    /// `NotFound` for a stream that is not open; `Unavailable` when it cannot be archived.
    async fn target(&self, asked: &TakeTarget) -> Result<Target, Problem>;
}

/// Hears how the processes stand that take the events.
pub trait Reports: Send + Sync + fmt::Debug {
    /// One of them says how it stands, and hears what there is to know.
    fn heard(&self, report: Report) -> Heard;
}

/// A cut that a reader may still fetch from, or an edge that a batch run may still publish at.
struct Held {
    what: HeldFor,
    until: Instant,
}

enum HeldFor {
    Question(Arc<HeldCut>),
    Run(#[expect(dead_code, reason = "it is an edge for as long as it lives")] Target),
}

/// A cut, and under which generations it answers.
struct HeldCut {
    cut: Arc<Cut>,
    views: HashMap<ViewId, (Arc<View>, Answering)>,
    fetches: Fetches,
}

impl fmt::Debug for CutServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CutServer")
            .field("held", &self.held.lock().len())
            .finish_non_exhaustive()
    }
}

impl CutServer {
    /// A server of the cuts of `cells`, whose process writes `catalog` in `epoch`, and hears `reports` where others
    /// take the events. `reads` are permitted to readers, all else to `peers`.
    pub fn of_decider(
        cells: Arc<dyn Cells>,
        catalog: Arc<Catalog>,
        epoch: StoreEpoch,
        reports: Option<Arc<dyn Reports>>,
        clock: Arc<dyn Clock>,
        (reads, peers): (Permits, Permits),
    ) -> Self {
        let role = Role::Decider { epoch, reports };
        Self::of(cells, catalog, role, clock, (reads, peers))
    }

    /// A server of the cuts of `cells`, which are those of a `member`, over the `catalog` that it follows.
    pub fn of_member(
        cells: Arc<dyn Cells>,
        catalog: Arc<Catalog>,
        member: Arc<dyn Member>,
        clock: Arc<dyn Clock>,
        (reads, peers): (Permits, Permits),
    ) -> Self {
        Self::of(cells, catalog, Role::Member(member), clock, (reads, peers))
    }

    fn of(
        cells: Arc<dyn Cells>,
        catalog: Arc<Catalog>,
        role: Role,
        clock: Arc<dyn Clock>,
        (reads, peers): (Permits, Permits),
    ) -> Self {
        Self {
            cells,
            catalog,
            clock,
            reads,
            peers,
            role,
            held: Arc::default(),
            places: Places::default(),
            work: None,
        }
    }

    /// The same, which hands out the work of `desk`, too, to `peers`: workers write to the store.
    #[must_use]
    pub fn with_work(self, desk: Desk) -> Self {
        Self {
            work: Some(desk),
            ..self
        }
    }

    /// Answers on `listener` until `stop`; what is being fetched then is cut off.
    ///
    /// # Errors
    /// The listener's.
    pub async fn serve(
        self,
        listener: TcpListener,
        stop: CancellationToken,
    ) -> Result<(), tonic::transport::Error> {
        let sweeping = self.clone();
        let sweep = async move {
            loop {
                tokio::time::sleep(SWEEP_INTERVAL).await;
                sweeping.let_go_of_old();
            }
        };
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let serving = Server::builder()
            .concurrency_limit_per_connection(REQUESTS_AT_ONCE)
            .max_concurrent_streams(ANSWERS_AT_ONCE)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .add_service(FlightServiceServer::new(self).max_decoding_message_size(LARGEST_REQUEST))
            .serve_with_incoming(incoming);
        tokio::select! {
            served = serving => served,
            () = stop.cancelled() => Ok(()),
            () = sweep => pending().await,
        }
    }

    fn let_go_of_old(&self) {
        let now = Instant::now();
        self.held.lock().retain(|_, held| held.until > now);
    }

    fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        (self.reads)(request.metadata()).map_err(|problem| status_of(&problem))
    }

    /// Whether `ingest` is the division of the partitions that this process knows, and its catalog goes up to
    /// `sequence`.
    async fn keep_up(&self, ingest: IngestEpoch, sequence: u64) -> Result<(), Problem> {
        let ours = match &self.role {
            Role::Decider { .. } => self.catalog.state().ingest.epoch,
            Role::Member(member) => {
                member.follow(sequence).await;
                member.epoch()
            }
        };
        if ours == ingest {
            return Ok(());
        }
        Err(moved(format!(
            "who takes the events is changing (epoch {ours} here, {ingest} asked for); ask again"
        )))
    }

    async fn take(&self, asked: TakeCut) -> Result<TakenCut, Problem> {
        self.keep_up(asked.ingest, asked.sequence).await?;
        let cell = self
            .cells
            .cell(&asked.stream)
            .ok_or_else(|| Problem::not_found("stream", &asked.stream))?;
        let cut = reach(&cell, &asked).await?;
        // Whatever the cut names was committed before it was swapped in.
        let catalog = self.catalog.state();
        let mut views = vec![];
        let mut answering = HashMap::new();
        for id in &asked.views {
            let Some(view) = cut.views().get(id) else {
                continue;
            };
            let under = under(view, id, &asked)?;
            views.push(taken_view(id, view, &under, &cell, &cut, asked.merged));
            answering.insert(id.clone(), (Arc::clone(&view.view), under));
        }
        let held = HeldCut {
            cut: Arc::clone(&cut),
            views: answering,
            fetches: Fetches::default(),
        };
        let until = Duration::from_millis(asked.hold_ms).min(LONGEST_HOLD);
        let number = self.hold(HeldFor::Question(Arc::new(held)), until)?;
        let behind = asked.ends.iter();
        let epoch = match &self.role {
            Role::Decider { epoch, .. } => *epoch,
            Role::Member(_) => catalog.epoch(),
        };
        Ok(TakenCut {
            epoch,
            sequence: catalog.sequence,
            cut: number,
            position: cut.position().clone(),
            archived: cut.raw().archived().clone(),
            schema: cut.stream().schema.clone(),
            now_us: self.clock.now_us(),
            behind_cut: oldest_behind(&cell, &cut, cut.position()),
            behind: behind.map(|end| oldest_behind(&cell, &cut, end)).collect(),
            views,
        })
    }

    async fn target(&self, asked: TakeTarget) -> Result<TakenTarget, Problem> {
        let Role::Member(member) = &self.role else {
            return Err(Problem::conflict(
                "this process takes no targets for others",
            ));
        };
        self.keep_up(asked.ingest, asked.sequence).await?;
        let target = member.target(&asked).await?;
        let position = target.position().clone();
        // The partitions may have changed hands while it was archived.
        self.keep_up(asked.ingest, asked.sequence).await?;
        let number = self.hold(HeldFor::Run(target), LONGEST_HOLD)?;
        Ok(TakenTarget {
            target: number,
            position,
        })
    }

    fn report(&self, report: Report) -> Result<Heard, Problem> {
        match &self.role {
            Role::Decider {
                reports: Some(reports),
                ..
            } => Ok(reports.heard(report)),
            _ => Err(Problem::conflict(
                "the process that has the store takes the events itself: start it with --roles batch, or this one with --roles serve",
            )),
        }
    }

    /// Who works for this process.
    fn desk(&self) -> Result<&Desk, Status> {
        self.work.as_ref().ok_or_else(|| {
            let detail = "only the process that has the store hands out work";
            status_of(&Problem::conflict(detail))
        })
    }

    fn hold(&self, what: HeldFor, until: Duration) -> Result<u64, Problem> {
        let held = Held {
            what,
            until: Instant::now() + until,
        };
        let mut all = self.held.lock();
        if all.len() >= MOST_CUTS {
            let now = Instant::now();
            all.retain(|_, held| held.until > now);
        }
        if all.len() >= MOST_CUTS {
            return Err(Problem::new(
                ProblemKind::Busy,
                format!("{MOST_CUTS} questions of other processes are being answered; ask again"),
            )
            .with("retry_after_s", 1));
        }
        // A process that has started anew does not know the cuts of the last one by their numbers.
        let number = dovetail_log::catalog::random_u64();
        all.insert(number, held);
        Ok(number)
    }

    fn held_cut(&self, number: u64) -> Result<Arc<HeldCut>, Problem> {
        let held = self.held.lock();
        let cut = match held.get(&number).map(|held| &held.what) {
            Some(HeldFor::Question(cut)) => Some(Arc::clone(cut)),
            _ => None,
        };
        cut.ok_or_else(let_go)
    }

    async fn fetch(&self, asked: Fetch) -> Result<Fetching, Problem> {
        let place = self.places.take().await;
        let held = self.held_cut(asked.cut)?;
        let (schema, batches) = held.part(asked.part)?;
        Ok(held.fetches.begin(encode(schema, batches), place))
    }
}

impl HeldCut {
    fn part(&self, part: Part) -> Result<(SchemaRef, Batches), Problem> {
        match part {
            Part::Runs { view, filters } => {
                let view = self.views.get(&view);
                let (view, under) =
                    view.ok_or_else(|| Problem::internal("the cut lacks a view"))?;
                batches_of(view, &under.runs, &filters).map_err(Problem::internal)
            }
            Part::Tail { columns } => {
                let cut = &self.cut;
                let schema = cut.stream().schema.events();
                let schema = schema.project(&columns).map_err(Problem::internal)?;
                let tail: Vec<_> = cut.tail().iter().cloned().collect();
                let batches = stream::iter(tail).map(move |batch| {
                    let projected = batch.events.project(&columns);
                    projected.map(|batch| stream::iter(pieces(batch).map(Ok)))
                });
                let batches = batches.map_err(DataFusionError::from).try_flatten();
                Ok((Arc::new(schema), batches.boxed()))
            }
        }
    }
}

async fn reach(cell: &StreamCell, asked: &TakeCut) -> Result<Arc<Cut>, Problem> {
    let Some(position) = &asked.after else {
        return Ok(cell.load());
    };
    let wait = Duration::from_millis(asked.wait_ms);
    let waiting = timeout_at(Instant::now() + wait, cell.wait_for(position));
    waiting.await.map_err(|_| {
        let cut = cell.load();
        let at = |position: &Position| token(cut.stream(), position);
        not_reached(&at(position), &at(cut.position()), wait)
    })
}

/// What a view answers with under the generation that was asked for.
fn under(view: &ViewCut, id: &ViewId, asked: &TakeCut) -> Result<Answering, Problem> {
    let named = asked.generations.iter().find(|(of, _)| of == id);
    let number = named.and_then(|(_, number)| *number);
    view.under(number).ok_or_else(|| {
        moved(format!(
            "view `{}` has moved on from the generation that was asked for; ask again",
            view.name
        ))
    })
}

/// A problem that is over once whoever asks knows the newest catalog.
fn moved(detail: String) -> Problem {
    Problem::new(ProblemKind::Unavailable, detail)
        .with("retry_after_s", 1)
        .with(MOVED, true)
}

fn taken_view(
    id: &ViewId,
    view: &ViewCut,
    under: &Answering,
    cell: &StreamCell,
    cut: &Cut,
    merged: bool,
) -> TakenView {
    let runs = under.runs.iter().filter(|_| merged);
    let alone = under.generation.as_ref();
    let alone = alone.filter(|generation| !merged || !generation.is_mergeable());
    TakenView {
        id: id.clone(),
        name: view.name.clone(),
        generation: under
            .generation
            .as_ref()
            .map(|generation| generation.number()),
        behind: alone.and_then(|alone| oldest_behind(cell, cut, alone.horizon())),
        runs: runs
            .map(|run| TakenRun {
                span: run.span().clone(),
                rows: run.rows() as u64,
                bytes: run.bytes(),
            })
            .collect(),
        poisoned: under.poisoned.clone(),
    }
}

fn parsed<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Status> {
    serde_json::from_slice(bytes).map_err(|error| {
        Status::invalid_argument(format!(
            "not a request of this version of Dovetail ({error}): replicas and the process that takes the events must be of one version"
        ))
    })
}

type Answers = BoxStream<'static, Result<arrow_flight::Result, Status>>;

fn answered(said: &impl Serialize) -> Result<Response<Answers>, Status> {
    let said = serde_json::to_vec(said).map_err(|error| Status::internal(error.to_string()))?;
    let answer = arrow_flight::Result { body: said.into() };
    Ok(Response::new(stream::iter([Ok(answer)]).boxed()))
}

fn unimplemented<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("only cuts are handed out here"))
}

#[tonic::async_trait]
impl FlightService for CutServer {
    type HandshakeStream = BoxStream<'static, Result<HandshakeResponse, Status>>;
    type ListFlightsStream = BoxStream<'static, Result<FlightInfo, Status>>;
    type DoGetStream = BoxStream<'static, Result<FlightData, Status>>;
    type DoPutStream = BoxStream<'static, Result<PutResult, Status>>;
    type DoExchangeStream = BoxStream<'static, Result<FlightData, Status>>;
    type DoActionStream = BoxStream<'static, Result<arrow_flight::Result, Status>>;
    type ListActionsStream = BoxStream<'static, Result<ActionType, Status>>;

    async fn get_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.check(&request)?;
        let asked = parsed(&request.into_inner().cmd)?;
        let taken = self
            .take(asked)
            .await
            .map_err(|problem| status_of(&problem))?;
        let said = serde_json::to_vec(&taken).map_err(|e| Status::internal(e.to_string()))?;
        Ok(Response::new(FlightInfo::new().with_app_metadata(said)))
    }

    async fn do_get(
        &self,
        request: Request<Ticket>,
    ) -> Result<Response<Self::DoGetStream>, Status> {
        self.check(&request)?;
        let asked = parsed(&request.into_inner().ticket)?;
        let fetching = self.fetch(asked).await;
        let fetching = fetching.map_err(|problem| status_of(&problem))?;
        Ok(Response::new(fetching.boxed()))
    }

    async fn do_action(
        &self,
        request: Request<Action>,
    ) -> Result<Response<Self::DoActionStream>, Status> {
        let refused = |problem: Problem| status_of(&problem);
        let (headers, _, action) = request.into_parts();
        if action.r#type == RELEASE {
            (self.reads)(&headers).map_err(refused)?;
            let number: u64 = parsed(&action.body)?;
            self.held.lock().remove(&number);
            return Ok(Response::new(stream::empty().boxed()));
        }
        (self.peers)(&headers).map_err(refused)?;
        match action.r#type.as_str() {
            GREET => Ok(Response::new(stream::empty().boxed())),
            TARGET => {
                let asked = parsed(&action.body)?;
                answered(&self.target(asked).await.map_err(refused)?)
            }
            RELEASE_TARGET => {
                let number: u64 = parsed(&action.body)?;
                if let Some(held) = self.held.lock().get_mut(&number) {
                    held.until = held.until.min(Instant::now() + EDGE_GRACE);
                }
                Ok(Response::new(stream::empty().boxed()))
            }
            REPORT => {
                let report = parsed(&action.body)?;
                answered(&self.report(report).map_err(refused)?)
            }
            BEAT => {
                let beat = parsed(&action.body)?;
                answered(&self.desk()?.beat(beat).await.map_err(refused)?)
            }
            ANSWER => answered(&self.desk()?.answer(parsed(&action.body)?)),
            _ => unimplemented(),
        }
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        unimplemented()
    }

    async fn list_flights(
        &self,
        _: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        unimplemented()
    }

    async fn poll_flight_info(
        &self,
        _: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        unimplemented()
    }

    async fn get_schema(
        &self,
        _: Request<FlightDescriptor>,
    ) -> Result<Response<SchemaResult>, Status> {
        unimplemented()
    }

    async fn do_put(
        &self,
        _: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        unimplemented()
    }

    async fn do_exchange(
        &self,
        _: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        unimplemented()
    }

    async fn list_actions(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        unimplemented()
    }
}
