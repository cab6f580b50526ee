// SPDX-License-Identifier: Apache-2.0
//! `dovetail up --roles batch` without `--cuts`: batch runs computed by other processes, over one store.
//!
//! Purpose: that whatever a worker does, dies, stands still or answers too late, runs end well and no answer is ever
//! wrong. Collaborators: the built program, the oracle over numbered events. Non-goals: what a replica answers.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::crash::{append, declare};
use crate::replicas::Place;
use crate::support::feed::Feed;
use crate::support::server::{Calls, HANGS, Server};

impl Place {
    async fn worker(&self, name: &str) -> Server {
        self.beside(name, "batch", &[], &[]).await
    }

    /// One to which something happens at a place in the code.
    async fn worker_that(&self, name: &str, variable: &str, place: &str) -> Server {
        self.beside(name, "batch", &[], &[(variable, place)]).await
    }
}

/// Looks again and again until it is so.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let seen = tokio::time::timeout(HANGS, looking).await;
    seen.unwrap_or_else(|_| panic!("never: {what}"))
}

/// The workers that `calls` knows of.
async fn workers(calls: &Calls) -> Vec<Value> {
    let status = calls.get("/v1/status").await.unwrap();
    let workers = status["workers"].as_array();
    workers.cloned().unwrap_or_default()
}

/// Waits until `calls` knows of so many workers, of which none computes.
async fn until_there(calls: &Calls, count: usize) {
    until(&format!("{count} idle workers"), async || {
        let workers = workers(calls).await;
        let idle = |worker: &Value| worker["computing"] == json!([]);
        (workers.len() == count && workers.iter().all(idle)).then_some(())
    })
    .await;
}

/// What a worker is called.
fn name_of(worker: &Server) -> String {
    let (_, port) = worker.url().rsplit_once(':').unwrap();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    format!("{}:{port}", host.trim())
}

/// Starts a run; its number.
async fn start(calls: &Calls, view: &str, request: &Value) -> u64 {
    let path = format!("/v1/views/{view}/recompute");
    let (status, run) = calls.post(&path, request).await.unwrap();
    assert_eq!(status, 202, "{run}");
    run["id"].as_u64().unwrap()
}

/// Waits until a run is in the hands of `worker`.
async fn until_handed(calls: &Calls, id: u64, worker: &str) {
    until("the run is handed out", async || {
        let run = calls.get(&format!("/v1/runs/{id}")).await.unwrap();
        assert_eq!(run["outcome"], "running", "{run}");
        (run["worker"] == worker).then_some(())
    })
    .await;
}

async fn promoted(calls: &Calls, view: &str, request: &Value) -> Value {
    let run = calls.recompute(view, request).await.unwrap();
    assert_eq!(run["outcome"], "promoted", "{run}");
    run
}

#[tokio::test]
async fn every_kind_of_run_is_computed_by_workers() {
    let place = Place::new();
    let taker = place.taker(&[]).await;
    let (one, two) = (place.worker("one").await, place.worker("two").await);
    let names = [name_of(&one), name_of(&two)];
    let calls = one.calls();
    until_there(&calls, 2).await;
    // A worker is a replica, too.
    let mut feed = Feed::default();
    declare(&calls).await.unwrap();
    append(&calls, &mut feed, 300, 1).await.unwrap();
    let full = promoted(&calls, "hourly", &json!({})).await;
    // The base brought forward, and everything again.
    assert_eq!(full["rows_read"], 600, "{full}");
    append(&calls, &mut feed, 70, 0).await.unwrap();
    let repair = json!({"mode": "repair", "where": "origin = 'SFO'"});
    let repair = promoted(&calls, "hourly", &repair).await;
    assert_eq!(repair["rows_read"], 70 + 2 * 370, "{repair}");
    let incremental = json!({"mode": "incremental"});
    let incremental = promoted(&calls, "total", &incremental).await;
    assert_eq!(incremental["rows_read"], 370, "{incremental}");
    for run in [full, repair, incremental] {
        let worker = run["worker"].as_str().unwrap_or_default().to_owned();
        assert!(names.contains(&worker), "{run}");
    }
    for server in [&taker, &one, &two] {
        feed.verify(&server.calls()).await;
        feed.verify_views(&server.calls(), &json!({"layer": "batch"}))
            .await;
    }
    let shown = calls.rows("SHOW RUNS", json!({})).await.unwrap();
    assert!(
        names.iter().any(|name| shown[0]["worker"] == *name),
        "{shown:?}"
    );

    // A view that cannot be computed fails with the same words wherever that is tried.
    let bad = "CREATE VIEW bad AS SELECT origin, sum(1 / (n - 5)) AS x FROM events GROUP BY origin";
    calls.sql(bad, json!({})).await.unwrap();
    let newest = calls.get("/v1/runs?view=bad&limit=1").await.unwrap();
    let built = calls
        .wait(newest["runs"][0]["id"].as_u64().unwrap())
        .await
        .unwrap();
    one.terminate();
    two.terminate();
    for server in [one, two] {
        assert_eq!(server.died().await.code(), Some(0));
    }
    // Those that stop say so.
    let calls = taker.calls();
    until_there(&calls, 0).await;
    let here = calls.recompute("bad", &json!({})).await.unwrap();
    assert!(names.iter().any(|name| built["worker"] == *name), "{built}");
    assert_eq!(here["worker"], Value::Null, "{here}");
    for run in [&built, &here] {
        assert_eq!(run["outcome"], "failed", "{run}");
        assert!(
            run["error"].as_str().unwrap().contains("ivide by zero"),
            "{run}"
        );
    }
    assert_eq!(built["error"], here["error"]);
}

