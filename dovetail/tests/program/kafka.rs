// SPDX-License-Identifier: Apache-2.0
//! A stream that reads a Kafka topic, through everything that goes wrong: at every sampled position the answers are
//! those of a plain fold over what the producer committed before it.
//!
//! Purpose: laws 1, 2, 3 and 5 where the log is not ours. Collaborators: a real broker, the built program, an oracle
//! that knows which offset each committed record has.
//! Non-goals: what a reader does with a topic by itself: the tests of the `kafka` crate.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dovetail_model::{Offset, PartitionId, Position, PositionToken};
use dovetail_testkit::kafka::{Broker, Producer};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::server::{Calls, HANGS, Server};

pub(crate) const TOPIC: &str = "numbers";
pub(crate) const VIEW: &str = "CREATE VIEW digits AS SELECT n % 10 AS digit, count(*) AS seen, sum(n) AS total FROM numbers GROUP BY digit";

/// What was committed, by its place.
pub(crate) struct Oracle {
    pub(crate) producer: Producer,
    pub(crate) partitions: i32,
    /// The next offset of each partition. A transaction's marker takes one in each that it wrote to.
    next: BTreeMap<i32, u64>,
    committed: BTreeMap<(u32, u64), i64>,
    /// Partition, from and to of what was lost and skipped.
    holes: BTreeSet<(u32, u64, u64)>,
    number: i64,
}

impl Oracle {
    pub(crate) fn new(producer: Producer, partitions: i32) -> Self {
        Self {
            producer,
            partitions,
            next: BTreeMap::new(),
            committed: BTreeMap::new(),
            holes: BTreeSet::new(),
            number: 0,
        }
    }

    /// One transaction of a few records to a few partitions, committed or not.
    pub(crate) fn transact(&mut self, random: &mut StdRng, commits: bool) {
        self.producer.begin();
        let mut written = vec![];
        for partition in 0..self.partitions {
            let count = random.random_range(0..30);
            if count == 0 {
                continue;
            }
            let mut values = vec![];
            let next = self.next.entry(partition).or_insert(0);
            for _ in 0..count {
                self.number += 1;
                values.push(format!("{{\"n\": {}}}", self.number));
                written.push(((partition.unsigned_abs(), *next), self.number));
                *next += 1;
            }
            *next += 1;
            self.producer.send(TOPIC, partition, values);
        }
        if commits {
            self.producer.commit();
            self.committed.extend(written);
        } else {
            self.producer.abort();
        }
    }

    /// From now on answers do without these offsets, and say so.
    fn lose(&mut self, partition: u32, from: u64, to: u64) {
        let lost = (partition, from)..(partition, to);
        self.committed.retain(|place, _| !lost.contains(place));
        self.holes.insert((partition, from, to));
    }

    /// The holes before `position`, as provenance lists them; null where there are none.
    fn holes(&self, position: &Position) -> Value {
        let before =
            |hole: &&(u32, u64, u64)| position.is_past(PartitionId(hole.0), Offset(hole.1));
        let holes = self.holes.iter().filter(before);
        let holes: Vec<Value> = holes
            .map(|(partition, from, to)| json!({"partition": partition, "from": from, "to": to}))
            .collect();
        if holes.is_empty() {
            return Value::Null;
        }
        holes.into()
    }

    /// Where the topic ends.
    pub(crate) fn end(&self) -> Position {
        let places = self.next.iter();
        places
            .map(|(p, next)| (PartitionId(p.unsigned_abs()), Offset(*next)))
            .collect()
    }

    /// `digit, seen, total` of what was committed before `position`.
    fn digits(&self, position: &Position) -> Vec<Value> {
        let mut digits: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
        for ((partition, offset), n) in &self.committed {
            if position.is_past(PartitionId(*partition), Offset(*offset)) {
                let digit = digits.entry(n % 10).or_default();
                *digit = (digit.0 + 1, digit.1 + n);
            }
        }
        let rows = digits.into_iter();
        rows.map(|(digit, (seen, total))| json!({"digit": digit, "seen": seen, "total": total}))
            .collect()
    }

    /// Asks once, and compares with what was committed before the answer's own position.
    async fn check(&self, calls: &Calls, options: Value) -> Position {
        let answer = calls
            .sql("SELECT * FROM digits ORDER BY digit", options)
            .await;
        self.compare(&answer.expect("it answers"))
    }

