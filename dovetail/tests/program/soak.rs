// SPDX-License-Identifier: Apache-2.0
//! Everything at once, for long: clients, schedules, batch runs, rollbacks, kills and orderly stops of the real process.
//!
//! Purpose: what only shows after a while. Every answer is checked against a fold of the events before its own position,
//! and after each start everything is; memory and disk must stay level. `DOVETAIL_SOAK_SECONDS` says how long
//! (half a minute unless it is said), `DOVETAIL_SOAK_SEED` what is done when.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::crash::{from_env, recomputes};
use crate::support::feed::{DEFINITIONS, Feed};
use crate::support::load::Load;
use crate::support::server::{Calls, Server};

/// Its states stay small; `different` is what the feed expects as long as numbers have no gaps.
const TOTAL: &str = "CREATE VIEW IF NOT EXISTS total WITH (recompute = '* * * * *', refresh = '3 seconds') AS \
     SELECT count(*) AS seen, sum(n) AS numbers, coalesce(max(n), -1) + 1 AS different FROM events";
const ALTER: &str = "ALTER VIEW hourly SET (recompute = '* * * * *', refresh = '5 seconds')";
const ARGUMENTS: [&str; 6] = [
    "--archive-interval",
    "1s",
    "--keep-generations",
    "3",
    "--keep-generations-for",
    "1m",
];
const PAUSE: Duration = Duration::from_millis(100);
const MIB: u64 = 1 << 20;

async fn start(home: &Path) -> Server {
    let server = Server::start_with(home, &ARGUMENTS, &[]).await;
    let server = server.expect("it starts");
    let calls = server.calls();
    for sql in [DEFINITIONS[0], DEFINITIONS[1], TOTAL, ALTER] {
        calls.sql(sql, json!({})).await.unwrap();
    }
    server
}

/// What an operator does: batch runs, promotes and rollbacks, beside those that schedules start. None when the server
/// is gone.
async fn operate(calls: &Calls, random: &mut StdRng) -> Option<&'static str> {
    let view = ["hourly", "total"][random.random_range(0..2)];
    if random.random_bool(0.2) {
        let path = format!("/v1/views/{view}/rollback");
        // 409 before the first promote.
        post(calls, &path, &[200, 202, 409, 503]).await?;
        // It has paused the schedule.
        let resume = json!({"sql": format!("ALTER VIEW {view} SET (recompute = '* * * * *')")});
        let (status, answer) = calls.post("/v1/sql", &resume).await?;
        assert!([200, 503].contains(&status), "{answer}");
        return Some("rollback");
    }
    let (request, what) = match random.random_range(0..4) {
        0 => (json!({"mode": "incremental"}), "incremental"),
        1 => (json!({"dry_run": true}), "dry run"),
        2 if view == "hourly" => (
            json!({"mode": "repair", "where": "origin = 'SFO'"}),
            "repair",
        ),
        _ => (json!({}), "full"),
    };
    let path = format!("/v1/views/{view}/recompute");
    let (status, run) = calls.post(&path, &request).await?;
    match status {
        202 => {}
        // A schedule was quicker, or the server is about to stop.
        409 | 503 => return Some("not now"),
        _ => panic!("{status}: {run}"),
    }
    let run = calls.wait(run["id"].as_u64().unwrap()).await?;
    match run["outcome"].as_str().unwrap() {
        "promoted" | "cancelled" => {}
        "staged" => {
            let verb = ["promote", "discard"][random.random_range(0..2)];
            // 409 where a schedule was quicker.
            post(
                calls,
                &format!("/v1/runs/{}/{verb}", run["id"]),
                &[200, 202, 409, 503],
            )
            .await?;
        }
        outcome => assert!(is_overtaken(&run), "{outcome}: {run}"),
    }
    Some(what)
}

/// Whether somebody else moved the pointer meanwhile.
fn is_overtaken(run: &Value) -> bool {
    run["error"]
        .as_str()
        .is_some_and(|error| error.contains("stale"))
}

async fn post(calls: &Calls, path: &str, statuses: &[u16]) -> Option<()> {
    let (status, answer) = calls.post(path, &json!({})).await?;
    assert!(statuses.contains(&status), "{path}: {status} {answer}");
    Some(())
}

/// Ends the schedules, and waits for what they have started. No run failed but for a kill, or since it was overtaken.
async fn all_ended_well(calls: &Calls) {
    for view in ["hourly", "total"] {
        let alter = format!("ALTER VIEW {view} SET (recompute = NULL, refresh = NULL)");
        calls.sql(&alter, json!({})).await.unwrap();
    }
    let listed = calls.get("/v1/runs?limit=1000").await.unwrap();
    for run in listed["runs"].as_array().unwrap() {
        let run = match run["outcome"].as_str().unwrap() {
            "running" => calls.wait(run["id"].as_u64().unwrap()).await.unwrap(),
            _ => run.clone(),
        };
        let is_sound = run["outcome"] != "failed" || run["error"] == "interrupted";
        assert!(is_sound || is_overtaken(&run), "{run}");
    }
}

/// Bytes of all files below a directory that other processes write to.
fn disk_use(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return 0;
    };
    let of = |path: &Path| match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => disk_use(path),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(|entry| of(&entry.path())).sum()
}

