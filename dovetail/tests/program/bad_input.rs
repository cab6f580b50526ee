// SPDX-License-Identifier: Apache-2.0
//! What people send by mistake, against the real process: each row of docs/api.md, "Errors", is a problem document that names
//! what is wrong, where, and the way out. `bad_bodies` has what nobody sends by mistake.

use std::time::Instant;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::fake::run;
use crate::support::server::{Calls, Server};

const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");
const TEXT: (&str, &str) = ("content-type", "text/plain");
const GOOD: &str = r#"{"at": "2001-01-01T00:00:00", "n": 1}"#;

/// A body for stream `events`, the status, and a part of the detail.
const EVENTS: &[(&str, u16, &str)] = &[
    (
        r#"{"at": "2001-01-01", "n": "seven"}"#,
        400,
        "line 1: column `n`: `\"seven\"` is not an INT; write it without quotes",
    ),
    (
        r#"{"n": 1}"#,
        400,
        "line 1: column `at`: it is NOT NULL, but the event has no value for it",
    ),
    (
        r#"{"at": null}"#,
        400,
        "column `at`: it is NOT NULL, but the value is null",
    ),
    (
        r#"{"at": "2001-01-01", "x": 1}"#,
        400,
        "column `x`: the stream has no such column and refuses unknown ones; leave it out, or add it",
    ),
    (
        r#"{"at": "2001-01-01", "n": 2147483648}"#,
        400,
        "column `n`: `2147483648` is out of range for INT",
    ),
    (
        r#"{"at": "2001-01-01", "m": 12.345}"#,
        400,
        "`12.345` has more digits than DECIMAL(4, 2) holds",
    ),
    (
        r#"{"at": "2016-12-31T23:59:60"}"#,
        400,
        "is not a TIMESTAMP; it has no leap seconds, so write 59 there",
    ),
    (
        r#"{"at": "2001-01-01", "m": "much"}"#,
        400,
        "`\"much\"` is not a DECIMAL(4, 2); write it as 12.50",
    ),
    (
        r#"{"at": "2001-01-01", "n": 1, "n": 2}"#,
        400,
        "column `n`: the field is there twice",
    ),
    ("", 400, "the body is empty"),
    ("\n\n", 400, "the body holds no event"),
    (
        "a,b\n1,2\n",
        400,
        "line 1: expected a JSON object, found `a`",
    ),
];

