// SPDX-License-Identifier: Apache-2.0
//! What the API answers when it is asked well.

use std::io::Write;

use serde_json::json;

use super::*;

#[tokio::test]
async fn a_query_is_answered_with_its_provenance() {
    let fake = Fake::default();
    let router = open(&fake);
    let reply = post(
        &router,
        "/v1/sql",
        r#"{"sql": "SELECT * FROM v;", "parameters": [1, "x", null, true, 1.5], "after": "flights~k3f:0@9", "layer": "batch", "generation": 2, "timeout_ms": 500}"#,
    )
    .await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), "application/json");
    assert_eq!(reply.header("dovetail-generation"), "2");
    assert_eq!(reply.header("dovetail-position"), "flights~k3f:0@1234");
    assert_eq!(reply.header("dovetail-freshness-ms"), "7");
    assert_eq!(reply.header("dovetail-holes"), "flights:0@20..25");
    assert_eq!(reply.header("cache-control"), "no-store");
    let expected = r#"{"columns":[{"name":"origin","type":"VARCHAR"},{"name":"hour","type":"TIMESTAMP"},{"name":"flights","type":"BIGINT"}],"rows":[
{"origin":"SFO","hour":"2001-01-01T00:00:00","flights":0},
{"origin":"LAX","hour":"2001-01-01T01:00:00","flights":1},
{"origin":"JFK","hour":"2001-01-01T02:00:00","flights":4},
{"origin":null,"hour":"2001-01-01T03:00:00","flights":9}],
"provenance":{"streams":[{"stream":"flights","id":"k3f","position":"flights~k3f:0@1234","freshness_ms":7,"holes":[{"partition":0,"from":20,"to":25}]}],"views":[{"view":"airport_delays","id":"v1","stream":"flights","generation":2,"horizon":"flights~k3f:0@1000","layer":"batch","runs":2}]}}
"#;
    assert_eq!(reply.text(), expected);
    let calls = fake.calls().join("\n");
    for part in [
        "query SELECT * FROM v Some(",
        "Int64(1)",
        "Utf8(\"x\")",
        "Boolean(true)",
        "Float64(1.5)",
        "after=[\"flights~k3f:0@9\"] layer=batch generation=Some(GenerationNumber(2)) timeout=500",
    ] {
        assert!(calls.contains(part), "{part}: {calls}");
    }
}

#[tokio::test]
async fn the_same_query_in_other_ways() {
    let fake = Fake::default();
    let router = open(&fake);
    let reply = get(
        &router,
        "/v1/sql?q=SELECT+*+FROM+v&format=csv&layer=batch&timeout_ms=9",
    )
    .await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.header("content-type"),
        "text/csv; charset=utf-8; header=present"
    );
    assert_eq!(reply.text().lines().next(), Some("origin,hour,flights"));
    assert!(fake.calls()[0].ends_with("layer=batch generation=None timeout=9"));

    let headers = [TEXT, ("accept", "application/x-ndjson")];
    let sql = "-- how many\nEXPLAIN SELECT * FROM v\n";
    let reply = send(
        &router,
        request("POST", "/v1/sql?after=flights~k3f:0@3", &headers, sql),
    )
    .await;
    assert_eq!(reply.text().lines().count(), 4);
    assert!(fake.calls()[0].contains("after=[\"flights~k3f:0@3\"]"));

    let named = r#"{"sql": "SELECT $a FROM v", "parameters": {"a": "b"}}"#;
    assert_eq!(post(&router, "/v1/sql", named).await.status, 200);
    assert!(fake.calls()[0].contains("Map("));

    let reply = get(&router, "/v1/sql?q=SELECT+1+FROM+nothing").await;
    assert_eq!(reply.header("dovetail-generation"), "none");
    assert_eq!(reply.header("dovetail-position"), "none");
    assert_eq!(reply.header("dovetail-freshness-ms"), "0");
    assert_eq!(reply.json()["rows"], json!([]));
}

