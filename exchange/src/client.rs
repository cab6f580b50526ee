// SPDX-License-Identifier: Apache-2.0
//! Takes cuts of the process that takes the events.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, cast::AsArray};
use arrow::datatypes::UInt32Type;
use arrow_flight::error::FlightError;
use arrow_flight::{Action, FlightClient, FlightDescriptor, Ticket};
use async_trait::async_trait;
use datafusion::logical_expr::Expr;
use dovetail_log::catalog::Catalog;
use dovetail_log::raw::{RawReader, root_of};
use dovetail_model::{
    CatalogState, Clock, Endpoints, GenerationNumber, Position, Problem, ProblemKind, StreamId,
    StreamState, ViewId, ViewState,
};
use dovetail_seam::{
    Account, Ages, CutSource, Generation, HeldCut, HeldEvents, HeldTail, HeldView, RemoteRuns,
    RemoteTail, Runs, ToldAges, Wanted,
};
use dovetail_view::{Run, View};
use futures::TryStreamExt;
use object_store::ObjectStore;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tracing::{debug, warn};

use crate::filter::KeyFilter;
use crate::server::with_run_column;
use crate::wire::{Fetch, Part, RELEASE, TakeCut, TakenCut, TakenRun, TakenView, problem_in};

/// How long a connection may take.
const CONNECT_WAIT: Duration = Duration::from_secs(2);
/// A peer that is silent for so long is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// What an answer takes beside the waiting.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// How long a question that needs no runs waits to hear how fresh its answer is.
const AGES_WAIT: Duration = Duration::from_secs(1);
/// A cut is held a little longer than its question may take.
const HOLD_LONGER: Duration = Duration::from_secs(5);
/// How often a cut is taken again because who takes the events, or the catalog, has changed.
const TRIES: usize = 3;
/// When to ask again while nobody answers.
const PAUSE_S: u64 = 2;
/// More generations than this are not kept compiled.
const MOST_GENERATIONS: usize = 256;

/// What a reader shows to the process that takes the events.
#[derive(Clone, Default)]
pub struct PeerToken(Option<Arc<str>>);

impl PeerToken {
    /// A bearer token; none where none is asked for.
    pub fn new(token: Option<&str>) -> Self {
        Self(token.map(Arc::from))
    }
}

impl fmt::Debug for PeerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "set" } else { "none" })
    }
}

/// What a reader of cuts works with.
#[derive(Debug, Clone)]
pub struct RemoteCutsConfig {
    /// The catalog of the store, which this process only reads.
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

/// Takes cuts of whichever process the catalog names. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RemoteCuts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: RemoteCutsConfig,
    /// The connection, and to where.
    channel: Mutex<Option<(String, Channel)>>,
    raw: Mutex<HashMap<StreamId, Arc<RawReader>>>,
    generations: Mutex<HashMap<(ViewId, GenerationNumber), Arc<Generation>>>,
}

/// Why a call came to nothing.
enum Failed {
    /// Nobody answers.
    Silent(Problem),
    /// It answered a problem.
    Refused(Problem),
    /// There is no such stream.
    NoStream,
}

impl RemoteCuts {
    /// Reads nothing yet, and connects to nobody.
    pub fn new(config: RemoteCutsConfig) -> Self {
        Self(Arc::new(Inner {
            config,
            channel: Mutex::default(),
            raw: Mutex::default(),
            generations: Mutex::default(),
        }))
    }

    /// Whether the process that takes the events answers.
    ///
    /// # Errors
    /// `Unavailable`, saying who does not.
    pub async fn ready(&self) -> Result<(), Problem> {
        let catalog = self.0.config.catalog.state();
        let endpoints = endpoints(&catalog)?;
        let nothing = Action::new(RELEASE, "0");
        let mut client = self.0.client(&endpoints)?;
        let asked = timeout(ANSWER_WAIT, client.do_action(nothing)).await;
        let said = asked.map_err(|_| slow(ANSWER_WAIT, &endpoints).problem())?;
        let _nothing = said.map_err(|error| failed(error, &endpoints).problem())?;
        Ok(())
    }
}

