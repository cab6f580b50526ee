// SPDX-License-Identifier: Apache-2.0
//! A clock that jumps, forward and back: retries still count once, schedules go on, and nobody waits for a year.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dovetail::node::{Node, NodeConfig};
use dovetail_log::Format;
use dovetail_model::{Clock as _, ManualClock, RunMode, SystemClock};
use dovetail_serving_layer::ports::{
    AppendAnswer, AppendRequest, Control as _, Ingest as _, OnError, RunsQuery,
};

use crate::support::node::{PATIENCE, config, define, integers};

const HOUR_US: i64 = 3_600_000_000;
const YEAR_US: i64 = 365 * 24 * HOUR_US;
const EVENTS: &str = "CREATE STREAM events (n BIGINT NOT NULL)";

async fn open(data: &Path, clock: &Arc<ManualClock>) -> Node {
    let config = NodeConfig {
        clock: Arc::clone(clock) as _,
        ..config(data)
    };
    Node::open(config).await.unwrap()
}

async fn append(node: &Node, key: &str, lines: &str) -> AppendAnswer {
    let request = AppendRequest {
        format: Format::Ndjson,
        body: lines.to_owned().into(),
        on_error: OnError::Reject,
        idempotency_key: Some(key.to_owned()),
        origin: "test".to_owned(),
    };
    node.append("events", request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_counts_once_though_the_clock_has_jumped() {
    let home = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(SystemClock.now_us()));
    let node = open(home.path(), &clock).await;
    define(&node, EVENTS).await.unwrap();
    assert!(!append(&node, "a", "{\"n\":1}\n").await.duplicate);
    for jump in [48 * HOUR_US, -YEAR_US, YEAR_US - 48 * HOUR_US] {
        clock.jump(jump);
        assert!(append(&node, "a", "{\"n\":1}\n").await.duplicate);
        let other = format!("at {jump}");
        let fresh = append(&node, &other, "{\"n\":2}\n").await;
        assert!(!fresh.duplicate);
        assert!(append(&node, &other, "{\"n\":2}\n").await.duplicate);
        let rows = integers(
            &node,
            "SELECT n, count(*) FROM events GROUP BY n ORDER BY n",
            Some(&fresh.position),
        );
        assert_eq!(rows.await[0], [1, 1]);
    }
    node.shutdown().await;
    drop(node);
    // The clock is right again, and the log remembers what arrived while it was ahead.
    let node = open(home.path(), &clock).await;
    assert!(append(&node, "a", "{\"n\":1}\n").await.duplicate);
    let rows = integers(&node, "SELECT count(*) FROM events", None).await;
    assert_eq!(rows, [[4]]);
    node.shutdown().await;
}

async fn runs(node: &Node, mode: RunMode) -> usize {
    let query = RunsQuery {
        view: Some("total".to_owned()),
        outcome: None,
        before: None,
        limit: 1000,
    };
    let runs = node.runs(query).await.unwrap();
    runs.iter()
        .filter(|run| run.mode == mode && run.outcome.is_final())
        .count()
}

async fn until_more_runs(node: &Node, mode: RunMode, than: usize) -> usize {
    let waiting = async {
        loop {
            let count = runs(node, mode).await;
            if count > than {
                return count;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    waited.unwrap_or_else(|_| panic!("no {mode} run comes"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedules_go_on_after_the_clock_was_ahead() {
    let home = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(SystemClock.now_us()));
    let node = open(home.path(), &clock).await;
    define(&node, EVENTS).await.unwrap();
    let view = "CREATE VIEW total WITH (recompute = '*/5 * * * *', refresh = '1 minute') AS \
        SELECT count(*) AS seen FROM events";
    define(&node, view).await.unwrap();
    let mut sent = 0;
    let mut full = runs(&node, RunMode::Full).await;
    let mut incremental = runs(&node, RunMode::Incremental).await;
    for jump in [YEAR_US, -YEAR_US, 10 * 60_000_000] {
        clock.jump(jump);
        sent += 1;
        append(&node, &sent.to_string(), "{\"n\":1}\n").await;
        full = until_more_runs(&node, RunMode::Full, full).await;
        sent += 1;
        let end = append(&node, &sent.to_string(), "{\"n\":1}\n")
            .await
            .position;
        clock.advance(61_000_000);
        incremental = until_more_runs(&node, RunMode::Incremental, incremental).await;
        let seen = integers(&node, "SELECT seen FROM total", Some(&end)).await;
        assert_eq!(seen, [[sent]]);
    }
    node.shutdown().await;
}
