// SPDX-License-Identifier: Apache-2.0
//! The built program against a fake server: what it asks, what it prints where, how it exits.

use serde_json::{Value, json};

use crate::support::fake::{Answer, Asked, Fake, run};
use crate::support::program::program;

fn problem(status: u16, detail: &str) -> Answer {
    let body =
        json!({"type": "about:blank", "title": "refused", "status": status, "detail": detail});
    Answer::with_status(status, &body)
}

const COMMANDS: [&str; 23] = [
    "up",
    "config",
    "demo",
    "sql",
    "infer",
    "ingest",
    "dead-letters",
    "plan",
    "apply",
    "recompute",
    "replay",
    "runs",
    "diff",
    "promote",
    "discard",
    "cancel",
    "rollback",
    "exclude",
    "exclusions",
    "unexclude",
    "status",
    "completions",
    "",
];

#[tokio::test]
async fn every_command_explains_itself() {
    for command in COMMANDS {
        let args: Vec<&str> = [command, "--help"]
            .into_iter()
            .filter(|a| !a.is_empty())
            .collect();
        let ran = run(&args, b"").await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{command}");
        assert!(ran.out.contains("Examples:"), "{command}");
        let name = if command.is_empty() {
            "dovetail"
        } else {
            command
        };
        insta::assert_snapshot!(format!("help-{name}"), ran.out);
    }
}

#[tokio::test]
async fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = run(&["completions", shell], b"").await;
        assert_eq!(ran.code, 0);
        for command in COMMANDS {
            assert!(ran.out.contains(command), "{shell}: {command}");
        }
    }
}

