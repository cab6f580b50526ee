// SPDX-License-Identifier: Apache-2.0
//! `POST` to a stream that reads a topic, through the real process: each request once and whole, whenever it dies, as a
//! plain consumer counts it and as a view does.

use std::collections::BTreeMap;
use std::time::Duration;

use dovetail_testkit::kafka::{Broker, Record};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::server::{Calls, HANGS, Server};
use crate::support::up::Up;

pub(crate) const TOPIC: &str = "numbers";
pub(crate) const VIEW: &str =
    "CREATE VIEW sums AS SELECT count(*) AS seen, sum(n) AS total FROM numbers";
pub(crate) const PATH: &str = "/v1/streams/numbers";

pub(crate) fn create(broker: &Broker, columns: &str, options: &str) -> String {
    format!(
        "CREATE STREAM numbers ({columns}) WITH (source = 'kafka', brokers = '{}', topic = '{TOPIC}', format = 'json'{options})",
        broker.address()
    )
}

async fn declare(calls: &Calls, broker: &Broker) {
    let create = create(broker, "n BIGINT NOT NULL", "");
    calls.sql(&create, json!({})).await.unwrap();
    calls.sql(VIEW, json!({})).await.unwrap();
}

pub(crate) async fn post(
    calls: &Calls,
    query: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, Value) {
    let path = format!("{PATH}{query}");
    let called = calls.call(Method::POST, &path, headers, body.to_owned());
    called.await.expect("it lives")
}

pub(crate) const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

/// A request of two events, always the same of its number.
pub(crate) fn body(number: i64) -> String {
    let n = 2 * number;
    format!("{{\"n\": {n}}}\n{{\"n\": {}}}\n", n + 1)
}

/// Sends a request; None when the server dies of it.
async fn send(calls: &Calls, number: i64) -> Option<Value> {
    let key = format!("request-{number}");
    let headers = [NDJSON, ("idempotency-key", key.as_str())];
    let called = calls.call(Method::POST, PATH, &headers, body(number));
    let (status, answer) = called.await?;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["accepted"], 2, "{answer}");
    Some(answer)
}

/// What the view says once it covers `after`.
async fn sums(calls: &Calls, after: &Value) -> Value {
    let options = json!({"after": after, "timeout_ms": 60_000});
    let rows = calls.rows("SELECT * FROM sums", options).await;
    rows.expect("it answers").remove(0)
}

