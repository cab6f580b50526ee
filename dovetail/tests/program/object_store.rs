// SPDX-License-Identifier: Apache-2.0
//! `dovetail up --store` against a real S3 server, and one of Azure's blobs: a server that is slow to come back, and against keys, buckets and
//! data directories that are not the right ones.
//!
//! Purpose: laws 2 and 4 where all but the embedded log lives elsewhere. Collaborators: a real S3 server, the built
//! program, an oracle over the numbered events that were sent.
//! Non-goals: what a store has to do by itself: the conformance suite of the `log` crate.

use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use dovetail_testkit::{AZURE_KEYS, AzureServer, Fault, Gateway, KEYS, Proxy, store_options};
use serde_json::{Value, json};

use crate::crash::{append, declare};
use crate::support::feed::{Feed, hourly};
use crate::support::server::{Calls, HANGS, Server};

/// How a server is told of a store.
struct Place {
    arguments: Vec<String>,
    variables: Vec<(&'static str, String)>,
}

impl Place {
    fn of(gateway: &Gateway) -> Self {
        Self::at(&gateway.endpoint())
    }

    fn at(endpoint: &str) -> Self {
        Self {
            arguments: store_options(endpoint, "dove/tail").into(),
            variables: KEYS.map(|(name, value)| (name, value.to_owned())).into(),
        }
    }

    fn on_azure(server: &AzureServer) -> Self {
        Self {
            arguments: server.store_options("dove/tail").into(),
            variables: AZURE_KEYS
                .map(|(name, value)| (name, value.to_owned()))
                .into(),
        }
    }

    fn with(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    async fn start(&self, home: &Path) -> Result<Server, ExitStatus> {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let variables: Vec<_> = self
            .variables
            .iter()
            .map(|(n, v)| (*n, v.as_str()))
            .collect();
        Server::start_with(home, &arguments, &variables).await
    }

    /// A start that must be refused: what it says.
    async fn refused(&self, home: &Path) -> String {
        let begun = Instant::now();
        let status = self.start(home).await.err().expect("it is refused");
        assert_eq!(status.code(), Some(1), "{status}");
        assert!(
            begun.elapsed() < Duration::from_secs(45),
            "{:?}",
            begun.elapsed()
        );
        std::fs::read_to_string(home.join("server.log")).unwrap()
    }
}

/// Both views computed from the raw log alone say the same.
async fn recomputes(calls: &Calls, feed: &Feed) {
    for view in ["hourly", "total"] {
        let run = calls.recompute(view, &json!({})).await.expect("it runs");
        assert_eq!(run["outcome"], "promoted", "{run}");
    }
    feed.verify_views(calls, &json!({"layer": "batch"})).await;
}

#[tokio::test]
async fn all_but_the_log_lives_on_the_store_and_outlives_kills() {
    let gateway = Gateway::start();
    outlives_kills(&Place::of(&gateway)).await;
}

#[tokio::test]
async fn all_but_the_log_lives_on_azure_and_outlives_kills() {
    let server = AzureServer::start();
    outlives_kills(&Place::on_azure(&server)).await;
}

async fn outlives_kills(place: &Place) {
    let home = tempfile::tempdir().unwrap();
    let mut feed = Feed::default();
    for round in 0..3 {
        let server = place.start(home.path()).await.expect("it starts");
        let calls = server.calls();
        declare(&calls).await.unwrap();
        feed.retry(&calls).await;
        feed.verify(&calls).await;
        append(&calls, &mut feed, 700, 2).await.unwrap();
        recomputes(&calls, &feed).await;
        // These are in the log alone, and some of them perhaps on their way.
        append(&calls, &mut feed, 30 + round, 1).await.unwrap();
        feed.verify(&calls).await;
        server.kill().await;
    }
    assert!(!home.path().join("data/store").exists());
    let server = place.start(home.path()).await.expect("it starts");
    recomputes(&server.calls(), &feed).await;
    feed.verify(&server.calls()).await;
    server.terminate();
    assert_eq!(server.died().await.code(), Some(0));
}

/// Waits until the server has logged `text` behind what it had logged before.
async fn logs(server: &Server, before: usize, text: &str) {
    let waiting = async {
        while !server.log()[before..].contains(text) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(HANGS, waiting).await;
    waited.unwrap_or_else(|_| panic!("`{text}` is never logged"));
}

/// The value of a metric, all series together whose labels have `part`; 0 where there is none.
async fn metric(calls: &Calls, name: &str, part: &str) -> u64 {
    let text = calls.get("/metrics").await.unwrap();
    let lines = text.as_str().unwrap().lines();
    let series = lines.filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(part))
    });
    let values = series.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap());
    values.sum::<f64>() as u64
}

