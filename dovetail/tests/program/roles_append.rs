// SPDX-License-Identifier: Apache-2.0
//! Appends and replays where the process that decides reads no topic: each request once and whole, whichever process is
//! asked, and whoever decides by then.

use std::time::Duration;

use dovetail_testkit::kafka::Broker;
use reqwest::Method;
use serde_json::{Value, json};

use crate::produce::{NDJSON, PATH, TOPIC, VIEW, body, counts_once, create, letters, post};
use crate::roles::{Place, asked};
use crate::support::server::{Calls, HANGS, Server};

/// Two that take the events and one that reads; the one that decides comes and goes.
struct Scene {
    broker: Broker,
    place: Place,
    takers: [Server; 2],
    serve: Server,
}

impl Scene {
    /// With one that decides, which crashes at `crash_at`, and a stream that takes no unknown columns.
    async fn new(crash_at: &[(&str, &str)]) -> (Self, Server) {
        let broker = Broker::start();
        broker.create_topic(TOPIC, 2);
        let place = Place::new();
        let roles = ["--roles", "batch", "--cuts", "127.0.0.1:0"];
        let batch = place.try_start("batch", &roles, crash_at).await;
        let takers = [place.ingest("one").await, place.ingest("two").await];
        let serve = place.serve("serve").await;
        let calls = serve.calls();
        let options = ", unknown_columns = 'reject'";
        let create = create(&broker, "n BIGINT NOT NULL", options);
        calls.sql(&create, json!({})).await.unwrap();
        calls.sql(VIEW, json!({})).await.unwrap();
        sums(&calls, &Value::Null).await;
        let scene = Self {
            broker,
            place,
            takers,
            serve,
        };
        (scene, batch.expect("it starts"))
    }
}

/// What the view says once it covers `after`, and is there.
async fn sums(calls: &Calls, after: &Value) -> Value {
    let mut body = json!({"sql": "SELECT * FROM sums", "timeout_ms": 60_000});
    if !after.is_null() {
        body["after"] = after.clone();
    }
    asked(calls, "/v1/sql", &body).await["rows"][0].clone()
}