/// A statement, the status, and a part of the detail.
const STATEMENTS: &[(&str, u16, &str)] = &[
    (
        "SELECT * FROM nope",
        404,
        "there is no stream or view `nope`; SHOW STREAMS and SHOW VIEWS list them",
    ),
    (
        "DESCRIBE nope",
        404,
        "there is no stream or view `nope`; SHOW TABLES lists them",
    ),
    (
        "UNDROP VIEW nope",
        404,
        "there is no dropped view `nope`; UNDROP takes the name that it had when it was dropped",
    ),
    (
        "ALTER STREAM events ALTER COLUMN nope DROP NOT NULL",
        404,
        "there is no column `nope`; DESCRIBE and the name of the stream lists them",
    ),
    (
        "CREATE STREAM \"../x\" (x INT)",
        400,
        "line 1, column 15: `../x` cannot be a name: use 1 to 63 characters",
    ),
    (
        "CREATE STREAM events (x INT)",
        409,
        "stream `events` exists already; take another name, or drop it first",
    ),
    (
        "CREATE VIEW sums AS SELECT count(*) AS n FROM events",
        409,
        "view `sums` exists already",
    ),
    (
        "CREATE STREAM sums (x INT)",
        409,
        "view `sums` exists already",
    ),
    (
        "DROP STREAM events",
        409,
        "stream `events` is read by view `sums`; drop the view first",
    ),
    (
        "CREATE VIEW w WITH (recompute = '61 * * * *') AS SELECT count(*) AS n FROM events",
        400,
        "line 1, column 21: `recompute` cannot be '61 * * * *': a field of it is out of bounds or no number; it is cron in UTC",
    ),
    (
        "CREATE VIEW w WITH (recompute = 'daily') AS SELECT count(*) AS n FROM events",
        400,
        "it has 1 fields, not 5; it is cron in UTC",
    ),
    (
        "CREATE VIEW w WITH (refresh = 'soon') AS SELECT count(*) AS n FROM events",
        400,
        "`refresh` cannot be 'soon': write an interval",
    ),
    (
        "CREATE VIEW w AS SELECT count(*) AS n FROM events WHERE at < now()",
        400,
        "gives another value each time",
    ),
    (
        "CREATE VIEW w AS SELECT t, count(*) AS n FROM events GROUP BY t HAVING count(*) > 1",
        400,
        "`HAVING count(*) > 1` cannot be part of a view: put it in the query that reads the view",
    ),
    (
        "SET x = 1",
        400,
        "`SET` is not supported: settings belong to a request",
    ),
    (
        "COPY events TO '/tmp/x'",
        400,
        "`COPY` is not supported: name the answer's format",
    ),
    (
        "EXPLAIN COPY events TO '/tmp/x'",
        400,
        "this is not a query: use SELECT",
    ),
    (
        "INSERT INTO events VALUES (1)",
        400,
        "append events with `POST /v1/streams/{stream}`",
    ),
    (
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        400,
        "`CREATE EXTERNAL` is not supported: there are streams and views",
    ),
    (
        "SELECT * FROM '/etc/passwd'",
        404,
        "there is no stream or view `/etc/passwd`",
    ),
    (
        "SELECT * FROM 's3://b/x.parquet'",
        404,
        "there is no stream or view `s3://b/x.parquet`",
    ),
    (
        "SELECT * FROM read_csv('http://x')",
        404,
        "there is no stream or view `read_csv`",
    ),
    (
        "SELECT * FROM range(1, 10)",
        404,
        "there is no stream or view `range`",
    ),
    (
        "SELECT repeat('x', 1000000000)",
        400,
        "there is no function `repeat`",
    ),
    (
        "SELECT \"N\" FROM events",
        400,
        "line 1, column 8: there is no column `N`; perhaps `events.n` is meant: names are lower case unless they stand in double quotes; there are events.at",
    ),
    (
        "WITH q AS (SELECT n AS \"Big\" FROM events) SELECT q.Big FROM q",
        400,
        "there is no column `q.big`; perhaps `q.\"Big\"` is meant: names are lower case unless",
    ),
    (
        "SELECT 9223372036854775807 + 1",
        400,
        "`9223372036854775807 + 1` does not fit BIGINT: compute with CAST(… AS DECIMAL(38, 0)), or with CAST(… AS DOUBLE)",
    ),
    (
        "SELECT -CAST(-9223372036854775808 AS BIGINT)",
        400,
        "`-(-9223372036854775808)` does not fit BIGINT: compute with CAST(… AS DECIMAL(38, 0)), or with CAST(… AS DOUBLE)",
    ),
    (
        "SELECT abs(CAST(-9223372036854775808 AS BIGINT))",
        400,
        "`abs(-9223372036854775808)` does not fit BIGINT: compute with CAST(… AS DECIMAL(38, 0)), or with CAST(… AS DOUBLE)",
    ),
    (
        "SELECT CAST(-9223372036854775808 AS BIGINT) / -1",
        400,
        "`-9223372036854775808 / -1` does not fit BIGINT: compute with CAST(… AS DECIMAL(38, 0)), or with CAST(… AS DOUBLE)",
    ),
    (
        "SELECT CAST(9223372036854775808 AS BIGINT)",
        400,
        "`9223372036854775808` does not fit BIGINT, which it is cast to: write CAST(… AS DECIMAL(38, 0)), or CAST(… AS DOUBLE)",
    ),
    (
        "SELECT CAST(1e300 AS DECIMAL(10, 2))",
        400,
        "`CAST(1e300 AS DECIMAL(10, 2))` cannot be computed: `1e300` does not fit DECIMAL(10, 2), which it is cast to: no DECIMAL has as many digits, 76 are the most: write CAST(… AS DOUBLE)",
    ),
    (
        "SELECT CAST(123456789012345678901.5 AS DECIMAL(10, 2))",
        400,
        "`CAST(123456789012345678901.5 AS DECIMAL(10, 2))` cannot be computed: ",
    ),
];

