// SPDX-License-Identifier: Apache-2.0
//! The built program as a server: what it says, and how it stops.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Child;
use tokio::time::timeout;

use crate::crash::{append, declare};
use crate::support::fake::run;
use crate::support::feed::Feed;
use crate::support::program::program;
use crate::support::server::{Calls, Server};
use crate::support::up::{PATIENCE, Up};

fn definitions() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/definitions")
}

#[tokio::test]
async fn it_applies_a_directory_and_stops_in_order_on_either_signal() {
    let dir = tempfile::tempdir().unwrap();
    let definitions = definitions();
    let apply = [
        "--apply",
        definitions.to_str().unwrap(),
        "--log-format",
        "json",
    ];
    for signal in [Signal::TERM, Signal::INT] {
        // The second start applies what is in force already.
        let up = Up::start(dir.path(), &apply).await;
        let ran = up.run(&["status", "--format", "json"]).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        let status: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(status["streams"][0]["name"], "flights");
        assert_eq!(status["views"].as_array().unwrap().len(), 2);
        let (code, log) = up.stop(signal).await;
        assert_eq!(code, 0, "{log}");
        assert!(log.contains("stopping in order"), "{log}");
        for line in log.lines() {
            assert!(
                serde_json::from_str::<Value>(line).is_ok(),
                "not JSON: {line}"
            );
        }
    }
}

#[tokio::test]
async fn definitions_that_cannot_come_into_force_end_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("a.sql"),
        "-- why\n\nCREATE VIEW v AS\nSELECT count(*) AS n\nFROM gone;",
    )
    .unwrap();
    let data = dir.path().join("data");
    let dir = dir.path().to_str().unwrap();
    let args = [
        "up",
        "--data",
        data.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
        "--apply",
        dir,
    ];
    let ran = run(&args, b"").await;
    assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{ran:?}");
    let named = ran.err.contains("a.sql: line 5: ") && ran.err.contains("`gone`");
    assert!(named, "{}", ran.err);
}

#[tokio::test]
async fn other_machines_need_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let args = [
        "up",
        "--data",
        data.to_str().unwrap(),
        "--listen",
        "0.0.0.0:0",
    ];
    let ran = run(&args, b"").await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("--tokens"), "{}", ran.err);

    let tokens = dir.path().join("tokens");
    std::fs::write(
        &tokens,
        "ops:admin:c1b8f0d6e7a94c02\neyes:read:9d1c2b7744aa4f10\n",
    )
    .unwrap();
    let up = Up::start(&data, &["--tokens", tokens.to_str().unwrap()]).await;
    let ran = up.run(&["status"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("(401)"), "{}", ran.err);
    let create = "CREATE STREAM notes (text VARCHAR)";
    let ran = up
        .run(&["--token", "9d1c2b7744aa4f10", "sql", create])
        .await;
    assert!(ran.err.contains("(403)"), "{ran:?}");
    let ran = up
        .run(&["--token", "c1b8f0d6e7a94c02", "sql", create])
        .await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let (_, log) = up.stop(Signal::TERM).await;
    assert!(!log.contains("c1b8"), "a secret is in the log");
}

#[tokio::test]
async fn status_says_how_busy_each_stage_is_and_which_one_is_the_bottleneck() {
    let dir = tempfile::tempdir().unwrap();
    let definitions = definitions();
    let up = Up::start(dir.path(), &["--apply", definitions.to_str().unwrap()]).await;
    let idle = up.run(&["status"]).await;
    let last = idle.out.trim_end().lines().last().unwrap();
    assert_eq!(last, "bottleneck: none, every stage is idle");

    let flight = "{\"date\":\"2001-01-03T10:15:00\",\"delay\":7,\"origin\":\"SFO\"}\n".repeat(1000);
    let url = up.url.as_str();
    let working = async {
        loop {
            // Enough appends that their runs are merged.
            for _ in 0..9 {
                let args = ["--url", url, "ingest", "flights", "--format", "ndjson"];
                assert_eq!(run(&args, flight.as_bytes()).await.code, 0);
            }
            up.run(&["recompute", "airport_delays", "--wait"]).await;
            up.run(&["sql", "SELECT count(*) FROM route_performance"])
                .await;
            let ran = up.run(&["status", "--format", "json"]).await;
            let status: Value = serde_json::from_str(&ran.out).unwrap();
            let stages = status["stages"].as_array().unwrap().clone();
            let works = |stage: &Value| {
                let is_positive = |field: &str| stage[field].as_f64().unwrap() > 0.0;
                is_positive("per_second") && is_positive("busy")
            };
            // All within the same ten seconds: on a busy machine perhaps not the first time.
            if stages.iter().all(works) {
                return (stages, status);
            }
        }
    };
    let (stages, status) = tokio::time::timeout(PATIENCE, working).await.unwrap();
    let names: Vec<&str> = stages
        .iter()
        .map(|s| s["stage"].as_str().unwrap())
        .collect();
    let expected = [
        "ingest",
        "accumulate",
        "merge",
        "archive",
        "batch",
        "queries",
    ];
    assert_eq!(names, expected);
    let shares = || stages.iter().map(|stage| stage["busy"].as_f64().unwrap());
    assert!(shares().all(|share| share <= 1.0), "{stages:?}");
    if let Some(bottleneck) = status["bottleneck"].as_str() {
        let (name, _) = bottleneck.split_once([':', ' ']).unwrap();
        let most = shares().fold(0.0, f64::max);
        let named = stages.iter().find(|stage| stage["stage"] == name).unwrap();
        assert!(
            most - named["busy"].as_f64().unwrap() < 0.011,
            "{bottleneck}: {stages:?}"
        );
    }
    assert_eq!(status["streams"][0]["lag"], 0);
}

