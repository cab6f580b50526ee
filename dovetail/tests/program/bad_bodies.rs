// SPDX-License-Identifier: Apache-2.0
//! Bodies that are nonsense, damaged or bombs, against the real process: each is refused as a problem that
//! names it, at a bounded cost, and leaves nothing behind.

use std::io::Write as _;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::ipc::writer::StreamWriter;
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};
use reqwest::Method;
use serde_json::json;

use crate::support::server::{Calls, Server};

const ARROW: &str = "application/vnd.apache.arrow.stream";
const NDJSON: &str = "application/x-ndjson";
const JSON: &str = "application/json";
const CSV: &str = "text/csv";
const MIB: usize = 1 << 20;

/// What all refusals together may add to the server's memory: some bodies of 64 MiB and their decompressed
/// text, which the allocator may keep. A single one of the bombs that is believed takes 1.8 GiB or more.
const MAY_GROW: usize = 300 * MIB;

struct Bad {
    what: String,
    content_type: &'static str,
    encoding: Option<&'static str>,
    body: Vec<u8>,
}

fn bad(what: impl Into<String>, content_type: &'static str, body: Vec<u8>) -> Bad {
    Bad {
        what: what.into(),
        content_type,
        encoding: None,
        body,
    }
}

fn good_stream() -> Vec<u8> {
    let batch = RecordBatch::try_from_iter([
        (
            "n",
            Arc::new(Int64Array::from_iter_values(0..100)) as Arc<dyn arrow::array::Array>,
        ),
        (
            "text",
            Arc::new(StringArray::from_iter_values(
                (0..100).map(|n| n.to_string()),
            )),
        ),
    ])
    .unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

/// A message header that claims `length` bytes of metadata.
fn claims(length: u32) -> Vec<u8> {
    let mut body = vec![0xff; 4];
    body.extend(length.to_le_bytes());
    body.extend(b"and no more");
    body
}

fn arrow_bodies() -> Vec<Bad> {
    let mut random = vec![0; MIB];
    StdRng::seed_from_u64(7).fill_bytes(&mut random);
    let good = good_stream();
    let mut bodies = vec![
        bad("hello", ARROW, b"hello".to_vec()),
        bad("nothing", ARROW, Vec::new()),
        bad("random bytes", ARROW, random.clone()),
        bad(
            "random bytes after a good start",
            ARROW,
            [&[0xff; 4][..], &random].concat(),
        ),
        bad("3.9 GB of metadata", ARROW, claims(3_900_000_000)),
        bad("2 GB of metadata", ARROW, claims(0x7fff_ffff)),
        bad("NDJSON", ARROW, b"{\"n\":1}\n".to_vec()),
        bad("Parquet", ARROW, b"PAR1\x15\x04\x15PAR1".to_vec()),
    ];
    for at in (1..good.len() - 8).step_by(good.len() / 16) {
        bodies.push(bad(format!("cut off at {at}"), ARROW, good[..at].to_vec()));
    }
    // A type that `arrow-ipc` panics on, in the schema: an integer of 45 bits.
    let width = good.windows(4).position(|four| four == [64, 0, 0, 0]);
    let mut odd = good;
    odd[width.unwrap()] = 45;
    bodies.push(bad("an integer of 45 bits", ARROW, odd));
    bodies
}

fn text_bodies() -> Vec<Bad> {
    let deep = |open: &str, count: usize| open.repeat(count).into_bytes();
    let nested = |open: &str, close: &str| {
        (open.repeat(100_000) + "1" + &close.repeat(100_000)).into_bytes()
    };
    vec![
        bad("ten million open arrays", JSON, deep("[", 10_000_000)),
        bad(
            "ten million open objects",
            NDJSON,
            deep("{\"n\":", 10_000_000),
        ),
        bad("nested arrays", JSON, nested("[", "]")),
        bad("nested objects", NDJSON, nested("{\"n\":", "}")),
        bad("an Arrow stream", NDJSON, good_stream()),
        bad("an Arrow stream", CSV, good_stream()),
        bad("CSV", JSON, b"n,text\n1,a\n".to_vec()),
        bad("JSON", CSV, b"[{\"n\":1}]".to_vec()),
        bad(
            "a gzip body without its encoding",
            NDJSON,
            gzip(b"{\"n\":1}\n"),
        ),
        bad("a million columns", CSV, deep("a,", 1_000_000)),
    ]
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(text).unwrap();
    writer.finish().unwrap()
}

/// Four GiB of spaces in members or frames of one MiB, and bodies that are not what their encoding says.
fn compressed_bodies() -> Vec<Bad> {
    let spaces = vec![b' '; MIB];
    let members = gzip(&spaces).repeat(4096);
    let frames = zstd::encode_all(&spaces[..], 3).unwrap().repeat(4096);
    let cut = gzip(b"{\"n\":1}\n");
    [
        ("gzip", members.clone()),
        ("zstd", frames.clone()),
        ("zstd", members),
        ("gzip", frames),
        ("gzip", cut[..cut.len() - 4].to_vec()),
        ("gzip", b"{\"n\":1}\n".to_vec()),
        ("zstd", b"{\"n\":1}\n".to_vec()),
        ("br", b"{\"n\":1}\n".to_vec()),
    ]
    .into_iter()
    .map(|(encoding, body)| Bad {
        encoding: Some(encoding),
        ..bad(format!("{} bytes as {encoding}", body.len()), NDJSON, body)
    })
    .collect()
}

async fn post(calls: &Calls, bad: &Bad) -> u16 {
    let mut headers = vec![("content-type", bad.content_type)];
    headers.extend(bad.encoding.map(|encoding| ("content-encoding", encoding)));
    let path = "/v1/streams/events";
    let sent = calls.call(Method::POST, path, &headers, bad.body.clone());
    let name = format!("{} as {}", bad.what, bad.content_type);
    let (status, problem) = sent.await.expect(&name);
    assert_eq!(problem["status"], status, "{name}: {problem}");
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(detail.len() > 10, "{name}: {problem}");
    status
}

#[tokio::test]
async fn each_is_refused_at_a_bounded_cost_and_leaves_nothing_behind() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    let declare = "CREATE STREAM events (n BIGINT, text VARCHAR)";
    calls.sql(declare, json!({})).await.unwrap();
    let before = server.peak_memory();

    let bodies = [arrow_bodies(), text_bodies(), compressed_bodies()]
        .into_iter()
        .flatten();
    for bad in bodies {
        let status = post(&calls, &bad).await;
        let refused = [400, 413, 415, 422].contains(&status);
        assert!(refused, "{} as {}: {status}", bad.what, bad.content_type);
        let grown = server.peak_memory() - before;
        assert!(grown < MAY_GROW, "{}: {} MiB", bad.what, grown / MIB);
    }

    let rows = calls.rows("SELECT count(*) AS n FROM events", json!({}));
    assert_eq!(rows.await.unwrap(), [json!({"n": 0})]);
    // Another stream of the same types, on every thread that has seen a bad one.
    for _ in 0..8 {
        let headers = [("content-type", ARROW)];
        let sent = calls.call(Method::POST, "/v1/streams/events", &headers, good_stream());
        let (status, answer) = sent.await.unwrap();
        assert_eq!(
            (status, &answer["accepted"]),
            (200, &json!(100)),
            "{answer}"
        );
    }
    let log = server.log();
    assert!(!log.contains("panic"), "{log}");
}