    /// Compares an answer with what was committed before its position.
    pub(crate) fn compare(&self, answer: &Value) -> Position {
        let stream = &answer["provenance"]["streams"][0];
        let token = stream["position"].as_str();
        let token: PositionToken = token.expect("a position").parse().expect("a token");
        assert_eq!(stream["holes"], self.holes(&token.position), "at {token}");
        let rows = answer["rows"].as_array().expect("rows");
        assert_eq!(*rows, self.digits(&token.position), "at {token}");
        token.position
    }

    /// The token of all that was committed.
    pub(crate) async fn token(&self, calls: &Calls) -> String {
        let stream = calls.get("/v1/streams/numbers").await.expect("it answers");
        let token = stream["position"].as_str().expect("a position");
        let mut token: PositionToken = token.parse().expect("a token");
        token.position = self.end();
        token.to_string()
    }

    /// `n, total` of all that was committed.
    pub(crate) fn totals(&self) -> Value {
        let total: i64 = self.committed.values().sum();
        json!([{"n": self.committed.len(), "total": total}])
    }

    /// Waits for all that was committed, and compares.
    async fn check_all(&self, calls: &Calls) {
        let token = self.token(calls).await;
        let options = json!({"after": token, "timeout_ms": 60_000});
        let position = self.check(calls, options).await;
        assert!(position.covers(&self.end()));
    }
}

