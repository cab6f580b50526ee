// SPDX-License-Identifier: Apache-2.0
//! Full runs by volume: from the first event that is enough, once, and counted on over a restart.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::server::{Calls, HANGS, Server};

async fn start(home: &std::path::Path) -> Server {
    let archives_soon = ["--archive-interval", "1s"];
    Server::start_with(home, &archives_soon, &[]).await.unwrap()
}

async fn append(calls: &Calls, events: usize) {
    let ndjson = [("content-type", "application/x-ndjson")];
    let body = "{\"x\": 1}\n".repeat(events);
    let appended = calls.call(Method::POST, "/v1/streams/s", &ndjson, body);
    assert_eq!(appended.await.unwrap().0, 200);
}

/// Waits until the status of the view is as `expected`.
async fn until(calls: &Calls, expected: impl Fn(&Value) -> bool) -> Value {
    let waiting = async {
        loop {
            let status = calls.get("/v1/views/v/status").await.unwrap();
            if expected(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(HANGS, waiting).await.unwrap()
}

/// The runs that volume started and that ended promoted, once there are `count` of them; never more.
async fn promoted(calls: &Calls, count: usize) -> Vec<Value> {
    let waiting = async {
        loop {
            let runs = calls.get("/v1/runs").await.unwrap();
            let runs = runs["runs"].as_array().unwrap().clone();
            let by_volume = runs.into_iter().filter(|run| run["trigger"] == "volume");
            let by_volume: Vec<Value> = by_volume.collect();
            assert!(by_volume.len() <= count, "{by_volume:?}");
            let ended = by_volume.iter().all(|run| run["outcome"] == "promoted");
            if by_volume.len() == count && ended {
                return by_volume;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(HANGS, waiting).await.unwrap()
}

fn archived(status: &Value) -> u64 {
    status["archived_since_full"]["events"].as_u64().unwrap()
}

#[tokio::test]
async fn enough_archived_events_recompute_a_view_once_also_over_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let server = start(home.path()).await;
    let calls = server.calls();
    for sql in [
        "CREATE STREAM s (x INT)",
        "CREATE VIEW v WITH (recompute_after_events = 100) AS SELECT x, count(*) AS n FROM s GROUP BY x",
    ] {
        calls.sql(sql, json!({})).await.unwrap();
    }
    append(&calls, 60).await;
    let status = until(&calls, |status| archived(status) == 60).await;
    assert_eq!(status["recompute_after_events"], 100);
    let definition = status["definition"].as_str().unwrap();
    assert!(
        definition.contains("recompute_after_events = 100"),
        "{definition}"
    );
    promoted(&calls, 0).await;
    // It goes on from there, though nothing of it is in memory any more.
    server.kill().await;
    let server = start(home.path()).await;
    let calls = server.calls();
    until(&calls, |status| archived(status) == 60).await;
    append(&calls, 45).await;
    promoted(&calls, 1).await;
    until(&calls, |status| archived(status) == 0).await;
    server.kill().await;
    let server = start(home.path()).await;
    let calls = server.calls();
    until(&calls, |status| archived(status) == 0).await;
    append(&calls, 99).await;
    until(&calls, |status| archived(status) == 99).await;
    promoted(&calls, 1).await;
    // Altered, what is archived already is enough.
    let lower = "ALTER VIEW v SET (recompute_after_events = NULL, recompute_after_bytes = '1 TiB')";
    calls.sql(lower, json!({})).await.unwrap();
    let status = until(&calls, |status| status["recompute_after_bytes"] == "1 TiB").await;
    assert!(status["recompute_after_events"].is_null(), "{status}");
    let enough = "ALTER VIEW v SET (recompute_after_events = 99)";
    calls.sql(enough, json!({})).await.unwrap();
    promoted(&calls, 2).await;
    let rows = calls.rows("SELECT n FROM v", json!({})).await.unwrap();
    assert_eq!(rows, [json!({"n": 204})]);
}
