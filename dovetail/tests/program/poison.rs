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
    let definitions = [
        DEFINITIONS[0],
        DEFINITIONS[2],
        "CREATE VIEW share AS SELECT origin, 10 / (sum(delay) - 2) AS r, count(*) AS n FROM flights GROUP BY origin",
    ];
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
            "the select list of view `share` fails: column `r` (`10 / ",
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
        "exclusion 1 (`100 / delay > 50`)",
        "divide by zero",
        "`dovetail unexclude flights 1`",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let question = json!({"sql": "SELECT count(*) AS n FROM flights WHERE _excluded"});
    let (status, problem) = calls.post("/v1/sql", &question).await.unwrap();
    assert_eq!(status, 409, "{problem}");
    assert_eq!(total(&calls).await, json!({"n": 2, "d": 5}));
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
