// SPDX-License-Identifier: Apache-2.0
//! A node in this process, without HTTP in between.

use std::path::Path;
use std::time::Duration;

use dovetail::node::{Node, NodeConfig};
use dovetail_log::Format;
use dovetail_model::{PositionToken, Problem};
use dovetail_serving_layer::ports::{
    AppendAnswer, AppendRequest, Control as _, Ingest as _, Layer, Limits, OnError, Queries as _,
    QueryRequest,
};
use dovetail_serving_layer::sql::{Statement, parse};
use futures::TryStreamExt as _;
use tokio::time::Instant;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One that archives all the time.
pub(crate) fn config(data: &Path) -> NodeConfig {
    NodeConfig {
        archive_interval: Duration::from_millis(20),
        ..NodeConfig::new(data.to_owned())
    }
}

/// Opens such a node.
pub(crate) async fn open(data: &Path) -> Node {
    Node::open(config(data)).await.unwrap()
}

pub(crate) async fn define(node: &Node, sql: &str) -> Result<(), Problem> {
    let Statement::Define(definition) = parse(sql).unwrap() else {
        panic!("`{sql}` defines nothing");
    };
    node.execute(definition).await.map(|_| ())
}

pub(crate) async fn append(
    node: &Node,
    stream: &str,
    lines: &str,
    on_error: OnError,
) -> AppendAnswer {
    try_append(node, stream, lines, on_error).await.unwrap()
}

pub(crate) async fn try_append(
    node: &Node,
    stream: &str,
    lines: &str,
    on_error: OnError,
) -> Result<AppendAnswer, Problem> {
    let request = AppendRequest {
        format: Format::Ndjson,
        body: lines.to_owned().into(),
        on_error,
        idempotency_key: None,
        origin: "test".to_owned(),
    };
    node.append(stream, request).await
}

/// The integers that a query answers, row by row; NULL is -1.
pub(crate) async fn integers(node: &Node, sql: &str, after: Option<&str>) -> Vec<Vec<i64>> {
    try_integers(node, sql, after).await.unwrap()
}

pub(crate) async fn try_integers(
    node: &Node,
    sql: &str,
    after: Option<&str>,
) -> Result<Vec<Vec<i64>>, Problem> {
    let after = after.iter().map(|token| token.parse().unwrap());
    let limits = Limits {
        after: after.collect::<Vec<PositionToken>>(),
        layer: Layer::Merged,
        generation: None,
        timeout: PATIENCE,
        deadline: Instant::now() + PATIENCE,
    };
    let request = QueryRequest {
        sql: sql.to_owned(),
        parameters: None,
        limits,
    };
    let answer = node.engine().query(request).await?;
    let batches: Vec<arrow::array::RecordBatch> = answer.batches.try_collect().await.unwrap();
    let mut rows = vec![];
    for batch in batches {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| {
                let big = arrow::compute::cast(column, &arrow::datatypes::DataType::Int64).unwrap();
                arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(&big).clone()
            })
            .collect();
        rows.extend((0..batch.num_rows()).map(|row| {
            let value = |c: &arrow::array::Int64Array| c.iter().nth(row).flatten().unwrap_or(-1);
            columns.iter().map(value).collect()
        }));
    }
    Ok(rows)
}
