// SPDX-License-Identifier: Apache-2.0
//! Files that read back something else than what was written: named by file and place, never answered from; what a crash
//! leaves of a write is dropped, and that is said.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::crash::{append, declare};
use crate::support::feed::Feed;
use crate::support::server::{Calls, Server};

/// Archives nothing by itself.
const QUIET: [&str; 2] = ["--archive-interval", "1h"];

async fn start(home: &Path) -> Server {
    let started = Server::start_with(home, &QUIET, &[]).await;
    started.expect("it starts")
}

/// The files below `directory` whose names end so.
fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut todo = vec![directory.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.to_str().unwrap().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Flips a bit in the middle of a file; again, it is as before.
fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn name_of(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// What a question is refused with.
async fn refused(calls: &Calls, sql: &str) -> String {
    let (status, problem) = calls.post("/v1/sql", &json!({"sql": sql})).await.unwrap();
    assert_ne!(
        status, 200,
        "{sql} is answered from a damaged file: {problem}"
    );
    problem["detail"].as_str().unwrap().to_owned()
}

fn names_the_file(text: &str, path: &Path) {
    for part in [
        name_of(path),
        "is damaged: its bytes",
        "restore the file from a copy",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

async fn total(calls: &Calls) -> Value {
    let rows = calls.rows("SELECT seen FROM total", json!({})).await;
    rows.unwrap()[0]["seen"].clone()
}

#[tokio::test]
async fn half_a_write_at_the_end_of_a_log_is_dropped_and_said() {
    let home = tempfile::tempdir().unwrap();
    let mut feed = Feed::default();
    let server = start(home.path()).await;
    declare(&server.calls()).await.unwrap();
    for events in [10, 20, 30] {
        append(&server.calls(), &mut feed, events, 1).await.unwrap();
    }
    server.kill().await;
    let segments = files(&home.path().join("data/log"), ".segment");
    let segment = segments.last().unwrap();
    let whole = std::fs::metadata(segment).unwrap().len();
    let mut file = std::fs::File::options().write(true).open(segment).unwrap();
    file.seek(SeekFrom::End(0)).unwrap();
    file.write_all(&[7; 100]).unwrap();

    let server = start(home.path()).await;
    let log = server.log();
    let said = log
        .lines()
        .find(|line| line.contains("dropped a torn last frame"));
    let said = said.unwrap_or_else(|| panic!("{log}"));
    let at = format!("position={whole}");
    let file = segment.to_str().unwrap();
    for part in ["WARN", "stream=events", file, &at, "bytes=100", "offset=63"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // Once, and not among what every start says.
    assert_eq!(log.matches("bytes=100").count(), 1, "{log}");
    assert!(!log.contains("dropped="), "{log}");
    feed.verify(&server.calls()).await;
    append(&server.calls(), &mut feed, 5, 0).await.unwrap();
    feed.verify(&server.calls()).await;
}

#[tokio::test]
async fn a_flipped_bit_in_a_log_keeps_the_server_from_starting_and_is_named() {
    let home = tempfile::tempdir().unwrap();
    let mut feed = Feed::default();
    let server = start(home.path()).await;
    declare(&server.calls()).await.unwrap();
    for events in [10, 200, 10] {
        append(&server.calls(), &mut feed, events, 0).await.unwrap();
    }
    server.kill().await;
    let segments = files(&home.path().join("data/log"), ".segment");
    flip(&segments[0]);
    let ended = Server::start(home.path(), None).await.err();
    assert_eq!(ended.expect("it does not start").code(), Some(1));
    let log = std::fs::read_to_string(home.path().join("server.log")).unwrap();
    let said = log.lines().last().unwrap();
    for part in [
        "stream `events` cannot be opened",
        name_of(&segments[0]),
        "is damaged at byte",
        "where the events from offset 10 on stand",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    flip(&segments[0]);
    let server = start(home.path()).await;
    feed.verify(&server.calls()).await;
}

#[tokio::test]
async fn a_flipped_bit_in_the_raw_log_is_named_and_nothing_is_computed_of_it() {
    let home = tempfile::tempdir().unwrap();
    let mut feed = Feed::default();
    let server = start(home.path()).await;
    let calls = server.calls();
    declare(&calls).await.unwrap();
    append(&calls, &mut feed, 3000, 0).await.unwrap();
    // Archives; `total` has no generation that covers it.
    let run = calls.recompute("hourly", &json!({})).await.unwrap();
    assert_eq!(run["outcome"], "promoted", "{run}");
    let segments = files(&home.path().join("data/store/streams"), ".parquet");
    let segment = segments.first().unwrap();
    flip(segment);

    names_the_file(&refused(&calls, "SELECT sum(n) FROM events").await, segment);
    let run = calls.recompute("hourly", &json!({})).await.unwrap();
    assert_eq!(run["outcome"], "failed", "{run}");
    names_the_file(run["error"].as_str().unwrap(), segment);
    // What is made of it already is right.
    feed.verify_views(&calls, &json!({})).await;

    // What a restart has to make anew of it, it cannot; all else is there.
    server.kill().await;
    let server = start(home.path()).await;
    let calls = server.calls();
    feed.verify_hourly(&calls, &json!({})).await;
    names_the_file(&refused(&calls, "SELECT seen FROM total").await, segment);
    append(&calls, &mut feed, 10, 0).await.unwrap();
    feed.verify_hourly(&calls, &feed.after()).await;

    flip(segment);
    let incremental = json!({"mode": "incremental"});
    let run = calls.recompute("total", &incremental).await.unwrap();
    assert_eq!(run["outcome"], "promoted", "{run}");
    feed.verify(&calls).await;
}

#[tokio::test]
async fn a_flipped_bit_in_a_generation_is_named_and_a_full_run_mends_it() {
    let home = tempfile::tempdir().unwrap();
    let mut feed = Feed::default();
    let server = start(home.path()).await;
    let calls = server.calls();
    declare(&calls).await.unwrap();
    append(&calls, &mut feed, 3000, 0).await.unwrap();
    for view in ["hourly", "total"] {
        let run = calls.recompute(view, &json!({})).await.unwrap();
        assert_eq!(run["outcome"], "promoted", "{run}");
    }
    let provenance = calls.sql("SELECT * FROM hourly", json!({})).await.unwrap();
    let view = provenance["provenance"]["views"][0]["id"].as_str().unwrap();
    let directory = home.path().join(format!("data/store/views/{view}/files"));
    // It is kept with its pages once it was read: only a start reads it from the disk.
    server.kill().await;
    let damaged = files(&directory, ".parquet");
    damaged.iter().for_each(|file| flip(file));
    let server = start(home.path()).await;
    let calls = server.calls();
    let said = refused(&calls, "SELECT * FROM hourly").await;
    assert!(
        damaged.iter().any(|file| said.contains(name_of(file))),
        "{said}"
    );
    assert!(said.contains("recompute"), "{said}");
    let lookup = "/v1/views/hourly?origin=SFO&hour=2001-01-01T00:00:00";
    let (status, problem) = calls
        .call(reqwest::Method::GET, lookup, &[], "")
        .await
        .unwrap();
    assert_eq!(status, 500, "{problem}");
    assert_eq!(total(&calls).await, 3000);
    append(&calls, &mut feed, 40, 0).await.unwrap();
    let incremental = json!({"mode": "incremental"});
    let run = calls.recompute("hourly", &incremental).await.unwrap();
    assert_eq!(run["outcome"], "failed", "{run}");

    let run = calls.recompute("hourly", &json!({})).await.unwrap();
    assert_eq!(run["outcome"], "promoted", "{run}");
    feed.verify(&calls).await;
}

#[tokio::test]
async fn a_damaged_commit_of_the_raw_log_keeps_the_server_from_starting_and_is_named() {
    let home = tempfile::tempdir().unwrap();
    let mut feed = Feed::default();
    let server = start(home.path()).await;
    let calls = server.calls();
    declare(&calls).await.unwrap();
    append(&calls, &mut feed, 3000, 0).await.unwrap();
    let run = calls.recompute("hourly", &json!({})).await.unwrap();
    assert_eq!(run["outcome"], "promoted", "{run}");
    server.kill().await;
    let commits = files(&home.path().join("data/store/streams"), ".json");
    let is_of_events = |path: &&PathBuf| path.to_str().unwrap().contains("/raw/_delta_log/");
    let commit = commits.iter().rfind(is_of_events).unwrap();
    flip(commit);
    // Whoever debugs it has this in the environment; what an operator reads stays a line.
    let traces = [("RUST_BACKTRACE", "1")];
    let ended = Server::start_with(home.path(), &QUIET, &traces).await.err();
    assert_eq!(ended.expect("it does not start").code(), Some(1));
    let log = std::fs::read_to_string(home.path().join("server.log")).unwrap();
    let said = log.lines().last().unwrap();
    for part in [
        "stream `events` cannot be opened",
        name_of(commit),
        "is damaged: ",
        "restore the file from a copy",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    flip(commit);
    let server = start(home.path()).await;
    feed.verify(&server.calls()).await;
}
