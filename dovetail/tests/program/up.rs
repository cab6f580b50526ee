// SPDX-License-Identifier: Apache-2.0
//! The built program as a server: what it says, and how it stops.

use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::fake::run;
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