#[tokio::test]
async fn a_long_answer_comes_in_every_format() {
    let fake = Fake::default();
    let router = open(&fake);
    let ask = async |format: &str| {
        get(
            &router,
            &format!("/v1/sql?q=SELECT+*+FROM+large&format={format}"),
        )
        .await
    };
    assert_eq!(
        ask("json").await.json()["rows"].as_array().unwrap().len(),
        150_000
    );
    assert_eq!(ask("ndjson").await.text().lines().count(), 150_000);
    assert_eq!(ask("csv").await.text().lines().count(), 150_001);
    let arrow = ask("arrow").await.body.unwrap();
    let reader =
        arrow::ipc::reader::StreamReader::try_new(std::io::Cursor::new(arrow), None).unwrap();
    assert_eq!(
        reader.map(|b| b.unwrap().num_rows()).sum::<usize>(),
        150_000
    );
    let parquet = ask("parquet").await.body.unwrap();
    let builder =
        parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(parquet).unwrap();
    assert_eq!(builder.metadata().file_metadata().num_rows(), 150_000);
}

#[tokio::test]
async fn statements_other_than_queries_answer_tables_too() {
    let fake = Fake::default();
    let router = open(&fake);
    let rows = async |sql: &str| {
        let reply = send(&router, request("POST", "/v1/sql", &[TEXT], sql.to_owned())).await;
        assert_eq!(reply.status, 200, "{sql}: {}", reply.text());
        reply.json()["rows"].clone()
    };
    let created = rows("CREATE STREAM s (x INT);").await;
    assert_eq!(
        created,
        json!([{"statement": "CREATE STREAM", "name": "s", "result": "created", "note": "building"}])
    );
    assert_eq!(fake.calls(), ["execute CREATE STREAM s"]);
    assert_eq!(rows("SHOW STREAMS").await[0]["dead_letters"], 2);
    assert_eq!(rows("SHOW STREAMS").await[0]["holes"], "0@20..25");
    assert_eq!(rows("SHOW VIEWS").await[0]["phase"], "live");
    assert_eq!(rows("SHOW RUNS").await[0]["outcome"], "running");
    assert_eq!(
        rows("DESCRIBE flights").await,
        json!([
            {"column": "date", "type": "TIMESTAMP", "nullable": true, "key": false,
             "note": "event time, a number in events counts ms", "unknown_columns": "reject", "holes": "0@20..25"},
            {"column": "delay", "type": "INT", "nullable": true, "key": false,
             "note": null, "unknown_columns": "reject", "holes": "0@20..25"},
        ])
    );
    assert_eq!(
        rows("SHOW TABLES").await,
        json!([{"name": "airport_delays", "kind": "view"}, {"name": "flights", "kind": "stream"}])
    );
    assert_eq!(
        rows("DESCRIBE airport_delays").await[1],
        json!({"column": "hour", "type": "TIMESTAMP", "nullable": false, "key": true})
    );
    let definition = rows("SHOW CREATE VIEW airport_delays").await;
    assert_eq!(
        definition[0]["definition"],
        "CREATE VIEW airport_delays AS SELECT …;"
    );
    assert_eq!(get(&router, "/v1/sql?q=show+streams").await.status, 200);
}