#[tokio::test]
async fn a_run_outlives_a_worker_that_is_killed_in_the_middle_of_it() {
    let place = Place::new();
    let taker = place.taker(&[]).await;
    let calls = taker.calls();
    let mut feed = Feed::default();
    declare(&calls).await.unwrap();
    for (round, others) in [1, 0].into_iter().enumerate() {
        append(&calls, &mut feed, 100, 0).await.unwrap();
        promoted(&calls, "hourly", &json!({"mode": "incremental"})).await;
        // Its first file is written then, and its answer never comes.
        let name = format!("dies-{round}");
        let dying = place
            .worker_that(&name, "DOVETAIL_CRASH_AT", "generation:file-written")
            .await;
        until_there(&calls, 1).await;
        let id = start(&calls, "hourly", &json!({})).await;
        assert!(!dying.died().await.success());
        let other = match others {
            0 => None,
            _ => Some(place.worker("other").await),
        };
        let run = calls.wait(id).await.unwrap();
        assert_eq!(run["outcome"], "promoted", "{run}");
        assert_eq!(run["rows_read"], (round as u64 + 1) * 100, "{run}");
        let worker = other.as_ref().map(name_of);
        assert_eq!(run["worker"].as_str(), worker.as_deref(), "{run}");
        feed.verify(&calls).await;
        feed.verify_hourly(&calls, &json!({"layer": "batch"})).await;
        drop(other);
        until_there(&calls, 0).await;
    }
}

#[tokio::test]
async fn what_a_worker_answers_after_its_work_was_given_away_changes_nothing() {
    let place = Place::new();
    let taker = place.taker(&[]).await;
    let calls = taker.calls();
    let mut feed = Feed::default();
    declare(&calls).await.unwrap();
    append(&calls, &mut feed, 100, 0).await.unwrap();
    promoted(&calls, "hourly", &json!({"mode": "incremental"})).await;
    let slow = place
        .worker_that("slow", "DOVETAIL_STOP_AT", "worker:computed")
        .await;
    until_there(&calls, 1).await;
    let id = start(&calls, "hourly", &json!({})).await;
    until("the worker stands still", async || {
        slow.is_frozen().then_some(())
    })
    .await;
    let run = calls.wait(id).await.unwrap();
    assert_eq!(
        (&run["outcome"], &run["worker"]),
        (&json!("promoted"), &Value::Null),
        "{run}"
    );
    append(&calls, &mut feed, 50, 0).await.unwrap();
    let before = calls.get("/v1/views/hourly/status").await.unwrap();
    slow.thaw();
    until_there(&calls, 1).await;
    let after = calls.get("/v1/views/hourly/status").await.unwrap();
    assert_eq!(before["generations"], after["generations"]);
    assert_eq!(calls.get(&format!("/v1/runs/{id}")).await.unwrap(), run);
    // It is a worker like others again.
    let run = promoted(&calls, "hourly", &json!({})).await;
    assert_eq!(run["worker"], name_of(&slow), "{run}");
    feed.verify(&slow.calls()).await;
    feed.verify_hourly(&calls, &json!({"layer": "batch"})).await;
}

