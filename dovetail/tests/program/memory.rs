// SPDX-License-Identifier: Apache-2.0
//! A view whose states outgrow the memory that there is costs nobody else anything: not an append, not an answer.

use std::time::Duration;

use dovetail::node::{Node, NodeConfig};
use dovetail_model::{ProblemKind, RunMode};
use dovetail_serving_layer::ports::{Control as _, OnError, RecomputeRequest, ViewPhase};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::node::{
    PATIENCE, append, config, define, integers, open, try_append, try_integers,
};
use crate::support::server::{HANGS, Server};

const EVENTS: &str = "CREATE STREAM events (n BIGINT NOT NULL, part BIGINT NOT NULL)";
const PARTS: &str = "CREATE VIEW parts AS SELECT part, count(*) AS seen, sum(n) AS numbers FROM events GROUP BY part";
const MANY: i64 = 60_000;
const MIB: usize = 1 << 20;

fn lines(from: i64, to: i64) -> String {
    let line = |n| format!("{{\"n\":{n},\"part\":{}}}\n", n % 7);
    (from..to).map(line).collect()
}

/// Appends until it is taken: a full speed layer asks for patience.
async fn insist(node: &Node, stream: &str, lines: &str) {
    let insisting = async {
        loop {
            match try_append(node, stream, lines, OnError::Reject).await {
                Ok(_) => return,
                Err(problem) => assert_eq!(problem.kind, ProblemKind::Busy, "{problem}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, insisting)
        .await
        .expect("it is taken");
}

async fn phase(node: &Node, view: &str) -> ViewPhase {
    node.view_status(view).await.unwrap().view.phase
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_no_run_can_take_over_stops_no_append() {
    const LISTS: &str = "CREATE VIEW lists AS SELECT array_agg(n ORDER BY part, n) AS a, \
        array_agg(part ORDER BY n DESC) AS b, count(*) AS seen FROM events";
    const STEP: i64 = 5_000;
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let small = NodeConfig {
        batch_memory_bytes: 64 * MIB,
        ..config(&data).with_speed_memory(4 * MIB)
    };
    let node = Node::open(small).await.unwrap();
    let others = "CREATE STREAM others (n BIGINT NOT NULL, part BIGINT NOT NULL)";
    for sql in [EVENTS, others, PARTS, LISTS] {
        define(&node, sql).await.unwrap();
    }
    let mut sent = 0;
    let filling = async {
        while phase(&node, "lists").await != ViewPhase::OutOfMemory {
            insist(&node, "events", &lines(sent, sent + STEP)).await;
            sent += STEP;
        }
    };
    tokio::time::timeout(2 * PATIENCE, filling)
        .await
        .expect("it lets go of its runs");

    // Of any size, and into any stream.
    for _ in 0..8 {
        append(&node, "events", &lines(sent, sent + STEP), OnError::Reject).await;
        sent += STEP;
        append(&node, "others", &lines(0, 10), OnError::Reject).await;
    }
    let end = append(&node, "events", &lines(sent, sent + 1), OnError::Reject)
        .await
        .position;
    sent += 1;
    let parts = "SELECT sum(seen), sum(numbers) FROM parts";
    let numbers = sent * (sent - 1) / 2;
    assert_eq!(integers(&node, parts, Some(&end)).await, [[sent, numbers]]);
    let refused = try_integers(&node, "SELECT seen FROM lists", Some(&end)).await;
    let problem = refused.unwrap_err();
    assert_eq!(problem.kind, ProblemKind::Unavailable, "{problem}");
    for part in [
        "`lists`",
        "--batch-memory",
        "no incremental run can take them over",
    ] {
        assert!(problem.detail.contains(part), "{part}: {problem}");
    }
    // Runs that outgrow their memory are tried again after a pause, a minute at first.
    let again = problem.members["retry_after_s"].as_u64().unwrap();
    assert!((5..=4000).contains(&again), "{problem:?}");
    let status = node.view_status("lists").await.unwrap();
    assert!(
        status.view.notes.contains(
            &problem
                .detail
                .split("; until then")
                .next()
                .unwrap()
                .to_owned()
        )
    );
    node.shutdown().await;
    drop(node);

    let node = open(&data).await;
    let seen = integers(&node, "SELECT seen, cardinality(a) FROM lists", None).await;
    assert_eq!(seen, [[sent, sent]]);
    node.shutdown().await;
}

/// Runs of a view whose select list fails on one group have nowhere to go: they hold up nobody, and nothing of them is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_cannot_be_computed_stops_no_append() {
    const SHARES: &str = "CREATE VIEW shares AS SELECT n, 10 / (sum(n) - 3) AS r, sum(part) AS p, count(*) AS seen FROM events GROUP BY n";
    const STEP: i64 = 5_000;
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let node = Node::open(config(&data).with_speed_memory(4 * MIB))
        .await
        .unwrap();
    for sql in [EVENTS, PARTS, SHARES] {
        define(&node, sql).await.unwrap();
    }
    let mut sent = 0;
    let filling = async {
        while phase(&node, "shares").await != ViewPhase::OutOfMemory {
            insist(&node, "events", &lines(sent, sent + STEP)).await;
            sent += STEP;
        }
    };
    tokio::time::timeout(2 * PATIENCE, filling)
        .await
        .expect("it lets go of its runs");
    let end = append(&node, "events", &lines(sent, sent + STEP), OnError::Reject)
        .await
        .position;
    sent += STEP;
    let seen = integers(&node, "SELECT sum(seen) FROM parts", Some(&end)).await;
    assert_eq!(seen, [[sent]]);
    let refused = try_integers(&node, "SELECT seen FROM shares WHERE n = 7", None).await;
    let problem = refused.unwrap_err();
    assert_eq!(problem.kind, ProblemKind::Unavailable, "{problem}");
    for part in [
        "no incremental run can take them over",
        "column `r`",
        "for the group n = 3",
        "dovetail exclude events",
    ] {
        assert!(problem.detail.contains(part), "{part}: {problem}");
    }

    // An event that makes the group one that can be computed.
    let end = append(&node, "events", &lines(3, 4), OnError::Reject)
        .await
        .position;
    let healing = async {
        while phase(&node, "shares").await != ViewPhase::Live {
            let request = RecomputeRequest {
                mode: RunMode::Incremental,
                ..RecomputeRequest::default()
            };
            // Refused while another run is under way, as those are that the scheduler starts.
            let _ = node.recompute("shares", request).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(2 * PATIENCE, healing)
        .await
        .expect("a run heals it");
    let all = "SELECT count(*), sum(seen) FROM shares WHERE r IS NOT NULL";
    let all = integers(&node, all, Some(&end)).await;
    assert_eq!(all, [[sent, sent + 1]]);
    node.shutdown().await;
}

/// What a view needs is no reason for its stream to be away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_outgrows_its_memory_keeps_no_node_from_opening() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let node = open(&data).await;
    define(&node, EVENTS).await.unwrap();
    define(&node, PARTS).await.unwrap();
    let all = "CREATE VIEW all_numbers AS SELECT median(n) AS middle, count(*) AS seen FROM events";
    define(&node, all).await.unwrap();
    let lines: String = (0..MANY)
        .map(|n| format!("{{\"n\":{n},\"part\":0}}\n"))
        .collect();
    append(&node, "events", &lines, OnError::Reject).await;
    // Runs are made anew of what is archived.
    let archiving = async {
        loop {
            let stream = node.stream("events").await.unwrap();
            if stream.archived == stream.position {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, archiving).await.unwrap();
    node.shutdown().await;
    drop(node);

    let small = NodeConfig {
        batch_memory_bytes: 64 << 10,
        ..NodeConfig::new(data.clone())
    };
    let node = Node::open(small).await.unwrap();
    let seen = integers(&node, "SELECT count(*) FROM events", None).await;
    assert_eq!(seen, [[MANY]]);
    let refused = try_integers(&node, "SELECT seen FROM all_numbers", None).await;
    let problem = refused.unwrap_err();
    assert_eq!(problem.kind.status(), 503);
    assert!(problem.detail.contains("--batch-memory"), "{problem:?}");
    node.shutdown().await;
    drop(node);

    let node = open(&data).await;
    let seen = integers(&node, "SELECT middle * 2, seen FROM all_numbers", None).await;
    assert_eq!(seen[0][1], MANY);
    node.shutdown().await;
}

/// A join puts each list out with every event that goes with it: by the usual number of rows in a batch, that is half a
/// gigabyte at once here.
#[tokio::test]
async fn a_join_with_long_lists_is_made_in_small_batches() {
    const GROUPS: usize = 2;
    const EACH: usize = 8_000;
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    for sql in [
        EVENTS,
        "CREATE VIEW lists AS SELECT part, array_agg(n ORDER BY n) AS all_of_them FROM events GROUP BY part",
    ] {
        calls.sql(sql, json!({})).await.unwrap();
    }
    let line = |n: usize| json!({"n": n, "part": n % GROUPS}).to_string() + "\n";
    let lines: String = (0..GROUPS * EACH).map(line).collect();
    let headers = [("content-type", "application/x-ndjson")];
    let appending = calls.call(Method::POST, "/v1/streams/events", &headers, lines);
    let (status, appended) = appending.await.unwrap();
    assert_eq!(status, 200, "{appended}");
    let before = server.peak_memory();
    let sql = "SELECT sum(array_length(l.all_of_them)) AS n FROM events e JOIN lists l ON e.part = l.part";
    let rows = calls
        .rows(sql, json!({"after": appended["position"]}))
        .await
        .unwrap();
    assert_eq!(rows, [json!({"n": GROUPS * EACH * EACH})]);
    let grown = server.peak_memory() - before;
    assert!(grown < 250 * MIB, "{} MiB", grown / MIB);
}

/// A server whose queries have 64 MiB together, and where in its stream these events end.
pub(crate) async fn with_little_memory(
    home: &tempfile::TempDir,
    events: String,
) -> (Server, Value) {
    let arguments = ["--query-memory", "64MiB"];
    let server = Server::start_with(home.path(), &arguments, &[]).await;
    let server = server.expect("it starts");
    let position = with_events(&server, events).await;
    (server, position)
}

/// Where they end.
pub(crate) async fn with_events(server: &Server, events: String) -> Value {
    let calls = server.calls();
    let create = "CREATE STREAM events (n BIGINT NOT NULL, t VARCHAR NOT NULL)";
    calls.sql(create, json!({})).await.expect("it is declared");
    let headers = [("content-type", "application/x-ndjson")];
    let appending = calls.call(Method::POST, "/v1/streams/events", &headers, events);
    let (status, mut appended) = appending.await.expect("it answers");
    assert_eq!(status, 200, "{appended}");
    appended["position"].take()
}

/// Nothing that a query asks for takes more than the limit. What cannot spill is told so, and by which setting.
#[tokio::test]
async fn a_query_that_wants_more_than_its_memory_is_told_the_limit_and_the_setting() {
    const EVENTS: i64 = 2_000;
    let home = tempfile::tempdir().unwrap();
    let text = "x".repeat(500);
    let line = |n| json!({"n": n, "t": text}).to_string() + "\n";
    let (server, position) = with_little_memory(&home, (0..EVENTS).map(line).collect()).await;
    let (calls, after) = (server.calls(), json!({"after": position}));
    let pairs = "(SELECT a.n AS n, b.n AS m, a.t AS t, b.t AS u FROM events a, events b)";
    let before = server.peak_memory();
    let client = reqwest::Client::builder().timeout(HANGS).no_proxy();
    let client = client.build().unwrap();
    for greedy in [
        // One group that holds everything, a table to join with.
        format!("SELECT array_agg(t) AS texts FROM {pairs}"),
        format!(
            "SELECT count(*) AS n FROM {pairs} l JOIN {pairs} r ON l.n = r.m AND l.t = r.u AND l.u = r.t"
        ),
    ] {
        let asking = client.post(format!("{}/v1/sql", server.url()));
        let asking = asking.header("content-type", "application/json");
        let body = json!({"sql": greedy, "after": position, "timeout_ms": 60_000});
        let answer = asking.body(body.to_string()).send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let problem: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        assert_eq!(status, 429, "{greedy}: {problem}");
        assert_eq!(headers["content-type"], "application/problem+json");
        let seconds: u64 = headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!(seconds > 0, "{headers:?}");
        let detail = problem["detail"].as_str().unwrap();
        for part in [
            "--query-memory",
            "of 64.0 MB in all",
            "ask for fewer groups",
        ] {
            assert!(detail.contains(part), "{part}: {detail}");
        }
        let rows = calls.rows("SELECT count(*) AS n FROM events", after.clone());
        assert_eq!(rows.await.unwrap(), [json!({"n": EVENTS})]);
    }
    // What can spill needs no more than there is.
    let sorted = format!("SELECT n FROM {pairs} ORDER BY u, t, m DESC, n DESC LIMIT 1");
    let rows = calls.rows(&sorted, after).await.unwrap();
    assert_eq!(rows, [json!({"n": EVENTS - 1})]);
    // Batches on their way between operators are on no account.
    let grown = server.peak_memory() - before;
    assert!(grown < 768 * MIB, "{} MiB", grown / MIB);
}

/// Functions make their results outside of the pool, and a text that doubles again and again is terabytes: it is measured
/// before it is made.
#[tokio::test]
async fn a_query_whose_texts_grow_without_end_is_told_the_limit_and_the_setting() {
    const EVENTS: usize = 3_000;
    let home = tempfile::tempdir().unwrap();
    let line = |n| json!({"n": n, "t": format!("{n:0>100}")}).to_string() + "\n";
    let (server, position) = with_little_memory(&home, (0..EVENTS).map(line).collect()).await;
    let (calls, after) = (server.calls(), json!({"after": position}));
    let nested = |call: &str, from: &str| {
        let step = |n: usize| format!(", a{} AS (SELECT {call} AS t FROM a{n})", n + 1);
        let steps: String = (0..30).map(step).collect();
        format!("WITH a0 AS (SELECT {from}){steps} SELECT t FROM a30")
    };
    let before = server.peak_memory();
    for (call, from) in [
        ("t || t", "t FROM events"),
        ("t || t", "'x' AS t FROM events"),
        ("concat(t, t)", "t FROM events"),
        ("replace(t, '0', '00')", "t FROM events"),
        ("regexp_replace(t, '(.+)', '\\1\\1')", "t FROM events"),
        ("t || t", "[t] AS t FROM events"),
    ] {
        let question = json!({"sql": nested(call, from), "after": position});
        let (status, problem) = calls.post("/v1/sql", &question).await.unwrap();
        assert_eq!(status, 429, "{question}: {problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("--query-memory"), "{detail}");
        let rows = calls.rows("SELECT count(*) AS n FROM events", after.clone());
        assert_eq!(rows.await.unwrap(), [json!({"n": EVENTS})]);
    }
    // What a short expression is folded into stands in every row, and in many columns.
    let constant = (0..19).fold("'x'".to_owned(), |text, _| {
        format!("replace({text}, 'x', 'xx')")
    });
    let columns = (0..40).map(|n| format!("nullif({constant}, t) AS c{n}"));
    let columns = columns.collect::<Vec<_>>().join(", ");
    let sql = format!(
        "SELECT count(*) AS n FROM (SELECT {columns} FROM events) WHERE octet_length(c7) > 9 AND c9 > c5 || 'x'"
    );
    let rows = calls.rows(&sql, after).await.unwrap();
    assert_eq!(rows, [json!({"n": 0})]);
    let grown = server.peak_memory() - before;
    assert!(grown < 400 * MIB, "{} MiB", grown / MIB);
}