#[tokio::test]
async fn rows_by_rest_are_filtered_sorted_and_paged() {
    let fake = Fake::default();
    let router = open(&fake);
    let uri = "/v1/views/airport_delays?origin.in=SFO,JFK&hour.gte=2001-01-01T04:00:00&flights.lt=400&order=-flights&columns=origin&limit=3";
    let mut seen = Vec::new();
    let mut next = String::new();
    loop {
        let reply = get(&router, &format!("{uri}{next}")).await;
        let json = reply.json();
        assert_eq!(reply.status, 200, "{json}");
        assert_eq!(
            json["columns"],
            json!([{"name": "origin", "type": "VARCHAR"}])
        );
        let rows = json["rows"].as_array().unwrap();
        assert!(rows.len() <= 3);
        seen.extend(
            rows.iter()
                .map(|r| r["origin"].as_str().unwrap().to_owned()),
        );
        let Some(cursor) = json["cursor"].as_str() else {
            assert_eq!(reply.header("dovetail-cursor"), "");
            assert!(json["cursor"].is_null());
            break;
        };
        assert_eq!(reply.header("dovetail-cursor"), cursor);
        next = format!("&cursor={cursor}");
    }
    // Rows 4 to 19 of the table that are SFO (4, 8, 12, 16) or JFK (6, 10, 14, 18), latest first.
    assert_eq!(
        seen,
        ["JFK", "SFO", "JFK", "SFO", "JFK", "SFO", "JFK", "SFO"]
    );

    let reply = get(&router, "/v1/views/airport_delays?flights=25&format=ndjson").await;
    assert_eq!(
        reply.text(),
        "{\"origin\":\"LAX\",\"hour\":\"2001-01-01T05:00:00\",\"flights\":25}\n"
    );
    let reply = get(
        &router,
        "/v1/views/airport_delays?origin=SFO&generation=2&after=flights~k3f:0@1",
    )
    .await;
    assert_eq!(reply.header("dovetail-generation"), "2");
    assert_eq!(reply.json()["rows"].as_array().unwrap().len(), 7);
}

#[tokio::test]
async fn appends_say_what_they_carry() {
    let fake = Fake::default();
    let router = open(&fake);
    let reply = send(
        &router,
        request(
            "POST",
            "/v1/streams/flights?errors=dead-letter",
            &[
                ("content-type", "application/x-ndjson; charset=utf-8"),
                ("idempotency-key", "k-1"),
            ],
            "{}\n{}\n",
        ),
    )
    .await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.text(),
        "{\"accepted\":2,\"rejected\":0,\"position\":\"flights~k3f:0@1236\"}\n"
    );
    assert_eq!(reply.header("dovetail-position"), "flights~k3f:0@1236");
    assert_eq!(
        fake.calls(),
        [
            "append flights ndjson DeadLetter key=Some(\"k-1\") origin=http application/x-ndjson bytes=6"
        ]
    );
    for (media_type, format) in [
        ("application/json", "json"),
        ("text/csv; header=present", "csv"),
        ("application/vnd.apache.arrow.stream", "arrow"),
    ] {
        let headers = [("content-type", media_type)];
        send(
            &router,
            request("POST", "/v1/streams/flights", &headers, "x"),
        )
        .await;
        assert!(fake.calls()[0].starts_with(&format!("append flights {format} Reject key=None")));
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&[b'\n'; 5000]).unwrap();
    let headers = [NDJSON, ("content-encoding", "gzip")];
    let body = gzip.finish().unwrap();
    send(
        &router,
        request("POST", "/v1/streams/flights", &headers, body),
    )
    .await;
    assert!(fake.calls()[0].ends_with("bytes=5000"));
}

#[tokio::test]
async fn what_curl_sends_by_itself_is_taken_for_what_it_looks_like() {
    let fake = Fake::default();
    let router = open(&fake);
    let curl = [("content-type", "application/x-www-form-urlencoded")];
    for headers in [&curl[..], &[]] {
        for (body, format) in [
            ("{}\n{}\n", "ndjson"),
            (" \n[{}]", "json"),
            ("\u{feff}{}", "ndjson"),
        ] {
            let append = request("POST", "/v1/streams/flights", headers, body);
            assert_eq!(send(&router, append).await.status, 200, "{body}");
            let expected = format!("append flights {format} Reject");
            assert!(fake.calls()[0].starts_with(&expected), "{body}");
        }
        for body in ["SHOW STREAMS", " {\"sql\": \"SHOW STREAMS\"}"] {
            let reply = send(&router, request("POST", "/v1/sql", headers, body)).await;
            assert_eq!(reply.json()["rows"][0]["name"], "flights", "{body}");
        }
        let rollback = request(
            "POST",
            "/v1/views/v/rollback",
            headers,
            "{\"generation\": 7}",
        );
        assert_eq!(send(&router, rollback).await.status, 200);
        assert!(fake.calls()[0].contains('7'), "{:?}", fake.calls());
    }
}

