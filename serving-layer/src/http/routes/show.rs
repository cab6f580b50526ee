// SPDX-License-Identifier: Apache-2.0
//! Listings and what a definition did, as rows: every statement answers a table, so every client and every
//! format works for all of them.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use dovetail_model::{Problem, ProblemKind};
use futures::stream;

use crate::ports::{
    Answer, AnswerMemory, ColumnInfo, DdlAnswer, Ports, Provenance, RunsQuery, StreamInfo,
};
use crate::sql::{ObjectKind, Show, unit_word, unknown_columns_word};

/// Batch runs that `SHOW RUNS` lists.
const RUNS: usize = 1000;

/// The rows of a listing.
pub(super) async fn answer(ports: &Ports, show: Show) -> Result<Answer, Problem> {
    match show {
        Show::Streams => streams(ports).await,
        Show::Views => views(ports).await,
        Show::Tables => tables(ports).await,
        Show::Runs => runs(ports).await,
        Show::Columns(name) => columns(ports, &name).await,
        Show::Create(kind, name) => {
            let definition = match kind {
                ObjectKind::Stream => ports.control.stream(&name).await?.definition,
                ObjectKind::View => ports.control.view_status(&name).await?.view.definition,
            };
            Table::default()
                .text("name", [name])
                .text("definition", [definition])
                .answer()
        }
    }
}

/// The one row of a definition.
pub(super) fn definition(verb: &str, name: &str, answer: DdlAnswer) -> Result<Answer, Problem> {
    Table::default()
        .text("statement", [verb.to_owned()])
        .text("name", [name.to_owned()])
        .text("result", [answer.result.to_string()])
        .maybe_text("note", [answer.note])
        .answer()
}

async fn streams(ports: &Ports) -> Result<Answer, Problem> {
    let streams = ports.control.streams().await?;
    Table::default()
        .text("name", streams.iter().map(|s| s.name.clone()))
        .text("views", streams.iter().map(|s| s.views.join(", ")))
        .text("position", streams.iter().map(|s| s.position.clone()))
        .number("freshness_ms", streams.iter().map(|s| Some(s.freshness_ms)))
        .number(
            "archived_events",
            streams.iter().map(|s| Some(s.archived_events)),
        )
        .number("dead_letters", streams.iter().map(|s| s.dead_letters))
        .number("exclusions", streams.iter().map(|s| Some(s.exclusions)))
        .maybe_text("holes", streams.iter().map(holes))
        .answer()
}

/// What a stream goes on without.
fn holes(stream: &StreamInfo) -> Option<String> {
    let holes = stream.holes.iter().map(|skipped| skipped.hole.to_string());
    let holes: Vec<String> = holes.collect();
    (!holes.is_empty()).then(|| holes.join(","))
}

async fn views(ports: &Ports) -> Result<Answer, Problem> {
    let views = ports.control.views().await?;
    Table::default()
        .text("name", views.iter().map(|v| v.name.clone()))
        .text("stream", views.iter().map(|v| v.stream.clone()))
        .text("phase", views.iter().map(|v| v.phase.as_str().to_owned()))
        .number(
            "generation",
            views.iter().map(|v| v.generation.map(|g| g.0)),
        )
        .text("horizon", views.iter().map(|v| v.horizon.clone()))
        .text("position", views.iter().map(|v| v.position.clone()))
        .maybe_text("recompute", views.iter().map(|v| v.recompute.clone()))
        .number(
            "recompute_after_events",
            views.iter().map(|v| v.recompute_after_events),
        )
        .maybe_text(
            "recompute_after_bytes",
            views.iter().map(|v| v.recompute_after_bytes.clone()),
        )
        .maybe_text("refresh", views.iter().map(|v| v.refresh.clone()))
        .answer()
}

/// Streams and views together, by name.
async fn tables(ports: &Ports) -> Result<Answer, Problem> {
    let streams = ports.control.streams().await?.into_iter();
    let views = ports.control.views().await?.into_iter();
    let mut tables: Vec<(String, ObjectKind)> = streams
        .map(|s| (s.name, ObjectKind::Stream))
        .chain(views.map(|v| (v.name, ObjectKind::View)))
        .collect();
    tables.sort_by(|a, b| a.0.cmp(&b.0));
    Table::default()
        .text("name", tables.iter().map(|(name, _)| name.clone()))
        .text("kind", tables.iter().map(|(_, kind)| kind.to_string()))
        .answer()
}

