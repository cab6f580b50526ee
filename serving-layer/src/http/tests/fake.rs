// SPDX-License-Identifier: Apache-2.0
//! Everything behind the router, made up. The table that a query names says how it behaves.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::error::DataFusionError;
use datafusion::execution::RecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::SessionContext;
use dovetail_model::{
    DiffSummary, EpochUnit, ExclusionId, GenerationNumber, LargestChange, Offset, Outcome,
    PartitionId, Problem, ProblemKind, RunId, RunMode, UnknownColumns,
};
use futures::{Stream, stream};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;

use crate::ports::*;
use crate::rows::RowsPlan;
use crate::sql::Definition;

#[derive(Clone, Default)]
pub(super) struct Fake(Arc<State>);

#[derive(Default)]
struct State {
    calls: Mutex<Vec<String>>,
    /// Told when a query over `gated`, or the answer of one over `endless`, is dropped.
    dropped: Notify,
    /// Told when a query over `gated` has begun.
    at_gate: Notify,
    /// Lets it go on.
    gate: Notify,
}

impl Fake {
    pub(super) fn ports(&self) -> Ports {
        let this = Arc::new(self.clone());
        Ports {
            queries: this.clone(),
            ingest: this.clone(),
            control: this.clone(),
            measures: this,
        }
    }

    fn called(&self, call: impl Into<String>) {
        self.0.calls.lock().push(call.into());
    }

    /// The calls so far, and forgets them.
    pub(super) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.0.calls.lock())
    }

    /// Waits until a gated query has begun.
    pub(super) async fn at_gate(&self) {
        self.0.at_gate.notified().await;
    }

    /// Lets a gated query go on.
    pub(super) fn open_gate(&self) {
        self.0.gate.notify_one();
    }

    /// Waits until a gated query or an endless answer is dropped.
    pub(super) async fn dropped(&self) {
        self.0.dropped.notified().await;
    }
}

fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    Arc::new(Schema::new(vec![
        Field::new("origin", DataType::Utf8, true),
        Field::new("hour", time, false),
        Field::new("flights", DataType::Int64, false),
    ]))
}

