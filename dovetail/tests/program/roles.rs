// SPDX-License-Identifier: Apache-2.0
//! `--roles ingest`, `batch` and `serve` as processes of their own, over a real broker and a real S3 server: at every
//! sampled position the answers are those of a plain fold over what the producer committed before it.
//!
//! Purpose: laws 1, 2, 3 and 9 where several processes take the events and another decides. Collaborators: the oracle
//! of the Kafka tests, the built program. Non-goals: what a replica does by itself, balancers.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use dovetail_testkit::kafka::Broker;
use dovetail_testkit::{Gateway, KEYS, store_options};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::balancers::Balancer;
use crate::kafka::{Oracle, TOPIC, VIEW, create};
use crate::support::server::{Calls, HANGS, Server};

/// A store, and the processes over it.
pub(crate) struct Place {
    home: TempDir,
    gateway: Gateway,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            gateway: Gateway::start(),
        }
    }

    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let directory = self.home.path().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    pub(crate) async fn worker(&self, name: &str) -> Server {
        self.start(name, &["--roles", "batch"]).await
    }

    async fn start(&self, name: &str, arguments: &[&str]) -> Server {
        let started = self.try_start(name, arguments, &[]).await;
        started.expect("it starts")
    }

    /// # Errors
    /// How it ended, when it ended before it listened.
    pub(crate) async fn try_start(
        &self,
        name: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Server, ExitStatus> {
        let store = store_options(&self.gateway.endpoint(), "apart");
        let store = store.iter().map(String::as_str);
        let all: Vec<&str> = store.chain(arguments.iter().copied()).collect();
        let variables = [KEYS.as_slice(), variables].concat();
        Server::start_with(&self.directory(name), &all, &variables).await
    }

    /// Waits until the process `name` has logged `words`, perhaps before it listens.
    pub(crate) async fn said(&self, name: &str, words: &str) {
        let log = self.directory(name).join("server.log");
        let saying = async {
            while !std::fs::read_to_string(&log).is_ok_and(|said| said.contains(words)) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let said = tokio::time::timeout(HANGS, saying).await;
        said.unwrap_or_else(|_| panic!("`{name}` never says `{words}`"));
    }

    pub(crate) async fn batch(&self) -> Server {
        self.batch_in("batch").await
    }

    pub(crate) async fn batch_in(&self, name: &str) -> Server {
        let cuts = ["--roles", "batch", "--cuts", "127.0.0.1:0"];
        self.start(name, &cuts).await
    }

    pub(crate) async fn ingest(&self, name: &str) -> Server {
        let cuts = ["--roles", "ingest", "--cuts", "127.0.0.1:0"];
        self.start(name, &cuts).await
    }

    pub(crate) async fn serve(&self, name: &str) -> Server {
        self.start(name, &["--roles", "serve"]).await
    }
}

/// Chance, and a topic of so many partitions with an oracle that writes to it.
pub(crate) fn scene(partitions: i32) -> (StdRng, Broker, Oracle) {
    let seed = rand::random();
    println!("seed {seed}");
    let broker = Broker::start();
    broker.create_topic(TOPIC, partitions);
    let oracle = Oracle::new(broker.transactional("t-0"), partitions);
    (StdRng::seed_from_u64(seed), broker, oracle)
}

/// Asks until there is an answer.
pub(crate) async fn asked(calls: &Calls, path: &str, body: &Value) -> Value {
    let asking = async {
        loop {
            let called = match body {
                Value::Null => calls.call(Method::GET, path, &[], String::new()).await,
                body => calls.post(path, body).await,
            };
            match called {
                Some((200, answer)) => return answer,
                // Partitions are changing hands, the view is being built, or a process is not there.
                Some((status, answer)) => {
                    assert!([408, 502, 503].contains(&status), "{status}: {answer}");
                }
                None => {}
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let answered = tokio::time::timeout(HANGS, asking).await;
    answered.expect("it is answered in the end")
}

/// Asks until there is an answer, and compares it with what was committed before its position.
async fn answered(oracle: &Oracle, calls: &Calls, options: &Value) {
    let mut body = json!({"sql": "SELECT * FROM digits ORDER BY digit"});
    for (name, value) in options.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    oracle.compare(&asked(calls, "/v1/sql", &body).await);
}

/// A full run is promoted, whoever decides by now.
async fn recomputed(calls: &Calls) {
    let recomputing = async {
        loop {
            let body = json!({"mode": "full"});
            let path = "/v1/views/digits/recompute";
            if let Some((202, run)) = calls.post(path, &body).await
                && let Some(run) = calls.wait(run["id"].as_u64().unwrap()).await
                && run["outcome"] == "promoted"
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let recomputed = tokio::time::timeout(HANGS, recomputing).await;
    recomputed.expect("a run is promoted in the end");
}

/// All that was committed is in the answers, with and without the runs.
pub(crate) async fn complete(oracle: &Oracle, calls: &Calls) {
    let token = oracle.token(calls).await;
    answered(
        oracle,
        calls,
        &json!({"after": token, "timeout_ms": 60_000}),
    )
    .await;
    let (_, answer) = calls
        .post(
            "/v1/sql",
            &json!({"sql": "SELECT count(*) AS n, sum(n) AS total FROM numbers", "after": token}),
        )
        .await
        .expect("it answers");
    assert_eq!(answer["rows"], oracle.totals(), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ingest_divides_the_partitions_and_every_process_answers_exactly() {
    let (mut random, broker, mut oracle) = scene(4);
    for round in 0..5 {
        oracle.transact(&mut random, round != 2);
    }
    let place = Place::new();
    let batch = place.batch().await;
    let (one, two) = (place.ingest("one").await, place.ingest("two").await);
    let serve = place.serve("serve").await;
    let calls = serve.calls();
    calls.sql(&create(&broker), json!({})).await.unwrap();
    calls.sql(VIEW, json!({})).await.unwrap();
    complete(&oracle, &calls).await;
    for process in [&batch, &one, &two] {
        answered(&oracle, &process.calls(), &json!({})).await;
    }
    for round in 0..6 {
        oracle.transact(&mut random, round % 3 != 2);
        answered(&oracle, &calls, &json!({})).await;
        let mode = if round % 2 == 0 {
            "incremental"
        } else {
            "full"
        };
        let run = calls
            .recompute("digits", &json!({"mode": mode}))
            .await
            .unwrap();
        assert_eq!(run["outcome"], "promoted", "{run}");
        answered(&oracle, &calls, &json!({})).await;
        answered(&oracle, &calls, &json!({"layer": "batch"})).await;
    }
    complete(&oracle, &calls).await;
    let status = calls.get("/v1/status").await.unwrap();
    let lags = status["streams"][0]["source"]["partitions"].as_array();
    assert_eq!(lags.map(Vec::len), Some(4), "{status}");
}

/// Which process takes the events makes no difference to one that computes.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_computes_for_the_process_that_decides() {
    let (mut random, broker, mut oracle) = scene(2);
    let place = Place::new();
    let batch = place.batch().await;
    let one = place.ingest("one").await;
    let worker = place.worker("worker").await;
    let calls = batch.calls();
    calls.sql(&create(&broker), json!({})).await.unwrap();
    calls.sql(VIEW, json!({})).await.unwrap();
    let there = async {
        while calls.get("/v1/status").await.unwrap()["workers"][0].is_null() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let there = tokio::time::timeout(HANGS, there).await;
    there.expect("the worker is known");
    for _ in 0..2 {
        oracle.transact(&mut random, true);
        complete(&oracle, &calls).await;
        let run = calls.recompute("digits", &json!({})).await.unwrap();
        assert_eq!(run["outcome"], "promoted", "{run}");
        assert!(run["worker"].is_string(), "{run}");
        answered(&oracle, &worker.calls(), &json!({"layer": "batch"})).await;
        complete(&oracle, &worker.calls()).await;
    }
    for process in [worker, one, batch] {
        process.terminate();
        assert_eq!(process.died().await.code(), Some(0));
    }
}

/// Producer, ingest twice, batch, serve twice behind HAProxy; and everything that can go wrong.
#[tokio::test(flavor = "multi_thread")]
async fn answers_equal_what_was_committed_while_processes_die_and_the_topic_grows() {
    let (mut random, mut broker, mut oracle) = scene(3);
    let place = Place::new();
    let mut batch = place.batch().await;
    let mut one = place.ingest("one").await;
    let mut two = place.ingest("two").await;
    let (left, right) = (place.serve("left").await, place.serve("right").await);
    let at = |server: &Server| server.url().trim_start_matches("http://").to_owned();
    let mut balancer = Balancer::haproxy("roundrobin", [&at(&left), &at(&right)]);
    let client = Client::builder().no_proxy().build().unwrap();
    balancer.ready(&client).await;
    let calls = Calls::to(client, &balancer.url);
    let mut left = Some(left);
    calls.sql(&create(&broker), json!({})).await.unwrap();
    calls.sql(VIEW, json!({})).await.unwrap();
    for round in 0..10 {
        oracle.transact(&mut random, round % 3 != 2);
        answered(&oracle, &calls, &json!({})).await;
        match round {
            1 => {
                one.kill().await;
                answered(&oracle, &calls, &json!({"layer": "batch"})).await;
                oracle.transact(&mut random, true);
                one = place.ingest("one").await;
            }
            2 | 8 => recomputed(&calls).await,
            3 => {
                broker.kill();
                answered(&oracle, &calls, &json!({})).await;
                broker.run();
            }
            4 => {
                broker.add_partitions(TOPIC, 5);
                // It learns of them at its start.
                oracle.producer = broker.transactional("t-0");
                oracle.partitions = 5;
            }
            5 => {
                batch.kill().await;
                oracle.transact(&mut random, true);
                answered(&oracle, &calls, &json!({})).await;
                batch = place.batch().await;
            }
            // Another one takes its partitions over.
            6 => {
                two.kill().await;
                two = place.ingest("three").await;
            }
            7 => left.take().expect("it is killed once").kill().await,
            _ => {}
        }
        answered(&oracle, &calls, &json!({})).await;
        answered(&oracle, &calls, &json!({"layer": "batch"})).await;
    }
    complete(&oracle, &calls).await;
    recomputed(&calls).await;
    complete(&oracle, &calls).await;
    for process in [batch, one, two, right] {
        process.terminate();
        assert_eq!(process.died().await.code(), Some(0));
    }
}

/// The first is paused, as by a long swap or a cut network, while the second takes over; then it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_paused_writes_nothing_behind_its_successor() {
    let (mut random, broker, mut oracle) = scene(2);
    let place = Place::new();
    let batch = place.batch().await;
    let one = place.ingest("one").await;
    let calls = batch.calls();
    calls.sql(&create(&broker), json!({})).await.unwrap();
    calls.sql(VIEW, json!({})).await.unwrap();
    for _ in 0..3 {
        oracle.transact(&mut random, true);
        complete(&oracle, &calls).await;
    }
    // What it has read of this, it has not archived.
    one.freeze();
    let two = place.ingest("two").await;
    oracle.transact(&mut random, true);
    complete(&oracle, &calls).await;
    recomputed(&calls).await;
    oracle.transact(&mut random, true);
    complete(&oracle, &calls).await;
    one.thaw();
    for _ in 0..4 {
        oracle.transact(&mut random, true);
        complete(&oracle, &calls).await;
    }
    recomputed(&calls).await;
    complete(&oracle, &calls).await;
    let said = one.log();
    assert!(said.matches("taking events").count() >= 2, "{said}");
    for process in [one, two, batch] {
        process.terminate();
        assert_eq!(process.died().await.code(), Some(0));
    }
}

/// Two that could decide: one stands by while the other answers, and neither a death nor a pause of that one stops it for
/// long.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_stands_by_decides_once_the_other_is_silent() {
    let (mut random, broker, mut oracle) = scene(2);
    let place = Place::new();
    let first = place.batch_in("first").await;
    let _ingest = place.ingest("one").await;
    let serve = place.serve("serve").await;
    let calls = serve.calls();
    calls.sql(&create(&broker), json!({})).await.unwrap();
    calls.sql(VIEW, json!({})).await.unwrap();
    oracle.transact(&mut random, true);
    complete(&oracle, &calls).await;

    let pausing = async {
        // It is asked while it lives, and is not taken from.
        place.said("second", "standing by").await;
        recomputed(&calls).await;
        first.freeze();
    };
    let (second, ()) = tokio::join!(place.batch_in("second"), pausing);
    oracle.transact(&mut random, true);
    recomputed(&calls).await;
    complete(&oracle, &calls).await;
    first.thaw();
    assert_eq!(first.died().await.code(), Some(1));

    let killing = async { second.kill().await };
    let (first, ()) = tokio::join!(place.batch_in("first"), killing);
    oracle.transact(&mut random, true);
    recomputed(&first.calls()).await;
    complete(&oracle, &calls).await;
}