async fn runs(ports: &Ports) -> Result<Answer, Problem> {
    let query = RunsQuery {
        view: None,
        outcome: None,
        before: None,
        limit: RUNS,
    };
    let runs = ports.control.runs(query).await?;
    Table::default()
        .number("id", runs.iter().map(|r| Some(r.id.0)))
        .text("view", runs.iter().map(|r| r.view.clone()))
        .text("mode", runs.iter().map(|r| r.mode.to_string()))
        .text("outcome", runs.iter().map(|r| r.outcome.to_string()))
        .number("generation", runs.iter().map(|r| r.generation.map(|g| g.0)))
        .number("rows_read", runs.iter().map(|r| Some(r.rows_read)))
        .number("groups", runs.iter().map(|r| Some(r.groups)))
        .number("bytes", runs.iter().map(|r| Some(r.bytes)))
        .double("seconds", runs.iter().map(|r| r.seconds))
        .text("started_at", runs.iter().map(|r| r.started_at.clone()))
        .text("trigger", runs.iter().map(|r| r.trigger.clone()))
        .maybe_text("worker", runs.iter().map(|r| r.worker.clone()))
        .maybe_text("error", runs.iter().map(|r| r.error.clone()))
        .answer()
}

async fn columns(ports: &Ports, name: &str) -> Result<Answer, Problem> {
    let stream = match ports.control.stream(name).await {
        Ok(stream) => stream,
        Err(problem) if problem.kind == ProblemKind::NotFound => {
            return match ports.control.view_status(name).await {
                Ok(status) => described(&status.view.columns).answer(),
                Err(problem) if problem.kind == ProblemKind::NotFound => {
                    Err(Problem::not_found("stream or view", name))
                }
                Err(problem) => Err(problem),
            };
        }
        Err(problem) => return Err(problem),
    };
    let unknown = unknown_columns_word(stream.unknown_columns);
    let event_time = |column: &ColumnInfo| {
        let event_time = stream.event_time.as_ref()?;
        (event_time.column == column.name).then(|| match event_time.unit {
            Some(unit) => format!("event time, a number in events counts {}", unit_word(unit)),
            None => "event time".to_owned(),
        })
    };
    described(&stream.columns)
        .maybe_text("note", stream.columns.iter().map(event_time))
        .text(
            "unknown_columns",
            stream.columns.iter().map(|_| unknown.to_owned()),
        )
        .maybe_text("holes", stream.columns.iter().map(|_| holes(&stream)))
        .answer()
}

fn described(columns: &[ColumnInfo]) -> Table {
    Table::default()
        .text("column", columns.iter().map(|c| c.name.clone()))
        .text("type", columns.iter().map(|c| c.sql_type.clone()))
        .boolean("nullable", columns.iter().map(|c| c.nullable))
        .boolean("key", columns.iter().map(|c| c.key))
}

/// A small table, built column by column.
#[derive(Default)]
struct Table {
    fields: Vec<Field>,
    columns: Vec<ArrayRef>,
}

impl Table {
    fn column(mut self, name: &str, data_type: DataType, column: ArrayRef) -> Self {
        self.fields.push(Field::new(name, data_type, true));
        self.columns.push(column);
        self
    }

    fn text(self, name: &str, values: impl IntoIterator<Item = String>) -> Self {
        self.maybe_text(name, values.into_iter().map(Some))
    }

    fn maybe_text(self, name: &str, values: impl IntoIterator<Item = Option<String>>) -> Self {
        let array: StringArray = values.into_iter().collect();
        self.column(name, DataType::Utf8, Arc::new(array))
    }

    fn number(self, name: &str, values: impl IntoIterator<Item = Option<u64>>) -> Self {
        // A BIGINT as everywhere else; no count comes near its end.
        let signed = |n: Option<u64>| n.map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        let array: Int64Array = values.into_iter().map(signed).collect();
        self.column(name, DataType::Int64, Arc::new(array))
    }

    fn double(self, name: &str, values: impl IntoIterator<Item = Option<f64>>) -> Self {
        let array: Float64Array = values.into_iter().collect();
        self.column(name, DataType::Float64, Arc::new(array))
    }

    fn boolean(self, name: &str, values: impl IntoIterator<Item = bool>) -> Self {
        let array: BooleanArray = values.into_iter().map(Some).collect();
        self.column(name, DataType::Boolean, Arc::new(array))
    }

    fn answer(self) -> Result<Answer, Problem> {
        let schema = Arc::new(Schema::new(self.fields));
        let batch =
            RecordBatch::try_new(schema.clone(), self.columns).map_err(Problem::internal)?;
        let batches = RecordBatchStreamAdapter::new(schema, stream::iter([Ok(batch)]));
        Ok(Answer {
            batches: Box::pin(batches),
            provenance: Provenance::default(),
            memory: AnswerMemory::default(),
        })
    }
}
