// SPDX-License-Identifier: Apache-2.0
//! Dead letters in the real process: listed page by page, tried again page by page, in the archive and in the
//! tail behind it.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::server::{Calls, HANGS, Server};

/// Appends dead letters: objects with a column that the stream does not have, of about `size` bytes.
async fn append(calls: &Calls, numbers: std::ops::Range<usize>, size: usize) {
    let filler = "x".repeat(size);
    let line = |n: usize| format!("{{\"a\": {n}, \"b\": \"{filler}\"}}\n");
    let body: String = numbers.map(line).collect();
    let headers = [("content-type", "application/x-ndjson")];
    let path = "/v1/streams/s?errors=dead-letter";
    let (status, answer) = calls
        .call(Method::POST, path, &headers, body)
        .await
        .unwrap();
    assert_eq!((status, &answer["accepted"]), (200, &json!(0)), "{answer}");
    // A list shows what the speed layer has seen.
    let after = json!({"after": answer["position"]});
    calls
        .rows("SELECT count(*) AS n FROM s", after)
        .await
        .unwrap();
}

pub(crate) async fn archived(calls: &Calls, stream: &str) {
    let waiting = async {
        loop {
            let stream = calls.get(&format!("/v1/streams/{stream}")).await.unwrap();
            if stream["archived"] == stream["position"] {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(HANGS, waiting)
        .await
        .expect("it is archived");
}

/// Offsets of all dead letters, in the order of the pages.
async fn listed(calls: &Calls, limit: usize) -> Vec<u64> {
    let (mut found, mut cursor) = (vec![], String::new());
    loop {
        let path = format!("/v1/streams/s/dead-letters?limit={limit}{cursor}");
        let page = calls.get(&path).await.unwrap();
        let letters = page["dead_letters"].as_array().unwrap();
        assert!(letters.len() <= limit);
        assert_eq!(page["total"], 25);
        let offset = |letter: &Value| letter["id"].as_str().unwrap()[2..].parse::<u64>().unwrap();
        found.extend(letters.iter().map(offset));
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

async fn replay(calls: &Calls, body: Value) -> (u16, Value) {
    calls
        .post("/v1/streams/s/dead-letters/replay", &body)
        .await
        .unwrap()
}

#[tokio::test]
async fn are_listed_and_tried_again_page_by_page() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    let create = "CREATE STREAM s (a INT) WITH (unknown_columns = 'reject')";
    calls.sql(create, json!({})).await.unwrap();
    // More than two pages of bytes in the archive, and some in the tail behind it.
    append(&calls, 0..20, 1 << 20).await;
    archived(&calls, "s").await;
    append(&calls, 20..25, 10).await;
    for limit in [7, 1000] {
        assert_eq!(listed(&calls, limit).await, (0..25).collect::<Vec<_>>());
    }
    let stream = calls.get("/v1/streams/s").await.unwrap();
    assert_eq!(stream["dead_letters"], 25);

    let (status, problem) = replay(&calls, json!({"ids": ["0@3", "0@99"]})).await;
    assert_eq!(status, 404, "{problem}");
    assert!(
        problem["detail"].as_str().unwrap().contains("0@99"),
        "{problem}"
    );
    let (_, answer) = replay(&calls, json!({})).await;
    assert_eq!(
        (&answer["accepted"], &answer["rejected"]),
        (&json!(0), &json!(25))
    );

    // Nothing has changed that they could be decoded with, so all of them still wait.
    let (_, answer) = replay(&calls, json!({"ids": ["0@3", "0@22"]})).await;
    assert_eq!(
        (&answer["accepted"], &answer["rejected"]),
        (&json!(0), &json!(2))
    );
    assert_eq!(listed(&calls, 10).await, (0..25).collect::<Vec<_>>());
    server.kill().await;
}

/// What made them bad has not changed, so neither has what is said of it: a mark in the middle of a body is not one at its
/// beginning when the line stands alone, and a quote that never ends does not end where the letter does.
#[tokio::test]
async fn are_bad_for_the_same_reason_when_they_are_tried_again() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    let create = "CREATE STREAM s (a INT, b VARCHAR)";
    calls.sql(create, json!({})).await.unwrap();
    let mut answer = Value::Null;
    for (media, body) in [
        (
            "application/x-ndjson",
            "\u{feff}{\"a\":1}\n\u{feff}{\"a\":2}\n",
        ),
        (
            "text/csv",
            "a,b\n1,\"x\ny\"z\n3,\"x\ny\",\"q\n4,a\n5\r\r\n,\"6\"\r\r\n",
        ),
        ("application/json", "[7, {\"a\": 8}, [9]]"),
    ] {
        let headers = [("content-type", media)];
        let path = "/v1/streams/s?errors=dead-letter";
        let sending = calls.call(Method::POST, path, &headers, body);
        let (status, appended) = sending.await.unwrap();
        assert_eq!(status, 200, "{appended}");
        answer = appended;
    }
    let after = json!({"after": answer["position"]});
    let rows = calls.rows("SELECT count(*) AS n FROM s", after).await;
    assert_eq!(rows.unwrap(), [json!({"n": 3})]);

    let page = calls.get("/v1/streams/s/dead-letters").await.unwrap();
    let letters = page["dead_letters"].as_array().unwrap();
    let first: Vec<&str> = letters
        .iter()
        .map(|letter| letter["reason"].as_str().unwrap())
        .collect();
    let (_, answer) = replay(&calls, json!({})).await;
    assert_eq!(answer["accepted"], 0, "{answer}");
    let again = answer["reasons"].as_array().unwrap();
    let again: Vec<&str> = again
        .iter()
        .map(|letter| letter["reason"].as_str().unwrap())
        .collect();
    assert_eq!(first.len(), again.len(), "{answer}");
    for (first, again) in first.iter().zip(again) {
        assert!(again.ends_with(first), "{first}: {again}");
    }
    assert!(first[0].starts_with("expected a JSON object"), "{first:?}");
    server.kill().await;
}
