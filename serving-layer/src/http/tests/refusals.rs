// SPDX-License-Identifier: Apache-2.0
//! What the API answers when it is asked badly: always a problem document that says what to change.

use super::*;

/// `method uri`, headers, body, status, a part of the detail.
type Case = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static str,
    u16,
    &'static str,
);

const CASES: &[Case] = &[
    // Routes and methods.
    ("GET /", &[], "", 404, "there is no `/`"),
    ("GET /v1/nope", &[], "", 404, "`/v1/nope`"),
    ("GET /v1/sql/", &[], "", 404, "`/v1/sql/`"),
    (
        "DELETE /v1/sql",
        &[],
        "",
        405,
        "`/v1/sql` does not answer DELETE",
    ),
    ("PUT /v1/streams/flights", &[], "", 405, "PUT"),
    ("GET /v1/streams/%ff", &[], "", 400, "utf-8"),
    // Query strings.
    (
        "GET /v1/status?verbose=1",
        &[],
        "",
        400,
        "there is no parameter `verbose`; there are none here",
    ),
    (
        "GET /v1/sql?q=SELECT+1&limit=5",
        &[],
        "",
        400,
        "there is no parameter `limit`; there are format, after, layer, generation, timeout_ms, q",
    ),
    (
        "GET /v1/sql",
        &[],
        "",
        400,
        "parameter `q`: give a statement",
    ),
    ("GET /v1/sql?q=", &[], "", 400, "parameter `q`: it is empty"),
    (
        "GET /v1/sql?q=%zz",
        &[],
        "",
        400,
        "not percent-encoded UTF-8",
    ),
    (
        "GET /v1/sql?q=SELECT+1&q=SELECT+2",
        &[],
        "",
        400,
        "given twice",
    ),
    (
        "GET /v1/sql?q=SELECT+1&format=xml",
        &[],
        "",
        400,
        "parameter `format`: `xml` is not a format",
    ),
    (
        "GET /v1/sql?q=SELECT+1&after=nonsense",
        &[],
        "",
        400,
        "`nonsense` is not a position token",
    ),
    (
        "GET /v1/sql?q=SELECT+1&timeout_ms=-1",
        &[],
        "",
        400,
        "parameter `timeout_ms`",
    ),
    (
        "GET /v1/runs?outcome=lost",
        &[],
        "",
        400,
        "`lost` is not one of running",
    ),
    ("GET /v1/runs?limit=0", &[], "", 400, "from 1 to 1000"),
    (
        "GET /v1/runs/abc",
        &[],
        "",
        400,
        "`abc` is not a batch run's number; `GET /v1/runs` and `dovetail runs` list them",
    ),
    // Of a number there is one spelling.
    (
        "GET /v1/runs/+1",
        &[],
        "",
        400,
        "`+1` is not a batch run's number",
    ),
    (
        "POST /v1/runs/%201/promote",
        &[],
        "",
        400,
        "` 1` is not a batch run's number",
    ),
    (
        "GET /v1/runs/%D9%A1",
        &[],
        "",
        400,
        "is not a batch run's number",
    ),
    (
        "DELETE /v1/streams/flights/exclusions/+1",
        &[],
        "",
        400,
        "`+1` is not an exclusion's number",
    ),
    ("GET /v1/runs?limit=%2B1", &[], "", 400, "from 1 to 1000"),
    (
        "GET /v1/streams/flights/dead-letters?cursor=%2B0@5",
        &[],
        "",
        400,
        "`partition@offset`",
    ),
    (
        "GET /v1/streams/flights/dead-letters?cursor=5",
        &[],
        "",
        400,
        "`partition@offset`",
    ),
    (
        "POST /v1/streams/flights?errors=ignore",
        &[NDJSON],
        "{}",
        400,
        "use reject or dead-letter",
    ),
    (
        "POST /v1/streams/flights?format=csv",
        &[NDJSON],
        "{}",
        400,
        "there is no parameter `format`; there are errors",
    ),
    // Accept.
    (
        "GET /v1/sql?q=SELECT+1",
        &[("accept", "text/html")],
        "",
        406,
        "application/vnd.apache.parquet",
    ),
    (
        "GET /v1/sql?q=SELECT+1",
        &[("accept", "bogus")],
        "",
        406,
        "(`bogus` is not a media range)",
    ),
    // Statements.
    (
        "GET /v1/sql?q=SELECT+1;+SELECT+2",
        &[],
        "",
        400,
        "a second statement",
    ),
    ("GET /v1/sql?q=SELEC+1", &[], "", 400, "line 1, column 1"),
    (
        "GET /v1/sql?q=DROP+STREAM+s",
        &[],
        "",
        400,
        "`DROP STREAM` changes what there is, and GET is read-only: use POST",
    ),
    (
        "POST /v1/sql",
        &[TEXT],
        "SET x = 1",
        400,
        "`SET` is not supported",
    ),
    ("POST /v1/sql", &[TEXT], "", 400, "there is no statement"),
    (
        "POST /v1/sql",
        &[TEXT],
        "CREATE STREAM taken (x INT)",
        409,
        "exists already",
    ),
    (
        "POST /v1/sql",
        &[TEXT],
        "DESCRIBE nothing",
        404,
        "there is no stream or view `nothing`",
    ),
    (
        "POST /v1/sql?layer=batch",
        &[TEXT],
        "SHOW STREAMS",
        400,
        "parameter `layer`: only a query takes it",
    ),
    (
        "POST /v1/sql",
        &[TEXT],
        "SELECT * FROM fails_early",
        400,
        "something is wrong",
    ),
    (
        "POST /v1/sql",
        &[TEXT],
        "SELECT * FROM building",
        503,
        "building",
    ),
    (
        "POST /v1/sql",
        &[TEXT],
        "SELECT * FROM broken",
        500,
        "the disk is on fire",
    ),
    (
        "POST /v1/sql",
        &[TEXT],
        "SELECT * FROM panics",
        500,
        "its log says more",
    ),
    (
        "POST /v1/sql?timeout_ms=30",
        &[TEXT],
        "SELECT * FROM stuck_rows",
        408,
        "longer than 30 ms: raise `timeout_ms`",
    ),
    (
        "POST /v1/sql?timeout_ms=30",
        &[TEXT],
        "SELECT * FROM stuck_plan",
        408,
        "longer than 30 ms",
    ),
    // Bodies of statements.
    (
        "POST /v1/sql",
        &[("content-type", "text/html")],
        "SELECT 1",
        415,
        "use `application/json` or `text/plain`",
    ),
    (
        "POST /v1/sql",
        &[(
            "content-type",
            "application/x-www-form-urlencoded; charset=latin1",
        )],
        "SELECT 1",
        415,
        "charset `latin1`",
    ),
    ("POST /v1/sql", &[], "{\"sql\": }", 400, "line 1 column 9"),
    (
        "POST /v1/streams/flights",
        &[("content-type", "application/x-www-form-urlencoded")],
        "a,b\n1,2\n",
        415,
        "begins with neither `{` nor `[`: use `application/x-ndjson`",
    ),
    ("POST /v1/streams/flights", &[], "  \n", 415, "`text/csv`"),
    (
        "POST /v1/sql",
        &[("content-type", "text/plain; charset=latin1")],
        "SELECT 1",
        415,
        "charset `latin1`",
    ),
    ("POST /v1/sql", &[JSON], "", 400, "line 1 column 0"),
    (
        "POST /v1/sql",
        &[JSON],
        "{\n  \"sql\": }",
        400,
        "line 2 column 10",
    ),
    (
        "POST /v1/sql",
        &[JSON],
        "{\"sql\": \"SELECT 1\"",
        400,
        "EOF while parsing",
    ),
    (
        "POST /v1/sql",
        &[JSON],
        "[]",
        400,
        "the body is an array: send a JSON object",
    ),
    ("POST /v1/sql", &[JSON], "{}", 400, "missing field `sql`"),
    (
        "POST /v1/sql",
        &[JSON],
        "{\"sql\": \"SELECT 1\", \"limit\": 5}",
        400,
        "unknown field `limit`, expected one of `sql`, `parameters`",
    ),
    (
        "POST /v1/sql",
        &[JSON],
        "{\"sql\": 1}",
        400,
        "invalid type: integer",
    ),
    (
        "POST /v1/sql",
        &[JSON],
        "{\"sql\": \"SELECT 1\", \"layer\": \"speed\"}",
        400,
        "unknown variant `speed`",
    ),
    (
        "POST /v1/sql",
        &[JSON],
        "{\"sql\": \"SELECT 1\", \"timeout_ms\": 99999999}",
        400,
        "from 1 to 3600000",
    ),
    (
        "POST /v1/sql",
        &[JSON],
        "{\"sql\": \"SELECT 1\", \"parameters\": 5}",
        400,
        "must be an array for `$1`",
    ),
    (
        "POST /v1/sql",
        &[JSON],
        "{\"sql\": \"SELECT 1\", \"parameters\": [[1]]}",
        400,
        "parameter `$1` must be",
    ),
    (
        "POST /v1/sql?layer=batch",
        &[JSON],
        "{\"sql\": \"SELECT 1\", \"layer\": \"batch\"}",
        400,
        "in the query string and in the body",
    ),
    // Rows.
    (
        "GET /v1/views/nope",
        &[],
        "",
        404,
        "there is no view `nope`",
    ),
    (
        "GET /v1/views/airport_delays?orign=SFO",
        &[],
        "",
        400,
        "no column `orign`; its columns are origin, hour, flights",
    ),
    (
        "GET /v1/views/airport_delays?flights.ne=5",
        &[],
        "",
        400,
        "no column `flights.ne`; its columns are origin, hour, flights; a filter reads `column=value`",
    ),
    (
        "GET /v1/views/airport_delays?origin=SFO&origin.eq=LAX",
        &[],
        "",
        400,
        "column `origin` is filtered twice: for one of several values write `origin.in=a,b`",
    ),
    // What a column that is not there is filtered by is no matter.
    (
        "GET /v1/views/airport_delays?orign=SFO&orign=LAX",
        &[],
        "",
        400,
        "view `airport_delays` has no column `orign`; its columns are origin, hour, flights; a filter reads `column=value`",
    ),
    (
        "GET /v1/views/airport_delays?flights.gte=1&flights.gte=2",
        &[],
        "",
        400,
        "column `flights` is filtered twice: all filters hold at once, so keep the narrower bound",
    ),
    (
        "GET /v1/views/airport_delays?origin.in=SFO&origin.in=LAX",
        &[],
        "",
        400,
        "for one of several values write `origin.in=a,b`",
    ),
    (
        "GET /v1/views/airport_delays?origin.is=null&origin.is=null",
        &[],
        "",
        400,
        "column `origin` is filtered twice: keep one",
    ),
    (
        "GET /v1/views/airport_delays?origin=SFO&origin.is=null",
        &[],
        "",
        400,
        "column `origin` is filtered twice: all filters hold at once, and no row is both `origin.is=null` and in another filter of `origin`; keep one, or ask in SQL with OR",
    ),
    (
        "GET /v1/views/airport_delays?limit=1&limit=2",
        &[],
        "",
        400,
        "parameter `limit`: it is given twice",
    ),
    (
        "GET /v1/views/airport_delays?origin.is=SFO",
        &[],
        "",
        400,
        "`SFO` is neither `null` nor `not_null`",
    ),
    (
        "GET /v1/views/airport_delays?columns=origin,,hour",
        &[],
        "",
        400,
        "has an empty name",
    ),
    (
        "GET /v1/views/airport_delays?order=nope",
        &[],
        "",
        400,
        "no column `nope`",
    ),
    (
        "GET /v1/views/airport_delays?limit=10001",
        &[],
        "",
        400,
        "from 1 to 10000",
    ),
    (
        "GET /v1/views/airport_delays?cursor=00",
        &[],
        "",
        400,
        "not one that a page gave",
    ),
    (
        "GET /v1/views/airport_delays?hour.gte=noon",
        &[],
        "",
        400,
        "`noon` is not a TIMESTAMP",
    ),
    (
        "GET /v1/views/airport_delays?origin.in=%22a",
        &[],
        "",
        400,
        "parameter `origin.in`",
    ),
    // Events.
    (
        "POST /v1/streams/nope",
        &[NDJSON],
        "{}",
        404,
        "there is no stream `nope`",
    ),
    (
        "POST /v1/streams/flights",
        &[("content-type", "application/vnd.apache.parquet")],
        "PAR1",
        415,
        "is not read",
    ),
    (
        "POST /v1/streams/flights",
        &[NDJSON],
        "",
        400,
        "the body is empty",
    ),
    (
        "POST /v1/streams/flights",
        &[NDJSON, ("content-encoding", "br")],
        "{}",
        415,
        "send gzip, zstd or none",
    ),
    (
        "POST /v1/streams/flights",
        &[NDJSON, ("content-encoding", "gzip")],
        "{}",
        400,
        "the body is not gzip, although `Content-Encoding` says so",
    ),
    (
        "POST /v1/streams/flights",
        &[NDJSON, ("idempotency-key", "a b")],
        "{}",
        400,
        "visible ASCII",
    ),
    (
        "POST /v1/streams/flights",
        &[NDJSON, ("idempotency-key", "")],
        "{}",
        400,
        "visible ASCII",
    ),
    (
        "POST /v1/streams/flights",
        &[NDJSON, ("idempotency-key", "a"), ("idempotency-key", "b")],
        "{}",
        400,
        "one text",
    ),
    (
        "POST /v1/streams/flights/dead-letters/replay",
        &[JSON],
        "{\"ids\": [\"x\"]}",
        400,
        "`x` is not a dead letter's id",
    ),
    // Control.
    (
        "POST /v1/views/v/recompute",
        &[JSON],
        "{\"mode\": \"quick\"}",
        400,
        "unknown variant `quick`",
    ),
    (
        "POST /v1/views/v/recompute",
        &[JSON],
        "{\"from\": \"2001-01-01\"}",
        400,
        "are for mode repair, and this is full",
    ),
    (
        "POST /v1/views/v/recompute",
        &[JSON],
        "{\"mode\": \"repair\", \"from\": \"yesterday\"}",
        400,
        "`from` is `yesterday`",
    ),
    (
        "POST /v1/views/v/recompute",
        &[JSON],
        "{\"mode\": \"repair\", \"from\": \"2001-01-02\", \"to\": \"2001-01-02\"}",
        400,
        "`from` must be before `to`",
    ),
    (
        "POST /v1/views/v/recompute",
        &[JSON],
        "{\"mode\": \"incremental\", \"dry_run\": true}",
        400,
        "nothing to stage",
    ),
    (
        "POST /v1/views/v/recompute",
        &[JSON],
        "{\"mode\": \"repair\", \"where\": \" \"}",
        400,
        "the predicate is empty",
    ),
    (
        "POST /v1/views/v/rollback",
        &[JSON],
        "{\"generation\": \"one\"}",
        400,
        "invalid type: string",
    ),
    (
        "POST /v1/views/v/rollback",
        &[TEXT],
        "{}",
        415,
        "use `application/json`",
    ),
    (
        "POST /v1/streams/flights/exclusions",
        &[JSON],
        "{\"where\": \"x\"}",
        400,
        "missing field `reason`",
    ),
    (
        "POST /v1/streams/flights/exclusions",
        &[JSON],
        "{\"where\": \"\", \"reason\": \"y\"}",
        400,
        "must say something",
    ),
    (
        "POST /v1/streams/flights/exclusions",
        &[JSON],
        "",
        400,
        "the body is empty: send a JSON object",
    ),
    (
        "DELETE /v1/streams/flights/exclusions/x",
        &[],
        "",
        400,
        "not an exclusion's number",
    ),
    (
        "POST /v1/plan",
        &[JSON],
        "{\"files\": [{\"name\": \"a.sql\", \"sql\": \"SELECT 1\"}]}",
        400,
        "a.sql: line 1, column 1: a definition file holds",
    ),
    (
        "POST /v1/plan",
        &[JSON],
        "{\"files\": [{\"name\": \"a.sql\", \"sql\": \"CREATE STREAM s (x INT)\"}, {\"name\": \"b.sql\", \"sql\": \"\\nCREATE STREAM s (x INT)\"}]}",
        400,
        "b.sql: line 2: `s` is declared in a.sql line 1 already",
    ),
];