/// What a query read of a generation is not asked of the store again, not after a restart either, and not when it was
/// damaged meanwhile without being noticed; the scrape itself asks for nothing.
#[tokio::test]
async fn a_generation_is_fetched_once() {
    let gateway = Gateway::start();
    let place = Place::of(&gateway);
    let home = tempfile::tempdir().unwrap();
    let mut feed = Feed::default();
    let server = place.start(home.path()).await.unwrap();
    let calls = server.calls();
    declare(&calls).await.unwrap();
    append(&calls, &mut feed, 700, 2).await.unwrap();
    recomputes(&calls, &feed).await;
    feed.verify(&calls).await;
    assert!(metric(&calls, "dovetail_cache_misses_total", "").await > 0);
    assert!(metric(&calls, "dovetail_store_requests_total", "catalog").await > 0);

    let fetched = async |calls: &Calls| {
        let requests = "dovetail_store_requests_total";
        metric(
            calls,
            requests,
            "operation=\"get_range\",purpose=\"generations\"",
        )
        .await
    };
    let before = fetched(&calls).await;
    for _ in 0..3 {
        feed.verify_views(&calls, &json!({})).await;
    }
    assert_eq!(fetched(&calls).await, before);
    assert!(metric(&calls, "dovetail_cache_hits_total", "memory").await > 0);
    server.kill().await;

    let server = place.start(home.path()).await.unwrap();
    let calls = server.calls();
    feed.verify_views(&calls, &json!({"layer": "batch"})).await;
    assert_eq!(metric(&calls, "dovetail_cache_misses_total", "").await, 0);
    assert!(metric(&calls, "dovetail_cache_hits_total", "disk").await > 0);
    server.kill().await;

    let mut damaged = 0;
    for shelf in std::fs::read_dir(home.path().join("data/cache")).unwrap() {
        for file in std::fs::read_dir(shelf.unwrap().path()).unwrap() {
            let file = file.unwrap().path();
            let mut bytes = std::fs::read(&file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&file, bytes).unwrap();
            damaged += 1;
        }
    }
    let server = place.start(home.path()).await.unwrap();
    let calls = server.calls();
    feed.verify_views(&calls, &json!({"layer": "batch"})).await;
    let found = metric(&calls, "dovetail_cache_corrupt_total", "").await;
    assert!(found > 0 && found <= damaged, "{found} of {damaged}");
    assert_eq!(
        metric(&calls, "dovetail_cache_misses_total", "").await,
        found
    );
}

