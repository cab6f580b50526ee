// SPDX-License-Identifier: Apache-2.0
//! The built program as a server: what it says, how it stops, and ingest against it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[expect(dead_code, reason = "the fake server is for the tests of the clients")]
mod support;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Child;

use support::{Ran, program, run};

/// How long a start or an orderly stop may take on a busy machine; both take a fraction of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `dovetail up`.
struct Up {
    url: String,
    child: Child,
}

impl Up {
    async fn start(data: &Path, more: &[&str]) -> Self {
        let data = data.to_str().unwrap();
        let mut args = vec!["up", "--data", data, "--listen", "127.0.0.1:0"];
        args.extend(more);
        let mut child = program(&args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.as_mut().unwrap());
        let read = tokio::time::timeout(PATIENCE, stdout.read_line(&mut line)).await;
        read.unwrap().unwrap();
        let url = line.trim().strip_prefix("listening on ");
        let url = url.unwrap_or_else(|| panic!("it said {line:?}")).to_owned();
        Self { url, child }
    }

    async fn run(&self, args: &[&str]) -> Ran {
        run(&[&["--url", self.url.as_str()], args].concat(), b"").await
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Stops it in order: its exit code, and what it has logged.
    async fn stop(mut self, signal: Signal) -> (i32, String) {
        self.signal(signal);
        let mut log = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        let ended = async {
            stderr.read_to_string(&mut log).await.unwrap();
            self.child.wait().await.unwrap()
        };
        let status = tokio::time::timeout(PATIENCE, ended).await.unwrap();
        (status.code().unwrap_or(-1), log)
    }
}

fn definitions() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/definitions")
}

fn count(ran: &Ran) -> u64 {
    assert_eq!(ran.code, 0, "{ran:?}");
    let row: Value = serde_json::from_str(&ran.out).unwrap();
    row["n"].as_u64().unwrap()
}

const COUNT: [&str; 4] = [
    "sql",
    "SELECT count(*) AS n FROM notes",
    "--format",
    "ndjson",
];

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

#[tokio::test]
async fn an_interrupted_ingest_is_resumed_without_doubling() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let file = dir.path().join("notes.ndjson");
    let line = format!("{{\"text\":\"{}\"}}\n", "x".repeat(1000));
    let lines = (20 << 20) / line.len();
    std::fs::write(&file, line.repeat(lines)).unwrap();
    let ingest = ["ingest", "notes", file.to_str().unwrap()];

    let up = Up::start(&data, &[]).await;
    up.run(&["sql", "CREATE STREAM notes (text VARCHAR)"]).await;
    let mut child = program(&[&["--url", up.url.as_str()], &ingest[..]].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Killed once something is stored; if it has got to its end by then, the rest must hold too.
    while count(&up.run(&COUNT).await) == 0 {
        assert!(
            child
                .try_wait()
                .unwrap()
                .is_none_or(|status| status.success())
        );
    }
    let _ = child.kill().await;

    let ran = up.run(&ingest).await;
    let summary: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(summary["accepted"], lines, "{ran:?}");
    assert!(
        ran.err.contains("had been stored by an earlier attempt"),
        "{}",
        ran.err
    );
    assert_eq!(count(&up.run(&COUNT).await), lines as u64);

    // The server remembers across a restart.
    assert_eq!(up.stop(Signal::TERM).await.0, 0);
    let up = Up::start(&data, &[]).await;
    assert_eq!(up.run(&ingest).await.code, 0);
    assert_eq!(count(&up.run(&COUNT).await), lines as u64);
}
