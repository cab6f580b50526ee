// SPDX-License-Identifier: Apache-2.0
//! The real process dies, at every commit point and at random moments, and starts again at once: nothing
//! acknowledged is lost or doubled, and every retry counts once.
//!
//! Purpose: laws 2, 4 and 9 across a kill. Collaborators: the built program on a directory of its own, its HTTP
//! API, an oracle over the numbered events that were sent.
//! Non-goals: lost pages and torn frames, which a kill cannot bring about: the log's own tests do.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::support::feed::{DEFINITIONS, Feed, hourly};
use crate::support::load::Load;
use crate::support::projection::Projection;
use crate::support::server::{Calls, Server};

const VIEWS: [&str; 2] = ["hourly", "total"];

pub(crate) async fn declare(calls: &Calls) -> Option<()> {
    for definition in DEFINITIONS {
        calls.sql(definition, json!({})).await?;
    }
    Some(())
}

pub(crate) async fn append(
    calls: &Calls,
    feed: &mut Feed,
    events: i64,
    dead_letters: u64,
) -> Option<()> {
    let number = feed.push(events, dead_letters);
    let answer = feed.request(number).send(calls).await?;
    feed.answered(number, answer);
    Some(())
}

/// Everything that moves a boundary, in an order that does not change. None when the process died in it.
async fn life(calls: &Calls, feed: &mut Feed) -> Option<()> {
    declare(calls).await?;
    append(calls, feed, 7, 0).await?;
    append(calls, feed, 5, 1).await?;
    append(calls, feed, 9, 0).await?;
    calls.recompute("hourly", &json!({})).await?;
    append(calls, feed, 4, 2).await?;
    calls
        .recompute("total", &json!({"mode": "incremental"}))
        .await?;
    append(calls, feed, 6, 0).await?;
    let run = calls.recompute("hourly", &json!({"dry_run": true})).await?;
    append(calls, feed, 3, 0).await?;
    promote(calls, &run).await?;
    append(calls, feed, 8, 0).await?;
    let (status, answer) = calls.post("/v1/views/hourly/rollback", &json!({})).await?;
    assert_eq!(status, 200, "{answer}");
    append(calls, feed, 2, 1).await?;
    let repair = json!({"mode": "repair", "where": "origin = 'SFO'"});
    calls.recompute("hourly", &repair).await?;
    append(calls, feed, 1, 0).await
}

async fn promote(calls: &Calls, run: &Value) -> Option<()> {
    assert_eq!(run["outcome"], "staged", "{run}");
    let path = format!("/v1/runs/{}/promote", run["id"]);
    let (status, answer) = calls.post(&path, &json!({})).await?;
    assert_eq!(status, 200, "{answer}");
    Some(())
}

/// The newest runs first. None reads as if it were still at work.
async fn ended_runs(calls: &Calls) -> Vec<Value> {
    let listed = calls.get("/v1/runs?limit=1000").await.expect("it answers");
    let runs = listed["runs"].as_array().unwrap().clone();
    for run in &runs {
        match run["outcome"].as_str().unwrap() {
            "failed" => assert_eq!(run["error"], "interrupted", "{run}"),
            "staged" => assert_eq!(run["dry_run"], true, "{run}"),
            outcome => assert_ne!(outcome, "running", "{run}"),
        }
    }
    runs
}

/// What Delta shows of each view is its live generation.
async fn projections_equal_the_pointers(home: &Path, calls: &Calls) {
    for view in VIEWS {
        let sql = format!("SELECT * FROM {view}");
        let batch = json!({"layer": "batch"});
        let answer = calls.sql(&sql, batch.clone()).await;
        let provenance = &answer.expect("it answers")["provenance"]["views"][0];
        let shown = Projection::read(home, provenance["id"].as_str().unwrap());
        assert_eq!(provenance["generation"], shown.generation, "{view}");
        if view == "hourly" {
            assert_eq!(shown.hours(), hourly(calls, &batch).await);
        }
    }
}

/// Starts again and checks everything: first what the crash left, then after every retry, then after the raw
/// log was read through once more.
async fn recovers(home: &Path, feed: &mut Feed) -> (Server, Vec<Value>) {
    let server = Server::start(home, None).await.expect("it starts again");
    let calls = server.calls();
    declare(&calls).await.expect("definitions are there");
    projections_equal_the_pointers(home, &calls).await;
    let runs = ended_runs(&calls).await;
    feed.retry(&calls).await;
    feed.verify(&calls).await;
    (server, runs)
}

/// Every layer below was right if a generation computed from the raw log alone says the same.
pub(crate) async fn recomputes(server: &Server, feed: &Feed) {
    let calls = server.calls();
    for view in VIEWS {
        let run = calls.recompute(view, &json!({})).await.expect("it runs");
        assert_eq!(run["outcome"], "promoted", "{run}");
    }
    feed.verify(&calls).await;
    feed.verify_views(&calls, &json!({"layer": "batch"})).await;
}

