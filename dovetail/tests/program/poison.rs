// SPDX-License-Identifier: Apache-2.0
//! Events that one view cannot compute, in the real process: it says so and names the way out, everything else
//! goes on, a restart changes nothing, and an exclusion or a new definition heals it.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::server::{Calls, HANGS, Server};

const DEFINITIONS: [&str; 3] = [
    "CREATE STREAM flights (origin VARCHAR, delay INT)",
    "CREATE VIEW ratio AS SELECT origin, count(*) AS n, sum(100 / delay) AS q FROM flights GROUP BY origin",
    "CREATE VIEW total AS SELECT count(*) AS n, sum(delay) AS d FROM flights",
];

const SHARE: &str = "CREATE VIEW share AS SELECT origin, 10 / (sum(delay) - 2) AS r, count(*) AS n FROM flights GROUP BY origin";

async fn append(calls: &Calls, delays: &[i64]) {
    append_from(calls, "SFO", delays).await;
}

async fn append_from(calls: &Calls, origin: &str, delays: &[i64]) {
    let rows: Vec<Value> = delays
        .iter()
        .map(|delay| json!({"origin": origin, "delay": delay}))
        .collect();
    let (status, answer) = calls
        .post("/v1/streams/flights", &json!(rows))
        .await
        .unwrap();
    assert_eq!(status, 200, "{answer}");
    // Everything behind it is answered from a position that covers it.
    let after = json!({"after": answer["position"]});
    calls.rows("SELECT n FROM total", after).await.unwrap();
}

async fn total(calls: &Calls) -> Value {
    calls
        .rows("SELECT n, d FROM total", json!({}))
        .await
        .unwrap()[0]
        .clone()
}

async fn ratio(calls: &Calls) -> Value {
    calls
        .rows("SELECT n, q FROM ratio", json!({}))
        .await
        .unwrap()[0]
        .clone()
}