#[tokio::test]
async fn a_store_that_goes_away_loses_nothing_and_stops_no_append() {
    let mut gateway = Gateway::start();
    let home = tempfile::tempdir().unwrap();
    let mut feed = Feed::default();
    let server = Place::of(&gateway).start(home.path()).await.unwrap();
    let calls = server.calls();
    declare(&calls).await.unwrap();
    append(&calls, &mut feed, 50, 1).await.unwrap();
    let before = server.log().len();
    gateway.kill();
    append(&calls, &mut feed, 40, 0).await.unwrap();
    // Nothing of this view is in a file yet: it answers from memory, exactly.
    feed.verify_views(&calls, &feed.after()).await;
    // What needs the store says so, and does not hang.
    let change = json!({"sql": "CREATE VIEW other AS SELECT count(*) AS n FROM events"});
    let (status, problem) = calls.post("/v1/sql", &change).await.unwrap();
    assert_eq!(status, 503, "{problem}");
    logs(&server, before, "archiving failed").await;
    append(&calls, &mut feed, 30, 1).await.unwrap();
    // Nobody has counted the dead letters yet, and nobody can; everything else is shown.
    let stream = calls.get("/v1/streams/events").await.unwrap();
    assert_eq!(stream["dead_letters"], Value::Null, "{stream}");
    let status = calls.get("/v1/status").await.unwrap();
    assert_eq!(status["streams"][0]["position"], stream["position"]);
    let metrics = calls.get("/metrics").await.unwrap();
    let metrics = metrics.as_str().unwrap();
    assert!(metrics.contains("dovetail_stream_archived_events{"));
    assert!(!metrics.contains("dovetail_stream_dead_letters{"));

    gateway.run();
    recomputes(&calls, &feed).await;
    feed.verify(&calls).await;
    // Once more, with a generation on the store that a query needs.
    append(&calls, &mut feed, 20, 0).await.unwrap();
    gateway.kill();
    append(&calls, &mut feed, 10, 0).await.unwrap();
    let question =
        json!({"sql": "SELECT sum(seen) AS seen FROM hourly", "after": feed.after()["after"]});
    let (status, answer) = calls.post("/v1/sql", &question).await.unwrap();
    assert!(
        status == 503 || (status == 200 && answer["rows"] == json!([{"seen": 150}])),
        "{status}: {answer}"
    );
    gateway.run();
    feed.verify(&calls).await;
    assert!(!hourly(&calls, &json!({})).await.is_empty());
    server.kill().await;
    let server = Place::of(&gateway).start(home.path()).await.unwrap();
    feed.verify(&server.calls()).await;
}