/// Lives until `point`, dies there, and recovers. `newest` is how the run reads that was at work, if any must.
async fn dies_at(point: &str, newest: Option<&str>) -> (tempfile::TempDir, Server, Feed) {
    let home = tempfile::tempdir().unwrap();
    let mut feed = Feed::default();
    let server = Server::start(home.path(), Some(point)).await.unwrap();
    let lived = life(&server.calls(), &mut feed).await;
    assert!(lived.is_none(), "`{point}` was never reached");
    let status = server.died().await;
    assert!(!status.success(), "{point}: {status}");
    let (server, runs) = recovers(home.path(), &mut feed).await;
    if let Some(outcome) = newest {
        assert_eq!(runs[0]["outcome"], outcome, "{point}: {}", runs[0]);
    }
    (home, server, feed)
}

async fn dies_and_recomputes(points: &[(&str, Option<&str>)]) {
    for (point, newest) in points {
        let started = Instant::now();
        let (_home, server, feed) = dies_at(point, *newest).await;
        recomputes(&server, &feed).await;
        println!("{point}: {:.1} s", started.elapsed().as_secs_f64());
    }
}

#[tokio::test]
async fn an_append_is_cut_off() {
    dies_and_recomputes(&[
        ("log-append:written:3", None),
        ("log-append:synced:2", None),
    ])
    .await;
}

#[tokio::test]
async fn an_archive_is_cut_off() {
    dies_and_recomputes(&[
        ("archive:written", None),
        ("archive:dead-letters", None),
        ("archive:committed", None),
        ("archive:committed:2", None),
    ])
    .await;
}

#[tokio::test]
async fn a_run_is_cut_off() {
    dies_and_recomputes(&[
        ("run:computed", Some("failed")),
        ("run:staged", Some("failed")),
    ])
    .await;
}

#[tokio::test]
async fn a_staged_run_outlives_the_process() {
    let (_home, server, feed) = dies_at("run:staged:2", Some("staged")).await;
    let calls = server.calls();
    let runs = ended_runs(&calls).await;
    promote(&calls, &runs[0]).await.unwrap();
    feed.verify(&calls).await;
    recomputes(&server, &feed).await;
}

#[tokio::test]
async fn the_pointer_moved_and_nobody_heard_of_it() {
    // In order: the base of a full run, its promote, an incremental run, a promote by hand, a rollback.
    dies_and_recomputes(&[
        ("pointer:moved", Some("failed")),
        ("pointer:moved:2", Some("promoted")),
        ("pointer:moved:3", Some("promoted")),
        ("pointer:moved:5", Some("promoted")),
        ("pointer:moved:6", Some("promoted")),
    ])
    .await;
}

#[tokio::test]
async fn the_projection_was_committed_last() {
    dies_and_recomputes(&[
        // Those of the two empty views come first.
        ("projection:committed", None),
        ("projection:committed:3", Some("failed")),
        // The ledger tells the client earlier, which goes on.
        ("projection:committed:5", None),
    ])
    .await;
}

#[tokio::test]
async fn a_definition_is_cut_off() {
    // The claim of the store came first. The stream, the first view, the record of the first run.
    dies_and_recomputes(&[
        ("catalog:committed:2", None),
        ("catalog:committed:3", None),
        ("catalog:committed:5", Some("failed")),
    ])
    .await;
}

/// Before the catalog has the column it is not there; behind it, it is. In either case nothing is lost, and the column
/// can be used.
#[tokio::test]
async fn a_change_of_schema_is_cut_off() {
    const ADD: &str = "ALTER STREAM events ADD COLUMN note VARCHAR";
    for (point, there) in [("schema:prepared", false), ("schema:committed", true)] {
        let home = tempfile::tempdir().unwrap();
        let mut feed = Feed::default();
        let server = Server::start(home.path(), Some(point)).await.unwrap();
        let calls = server.calls();
        declare(&calls).await.unwrap();
        append(&calls, &mut feed, 7, 1).await.unwrap();
        calls.recompute("hourly", &json!({})).await.unwrap();
        append(&calls, &mut feed, 5, 0).await.unwrap();
        let add = json!({"sql": ADD});
        assert!(calls.post("/v1/sql", &add).await.is_none(), "{point}");
        server.died().await;

        let (server, _) = recovers(home.path(), &mut feed).await;
        let calls = server.calls();
        if !there {
            calls.sql(ADD, json!({})).await.unwrap();
        }
        let (status, problem) = calls.post("/v1/sql", &add).await.unwrap();
        assert_eq!(status, 409, "{point}: {problem}");
        append(&calls, &mut feed, 3, 0).await.unwrap();
        let count = "SELECT count(note) AS notes FROM events";
        let rows = calls.rows(count, json!({})).await.unwrap();
        assert_eq!(rows, [json!({"notes": 0})], "{point}");
        server.kill().await;
        let (server, _) = recovers(home.path(), &mut feed).await;
        recomputes(&server, &feed).await;
    }
}