#[tokio::test]
async fn dead_letters_are_listed_and_replayed() {
    let fake = Fake::default();
    let router = open(&fake);
    let reply = get(
        &router,
        "/v1/streams/flights/dead-letters?cursor=0@5&limit=1",
    )
    .await;
    let expected = json!({
        "dead_letters": [{
            "id": "0@17", "reason": "`x` is not an INT", "line": 3, "column": "delay", "format": "ndjson",
            "origin": "http application/x-ndjson", "arrived_at": "2001-01-01T00:00:00",
            "text": "{\"delay\":\"x\"}", "bytes": 13
        }],
        "cursor": "0@17",
        "total": 2
    });
    assert_eq!(reply.json(), expected);
    assert!(fake.calls()[0].contains("offset: Offset(5)"));
    let uri = "/v1/streams/flights/dead-letters/replay";
    let expected = json!({"accepted": 1, "rejected": 1, "position": "flights~k3f:0@1237"});
    assert_eq!(post(&router, uri, "").await.json(), expected);
    assert_eq!(post(&router, uri, r#"{"ids": ["0@17"]}"#).await.status, 200);
    let calls = fake.calls();
    assert_eq!(calls[0], "replay flights None");
    assert!(calls[1].contains("Offset(17)"), "{}", calls[1]);
}

#[tokio::test]
async fn what_there_is() {
    let router = open(&Fake::default());
    let streams = get(&router, "/v1/streams").await.json();
    assert_eq!(
        streams["streams"][0]["columns"][1],
        json!({"name": "delay", "type": "INT", "nullable": true})
    );
    let stream = get(&router, "/v1/streams/flights").await.json();
    assert_eq!(
        (&stream["archived"], &stream["position"]),
        (&json!("flights~k3f:0@1000"), &json!("flights~k3f:0@1234"))
    );
    let views = get(&router, "/v1/views").await.json();
    assert_eq!(views["views"][0]["phase"], "live");
    let view = get(&router, "/v1/views/airport_delays/status").await.json();
    assert_eq!(
        (&view["name"], &view["runs"]),
        (&json!("airport_delays"), &json!(2))
    );
    assert_eq!(
        get(&router, "/v1/status").await.json()["catalog_sequence"],
        9
    );
    assert_eq!(
        get(&router, "/healthz").await.json(),
        json!({"status": "ok"})
    );
    let reply = get(&router, "/readyz").await;
    reply.is_problem(503, "the log is being read");
    assert_eq!(reply.header("retry-after"), "1");
    let head = send(&router, request("HEAD", "/v1/streams", &[], "")).await;
    assert_eq!((head.status.as_u16(), head.text()), (200, ""));
}

#[tokio::test]
async fn batch_runs_are_started_and_steered() {
    let fake = Fake::default();
    let router = open(&fake);
    let uri = "/v1/views/v/recompute";
    let reply = post(&router, uri, "").await;
    assert_eq!(
        (reply.status.as_u16(), reply.header("location")),
        (202, "/v1/runs/8")
    );
    assert_eq!(reply.json()["outcome"], "running");
    let repair = r#"{"mode": "repair", "from": "2001-01-01", "to": "2001-01-01T02:00:00+01:00", "where": "origin = 'SFO'", "dry_run": true}"#;
    assert_eq!(post(&router, uri, repair).await.status, 202);
    let calls = fake.calls();
    assert_eq!(
        calls[0],
        "recompute v RecomputeRequest { mode: Full, scope: None, dry_run: false }"
    );
    assert_eq!(
        calls[1],
        "recompute v RecomputeRequest { mode: Repair, scope: Some(RepairScope { from_us: Some(978307200000000), to_us: Some(978310800000000), predicate: Some(\"origin = 'SFO'\") }), dry_run: true }"
    );
    let reply = post(&router, "/v1/views/busy/recompute", "{}").await;
    assert_eq!(reply.is_problem(409, "is running")["run"], 7);

    get(&router, "/v1/runs?view=v&outcome=staged&before=9&limit=5").await;
    assert_eq!(
        fake.calls()[1],
        "runs RunsQuery { view: Some(\"v\"), outcome: Some(Staged), before: Some(RunId(9)), limit: 5 }"
    );
    assert_eq!(get(&router, "/v1/runs").await.json()["runs"][0]["id"], 8);
    assert_eq!(get(&router, "/v1/runs/5").await.json()["id"], 5);
    let diff = json!({
        "base": 3, "added": 1, "removed": 0, "changed": 1,
        "largest": [{"key": {"origin": "SFO"}, "before": {"flights": 1}, "after": {"flights": 2}}]
    });
    assert_eq!(get(&router, "/v1/runs/5/diff").await.json(), diff);
    for (uri, status, outcome) in [
        ("/v1/runs/1/promote", 200, "promoted"),
        ("/v1/runs/2/promote", 202, "staged"),
        ("/v1/runs/2/discard", 200, "discarded"),
        ("/v1/runs/2/cancel", 200, "cancelled"),
    ] {
        let reply = post(&router, uri, "").await;
        assert_eq!(
            (reply.status.as_u16(), &reply.json()["outcome"]),
            (status, &json!(outcome)),
            "{uri}"
        );
    }
    fake.calls();
    post(&router, "/v1/views/v/rollback", "").await;
    let reply = post(&router, "/v1/views/v/rollback", r#"{"generation": 1}"#).await;
    assert_eq!(reply.json()["to"], 1);
    assert_eq!(
        fake.calls(),
        ["rollback v None", "rollback v Some(GenerationNumber(1))"]
    );
}

#[tokio::test]
async fn exclusions_are_declared_listed_and_withdrawn() {
    let fake = Fake::default();
    let router = open(&fake);
    let uri = "/v1/streams/flights/exclusions";
    let reply = post(
        &router,
        uri,
        r#"{"where": "delay > 9000", "reason": "sensor broke"}"#,
    )
    .await;
    assert_eq!(reply.status, 201);
    assert_eq!(reply.json()["where"], "delay > 9000");
    assert_eq!(
        get(&router, uri).await.json()["exclusions"][0]["bound"],
        "flights~k3f:0@1234"
    );
    let reply = send(&router, request("DELETE", &format!("{uri}/1"), &[], "")).await;
    assert_eq!(
        (reply.status.as_u16(), fake.calls().remove(0)),
        (200, "withdraw flights 1".to_owned())
    );
}

#[tokio::test]
async fn definitions_are_planned_in_order_of_files_streams_first() {
    let router = open(&Fake::default());
    let files = json!({"files": [
        {"name": "b.sql", "sql": "-- b\nCREATE STREAM s (x INT);"},
        {"name": "a.sql", "sql": "CREATE VIEW v AS SELECT count(*) FROM s;\n\nCREATE VIEW w AS SELECT 1 FROM s;"},
        {"name": "empty.sql", "sql": ""}
    ]});
    for uri in ["/v1/plan", "/v1/apply"] {
        let changes = post(&router, uri, &files.to_string()).await.json();
        let places: Vec<String> = changes["changes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| {
                format!(
                    "{}:{} {}",
                    c["file"].as_str().unwrap(),
                    c["line"],
                    c["name"].as_str().unwrap()
                )
            })
            .collect();
        assert_eq!(places, ["b.sql:2 s", "a.sql:1 v", "a.sql:3 w"], "{uri}");
    }
}