#[async_trait]
impl CutSource for RemoteCuts {
    async fn take(&self, wanted: &Wanted) -> Result<Option<HeldCut>, Problem> {
        for _ in 0..TRIES {
            let catalog = self.0.config.catalog.state();
            let asked = match endpoints(&catalog) {
                Ok(endpoints) => self.0.ask(&endpoints, wanted).await,
                Err(problem) => Err(Failed::Silent(problem)),
            };
            match asked {
                Ok((client, taken)) => {
                    if taken.sequence > catalog.sequence {
                        self.0.reload().await?;
                    }
                    let catalog = self.0.config.catalog.state();
                    if taken.epoch < catalog.epoch() {
                        // It does not know yet that another has the store.
                        continue;
                    }
                    return self.0.held(wanted, &catalog, client, taken).await;
                }
                Err(Failed::NoStream) => {
                    self.0.reload().await?;
                    return Ok(None);
                }
                Err(Failed::Refused(problem)) => return Err(problem),
                Err(Failed::Silent(problem)) => {
                    // Perhaps another takes the events by now, and has said so.
                    let newer = self.0.reload().await?;
                    if newer.claim != catalog.claim {
                        continue;
                    }
                    if wanted.merged {
                        return Err(problem);
                    }
                    return self.0.alone(wanted, &newer, &problem).await;
                }
            }
        }
        Err(unavailable("the store changes hands; ask again".to_owned()))
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

    /// A client on the one connection to `endpoints`.
    fn client(&self, endpoints: &Endpoints) -> Result<FlightClient, Problem> {
        let mut known = self.channel.lock();
        let channel = match known.as_ref() {
            Some((to, channel)) if *to == endpoints.cuts => channel.clone(),
            _ => {
                let endpoint = Endpoint::from_shared(endpoints.cuts.clone())
                    .map_err(|error| Problem::internal(format!("`{}`: {error}", endpoints.cuts)))?
                    .connect_timeout(CONNECT_WAIT)
                    .http2_keep_alive_interval(KEEPALIVE)
                    .keep_alive_timeout(KEEPALIVE)
                    .keep_alive_while_idle(true)
                    .tcp_nodelay(true);
                let channel = endpoint.connect_lazy();
                *known = Some((endpoints.cuts.clone(), channel.clone()));
                channel
            }
        };
        drop(known);
        // Rows may be of any size: a message holds at least one.
        let service = arrow_flight::flight_service_client::FlightServiceClient::new(channel)
            .max_decoding_message_size(usize::MAX);
        let mut client = FlightClient::new_from_inner(service);
        if let Some(token) = &self.config.token.0 {
            let bearer = format!("Bearer {token}");
            let added = client.add_header("authorization", &bearer);
            added.map_err(|_| Problem::internal("the token for other processes is no header"))?;
        }
        Ok(client)
    }

    async fn ask(
        &self,
        endpoints: &Endpoints,
        wanted: &Wanted,
    ) -> Result<(Asker, TakenCut), Failed> {
        let left = wanted.deadline.saturating_duration_since(Instant::now());
        let after = wanted.after.iter().map(|token| &token.position);
        let after = after.fold(None, |all: Option<Position>, one| {
            Some(all.map_or_else(|| one.clone(), |all| all.join(one)))
        });
        let patience = match (wanted.merged, &after) {
            (false, None) => AGES_WAIT,
            (true, None) => ANSWER_WAIT,
            (_, Some(_)) => left + ANSWER_WAIT,
        };
        let request = TakeCut {
            stream: wanted.stream.clone(),
            views: wanted.views.clone(),
            merged: wanted.merged,
            events: wanted.events,
            ends: wanted.ends.clone(),
            after,
            wait_ms: millis(left),
            hold_ms: millis(left + HOLD_LONGER),
        };
        let mut client = self.client(endpoints).map_err(Failed::Refused)?;
        let descriptor = FlightDescriptor::new_cmd(json(&request));
        let asking = timeout(patience, client.get_flight_info(descriptor)).await;
        let said = asking.map_err(|_| slow(patience, endpoints))?;
        let said = said.map_err(|error| failed(error, endpoints))?;
        let taken: TakenCut = serde_json::from_slice(&said.app_metadata).map_err(|error| {
            Failed::Refused(Problem::internal(format!(
                "{} answered what this version does not understand ({error})",
                endpoints.cuts
            )))
        })?;
        let asker = Asker {
            client,
            endpoints: endpoints.clone(),
            cut: taken.cut,
            runtime: self.config.runtime.clone(),
        };
        Ok((asker, taken))
    }

    /// What was taken, over this process's view of the store.
    async fn held(
        &self,
        wanted: &Wanted,
        catalog: &CatalogState,
        asker: Asker,
        taken: TakenCut,
    ) -> Result<Option<HeldCut>, Problem> {
        let asker = Arc::new(asker);
        let Some(stream) = catalog.streams.get(&wanted.stream) else {
            return Ok(None);
        };
        let mut def = stream.def.clone();
        def.schema = taken.schema.clone();
        let mut views = BTreeMap::new();
        let mut behind: Vec<_> = wanted.ends.iter().cloned().zip(taken.behind).collect();
        for view in taken.views {
            // Dropped meanwhile: the names are resolved again.
            if let Some(state) = catalog.views.get(&view.id) {
                let (id, arrived) = (view.id.clone(), view.behind);
                let held = self.held_view(stream, state, view, &asker)?;
                let horizon = held
                    .generation
                    .as_ref()
                    .map(|generation| generation.horizon());
                behind.extend(horizon.map(|horizon| (horizon.clone(), arrived)));
                views.insert(id, held);
            }
        }
        let events = if wanted.events {
            let reader = self.raw_reader(stream)?;
            let raw = reader.covering(&taken.archived, &taken.schema).await;
            let tail = Tail {
                asker: Arc::clone(&asker),
            };
            Some(HeldEvents {
                raw: raw.map_err(|error| Problem::new(error.kind(), error.to_string()))?,
                archived: taken.archived.clone(),
                tail: HeldTail::Elsewhere(Arc::new(tail)),
            })
        } else {
            None
        };
        // Its clock need not be ours.
        let skew = self.config.clock.now_us() - taken.now_us;
        let here = |arrived: Option<i64>| arrived.map(|arrived| arrived + skew);
        let behind = behind.into_iter();
        Ok(Some(HeldCut {
            stream: Arc::new(def),
            position: taken.position,
            views,
            events,
            ages: Ages::Told(ToldAges {
                behind_cut: here(taken.behind_cut),
                behind: behind.map(|(end, arrived)| (end, here(arrived))).collect(),
            }),
            notes: vec![],
            guard: Some(asker as _),
        }))
    }

    fn held_view(
        &self,
        stream: &StreamState,
        state: &ViewState,
        taken: TakenView,
        asker: &Arc<Asker>,
    ) -> Result<HeldView, Problem> {
        let generation = taken
            .generation
            .map(|number| self.generation(stream, state, number));
        let generation = generation.transpose()?;
        let runs = match &generation {
            Some(generation) => Runs::Elsewhere(Arc::new(ViewRuns {
                asker: Arc::clone(asker),
                id: taken.id,
                view: Arc::clone(generation.view()),
                runs: taken.runs,
            })),
            None => Runs::default(),
        };
        Ok(HeldView {
            name: taken.name,
            generation,
            runs,
            poisoned: taken.poisoned,
        })
    }

    /// The generations alone, while nobody has runs for us.
    async fn alone(
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

/// Asks for parts of one cut that is held elsewhere, and lets go of it in the end.
#[derive(Debug)]
struct Asker {
    client: FlightClient,
    endpoints: Endpoints,
    cut: u64,
    runtime: Handle,
}

impl Asker {
    fn client(&self) -> FlightClient {
        let mut client = FlightClient::new_from_inner(self.client.inner().clone());
        *client.metadata_mut() = self.client.metadata().clone();
        client
    }

    /// Hands each batch of a part to `each`, and what it takes to `account`.
    async fn fetch(
        &self,
        part: Part,
        account: &mut Account<'_>,
        mut each: impl FnMut(RecordBatch) -> Result<(), Problem> + Send,
    ) -> Result<(), Problem> {
        let asked = Fetch {
            cut: self.cut,
            part,
        };
        let said = |error| failed(error, &self.endpoints).problem();
        let mut client = self.client();
        let mut batches = client
            .do_get(Ticket::new(json(&asked)))
            .await
            .map_err(said)?;
        while let Some(batch) = batches.try_next().await.map_err(said)? {
            account(batch.get_array_memory_size())?;
            each(batch)?;
        }
        Ok(())
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        let (mut client, cut) = (self.client(), self.cut);
        self.runtime.spawn(async move {
            let release = Action::new(RELEASE, cut.to_string());
            // Not heard of, it goes when its time is up.
            let released = timeout(ANSWER_WAIT, client.do_action(release)).await;
            if let Ok(Err(error)) = released {
                debug!(%error, "a cut was not let go of");
            }
        });
    }
}

#[derive(Debug)]
struct ViewRuns {
    asker: Arc<Asker>,
    id: ViewId,
    view: Arc<View>,
    runs: Vec<TakenRun>,
}

#[async_trait]
impl RemoteRuns for ViewRuns {
    fn sizes(&self) -> Vec<(u64, usize)> {
        self.runs.iter().map(|run| (run.rows, run.bytes)).collect()
    }

    async fn fetch(
        &self,
        filters: &[Expr],
        account: &mut Account<'_>,
    ) -> Result<Vec<Arc<Run>>, Problem> {
        if self.runs.is_empty() {
            return Ok(vec![]);
        }
        let part = Part::Runs {
            view: self.id.clone(),
            filters: KeyFilter::of(&self.view, filters),
        };
        let (travels, schema) = (with_run_column(&self.view), self.view.state_schema());
        let mut states: Vec<Vec<RecordBatch>> = vec![vec![]; self.runs.len()];
        let sort = |batch: RecordBatch| {
            if batch.schema_ref().fields() != travels.fields() {
                return Err(Problem::internal(
                    "the states of another process are not those of this one: they must be of one version",
                ));
            }
            let Some(place) = batch
                .column(0)
                .as_primitive::<UInt32Type>()
                .values()
                .first()
            else {
                return Ok(());
            };
            let columns = batch.columns()[1..].to_vec();
            let batch = RecordBatch::try_new(Arc::clone(&schema), columns);
            let run = states.get_mut(*place as usize);
            let run = run.ok_or_else(|| Problem::internal("a run came that was not named"))?;
            run.push(batch.map_err(Problem::internal)?);
            Ok(())
        };
        self.asker.fetch(part, account, sort).await?;
        let runs = self.runs.iter().zip(states);
        let run = |(run, states): (&TakenRun, Vec<RecordBatch>)| {
            Arc::new(Run::from_sorted(&self.view, run.span.clone(), states))
        };
        Ok(runs.map(run).collect())
    }
}

#[derive(Debug)]
struct Tail {
    asker: Arc<Asker>,
}

#[async_trait]
impl RemoteTail for Tail {
    async fn fetch(
        &self,
        columns: &[usize],
        account: &mut Account<'_>,
    ) -> Result<Vec<RecordBatch>, Problem> {
        let part = Part::Tail {
            columns: columns.to_vec(),
        };
        let mut batches = vec![];
        let each = |batch| {
            batches.push(batch);
            Ok(())
        };
        self.asker.fetch(part, account, each).await?;
        Ok(batches)
    }
}

impl Failed {
    fn problem(self) -> Problem {
        match self {
            Self::Refused(problem) | Self::Silent(problem) => problem,
            Self::NoStream => unavailable("the stream is not open there; ask again".to_owned()),
        }
    }
}

fn failed(error: FlightError, endpoints: &Endpoints) -> Failed {
    let FlightError::Tonic(status) = error else {
        return silent(&error.to_string(), endpoints);
    };
    if let Some(problem) = problem_in(&status) {
        return match problem.kind {
            ProblemKind::NotFound => Failed::NoStream,
            ProblemKind::Unauthenticated | ProblemKind::Forbidden => {
                Failed::Refused(unavailable(format!(
                    "the process that takes the events refuses the token that this one shows it (--peer-token): {}",
                    problem.detail
                )))
            }
            _ => Failed::Refused(problem),
        };
    }
    match status.code() {
        // A version that does not understand us says why.
        Code::InvalidArgument | Code::Unimplemented => {
            Failed::Refused(Problem::internal(status.message()))
        }
        _ => silent(&why(&status), endpoints),
    }
}

fn silent(why: &str, endpoints: &Endpoints) -> Failed {
    Failed::Silent(unavailable(format!(
        "the process that takes the events does not answer at `{}`: {why}; until it does, layer=batch answers from the generations",
        endpoints.cuts
    )))
}

/// What is at the bottom of a failed call, in a few words.
fn why(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    text
}

fn slow(waited: Duration, endpoints: &Endpoints) -> Failed {
    silent(
        &format!("no answer within {} ms", waited.as_millis()),
        endpoints,
    )
}

fn endpoints(catalog: &CatalogState) -> Result<Arc<Endpoints>, Problem> {
    let claim = catalog.claim.as_ref();
    let endpoints = claim.and_then(|claim| claim.endpoints.clone());
    endpoints.ok_or_else(|| {
        unavailable(
            "no process has said where it hands out what it holds in memory: start the one that takes the events with --cuts ADDRESS; layer=batch answers from the generations".to_owned(),
        )
    })
}

fn unavailable(detail: String) -> Problem {
    Problem::new(ProblemKind::Unavailable, detail).with("retry_after_s", PAUSE_S)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn json(said: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(said).expect("what is said is plain data")
}
