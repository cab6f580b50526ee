// SPDX-License-Identifier: Apache-2.0
//! `dovetail up --roles serve`: replicas beside the process that takes the events, over one store.
//!
//! Purpose: law 3 (one snapshot) and `after=` through any process; that every call may go to any of them; and what a
//! replica says while nobody takes events. Collaborators: the built program, the oracle over numbered events.
//! Non-goals: balancers.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::crash::{append, declare};
use crate::support::feed::Feed;
use crate::support::server::{Calls, HANGS, Server};

/// One store, and the directories of the processes over it.
pub(crate) struct Place {
    home: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
        }
    }

    fn directory(&self, name: &str) -> std::path::PathBuf {
        let directory = self.home.path().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    fn store(&self) -> String {
        format!("file://{}", self.home.path().join("store").display())
    }

    pub(crate) async fn taker(&self, more: &[&str]) -> Server {
        let store = self.store();
        let arguments = ["--store", &store, "--cuts", "127.0.0.1:0"];
        let arguments: Vec<&str> = arguments.iter().chain(more).copied().collect();
        start(&self.directory("taker"), &arguments).await
    }

    pub(crate) async fn replica(&self, name: &str, more: &[&str]) -> Server {
        self.beside(name, "serve", more, &[]).await
    }

    /// A process of one role beside the taker, with variables of its own.
    pub(crate) async fn beside(
        &self,
        name: &str,
        role: &str,
        more: &[&str],
        variables: &[(&str, &str)],
    ) -> Server {
        let started = self.try_beside(name, role, more, variables).await;
        started.expect("it starts")
    }

    /// The same for one that may not start.
    ///
    /// # Errors
    /// How it ended, and what it said.
    pub(crate) async fn try_beside(
        &self,
        name: &str,
        role: &str,
        more: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Server, String> {
        let (store, directory) = (self.store(), self.directory(name));
        let arguments = ["--store", &store, "--roles", role];
        let arguments: Vec<&str> = arguments.iter().chain(more).copied().collect();
        let started = Server::start_with(&directory, &arguments, variables).await;
        started.map_err(|ended| {
            let said = std::fs::read_to_string(directory.join("server.log")).unwrap();
            format!("{ended}: {said}")
        })
    }

    /// A file of tokens.
    pub(crate) fn tokens(&self, text: &str) -> std::path::PathBuf {
        let file = self.home.path().join("tokens");
        std::fs::write(&file, text).unwrap();
        file
    }
}

async fn start(home: &Path, arguments: &[&str]) -> Server {
    let started = Server::start_with(home, arguments, &[]).await;
    started.expect("it starts")
}

/// Asks until it is answered so.
async fn until_answered(calls: &Calls, path: &str, wanted: u16) -> Value {
    let asking = async {
        loop {
            let answer = calls.call(Method::GET, path, &[], String::new()).await;
            let (status, value) = answer.expect("it answers");
            if status == wanted {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let answered = tokio::time::timeout(HANGS, asking).await;
    answered.unwrap_or_else(|_| panic!("{path} is never answered with {wanted}"))
}

#[tokio::test]
async fn every_process_answers_every_call_alike() {
    let place = Place::new();
    let taker = place.taker(&[]).await;
    let (one, two) = (
        place.replica("one", &[]).await,
        place.replica("two", &[]).await,
    );
    let (taker, one, two) = (taker.calls(), one.calls(), two.calls());
    let mut feed = Feed::default();
    // What is no read is handed on.
    declare(&one).await.unwrap();
    append(&two, &mut feed, 300, 2).await.unwrap();
    for calls in [&taker, &one, &two] {
        feed.verify(calls).await;
    }
    let run = one.recompute("hourly", &json!({})).await.unwrap();
    assert_eq!(run["outcome"], "promoted", "{run}");
    append(&one, &mut feed, 70, 1).await.unwrap();
    for calls in [&two, &one, &taker] {
        feed.verify(calls).await;
    }
    let status = two.get("/v1/status").await.unwrap();
    assert_eq!(status["streams"][0]["name"], "events", "{status}");
    let shown = two.rows("SHOW VIEWS", json!({})).await.unwrap();
    assert_eq!(shown.len(), 2, "{shown:?}");

    // A key that only runs have, by a filter that travels; and rows without SQL.
    append(&two, &mut feed, 5, 0).await.unwrap();
    let last = feed.acknowledged().unwrap().0;
    let path =
        format!("/v1/views/hourly?origin=SFO&hour.gte=2001-01-02T00:00:00&limit=5&after={last}");
    let rows = one.get(&path).await.unwrap();
    assert_eq!(rows["rows"], taker.get(&path).await.unwrap()["rows"]);
    assert!(!rows["rows"].as_array().unwrap().is_empty());
    let filters = [
        "origin = 'JFK'",
        "'JFK' < origin AND hour <> TIMESTAMP '2001-01-01 00:00:00'",
        "origin IN ('SFO', '') AND hour < TIMESTAMP '2001-01-02 12:00:00'",
        "origin IS NULL OR origin = 'SFO'",
        "origin IS NULL",
    ];
    for filter in filters {
        let sql = format!("SELECT * FROM hourly WHERE {filter} ORDER BY origin, hour");
        let rows = one.rows(&sql, feed.after()).await.unwrap();
        assert_eq!(rows, taker.rows(&sql, json!({})).await.unwrap(), "{filter}");
        assert!(!rows.is_empty(), "{filter}");
    }

    // Definitions that change under a replica that has not looked meanwhile.
    let redefined = "CREATE OR REPLACE VIEW total AS SELECT count(*) AS seen, sum(n) AS numbers, \
         count(distinct n) AS different, min(n) AS first FROM events";
    taker.sql(redefined, json!({})).await.unwrap();
    let waiting = async {
        while one.rows("SELECT * FROM total", json!({})).await.unwrap()[0]
            .get("first")
            .is_none()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(HANGS, waiting)
        .await
        .expect("the new definition answers");
    taker
        .sql("ALTER STREAM events ADD COLUMN note VARCHAR", json!({}))
        .await
        .unwrap();
    let rows = two
        .rows(
            "SELECT count(*) AS n, count(note) AS notes FROM events",
            json!({}),
        )
        .await;
    assert_eq!(rows.unwrap(), [json!({"n": 375, "notes": 0})]);
    taker.sql("DROP VIEW hourly", json!({})).await.unwrap();
    let gone = json!({"sql": "SELECT * FROM hourly"});
    let (status, problem) = two.post("/v1/sql", &gone).await.unwrap();
    assert_eq!(status, 404, "{problem}");
}

#[tokio::test]
async fn all_that_a_question_reads_is_of_one_cut_while_everything_moves() {
    let place = Place::new();
    let taker = place.taker(&[]).await;
    let replica = place.replica("replica", &[]).await;
    declare(&taker.calls()).await.unwrap();
    let ended = Arc::new(AtomicBool::new(false));
    let (moving, done) = (taker.calls(), Arc::clone(&ended));
    let moves = tokio::spawn(async move {
        let mut feed = Feed::default();
        for round in 0..12 {
            append(&moving, &mut feed, 40, 0).await.unwrap();
            let view = ["hourly", "total"][round % 2];
            let mode = ["incremental", "full"][round / 2 % 2];
            let run = moving
                .recompute(view, &json!({"mode": mode}))
                .await
                .unwrap();
            assert_eq!(run["outcome"], "promoted", "{run}");
            append(&moving, &mut feed, 3, 0).await.unwrap();
        }
        done.store(true, Ordering::Relaxed);
        feed
    });
    let calls = replica.calls();
    let question = "SELECT (SELECT coalesce(sum(seen), 0) FROM hourly) AS hours, (SELECT seen FROM total) AS total, \
         (SELECT count(*) FROM events) AS events";
    let mut seen = 0;
    let mut answers = 0;
    while !ended.load(Ordering::Relaxed) {
        let rows = calls.rows(question, json!({})).await.unwrap();
        let counts = ["hours", "total", "events"].map(|name| rows[0][name].as_i64().unwrap());
        assert!(counts.iter().all(|count| *count == counts[0]), "{rows:?}");
        assert!(counts[0] >= seen, "{rows:?} after {seen}");
        seen = counts[0];
        answers += 1;
    }
    assert!(answers > 12, "{answers}");
    let feed = moves.await.unwrap();
    feed.verify(&calls).await;
}

#[tokio::test]
async fn without_whoever_takes_the_events_generations_answer_and_nothing_else() {
    let place = Place::new();
    // A replica may be there first.
    let early = place.directory("store");
    assert!(early.exists());
    let replica = place.replica("replica", &[]).await;
    let calls = replica.calls();
    let (status, problem) = calls
        .post("/v1/sql", &json!({"sql": "SHOW STREAMS"}))
        .await
        .unwrap();
    assert_eq!(status, 503, "{problem}");
    assert!(
        problem["detail"].as_str().unwrap().contains("--cuts"),
        "{problem}"
    );
    until_answered(&calls, "/readyz", 503).await;

    let taker = place.taker(&[]).await;
    until_answered(&calls, "/readyz", 200).await;
    let mut feed = Feed::default();
    declare(&calls).await.unwrap();
    append(&calls, &mut feed, 120, 0).await.unwrap();
    for view in ["hourly", "total"] {
        let run = calls
            .recompute(view, &json!({"mode": "incremental"}))
            .await
            .unwrap();
        assert_eq!(run["outcome"], "promoted", "{run}");
    }
    feed.verify_views(&calls, &json!({"layer": "batch"})).await;
    let covered = feed.after();
    append(&calls, &mut feed, 10, 0).await.unwrap();
    taker.kill().await;

    let merged = json!({"sql": "SELECT * FROM hourly"});
    let (status, problem) = calls.post("/v1/sql", &merged).await.unwrap();
    assert_eq!(status, 503, "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("does not answer") && detail.contains("layer=batch"),
        "{detail}"
    );
    until_answered(&calls, "/readyz", 503).await;
    let body =
        json!({"sql": "SELECT seen FROM total", "layer": "batch", "after": covered["after"]});
    let (status, answer) = calls.post("/v1/sql", &body).await.unwrap();
    assert_eq!(
        (status, &answer["rows"]),
        (200, &json!([{"seen": 120}])),
        "{answer}"
    );
    assert_eq!(
        answer["provenance"]["streams"][0]["freshness_ms"],
        Value::Null,
        "{answer}"
    );
    let beyond =
        json!({"sql": "SELECT seen FROM total", "layer": "batch", "after": feed.after()["after"]});
    let (status, problem) = calls.post("/v1/sql", &beyond).await.unwrap();
    assert_eq!(status, 503, "{problem}");
    let sent = calls
        .call(Method::POST, "/v1/streams/events", &[], String::new())
        .await;
    let (status, problem) = sent.unwrap();
    assert_eq!(status, 503, "{problem}");

    // It comes back at other addresses, and says so.
    let taker = place.taker(&[]).await;
    until_answered(&calls, "/readyz", 200).await;
    feed.verify(&calls).await;
    append(&calls, &mut feed, 10, 0).await.unwrap();
    feed.verify(&calls).await;
    taker.terminate();
    assert_eq!(taker.died().await.code(), Some(0));
    replica.terminate();
    assert_eq!(replica.died().await.code(), Some(0));
}

#[tokio::test]
async fn tokens_hold_between_processes_as_before_them() {
    let place = Place::new();
    let (admin, reader) = ("c1b8f0d6e7a94c02aa", "5f0e9a7d33b14e55bb");
    let file = place.tokens(&format!("ops:admin:{admin}\nreplica:read:{reader}\n"));
    let tokens = ["--tokens", file.to_str().unwrap()];
    let taker = place.taker(&tokens).await;
    let shows = ["--peer-token", reader].into_iter().chain(tokens);
    let replica = place.replica("replica", &shows.collect::<Vec<_>>()).await;
    let nothing = place.replica("nothing", &tokens).await;
    let ask = async |server: &Server, token: &str, sql: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "text/plain"),
        ];
        let calls = server.calls();
        let answer = calls
            .call(Method::POST, "/v1/sql", &headers, sql.to_owned())
            .await;
        answer.unwrap()
    };
    let stream = "CREATE STREAM events (n BIGINT NOT NULL)";
    let (status, problem) = ask(&replica, reader, stream).await;
    assert_eq!(status, 403, "{problem}");
    assert_eq!(ask(&replica, admin, stream).await.0, 200);
    let question = "SELECT count(*) AS n FROM events";
    let (status, answer) = ask(&replica, reader, question).await;
    assert_eq!(
        (status, &answer["rows"]),
        (200, &json!([{"n": 0}])),
        "{answer}"
    );
    let (status, problem) = ask(&nothing, reader, question).await;
    assert_eq!(status, 503, "{problem}");
    assert!(
        problem["detail"].as_str().unwrap().contains("--peer-token"),
        "{problem}"
    );
    assert_eq!(ask(&replica, "wrong-wrong-wrong", question).await.0, 401);
    for server in [&taker, &replica, &nothing] {
        assert!(!server.log().contains(reader) && !server.log().contains(admin));
    }
}
