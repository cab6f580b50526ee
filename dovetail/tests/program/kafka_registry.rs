// SPDX-License-Identifier: Apache-2.0
//! A stream of records whose schemas a registry keeps: schemas that evolve, a registry that goes away, schemas that
//! it does not have. A real broker, a real registry, the built program.

use std::time::Duration;

use dovetail_testkit::kafka::{Broker, Producer, Record, Registry};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::server::{Calls, HANGS, Server};

const TOPIC: &str = "numbers";
/// A number, and from the second schema on a note or none.
const FIRST: &str = r#"{"type":"record","name":"number","fields":[{"name":"n","type":"long"}]}"#;
const SECOND: &str = r#"{"type":"record","name":"number","fields":[
    {"name":"note","type":["null","string"],"default":null},{"name":"n","type":"int"}]}"#;
const THIRD: &str = r#"{"type":"record","name":"number","fields":[
    {"name":"n","type":"long"},{"name":"more","type":"double","default":0}]}"#;
const FOURTH: &str = r#"{"type":"record","name":"number","fields":[
    {"name":"more","type":"boolean","default":true},{"name":"n","type":"int"}]}"#;

/// A record with the id of its schema before it.
fn framed(schema: u32, body: &[u8]) -> Vec<u8> {
    [&[0], &schema.to_be_bytes()[..], body].concat()
}

/// A small number as Avro has it.
fn small(n: u8) -> u8 {
    assert!(n < 64);
    n * 2
}

fn send(producer: &Producer, topic: &str, values: &[Vec<u8>]) {
    for value in values {
        let value = Some(&value[..]);
        producer.send_one(
            topic,
            &Record {
                value,
                ..Record::default()
            },
        );
    }
}

async fn source(calls: &Calls, stream: &str) -> Value {
    let stream = calls.get(&format!("/v1/streams/{stream}")).await.unwrap();
    stream["source"].clone()
}