/// Rows `from` to `to` of a view of flights by origin and hour.
fn table(from: i64, to: i64) -> RecordBatch {
    let origins = ["SFO", "LAX", "JFK"];
    let rows = from..to;
    let origin = rows.clone().map(|row| match row % 4 {
        3 => None,
        place => Some(origins[usize::try_from(place).unwrap()]),
    });
    let hour = rows
        .clone()
        .map(|row| 978_307_200_000_000 + row * 3_600_000_000);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(origin.collect::<StringArray>()),
        Arc::new(TimestampMicrosecondArray::from_iter_values(hour)),
        Arc::new(Int64Array::from_iter_values(rows.map(|row| row * row))),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

const HOLE: HoleInfo = HoleInfo {
    partition: PartitionId(0),
    from: Offset(20),
    to: Offset(25),
};

fn provenance(request: &Limits) -> Provenance {
    Provenance {
        streams: vec![StreamProvenance {
            stream: "flights".to_owned(),
            id: "k3f".parse().unwrap(),
            position: "flights~k3f:0@1234".to_owned(),
            freshness_ms: Some(7),
            holes: vec![HOLE],
        }],
        views: vec![ViewProvenance {
            view: "airport_delays".to_owned(),
            id: "v1".parse().unwrap(),
            stream: "flights".to_owned(),
            generation: request.generation.unwrap_or(GenerationNumber(3)),
            horizon: "flights~k3f:0@1000".to_owned(),
            layer: request.layer,
            runs: 2,
            exclusions: vec![],
            notes: vec![],
        }],
    }
}

type Item = Result<RecordBatch, DataFusionError>;

/// Batches for ever, and word of their end.
struct Endless {
    _told: ToldAtEnd,
}

/// Tells that a query has ended.
struct ToldAtEnd(Arc<State>);

impl Stream for Endless {
    type Item = Item;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Item>> {
        Poll::Ready(Some(Ok(table(0, 1000))))
    }
}

impl RecordBatchStream for Endless {
    fn schema(&self) -> SchemaRef {
        schema()
    }
}

impl Drop for ToldAtEnd {
    fn drop(&mut self) {
        self.0.dropped.notify_one();
    }
}

fn answer(limits: &Limits, batches: impl Stream<Item = Item> + Send + 'static) -> Answer {
    Answer {
        batches: Box::pin(RecordBatchStreamAdapter::new(schema(), batches)),
        provenance: provenance(limits),
        memory: AnswerMemory::default(),
    }
}

#[async_trait]
impl Queries for Fake {
    async fn query(&self, request: QueryRequest) -> Result<Answer, Problem> {
        let QueryRequest {
            sql,
            parameters,
            limits,
        } = request;
        let after: Vec<String> = limits.after.iter().map(ToString::to_string).collect();
        self.called(format!(
            "query {sql} {parameters:?} after={after:?} layer={} generation={:?} timeout={}",
            limits.layer,
            limits.generation,
            limits.timeout.as_millis()
        ));
        let failure = || Err(DataFusionError::Plan("Something is wrong.".to_owned()));
        let table_name = sql.rsplit(' ').next().unwrap();
        match table_name {
            "gated" => {
                let _told = ToldAtEnd(Arc::clone(&self.0));
                self.0.at_gate.notify_one();
                self.0.gate.notified().await;
                Ok(answer(&limits, stream::iter([Ok(table(0, 1))])))
            }
            "fails_early" => Ok(answer(&limits, stream::iter([failure()]))),
            "fails_late" => {
                let rows = (0..20).map(|_| Ok(table(0, 1000)));
                Ok(answer(&limits, stream::iter(rows.chain([failure()]))))
            }
            "large" => {
                let rows = (0..150).map(|n| Ok(table(n * 1000, n * 1000 + 1000)));
                Ok(answer(&limits, stream::iter(rows)))
            }
            "stuck_plan" => std::future::pending().await,
            "stuck_rows" => Ok(answer(&limits, stream::pending())),
            "stuck_late" => {
                let rows = stream::iter((0..10).map(|_| Ok(table(0, 1000))));
                let rows = futures::StreamExt::chain(rows, stream::pending());
                Ok(answer(&limits, rows))
            }
            "endless" => Ok(Answer {
                batches: Box::pin(Endless {
                    _told: ToldAtEnd(Arc::clone(&self.0)),
                }),
                provenance: provenance(&limits),
                memory: AnswerMemory::default(),
            }),
            "panics" => panic!("the fake panics"),
            "broken" => Err(Problem::internal("the disk is on fire")),
            "nothing" => Ok(Answer {
                provenance: Provenance::default(),
                ..answer(&limits, stream::iter([Ok(table(0, 0))]))
            }),
            "building" => Err(
                Problem::new(ProblemKind::Unavailable, "view `v` is building")
                    .with("progress", 0.5)
                    .with("retry_after_s", 12.2),
            ),
            _ => Ok(answer(
                &limits,
                stream::iter([Ok(table(0, 1)), Ok(table(1, 4))]),
            )),
        }
    }

    async fn rows(&self, request: RowsRequest) -> Result<RowsAnswer, Problem> {
        if request.view != "airport_delays" {
            return Err(Problem::not_found("view", &request.view));
        }
        let plan = RowsPlan::new(&request, &schema(), &[1, 0])?;
        let mut frame = SessionContext::new().read_batch(table(0, 25)).unwrap();
        if let Some(filter) = plan.filter {
            frame = frame.filter(filter).unwrap();
        }
        let frame = frame
            .sort(plan.sort)
            .unwrap()
            .limit(0, Some(plan.fetch))
            .unwrap();
        let batches = frame.collect().await.unwrap();
        let batches: Vec<RecordBatch> = batches
            .iter()
            .map(|b| b.project(&plan.projection).unwrap())
            .collect();
        let schema = Arc::new(schema().project(&plan.projection).unwrap());
        let batches = stream::iter(batches.into_iter().map(Ok));
        Ok(RowsAnswer {
            answer: Answer {
                batches: Box::pin(RecordBatchStreamAdapter::new(schema, batches)),
                provenance: provenance(&request.limits),
                memory: AnswerMemory::default(),
            },
            page: plan.page,
        })
    }
}

#[async_trait]
impl Ingest for Fake {
    async fn append(&self, stream: &str, request: AppendRequest) -> Result<AppendAnswer, Problem> {
        self.called(format!(
            "append {stream} {} {:?} key={:?} origin={} bytes={}",
            request.format,
            request.on_error,
            request.idempotency_key,
            request.origin,
            request.body.len()
        ));
        if stream != "flights" {
            return Err(Problem::not_found("stream", stream));
        }
        Ok(AppendAnswer {
            accepted: 2,
            rejected: 0,
            position: "flights~k3f:0@1236".to_owned(),
            duplicate: false,
        })
    }

    async fn dead_letters(
        &self,
        stream: &str,
        query: DeadLetterQuery,
    ) -> Result<DeadLetterPage, Problem> {
        self.called(format!("dead_letters {stream} {query:?}"));
        Ok(DeadLetterPage {
            dead_letters: vec![DeadLetterInfo {
                id: "0@17".parse().unwrap(),
                reason: "`x` is not an INT".to_owned(),
                line: Some(3),
                column: Some("delay".to_owned()),
                format: dovetail_log::Format::Ndjson,
                origin: "http application/x-ndjson".to_owned(),
                arrived_at: "2001-01-01T00:00:00".to_owned(),
                text: "{\"delay\":\"x\"}".to_owned(),
                base64: None,
                record: None,
                bytes: 13,
            }],
            cursor: Some("0@17".parse().unwrap()),
            total: 2,
        })
    }

    async fn replay_dead_letters(
        &self,
        stream: &str,
        request: ReplayRequest,
    ) -> Result<ReplayAnswer, Problem> {
        self.called(format!("replay {stream} {:?}", request.ids));
        Ok(ReplayAnswer {
            accepted: 1,
            rejected: 1,
            position: "flights~k3f:0@1237".to_owned(),
            reasons: vec![],
        })
    }
}

fn stream_info() -> StreamInfo {
    let column = |name: &str, sql_type: &str| ColumnInfo {
        name: name.to_owned(),
        sql_type: sql_type.to_owned(),
        nullable: true,
        key: false,
    };
    StreamInfo {
        name: "flights".to_owned(),
        id: "k3f".parse().unwrap(),
        columns: vec![column("date", "TIMESTAMP"), column("delay", "INT")],
        event_time: Some(EventTimeInfo {
            column: "date".to_owned(),
            unit: Some(EpochUnit::Millisecond),
        }),
        unknown_columns: UnknownColumns::Reject,
        definition: "CREATE STREAM flights (…);".to_owned(),
        created_at: "2001-01-01T00:00:00".to_owned(),
        views: vec!["airport_delays".to_owned()],
        position: "flights~k3f:0@1234".to_owned(),
        accumulated: "flights~k3f:0@1234".to_owned(),
        archived: "flights~k3f:0@1000".to_owned(),
        freshness_ms: 7,
        lag: 3,
        archived_events: 1000,
        archived_bytes: 9000,
        dead_letters: Some(2),
        source: None,
        exclusions: 0,
        holes: vec![SkippedHole {
            hole: HOLE,
            skipped_at: "2001-01-02T00:00:00".to_owned(),
        }],
    }
}

fn view_info() -> ViewInfo {
    let fields = schema();
    let key = |name: &str| name != "flights";
    ViewInfo {
        name: "airport_delays".to_owned(),
        id: "v1".parse().unwrap(),
        stream: "flights".to_owned(),
        phase: ViewPhase::Live,
        generation: Some(GenerationNumber(3)),
        horizon: "flights~k3f:0@1000".to_owned(),
        position: "flights~k3f:0@1234".to_owned(),
        columns: fields
            .fields()
            .iter()
            .map(|f| ColumnInfo::of_field(f, key(f.name())))
            .collect(),
        definition: "CREATE VIEW airport_delays AS SELECT …;".to_owned(),
        version: 1,
        recompute: Some("0 3 * * *".to_owned()),
        recompute_after_events: Some(1_000_000),
        recompute_after_bytes: None,
        refresh: None,
        notes: vec![],
    }
}

fn run_info(id: RunId, outcome: Outcome) -> RunInfo {
    RunInfo {
        id,
        view: "airport_delays".to_owned(),
        view_id: "v1".parse().unwrap(),
        mode: RunMode::Full,
        scope: None,
        dry_run: false,
        outcome,
        waiting: false,
        stale: None,
        base: Some(GenerationNumber(3)),
        generation: None,
        span: None,
        exclusions: vec![],
        rows_read: 5,
        groups: 2,
        bytes: 100,
        seconds: Some(0.5),
        started_at: "2001-01-01T00:00:00".to_owned(),
        ended_at: None,
        error: None,
        trigger: "user".to_owned(),
        worker: None,
    }
}

fn exclusion(stream: &str, predicate: &str, reason: &str) -> ExclusionInfo {
    ExclusionInfo {
        id: ExclusionId(1),
        stream: stream.to_owned(),
        predicate: predicate.to_owned(),
        reason: reason.to_owned(),
        bound: "flights~k3f:0@1234".to_owned(),
        declared_at: "2001-01-01T00:00:00".to_owned(),
        carried_by: vec![],
    }
}

#[async_trait]
impl Measures for Fake {
    async fn measurements(&self) -> Result<Measurements, Problem> {
        super::metrics::measurements(self).await
    }
}

#[async_trait]
impl Control for Fake {
    async fn execute(&self, definition: Definition) -> Result<DdlAnswer, Problem> {
        self.called(format!(
            "execute {} {}",
            definition.verb(),
            definition.name()
        ));
        match definition.name() {
            "taken" => return Err(Problem::conflict("stream `taken` exists already")),
            "misspelt" => return Err(Problem::invalid("there is no column `dealy`")),
            _ => {}
        }
        Ok(DdlAnswer {
            result: DdlResult::Created,
            note: Some("building".to_owned()),
        })
    }

    async fn plan(&self, definitions: Vec<LocatedDefinition>) -> Result<Vec<Change>, Problem> {
        let change = |d: &LocatedDefinition| Change {
            file: d.file.clone(),
            line: d.line,
            kind: "stream".to_owned(),
            name: d.definition.name().to_owned(),
            result: DdlResult::Created,
            details: vec![],
        };
        Ok(definitions.iter().map(change).collect())
    }

    async fn apply(&self, definitions: Vec<LocatedDefinition>) -> Result<Vec<Change>, Problem> {
        self.called(format!("apply {}", definitions.len()));
        self.plan(definitions).await
    }

    async fn streams(&self) -> Result<Vec<StreamInfo>, Problem> {
        Ok(vec![stream_info()])
    }

    async fn stream(&self, name: &str) -> Result<StreamInfo, Problem> {
        if name == "flights" {
            Ok(stream_info())
        } else {
            Err(Problem::not_found("stream", name))
        }
    }

    async fn views(&self) -> Result<Vec<ViewInfo>, Problem> {
        Ok(vec![view_info()])
    }

    async fn view_status(&self, name: &str) -> Result<ViewStatus, Problem> {
        if name != "airport_delays" {
            return Err(Problem::not_found("view", name));
        }
        Ok(ViewStatus {
            view: view_info(),
            freshness_ms: 7,
            runs: 2,
            run_groups: 40,
            run_bytes: 4000,
            building: None,
            schedule_paused: false,
            next_recompute: Some("2001-01-01T03:00:00".to_owned()),
            archived_since_full: None,
            next_refresh: None,
            rollback_to: None,
            generations: vec![],
        })
    }

    async fn status(&self) -> Result<Status, Problem> {
        Ok(Status {
            version: "0.1.0".to_owned(),
            started_at: "2001-01-01T00:00:00".to_owned(),
            uptime_s: 5,
            catalog_sequence: 9,
            memory: Some(MemoryStatus::default()),
            disk: Some(DiskStatus {
                directory: "/data".to_owned(),
                free_bytes: 1000,
                all_bytes: 4000,
            }),
            bottleneck: None,
            stages: vec![],
            streams: vec![stream_info()],
            views: vec![],
            runs: vec![],
            ingest: vec![],
            workers: vec![],
        })
    }

    async fn ready(&self) -> Result<Vec<String>, Problem> {
        Err(Problem::new(
            ProblemKind::Unavailable,
            "the log is being read",
        ))
    }

    async fn declare_exclusion(
        &self,
        stream: &str,
        request: ExclusionRequest,
    ) -> Result<ExclusionInfo, Problem> {
        Ok(exclusion(stream, &request.predicate, &request.reason))
    }

    async fn exclusions(&self, stream: &str) -> Result<Vec<ExclusionInfo>, Problem> {
        Ok(vec![exclusion(stream, "delay > 9000", "sensor broke")])
    }

    async fn withdraw_exclusion(
        &self,
        stream: &str,
        id: ExclusionId,
    ) -> Result<ExclusionInfo, Problem> {
        self.called(format!("withdraw {stream} {id}"));
        Ok(exclusion(stream, "delay > 9000", "sensor broke"))
    }

    async fn recompute(&self, view: &str, request: RecomputeRequest) -> Result<RunInfo, Problem> {
        self.called(format!("recompute {view} {request:?}"));
        if view == "busy" {
            let problem = Problem::conflict("a full run of view `busy` is running");
            return Err(problem.with("run", 7));
        }
        Ok(run_info(RunId(8), Outcome::Running))
    }

    async fn runs(&self, query: RunsQuery) -> Result<Vec<RunInfo>, Problem> {
        self.called(format!("runs {query:?}"));
        Ok(vec![run_info(RunId(8), Outcome::Running)])
    }

    async fn run(&self, run: RunId) -> Result<RunInfo, Problem> {
        Ok(run_info(run, Outcome::Staged))
    }

    async fn diff(&self, _run: RunId) -> Result<DiffSummary, Problem> {
        Ok(DiffSummary {
            base: GenerationNumber(3),
            added: 1,
            removed: 0,
            changed: 1,
            largest: vec![LargestChange {
                key: json!({"origin": "SFO"}),
                before: json!({"flights": 1}),
                after: json!({"flights": 2}),
            }],
        })
    }

    async fn promote(&self, run: RunId) -> Result<Settled<RunInfo>, Problem> {
        Ok(if run == RunId(1) {
            Settled::Done(run_info(run, Outcome::Promoted))
        } else {
            Settled::Pending(run_info(run, Outcome::Staged))
        })
    }

    async fn discard(&self, run: RunId) -> Result<Settled<RunInfo>, Problem> {
        Ok(Settled::Done(run_info(run, Outcome::Discarded)))
    }

    async fn cancel(&self, run: RunId) -> Result<RunInfo, Problem> {
        Ok(run_info(run, Outcome::Cancelled))
    }

    async fn rollback(
        &self,
        view: &str,
        generation: Option<GenerationNumber>,
    ) -> Result<Settled<Rollback>, Problem> {
        self.called(format!("rollback {view} {generation:?}"));
        Ok(Settled::Done(Rollback {
            view: view.to_owned(),
            from: Some(GenerationNumber(3)),
            to: generation.or(Some(GenerationNumber(2))),
            generation: Some(GenerationNumber(4)),
            schedule_paused: Some(true),
            notes: vec![],
        }))
    }
}
