// SPDX-License-Identifier: Apache-2.0
//! Statements and definition files, before a node with one stream and one view: whatever they are, a refusal is the fault of
//! whoever wrote them, and nothing has changed.

use std::sync::LazyLock;
use std::time::Duration;

use dovetail::node::{Node, NodeConfig};
use dovetail_log::Format;
use dovetail_model::{Problem, ProblemKind};
use dovetail_serving_layer::ports::{
    AppendRequest, Control as _, Ingest as _, Layer, Limits, OnError, Queries as _, QueryRequest,
};
use dovetail_serving_layer::sql::{
    Definition, Statement, parse, parse_directory, render_stream_schema,
};
use futures::StreamExt as _;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::time::Instant;

/// How long a statement may take. Time that is up is no fault.
const PATIENCE: Duration = Duration::from_secs(2);
const DECLARATIONS: [&str; 2] = [
    "CREATE STREAM flights (date TIMESTAMP NOT NULL, delay INT, distance BIGINT, origin VARCHAR, price DECIMAL(10, 2),
     tags LIST<VARCHAR>, crew STRUCT<captain VARCHAR, size INT>) WITH (event_time = 'date')",
    "CREATE VIEW delays AS SELECT origin, date_trunc('hour', date) AS hour, count(*) AS flights, avg(delay) AS delay,
     approx_distinct(distance) AS distances, max(price) AS dearest FROM flights GROUP BY origin, hour",
];
const EVENTS: &str = r#"{"date": "2001-01-01T10:00:00", "delay": 5, "distance": 337, "origin": "SFO", "price": "9.50", "tags": ["a"]}
{"date": "2001-01-01T11:00:00", "delay": null, "distance": -1, "origin": null, "crew": {"captain": "ada", "size": 2}}
"#;

struct Server {
    node: Node,
    runtime: Runtime,
    _data: TempDir,
}

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let data = tempfile::tempdir().expect("there is room for a directory");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("there is room for two threads");
    let node = runtime.block_on(async {
        let config = NodeConfig {
            partitions: 1,
            query_memory_bytes: 64 << 20,
            ..NodeConfig::new(data.path().to_owned())
        };
        let node = Node::open(config).await.expect("a new directory opens");
        for sql in DECLARATIONS {
            let Ok(Statement::Define(definition)) = parse(sql) else {
                unreachable!("`{sql}` defines something");
            };
            let defined = node.execute(definition).await;
            defined.expect("the declarations are sound");
        }
        let request = AppendRequest {
            format: Format::Ndjson,
            body: EVENTS.into(),
            on_error: OnError::Reject,
            idempotency_key: None,
            origin: "fuzz".to_owned(),
        };
        let appended = node.append("flights", request).await;
        appended.expect("the events are sound");
        node
    });
    Server {
        node,
        runtime,
        _data: data,
    }
});

/// A statement as `POST /v1/sql` takes it, from whoever may read.
pub(crate) fn sql(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match parse(text) {
        Err(problem) => is_theirs(&problem, text),
        Ok(Statement::Query(sql)) => {
            let before = SERVER.node.catalog().state().sequence;
            if let Err(problem) = SERVER.runtime.block_on(first_rows(sql)) {
                is_theirs(&problem, text);
            }
            let after = SERVER.node.catalog().state().sequence;
            assert_eq!(before, after, "a query changed what there is");
        }
        Ok(Statement::Define(Definition::CreateStream(create))) if create.kafka.is_none() => {
            let rendered = render_stream_schema(&create.name, &create.schema);
            let Ok(Statement::Define(Definition::CreateStream(again))) = parse(&rendered) else {
                panic!("`{rendered}` declares no stream");
            };
            assert_eq!((again.name, again.schema), (create.name, create.schema));
        }
        Ok(_) => {}
    }
}

/// A file of definitions, as `POST /v1/plan` takes it.
pub(crate) fn definitions(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let files = vec![("fuzz.sql".to_owned(), text.to_owned())];
    let planned = parse_directory(files).and_then(|definitions| {
        // What asks a broker or a registry is not for a fuzzer.
        let embedded = |definition: &Definition| !matches!(definition, Definition::CreateStream(create) if create.kafka.is_some());
        let ours = definitions.into_iter().filter(|located| embedded(&located.definition));
        SERVER.runtime.block_on(SERVER.node.plan(ours.collect()))
    });
    if let Err(problem) = planned {
        is_theirs(&problem, text);
    }
}

/// Plans and starts a query, and takes the first of its rows.
async fn first_rows(sql: String) -> Result<(), Problem> {
    let limits = Limits {
        after: vec![],
        layer: Layer::Merged,
        generation: None,
        timeout: PATIENCE,
        deadline: Instant::now() + PATIENCE,
    };
    let request = QueryRequest {
        sql,
        parameters: None,
        limits,
    };
    let rows = async {
        let mut answer = SERVER.node.engine().query(request).await?;
        let first = answer.batches.next().await.transpose();
        first
            .map(|_| ())
            .map_err(|error| dovetail_serving_layer::problem::problem_of(&error))
    };
    tokio::time::timeout(PATIENCE, rows).await.unwrap_or(Ok(()))
}

fn is_theirs(problem: &Problem, text: &str) {
    assert_ne!(problem.kind, ProblemKind::Internal, "{problem}\n{text}");
    assert!(problem.detail.len() > 5, "{problem}\n{text}");
}
