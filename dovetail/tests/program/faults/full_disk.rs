// SPDX-License-Identifier: Apache-2.0
//! Disks without room: appends are refused, queries answer, all else waits; with room again everything goes on.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::crash::{append, declare};
use crate::support::fake::run;
use crate::support::feed::Feed;
use crate::support::server::{Calls, HANGS, Server};
use crate::support::small_disk::SmallDisk;

/// What the tests start: it archives every second.
const ARGUMENTS: [&str; 2] = ["--archive-interval", "1s"];
/// Appends that the last block of a file may still take.
const MOST_APPENDS: usize = 2_000;

async fn start(disk: &SmallDisk) -> Server {
    let started = Server::start_with(disk.home(), &ARGUMENTS, &[]).await;
    started.expect("it starts")
}

/// Appends until the disk takes no more; the refusal.
async fn append_until_refused(calls: &Calls, feed: &mut Feed) -> Value {
    for _ in 0..MOST_APPENDS {
        let number = feed.push(40, 0);
        let (status, answer) = feed.request(number).try_send(calls).await.unwrap();
        if status != 200 {
            assert_eq!(status, 503, "{answer}");
            return answer;
        }
        feed.answered(number, answer);
    }
    panic!("a full disk takes everything");
}

/// Leaves room for some events in the log, and for none of them in the archive; the refusal of the next append.
async fn fill(disk: &SmallDisk, calls: &Calls, feed: &mut Feed) -> Value {
    loop {
        disk.fill_up_to(200 << 10);
        let problem = append_until_refused(calls, feed).await;
        let stream = calls.get("/v1/streams/events").await.unwrap();
        // Else it was archived at the last moment.
        if stream["archived"] != stream["position"] {
            return problem;
        }
    }
}

/// Every acknowledged event is counted once.
async fn answers_what_was_acknowledged(calls: &Calls, feed: &Feed) {
    let (position, events) = feed.acknowledged().unwrap();
    let after = json!({"after": position});
    for sql in [
        "SELECT seen FROM total",
        "SELECT sum(seen) AS seen FROM hourly",
        "SELECT count(*) AS seen FROM events",
    ] {
        let rows = calls.rows(sql, after.clone()).await.unwrap();
        assert_eq!(rows, [json!({"seen": events})], "{sql}");
    }
}

