// SPDX-License-Identifier: Apache-2.0
//! A disk that takes long to make anything durable: everything waits for it that must, and nothing else does.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use parking_lot::Mutex;
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use super::clients::client;
use crate::crash::declare;
use crate::support::feed::Feed;
use crate::support::server::{HANGS, Server};

const CLIENTS: usize = 40;
const DELAY_S: f64 = 0.1;

/// Holds up each `fsync` of a process, by ptrace.
struct Brake {
    strace: Child,
    calls: PathBuf,
}

impl Brake {
    /// None where there is no strace, or it may not trace.
    async fn on(server: &Server, home: &Path) -> Option<Self> {
        let calls = home.join("fsyncs");
        let pid = server.pid().as_raw_nonzero().to_string();
        let delay = format!("inject=fsync,fdatasync:delay_enter={DELAY_S}s");
        let strace = Command::new("strace")
            .args(["-f", "-e", "trace=fsync,fdatasync", "-e", &delay])
            .arg("-o")
            .arg(&calls)
            .args(["-p", &pid])
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let Ok(mut strace) = strace else {
            println!("there is no strace here to hold up a disk with");
            return None;
        };
        let mut said = BufReader::new(strace.stderr.take().unwrap()).lines();
        let first = tokio::time::timeout(HANGS, said.next_line()).await;
        let first = first.expect("strace says something").unwrap();
        match first {
            Some(line) if line.contains("attached") => {
                // It goes on to say so of each thread.
                tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
                Some(Self { strace, calls })
            }
            line => {
                println!("strace may not trace here: {line:?}");
                None
            }
        }
    }

    /// How many calls it has held up.
    async fn off(mut self) -> usize {
        let pid = i32::try_from(self.strace.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
        self.strace.wait().await.unwrap();
        let calls = std::fs::read_to_string(&self.calls).unwrap();
        calls.lines().filter(|line| line.contains("sync(")).count()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_wait_for_a_slow_disk_and_answers_do_not() {
    let home = tempfile::tempdir().unwrap();
    let arguments = ["--archive-interval", "1s"];
    let server = Server::start_with(home.path(), &arguments, &[]).await;
    let server = server.unwrap();
    let calls = server.calls();
    declare(&calls).await.unwrap();
    let Some(brake) = Brake::on(&server, home.path()).await else {
        return;
    };
    let feed = Arc::new(Mutex::new(Feed::default()));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(client(server.calls(), Arc::clone(&feed)));
    }
    clients.join_all().await;
    let run = calls.recompute("total", &json!({})).await.unwrap();
    assert_eq!(run["outcome"], "promoted", "{run}");

    let (_, metrics) = calls.call(Method::GET, "/metrics", &[], "").await.unwrap();
    let metrics = metrics.as_str().unwrap();
    let figure = |name: &str| {
        let line = metrics.lines().find_map(|line| {
            line.strip_prefix(&format!(
                "dovetail_stage_seconds_{name}{{stage=\"ingest\",stream=\"events\"}} "
            ))
        });
        line.unwrap_or_else(|| panic!("{name}: {metrics}"))
            .parse::<f64>()
            .unwrap()
    };
    let (seconds, appends) = (figure("sum"), figure("count"));
    assert!(
        seconds >= appends * DELAY_S,
        "nothing is acknowledged before the disk has it: {seconds} s for {appends}"
    );
    let held_up = brake.off().await;
    println!("{appends} appends and all else took {held_up} calls of fsync");

    let feed = std::mem::take(&mut *feed.lock());
    feed.verify(&calls).await;
    server.kill().await;
    let server = Server::start(home.path(), None).await.unwrap();
    feed.verify(&server.calls()).await;
}