#[tokio::test]
async fn a_run_is_cancelled_wherever_it_is_computed() {
    let place = Place::new();
    let taker = place.taker(&[]).await;
    let calls = taker.calls();
    let mut feed = Feed::default();
    declare(&calls).await.unwrap();
    append(&calls, &mut feed, 100, 0).await.unwrap();
    promoted(&calls, "hourly", &json!({"mode": "incremental"})).await;
    let worker = place.worker("worker").await;
    until_there(&calls, 1).await;
    worker.freeze();
    let id = start(&calls, "hourly", &json!({})).await;
    until_handed(&calls, id, &name_of(&worker)).await;
    let shown = workers(&calls).await;
    assert_eq!(shown[0]["computing"][0]["mode"], "full", "{shown:?}");
    assert_eq!(shown[0]["computing"][0]["view"], "hourly", "{shown:?}");
    let path = format!("/v1/runs/{id}/cancel");
    let (status, run) = calls.post(&path, &json!({})).await.unwrap();
    assert_eq!(
        (status, &run["outcome"]),
        (200, &json!("cancelled")),
        "{run}"
    );
    worker.thaw();
    until_there(&calls, 1).await;
    let run = promoted(&calls, "hourly", &json!({})).await;
    assert_eq!(run["worker"], name_of(&worker), "{run}");
    feed.verify(&calls).await;
}

#[tokio::test]
async fn workers_work_for_whoever_comes_back() {
    let place = Place::new();
    let taker = place.taker(&[]).await;
    let calls = taker.calls();
    let mut feed = Feed::default();
    declare(&calls).await.unwrap();
    append(&calls, &mut feed, 100, 0).await.unwrap();
    promoted(&calls, "hourly", &json!({"mode": "incremental"})).await;
    let slow = place
        .worker_that("slow", "DOVETAIL_STOP_AT", "worker:computed")
        .await;
    until_there(&calls, 1).await;
    let id = start(&calls, "hourly", &json!({})).await;
    until("the worker stands still", async || {
        slow.is_frozen().then_some(())
    })
    .await;
    taker.kill().await;

    // At another address.
    let taker = place.taker(&[]).await;
    let calls = taker.calls();
    let run = calls.get(&format!("/v1/runs/{id}")).await.unwrap();
    assert_eq!(run["outcome"], "failed", "{run}");
    slow.thaw();
    until_there(&calls, 1).await;
    assert_eq!(calls.get(&format!("/v1/runs/{id}")).await.unwrap(), run);
    append(&calls, &mut feed, 20, 0).await.unwrap();
    for view in ["hourly", "total"] {
        let run = promoted(&calls, view, &json!({})).await;
        assert_eq!(run["worker"], name_of(&slow), "{run}");
    }
    feed.verify(&slow.calls()).await;
    feed.verify_views(&calls, &json!({"layer": "batch"})).await;
}

#[tokio::test]
async fn a_worker_shows_a_token_of_an_admin() {
    let place = Place::new();
    let (admin, writer) = ("c1b8f0d6e7a94c02aa", "5f0e9a7d33b14e55bb");
    let file = place.tokens(&format!("ops:admin:{admin}\ncollector:write:{writer}\n"));
    let tokens = ["--tokens", file.to_str().unwrap()];
    let taker = place.taker(&tokens).await;
    let with = async |name: &str, token: &str| {
        let shows = ["--peer-token", token].into_iter().chain(tokens);
        place
            .try_beside(name, "batch", &shows.collect::<Vec<_>>(), &[])
            .await
    };
    let said = with("refused", writer).await.err().expect("it ends");
    assert!(said.contains("show it the token of an admin"), "{said}");
    assert!(!said.contains(writer), "{said}");
    let worker = with("worker", admin).await.expect("it starts");
    let bearer = format!("Bearer {admin}");
    let headers = [("authorization", bearer.as_str())];
    let calls = taker.calls();
    let seen = until("a worker is there", async || {
        let asked = calls.call(Method::GET, "/v1/status", &headers, String::new());
        let (_, status) = asked.await.unwrap();
        let workers = status["workers"].as_array().cloned().unwrap_or_default();
        (!workers.is_empty()).then_some(workers)
    })
    .await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0]["name"], name_of(&worker));
    for server in [&taker, &worker] {
        assert!(!server.log().contains(writer) && !server.log().contains(admin));
    }
}