pub(crate) fn create(broker: &Broker) -> String {
    format!(
        "CREATE STREAM numbers (n BIGINT NOT NULL) WITH (source = 'kafka', brokers = '{}', topic = '{TOPIC}', format = 'json')",
        broker.address()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_equal_what_was_committed_through_kills_of_both_sides() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut broker = Broker::start();
    broker.create_topic(TOPIC, 2);
    let mut oracle = Oracle::new(broker.transactional("t-0"), 2);
    let home = tempfile::tempdir().unwrap();
    let mut server = Server::start(home.path(), None).await.unwrap();
    for round in 0..24 {
        let calls = server.calls();
        if round == 1 {
            // The stream has a history when it is declared.
            calls.sql(&create(&broker), json!({})).await.unwrap();
            calls.sql(VIEW, json!({})).await.unwrap();
        }
        oracle.transact(&mut random, round % 3 != 2);
        if round == 0 {
            continue;
        }
        oracle.check(&calls, json!({})).await;
        match round {
            3 | 9 | 15 => {
                let mode = if round == 9 { "incremental" } else { "full" };
                let run = calls.recompute("digits", &json!({"mode": mode})).await;
                assert_eq!(run.unwrap()["outcome"], "promoted");
            }
            5 | 13 | 19 => {
                server.kill().await;
                server = Server::start(home.path(), None).await.unwrap();
                oracle.check(&server.calls(), json!({})).await;
            }
            7 => {
                broker.add_partitions(TOPIC, 3);
                oracle.partitions = 3;
                oracle.producer = broker.transactional("t-1");
            }
            11 => {
                broker.kill();
                oracle.check(&calls, json!({})).await;
                broker.run();
                oracle.producer = broker.transactional("t-2");
            }
            17 => {
                let (status, answer) = calls
                    .post("/v1/views/digits/rollback", &json!({}))
                    .await
                    .unwrap();
                assert_eq!(status, 200, "{answer}");
                oracle.check(&calls, json!({})).await;
            }
            _ => {}
        }
    }
    let calls = server.calls();
    oracle.check_all(&calls).await;
    // The raw log alone says the same.
    let run = calls.recompute("digits", &json!({})).await.unwrap();
    assert_eq!(run["outcome"], "promoted", "{run}");
    oracle.check(&calls, json!({"layer": "batch"})).await;
    let events = calls
        .rows("SELECT count(*) AS n FROM numbers", json!({}))
        .await;
    assert_eq!(events.unwrap()[0]["n"], oracle.committed.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_stops_the_stream_and_answers_go_on() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 1);
    let mut random = StdRng::seed_from_u64(7);
    let mut oracle = Oracle::new(broker.transactional("t-0"), 1);
    oracle.transact(&mut random, true);
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    calls.sql(&create(&broker), json!({})).await.unwrap();
    calls.sql(VIEW, json!({})).await.unwrap();
    oracle.check_all(&calls).await;
    // What is archived is where it goes on: else it would read from the start again.
    let run = calls.recompute("digits", &json!({})).await.unwrap();
    assert_eq!(run["outcome"], "promoted", "{run}");
    let before = oracle.end();
    server.kill().await;
    oracle.transact(&mut random, true);
    oracle.transact(&mut random, true);
    let lost = oracle.end().get(PartitionId(0)).0 - 3;
    broker.delete_before(TOPIC, 0, i64::try_from(lost).unwrap());
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    let source = stream_source(&calls, "stopped").await;
    let reason = source["reason"].as_str().unwrap();
    let names = format!(
        "offsets {} to {lost} of partition 0",
        before.get(PartitionId(0))
    );
    assert!(reason.contains(&names), "{reason}");
    let position = oracle.check(&calls, json!({})).await;
    assert_eq!(position, before);
    // An event that cannot come is not waited for longer than was asked.
    let stream = calls.get("/v1/streams/numbers").await.unwrap();
    let mut token: PositionToken = stream["position"].as_str().unwrap().parse().unwrap();
    token.position = oracle.end();
    let body =
        json!({"sql": "SELECT * FROM digits", "after": token.to_string(), "timeout_ms": 300});
    let (status, problem) = calls.post("/v1/sql", &body).await.unwrap();
    assert_eq!(status, 408, "{problem}");
    // Other streams go on.
    calls
        .sql("CREATE STREAM plain (x BIGINT)", json!({}))
        .await
        .unwrap();
    let headers = [("content-type", "application/x-ndjson")];
    let path = "/v1/streams/plain";
    let appended = calls.call(Method::POST, path, &headers, "{\"x\": 1}").await;
    assert_eq!(appended.unwrap().0, 200);
    let (status, problem) = calls
        .call(Method::POST, "/v1/streams/numbers", &headers, "{\"n\": 1}")
        .await
        .unwrap();
    // What is behind the hole may grow: it is read when the hole is skipped.
    assert_eq!(status, 200, "{problem}");
}

const SKIP: &str = "ALTER STREAM numbers SKIP HOLE";

/// `SKIP` is refused: why.
async fn refused(calls: &Calls, sql: &str) -> String {
    let (status, problem) = calls.post("/v1/sql", &json!({"sql": sql})).await.unwrap();
    assert_eq!(status, 409, "{problem}");
    problem["detail"].as_str().unwrap().to_owned()
}

/// Where the stream stands in a partition that a hole stops.
async fn stopped_at(calls: &Calls, partition: u32) -> u64 {
    let source = stream_source(calls, "stopped").await;
    let reason = source["reason"].as_str().unwrap();
    assert!(reason.contains("SKIP HOLE"), "{reason}");
    let stream = calls.get("/v1/streams/numbers").await.unwrap();
    let token: PositionToken = stream["position"].as_str().unwrap().parse().unwrap();
    token.position.get(PartitionId(partition)).0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_skipped_hole_is_in_every_answer_behind_it() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 2);
    let mut random = StdRng::seed_from_u64(11);
    let mut oracle = Oracle::new(broker.transactional("t-0"), 2);
    oracle.transact(&mut random, true);
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), Some("hole:committed")).await;
    let server = server.unwrap();
    let calls = server.calls();
    calls.sql(&create(&broker), json!({})).await.unwrap();
    calls.sql(VIEW, json!({})).await.unwrap();
    oracle.check_all(&calls).await;
    let why = refused(&calls, SKIP).await;
    assert!(why.contains("it is reading"), "{why}");
    let plain = "CREATE STREAM plain (x BIGINT)";
    calls.sql(plain, json!({})).await.unwrap();
    let why = refused(&calls, "ALTER STREAM plain SKIP HOLE").await;
    assert!(why.contains("reads no topic"), "{why}");

    // Retention overtakes the running stream. What it has read of these is not archived yet.
    server.freeze();
    for _ in 0..5 {
        oracle.transact(&mut random, true);
    }
    let to = oracle.end().get(PartitionId(0)).0 - 3;
    broker.delete_before(TOPIC, 0, i64::try_from(to).unwrap());
    server.thaw();
    let from = stopped_at(&calls, 0).await;
    assert!(from < to, "{from} {to}");
    oracle.check(&calls, json!({})).await;
    // It dies with the hole in the catalog, and goes on at the next start.
    let body = json!({"sql": SKIP});
    assert_eq!(calls.post("/v1/sql", &body).await, None);
    assert!(!server.died().await.success());
    oracle.lose(0, from, to);
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    oracle.check(&calls, json!({})).await;
    oracle.check_all(&calls).await;
    let why = refused(&calls, SKIP).await;
    assert!(why.contains("it is reading"), "{why}");

    // Another one, found at a start.
    let run = calls.recompute("digits", &json!({})).await.unwrap();
    assert_eq!(run["outcome"], "promoted", "{run}");
    let from = oracle.end().get(PartitionId(1)).0;
    server.kill().await;
    for _ in 0..3 {
        oracle.transact(&mut random, true);
    }
    let to = oracle.end().get(PartitionId(1)).0 - 2;
    broker.delete_before(TOPIC, 1, i64::try_from(to).unwrap());
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    assert_eq!(stopped_at(&calls, 1).await, from);
    oracle.check(&calls, json!({})).await;
    let altered = calls.sql(SKIP, json!({})).await.unwrap();
    assert_eq!(altered["rows"][0]["result"], "altered", "{altered}");
    oracle.lose(1, from, to);
    oracle.check(&calls, json!({})).await;
    oracle.check_all(&calls).await;
    keeps_its_holes(&calls, &oracle).await;

    server.kill().await;
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    oracle.check_all(&calls).await;
    keeps_its_holes(&calls, &oracle).await;
    // The raw log alone says the same.
    let run = calls.recompute("digits", &json!({})).await.unwrap();
    assert_eq!(run["outcome"], "promoted", "{run}");
    let position = oracle.check(&calls, json!({"layer": "batch"})).await;
    assert!(position.covers(&oracle.end()));
    let events = calls
        .rows("SELECT count(*) AS n FROM numbers", json!({}))
        .await;
    assert_eq!(events.unwrap()[0]["n"], oracle.committed.len());
}