#[tokio::test]
async fn every_bad_request_is_a_problem_document() {
    let router = open(&Fake::default());
    for (line, headers, body, status, part) in CASES {
        let (method, uri) = line.split_once(' ').unwrap();
        let reply = send(&router, request(method, uri, headers, *body)).await;
        assert_eq!(reply.status.as_u16(), *status, "{line}\n{}", reply.text());
        reply.is_problem(*status, part);
        assert_eq!(reply.header("cache-control"), "no-store", "{line}");
    }
}

#[tokio::test]
async fn members_and_headers_help_programs() {
    let router = open(&Fake::default());
    let reply = post(&router, "/v1/sql", "{\n\"sql\": }").await;
    let json = reply.json();
    assert_eq!((&json["line"], &json["column"]), (&2.into(), &8.into()));
    let sql = "CREATE VIEW misspelt AS\nSELECT sum(dealy) FROM flights";
    let reply = send(&router, request("POST", "/v1/sql", &[TEXT], sql)).await;
    reply.is_problem(400, "line 2, column 12: there is no column `dealy`");
    let json = reply.json();
    assert_eq!((&json["line"], &json["column"]), (&2.into(), &12.into()));
    let reply = send(&router, request("DELETE", "/v1/sql", &[], "")).await;
    let allowed: Vec<&str> = reply.header("allow").split(',').map(str::trim).collect();
    assert!(
        allowed.contains(&"GET") && allowed.contains(&"POST"),
        "{allowed:?}"
    );
    let reply = get(&router, "/v1/sql?q=SELECT+*+FROM+building").await;
    assert_eq!(
        (reply.header("retry-after"), &reply.json()["progress"]),
        ("13", &0.5.into())
    );
    let reply = get(&router, "/v1/views/airport_delays?x=1").await;
    assert_eq!(reply.json()["column"], "x");
}

