// SPDX-License-Identifier: Apache-2.0
//! The built program as a server: what it says, and how it stops.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "support/up.rs"]
mod running;
#[expect(dead_code, reason = "the fake server is for the tests of the clients")]
mod support;

use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;

use running::Up;
use support::run;

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
        "CREATE VIEW v AS SELECT count(*) AS n FROM gone;",
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
    assert!(ran.err.contains("`gone`"), "{}", ran.err);
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