/// What a stop would like to finish waits for half a minute each: an archive, and the projection of every view.
#[tokio::test]
async fn a_stop_does_not_wait_for_a_store_that_is_silent() {
    let gateway = Gateway::start();
    let home = tempfile::tempdir().unwrap();
    let mut feed = Feed::default();
    for (method, left) in [
        ("PUT", "an archive did not end in time"),
        (
            "GET",
            "the delta projections are finished at the next start",
        ),
    ] {
        let proxy = Proxy::start(gateway.address()).await;
        let place = Place::at(&proxy.endpoint());
        let server = place.start(home.path()).await.unwrap();
        let calls = server.calls();
        declare(&calls).await.unwrap();
        append(&calls, &mut feed, 50, 1).await.unwrap();
        recomputes(&calls, &feed).await;
        proxy.arm(method, "", Fault::Silence, usize::MAX);
        append(&calls, &mut feed, 40, 0).await.unwrap();
        // The tail is archived by itself after a while, and nothing else comes to the store before the stop.
        let archiving = async {
            while method == "PUT" && proxy.happened() == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(HANGS, archiving).await.unwrap();
        server.terminate();
        assert_eq!(server.died().await.code(), Some(0));
        let log = std::fs::read_to_string(home.path().join("server.log")).unwrap();
        assert!(log.contains(left), "{log}");
    }
    let server = Place::of(&gateway).start(home.path()).await.unwrap();
    feed.verify(&server.calls()).await;
}

#[tokio::test]
async fn a_store_that_cannot_be_used_ends_the_start_with_the_reason() {
    let mut gateway = Gateway::start();
    let home = tempfile::tempdir().unwrap();
    let mut place = Place::of(&gateway);
    place.variables[1].1 = "hunter2".to_owned();
    let said = place.refused(home.path()).await;
    assert!(
        said.contains("s3://events/dove/tail") && said.contains("keys are wrong"),
        "{said}"
    );
    assert!(!said.contains("hunter2"), "{said}");

    let mut place = Place::of(&gateway);
    place.arguments[1] = "s3://nowhere".to_owned();
    let said = place.refused(home.path()).await;
    assert!(said.contains("no such bucket"), "{said}");

    gateway.kill();
    let said = Place::of(&gateway).refused(home.path()).await;
    assert!(said.contains("cannot be reached"), "{said}");
}

/// The first is paused, as by a long swap or a cut network, while the second takes over; then it goes on.
#[tokio::test]
async fn a_process_that_lost_the_store_writes_nothing_more_and_ends() {
    let gateway = Gateway::start();
    let [one, two] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let mut feed = Feed::default();
    let first = Place::of(&gateway).start(one.path()).await.unwrap();
    declare(&first.calls()).await.unwrap();
    append(&first.calls(), &mut feed, 50, 2).await.unwrap();
    recomputes(&first.calls(), &feed).await;

    let said = Place::of(&gateway).refused(two.path()).await;
    let owner = std::fs::read_to_string(one.path().join("data/id")).unwrap();
    for part in [owner.trim(), "--take-over", "data directory"] {
        assert!(said.contains(part), "{said}");
    }

    first.freeze();
    let taking = Place::of(&gateway).with("--take-over");
    let second = taking.start(two.path()).await.unwrap();
    assert!(
        second.log().contains("has not archived is given up"),
        "{}",
        second.log()
    );
    assert!(
        second
            .log()
            .contains("behind this position was never archived")
    );
    feed.verify(&second.calls()).await;
    append(&second.calls(), &mut feed, 40, 1).await.unwrap();
    recomputes(&second.calls(), &feed).await;

    first.thaw();
    let begun = Instant::now();
    let status = first.died().await;
    assert_eq!(status.code(), Some(1), "{status}");
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );
    let said = std::fs::read_to_string(one.path().join("server.log")).unwrap();
    let owner = std::fs::read_to_string(two.path().join("data/id")).unwrap();
    let reason = format!("superseded by the data directory `{}`", owner.trim());
    assert!(said.contains(&reason), "{said}");

    append(&second.calls(), &mut feed, 30, 0).await.unwrap();
    feed.verify(&second.calls()).await;
    second.kill().await;
    let said = Place::of(&gateway).refused(one.path()).await;
    assert!(said.contains(owner.trim()), "{said}");
    let second = Place::of(&gateway).start(two.path()).await.unwrap();
    feed.verify(&second.calls()).await;
    recomputes(&second.calls(), &feed).await;
    second.kill().await;

    // And back, where a log of another past lies.
    let first = taking.start(one.path()).await.unwrap();
    assert!(one.path().join("data/log-given-up-1").is_dir());
    feed.verify(&first.calls()).await;
    append(&first.calls(), &mut feed, 20, 1).await.unwrap();
    first.kill().await;
    let first = Place::of(&gateway).start(one.path()).await.unwrap();
    recomputes(&first.calls(), &feed).await;
    feed.verify(&first.calls()).await;
}

#[tokio::test]
async fn a_directory_can_be_the_store_and_its_logs_belong_to_it() {
    let home = tempfile::tempdir().unwrap();
    let store = format!("file://{}", home.path().join("elsewhere").display());
    let place = Place {
        arguments: vec!["--store".to_owned(), store],
        variables: vec![],
    };
    let mut feed = Feed::default();
    let server = place.start(home.path()).await.unwrap();
    declare(&server.calls()).await.unwrap();
    append(&server.calls(), &mut feed, 20, 1).await.unwrap();
    recomputes(&server.calls(), &feed).await;
    let other = tempfile::tempdir().unwrap();
    let said = place.refused(other.path()).await;
    assert!(said.contains("another process has the store"), "{said}");
    append(&server.calls(), &mut feed, 10, 1).await.unwrap();
    server.kill().await;

    // The option forgotten once: another store, which knows nothing of these logs.
    let forgotten = Place {
        arguments: vec![],
        variables: vec![],
    };
    let said = forgotten.refused(home.path()).await;
    assert!(said.contains("belong to another store"), "{said}");
    let server = place.start(home.path()).await.unwrap();
    feed.verify(&server.calls()).await;
}