#[tokio::test]
async fn usage_errors_exit_with_2_and_ask_nothing() {
    let fake = Fake::start(|_, _| Answer::json(&json!({}))).await;
    for args in [
        &["fly"] as &[&str],
        &[],
        &["sql", "--format", "xml", "SELECT 1"],
        &["sql", ""],
        &["sql", "SELECT 1; SELECT 2", "--format", "parquet"],
        &["sql", "-f", "/no/such.sql"],
        &["infer"],
        &["infer", "a", "b", "--name", "c"],
        &["ingest", "../x", "file"],
        &["ingest", "flights", "-"],
        &["plan", "/no/such/dir"],
        &["recompute", "a", "--from", "2001-01-01"],
        &["replay", "a"],
        &["runs", "seven"],
        &["exclude", "flights", "--where", "true"],
        &["up", "--tokens", "/no/such/file"],
        &["up", "--log-level", "=;="],
        &["up", "--config", "/no/such.toml"],
        &["config", "--batch-runs", "0"],
        &["--url", "127.0.0.1", "status"],
    ] {
        let ran = fake.run_with_input(args, b"no format").await;
        assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
        assert_eq!(ran.out, "", "{args:?}");
        assert!(!ran.err.is_empty(), "{args:?}");
    }
    assert_eq!(fake.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn a_problem_goes_to_stderr_with_its_members() {
    let fake = Fake::start(|_, _| {
        let body = json!({"type": "about:blank", "title": "the request is invalid", "status": 400,
            "detail": "there is no column `dealy`; did you mean `delay`", "line": 1, "column": 8});
        Answer::with_status(400, &body)
    })
    .await;
    let ran = fake.run(&["sql", "SELECT dealy FROM flights"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert_eq!(
        ran.err,
        "error: the request is invalid (400)\n  there is no column `dealy`; did you mean `delay`\n  line: 1\n  column: 8\n"
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let ran = run(&["--url", "http://127.0.0.1:1", "status"], b"").await;
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(
        ran.err.contains("http://127.0.0.1:1") && ran.err.contains("dovetail up"),
        "{}",
        ran.err
    );
}

#[tokio::test]
async fn the_environment_says_which_server_and_as_whom() {
    let fake = Fake::start(|_, _| Answer::json(&json!([]))).await;
    let output = program(&["runs", "--format", "json"])
        .env("DOVETAIL_URL", &fake.url)
        .env("DOVETAIL_TOKEN", "c1b8f0d6e7a94c02")
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        fake.asked()[0].header("authorization"),
        "Bearer c1b8f0d6e7a94c02"
    );
    let help = program(&["--help"])
        .env("DOVETAIL_TOKEN", "c1b8f0d6e7a94c02")
        .output()
        .await
        .unwrap();
    assert!(!String::from_utf8(help.stdout).unwrap().contains("c1b8"));
}

#[tokio::test]
async fn sql_asks_for_the_format_and_hands_it_on() {
    let fake = Fake::start(|asked, _| match asked.header("accept") {
        "application/json" => Answer::json(&json!({
            "columns": [{"name": "origin", "type": "VARCHAR"}, {"name": "n", "type": "BIGINT"}],
            "rows": [{"origin": "SFO", "n": 2}, {"origin": null, "n": 1}],
            "provenance": {},
        })),
        other => Answer::text(format!("{other}\r\n\u{1b}")),
    })
    .await;
    let ran = fake.run(&["sql", "SELECT 1"]).await;
    assert_eq!(ran.code, 0);
    insta::assert_snapshot!(ran.out, @r#"
    ┌────────┬───┐
    │ origin ┆ n │
    ╞════════╪═══╡
    │ SFO    ┆ 2 │
    │ NULL   ┆ 1 │
    └────────┴───┘
    "#);
    assert_eq!(ran.err, "");

    for (format, media_type) in [
        ("ndjson", "application/x-ndjson"),
        ("csv", "text/csv"),
        ("arrow", "application/vnd.apache.arrow.stream"),
        ("parquet", "application/vnd.apache.parquet"),
    ] {
        let ran = fake.run(&["sql", "SELECT 1", "--format", format]).await;
        assert_eq!(ran.out, format!("{media_type}\r\n\u{1b}"), "{ran:?}");
    }
    let ran = fake.run(&["sql", "SELECT 1", "--format", "json"]).await;
    let document: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(document["rows"][0]["n"], 2);

    let args = [
        "sql",
        "SELECT 2",
        "--after",
        "a~b:0@1",
        "--layer",
        "batch",
        "--generation",
        "3",
        "--timeout",
        "2s",
    ];
    fake.run(&args).await;
    let asked = fake.asked();
    assert_eq!(
        asked.last().unwrap().json(),
        json!({"sql": "SELECT 2", "after": "a~b:0@1", "layer": "batch", "generation": 3, "timeout_ms": 2000})
    );
}

#[tokio::test]
async fn several_statements_run_in_order_until_one_fails() {
    let fake = Fake::start(|asked, _| {
        if asked.json()["sql"] == "BAD" {
            problem(400, "no")
        } else {
            Answer::json(&json!({"columns": [], "rows": []}))
        }
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.sql");
    std::fs::write(&file, "-- all\nCREATE ';';\nBAD; NEVER").unwrap();
    let ran = fake.run(&["sql", "-f", file.to_str().unwrap()]).await;
    assert_eq!(ran.code, 1);
    let sent: Vec<Value> = fake
        .asked()
        .iter()
        .map(|asked| asked.json()["sql"].clone())
        .collect();
    assert_eq!(sent, ["-- all\nCREATE ';'", "BAD"]);

    let ran = fake.run_with_input(&["sql"], b"SELECT 1;\n").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(fake.asked()[2].json(), json!({"sql": "SELECT 1"}));
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_failure() {
    let fake = Fake::start(|_, _| Answer::text("{\"a\":1}\n".repeat(1 << 20))).await;
    let mut child = program(&["--url", &fake.url, "sql", "SELECT 1", "--format", "ndjson"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

/// Acknowledges appends: each line of a body but a CSV header is an event.
fn ack(asked: &Asked) -> Answer {
    let lines = asked.body.iter().filter(|byte| **byte == b'\n').count();
    let events = lines - usize::from(asked.header("content-type") == "text/csv");
    Answer::json(
        &json!({"accepted": events, "rejected": 1, "position": format!("flights~k3f:0@{events}")}),
    )
}

#[tokio::test]
async fn ingest_cuts_a_file_and_a_second_run_repeats_the_keys() {
    let fake = Fake::start(|asked, _| ack(asked)).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.csv");
    let header = "origin,note\n";
    let record = format!("SFO,\"{}\"\n", "x".repeat(500));
    std::fs::write(&file, format!("{header}{}", record.repeat(20_000))).unwrap();
    let args = ["ingest", "flights", file.to_str().unwrap()];

    let ran = fake.run(&args).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let first = fake.asked();
    assert_eq!(first.len(), 3);
    let mut records = 0;
    for asked in &first {
        assert_eq!(asked.call, "POST /v1/streams/flights?errors=dead-letter");
        assert_eq!(asked.header("content-type"), "text/csv");
        let body = std::str::from_utf8(&asked.body).unwrap();
        let body = body.strip_prefix(header).unwrap();
        assert_eq!(body.len() % record.len(), 0, "a record is broken");
        records += body.len() / record.len();
    }
    assert_eq!(records, 20_000);
    let summary: Value = serde_json::from_str(&ran.out).unwrap();
    let last = first
        .last()
        .unwrap()
        .body
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
        - 1;
    assert_eq!(
        summary,
        json!({"accepted": 20_000, "rejected": 3, "position": format!("flights~k3f:0@{last}")})
    );

    // Under another name, at another time: the same content has the same keys, so nothing doubles.
    let copy = dir.path().join("copy.csv");
    std::fs::copy(&file, &copy).unwrap();
    fake.run(&["ingest", "flights", copy.to_str().unwrap()])
        .await;
    let keys = |asked: &[Asked]| -> Vec<String> {
        asked
            .iter()
            .map(|asked| asked.header("idempotency-key").to_owned())
            .collect()
    };
    let all = keys(&fake.asked());
    assert_eq!(all[..3], all[3..]);
    assert_ne!(all[0], all[1]);

    // On purpose.
    fake.run(&[&args[..], &["--key", "again", "--errors", "reject"]].concat())
        .await;
    let asked = fake.asked();
    assert!(!all.contains(&keys(&asked[6..7])[0]));
    assert_eq!(asked[6].call, "POST /v1/streams/flights?errors=reject");
}

#[tokio::test]
async fn ingest_waits_for_a_busy_server_with_the_same_key() {
    let fake = Fake::start(|asked, index| match index {
        0 => problem(503, "starting"),
        1 => problem(429, "busy"),
        _ => ack(asked),
    })
    .await;
    let ran = fake
        .run_with_input(&["ingest", "flights", "-"], b"{\"a\":1}\n{\"a\":2}\n")
        .await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let asked = fake.asked();
    assert_eq!(asked.len(), 3);
    assert!(
        asked
            .iter()
            .all(|a| a.header("idempotency-key") == asked[0].header("idempotency-key"))
    );
    assert!(asked.iter().all(|a| a.body == asked[0].body));
    assert_eq!(asked[0].header("content-type"), "application/x-ndjson");

    // It does not wait for ever.
    let fake = Fake::start(|_, _| problem(503, "starting")).await;
    let args = ["ingest", "flights", "-", "--retry-for", "0s"];
    let ran = fake.run_with_input(&args, b"{\"a\":1}\n").await;
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert_eq!(fake.asked().len(), 1);
}

#[tokio::test]
async fn a_refused_event_is_named_by_its_line_in_the_file() {
    let fake = Fake::start(|asked, index| {
        if index == 0 {
            return ack(asked);
        }
        let body = json!({"title": "the request is invalid", "detail": "no number", "line": 2, "column": "a"});
        Answer::with_status(400, &body)
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.ndjson");
    let line = format!("{{\"a\":\"{}\"}}\n", "x".repeat(1013));
    std::fs::write(&file, line.repeat(5000)).unwrap();
    let args = [
        "ingest",
        "flights",
        file.to_str().unwrap(),
        "--errors",
        "reject",
    ];
    let ran = fake.run(&args).await;
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    let first = fake.asked()[0].body.len() / line.len();
    assert!(
        ran.err.contains(&format!("a.ndjson`, line {}", first + 2)),
        "{}",
        ran.err
    );
    assert!(
        ran.err.contains("running the same command again"),
        "{}",
        ran.err
    );
}

#[tokio::test]
async fn ingest_says_what_an_earlier_attempt_had_stored() {
    let fake = Fake::start(|_, _| {
        Answer::json(
            &json!({"accepted": 2, "rejected": 0, "position": "a~b:0@2", "duplicate": true}),
        )
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.jsonl");
    std::fs::write(&file, "{}\n{}\n").unwrap();
    let ran = fake
        .run(&["ingest", "flights", file.to_str().unwrap()])
        .await;
    assert_eq!(ran.code, 0);
    assert!(ran.err.contains("2 of these events"), "{}", ran.err);
}

#[tokio::test]
async fn definitions_are_sent_as_files() {
    let fake = Fake::start(|_, _| {
        Answer::json(
            &json!({"changes": [{"file": "a.sql", "line": 3, "kind": "view", "name": "v",
            "result": "redefined", "details": ["avg(delay) is new", "a full run follows"]}]}),
        )
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.sql"), "CREATE VIEW v").unwrap();
    let dir = dir.path().to_str().unwrap();
    let ran = fake.run(&["plan", dir]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    insta::assert_snapshot!(ran.out, @r#"
    ┌───────────┬──────┬──────┬─────────┬────────────────────┐
    │ would be  ┆ kind ┆ name ┆ where   ┆ details            │
    ╞═══════════╪══════╪══════╪═════════╪════════════════════╡
    │ redefined ┆ view ┆ v    ┆ a.sql:3 ┆ avg(delay) is new  │
    │           ┆      ┆      ┆         ┆ a full run follows │
    └───────────┴──────┴──────┴─────────┴────────────────────┘
    "#);
    fake.run(&["apply", dir]).await;
    assert_eq!(fake.calls(), ["POST /v1/plan", "POST /v1/apply"]);
    assert_eq!(
        fake.asked()[1].json(),
        json!({"files": [{"name": "a.sql", "sql": "CREATE VIEW v"}]})
    );
}

/// A server with one run, number 7, whose outcome is given by how often it was looked at.
async fn batch_server(outcomes: &'static [&'static str], error: Option<&'static str>) -> Fake {
    let looks = std::sync::atomic::AtomicUsize::new(0);
    Fake::start(move |asked, _| {
        let outcome = match asked.call.as_str() {
            "POST /v1/runs/7/promote" => "promoted",
            "POST /v1/runs/7/discard" => "discarded",
            "POST /v1/runs/7/cancel" => return problem(409, "run 7 is not running"),
            "GET /v1/runs/7/diff" => {
                return Answer::json(&json!({"base": 3, "added": 0, "removed": 0, "changed": 1, "largest": [
                    {"key": {"origin": "SFO"}, "before": {"flights": 10}, "after": {"flights": 7}}]}));
            }
            "GET /v1/runs/7" => {
                let look = looks.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                outcomes[look.min(outcomes.len() - 1)]
            }
            _ => "running",
        };
        Answer::json(&json!({"id": 7, "view": "a", "mode": "full", "outcome": outcome, "base": 3,
            "generation": 4, "error": error}))
    })
    .await
}

#[tokio::test]
async fn recompute_waits_and_fails_with_its_run() {
    let fake = batch_server(&["running", "promoted"], None).await;
    let ran = fake
        .run(&["recompute", "a", "--wait", "--format", "json"])
        .await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let run: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(run["outcome"], "promoted");
    assert_eq!(
        fake.calls(),
        [
            "POST /v1/views/a/recompute",
            "GET /v1/runs/7",
            "GET /v1/runs/7"
        ]
    );
    assert_eq!(
        fake.asked()[0].json(),
        json!({"mode": "full", "dry_run": false})
    );

    let fake = batch_server(&["failed"], Some("disk full")).await;
    let ran = fake
        .run(&["recompute", "a", "--mode", "incremental", "--wait"])
        .await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("run 7 failed: disk full"), "{}", ran.err);

    // Without --wait it only starts it.
    let fake = batch_server(&["failed"], None).await;
    let ran = fake.run(&["recompute", "a", "--format", "json"]).await;
    assert_eq!(ran.code, 0);
    assert_eq!(fake.calls(), ["POST /v1/views/a/recompute"]);
    let run: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(run["outcome"], "running");
    for part in ["run 7 has begun", "`dovetail runs 7`", "--wait"] {
        assert!(ran.err.contains(part), "{part}: {}", ran.err);
    }
}

#[tokio::test]
async fn replay_shows_the_difference_and_promotes() {
    let fake = batch_server(&["running", "staged"], None).await;
    let ran = fake
        .run(&["replay", "a", "--from", "2001-01-03", "--yes"])
        .await;
    assert_eq!(ran.code, 0, "{ran:?}");
    insta::assert_snapshot!(ran.out, @r#"
    against generation 3: groups added 0, removed 0, changed 1
    ┌─────────┬────────┬─────────┐
    │ change  ┆ origin ┆ flights │
    ╞═════════╪════════╪═════════╡
    │ changed ┆ SFO    ┆ 10 → 7  │
    └─────────┴────────┴─────────┘
    promoted: generation 4, brought forward to the seam, is what `a` answers from
    "#);
    assert_eq!(
        fake.calls(),
        [
            "POST /v1/views/a/recompute",
            "GET /v1/runs/7",
            "GET /v1/runs/7",
            "GET /v1/runs/7/diff",
            "POST /v1/runs/7/promote"
        ]
    );
    assert_eq!(
        fake.asked()[0].json(),
        json!({"mode": "repair", "from": "2001-01-03", "dry_run": true})
    );
}

#[tokio::test]
async fn replay_of_a_run_that_fails_leaves_nothing_behind() {
    let fake = batch_server(&["failed"], Some("disk full")).await;
    let ran = fake.run(&["replay", "a", "--yes"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("disk full"), "{}", ran.err);
    let calls = fake.calls();
    assert_eq!(
        calls[2..],
        ["POST /v1/runs/7/cancel", "POST /v1/runs/7/discard"]
    );
}

#[tokio::test]
async fn a_promote_that_takes_long_is_waited_for() {
    let looks = std::sync::atomic::AtomicUsize::new(0);
    let fake = Fake::start(move |_, _| {
        let look = looks.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let outcome = if look < 2 { "staged" } else { "promoted" };
        Answer::with_status(202, &json!({"id": 7, "outcome": outcome}))
    })
    .await;
    let ran = fake.run(&["promote", "7", "--format", "json"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(
        fake.calls(),
        [
            "POST /v1/runs/7/promote",
            "GET /v1/runs/7",
            "GET /v1/runs/7"
        ]
    );
}

#[tokio::test]
async fn the_short_commands_are_their_calls() {
    let fake = Fake::start(|_, _| Answer::json(&json!({"id": 1, "generation": 2}))).await;
    let cases: [(&[&str], &str, Value); 10] = [
        (&["discard", "7"], "POST /v1/runs/7/discard", json!({})),
        (&["cancel", "7"], "POST /v1/runs/7/cancel", json!({})),
        (&["rollback", "a"], "POST /v1/views/a/rollback", json!({})),
        (
            &["rollback", "a", "--generation", "3"],
            "POST /v1/views/a/rollback",
            json!({"generation": 3}),
        ),
        (
            &["exclude", "s", "--where", "delay > 1", "--reason", "clock"],
            "POST /v1/streams/s/exclusions",
            json!({"where": "delay > 1", "reason": "clock"}),
        ),
        (
            &["unexclude", "s", "1"],
            "DELETE /v1/streams/s/exclusions/1",
            Value::Null,
        ),
        (
            &["exclusions", "s"],
            "GET /v1/streams/s/exclusions",
            Value::Null,
        ),
        (
            &["dead-letters", "s", "--replay"],
            "POST /v1/streams/s/dead-letters/replay",
            json!({}),
        ),
        (
            &["dead-letters", "s", "--replay", "0@1", "0@2"],
            "POST /v1/streams/s/dead-letters/replay",
            json!({"ids": ["0@1", "0@2"]}),
        ),
        (
            &["runs", "--view", "a", "--limit", "3"],
            "GET /v1/runs?limit=3&view=a",
            Value::Null,
        ),
    ];
    for (index, (args, call, body)) in cases.into_iter().enumerate() {
        let ran = fake.run(args).await;
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
        let asked = fake.asked()[index].clone();
        assert_eq!(asked.call, call);
        let sent = serde_json::from_slice(&asked.body).unwrap_or(Value::Null);
        assert_eq!(sent, body, "{args:?}");
    }
}

#[tokio::test]
async fn dead_letters_are_listed_by_pages() {
    let fake = Fake::start(|_, _| {
        Answer::json(&json!({"dead_letters": [{"id": "0@12", "reason": "`delay` is not a number", "line": 3,
            "column": "delay", "format": "csv", "origin": "http", "arrived_at": "2001-01-01T00:00:00",
            "text": "a,b\n1,x\n", "bytes": 8}], "cursor": "0@12", "total": 2}))
    })
    .await;
    let ran = fake.run(&["dead-letters", "s", "--limit", "1"]).await;
    assert_eq!(fake.calls(), ["GET /v1/streams/s/dead-letters?limit=1"]);
    insta::assert_snapshot!(ran.out, @r#"
    ┌──────┬─────────────────────────┬──────┬────────┬────────┬────────┬─────────────────────┬───────┐
    │ id   ┆ reason                  ┆ line ┆ column ┆ format ┆ origin ┆ arrived             ┆ event │
    ╞══════╪═════════════════════════╪══════╪════════╪════════╪════════╪═════════════════════╪═══════╡
    │ 0@12 ┆ `delay` is not a number ┆    3 ┆ delay  ┆ csv    ┆ http   ┆ 2001-01-01T00:00:00 ┆ a,b   │
    │      ┆                         ┆      ┆        ┆        ┆        ┆                     ┆ 1,x   │
    └──────┴─────────────────────────┴──────┴────────┴────────┴────────┴─────────────────────┴───────┘
    "#);
    assert!(ran.err.contains("--cursor 0@12"), "{}", ran.err);
}