#[tokio::test]
async fn it_dies_again_while_it_recovers() {
    let home = tempfile::tempdir().unwrap();
    let mut feed = Feed::default();
    let server = Server::start(home.path(), Some("run:computed")).await;
    let server = server.unwrap();
    assert!(life(&server.calls(), &mut feed).await.is_none());
    server.died().await;
    // Its first commit says that the run was interrupted.
    let again = Server::start(home.path(), Some("catalog:committed")).await;
    assert!(again.is_err(), "it recovers without a commit");
    let (server, runs) = recovers(home.path(), &mut feed).await;
    assert_eq!(runs[0]["outcome"], "failed", "{}", runs[0]);
    recomputes(&server, &feed).await;
}

pub(crate) fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Kills at random moments under appends, runs and queries. `DOVETAIL_CRASH_ROUNDS` says how often,
/// `DOVETAIL_CRASH_SEED` what is sent when; the scheduler of the machine has a say too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_dies_at_random_moments() {
    let seed = from_env("DOVETAIL_CRASH_SEED").unwrap_or_else(rand::random);
    println!("DOVETAIL_CRASH_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let home = tempfile::tempdir().unwrap();
    let mut feed = Feed::default();
    let mut server = Server::start(home.path(), None).await.expect("it starts");
    for round in 0..from_env("DOVETAIL_CRASH_ROUNDS").unwrap_or(3) {
        let calls = server.calls();
        declare(&calls).await.expect("it answers");
        let shared = Arc::new(Mutex::new(feed));
        let load = Load::start(&calls, &shared, random.random());
        tokio::time::sleep(Duration::from_millis(random.random_range(1..2500))).await;
        server.kill().await;
        println!("round {round}: {}", load.cut_off().await);
        feed = std::mem::take(&mut *shared.lock());
        (server, _) = recovers(home.path(), &mut feed).await;
    }
    recomputes(&server, &feed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_stops_in_order_under_load() {
    let home = tempfile::tempdir().unwrap();
    let feed = Arc::new(Mutex::new(Feed::default()));
    let server = Server::start(home.path(), None).await.unwrap();
    declare(&server.calls()).await.unwrap();
    let numbers = "CREATE VIEW numbers AS SELECT n, count(*) AS seen FROM events GROUP BY n";
    server.calls().sql(numbers, json!({})).await.unwrap();
    let load = Load::start(&server.calls(), &feed, 7);
    load.has_promoted(2).await;
    let query = tokio::spawn(endless_query(server.calls()));
    is_asked(&server.calls()).await;
    let run = full_run(&server.calls()).await;
    let asked = Instant::now();
    server.terminate();
    let status = server.died().await;
    let took = asked.elapsed();
    println!("{}, stopped in {took:?}", load.cut_off().await);
    assert!(query.await.unwrap().is_none_or(|(status, _)| status >= 400));
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(took < Duration::from_secs(20), "stopped after {took:?}");

    // What the next start would have to finish is finished: neither ledger nor projection moves in it.
    let before = commits(home.path());
    let mut feed = std::mem::take(&mut *feed.lock());
    let server = Server::start(home.path(), None).await.expect("it starts");
    assert_eq!(commits(home.path()), before);
    // The run was at work when the signal came: it was finished or given up, and the ledger says which.
    let runs = ended_runs(&server.calls()).await;
    let ended = runs.iter().find(|ended| ended["id"] == run["id"]).unwrap();
    let outcome = ended["outcome"].as_str().unwrap();
    assert!(["promoted", "cancelled"].contains(&outcome), "{ended}");
    server.kill().await;
    let (server, _) = recovers(home.path(), &mut feed).await;
    recomputes(&server, &feed).await;
}

/// A question that takes longer than anybody waits for the end of a server.
async fn endless_query(calls: Calls) -> Option<(u16, Value)> {
    let sql = "SELECT count(*) AS n FROM events a, events b, events c, events d \
        WHERE a.n + b.n + c.n + d.n < 0";
    let body = json!({"sql": sql, "timeout_ms": 80_000});
    calls.post("/v1/sql", &body).await
}

/// Waits until the question above is at work: it does not end, so queries are busy all the time.
async fn is_asked(calls: &Calls) {
    loop {
        let status = calls.get("/v1/status").await.expect("it answers");
        let stages = status["stages"].as_array().unwrap();
        let queries = stages.iter().find(|stage| stage["stage"] == "queries");
        if queries.unwrap()["busy"].as_f64().unwrap() > 0.9 {
            return;
        }
    }
}

/// Starts a full run of a view that the load leaves alone, and does not wait for it.
async fn full_run(calls: &Calls) -> Value {
    let (status, run) = calls
        .post("/v1/views/numbers/recompute", &json!({}))
        .await
        .expect("it answers");
    assert_eq!((status, &run["outcome"]), (202, &json!("running")), "{run}");
    run
}

/// How many commits the catalog and the projections hold.
fn commits(home: &Path) -> Vec<usize> {
    let store = home.join("data/store");
    let views = std::fs::read_dir(store.join("views")).unwrap();
    let logs = views.map(|view| view.unwrap().path().join("_delta_log"));
    let count = |dir| std::fs::read_dir(dir).unwrap().count();
    logs.chain([store.join("catalog")]).map(count).collect()
}
