// SPDX-License-Identifier: Apache-2.0
//! Hands out cuts.

use std::collections::HashMap;
use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_flight::encode::{DictionaryHandling, FlightDataEncoderBuilder};
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use datafusion::common::cast::as_boolean_array;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use dovetail_log::catalog::Catalog;
use dovetail_model::{Clock, Position, Problem, ProblemKind, StoreEpoch, ViewId};
use dovetail_seam::{Cells, Cut, StreamCell, ViewCut, not_reached, oldest_behind, token};
use dovetail_view::{Run, View};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::filter::KeyFilter;
use crate::wire::{
    Fetch, Part, RELEASE, RUN_COLUMN, TakeCut, TakenCut, TakenRun, TakenView, status_of,
};

/// Most cuts that are held at once: each keeps runs and files that would go otherwise.
const MOST_CUTS: usize = 1024;
/// No cut is held for longer, whatever a reader asks.
const LONGEST_HOLD: Duration = Duration::from_secs(3600);
/// How often it is looked for cuts whose time is up.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Requests at once on one connection.
const REQUESTS_AT_ONCE: usize = 256;
/// A peer that is silent for so long is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Says whether whoever sends these headers may read.
pub type Permits = Arc<dyn Fn(&MetadataMap) -> Result<(), Problem> + Send + Sync>;

/// Hands out the cuts of this process.
#[derive(Clone)]
pub struct CutServer {
    cells: Arc<dyn Cells>,
    catalog: Arc<Catalog>,
    epoch: StoreEpoch,
    clock: Arc<dyn Clock>,
    permits: Permits,
    held: Arc<Mutex<HashMap<u64, Held>>>,
}

/// A cut that a reader may still fetch from.
struct Held {
    cut: Arc<Cut>,
    until: Instant,
}

impl fmt::Debug for CutServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CutServer")
            .field("held", &self.held.lock().len())
            .finish_non_exhaustive()
    }
}