/// Waits until the server says that a stage fails, or that none does any more.
async fn until_failing(calls: &Calls, stage: Option<&str>) -> Vec<String> {
    let waiting = async {
        loop {
            let ready = calls.get("/readyz").await.unwrap();
            let failing = ready["failing"].as_array().cloned().unwrap_or_default();
            let failing: Vec<String> = failing
                .iter()
                .map(|text| text.as_str().unwrap().to_owned())
                .collect();
            let is_so = match stage {
                Some(stage) => failing.iter().any(|text| text.starts_with(stage)),
                None => failing.is_empty(),
            };
            if is_so {
                return failing;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(HANGS, waiting).await;
    waited.unwrap_or_else(|_| panic!("it never says that {stage:?} fails"))
}

#[tokio::test]
async fn a_full_disk_refuses_appends_and_nothing_else() {
    let Some(disk) = SmallDisk::new(64) else {
        return;
    };
    let server = start(&disk).await;
    let calls = server.calls();
    let mut feed = Feed::default();
    declare(&calls).await.unwrap();
    append(&calls, &mut feed, 500, 2).await.unwrap();
    let run_of = calls.recompute("hourly", &json!({})).await.unwrap();
    assert_eq!(run_of["outcome"], "promoted", "{run_of}");

    let problem = fill(&disk, &calls, &mut feed).await;
    let directory = problem["directory"].as_str().unwrap();
    assert!(directory.contains("/data/log/"), "{problem}");
    assert_eq!(problem["retry_after_s"], 10, "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    for part in [
        directory,
        "the disk is full",
        "nothing of the append was kept",
        "free some space",
    ] {
        assert!(detail.contains(part), "{part}: {detail}");
    }
    answers_what_was_acknowledged(&calls, &feed).await;

    // What cannot go on says so wherever one looks.
    let failing = until_failing(&calls, Some("archive of stream `events`")).await;
    assert!(failing[0].contains("os error 28"), "{failing:?}");
    let metrics = calls
        .call(Method::GET, "/metrics", &[], "")
        .await
        .unwrap()
        .1;
    let metrics = metrics.as_str().unwrap().to_owned();
    for stage in ["ingest", "archive"] {
        let failing =
            format!("dovetail_stage_failing_seconds{{stage=\"{stage}\",stream=\"events\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&failing));
        assert!(line.unwrap().parse::<u64>().unwrap() > 0, "{stage}");
    }
    let status = run(&["--url", server.url(), "status"], b"").await;
    assert!(status.out.contains("has failed"), "{}", status.out);
    disk.fill_up_to(0);
    let (status, problem) = calls
        .post("/v1/views/total/recompute", &json!({}))
        .await
        .unwrap();
    // An archive that has just given up may have left a block for one commit. Then the end of the run finds none.
    if status != 202 {
        assert_eq!(status, 503, "{problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("the disk is full"), "{detail}");
    }

    // Killed there, it starts on the full disk, and answers.
    server.kill().await;
    let server = start(&disk).await;
    let calls = server.calls();
    answers_what_was_acknowledged(&calls, &feed).await;
    append_until_refused(&calls, &mut feed).await;

    disk.free();
    feed.retry(&calls).await;
    feed.verify(&calls).await;
    assert_eq!(until_failing(&calls, None).await, Vec::<String>::new());
    let runs = calls.get("/v1/runs?outcome=running").await.unwrap();
    assert_eq!(runs["runs"], json!([]));
    for view in ["hourly", "total"] {
        let run = calls.recompute(view, &json!({})).await.unwrap();
        assert_eq!(run["outcome"], "promoted", "{run}");
    }
    feed.verify_views(&calls, &json!({"layer": "batch"})).await;
}

/// As with `dovetail up 2> log`: what cannot be said is no reason to die.
#[tokio::test]
async fn a_server_whose_log_lines_find_no_room_goes_on() {
    let home = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", home.path().join("server.log")).unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    let mut feed = Feed::default();
    declare(&calls).await.expect("it lives");
    append(&calls, &mut feed, 50, 1).await.expect("it lives");
    let run = calls
        .recompute("hourly", &json!({}))
        .await
        .expect("it lives");
    assert_eq!(run["outcome"], "promoted", "{run}");
    feed.verify(&calls).await;
    server.terminate();
    assert_eq!(server.died().await.code(), Some(0));
}

/// The files below the store's views, by their names.
fn files_of_views(home: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut todo = vec![home.join("data/store/views")];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.to_str().unwrap().to_owned();
            if path.is_dir() {
                todo.push(path);
            } else if name.contains("/files/") {
                found.insert(name);
            }
        }
    }
    found
}

#[tokio::test]
async fn a_batch_run_without_room_leaves_nothing_behind() {
    const EVENTS: i64 = 60_000;
    let Some(disk) = SmallDisk::new(64) else {
        return;
    };
    let server = start(&disk).await;
    let calls = server.calls();
    calls
        .sql(
            "CREATE STREAM events (n BIGINT NOT NULL, s VARCHAR)",
            json!({}),
        )
        .await
        .unwrap();
    // As many groups as events, and texts that cannot be compressed much.
    let view = "CREATE VIEW numbers AS SELECT n, max(sha256(s)) AS hash, count(*) AS seen FROM events GROUP BY n";
    calls.sql(view, json!({})).await.unwrap();
    let line = |n: i64| format!("{{\"n\":{n},\"s\":\"text {n}\"}}\n");
    let lines: String = (0..EVENTS).map(line).collect();
    let headers = [("content-type", "application/x-ndjson")];
    let appending = calls.call(Method::POST, "/v1/streams/events", &headers, lines);
    assert_eq!(appending.await.unwrap().0, 200);
    archived(&calls).await;

    let before = files_of_views(disk.home());
    disk.fill_up_to(600 << 10);
    let run = calls.recompute("numbers", &json!({})).await;
    // Its end is in the ledger as soon as there is room for that: the run's own files have made some.
    let run = run.unwrap();
    assert_eq!(run["outcome"], "failed", "{run}");
    let error = run["error"].as_str().unwrap();
    assert!(error.contains("os error 28"), "{error}");
    assert_eq!(files_of_views(disk.home()), before);
    let rows = calls
        .rows("SELECT count(*) AS n FROM numbers", json!({}))
        .await;
    assert_eq!(rows.unwrap(), [json!({"n": EVENTS})]);

    disk.free();
    let run = calls.recompute("numbers", &json!({})).await.unwrap();
    assert_eq!(run["outcome"], "promoted", "{run}");
    let batch = json!({"layer": "batch"});
    let sql = "SELECT count(*) AS n, sum(seen) AS seen FROM numbers";
    let rows = calls.rows(sql, batch).await.unwrap();
    assert_eq!(rows, [json!({"n": EVENTS, "seen": EVENTS})]);
    assert!(files_of_views(disk.home()).len() > before.len());
}

async fn archived(calls: &Calls) {
    let waiting = async {
        loop {
            let stream = calls.get("/v1/streams/events").await.unwrap();
            if stream["archived"] == stream["position"] {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(HANGS, waiting)
        .await
        .expect("it archives");
}

/// What it spills is bounded by the disk, and leaves room to those who append.
#[tokio::test]
async fn a_query_that_wants_100_gb_is_refused_and_takes_no_room_from_appends() {
    const EVENTS: i64 = 60_000;
    let Some(disk) = SmallDisk::new(256) else {
        return;
    };
    let arguments = ["--query-memory", "64MiB"];
    let server = Server::start_with(disk.home(), &arguments, &[]).await;
    let server = server.expect("it starts");
    let calls = server.calls();
    let mut feed = Feed::default();
    declare(&calls).await.unwrap();
    append(&calls, &mut feed, EVENTS, 0).await.unwrap();
    let before = server.peak_memory();
    // 3.6 billion rows of 32 bytes.
    let sql =
        "SELECT a.n, b.n AS m, a.at, b.origin FROM events a, events b ORDER BY a.n + b.n DESC";
    let (position, _) = feed.acknowledged().unwrap();
    let body = json!({"sql": sql, "after": position, "timeout_ms": 85_000});
    let asking = {
        let calls = calls.clone();
        tokio::spawn(async move { calls.post("/v1/sql", &body).await.unwrap() })
    };
    while !asking.is_finished() {
        append(&calls, &mut feed, 40, 0).await.unwrap();
    }
    let (status, problem) = asking.await.unwrap();
    assert_eq!(status, 429, "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("more room to spill"), "{detail}");
    let grown = server.peak_memory().saturating_sub(before);
    assert!(grown < 400 << 20, "{} MiB", grown >> 20);
    let spilled = std::fs::read_dir(disk.home().join("data/spill")).unwrap();
    let left = spilled.filter(|entry| {
        let path = entry.as_ref().unwrap().path();
        std::fs::read_dir(path).unwrap().next().is_some()
    });
    assert_eq!(left.count(), 0);
    feed.verify(&calls).await;
}
