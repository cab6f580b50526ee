// SPDX-License-Identifier: Apache-2.0
//! Roles apart with tokens: all of it works with the tokens that the documentation names, and whoever shows another one
//! hears within seconds what to do.

use std::time::{Duration, Instant};

use dovetail_testkit::kafka::Broker;
use reqwest::header::{AUTHORIZATION, HeaderMap};
use reqwest::{Client, Method};
use serde_json::json;

use crate::produce::{NDJSON, TOPIC, VIEW, body, create, post};
use crate::roles::{Place, asked};
use crate::support::server::{Calls, HANGS, Server};

const ADMIN: &str = "c1b8f0d6e7a94c02aa";
const WRITER: &str = "77aa31d0c9b84d16cc";
const READER: &str = "5f0e9a7d33b14e55bb";

const BATCH: &[&str] = &["--roles", "batch", "--cuts", "127.0.0.1:0"];
const INGEST: &[&str] = &["--roles", "ingest", "--cuts", "127.0.0.1:0"];
const SERVE: &[&str] = &["--roles", "serve"];
const WORKER: &[&str] = &["--roles", "batch"];

/// A store whose processes ask for tokens.
struct Guarded {
    place: Place,
    tokens: String,
}

impl Guarded {
    fn new() -> Self {
        let place = Place::new();
        let file = place.directory("etc").join("tokens");
        let text =
            format!("ops:admin:{ADMIN}\ncollector:write:{WRITER}\ndashboard:read:{READER}\n");
        std::fs::write(&file, text).unwrap();
        let tokens = file.to_str().unwrap().to_owned();
        Self { place, tokens }
    }

    /// A process that shows others `token`.
    async fn try_start(&self, name: &str, roles: &[&str], token: Option<&str>) -> Option<Server> {
        let guarded = ["--tokens", self.tokens.as_str()];
        let shown = token.map(|token| ["--peer-token", token]);
        let shown = shown.as_ref().map_or(&[][..], |shown| shown);
        let all = [roles, &guarded, shown].concat();
        self.place.try_start(name, &all, &[]).await.ok()
    }

    async fn start(&self, name: &str, roles: &[&str], token: &str) -> Server {
        let started = self.try_start(name, roles, Some(token)).await;
        started.expect("it starts")
    }

    /// What a process says that does not start with `token`, within seconds.
    async fn refused(&self, name: &str, roles: &[&str], token: Option<&str>) -> String {
        let begun = Instant::now();
        let started = self.try_start(name, roles, token).await;
        assert!(started.is_none(), "`{name}` starts");
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{:?}",
            begun.elapsed()
        );
        let log = self.place.directory(name).join("server.log");
        std::fs::read_to_string(log).unwrap()
    }
}

/// Calls with a token.
fn with(server: &Server, token: &str) -> Calls {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    let client = Client::builder()
        .default_headers(headers)
        .timeout(HANGS)
        .no_proxy();
    Calls::to(client.build().unwrap(), server.url())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_works_with_tokens_and_whoever_shows_a_wrong_one_hears_what_to_do() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 2);
    let guarded = Guarded::new();
    let batch = guarded.start("batch", BATCH, ADMIN).await;
    let one = guarded.start("one", INGEST, ADMIN).await;
    let two = guarded.start("two", INGEST, ADMIN).await;
    let serve = guarded.start("serve", SERVE, READER).await;
    let worker = guarded.start("worker", WORKER, ADMIN).await;
    let everyone = [&batch, &one, &two, &serve, &worker];

    let admin = with(&serve, ADMIN);
    let stream = create(&broker, "n BIGINT NOT NULL", "");
    admin.sql(&stream, json!({})).await.unwrap();
    admin.sql(VIEW, json!({})).await.unwrap();
    let (status, answer) = post(&with(&serve, WRITER), "", &[NDJSON], &body(3)).await;
    assert_eq!(status, 200, "{answer}");
    let (status, problem) = post(&with(&serve, READER), "", &[NDJSON], &body(4)).await;
    assert_eq!(status, 403, "{problem}");
    let sql = "SELECT seen, total FROM sums";
    let question = json!({"sql": sql, "after": answer["position"], "timeout_ms": 60_000});
    for process in everyone {
        let calls = with(process, READER);
        let found = asked(&calls, "/v1/sql", &question).await;
        assert_eq!(found["rows"], json!([{"seen": 2, "total": 13}]), "{found}");
        calls.get("/metrics").await.unwrap();
        let unknown = process.calls();
        let called = unknown.call(Method::GET, "/metrics", &[], "").await;
        assert_eq!(called.unwrap().0, 401);
    }
    let known = async {
        while admin.get("/v1/status").await.unwrap()["workers"][0].is_null() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(HANGS, known)
        .await
        .expect("the worker is known");
    let run = admin.recompute("sums", &json!({})).await.unwrap();
    assert_eq!(run["outcome"], "promoted", "{run}");
    assert!(run["worker"].is_string(), "{run}");

    // Nobody who is to take part starts without the token of an admin; one that stands by takes nothing over.
    for (name, roles) in [("three", INGEST), ("second", BATCH), ("hand", WORKER)] {
        for (token, way_out) in [
            (None, "a token of its --tokens file"),
            (Some("wrong-wrong-wrong"), "a token of its --tokens file"),
            (Some(READER), "the token of an admin"),
        ] {
            let said = guarded.refused(name, roles, token).await;
            assert!(said.contains("--peer-token"), "{name}: {said}");
            assert!(said.contains(way_out), "{name}, {token:?}: {said}");
        }
    }
    // A replica holds nothing, and says what it lacks.
    let nothing = guarded
        .try_start("nothing", SERVE, None)
        .await
        .expect("it starts");
    let calls = with(&nothing, READER);
    let (status, problem) = calls.post("/v1/sql", &json!({"sql": sql})).await.unwrap();
    assert_eq!(status, 503, "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("--peer-token") && detail.contains("--tokens file"),
        "{detail}"
    );

    // Meanwhile the others have gone on, in the epoch in which they began.
    let found = asked(&with(&serve, READER), "/v1/sql", &question).await;
    assert_eq!(found["rows"], json!([{"seen": 2, "total": 13}]), "{found}");
    assert!(!batch.log().contains("stopping"), "{}", batch.log());
    for process in everyone.into_iter().chain([&nothing]) {
        let said = process.log();
        assert!(
            [ADMIN, WRITER, READER]
                .iter()
                .all(|token| !said.contains(token))
        );
    }
}