/// The text names the view, what failed, where, and the way out.
fn names_all(text: &Value, span: &str) {
    let text = text.as_str().unwrap();
    let parts = [
        "`ratio`",
        "`flights`",
        "ivide by zero",
        "for the event at partition 0, offset ",
        span,
        "dovetail exclude flights",
        "dovetail replay ratio",
    ];
    for part in parts {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// The view refuses, naming the span, and its generation still answers; the other view is exact.
async fn refuses(calls: &Calls, span: &str, n: i64, d: i64) {
    let question = json!({"sql": "SELECT * FROM ratio"});
    let (status, problem) = calls.post("/v1/sql", &question).await.unwrap();
    assert_eq!(status, 503, "{problem}");
    // It heals when somebody does something about it, not by itself.
    assert_eq!(problem["retry_after_s"], 60);
    names_all(&problem["detail"], span);
    let batch = json!({"layer": "batch"});
    let rows = calls.rows("SELECT n, q FROM ratio", batch).await.unwrap();
    assert_eq!(rows, [json!({"n": 2, "q": 150})]);
    assert_eq!(total(calls).await, json!({"n": n, "d": d}));
    let status = calls.get("/v1/views/ratio/status").await.unwrap();
    names_all(&status["notes"][0], span);
    assert_eq!(status["phase"], "poisoned");
    assert!(status["freshness_ms"].as_u64().unwrap() > 0, "{status}");
    assert_eq!(
        status["runs"], 0,
        "nothing piles up behind what it cannot compute"
    );
}

async fn exclude(calls: &Calls, predicate: &str) {
    let exclusion = json!({"where": predicate, "reason": "cannot be divided by"});
    let path = "/v1/streams/flights/exclusions";
    let (status, answer) = calls.post(path, &exclusion).await.unwrap();
    assert!(status < 300, "{answer}");
}

async fn archived(calls: &Calls, position: &str) {
    let waiting = async {
        loop {
            let stream = calls.get("/v1/streams/flights").await.unwrap();
            if stream["archived"].as_str().unwrap().ends_with(position) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let archived = tokio::time::timeout(HANGS, waiting).await;
    archived.expect("a view that cannot compute does not hold up the archive");
}

#[tokio::test]
async fn a_view_that_cannot_compute_an_event_stands_alone_and_heals() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    for definition in DEFINITIONS {
        calls.sql(definition, json!({})).await.unwrap();
    }
    append(&calls, &[1, 2]).await;
    calls
        .recompute("ratio", &json!({"mode": "incremental"}))
        .await
        .unwrap();
    append(&calls, &[4]).await;
    append(&calls, &[5, 0]).await;
    append(&calls, &[10]).await;
    refuses(&calls, "[0@3, 0@5)", 6, 22).await;

    // No run gets past it, and each says why.
    for request in [
        json!({"mode": "incremental"}),
        json!({}),
        json!({"mode": "repair", "where": "origin = 'SFO'"}),
    ] {
        let run = calls.recompute("ratio", &request).await.unwrap();
        assert_eq!(run["outcome"], "failed", "{run}");
        names_all(&run["error"], "[0@3, 0@5)");
        let without = run["error"]
            .as_str()
            .unwrap()
            .contains("replay without a range");
        assert_eq!(without, request["mode"] == "repair", "{run}");
    }
    // Neither does a rollback, which brings the earlier generation forward: the data stands against it.
    let path = "/v1/views/ratio/rollback";
    let earlier = json!({"generation": 1});
    let (status, problem) = calls.post(path, &earlier).await.unwrap();
    assert_eq!(status, 409, "{problem}");
    assert_eq!(problem["title"], "in conflict with the current state");
    names_all(&problem["detail"], "[0@3, 0@5)");
    calls
        .recompute("total", &json!({"mode": "incremental"}))
        .await
        .unwrap();
    append(&calls, &[20]).await;
    archived(&calls, "0@7").await;

    // A restart does not forget it, and is not held up by it: in the raw log, and in the log behind that.
    server.kill().await;
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    refuses(&calls, "[0@2, 0@7)", 7, 42).await;
    append(&calls, &[0, 50]).await;
    refuses(&calls, "[0@2, 0@7)", 9, 92).await;

    exclude(&calls, "delay = 0").await;
    let run = calls
        .recompute("ratio", &json!({"mode": "full"}))
        .await
        .unwrap();
    assert_eq!(run["outcome"], "promoted", "{run}");
    assert_eq!(
        ratio(&calls).await,
        json!({"n": 7, "q": 100 + 50 + 25 + 20 + 10 + 5 + 2})
    );
    append(&calls, &[100]).await;
    assert_eq!(ratio(&calls).await, json!({"n": 8, "q": 213}));
    assert_eq!(total(&calls).await, json!({"n": 10, "d": 192}));

    // Another such event, behind the exclusion's bound: this time the definition learns of it.
    append(&calls, &[0]).await;
    let question = json!({"sql": "SELECT * FROM ratio"});
    assert_eq!(calls.post("/v1/sql", &question).await.unwrap().0, 503);
    let wiser = "CREATE OR REPLACE VIEW ratio AS SELECT origin, count(*) AS n, \
        sum(100 / nullif(delay, 0)) AS q FROM flights GROUP BY origin";
    calls.sql(wiser, json!({})).await.unwrap();
    let building = async {
        loop {
            let (status, answer) = calls.post("/v1/sql", &question).await.unwrap();
            if status == 200 {
                return answer["rows"].clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let rows = tokio::time::timeout(HANGS, building)
        .await
        .expect("it is built");
    // The excluded events stay out, the new one counts and adds nothing.
    assert_eq!(rows, json!([{"origin": "SFO", "n": 9, "q": 213}]));
    server.terminate();
    assert!(server.died().await.success());
}

/// The first generation of a view over a history that it cannot compute: the reason is in every answer.
#[tokio::test]
async fn a_view_that_cannot_be_built_says_why() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    calls.sql(DEFINITIONS[0], json!({})).await.unwrap();
    calls.sql(DEFINITIONS[2], json!({})).await.unwrap();
    append(&calls, &[5, 0]).await;
    calls.sql(DEFINITIONS[1], json!({})).await.unwrap();
    let question = json!({"sql": "SELECT n, q FROM ratio"});
    let failing = async {
        loop {
            let (status, problem) = calls.post("/v1/sql", &question).await.unwrap();
            assert_eq!(status, 503, "{problem}");
            if problem["detail"].as_str().unwrap().contains("failed") {
                return problem;
            }
            assert_eq!(problem["retry_after_s"], 1, "{problem}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let problem = tokio::time::timeout(HANGS, failing)
        .await
        .expect("the build fails");
    names_all(&problem["detail"], "[0@0, 0@2)");
    let text = problem["detail"].as_str().unwrap();
    assert!(text.contains("offset 1; exclude"), "{text}");
    // By itself it is tried again after a minute, and the text says when.
    let again = problem["retry_after_s"].as_u64().unwrap();
    assert!((30..=61).contains(&again), "{problem}");
    assert_eq!(total(&calls).await, json!({"n": 2, "d": 5}));

    // It is due at once when what may heal it is there.
    exclude(&calls, "delay = 0").await;
    let healed = async {
        while calls.post("/v1/sql", &question).await.unwrap().0 != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let healed = tokio::time::timeout(Duration::from_secs(30), healed).await;
    healed.expect("well before the pause of a minute is over");
    assert_eq!(ratio(&calls).await, json!({"n": 1, "q": 20}));
    server.kill().await;
}

/// A select list that fails on one group: queries and runs name the view, the column, the group and the way out,
/// and later events heal it.
#[tokio::test]
async fn a_select_list_that_fails_on_a_group_is_named_and_heals() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    let definitions = [DEFINITIONS[0], DEFINITIONS[2], SHARE];
    for definition in definitions {
        calls.sql(definition, json!({})).await.unwrap();
    }
    append(&calls, &[3]).await;
    calls
        .recompute("share", &json!({"mode": "incremental"}))
        .await
        .unwrap();
    append(&calls, &[-1]).await;

    let names_all = |text: &Value| {
        let text = text.as_str().unwrap();
        for part in [
            "the select list of view `share` fails: column `r` (`10 / (sum(delay) - 2)`)",
            "for the group origin = 'SFO': divide by zero error",
            "a query that does not read the column, or whose filter on the view's keys leaves the group out, is answered",
            "later events",
            "`dovetail exclude flights",
            "`dovetail replay share`",
            "nullif",
            "redefine",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    };
    let question = json!({"sql": "SELECT r FROM share"});
    let (status, problem) = calls.post("/v1/sql", &question).await.unwrap();
    assert_eq!(status, 503, "{problem}");
    names_all(&problem["detail"]);
    assert_eq!(problem["view"], "share");
    assert_eq!(problem["column"], "r");
    assert_eq!(problem["retry_after_s"], 60);
    let notes = async || {
        let status = calls.get("/v1/views/share/status").await.unwrap();
        status["notes"].clone()
    };
    names_all(&notes().await[0]);
    // What does not show the column is answered: of a group in the generation, by plan and by key.
    for (query, row) in [
        ("SELECT count(*) AS c FROM share", json!({"c": 1})),
        ("SELECT n FROM share", json!({"n": 2})),
        ("SELECT n + 1 AS m FROM share WHERE n > 1", json!({"m": 3})),
    ] {
        let rows = calls.rows(query, json!({})).await.unwrap();
        assert_eq!(rows, [row], "{query}");
    }
    for filters in ["", "&origin=SFO", "&n.gt=1&order=-n"] {
        let path = format!("/v1/views/share?columns=n,origin{filters}");
        let answer = calls.get(&path).await.unwrap();
        assert_eq!(answer["rows"], json!([{"n": 2, "origin": "SFO"}]), "{path}");
        let shown = path.replace("n,", "n,r,");
        let asked = calls.call(Method::GET, &shown, &[], String::new()).await;
        let (status, problem) = asked.unwrap();
        assert_eq!(status, 503, "{problem}");
    }
    append_from(&calls, "LAX", &[4]).await;
    for filter in ["origin <> 'SFO'", "length(origin) = 3 AND origin < 'M'"] {
        let others = format!("SELECT * FROM share WHERE {filter}");
        let others = calls.rows(&others, json!({})).await.unwrap();
        assert_eq!(others, [json!({"origin": "LAX", "r": 5, "n": 1})]);
    }
    for request in [
        json!({"mode": "incremental"}),
        json!({}),
        json!({"mode": "repair", "where": "origin = 'SFO'"}),
    ] {
        let run = calls.recompute("share", &request).await.unwrap();
        assert_eq!(run["outcome"], "failed", "{run}");
        names_all(&run["error"]);
        assert!(
            !run["error"].as_str().unwrap().contains("event of stream"),
            "{run}"
        );
    }
    names_all(&notes().await[0]);

    append(&calls, &[5]).await;
    let share = "SELECT r, n FROM share ORDER BY n";
    let share = calls.rows(share, json!({})).await.unwrap();
    assert_eq!(share, [json!({"r": 5, "n": 1}), json!({"r": 2, "n": 3})]);
    let run = calls
        .recompute("share", &json!({"mode": "incremental"}))
        .await
        .unwrap();
    assert_eq!(run["outcome"], "promoted", "{run}");
    assert_eq!(notes().await, Value::Null);

    // A full run may heal it as well, without the event that an incremental one fails on.
    append(&calls, &[-5]).await;
    let run = calls
        .recompute("share", &json!({"mode": "incremental"}))
        .await
        .unwrap();
    names_all(&run["error"]);
    names_all(&notes().await[0]);
    exclude(&calls, "delay = -5").await;
    let run = calls.recompute("share", &json!({})).await.unwrap();
    assert_eq!(run["outcome"], "promoted", "{run}");
    assert_eq!(notes().await, Value::Null);

    // What was live before lacks the exclusion: it cannot be brought forward over the event.
    let (status, problem) = calls
        .post("/v1/views/share/rollback", &json!({}))
        .await
        .unwrap();
    assert_eq!(status, 409, "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    for part in [
        "cannot be brought forward to the present: the select list of view `share` fails",
        "the live generation goes on answering",
    ] {
        assert!(detail.contains(part), "{part}: {detail}");
    }
    assert!(detail.starts_with("generation "), "{detail}");
    server.kill().await;
}

/// An exclusion that cannot be computed for some event is at fault itself, and not the view.
#[tokio::test]
async fn an_exclusion_that_cannot_be_computed_is_named() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    calls.sql(DEFINITIONS[0], json!({})).await.unwrap();
    calls.sql(DEFINITIONS[2], json!({})).await.unwrap();
    append(&calls, &[5, 0]).await;
    exclude(&calls, "100 / delay > 50").await;
    let run = calls.recompute("total", &json!({})).await.unwrap();
    assert_eq!(run["outcome"], "failed", "{run}");
    let error = run["error"].as_str().unwrap();
    for part in [
        "exclusion 1 (`100 / delay > 50`) cannot be computed for the event at partition 0, offset 1: ",
        "divide by zero",
        "`dovetail unexclude flights 1`",
        "TRY_CAST",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let question = json!({"sql": "SELECT count(*) AS n FROM flights WHERE _excluded"});
    let (status, problem) = calls.post("/v1/sql", &question).await.unwrap();
    assert_eq!(status, 409, "{problem}");
    assert_eq!(total(&calls).await, json!({"n": 2, "d": 5}));
    server.kill().await;
}

/// Of the events behind its bound an exclusion says nothing, so it is not computed for them.
#[tokio::test]
async fn an_exclusion_is_not_computed_for_events_behind_its_bound() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    calls.sql(DEFINITIONS[0], json!({})).await.unwrap();
    calls.sql(DEFINITIONS[2], json!({})).await.unwrap();
    append(&calls, &[1, 5]).await;
    exclude(&calls, "100 / delay > 50").await;
    append(&calls, &[0]).await;
    let run = calls.recompute("total", &json!({})).await.unwrap();
    assert_eq!(run["outcome"], "promoted", "{run}");
    assert_eq!(total(&calls).await, json!({"n": 2, "d": 5}));
    let excluded = "SELECT delay FROM flights WHERE _excluded";
    let excluded = calls.rows(excluded, json!({})).await.unwrap();
    assert_eq!(excluded, [json!({"delay": 1})]);
    server.kill().await;
}

/// A DECIMAL that a narrower one cannot hold stops its view as any other event that it cannot compute.
#[tokio::test]
async fn a_decimal_that_does_not_fit_keeps_no_server_from_starting() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    for definition in [
        "CREATE STREAM pay (amount DECIMAL(20, 2))",
        "CREATE VIEW narrow AS SELECT sum(CAST(amount AS DECIMAL(5, 2))) AS s FROM pay",
        "CREATE VIEW total AS SELECT count(*) AS n FROM pay",
    ] {
        calls.sql(definition, json!({})).await.unwrap();
    }
    let events = json!([{"amount": "1.50"}, {"amount": "12345.00"}]);
    let (status, answer) = calls.post("/v1/streams/pay", &events).await.unwrap();
    assert_eq!(status, 200, "{answer}");
    // Archives it, so that the next start reads it from the raw log.
    let run = calls.recompute("total", &json!({})).await.unwrap();
    assert_eq!(run["outcome"], "promoted", "{run}");
    server.kill().await;
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    let total = calls.rows("SELECT n FROM total", json!({})).await.unwrap();
    assert_eq!(total, [json!({"n": 2})]);
    let question = json!({"sql": "SELECT s FROM narrow"});
    let (status, problem) = calls.post("/v1/sql", &question).await.unwrap();
    assert_eq!(status, 503, "{problem}");
    let exclusion = json!({"where": "amount >= 1000", "reason": "too large"});
    let (status, answer) = calls
        .post("/v1/streams/pay/exclusions", &exclusion)
        .await
        .unwrap();
    assert!(status < 300, "{answer}");
    let run = calls.recompute("narrow", &json!({})).await.unwrap();
    assert_eq!(run["outcome"], "promoted", "{run}");
    let narrow = calls.rows("SELECT s FROM narrow", json!({})).await.unwrap();
    assert_eq!(narrow, [json!({"s": "1.50"})]);
}

/// An event whose text would grow past what a call may make is one that the view cannot compute, and no end of the process.
#[tokio::test]
async fn an_event_whose_text_grows_without_end_is_one_that_the_view_cannot_compute() {
    const LONG: &str = "CREATE VIEW long AS SELECT count(*) AS n, \
        max(octet_length(regexp_replace(origin, '.', origin || origin, 'g'))) AS most FROM flights";
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    for definition in [DEFINITIONS[0], DEFINITIONS[2], LONG] {
        calls.sql(definition, json!({})).await.unwrap();
    }
    append(&calls, &[1, 2]).await;
    let rows = calls.rows("SELECT n, most FROM long", json!({})).await;
    assert_eq!(rows.unwrap(), [json!({"n": 2, "most": 18})]);
    append_from(&calls, &"x".repeat(20_000), &[3]).await;
    append(&calls, &[4]).await;
    let question = json!({"sql": "SELECT * FROM long"});
    let (status, problem) = calls.post("/v1/sql", &question).await.unwrap();
    assert_eq!(status, 503, "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    for part in [
        "`long`",
        "`regexp_replace` may make",
        "64.0 MB are the most for the events of one batch",
        "dovetail exclude flights",
    ] {
        assert!(detail.contains(part), "{part}: {detail}");
    }
    assert_eq!(total(&calls).await, json!({"n": 4, "d": 10}));
    exclude(&calls, "octet_length(origin) > 1000").await;
    calls
        .recompute("long", &json!({"mode": "full"}))
        .await
        .unwrap();
    let rows = calls.rows("SELECT n, most FROM long", json!({})).await;
    assert_eq!(rows.unwrap(), [json!({"n": 3, "most": 18})]);
}

/// A repair whose `where` cannot be computed for some group is at fault itself: neither the view nor an event.
#[tokio::test]
async fn a_repair_whose_where_cannot_be_computed_is_at_fault_itself() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    calls.sql(DEFINITIONS[0], json!({})).await.unwrap();
    calls.sql(DEFINITIONS[2], json!({})).await.unwrap();
    let delays = "CREATE VIEW delays AS SELECT delay, origin, count(*) AS n FROM flights GROUP BY delay, origin";
    calls.sql(delays, json!({})).await.unwrap();
    append(&calls, &[5, 0]).await;
    append_from(&calls, "7", &[1, 2_000_000_000]).await;
    let repair = async |predicate: &str| {
        let request = json!({"mode": "repair", "where": predicate});
        calls.recompute("delays", &request).await.unwrap()
    };
    let rows = async || {
        let sorted = "SELECT delay, origin, n FROM delays ORDER BY delay";
        calls.rows(sorted, json!({})).await.unwrap()
    };
    let before = rows().await;
    for (predicate, group, offset, reason) in [
        (
            "100 / delay = 20",
            "delay = 0, origin = 'SFO'",
            1,
            "divide by zero",
        ),
        ("CAST(origin AS INT) = 7", "origin = 'SFO'", 0, "SFO"),
        (
            "delay * 5000000000 > 5",
            "delay = 2000000000, origin = '7'",
            3,
            "2000000000 * 5000000000",
        ),
    ] {
        let run = repair(predicate).await;
        assert_eq!(run["outcome"], "failed", "{run}");
        assert_eq!(run["generation"], Value::Null, "{run}");
        let error = run["error"].as_str().unwrap();
        let at = format!("the event at partition 0, offset {offset} falls in");
        for part in [
            "the `where` of the repair (`",
            group,
            at.as_str(),
            reason,
            "nullif",
            "TRY_CAST",
            "CASE",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(
            !error.contains("exclude") && !error.contains("redefine"),
            "{error}"
        );
        assert_eq!(rows().await, before);
    }
    let status = calls.get("/v1/views/delays/status").await.unwrap();
    assert_eq!(
        (&status["phase"], &status["notes"]),
        (&json!("live"), &Value::Null),
        "{status}"
    );
    for predicate in [
        "100 / nullif(delay, 0) = 20",
        "TRY_CAST(origin AS INT) = 7",
        "CASE WHEN delay < 1000 THEN delay * 5000000000 > 5 ELSE false END",
    ] {
        let run = repair(predicate).await;
        assert_eq!(run["outcome"], "promoted", "{run}");
        assert_eq!(rows().await, before);
    }
    server.kill().await;
}

/// A page is in want of the groups that it shows, of what its filters and its order read, and of nothing else.
#[tokio::test]
async fn a_page_fails_for_the_groups_that_it_shows_alone() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    for definition in [DEFINITIONS[0], DEFINITIONS[2], SHARE] {
        calls.sql(definition, json!({})).await.unwrap();
    }
    for (origin, delays) in [
        ("AAA", &[3, 4][..]),
        ("BBB", &[7]),
        ("CCC", &[1]),
        ("DDD", &[12]),
        ("EEE", &[4, 0, 0, 0, 0, 0]),
    ] {
        append_from(&calls, origin, delays).await;
    }
    let page = async |query: &str| {
        let path = format!("/v1/views/share?{query}");
        let asked = calls.call(Method::GET, &path, &[], String::new()).await;
        asked.unwrap()
    };
    let shows = async |query: &str, origins: &[&str]| {
        let (status, answer) = page(query).await;
        assert_eq!(status, 200, "{query}: {answer}");
        let rows = answer["rows"].as_array().unwrap().iter();
        let found: Vec<&str> = rows.map(|row| row["origin"].as_str().unwrap()).collect();
        assert_eq!(found, origins, "{query}: {answer}");
        answer["cursor"].as_str().map(str::to_owned)
    };
    let fails = async |query: &str| {
        let (status, problem) = page(query).await;
        assert_eq!(status, 503, "{query}: {problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("for the group origin = 'CCC'"), "{detail}");
    };
    // In runs alone, then as an event behind a generation, which the view cannot be brought forward over.
    for in_files in [false, true] {
        if in_files {
            let run = calls.recompute("share", &json!({})).await.unwrap();
            assert_eq!(run["outcome"], "promoted", "{run}");
        }
        let cursor = shows("limit=2", &["AAA", "BBB"]).await.unwrap();
        shows(&format!("limit=1&cursor={cursor}"), &["CCC"]).await;
        append_from(&calls, "CCC", &[1]).await;
        append_from(&calls, "BBB", &[1]).await;

        let cursor = shows("limit=2", &["AAA", "BBB"]).await.unwrap();
        fails(&format!("limit=2&cursor={cursor}")).await;
        let rest = format!("columns=origin,n&limit=2&cursor={cursor}");
        let cursor = shows(&rest, &["CCC", "DDD"]).await.unwrap();
        let cursor = shows(&format!("limit=2&cursor={cursor}"), &["EEE"]).await;
        assert_eq!(cursor, None);
        let cursor = shows("limit=2&order=-origin", &["EEE", "DDD"])
            .await
            .unwrap();
        fails(&format!("limit=1&order=-origin&cursor={cursor}")).await;
        // Filters and orders that leave the group out without a look at what fails.
        shows("limit=1&order=-n", &["EEE"]).await;
        let cursor = shows("n.gte=6", &["EEE"]).await;
        assert_eq!(cursor, None);
        shows("origin.in=AAA,DDD,EEE&limit=2", &["AAA", "DDD"]).await;
        fails("limit=3").await;
        fails("").await;
        // Any row will do, and the failing group is not the first.
        let any = "SELECT origin, r FROM share LIMIT 1";
        let any = calls.rows(any, json!({})).await.unwrap();
        assert_eq!(any.len(), 1);
        assert_ne!(any[0]["r"], Value::Null);
        fails("limit=1&order=r").await;
        fails("limit=1&r.gt=0").await;
        let (_, all) = page("columns=r&origin.in=AAA,DDD&limit=2").await;
        assert_eq!(all["rows"], json!([{"r": 2}, {"r": 1}]), "{all}");
        // Sound again, and as before: 10 / (1 - 2).
        append_from(&calls, "CCC", &[-1]).await;
    }
    server.kill().await;
}

/// Nothing is written of a view before all its groups can be: the text does not say that the others are answered.
#[tokio::test]
async fn a_first_full_run_that_fails_on_a_group_says_what_is_answered() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    calls.sql(DEFINITIONS[0], json!({})).await.unwrap();
    calls.sql(DEFINITIONS[2], json!({})).await.unwrap();
    append_from(&calls, "SFO", &[2]).await;
    append_from(&calls, "LAX", &[4]).await;
    let failed = async |name: &str| {
        let waiting = async {
            loop {
                let status = calls.get(&format!("/v1/views/{name}/status")).await;
                let status = status.unwrap();
                let note = status["notes"][0].as_str().unwrap_or_default();
                if note.contains("failed: ") {
                    assert!(note.contains("for the group origin = 'SFO'"), "{note}");
                    assert!(!note.contains("a query that does not read"), "{note}");
                    return (note.to_owned(), status);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let failed = tokio::time::timeout(HANGS, waiting).await;
        failed.expect("the build fails")
    };
    calls.sql(SHARE, json!({})).await.unwrap();
    let (note, status) = failed("share").await;
    assert_eq!(status["phase"], "building");
    let nothing = "the view answers nothing until a full run has written all its groups";
    assert!(
        note.starts_with("it answers nothing: ") && note.contains(nothing),
        "{note}"
    );
    let question = json!({"sql": "SELECT n FROM share WHERE origin = 'LAX'"});
    let (code, problem) = calls.post("/v1/sql", &question).await.unwrap();
    let detail = problem["detail"].as_str().unwrap();
    assert!(code == 503 && detail.contains(nothing), "{problem}");

    // A definition that is to take another one's place leaves that one as it was.
    let before =
        "CREATE VIEW redefined AS SELECT origin, count(*) AS n FROM flights GROUP BY origin";
    calls.sql(before, json!({})).await.unwrap();
    let rows = "SELECT origin, n FROM redefined ORDER BY origin";
    let built = async {
        let question = json!({"sql": rows});
        while calls.post("/v1/sql", &question).await.unwrap().0 != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let built = tokio::time::timeout(HANGS, built).await;
    built.expect("what can be computed is built");
    let now = SHARE.replace("CREATE VIEW share", "CREATE OR REPLACE VIEW redefined");
    calls.sql(&now, json!({})).await.unwrap();
    let (note, status) = failed("redefined").await;
    assert_eq!(status["phase"], "live");
    assert!(
        note.contains("the definition that is live goes on answering"),
        "{note}"
    );
    let expected = [
        json!({"origin": "LAX", "n": 1}),
        json!({"origin": "SFO", "n": 1}),
    ];
    assert_eq!(calls.rows(rows, json!({})).await.unwrap(), expected);

    // Later events heal both, once a run is tried again.
    append_from(&calls, "SFO", &[3]).await;
    for view in ["share", "redefined"] {
        let run = calls.recompute(view, &json!({})).await.unwrap();
        assert_eq!(run["outcome"], "promoted", "{run}");
        let healed = format!("SELECT origin, r, n FROM {view} ORDER BY origin");
        let expected = [
            json!({"origin": "LAX", "r": 5, "n": 1}),
            json!({"origin": "SFO", "r": 3, "n": 2}),
        ];
        assert_eq!(calls.rows(&healed, json!({})).await.unwrap(), expected);
        let status = calls
            .get(&format!("/v1/views/{view}/status"))
            .await
            .unwrap();
        assert_eq!(status["notes"], Value::Null);
    }
    server.kill().await;
}