/// Every event of the first so many requests is there once, for a plain consumer and for the view.
pub(crate) async fn counts_once(broker: &Broker, calls: &Calls, requests: i64, after: &Value) {
    let events = 2 * requests;
    let expected = json!({"seen": events, "total": events * (events - 1) / 2});
    assert_eq!(sums(calls, after).await, expected);
    let mut seen: BTreeMap<i64, usize> = BTreeMap::new();
    for record in broker.committed(TOPIC) {
        let event: Value = serde_json::from_slice(&record.value).unwrap();
        *seen.entry(event["n"].as_i64().unwrap()).or_default() += 1;
    }
    let once: BTreeMap<i64, usize> = (0..events).map(|n| (n, 1)).collect();
    assert_eq!(seen, once);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_counts_once_wherever_the_server_dies() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 2);
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    declare(&server.calls(), &broker).await;
    let mut answers = vec![send(&server.calls(), 0).await.unwrap()];
    server.kill().await;
    // Before the keys are sent, before the commit, and behind it before the answer.
    for point in ["produce:sent", "produce:written", "produce:committed"] {
        let number = answers.len() as i64;
        let server = Server::start(home.path(), Some(point)).await.unwrap();
        assert_eq!(send(&server.calls(), number).await, None, "{point}");
        assert!(!server.died().await.success(), "{point}");
        let server = Server::start(home.path(), None).await.unwrap();
        let calls = server.calls();
        let retried = send(&calls, number).await.unwrap();
        let was_committed = point == "produce:committed";
        assert_eq!(
            retried["duplicate"] == true,
            was_committed,
            "{point}: {retried}"
        );
        let again = send(&calls, number).await.unwrap();
        assert_eq!(again["duplicate"], true, "{point}: {again}");
        assert_eq!(again["position"], retried["position"], "{point}");
        answers.push(retried);
        counts_once(&broker, &calls, number + 1, &again["position"]).await;
        server.kill().await;
    }
    // All of them answer as they did first, and other bodies under their keys are refused.
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    for (number, first) in answers.iter().enumerate() {
        let again = send(&calls, number as i64).await.unwrap();
        assert_eq!(again["position"], first["position"]);
    }
    let headers = [NDJSON, ("idempotency-key", "request-0")];
    let (status, problem) = post(&calls, "", &headers, "{\"n\": 7}").await;
    assert_eq!(status, 422, "{problem}");
    counts_once(&broker, &calls, 4, &answers[3]["position"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_count_once_through_kills_at_random_moments() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let broker = Broker::start();
    broker.create_topic(TOPIC, 3);
    let home = tempfile::tempdir().unwrap();
    let mut server = Server::start(home.path(), None).await.unwrap();
    declare(&server.calls(), &broker).await;
    let mut requests = 0;
    for _ in 0..4 {
        let first = requests;
        requests += 40;
        let calls = server.calls();
        let senders = (first..requests).map(|number| {
            let calls = calls.clone();
            tokio::spawn(async move { send(&calls, number).await })
        });
        let senders: Vec<_> = senders.collect();
        tokio::time::sleep(Duration::from_millis(random.random_range(1..400))).await;
        server.kill().await;
        let mut answered = vec![];
        for sender in senders {
            answered.push(sender.await.unwrap());
        }
        server = Server::start(home.path(), None).await.unwrap();
        let calls = server.calls();
        let mut last = Value::Null;
        for (number, answer) in (first..requests).zip(answered) {
            let again = send(&calls, number).await.unwrap();
            if let Some(answer) = answer {
                assert_eq!(again["duplicate"], true, "{again}");
                assert_eq!(again["position"], answer["position"]);
            }
            sums(&calls, &again["position"]).await;
            last = again["position"].clone();
        }
        counts_once(&broker, &calls, requests, &last).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_events_are_refused_or_become_dead_letters_that_can_be_replayed() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 2);
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), Some("produce:committed:2")).await;
    let server = server.unwrap();
    let calls = server.calls();
    let strict = create(&broker, "n BIGINT NOT NULL", ", unknown_columns = 'reject'");
    calls.sql(&strict, json!({})).await.unwrap();
    calls.sql(VIEW, json!({})).await.unwrap();
    let bad = "{\"n\": 1}\n{\"n\": 2, \"note\": \"x\"}\n{\"n\": \"none\"}\n";
    let (status, problem) = post(&calls, "", &[NDJSON], bad).await;
    assert_eq!(status, 400, "{problem}");
    assert_eq!((&problem["line"], &problem["bad"]), (&json!(2), &json!(2)));
    assert!(broker.committed(TOPIC).is_empty());
    let (status, answer) = post(&calls, "?errors=dead-letter", &[NDJSON], bad).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        (&answer["accepted"], &answer["rejected"]),
        (&json!(1), &json!(2))
    );
    let after = &answer["position"];
    assert_eq!(sums(&calls, after).await, json!({"seen": 1, "total": 1}));
    assert_eq!(letters(&calls).await, 2);
    let add = "ALTER STREAM numbers ADD COLUMN note VARCHAR";
    calls.sql(add, json!({})).await.unwrap();
    // It dies when the replay is committed and nobody has heard of it.
    let replay = format!("{PATH}/dead-letters/replay");
    assert_eq!(calls.post(&replay, &json!({})).await, None);
    assert!(!server.died().await.success());
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    for _ in 0..2 {
        let (status, answer) = calls.post(&replay, &json!({})).await.unwrap();
        assert_eq!(status, 200, "{answer}");
        assert_eq!(
            (&answer["accepted"], &answer["rejected"]),
            (&json!(0), &json!(1))
        );
        let after = &answer["position"];
        assert_eq!(sums(&calls, after).await, json!({"seen": 2, "total": 3}));
        assert_eq!(letters(&calls).await, 1);
    }
    // The archive says so, too.
    let run = calls.recompute("sums", &json!({})).await.unwrap();
    assert_eq!(run["outcome"], "promoted", "{run}");
    server.kill().await;
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    assert_eq!(letters(&calls).await, 1);
    assert_eq!(sums(&calls, after).await, json!({"seen": 2, "total": 3}));
    assert_eq!(broker.committed(TOPIC).len(), 4);
}