/// Why the stream is in this phase, once it is.
async fn reason(calls: &Calls, phase: &str) -> String {
    let waiting = async {
        loop {
            let source = source(calls, TOPIC).await;
            if source["phase"] == phase {
                return source["reason"].as_str().unwrap_or_default().to_owned();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(HANGS, waiting).await;
    waited.unwrap_or_else(|_| panic!("the stream is never `{phase}`"))
}

/// Waits until the stream says that so many records wait for it.
async fn waits(calls: &Calls, records: u64) {
    let waiting = async {
        while source(calls, TOPIC).await["partitions"][0]["lag"] != records {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(HANGS, waiting).await;
    waited.unwrap_or_else(|_| panic!("there are never {records} records that wait"));
}

/// Waits until the stream has read up to `offset`; its rows in order.
async fn rows(calls: &Calls, stream: &str, offset: u64, select: &str) -> Vec<Value> {
    let known = calls.get(&format!("/v1/streams/{stream}")).await.unwrap();
    let id = known["id"].as_str().unwrap();
    let after = format!("{stream}~{id}:0@{offset}");
    let sql = format!("SELECT {select} FROM {stream} ORDER BY _offset");
    let options = json!({"after": after, "timeout_ms": 60_000});
    calls.rows(&sql, options).await.unwrap()
}

/// The numbers that the stream has, once it has read up to `offset`.
async fn numbers(calls: &Calls, offset: u64) -> Vec<i64> {
    let rows = rows(calls, TOPIC, offset, "n").await;
    rows.iter().map(|row| row["n"].as_i64().unwrap()).collect()
}

async fn refusal(calls: &Calls, sql: &str) -> (u16, String) {
    let (status, problem) = calls.post("/v1/sql", &json!({"sql": sql})).await.unwrap();
    (
        status,
        problem["detail"].as_str().unwrap_or_default().to_owned(),
    )
}

fn create(broker: &Broker, columns: &str, format: &str, url: &str) -> String {
    format!(
        "CREATE STREAM numbers ({columns}) WITH (source = 'kafka', brokers = '{}', topic = '{TOPIC}', \
         format = '{format}', schema_registry = '{url}')",
        broker.address()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn avro_is_read_through_all_that_a_registry_does() {
    let broker = Broker::start();
    let mut registry = Registry::start();
    broker.create_topic(TOPIC, 1);
    let producer = broker.producer();
    let register = |registry: &Registry, schema| registry.register(TOPIC, "AVRO", schema, &[]);
    assert_eq!(register(&registry, FIRST), 1);
    send(&producer, TOPIC, &[framed(1, &[small(1)])]);
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    let columns = "n BIGINT NOT NULL, note VARCHAR";
    calls
        .sql(
            &create(&broker, columns, "avro", &registry.url()),
            json!({}),
        )
        .await
        .unwrap();
    assert_eq!(numbers(&calls, 1).await, [1]);

    // A second schema between records of the first, and one that is cut off.
    assert_eq!(register(&registry, SECOND), 2);
    let values = [
        framed(2, &[2, 4, b'h', b'i', small(2)]),
        framed(1, &[small(3)]),
        framed(2, &[2, 4, b'h']),
        framed(2, &[0, small(4)]),
    ];
    send(&producer, TOPIC, &values);
    let found = rows(&calls, TOPIC, 5, "n, note, _offset AS at").await;
    let row = |n: i64, note: Option<&str>, at: i64| json!({"n": n, "note": note, "at": at});
    let expected = [
        row(1, None, 0),
        row(2, Some("hi"), 1),
        row(3, None, 2),
        row(4, None, 4),
    ];
    assert_eq!(found, expected);
    let letters = calls.get("/v1/streams/numbers/dead-letters").await.unwrap();
    let letters = letters["dead_letters"].as_array().unwrap();
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0]["format"], "avro");
    assert_eq!(letters[0]["origin"], "kafka numbers/0@3");
    assert_eq!(letters[0]["column"], "note");
    // Which schema an event is written with is for the topic's producers to say.
    let path = "/v1/streams/numbers";
    let (status, problem) = calls.post(path, &json!({"n": 5})).await.unwrap();
    assert_eq!(status, 415, "{problem}");
    // What is cut off is no event however often it is tried.
    let answer = replay(&calls).await;
    assert_eq!(
        (&answer["accepted"], &answer["rejected"]),
        (&json!(0), &json!(1))
    );

    // The registry goes away. What it has told is read on; what it has not waits, and spoils nothing else.
    registry.kill();
    send(&producer, TOPIC, &[framed(1, &[small(5)])]);
    assert_eq!(numbers(&calls, 6).await, [1, 2, 3, 4, 5]);
    let more = [small(6), 0, 0, 0, 0, 0, 0, 0, 0];
    send(
        &producer,
        TOPIC,
        &[framed(1, &[small(7)]), framed(3, &more)],
    );
    let why = reason(&calls, "retrying").await;
    assert!(
        why.contains(&registry.url()) && why.contains("does not answer"),
        "{why}"
    );
    assert_eq!(numbers(&calls, 7).await, [1, 2, 3, 4, 5, 7]);
    send(&producer, TOPIC, &[framed(3, &more), framed(3, &more)]);
    waits(&calls, 3).await;
    calls
        .sql("CREATE STREAM plain (x BIGINT)", json!({}))
        .await
        .unwrap();
    let headers = [("content-type", "application/x-ndjson")];
    let appended = calls
        .call(Method::POST, "/v1/streams/plain", &headers, "{\"x\": 1}")
        .await;
    assert_eq!(appended.unwrap().0, 200);
    registry.run();
    for schema in [FIRST, SECOND, THIRD] {
        register(&registry, schema);
    }
    assert_eq!(numbers(&calls, 10).await, [1, 2, 3, 4, 5, 7, 6, 6, 6]);
    assert_eq!(reason(&calls, "reading").await, "");

    // A schema that it does not have stops the stream until it has it.
    send(
        &producer,
        TOPIC,
        &[framed(4, &[1, small(8)]), framed(1, &[small(9)])],
    );
    let why = reason(&calls, "stopped").await;
    assert!(
        why.contains("offset 10 of partition 0") && why.contains("schema 4"),
        "{why}"
    );
    assert_eq!(numbers(&calls, 10).await.len(), 9);
    send(&producer, TOPIC, &[framed(1, &[small(10)])]);
    waits(&calls, 3).await;
    assert_eq!(register(&registry, FOURTH), 4);
    assert_eq!(
        numbers(&calls, 13).await,
        [1, 2, 3, 4, 5, 7, 6, 6, 6, 8, 9, 10]
    );

    // Or until an operator goes on without its records.
    let unknown = [
        framed(77, &[small(10)]),
        framed(77, &[small(11)]),
        framed(1, &[small(12)]),
    ];
    send(&producer, TOPIC, &unknown);
    let why = reason(&calls, "stopped").await;
    assert!(
        why.contains("offset 13 of partition 0") && why.contains("schema 77"),
        "{why}"
    );
    calls
        .sql("ALTER STREAM numbers SKIP HOLE", json!({}))
        .await
        .unwrap();
    let expected = [1, 2, 3, 4, 5, 7, 6, 6, 6, 8, 9, 10, 12];
    // Its two records may have come in two batches, and each batch stops the stream.
    let skipping = async {
        while source(&calls, TOPIC).await["partitions"][0]["position"] != 16 {
            let _ = refusal(&calls, "ALTER STREAM numbers SKIP HOLE").await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let skipped = tokio::time::timeout(HANGS, skipping).await;
    skipped.expect("it goes on");
    assert_eq!(numbers(&calls, 16).await, expected);
    let answer = calls
        .sql("SELECT count(*) FROM numbers", json!({}))
        .await
        .unwrap();
    let holes = answer["provenance"]["streams"][0]["holes"]
        .as_array()
        .unwrap()
        .clone();
    assert_eq!(
        (&holes[0]["from"], &holes[holes.len() - 1]["to"]),
        (&json!(13), &json!(15))
    );

    // A new process asks the registry anew.
    server.kill().await;
    let server = Server::start(home.path(), None).await.unwrap();
    assert_eq!(numbers(&server.calls(), 16).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declaration_without_a_registry_behind_it_is_refused_and_leaves_nothing() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 1);
    let mut registry = Registry::start();
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    let root = registry.url().replace("/apis/ccompat/v7", "");
    let (status, why) = refusal(&calls, &create(&broker, "n BIGINT", "avro", &root)).await;
    assert_eq!(status, 400, "{why}");
    assert!(
        why.contains(&root) && why.contains("not as a schema registry"),
        "{why}"
    );
    registry.kill();
    let sql = create(&broker, "n BIGINT", "protobuf", &registry.url());
    let (status, why) = refusal(&calls, &sql).await;
    assert_eq!(status, 503, "{why}");
    assert!(
        why.contains(&registry.url()) && why.contains("does not answer"),
        "{why}"
    );
    let gone = calls
        .call(Method::GET, "/v1/streams/numbers", &[], "")
        .await;
    assert_eq!(gone.unwrap().0, 404);
}

/// Tries all dead letters again.
async fn replay(calls: &Calls) -> Value {
    let path = "/v1/streams/numbers/dead-letters/replay";
    let (status, answer) = calls.post(path, &json!({})).await.unwrap();
    assert_eq!(status, 200, "{answer}");
    answer
}

/// A letter whose schema is in a registry becomes the event that it is: byte for byte, with its key, time and headers.
#[tokio::test(flavor = "multi_thread")]
async fn letters_of_a_registry_s_formats_come_again_as_they_came() {
    const PROTOBUF: &str =
        r#"syntax = "proto3"; message Number { optional string note = 1; int64 n = 2; }"#;
    let broker = Broker::start();
    // The note `hi` and the number 5.
    let formats = [
        ("avro", SECOND, &[2, 4, b'h', b'i', small(5)][..]),
        ("protobuf", PROTOBUF, &[0, 10, 2, b'h', b'i', 16, 5][..]),
    ];
    let producer = broker.producer();
    for (format, schema, body) in formats {
        // It forgets all when it dies, and then counts from 1 again.
        let mut registry = Registry::start();
        let home = tempfile::tempdir().unwrap();
        // The record is older than what a topic keeps by default.
        broker.create_topic_with(TOPIC, 2, &[("retention.ms", "-1")]);
        let register =
            |registry: &Registry| registry.register(format, &format.to_uppercase(), schema, &[]);
        let id = register(&registry);
        let server = Server::start(home.path(), None).await.unwrap();
        let calls = server.calls();
        let columns = "k VARCHAR NOT NULL, n BIGINT NOT NULL, made TIMESTAMP NOT NULL, \
             h LIST<STRUCT<name VARCHAR, value VARCHAR>>";
        let sql = create(&broker, columns, format, &registry.url());
        let options = "unknown_columns = 'reject', key_column = 'k', timestamp_column = 'made', headers_column = 'h')";
        let sql = format!("{}, {options}", sql.strip_suffix(')').unwrap());
        calls.sql(&sql, json!({})).await.unwrap();
        let value = framed(id, body);
        let record = Record {
            partition: 1,
            value: Some(&value),
            key: Some("a"),
            timestamp_ms: Some(1_000_000_000_500),
            headers: &[("trace", "7")],
        };
        producer.send_one(TOPIC, &record);
        let read = async {
            while calls.get("/v1/streams/numbers").await.unwrap()["dead_letters"] != 1 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(HANGS, read).await.expect("it is read");
        let page = calls.get("/v1/streams/numbers/dead-letters").await.unwrap();
        let shown = json!({
            "key": "a", "timestamp": "2001-09-09T01:46:40.500", "headers": [["trace", "7"]],
        });
        assert_eq!(page["dead_letters"][0]["record"], shown, "{page}");
        let stays = replay(&calls).await;
        assert_eq!(stays["accepted"], 0);
        let why = stays["reasons"][0]["reason"].as_str().unwrap();
        assert!(why.contains("note"), "{stays}");
        assert_eq!(stays["reasons"][0]["id"], "1@0");
        let add = "ALTER STREAM numbers ADD COLUMN note VARCHAR";
        calls.sql(add, json!({})).await.unwrap();
        // Without its registry nobody can say what it is.
        registry.kill();
        let path = "/v1/streams/numbers/dead-letters/replay";
        let (status, problem) = calls.post(path, &json!({})).await.unwrap();
        assert_eq!(status, 503, "{problem}");
        let why = problem["detail"].as_str().unwrap();
        assert!(why.contains(&registry.url()), "{why}");
        registry.run();
        assert_eq!(register(&registry), id);
        assert_eq!(replay(&calls).await["accepted"], 1);
        assert_eq!(replay(&calls).await, replay(&calls).await);
        let found = calls
            .rows("SELECT k, n, made, h, note FROM numbers", json!({}))
            .await;
        let expected = json!({
            "k": "a", "n": 5, "made": "2001-09-09T01:46:40.500", "note": "hi",
            "h": [{"name": "trace", "value": "7"}],
        });
        assert_eq!(found.unwrap(), [expected], "{format}");
        let seen = broker.committed(TOPIC);
        let values: Vec<&[u8]> = seen.iter().map(|seen| &seen.value[..]).collect();
        assert_eq!(values, [&value[..]; 2], "{format}");
        server.kill().await;
        let server = Server::start(home.path(), None).await.unwrap();
        let calls = server.calls();
        assert_eq!(replay(&calls).await["accepted"], 0);
        let page = calls.get("/v1/streams/numbers/dead-letters").await.unwrap();
        assert_eq!(page["total"], 0, "{page}");
        broker.delete_topic(TOPIC);
    }
}

/// A message of its file's second message type, which imports another file.
const POINTS: &str = r#"syntax = "proto3";
import "unit.proto";
import "google/protobuf/timestamp.proto";
message Other { string n = 1; }
message Point {
  sint64 n = 1;
  Unit unit = 2;
  google.protobuf.Timestamp at = 3;
  map<string, double> tags = 4;
  reserved 5;
}"#;
const UNIT: &str = r#"syntax = "proto3"; enum Unit { METRES = 0; FEET = 1; }"#;
/// It has lost a field and got another.
const MORE_POINTS: &str = r#"syntax = "proto3";
import "unit.proto";
message Other { string n = 1; }
message Point {
  sint64 n = 1;
  Unit unit = 2;
  repeated int32 path = 6;
}"#;

#[tokio::test(flavor = "multi_thread")]
async fn protobuf_is_read_with_what_its_schema_refers_to() {
    let broker = Broker::start();
    let registry = Registry::start();
    broker.create_topic(TOPIC, 1);
    registry.register("unit.proto", "PROTOBUF", UNIT, &[]);
    let points = registry.register("points", "PROTOBUF", POINTS, &["unit.proto"]);
    let more = registry.register("more", "PROTOBUF", MORE_POINTS, &["unit.proto"]);
    // Before each message: one index, 1.
    let point = |schema, fields: &[u8]| framed(schema, &[&[2, 2], fields].concat());
    let values = [
        point(points, &[8, 3, 16, 1, 26, 2, 8, 60, 34, 3, 10, 1, b'a']),
        point(more, &[8, 4, 50, 2, 1, 2]),
        point(points, &[8, 6, 26, 9]),
        framed(9_000_000, &[]),
    ];
    let producer = broker.producer();
    send(&producer, TOPIC, &values[..3]);
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    let columns = "n BIGINT NOT NULL, unit VARCHAR, at TIMESTAMP, path LIST<INT>, \
         tags LIST<STRUCT<key VARCHAR, value DOUBLE>>";
    let sql = create(&broker, columns, "protobuf", &registry.url());
    calls.sql(&sql, json!({})).await.unwrap();
    let found = rows(&calls, TOPIC, 3, "n, unit, at, path, tags").await;
    let expected = [
        json!({"n": -2, "unit": "FEET", "at": "1970-01-01T00:01:00", "path": null, "tags": [{"key": "a", "value": 0.0}]}),
        json!({"n": 2, "unit": "METRES", "at": null, "path": [1, 2], "tags": null}),
    ];
    assert_eq!(found, expected);
    let letters = calls.get("/v1/streams/numbers/dead-letters").await.unwrap();
    let letters = letters["dead_letters"].as_array().unwrap();
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0]["format"], "protobuf");
    send(&producer, TOPIC, &values[3..]);
    let why = reason(&calls, "stopped").await;
    assert!(
        why.contains("offset 3 of partition 0") && why.contains("schema 9000000"),
        "{why}"
    );
}
