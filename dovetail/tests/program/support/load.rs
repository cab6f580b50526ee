// SPDX-License-Identifier: Apache-2.0
//! Clients that append, recompute and ask at the same time, until the server is gone. What they are answered, the feed
//! checks once it knows where everything that was sent has come to stand.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use tokio::task::JoinSet;

use super::feed::Feed;
use super::server::{Calls, HANGS};

const APPENDERS: usize = 3;
const ASKERS: usize = 2;
/// Both views and the stream in one statement, so at one cut.
const ONE_CUT: &str = "SELECT 'total' AS what, seen AS n, numbers FROM total \
     UNION ALL SELECT 'hourly', coalesce(sum(seen), 0), NULL FROM hourly \
     UNION ALL SELECT 'events', count(*), sum(n) FROM events";

/// Clients at work.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

struct Shared {
    calls: Calls,
    feed: Arc<Mutex<Feed>>,
    cut_off: AtomicBool,
    appends: AtomicU64,
    answers: AtomicU64,
    promotes: AtomicU64,
    /// Between two requests of a client.
    pause: Duration,
}

impl Load {
    /// Starts the clients; `seed` decides what they ask.
    pub(crate) fn start(calls: &Calls, feed: &Arc<Mutex<Feed>>, seed: u64) -> Self {
        let mut load = Self::of_clients(calls, feed, seed, Duration::ZERO);
        let random = StdRng::seed_from_u64(seed.wrapping_add(1));
        let shared = Arc::clone(&load.shared);
        load.clients.spawn(recompute(shared, random));
        load
    }

    /// Those that append and ask alone, with a pause between two requests of each.
    pub(crate) fn of_clients(
        calls: &Calls,
        feed: &Arc<Mutex<Feed>>,
        seed: u64,
        pause: Duration,
    ) -> Self {
        let shared = Arc::new(Shared {
            calls: calls.clone(),
            feed: Arc::clone(feed),
            cut_off: AtomicBool::new(false),
            appends: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            promotes: AtomicU64::new(0),
            pause,
        });
        let mut seeds = StdRng::seed_from_u64(seed);
        let mut clients = JoinSet::new();
        let mut random = || StdRng::seed_from_u64(seeds.random());
        for _ in 0..APPENDERS {
            clients.spawn(append(Arc::clone(&shared), random()));
        }
        for _ in 0..ASKERS {
            clients.spawn(ask(Arc::clone(&shared)));
        }
        Self { shared, clients }
    }

    /// Waits until this many batch runs have moved a pointer.
    pub(crate) async fn has_promoted(&self, runs: u64) {
        let waiting = async {
            while self.shared.promotes.load(Ordering::Relaxed) < runs {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(HANGS, waiting)
            .await
            .expect("runs are promoted under load");
    }

    /// Call when the server is gone: waits for the clients, and says what they did.
    pub(crate) async fn cut_off(mut self) -> String {
        self.shared.cut_off.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client saw what it must not see");
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        format!(
            "{} appends, {} answers, {} promotes",
            count(&self.shared.appends),
            count(&self.shared.answers),
            count(&self.shared.promotes)
        )
    }
}

impl Shared {
    fn is_on(&self) -> bool {
        !self.cut_off.load(Ordering::Relaxed)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

async fn append(shared: Arc<Shared>, mut random: StdRng) {
    while shared.is_on() {
        let (events, dead_letters) = (random.random_range(1..40), random.random_range(0..10) / 9);
        let (number, request) = {
            let mut feed = shared.feed.lock();
            let number = feed.push(events, dead_letters);
            (number, feed.request(number))
        };
        let Some(answer) = request.send(&shared.calls).await else {
            return;
        };
        shared.feed.lock().answered(number, answer);
        count(&shared.appends);
        tokio::time::sleep(shared.pause).await;
    }
}

/// Every answer covers what was acknowledged before it was asked for, and all three numbers are of one cut.
async fn ask(shared: Arc<Shared>) {
    while shared.is_on() {
        let (after, acknowledged) = shared.feed.lock().acknowledged().unzip();
        let options = json!({"after": after, "timeout_ms": HANGS.as_millis() as u64});
        let Some(answer) = shared.calls.sql(ONE_CUT, options).await else {
            return;
        };
        let rows = answer["rows"].as_array().unwrap();
        let numbers: Vec<i64> = rows.iter().filter_map(|row| row["n"].as_i64()).collect();
        assert_eq!(numbers.len(), 3, "{rows:?}");
        assert!(numbers.iter().all(|n| *n == numbers[0]), "{rows:?}");
        let acknowledged = acknowledged.unwrap_or(0);
        assert!(
            numbers[0] >= acknowledged,
            "{rows:?}, {acknowledged} were acknowledged"
        );
        let of = |what: &str| rows.iter().find(|row| row["what"] == what);
        let sums = ["total", "events"].map(|what| of(what).unwrap()["numbers"].as_i64());
        assert_eq!(sums[0], sums[1], "{rows:?}");
        let position = answer["provenance"]["streams"][0]["position"].as_str();
        let seen = (numbers[0], sums[0].unwrap_or(0));
        shared.feed.lock().saw(position.unwrap(), seen);
        count(&shared.answers);
        tokio::time::sleep(shared.pause).await;
    }
}

/// Batch runs of every kind, promotes and rollbacks, one after the other.
async fn recompute(shared: Arc<Shared>, mut random: StdRng) {
    while shared.is_on() {
        let view = ["hourly", "total"][random.random_range(0..2)];
        let request = match random.random_range(0..5) {
            0 | 1 => json!({"mode": "incremental"}),
            2 => json!({"dry_run": true}),
            3 if view == "hourly" => json!({"mode": "repair", "where": "origin = 'SFO'"}),
            _ => json!({}),
        };
        let Some(run) = shared.calls.recompute(view, &request).await else {
            return;
        };
        let moved = match run["outcome"].as_str() {
            Some("promoted") => Some(()),
            Some("staged") => {
                let verb = if random.random_bool(0.7) {
                    "promote"
                } else {
                    "discard"
                };
                post(&shared, &format!("/v1/runs/{}/{verb}", run["id"]), &[200]).await
            }
            _ => panic!("{run}"),
        };
        if moved.is_none() {
            return;
        }
        count(&shared.promotes);
        if random.random_bool(0.2) {
            let path = format!("/v1/views/{view}/rollback");
            // 409 before the first promote.
            if post(&shared, &path, &[200, 409]).await.is_none() {
                return;
            }
        }
    }
}

async fn post(shared: &Shared, path: &str, statuses: &[u16]) -> Option<()> {
    let (status, answer) = shared.calls.post(path, &json!({})).await?;
    assert!(statuses.contains(&status), "{path}: {status} {answer}");
    Some(())
}