/// Sends a request, if need be again, until it is answered; whether it was there before.
async fn sent(calls: &Calls, number: i64) -> Value {
    let key = format!("request-{number}");
    let headers = [NDJSON, ("idempotency-key", key.as_str())];
    let sending = async {
        loop {
            match calls.call(Method::POST, PATH, &headers, body(number)).await {
                Some((200, answer)) => return answer,
                Some((status, problem)) => assert_eq!(status, 503, "{problem}"),
                None => {}
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let sent = tokio::time::timeout(HANGS, sending).await;
    sent.expect("it is answered in the end")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_counts_once_whoever_decides_when_it_is_sent_again() {
    let (scene, first) = Scene::new(&[]).await;
    let calls = scene.serve.calls();
    let answer = sent(&calls, 0).await;
    let after = &answer["position"];
    let [one, two] = &scene.takers;
    for process in [&scene.serve, &first, one, two] {
        let found = sums(&process.calls(), after).await;
        assert_eq!(found, json!({"seen": 2, "total": 1}));
    }
    // It dies while they are under way: some are answered, some committed and not answered, some neither.
    let requests = 40;
    let senders = (1..requests).map(|number| {
        let calls = calls.clone();
        tokio::spawn(async move {
            let key = format!("request-{number}");
            let headers = [NDJSON, ("idempotency-key", key.as_str())];
            let called = calls.call(Method::POST, PATH, &headers, body(number));
            let (status, answer) = called.await?;
            (status == 200).then_some(answer)
        })
    });
    let senders: Vec<_> = senders.collect();
    let dying = async {
        scene.place.said("second", "standing by").await;
        first.kill().await;
    };
    let (second, ()) = tokio::join!(scene.place.batch_in("second"), dying);
    let mut last = Value::Null;
    for (number, sender) in (1..requests).zip(senders) {
        let again = sent(&calls, number).await;
        if let Some(answer) = sender.await.unwrap() {
            assert_eq!(again["duplicate"], true, "{again}");
            assert_eq!(again["position"], answer["position"]);
        }
        sums(&calls, &again["position"]).await;
        last = again["position"].clone();
    }
    // The first one was answered long before, by the other process.
    let again = sent(&calls, 0).await;
    assert_eq!(again["duplicate"], true, "{again}");
    assert_eq!(again["position"], answer["position"]);
    counts_once(&scene.broker, &calls, requests, &last).await;
    // Started anew in the same place, it owns the keys as well.
    second.kill().await;
    let second = scene.place.batch_in("second").await;
    let again = sent(&second.calls(), 1).await;
    assert_eq!(again["duplicate"], true, "{again}");
    let last = sent(&second.calls(), requests).await;
    counts_once(&scene.broker, &calls, requests + 1, &last["position"]).await;
}

/// What a process decodes that has not heard of a column yet would be a dead letter, and no event.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_behind_a_new_column_is_read_with_it() {
    let (scene, _batch) = Scene::new(&[]).await;
    let calls = scene.serve.calls();
    sent(&calls, 0).await;
    for column in 0..4 {
        let add = format!("ALTER STREAM numbers ADD COLUMN c{column} BIGINT");
        calls.sql(&add, json!({})).await.unwrap();
        for _ in 0..2 {
            let event = format!("{{\"n\": 1, \"c{column}\": 7}}\n");
            let (status, answer) = post(&calls, "", &[NDJSON], &event).await;
            assert_eq!(status, 200, "{answer}");
            let options = json!({"after": answer["position"], "timeout_ms": 60_000});
            let sql = format!("SELECT count(*) AS n FROM numbers WHERE c{column} = 7");
            calls.rows(&sql, options).await.unwrap();
        }
        let sql = format!("SELECT count(*) AS n FROM numbers WHERE c{column} = 7");
        let found = calls.rows(&sql, json!({})).await.unwrap();
        assert_eq!(found, [json!({"n": 2})], "{column}");
    }
    assert_eq!(letters(&calls).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_replayed_once_by_whoever_decides() {
    // It dies when the first records of the replay are committed and nobody has heard of it.
    let crash_at = [("DOVETAIL_CRASH_AT", "produce:committed:3")];
    let (scene, batch) = Scene::new(&crash_at).await;
    let calls = scene.serve.calls();
    // One request after the other goes to each partition.
    let mut after = Value::Null;
    for number in 0..2 {
        let bad = format!(
            "{{\"n\": {number}}}\n{{\"n\": 1{number}, \"note\": \"x\"}}\n{{\"n\": \"none\"}}\n"
        );
        let (status, answer) = post(&calls, "?errors=dead-letter", &[NDJSON], &bad).await;
        assert_eq!(status, 200, "{answer}");
        after = answer["position"].clone();
        sums(&calls, &after).await;
    }
    assert_eq!(sums(&calls, &after).await, json!({"seen": 2, "total": 1}));
    // What is not archived is read again where a declaration changes, and is an event then.
    let run = calls.recompute("sums", &json!({})).await.unwrap();
    assert_eq!(run["outcome"], "promoted", "{run}");
    let add = "ALTER STREAM numbers ADD COLUMN note VARCHAR";
    calls.sql(add, json!({})).await.unwrap();
    let replay = format!("{PATH}/dead-letters/replay");
    let called = calls.post(&replay, &json!({})).await;
    assert!(
        called.as_ref().is_none_or(|(status, _)| *status == 503),
        "{called:?}"
    );
    assert!(!batch.died().await.success());
    let batch = scene.place.batch().await;
    let mut accepted = 0;
    for _ in 0..3 {
        let (status, answer) = batch.calls().post(&replay, &json!({})).await.unwrap();
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["rejected"], 2, "{answer}");
        accepted += answer["accepted"].as_u64().unwrap();
        let after = &answer["position"];
        assert_eq!(sums(&calls, after).await, json!({"seen": 4, "total": 22}));
        assert_eq!(letters(&calls).await, 2);
    }
    assert!(accepted <= 1, "{accepted} more than were left");
    // What they settled is in the archive: those who take the events begin anew from it.
    let run = calls.recompute("sums", &json!({})).await.unwrap();
    assert_eq!(run["outcome"], "promoted", "{run}");
    let [one, two] = scene.takers;
    one.kill().await;
    two.kill().await;
    let _takers = [
        scene.place.ingest("one").await,
        scene.place.ingest("two").await,
    ];
    assert_eq!(sums(&calls, &after).await, json!({"seen": 4, "total": 22}));
    assert_eq!(letters(&calls).await, 2);
    assert_eq!(scene.broker.committed(TOPIC).len(), 8);
}