/// A method and path, the status, and a part of the detail.
const CALLS: &[(&str, u16, &str)] = &[
    (
        "GET /v1/streams/nope",
        404,
        "there is no stream `nope`; SHOW STREAMS lists them",
    ),
    (
        "POST /v1/streams/nope",
        404,
        "there is no stream `nope`; SHOW STREAMS lists them",
    ),
    (
        "GET /v1/views/nope",
        404,
        "there is no view `nope`; SHOW VIEWS lists them",
    ),
    (
        "GET /v1/runs/999",
        404,
        "there is no run `999`; SHOW RUNS and `dovetail runs` list them",
    ),
    (
        "POST /v1/runs/999/promote",
        404,
        "there is no run `999`; SHOW RUNS and `dovetail runs` list them",
    ),
    (
        "GET /v1/views/sums?generation=9",
        404,
        "view `sums` has no generation 9; readable are 1",
    ),
    (
        "DELETE /v1/streams/events/exclusions/9",
        404,
        "there is no exclusion `9`; `GET /v1/streams/{stream}/exclusions` lists those that hold",
    ),
    (
        "GET /v1/streams/..%2F..%2Fetc%2Fpasswd",
        404,
        "there is no stream `../../etc/passwd`",
    ),
    (
        "GET /v1/views/sums%3B%20DROP%20STREAM%20events",
        404,
        "there is no view `sums; DROP STREAM events`",
    ),
    (
        "GET /v1/streams/events/",
        404,
        "there is no `/v1/streams/events/`; leave the last `/` of it out",
    ),
    (
        "GET /v1/streams/events%00",
        404,
        "there is no stream `events\0`; SHOW STREAMS lists them",
    ),
    (
        "GET /v1/views/sums?limit=10001",
        400,
        "parameter `limit`: `10001` is not a number from 1 to 10000",
    ),
];

async fn refused(
    calls: &Calls,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
    (status, part): (u16, &str),
) -> Value {
    let sent = calls.call(method, path, headers, body.to_owned().into_bytes());
    let (found, problem) = sent.await.unwrap();
    assert_eq!(found, status, "{path} {body}: {problem}");
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(detail.contains(part), "{path} {body}: {problem}");
    problem
}

async fn declared(home: &std::path::Path) -> (Server, Calls) {
    let server = Server::start(home, None).await.unwrap();
    let calls = server.calls();
    for sql in [
        "CREATE STREAM events (at TIMESTAMP NOT NULL, n INT, t VARCHAR, m DECIMAL(4, 2)) WITH (event_time = 'at', unknown_columns = 'reject')",
        "CREATE STREAM others (x INT)",
        "CREATE VIEW sums AS SELECT t, count(*) AS n FROM events GROUP BY t",
    ] {
        calls.sql(sql, json!({})).await.unwrap();
    }
    (server, calls)
}

#[tokio::test]
async fn each_is_refused_with_what_and_where_and_the_way_out() {
    let home = tempfile::tempdir().unwrap();
    let (_server, calls) = declared(home.path()).await;
    let events = "/v1/streams/events";
    for (body, status, part) in EVENTS {
        refused(
            &calls,
            Method::POST,
            events,
            &[NDJSON],
            body,
            (*status, part),
        )
        .await;
    }
    let mut lines = [GOOD; 10];
    lines[6] = r#"{"at": "2001-01-01", "n": 1,}"#;
    let expected = (400, "line 7: expected a field name in quotes, found `}`");
    let problem = refused(
        &calls,
        Method::POST,
        events,
        &[NDJSON],
        &lines.join("\n"),
        expected,
    )
    .await;
    assert_eq!((&problem["line"], &problem["bad"]), (&json!(7), &json!(1)));
    let image = [("content-type", "image/png")];
    let expected = (
        415,
        "`Content-Type: image/png` is not read: use `application/x-ndjson`",
    );
    refused(&calls, Method::POST, events, &image, "x", expected).await;

    for (sql, status, part) in STATEMENTS {
        refused(
            &calls,
            Method::POST,
            "/v1/sql",
            &[TEXT],
            sql,
            (*status, part),
        )
        .await;
    }
    for (call, status, part) in CALLS {
        let (method, path) = call.split_once(' ').unwrap();
        let method = method.parse().unwrap();
        refused(&calls, method, path, &[NDJSON], GOOD, (*status, part)).await;
    }
    let xml = [("accept", "application/xml")];
    let expected = (406, "`Accept` allows none of our formats: application/json");
    refused(&calls, Method::GET, "/v1/views/sums", &xml, "", expected).await;
    for weight in ["q=2", "q=abc", "q=0.1234"] {
        let weighed = format!("application/json;{weight}");
        let said = format!("`Accept` has `{weighed}`, whose weight `{weight}` is none");
        let (path, accept) = ("/v1/views/sums", [("accept", weighed.as_str())]);
        refused(&calls, Method::GET, path, &accept, "", (400, &said)).await;
    }
    let latin: &[(&str, &str)] = &[NDJSON, ("content-encoding", "\u{e4}")];
    let expected = (
        415,
        "`Content-Encoding` is no text: send gzip, zstd or none",
    );
    refused(&calls, Method::POST, events, latin, GOOD, expected).await;
    let twice = r#"{"sql": "SELECT $a AS x", "parameters": {"a": 1, "a": 2}}"#;
    let json = [("content-type", "application/json")];
    let expected = (400, "parameter `$a` is given twice");
    refused(&calls, Method::POST, "/v1/sql", &json, twice, expected).await;
    let long = format!("SELECT '{}'", "x".repeat(5 << 20));
    let expected = (413, "the body is larger than 4 MiB: send less at a time");
    refused(&calls, Method::POST, "/v1/sql", &[TEXT], &long, expected).await;
    // Nothing of all this has left a trace.
    let rows = calls.rows("SELECT count(*) AS n FROM events", json!({}));
    assert_eq!(rows.await.unwrap(), [json!({"n": 0})]);
}