impl CutServer {
    /// A server of the cuts of `cells`, whose process writes `catalog` in `epoch`.
    pub fn new(
        cells: Arc<dyn Cells>,
        catalog: Arc<Catalog>,
        epoch: StoreEpoch,
        clock: Arc<dyn Clock>,
        permits: Permits,
    ) -> Self {
        Self {
            cells,
            catalog,
            epoch,
            clock,
            permits,
            held: Arc::default(),
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
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .add_service(FlightServiceServer::new(self))
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
        (self.permits)(request.metadata()).map_err(|problem| status_of(&problem))
    }

    async fn take(&self, asked: TakeCut) -> Result<TakenCut, Problem> {
        let cell = self
            .cells
            .cell(&asked.stream)
            .ok_or_else(|| Problem::not_found("stream", &asked.stream))?;
        let cut = reach(&cell, &asked).await?;
        let held = Held {
            cut: Arc::clone(&cut),
            until: Instant::now() + Duration::from_millis(asked.hold_ms).min(LONGEST_HOLD),
        };
        let number = self.hold(held)?;
        let behind = asked.ends.iter();
        let views = asked.views.iter().filter_map(|id| {
            let view = cut.views().get(id)?;
            Some(taken_view(id, view, &cell, &cut, asked.merged))
        });
        Ok(TakenCut {
            epoch: self.epoch,
            // Whatever the cut names was committed before it was swapped in.
            sequence: self.catalog.state().sequence,
            cut: number,
            position: cut.position().clone(),
            archived: cut.raw().archived().clone(),
            schema: cut.stream().schema.clone(),
            now_us: self.clock.now_us(),
            behind_cut: oldest_behind(&cell, &cut, cut.position()),
            behind: behind.map(|end| oldest_behind(&cell, &cut, end)).collect(),
            views: views.collect(),
        })
    }

    fn hold(&self, held: Held) -> Result<u64, Problem> {
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

    fn held_cut(&self, number: u64) -> Result<Arc<Cut>, Problem> {
        let held = self.held.lock();
        let cut = held.get(&number).map(|held| Arc::clone(&held.cut));
        cut.ok_or_else(|| {
            Problem::new(
                ProblemKind::Unavailable,
                "the cut that the question holds was let go of; ask again",
            )
            .with("retry_after_s", 1)
        })
    }

    fn fetch(&self, asked: Fetch) -> Result<(SchemaRef, Batches), Problem> {
        let cut = self.held_cut(asked.cut)?;
        match asked.part {
            Part::Runs { view, filters } => {
                let view = cut.views().get(&view);
                let view = view.ok_or_else(|| Problem::internal("the cut lacks a view"))?;
                runs_of(view, &filters).map_err(Problem::internal)
            }
            Part::Tail { columns } => {
                let schema = cut.stream().schema.events();
                let schema = schema.project(&columns).map_err(Problem::internal)?;
                let tail: Vec<_> = cut.tail().iter().cloned().collect();
                let batches = stream::iter(tail).map(move |batch| {
                    let projected = batch.events.project(&columns);
                    projected.map_err(DataFusionError::from)
                });
                Ok((Arc::new(schema), batches.boxed()))
            }
        }
    }
}

type Batches = BoxStream<'static, Result<RecordBatch, DataFusionError>>;

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

fn taken_view(
    id: &ViewId,
    view: &ViewCut,
    cell: &StreamCell,
    cut: &Cut,
    merged: bool,
) -> TakenView {
    let runs = view.runs.iter().filter(|_| merged);
    let alone = view.generation.as_ref();
    let alone = alone.filter(|generation| !merged || !generation.is_mergeable());
    TakenView {
        id: id.clone(),
        name: view.name.clone(),
        generation: view
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
        poisoned: view.poisoned.clone(),
    }
}

/// The states of all runs of a view that pass `filters`, and before each which run it is of.
fn runs_of(view: &ViewCut, filters: &[KeyFilter]) -> Result<(SchemaRef, Batches), DataFusionError> {
    let schema = with_run_column(&view.view);
    let filters = filters.iter().map(|filter| filter.predicate(&view.view));
    let filters: Vec<_> = filters.collect::<Result<_, _>>()?;
    let runs: Vec<(u32, Arc<Run>)> = (0..).zip(view.runs.iter().cloned()).collect();
    let made = Arc::clone(&schema);
    let batches = stream::iter(runs).flat_map(move |(place, run)| {
        // Sorted by the first who reads it, as in this process.
        let states: Vec<_> = run.states().to_vec();
        let (schema, filters) = (Arc::clone(&made), filters.clone());
        stream::iter(states).map(move |batch| of_run(&schema, place, &batch, &filters))
    });
    Ok((schema, batches.boxed()))
}

fn of_run(
    schema: &SchemaRef,
    place: u32,
    states: &RecordBatch,
    filters: &[Arc<dyn PhysicalExpr>],
) -> Result<RecordBatch, DataFusionError> {
    let mut kept = states.clone();
    for filter in filters {
        let passes = filter.evaluate(&kept)?.into_array(kept.num_rows())?;
        kept = filter_record_batch(&kept, as_boolean_array(&passes)?)?;
    }
    let places: ArrayRef = Arc::new(UInt32Array::from_value(place, kept.num_rows()));
    let columns = std::iter::once(places).chain(kept.columns().iter().cloned());
    Ok(RecordBatch::try_new(Arc::clone(schema), columns.collect())?)
}

/// The schema in which the runs of a view travel.
pub(crate) fn with_run_column(view: &View) -> SchemaRef {
    let states = view.state_schema();
    let place = Arc::new(Field::new(RUN_COLUMN, DataType::UInt32, false));
    let fields = std::iter::once(place).chain(states.fields().iter().cloned());
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn parsed<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Status> {
    serde_json::from_slice(bytes).map_err(|error| {
        Status::invalid_argument(format!(
            "not a request of this version of Dovetail ({error}): replicas and the process that takes the events must be of one version"
        ))
    })
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
        let (schema, batches) = self.fetch(asked).map_err(|problem| status_of(&problem))?;
        let external = |error: DataFusionError| FlightError::ExternalError(Box::new(error));
        let encoded = FlightDataEncoderBuilder::new()
            .with_schema(schema)
            .with_dictionary_handling(DictionaryHandling::Resend)
            .build(batches.map_err(external))
            .map_err(Status::from);
        Ok(Response::new(encoded.boxed()))
    }

    async fn do_action(
        &self,
        request: Request<Action>,
    ) -> Result<Response<Self::DoActionStream>, Status> {
        self.check(&request)?;
        let action = request.into_inner();
        if action.r#type != RELEASE {
            return unimplemented();
        }
        let number: u64 = parsed(&action.body)?;
        self.held.lock().remove(&number);
        Ok(Response::new(stream::empty().boxed()))
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
