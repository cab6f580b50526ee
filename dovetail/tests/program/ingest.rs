// SPDX-License-Identifier: Apache-2.0
//! `dovetail ingest` against a real server: every format and compression in full and once, in bounded
//! memory, whole parts or none of them, and on from where an interruption came.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use arrow::array::{Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::ipc::writer::{FileWriter, StreamWriter};
use parquet::arrow::ArrowWriter;
use rustix::process::{Pid, Signal};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Child;
use tokio::sync::oneshot;

use crate::support::fake::{Ran, run};
use crate::support::program::program;
use crate::support::up::{PATIENCE, Up};

const MIB: usize = 1 << 20;
/// What a part is closed at.
const PART_BYTES: usize = 4 * MIB;
/// Rows of `events`, which come in several parts.
const ROWS: i64 = 6000;

fn count(ran: &Ran) -> u64 {
    assert_eq!(ran.code, 0, "{ran:?}");
    let row: Value = serde_json::from_str(&ran.out).unwrap();
    row["n"].as_u64().unwrap()
}

const COUNT: [&str; 4] = [
    "sql",
    "SELECT count(*) AS n FROM notes",
    "--format",
    "ndjson",
];

async fn declare_notes(up: &Up) {
    let ran = up.run(&["sql", "CREATE STREAM notes (text VARCHAR)"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// The line that ingest ends with.
fn summary(ran: &Ran) -> Value {
    assert_eq!(ran.code, 0, "{ran:?}");
    serde_json::from_str(&ran.out).unwrap()
}

fn text_of(n: i64) -> Option<String> {
    match n % 5 {
        0 => None,
        1 => Some(String::new()),
        2 => Some(format!("a \"quoted\", one\r\nover two lines, {n}\n")),
        _ => Some("x".repeat(1200)),
    }
}

fn events() -> RecordBatch {
    let text = StringArray::from_iter((0..ROWS).map(text_of));
    let at = TimestampMicrosecondArray::from_iter_values((0..ROWS).map(|n| n * 1_000_001));
    RecordBatch::try_from_iter_with_nullable([
        (
            "n",
            Arc::new(Int64Array::from_iter_values(0..ROWS)) as Arc<dyn Array>,
            false,
        ),
        ("text", Arc::new(text), true),
        ("at", Arc::new(at), true),
    ])
    .unwrap()
}

fn json_lines() -> Vec<String> {
    (0..ROWS)
        .map(|n| {
            let at = chrono::DateTime::from_timestamp_micros(n * 1_000_001).unwrap();
            let at = at.format("%Y-%m-%dT%H:%M:%S%.6f").to_string();
            serde_json::json!({"n": n, "text": text_of(n), "at": at}).to_string()
        })
        .collect()
}

fn csv() -> String {
    let mut csv = "at,n,text\n".to_owned();
    for n in 0..ROWS {
        let at = chrono::DateTime::from_timestamp_micros(n * 1_000_001).unwrap();
        let text = text_of(n).map(|text| format!("\"{}\"", text.replace('"', "\"\"")));
        csv += &format!(
            "{},{n},{}\n",
            at.format("%Y-%m-%d %H:%M:%S%.6f"),
            text.unwrap_or_default()
        );
    }
    csv
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

/// The same events under every name that ingest knows.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let batch = events();
    let mut stream = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    stream.write(&batch).unwrap();
    let stream = stream.into_inner().unwrap();
    let mut file = FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    file.write(&batch).unwrap();
    let mut parquet = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    parquet.write(&batch).unwrap();
    let lines = json_lines();
    let ndjson = lines.join("\n").into_bytes();
    let json = format!("[{}\n]", lines.join(",\n")).into_bytes();
    let csv = csv().into_bytes();
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    vec![
        ("a.ndjson.gz", gzip(&ndjson)),
        ("a.jsonl", ndjson),
        ("a.json.zst", zstd(&json)),
        ("a.json", json),
        ("a.csv.zst", zstd(&csv)),
        ("a.csv.gz", gzip(&csv)),
        ("a.csv", csv),
        ("a.arrows.gz", gzip(&stream)),
        ("a.arrows", stream),
        ("a.arrow", file.into_inner().unwrap()),
        ("a.parquet", parquet.into_inner().unwrap()),
    ]
}

/// What a stream says of all its events at once.
const DIGEST: &str = "SELECT count(*) AS events, count(text) AS texts, sum(n) AS numbers, \
    count(distinct n) AS different, sum(length(text)) AS length, min(at) AS first, max(at) AS last FROM ";

#[tokio::test]
async fn every_format_file_and_pipe_arrives_whole_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let up = Up::start(&dir.path().join("data"), &[]).await;
    let mut expected = None;
    for (index, (name, content)) in files().into_iter().enumerate() {
        let path = dir.path().join(name);
        std::fs::write(&path, &content).unwrap();
        let (stream, piped) = (format!("file{index}"), format!("pipe{index}"));
        for stream in [&stream, &piped] {
            let columns = "(n BIGINT NOT NULL, text VARCHAR, at TIMESTAMP)";
            let create = format!("CREATE STREAM {stream} {columns}");
            assert_eq!(up.run(&["sql", &create]).await.code, 0);
        }
        for _twice in 0..2 {
            let ran = up.run(&["ingest", &stream, path.to_str().unwrap()]).await;
            assert_eq!(summary(&ran)["accepted"], ROWS, "{name}");
            assert_eq!(summary(&ran)["rejected"], 0, "{name}");
        }
        let mut streams = vec![stream];
        if !["a.arrow", "a.parquet"].contains(&name) {
            // A pipe has no name that says the format.
            let format = ["ndjson", "jsonl", "json", "csv", "arrow"];
            let format = format
                .into_iter()
                .find(|format| name[2..].starts_with(format));
            let args = [
                "--url",
                &up.url,
                "ingest",
                &piped,
                "-",
                "--format",
                format.unwrap(),
            ];
            let ran = run(&args, &content).await;
            assert_eq!(summary(&ran)["accepted"], ROWS, "{name}");
            streams.push(piped);
        }
        for stream in streams {
            let ran = up
                .run(&["sql", &format!("{DIGEST}{stream}"), "--format", "ndjson"])
                .await;
            assert_eq!(ran.code, 0, "{ran:?}");
            let expected = expected.get_or_insert_with(|| ran.out.clone());
            assert_eq!(&ran.out, expected, "{name} in {stream}");
        }
    }
    let digest: Value = serde_json::from_str(&expected.unwrap()).unwrap();
    assert_eq!(digest["events"], ROWS);
    assert_eq!(digest["texts"], ROWS - ROWS / 5);
    assert_eq!(digest["numbers"], ROWS * (ROWS - 1) / 2);
}

#[tokio::test]
async fn what_a_query_answers_as_csv_is_read_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let up = Up::start(&dir.path().join("data"), &[]).await;
    let columns = "(n BIGINT NOT NULL, yes BOOLEAN, i INT, d DOUBLE, price DECIMAL(10, 2), text VARCHAR, \
        day DATE, at TIMESTAMP, list VARCHAR[], inner_ STRUCT<x INT, y VARCHAR>)";
    let lone = "(text VARCHAR)";
    let rows = concat!(
        r#"{"n":1,"yes":true,"i":-7,"d":0.1,"price":"12.50","text":"","day":"2001-01-03","at":"2001-01-03T10:15:00.000001","list":["","a,b"],"inner_":{"x":1,"y":""}}"#,
        "\n",
        r#"{"n":2,"d":1e300,"text":"a \"b\", c\r\nd\n","list":[null],"inner_":{}}"#,
        "\n{\"n\":3}\n",
        r#"{"n":4,"yes":false,"i":0,"d":-0.0,"price":"-0.01","text":" null ","list":[]}"#,
        "\n",
        r#"{"n":5,"text":"NULL"}"#,
    );
    let lone_rows = "{\"text\":null}\n{\"text\":\"\"}\n{\"text\":\"a\"}\n{\"text\":null}\n";
    for (name, columns, rows) in [("wide", columns, rows), ("lone", lone, lone_rows)] {
        let copy = format!("{name}_copy");
        for stream in [name, &copy] {
            let ran = up
                .run(&["sql", &format!("CREATE STREAM {stream} {columns}")])
                .await;
            assert_eq!(ran.code, 0, "{ran:?}");
        }
        let args = ["--url", &up.url, "ingest", name, "--errors", "reject"];
        summary(&run(&args, rows.as_bytes()).await);
        let ask = async |stream: &str, format| {
            let sql = format!("SELECT * FROM {stream} ORDER BY _offset");
            let ran = up.run(&["sql", &sql, "--format", format]).await;
            assert_eq!(ran.code, 0, "{ran:?}");
            ran.out
        };
        let csv = ask(name, "csv").await;
        let args = [
            "--url", &up.url, "ingest", &copy, "--format", "csv", "--errors", "reject",
        ];
        summary(&run(&args, csv.as_bytes()).await);
        assert_eq!(ask(&copy, "ndjson").await, ask(name, "ndjson").await);
        assert_eq!(ask(&copy, "csv").await, csv);
    }
}

/// A JSON array larger than any body may be, and how many elements it has.
fn large_array(dir: &Path) -> (PathBuf, usize) {
    let path = dir.join("notes.json");
    let element = format!("{{\"text\":\"{}\"}}", "x".repeat(2000));
    let elements = 160 * MIB / element.len();
    let mut file = BufWriter::new(File::create(&path).unwrap());
    for index in 0..elements {
        let separator = if index == 0 { "[\n" } else { ",\n" };
        write!(file, "{separator}{element}").unwrap();
    }
    write!(file, "\n]\n").unwrap();
    file.into_inner().unwrap();
    (path, elements)
}

/// The most memory that a process has held when it ended, in bytes.
async fn peak_memory(child: &mut Child) -> usize {
    let path = format!("/proc/{}/status", child.id().unwrap());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let status = std::fs::read_to_string(&path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        // A process that is just ending has none.
        peak = kib.map_or(peak, |kib| kib.trim().parse::<usize>().unwrap() * 1024);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    peak
}

#[tokio::test]
async fn an_array_larger_than_a_body_goes_through_in_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let (file, elements) = large_array(dir.path());
    let up = Up::start(&dir.path().join("data"), &[]).await;
    declare_notes(&up).await;
    let args = ["--url", &up.url, "ingest", "notes", file.to_str().unwrap()];
    let mut child = program(&args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let peak = tokio::time::timeout(PATIENCE, peak_memory(&mut child))
        .await
        .unwrap();
    assert!(child.wait().await.unwrap().success());
    assert_eq!(count(&up.run(&COUNT).await), elements as u64);
    // A part, the pieces read ahead of it, the program itself, and what its allocator keeps; the file alone is 160 MiB.
    assert!((MIB..120 * MIB).contains(&peak), "{} MiB", peak / MIB);
}

#[tokio::test]
async fn a_damaged_file_takes_no_more_memory_than_it_has_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("claims.arrow");
    // Two GiB of metadata.
    std::fs::write(&file, b"\xff\xff\xff\xff\xff\xff\xff\x7fand no more").unwrap();
    let mut child = program(&["infer", file.to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let peak = peak_memory(&mut child).await;
    assert_eq!(child.wait().await.unwrap().code(), Some(1));
    assert!(peak < 200 * MIB, "{} MiB", peak / MIB);
}

/// Forwards to `server` until `budget` bytes have gone there, and then nothing more, as if the network
/// stood still; tells when that is.
async fn stalling_proxy(server: String, budget: usize) -> (String, oneshot::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (stalled, told) = oneshot::channel();
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(server.strip_prefix("http://").unwrap());
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.await.unwrap().into_split();
        tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
        let mut first = tokio::io::AsyncReadExt::take(&mut from_client, budget as u64);
        tokio::io::copy(&mut first, &mut to_server).await.unwrap();
        to_server.flush().await.unwrap();
        stalled.send(()).unwrap();
        // Both ends stay open until the test ends.
        std::future::pending::<()>().await;
    });
    (url, told)
}

#[tokio::test]
async fn a_kill_in_the_middle_is_resumed_and_nothing_doubles() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (file, elements) = large_array(dir.path());
    let ingest = ["ingest", "notes", file.to_str().unwrap()];
    let up = Up::start(&data, &[]).await;
    declare_notes(&up).await;

    // In the middle of the file, and in the middle of a request.
    let (url, stalled) = stalling_proxy(up.url.clone(), 22 * MIB).await;
    let mut child = program(&[&["--url", url.as_str()], &ingest[..]].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    tokio::time::timeout(PATIENCE, stalled)
        .await
        .unwrap()
        .unwrap();
    child.kill().await.unwrap();
    let stored = count(&up.run(&COUNT).await);
    // Whole parts, of which there are five before the stall.
    let part = (PART_BYTES / (elements_bytes(elements, &file))) as u64;
    assert!(
        stored >= 5 * part && stored < 6 * part,
        "{stored} of {part} a part"
    );

    let ran = up.run(&ingest).await;
    assert_eq!(summary(&ran)["accepted"], elements);
    let told = format!(
        "{} of these events had been stored",
        indicatif::HumanCount(stored)
    );
    assert!(ran.err.contains(&told), "{told}: {}", ran.err);
    assert_eq!(count(&up.run(&COUNT).await), elements as u64);

    // The server remembers across a restart.
    assert_eq!(up.stop(Signal::TERM).await.0, 0);
    let up = Up::start(&data, &[]).await;
    assert_eq!(up.run(&ingest).await.code, 0);
    assert_eq!(count(&up.run(&COUNT).await), elements as u64);
}

#[tokio::test]
async fn an_interrupt_says_how_far_it_got_and_how_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (file, elements) = large_array(dir.path());
    let up = Up::start(&dir.path().join("data"), &[]).await;
    declare_notes(&up).await;
    let (url, stalled) = stalling_proxy(up.url.clone(), 22 * MIB).await;
    let child = program(&["--url", &url, "ingest", "notes", file.to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    tokio::time::timeout(PATIENCE, stalled)
        .await
        .unwrap()
        .unwrap();
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    rustix::process::kill_process(pid.unwrap(), Signal::INT).unwrap();
    let ended = tokio::time::timeout(PATIENCE, child.wait_with_output());
    let ended = ended.await.unwrap().unwrap();
    let (out, err) = (ended.stdout, String::from_utf8(ended.stderr).unwrap());
    assert_eq!((ended.status.code(), out.len()), (Some(1), 0), "{err}");
    assert!(err.contains("interrupted"), "{err}");
    let told = err
        .lines()
        .find(|line| line.contains(" events were stored"));
    let told = told.unwrap();
    assert!(
        told.contains("running the same command again goes on"),
        "{told}"
    );
    // The request that stood still was not whole, so what had been answered is all there is.
    let digits: String = told
        .split(" events")
        .next()
        .unwrap()
        .chars()
        .filter(char::is_ascii_digit)
        .collect();
    let said: u64 = digits.parse().unwrap();
    let part = (PART_BYTES / elements_bytes(elements, &file)) as u64;
    assert!(said >= 5 * part, "{told}");
    assert_eq!(count(&up.run(&COUNT).await), said, "{told}");
}

/// Bytes of one element of a file.
fn elements_bytes(elements: usize, file: &Path) -> usize {
    usize::try_from(file.metadata().unwrap().len()).unwrap() / elements
}

#[tokio::test]
async fn a_refused_part_is_stored_not_at_all_and_the_parts_before_it_whole() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("notes.ndjson");
    let line = format!("{{\"text\":\"{}\"}}\n", "x".repeat(2000));
    let per_part = PART_BYTES.div_ceil(line.len());
    let bad = 2 * per_part - 1;
    let lines = line.repeat(bad) + "{\"text\":7}\n" + &line.repeat(per_part);
    std::fs::write(&file, lines).unwrap();
    let up = Up::start(&dir.path().join("data"), &[]).await;
    declare_notes(&up).await;
    let args = [
        "ingest",
        "notes",
        file.to_str().unwrap(),
        "--errors",
        "reject",
    ];
    let ran = up.run(&args).await;
    assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{ran:?}");
    assert!(
        ran.err.contains(&format!("line {}", bad + 1)),
        "{}",
        ran.err
    );
    assert_eq!(count(&up.run(&COUNT).await), per_part as u64);
}