/// Statements as deep as any that are taken need more of a thread's stack than threads have by default, and a stack that is
/// used up ends the process.
#[tokio::test]
async fn the_deepest_statements_that_are_taken_are_answered() {
    let home = tempfile::tempdir().unwrap();
    let (_server, calls) = declared(home.path()).await;
    for (sql, status) in [
        (
            format!("SELECT n{} AS x FROM events", "+n".repeat(490)),
            200,
        ),
        (
            format!("SELECT n{} AS x FROM events", "+n".repeat(501)),
            400,
        ),
        (
            format!(
                "SELECT count(*) AS x FROM events WHERE n{} > 0",
                "*1-n".repeat(240)
            ),
            200,
        ),
        (
            format!("SELECT n{} AS x FROM events", "::int".repeat(490)),
            200,
        ),
        (
            format!("SELECT t{} AS x FROM events", "||t".repeat(490)),
            200,
        ),
        (
            format!("SELECT t FROM events WHERE n=1{}", " OR n=2".repeat(240)),
            200,
        ),
        (
            format!(
                "CREATE VIEW deep AS SELECT sum(n{}) AS x FROM events",
                "+n".repeat(140)
            ),
            200,
        ),
        (
            format!(
                "CREATE VIEW deeper AS SELECT sum(n{}) AS x FROM events",
                "+n".repeat(151)
            ),
            400,
        ),
        ("SELECT x FROM deep".to_owned(), 200),
    ] {
        let (found, answer) = calls.post("/v1/sql", &json!({"sql": sql})).await.unwrap();
        assert_eq!(found, status, "{}: {answer}", &sql[..sql.len().min(60)]);
    }
}

/// What a query multiplies is its rows by what the statement says, too.
#[tokio::test]
async fn a_long_text_of_a_statement_is_not_held_for_thousands_of_rows_at_once() {
    const ROWS: usize = 2_000;
    const TEXT: usize = 200_000;
    let home = tempfile::tempdir().unwrap();
    let (server, calls) = declared(home.path()).await;
    let lines = format!("{GOOD}\n").repeat(ROWS);
    let sent = calls.call(Method::POST, "/v1/streams/events", &[NDJSON], lines);
    let (status, appended) = sent.await.unwrap();
    assert_eq!(status, 200, "{appended}");
    let before = server.peak_memory();
    let text = "x".repeat(TEXT);
    let sql = format!("SELECT max(length(t)) AS x FROM (SELECT '{text}' || n AS t FROM events)");
    let patient = json!({"after": appended["position"], "timeout_ms": 80_000});
    let rows = calls.rows(&sql, patient);
    assert_eq!(rows.await.unwrap(), [json!({"x": TEXT + 1})]);
    let grown = server.peak_memory() - before;
    assert!(grown < 256 << 20, "{} MiB", grown >> 20);
}