/// The stream itself lists them.
async fn keeps_its_holes(calls: &Calls, oracle: &Oracle) {
    let stream = calls.get("/v1/streams/numbers").await.unwrap();
    let listed = stream["holes"].as_array().expect("holes").iter();
    let listed: BTreeSet<_> = listed
        .map(|hole| {
            assert!(hole["skipped_at"].is_string(), "{hole}");
            let number = |name: &str| hole[name].as_u64().unwrap();
            let partition = u32::try_from(number("partition")).unwrap();
            (partition, number("from"), number("to"))
        })
        .collect();
    assert_eq!(listed, oracle.holes);
    let written = listed
        .iter()
        .map(|(partition, from, to)| format!("{partition}@{from}..{to}"));
    let written: Vec<String> = written.collect();
    let shown = calls.rows("SHOW STREAMS", json!({})).await.unwrap();
    let shown = shown.iter().find(|stream| stream["name"] == "numbers");
    assert_eq!(shown.unwrap()["holes"], written.join(","));
}

/// The stream's source, once it is in this phase.
async fn stream_source(calls: &Calls, phase: &str) -> Value {
    let waiting = async {
        loop {
            let stream = calls.get("/v1/streams/numbers").await.unwrap();
            if stream["source"]["phase"] == phase {
                return stream["source"].clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(HANGS, waiting).await;
    waited.unwrap_or_else(|_| panic!("the stream is never `{phase}`"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declaration_that_cannot_be_read_is_refused_and_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    let sql = "CREATE STREAM numbers (n BIGINT) WITH (source = 'kafka', brokers = '127.0.0.1:1', topic = 't')";
    let (status, problem) = calls.post("/v1/sql", &json!({"sql": sql})).await.unwrap();
    assert_eq!(status, 503, "{problem}");
    assert!(
        problem["detail"].as_str().unwrap().contains("127.0.0.1:1"),
        "{problem}"
    );
    let (status, _) = calls
        .call(Method::GET, "/v1/streams/numbers", &[], "")
        .await
        .unwrap();
    assert_eq!(status, 404);
}