pub(crate) async fn letters(calls: &Calls) -> u64 {
    let page = calls.get(&format!("{PATH}/dead-letters?limit=10")).await;
    page.unwrap()["total"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_with_keys_takes_them_from_their_column() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 4);
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    let columns = "n BIGINT, name VARCHAR, made TIMESTAMP";
    let options = ", key_column = 'name', timestamp_column = 'made', unknown_columns = 'reject'";
    let create = create(&broker, columns, options);
    calls.sql(&create, json!({})).await.unwrap();
    let bodies = [
        (
            "application/x-ndjson",
            "{\"n\":1,\"name\":\"a\",\"made\":\"2001-01-01T00:00:01\"}\n",
        ),
        (
            "application/json",
            "[{\"n\":2,\"name\":null,\"made\":\"2001-01-01T00:00:02\"}]",
        ),
        ("text/csv", "made,name,n\n2001-01-01T00:00:03,a,3\n"),
    ];
    let mut after = vec![];
    for (content_type, body) in bodies {
        let (status, answer) = post(&calls, "", &[("content-type", content_type)], body).await;
        assert_eq!(status, 200, "{content_type}: {answer}");
        after.push(answer["position"].clone());
    }
    for token in &after {
        let options = json!({"after": token, "timeout_ms": 60_000});
        calls.rows("SELECT n FROM numbers", options).await.unwrap();
    }
    let rows = calls.rows("SELECT n, name, made FROM numbers ORDER BY n", json!({}));
    let expected = [
        json!({"n": 1, "name": "a", "made": "2001-01-01T00:00:01"}),
        json!({"n": 2, "name": null, "made": "2001-01-01T00:00:02"}),
        json!({"n": 3, "name": "a", "made": "2001-01-01T00:00:03"}),
    ];
    assert_eq!(rows.await.unwrap(), expected);
    let seen = broker.committed(TOPIC);
    let of_a: Vec<_> = seen
        .iter()
        .filter(|s| s.key.as_deref() == Some(b"a"))
        .collect();
    assert_eq!(of_a.len(), 2);
    assert_eq!(of_a[0].partition, of_a[1].partition);
    assert_eq!(of_a[0].value, b"{\"n\":1}");
    // A dead letter keeps its key and its time, and comes again as it was.
    let value = b"{\"n\": 4, \"note\": \"x\"}";
    let letter = Record {
        partition: (of_a[0].partition + 1) % 4,
        value: Some(value),
        key: Some("a"),
        timestamp_ms: Some(978_307_204_000),
        headers: &[],
    };
    let at = broker.producer().send_one(TOPIC, &letter);
    let known = calls.get(PATH).await.unwrap();
    let id = known["id"].as_str().unwrap();
    let after = format!("{TOPIC}~{id}:{}@{}", letter.partition, at + 1);
    let options = json!({"after": after, "timeout_ms": 60_000});
    calls.rows("SELECT n FROM numbers", options).await.unwrap();
    assert_eq!(letters(&calls).await, 1);
    let add = "ALTER STREAM numbers ADD COLUMN note VARCHAR";
    calls.sql(add, json!({})).await.unwrap();
    let replay = format!("{PATH}/dead-letters/replay");
    let (status, answer) = calls.post(&replay, &json!({})).await.unwrap();
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        (&answer["accepted"], &answer["rejected"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(letters(&calls).await, 0);
    let sql = "SELECT name, made, _partition AS at FROM numbers WHERE n = 4 AND note = 'x'";
    let expected = json!({"name": "a", "made": "2001-01-01T00:00:04", "at": of_a[0].partition});
    assert_eq!(calls.rows(sql, json!({})).await.unwrap(), [expected]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_it_is_unavailable_and_other_streams_go_on() {
    let mut broker = Broker::start();
    broker.create_topic(TOPIC, 1);
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    declare(&calls, &broker).await;
    let plain = "CREATE STREAM plain (x BIGINT)";
    calls.sql(plain, json!({})).await.unwrap();
    let first = send(&calls, 0).await.unwrap();
    // What a broker acknowledged and did not end before it died, it may never end.
    sums(&calls, &first["position"]).await;
    broker.kill();
    let headers = [NDJSON, ("idempotency-key", "request-1")];
    let begin = std::time::Instant::now();
    let (status, problem) = post(&calls, "", &headers, &body(1)).await;
    assert_eq!(status, 503, "{problem}");
    assert!(begin.elapsed() < Duration::from_secs(30));
    let path = "/v1/streams/plain";
    let appended = calls
        .call(Method::POST, path, &[NDJSON], "{\"x\": 1}")
        .await;
    assert_eq!(appended.unwrap().0, 200);
    broker.run();
    let answer = loop {
        let (status, answer) = post(&calls, "", &headers, &body(1)).await;
        if status == 200 {
            break answer;
        }
        assert_eq!(status, 503, "{answer}");
        assert!(begin.elapsed() < Duration::from_secs(120), "{answer}");
    };
    counts_once(&broker, &calls, 2, &answer["position"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ingest_resumes_into_a_topic() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 2);
    let home = tempfile::tempdir().unwrap();
    let up = Up::start(&home.path().join("data"), &[]).await;
    let create = create(&broker, "n BIGINT NOT NULL", "");
    assert_eq!(up.run(&["sql", &create]).await.code, 0);
    let file = home.path().join("numbers.csv");
    let lines: String = (0..1000).map(|n| format!("{n}\n")).collect();
    std::fs::write(&file, format!("n\n{lines}")).unwrap();
    let file = file.to_str().unwrap();
    for _ in 0..2 {
        let ran = up.run(&["ingest", "numbers", file]).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        let summary: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(summary["accepted"], 1000, "{ran:?}");
        let after = summary["position"].as_str().unwrap();
        let count = "SELECT count(*) AS n, sum(n) AS s FROM numbers";
        let ran = up
            .run(&["sql", count, "--after", after, "--format", "ndjson"])
            .await;
        assert_eq!(ran.out.trim(), "{\"n\":1000,\"s\":499500}", "{ran:?}");
    }
    assert_eq!(broker.committed(TOPIC).len(), 1000);
    // What others produce is there beside it.
    let producer = broker.producer();
    producer.send_one(
        TOPIC,
        &Record {
            value: Some(b"{\"n\": 1}"),
            ..Record::default()
        },
    );
    assert_eq!(broker.committed(TOPIC).len(), 1001);
}

/// Each stream has its own keys, its own letters and its own replays; what one appends the other reads as anybody's, each
/// event once.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_two_streams_read_takes_appends_of_both() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 1);
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    let strict = create(&broker, "n BIGINT NOT NULL", ", unknown_columns = 'reject'");
    calls.sql(&strict, json!({})).await.unwrap();
    let other = strict.replace("STREAM numbers", "STREAM others");
    calls.sql(&other, json!({})).await.unwrap();
    let append = async |stream: &str, body: &str| {
        let path = format!("/v1/streams/{stream}?errors=dead-letter");
        let headers = [NDJSON, ("idempotency-key", "the-same-for-both")];
        let called = calls.call(Method::POST, &path, &headers, body.to_owned());
        let (status, answer) = called.await.unwrap();
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let first = append("numbers", "{\"n\": 1}\n{\"n\": 2, \"note\": \"x\"}\n").await;
    let second = append("others", "{\"n\": 3}\n").await;
    assert_eq!(second["duplicate"], Value::Null, "{second}");
    let counts = async |stream: &str, after: &Value| {
        // One topic: the offsets of both are the same.
        let offsets = after.as_str().unwrap().rsplit_once(':').unwrap().1;
        let shown = calls.get(&format!("/v1/streams/{stream}")).await.unwrap();
        let name = shown["position"]
            .as_str()
            .unwrap()
            .rsplit_once(':')
            .unwrap()
            .0;
        let options = json!({"after": format!("{name}:{offsets}"), "timeout_ms": 60_000});
        let sql = format!("SELECT count(*) AS seen, sum(n) AS total FROM {stream}");
        let found = calls.rows(&sql, options).await.unwrap().remove(0);
        let letters = calls
            .get(&format!("/v1/streams/{stream}/dead-letters"))
            .await;
        (found, letters.unwrap()["total"].as_u64().unwrap())
    };
    let both = (json!({"seen": 2, "total": 4}), 1);
    for stream in ["numbers", "others"] {
        assert_eq!(counts(stream, &second["position"]).await, both, "{stream}");
    }
    assert_eq!(
        append("numbers", "{\"n\": 1}\n{\"n\": 2, \"note\": \"x\"}\n").await["position"],
        first["position"]
    );
    // A replay settles the letter of its own stream, and is nothing new to the other, whose letter waits for its own.
    let add = "ALTER STREAM numbers ADD COLUMN note VARCHAR";
    calls.sql(add, json!({})).await.unwrap();
    let replay = format!("{PATH}/dead-letters/replay");
    let (status, answer) = calls.post(&replay, &json!({})).await.unwrap();
    assert_eq!((status, &answer["accepted"]), (200, &json!(1)), "{answer}");
    let after = &answer["position"];
    let settled = (json!({"seen": 3, "total": 6}), 0);
    assert_eq!(counts("numbers", after).await, settled);
    assert_eq!(counts("others", after).await, both);
    let shown = calls.get("/v1/streams/others").await.unwrap();
    assert_eq!(shown["source"]["skipped_replays"], 1, "{shown}");
    // One that is declared later reads each event where it was first, and one that begins behind it where it is.
    let later = create(&broker, "n BIGINT NOT NULL, note VARCHAR", "");
    for (name, start) in [("later", ""), ("last", ", start = '0@4'")] {
        let declared = later.replace("STREAM numbers", &format!("STREAM {name}"));
        let declared = format!("{}{start})", declared.strip_suffix(')').unwrap());
        calls.sql(&declared, json!({})).await.unwrap();
    }
    assert_eq!(counts("later", after).await, settled);
    let last = (json!({"seen": 1, "total": 2}), 0);
    assert_eq!(counts("last", after).await, last);
}

/// What would be appended to another topic than the stream has read would never be an event of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_made_anew_takes_no_appends_of_its_stream() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 1);
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    declare(&calls, &broker).await;
    let first = send(&calls, 0).await.unwrap();
    sums(&calls, &first["position"]).await;
    broker.delete_topic(TOPIC);
    broker.create_topic(TOPIC, 1);
    let stopped = async {
        while calls.get(PATH).await.unwrap()["source"]["phase"] != "stopped" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let stopped = tokio::time::timeout(HANGS, stopped).await;
    stopped.expect("it is noticed");
    let (status, problem) = post(&calls, "", &[NDJSON], &body(1)).await;
    assert_eq!(status, 409, "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("takes no events"), "{detail}");
    let replay = format!("{PATH}/dead-letters/replay");
    let (status, problem) = calls.post(&replay, &json!({})).await.unwrap();
    assert_eq!(status, 409, "{problem}");
    assert!(broker.committed(TOPIC).is_empty());
}