/// A number that is a DATE or TIMESTAMP in no year has no text, and an error's is none. Whoever asks hears it by the status, or
/// where rows have gone out already, by an answer that has no end.
#[tokio::test]
async fn a_date_in_no_year_is_refused_and_never_a_text() {
    const NEAR: usize = 20_000;
    let home = tempfile::tempdir().unwrap();
    let (_server, calls) = declared(home.path()).await;
    for sql in [
        "CREATE STREAM far (at TIMESTAMP NOT NULL, n INT, s BIGINT) WITH (event_time = 'at', event_time_unit = 'us')",
        "CREATE VIEW days AS SELECT CAST(n AS DATE) AS day, count(*) AS n, max(CAST(s AS TIMESTAMP)) AS last FROM far GROUP BY day",
    ] {
        calls.sql(sql, json!({})).await.unwrap();
    }
    let near = "{\"at\": \"2001-01-01\", \"n\": 1, \"s\": 1}\n".repeat(NEAR);
    let one = format!("{{\"at\": 1, \"n\": {}, \"s\": {}}}", i32::MAX, i64::MAX);
    let sent = calls.call(Method::POST, "/v1/streams/far", &[NDJSON], near + &one);
    let (status, appended) = sent.await.unwrap();
    assert_eq!(status, 200, "{appended}");
    let event = format!("{{\"at\": {}, \"n\": 1}}", i64::MAX);
    let said = "line 1: column `at`: `9223372036854775807` is out of range for TIMESTAMP: the calendar has the years -262143 to 262142";
    let expected = (400, said);
    refused(
        &calls,
        Method::POST,
        "/v1/streams/far",
        &[NDJSON],
        &event,
        expected,
    )
    .await;

    let after = appended["position"].as_str().unwrap();
    let day = "2147483647 days since 1970-01-01 is a DATE outside the calendar, which has the years -262143 to 262142; leave such rows out";
    let instant =
        "9223372036854775807 microseconds since 1970-01-01 is a TIMESTAMP outside the calendar";
    for format in ["json", "ndjson", "csv"] {
        for (sql, said) in [
            ("SELECT CAST(n AS DATE) AS day FROM far WHERE n > 1", day),
            ("SELECT [CAST(n AS DATE)] AS day FROM far WHERE n > 1", day),
            ("SELECT day FROM days ORDER BY day DESC", day),
            (
                "SELECT to_timestamp_micros(s) AS at FROM far WHERE n > 1",
                instant,
            ),
            ("SELECT last FROM days WHERE day > '2001-01-01'", instant),
        ] {
            let path = format!("/v1/sql?format={format}&after={after}");
            let problem = refused(&calls, Method::POST, &path, &[TEXT], sql, (400, said)).await;
            assert!(problem["column"].is_string(), "{problem}");
        }
        for (filters, said) in [("order=-day", day), ("columns=last&order=-n", instant)] {
            let path = format!("/v1/views/days?format={format}&after={after}&{filters}");
            let answer = calls.call(Method::GET, &path, &[], vec![]).await.unwrap();
            assert!(
                answer.1["detail"]
                    .as_str()
                    .is_some_and(|detail| detail.contains(said)),
                "{answer:?}"
            );
        }
        // The first rows are on their way when the last one is met.
        let sql = "SELECT CAST(n AS DATE) AS day, repeat_of FROM (SELECT n, _offset, 'a text that fills the first part of an answer' AS repeat_of FROM far) ORDER BY _offset";
        let path = format!("/v1/sql?format={format}&after={after}");
        let cut = calls.call(Method::POST, &path, &[TEXT], sql.as_bytes().to_vec());
        assert_eq!(cut.await, None, "{format}");
    }
    // What is computed of it says so, too, and as numbers everything is answered.
    let sql = "SELECT CAST(CAST(n AS DATE) AS VARCHAR) AS day FROM far WHERE n > 1";
    let expected = (
        400,
        "a date or time whose number is 2147483647 lies outside the calendar",
    );
    let path = format!("/v1/sql?after={after}");
    refused(&calls, Method::POST, &path, &[TEXT], sql, expected).await;
    let sql = "SELECT CAST(day AS BIGINT) AS day, CAST(last AS BIGINT) AS last FROM days WHERE day > '2001-01-01'";
    let rows = calls.rows(sql, json!({"after": after})).await.unwrap();
    assert_eq!(rows, [json!({"day": i32::MAX, "last": i64::MAX})]);
    for format in ["arrow", "parquet"] {
        let path = format!("/v1/views/days?format={format}&after={after}&order=day");
        let (status, _) = calls.call(Method::GET, &path, &[], vec![]).await.unwrap();
        assert_eq!(status, 200, "{format}");
    }
    let path = format!("/v1/views/days?format=arrow&after={after}&order=-day&limit=1");
    refused(&calls, Method::GET, &path, &[], "", (400, day)).await;
    // A diff shows the number, so that what is wrong can be seen and repaired.
    let exclusion = json!({"where": "n > 1", "reason": "a date in no year"});
    let (status, _) = calls
        .post("/v1/streams/far/exclusions", &exclusion)
        .await
        .unwrap();
    assert_eq!(status, 201);
    let run = calls
        .recompute("days", &json!({"dry_run": true}))
        .await
        .unwrap();
    let diff = calls
        .get(&format!("/v1/runs/{}/diff", run["id"]))
        .await
        .unwrap();
    assert_eq!(
        diff["largest"][0]["key"],
        json!({"day": i32::MAX}),
        "{diff}"
    );
    assert_eq!(
        diff["largest"][0]["before"]["last"],
        json!(i64::MAX),
        "{diff}"
    );
}

