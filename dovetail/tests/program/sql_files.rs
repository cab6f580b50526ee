// SPDX-License-Identifier: Apache-2.0
//! The SQL surface by `.slt` files: every file of `tests/slt` runs against a node of its own.
//!
//! Beside SQL a file may hold `INGEST stream` with NDJSON lines below it, `RECOMPUTE view mode`, which runs
//! to its end, `BUILT view`, which waits for the first run of a view, and `EXCLUDE stream predicate`.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use dovetail::node::{Node, NodeConfig};
use dovetail_log::Format;
use dovetail_model::{Outcome, PositionToken, Problem, RunMode};
use dovetail_serving_layer::ports::{
    AppendRequest, Control as _, ExclusionRequest, Ingest as _, Layer, Limits, OnError,
    Queries as _, QueryRequest, RecomputeRequest,
};
use dovetail_serving_layer::sql::{Show, Statement, parse};
use futures::TryStreamExt as _;
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(60);

struct Database {
    node: Node,
    /// Covers everything ingested so far, so that answers do not depend on timing.
    after: Option<PositionToken>,
    _data: Arc<tempfile::TempDir>,
}

impl Database {
    async fn open() -> Self {
        let data = Arc::new(tempfile::tempdir().unwrap());
        let node = Node::open(NodeConfig::new(data.path().join("data")))
            .await
            .unwrap();
        Self {
            node,
            after: None,
            _data: data,
        }
    }

    async fn ingest(&mut self, stream: &str, lines: &str) -> Result<(), Problem> {
        let request = AppendRequest {
            format: Format::Ndjson,
            body: lines.to_owned().into(),
            on_error: OnError::Reject,
            idempotency_key: None,
            origin: "slt".to_owned(),
        };
        let answer = self.node.append(stream, request).await?;
        self.after = Some(answer.position.parse().unwrap());
        Ok(())
    }

    async fn recompute(&self, view: &str, mode: &str) -> Result<(), Problem> {
        let mode: RunMode = mode.parse().map_err(Problem::invalid)?;
        let run = self
            .node
            .recompute(
                view,
                RecomputeRequest {
                    mode,
                    ..RecomputeRequest::default()
                },
            )
            .await?;
        let ended = self
            .node
            .batch()
            .wait(run.id)
            .await
            .map_err(Problem::internal)?;
        match ended.outcome {
            Outcome::Promoted => Ok(()),
            other => Err(Problem::conflict(format!(
                "the run ended {other:?}: {:?}",
                ended.error
            ))),
        }
    }

    async fn built(&self, view: &str) {
        let state = self.node.catalog().state();
        let id = &state.view_named(view).unwrap().def.id;
        if let Some(run) = state.running(id, false) {
            self.node.batch().wait(run.id).await.unwrap();
        }
    }

    async fn query(&self, sql: String) -> Result<DBOutput<DefaultColumnType>, Problem> {
        let names_stream = |token: &PositionToken| self.reads(&sql, token);
        let limits = Limits {
            after: self
                .after
                .iter()
                .filter(|token| names_stream(token))
                .cloned()
                .collect(),
            layer: Layer::Merged,
            generation: None,
            timeout: PATIENCE,
            deadline: Instant::now() + PATIENCE,
        };
        let answer = self
            .node
            .engine()
            .query(QueryRequest {
                sql,
                parameters: None,
                limits,
            })
            .await?;
        let width = answer.batches.schema().fields().len();
        let batches: Vec<RecordBatch> = answer
            .batches
            .try_collect()
            .await
            .map_err(|e| dovetail_serving_layer::engine::problem_of(&e))?;
        Ok(DBOutput::Rows {
            types: vec![DefaultColumnType::Any; width],
            rows: batches.iter().flat_map(rows).collect(),
        })
    }

    /// Whether a statement reads the token's stream, directly or under a view.
    fn reads(&self, sql: &str, token: &PositionToken) -> bool {
        let state = self.node.catalog().state();
        let names = state
            .views_of(&token.stream)
            .map(|view| view.def.name.clone())
            .chain([token.name.clone()]);
        names.into_iter().any(|name| sql.contains(&name))
    }

    async fn statement(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Problem> {
        let (first, rest) = sql.split_once('\n').unwrap_or((sql, ""));
        let words: Vec<&str> = first.split_whitespace().collect();
        match words.as_slice() {
            ["INGEST", stream] => self.ingest(stream, rest).await?,
            ["RECOMPUTE", view, mode] => self.recompute(view, mode).await?,
            ["BUILT", view] => self.built(view).await,
            ["EXCLUDE", stream, ..] => {
                let predicate = first.splitn(3, ' ').nth(2).unwrap_or_default().to_owned();
                let request = ExclusionRequest {
                    predicate,
                    reason: "a test".to_owned(),
                };
                self.node.declare_exclusion(stream, request).await?;
            }
            _ => match parse(sql)? {
                Statement::Define(definition) => {
                    self.node.execute(definition).await?;
                }
                Statement::Query(query) => return self.query(query).await,
                Statement::Show(show) => return self.show(show).await,
            },
        }
        Ok(DBOutput::StatementComplete(0))
    }

    async fn show(&self, show: Show) -> Result<DBOutput<DefaultColumnType>, Problem> {
        let names: Vec<String> = match show {
            Show::Streams => self
                .node
                .streams()
                .await?
                .into_iter()
                .map(|stream| stream.name)
                .collect(),
            Show::Views => self
                .node
                .views()
                .await?
                .into_iter()
                .map(|view| view.name)
                .collect(),
            other => return Err(Problem::invalid(format!("{other:?} is tested over HTTP"))),
        };
        let rows = names.into_iter().map(|name| vec![name]).collect();
        Ok(DBOutput::Rows {
            types: vec![DefaultColumnType::Text],
            rows,
        })
    }
}

fn rows(batch: &RecordBatch) -> Vec<Vec<String>> {
    let options = FormatOptions::new().with_null("NULL");
    let columns: Vec<ArrayFormatter<'_>> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
        .collect();
    let cell = |text: String| {
        if text.is_empty() {
            "(empty)".to_owned()
        } else {
            text
        }
    };
    (0..batch.num_rows())
        .map(|row| {
            columns
                .iter()
                .map(|c| cell(c.value(row).to_string()))
                .collect()
        })
        .collect()
}

#[async_trait::async_trait]
impl AsyncDB for Database {
    type Error = Problem;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Problem> {
        self.statement(sql).await
    }

    async fn shutdown(&mut self) {
        self.node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_sql_file_gives_its_answers() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt");
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 3, "the SQL files are gone");
    for file in files {
        let mut runner = Runner::new(|| async { Ok(Database::open().await) });
        runner
            .run_file_async(&file)
            .await
            .unwrap_or_else(|error| panic!("{}", error.display(false)));
        runner.shutdown_async().await;
    }
}