/// Files that are nobody's once a server has started: half written, or spilled.
fn left_over(directory: &Path) -> Vec<String> {
    let mut found = vec![];
    let mut todo = vec![directory.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.to_str().unwrap();
            if name.contains('#') || name.ends_with(".unfinished") || name.contains("/spill/") {
                found.push(name.to_owned());
            } else if path.is_dir() {
                todo.push(path);
            }
        }
    }
    found
}

/// A look at the machine.
struct Sample {
    at: Duration,
    memory: u64,
    disk: u64,
}

/// The samples of the first half, and those of the second.
fn halves(samples: &[Sample]) -> (&[Sample], &[Sample]) {
    let middle = samples.last().unwrap().at / 2;
    samples.split_at(samples.partition_point(|sample| sample.at < middle))
}

fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values[values.len() / 2]
}

/// Memory does not grow with time, and the disk no faster than in the beginning: events come at one rate, and what a
/// generation leaves is kept for an hour.
fn stays_level(samples: &[Sample]) -> String {
    let (first, second) = halves(samples);
    let [before, after] =
        [first, second].map(|half| median(half.iter().map(|sample| sample.memory)));
    assert!(
        after < before + before / 2 + 64 * MIB,
        "memory grew from {} to {} MiB",
        before / MIB,
        after / MIB
    );
    let grown = |half: &[Sample]| {
        let [from, to] = [half.first(), half.last()].map(|sample| sample.unwrap().disk);
        to.saturating_sub(from)
    };
    let (early, late) = (grown(first), grown(second));
    assert!(
        late < 2 * early + 32 * MIB,
        "the disk grew by {} MiB in the first half and by {} in the second",
        early / MIB,
        late / MIB
    );
    let peak = samples.iter().map(|sample| sample.memory).max().unwrap();
    format!(
        "memory {} MiB in the first half, {} in the second, {} at most; disk {} MiB more, then {} MiB more",
        before / MIB,
        after / MIB,
        peak / MIB,
        early / MIB,
        late / MIB
    )
}

/// One life of the server: until it is killed, or stopped.
async fn live(
    server: Server,
    feed: &Arc<Mutex<Feed>>,
    random: &mut StdRng,
    lifetime: Duration,
    mut sample: impl FnMut(&Server),
) -> (String, BTreeMap<&'static str, u64>) {
    let calls = server.calls();
    let load = Load::of_clients(&calls, feed, random.random(), PAUSE);
    let mut operator = StdRng::seed_from_u64(random.random());
    let operating = tokio::spawn(async move {
        let mut done: BTreeMap<&'static str, u64> = BTreeMap::new();
        while let Some(what) = operate(&calls, &mut operator).await {
            *done.entry(what).or_default() += 1;
            tokio::time::sleep(10 * PAUSE).await;
        }
        done
    });
    let ends = Instant::now() + lifetime;
    while Instant::now() < ends {
        tokio::time::sleep(Duration::from_millis(500)).await;
        sample(&server);
    }
    if random.random_bool(0.7) {
        server.kill().await;
    } else {
        server.terminate();
        let status = server.died().await;
        assert_eq!(status.code(), Some(0), "{status}");
    }
    let clients = load.cut_off().await;
    (
        clients,
        operating
            .await
            .expect("an operator saw what it must not see"),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_at_once_for_long_stays_exact_and_level() {
    let seconds = from_env("DOVETAIL_SOAK_SECONDS").unwrap_or(30);
    let seed = from_env("DOVETAIL_SOAK_SEED").unwrap_or_else(rand::random);
    println!("DOVETAIL_SOAK_SEED={seed} DOVETAIL_SOAK_SECONDS={seconds}");
    let mut random = StdRng::seed_from_u64(seed);
    let home = tempfile::tempdir().unwrap();
    let feed = Arc::new(Mutex::new(Feed::default()));
    let began = Instant::now();
    let whole = Duration::from_secs(seconds);
    let mut samples = vec![];
    let mut lives = 0;
    let mut server = start(home.path()).await;
    while began.elapsed() < whole {
        let lifetime = Duration::from_secs(random.random_range(5..=(seconds / 5).clamp(5, 60)));
        let sample = |server: &Server| {
            samples.push(Sample {
                at: began.elapsed(),
                memory: server.resident_memory() as u64,
                disk: disk_use(&home.path().join("data")),
            });
        };
        let (clients, operator) = live(server, &feed, &mut random, lifetime, sample).await;
        lives += 1;
        server = start(home.path()).await;
        let calls = server.calls();
        let mut held = std::mem::take(&mut *feed.lock());
        held.retry(&calls).await;
        held.verify(&calls).await;
        println!(
            "{:.0} s, life {lives}: {clients}, {operator:?}; {} events",
            began.elapsed().as_secs_f64(),
            held.sent()
        );
        *feed.lock() = held;
    }
    let feed = std::mem::take(&mut *feed.lock());
    all_ended_well(&server.calls()).await;
    recomputes(&server, &feed).await;
    server.terminate();
    assert_eq!(server.died().await.code(), Some(0));
    assert_eq!(left_over(&home.path().join("data")), Vec::<String>::new());
    println!(
        "{:.0} s, {lives} lives, {} events: {}",
        began.elapsed().as_secs_f64(),
        feed.sent(),
        stays_level(&samples)
    );
}