#[tokio::test]
async fn a_token_says_which_stream_and_how_far() {
    let home = tempfile::tempdir().unwrap();
    let (_server, calls) = declared(home.path()).await;
    let position = async |stream: &str| {
        let path = format!("/v1/streams/{stream}");
        let (_, stream) = calls.call(Method::GET, &path, &[], vec![]).await.unwrap();
        stream["position"].as_str().unwrap().to_owned()
    };
    let (ours, other) = (position("events").await, position("others").await);
    let rows = async |after: &str, expected| {
        let path = format!("/v1/views/sums?timeout_ms=300&after={after}");
        refused(&calls, Method::GET, &path, &[], "", expected).await
    };
    rows(&other, (400, "but the question does not read that stream")).await;
    let id = ours.split(['~', ':']).nth(1).unwrap();
    let said = format!("but the stream with the id `{id}` is `events`: give a token as");
    for name in ["others", "nobody"] {
        let renamed = ours.replace("events~", &format!("{name}~"));
        let problem = rows(&renamed, (400, &said)).await;
        assert_eq!(problem["after"], json!(renamed));
    }
    let none = ours.replace("0@0", "7@5");
    let problem = rows(&none, (400, "that stream has no partition 7")).await;
    assert_eq!(problem["after"], json!(none));
    let ahead = ours.replace("@0", "@99");
    let begun = Instant::now();
    let problem = rows(&ahead, (408, "waited 300 ms for")).await;
    assert!(begun.elapsed().as_millis() >= 300);
    assert_eq!(
        (&problem["awaited"], &problem["reached"]),
        (&json!(ahead), &json!(ours))
    );
}

#[tokio::test]
async fn a_run_that_cannot_be_promoted_says_why() {
    let home = tempfile::tempdir().unwrap();
    let (_server, calls) = declared(home.path()).await;
    let staged = async || {
        let run = calls
            .recompute("sums", &json!({"dry_run": true}))
            .await
            .unwrap();
        assert_eq!(run["outcome"], "staged", "{run}");
        format!("/v1/runs/{}", run["id"])
    };
    let discarded = staged().await;
    let (status, run) = calls
        .post(&format!("{discarded}/discard"), &Value::Null)
        .await
        .unwrap();
    assert_eq!((status, &run["outcome"]), (200, &json!("discarded")));
    let promote = format!("{discarded}/promote");
    let expected = (409, "is discarded, not staged: `dovetail runs");
    refused(&calls, Method::POST, &promote, &[], "", expected).await;
    let diff = format!("{discarded}/diff");
    let expected = (409, "has no diff: it was discarded");
    refused(&calls, Method::GET, &diff, &[], "", expected).await;

    let stale = staged().await;
    let never = json!({"where": "n / 0 = 1", "reason": "a slip"});
    let (status, problem) = calls
        .post("/v1/streams/events/exclusions", &never)
        .await
        .unwrap();
    let said = problem["detail"].as_str().unwrap();
    assert!(
        status == 400 && said.contains("it divides by 0"),
        "{problem}"
    );
    let never = json!({"mode": "repair", "where": "1 / 0 = 1"});
    let (status, problem) = calls
        .post("/v1/views/sums/recompute", &never)
        .await
        .unwrap();
    let said = problem["detail"].as_str().unwrap();
    assert!(
        status == 400 && said.contains("`1 / 0 = 1`") && said.contains("it fails for every row"),
        "{problem}"
    );
    let exclusion = json!({"where": "n = 7", "reason": "a broken clock"});
    let (status, _) = calls
        .post("/v1/streams/events/exclusions", &exclusion)
        .await
        .unwrap();
    assert_eq!(status, 201);
    let promote = format!("{stale}/promote");
    let expected = (
        409,
        "is stale: the stream's exclusions have changed since it started; discard it and start a new one",
    );
    refused(&calls, Method::POST, &promote, &[], "", expected).await;
}