#[tokio::test]
async fn an_answer_that_fails_late_breaks_off() {
    let router = open(&Fake::default());
    for format in ["json", "ndjson", "csv", "arrow", "parquet"] {
        for table in ["fails_late", "stuck_late"] {
            let uri = format!("/v1/sql?q=SELECT+*+FROM+{table}&format={format}&timeout_ms=300");
            let reply = get(&router, &uri).await;
            if format == "parquet" {
                // Its first row group is not full before the failure: still time for a proper status.
                assert!([400, 408].contains(&reply.status.as_u16()), "{uri}");
            } else {
                assert_eq!(reply.status, 200, "{uri}");
                assert!(reply.body.is_err(), "{uri} must not end cleanly");
            }
        }
    }
}

#[tokio::test]
async fn a_stranger_in_the_browser_is_refused() {
    let router = open(&Fake::default());
    let ask = async |headers: &[(&str, &str)]| {
        let mut request = Request::builder().method("POST").uri("/v1/sql");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        send(&router, request.body(Body::from("DROP STREAM s")).unwrap()).await
    };
    ask(&[TEXT, ("host", "evil.example")])
        .await
        .is_problem(403, "`Host` is `evil.example`");
    ask(&[TEXT]).await.is_problem(403, "`Host`");
    let headers = [
        TEXT,
        ("host", "localhost"),
        ("origin", "http://evil.example"),
    ];
    ask(&headers)
        .await
        .is_problem(403, "`Origin` is `http://evil.example`");
    let headers = [
        TEXT,
        ("host", "localhost:1"),
        ("origin", "http://localhost:1"),
    ];
    assert_eq!(ask(&headers).await.status, 200);
    // A form of any page may post this without asking first.
    const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
    let host = ("host", "localhost:8080");
    for foreign in [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        ask(&[FORM, host, foreign])
            .await
            .is_problem(403, "only pages of this server may call it");
    }
    assert_eq!(ask(&[FORM, host]).await.status, 200);
    let ours = [FORM, host, ("sec-fetch-site", "same-origin")];
    assert_eq!(ask(&ours).await.status, 200);
}