/// A start on `data` that is not waited for.
fn starting(data: &Path, more: &[&str]) -> Child {
    let data = data.to_str().unwrap();
    let mut args = vec!["up", "--data", data, "--listen", "127.0.0.1:0"];
    args.extend(more);
    let mut command = program(&args);
    command
        .env("AWS_ACCESS_KEY_ID", "id")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Asks it to stop: its exit code, and what it said from here on.
async fn terminated(mut child: Child) -> (Option<i32>, String) {
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    let mut log = String::new();
    let mut stderr = child.stderr.take().unwrap();
    let ended = async {
        stderr.read_to_string(&mut log).await.unwrap();
        child.wait().await.unwrap()
    };
    let status = timeout(PATIENCE, ended).await.expect("it ends");
    (status.code(), log)
}

/// The store takes the connection and says nothing.
#[tokio::test]
async fn a_stop_does_not_wait_for_a_start_whose_store_is_silent() {
    let dir = tempfile::tempdir().unwrap();
    let store = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("endpoint=http://{}", store.local_addr().unwrap());
    let more = [
        "--store",
        "s3://events/x",
        "--store-option",
        &endpoint,
        "--store-option",
        "allow_http=true",
    ];
    let child = starting(&dir.path().join("data"), &more);
    let _held = timeout(PATIENCE, store.accept()).await.unwrap().unwrap();
    let (code, log) = terminated(child).await;
    assert_eq!(code, Some(0), "{log}");
    assert!(
        log.contains("stopped before the start was through"),
        "{log}"
    );
}

async fn archived_events(calls: &Calls) -> u64 {
    let stream = calls.get("/v1/streams/events").await.unwrap();
    stream["archived_events"].as_u64().unwrap()
}

/// A start takes in what lies behind the generations, in the raw log and in the log's tail; one that is stopped
/// meanwhile has changed nothing.
#[tokio::test]
async fn a_start_says_what_it_took_in_and_a_stop_in_the_middle_loses_nothing() {
    let home = tempfile::tempdir().unwrap();
    let mut feed = Feed::default();
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    declare(&calls).await.unwrap();
    append(&calls, &mut feed, 1000, 0).await.unwrap();
    for view in ["hourly", "total"] {
        let run = calls.recompute(view, &json!({})).await.unwrap();
        assert_eq!(run["outcome"], "promoted", "{run}");
    }
    append(&calls, &mut feed, 3000, 0).await.unwrap();
    let archived = async { while archived_events(&calls).await < 4000 {} };
    timeout(PATIENCE, archived).await.expect("it is archived");
    append(&calls, &mut feed, 500, 1).await.unwrap();
    server.kill().await;

    let mut child = starting(&home.path().join("data"), &[]);
    let mut lines = BufReader::new(child.stderr.as_mut().unwrap()).lines();
    let opened = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("opened the log") {
                return;
            }
        }
        panic!("it does not open the log");
    };
    timeout(PATIENCE, opened).await.unwrap();
    let (code, log) = terminated(child).await;
    assert_eq!(code, Some(0), "{log}");

    let server = Server::start(home.path(), None).await.unwrap();
    // Both views stand at 1000; the tail is counted once, with its dead letter.
    let log = server.log();
    let took = "took in the events behind the last generation: 6,501 of 6,501";
    assert!(log.contains(took), "{log}");
    feed.verify(&server.calls()).await;
    server.terminate();
    assert_eq!(server.died().await.code(), Some(0));
}

/// A query may wait for events that never come. The client has been told to go on, so the server has its request.
#[tokio::test]
async fn a_query_that_waits_hears_of_the_stop() {
    let dir = tempfile::tempdir().unwrap();
    let up = Up::start(dir.path(), &[]).await;
    let created = up.run(&["sql", "CREATE STREAM notes (text VARCHAR)"]).await;
    assert_eq!(created.code, 0, "{created:?}");
    let ran = up.run(&["status", "--format", "json"]).await;
    let status: Value = serde_json::from_str(&ran.out).unwrap();
    let position = status["streams"][0]["position"].as_str().unwrap();
    let (stream, _) = position.split_once(':').unwrap();
    let body = json!({
        "sql": "SELECT * FROM notes", "after": format!("{stream}:0@7"), "timeout_ms": 3_600_000,
    })
    .to_string();
    let mut client = TcpStream::connect(up.url.strip_prefix("http://").unwrap())
        .await
        .unwrap();
    let head = format!(
        "POST /v1/sql HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    client.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(body.as_bytes()).await.unwrap();
    let stopping = tokio::spawn(up.stop(Signal::TERM));
    let mut answer = String::new();
    let read = timeout(PATIENCE, client.read_to_string(&mut answer)).await;
    read.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("retry-after: "), "{answer}");
    assert!(answer.contains("the server is shutting down"), "{answer}");
    let (code, log) = stopping.await.unwrap();
    assert_eq!(code, 0, "{log}");
}