#[tokio::test]
async fn a_start_that_cannot_be_says_what_is_in_its_way() {
    let home = tempfile::tempdir().unwrap();
    let (server, _) = declared(home.path()).await;
    let used = home.path().join("data");
    let free = home.path().join("free");
    let (used, free) = (used.to_str().unwrap(), free.to_str().unwrap());
    let address = server.url().strip_prefix("http://").unwrap();

    let taken = run(&["up", "--data", free, "--listen", address], b"").await;
    assert_eq!(taken.code, 1);
    let expected = format!("cannot listen on `{address}`");
    assert!(
        taken.err.contains(&expected) && taken.err.contains("choose another --listen"),
        "{}",
        taken.err
    );

    let held = run(&["up", "--data", used, "--listen", "127.0.0.1:0"], b"").await;
    assert_eq!(held.code, 1);
    let expected = format!("data directory `{used}` is in use by process ");
    assert!(
        held.err.contains(&expected) && held.err.contains("stop it or choose another --data"),
        "{}",
        held.err
    );

    server.kill().await;
    std::fs::write(home.path().join("data/format"), "9\n").unwrap();
    let newer = run(&["up", "--data", used, "--listen", "127.0.0.1:0"], b"").await;
    assert_eq!(newer.code, 1);
    assert!(
        newer
            .err
            .contains("has format 9, this version reads up to 1; use a newer dovetail"),
        "{}",
        newer.err
    );
}

/// Nobody waits for what would take minutes, and nothing goes on with it.
#[tokio::test]
async fn what_is_too_wide_to_plan_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let (_server, calls) = declared(home.path()).await;
    let list =
        |n: usize, item: fn(usize) -> String| (0..n).map(item).collect::<Vec<_>>().join(", ");
    let columns = list(100_000, |i| format!("c{i} INT"));
    let sums = list(50_000, |i| format!("sum(n + {i}) AS s{i}"));
    let added = list(1000, |i| format!("ADD COLUMN c{i} INT"));
    for (sql, said) in [
        (
            format!("CREATE STREAM wide ({columns})"),
            "at most 1000 columns",
        ),
        (
            format!("ALTER STREAM events {added}"),
            "at most 1000 columns",
        ),
        (
            format!("CREATE VIEW wide AS SELECT {sums} FROM events"),
            "at most 1000 columns",
        ),
        (format!("SELECT {sums} FROM events"), "at most 20000"),
        (
            format!("SELECT {} FROM events", list(2001, |_| "n".to_owned())),
            "at most 2000",
        ),
    ] {
        let (status, problem) = calls.post("/v1/sql", &json!({"sql": sql})).await.unwrap();
        let detail = problem["detail"].as_str().unwrap();
        assert!(status == 400 && detail.contains(said), "{status}: {detail}");
    }
}

/// Some editors put one before every text that they save.
#[tokio::test]
async fn a_byte_order_mark_before_a_text_is_no_part_of_it() {
    const MARK: &str = "\u{feff}";
    let home = tempfile::tempdir().unwrap();
    let (_server, calls) = declared(home.path()).await;
    let json = ("content-type", "application/json");
    let file = format!("{MARK}CREATE STREAM events (x INT)");
    let plan = json!({"files": [{"name": "a.sql", "sql": file}]}).to_string();
    for (path, header, body, status) in [
        ("/v1/streams/events", NDJSON, GOOD.to_owned(), 200),
        ("/v1/streams/events", json, format!("[{GOOD}]"), 200),
        ("/v1/sql", TEXT, "SELECT n FROM events".to_owned(), 200),
        (
            "/v1/sql",
            json,
            r#"{"sql": "SELECT n FROM events"}"#.to_owned(),
            200,
        ),
        ("/v1/views/sums/recompute", json, "{}".to_owned(), 202),
        // What the file says is read: a column that is there cannot go.
        ("/v1/plan", json, plan, 409),
    ] {
        let body = format!("{MARK}{body}");
        let headers = [header];
        let sent = calls.call(Method::POST, path, &headers, body.clone().into_bytes());
        let (found, answer) = sent.await.unwrap();
        assert_eq!(found, status, "{path} {body}: {answer}");
    }
}
