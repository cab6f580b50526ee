// SPDX-License-Identifier: Apache-2.0
//! Clients that read their answers slowly, or not at all, cost the server what its settings say, and nobody else anything.

use std::io::ErrorKind;
use std::net::SocketAddr;

use futures::future::join_all;
use rand::SeedableRng as _;
use rand::distr::{Alphanumeric, SampleString as _};
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::dead_letters::archived;
use crate::memory::{with_events, with_little_memory};
use crate::support::server::{HANGS, Server};

const MIB: usize = 1 << 20;
const EVENTS: usize = 500;
const GROUPS: usize = 200;
const TEXT_BYTES: usize = 100_000;
const READERS: usize = 12;

/// A client that has asked, and of its answer has read the first byte.
struct SlowReader {
    socket: TcpStream,
    read: Vec<u8>,
}

impl SlowReader {
    async fn ask(server: &Server, question: &Value, format: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // What the kernel takes off the server's hands is not what this is about.
        socket.set_recv_buffer_size(4096).unwrap();
        Self::ask_over(socket, server, question, format).await
    }

    async fn ask_over(socket: TcpSocket, server: &Server, question: &Value, format: &str) -> Self {
        let address = server.url().strip_prefix("http://").unwrap();
        let connecting = socket.connect(address.parse::<SocketAddr>().unwrap());
        let mut socket = connecting.await.unwrap();
        let body = question.to_string();
        let request = format!(
            "POST /v1/sql?format={format} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let first = tokio::time::timeout(HANGS, socket.read_u8()).await;
        let read = vec![first.expect("it answers").unwrap()];
        Self { socket, read }
    }

    /// The status, and all of the answer from its headers on, up to where it breaks off if it does.
    async fn rest(mut self) -> (u16, String) {
        let reading = self.socket.read_to_end(&mut self.read);
        let reading = tokio::time::timeout(HANGS, reading).await;
        if let Err(error) = reading.expect("it goes on") {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        }
        let answer = String::from_utf8(self.read).unwrap();
        let status = answer["HTTP/1.1 ".len()..][..3].parse().unwrap();
        (status, answer)
    }
}

/// The status and all of the answer, read as it comes.
async fn read_at_once(server: &Server, question: &Value) -> (u16, String) {
    let socket = TcpSocket::new_v4().unwrap();
    let asked = SlowReader::ask_over(socket, server, question, "csv").await;
    asked.rest().await
}

/// How many of the texts are in `answer`, and whether it has its end.
fn texts(answer: &str) -> (usize, bool) {
    let of_texts = answer.bytes().filter(|byte| *byte == b'~').count();
    (of_texts / TEXT_BYTES, answer.ends_with("\r\n0\r\n\r\n"))
}

fn events() -> String {
    // Nothing else in an answer has this letter.
    let text = "~".repeat(TEXT_BYTES);
    let line = |n| json!({"n": n, "t": text}).to_string() + "\n";
    (0..EVENTS).map(line).collect()
}

#[tokio::test]
async fn slow_readers_of_wide_rows_hold_no_more_than_the_memory_of_queries() {
    let home = tempfile::tempdir().unwrap();
    let (server, position) = with_little_memory(&home, events()).await;
    let calls = server.calls();
    let before = server.peak_memory();
    // Groups are all there before the first of them is answered.
    let groups = format!("SELECT n, max(t) AS t FROM events WHERE n < {GROUPS} GROUP BY n");
    let all = "SELECT n, t FROM events".to_owned();
    for (sql, format, grouped) in [
        (&all, "ndjson", false),
        (&all, "csv", false),
        (&groups, "json", true),
    ] {
        let question = json!({"sql": sql, "after": position, "timeout_ms": 80_000});
        let mut readers = vec![];
        for _ in 0..READERS {
            readers.push(SlowReader::ask(&server, &question, format).await);
        }
        // Others are answered, or told what to do.
        let counting = json!({"sql": "SELECT count(*) AS n FROM events", "after": position});
        let (status, counted) = calls.post("/v1/sql", &counting).await.unwrap();
        if grouped && status == 429 {
            // Those of them that still compute have the other half.
            let detail = counted["detail"].as_str().unwrap();
            assert!(detail.contains("--query-memory"), "{detail}");
        } else {
            assert_eq!(status, 200, "{counted}");
            assert_eq!(counted["rows"], json!([{"n": EVENTS}]));
        }

        // What was begun comes to its end, or gave way to what waited and has none; what was not says why.
        let mut whole = 0;
        for reader in readers {
            let (status, answer) = reader.rest().await;
            let start = &answer[..answer.len().min(2000)];
            if status == 200 && !texts(&answer).1 {
                // Also where its groups outgrew what was left when some of them were answered.
            } else if status == 200 {
                let expected = if grouped { GROUPS } else { EVENTS };
                assert_eq!(texts(&answer), (expected, true), "{start}");
                whole += 1;
            } else {
                assert_eq!(status, 429, "{start}");
                for part in ["retry-after: ", "--query-memory"] {
                    assert!(answer.contains(part), "{part}: {start}");
                }
            }
        }
        assert!(grouped || whole > 0, "none was answered");
    }
    let grown = server.peak_memory() - before;
    assert!(grown < 200 * MIB, "{} MiB", grown / MIB);
}

/// They have all places, and give one up to who waits for it.
#[tokio::test]
async fn readers_that_stall_keep_nobody_from_a_place() {
    const PLACES: usize = 3;
    let home = tempfile::tempdir().unwrap();
    let places = PLACES.to_string();
    let server = Server::start_with(home.path(), &["--queries", &places], &[]).await;
    let server = server.expect("it starts");
    let position = with_events(&server, events()).await;
    let all = json!({"sql": "SELECT n, t FROM events", "after": position, "timeout_ms": 80_000});
    let mut stalled = vec![];
    for _ in 0..2 * PLACES {
        stalled.push(SlowReader::ask(&server, &all, "ndjson").await);
    }
    let counting = json!({"sql": "SELECT count(*) AS n FROM events", "timeout_ms": 30_000});
    let (status, counted) = server.calls().post("/v1/sql", &counting).await.unwrap();
    assert_eq!(status, 200, "{counted}");
    assert_eq!(counted["rows"], json!([{"n": EVENTS}]));
    let mut whole = 0;
    for reader in stalled {
        let (status, answer) = reader.rest().await;
        assert_eq!(status, 200);
        whole += usize::from(texts(&answer) == (EVENTS, true));
    }
    assert!(whole < PLACES, "{whole} kept theirs");
}

/// What nobody reads any more is on no account.
#[tokio::test]
async fn readers_that_go_away_leave_all_of_the_memory_to_others() {
    let home = tempfile::tempdir().unwrap();
    let (server, position) = with_little_memory(&home, events()).await;
    let all = json!({"sql": "SELECT n, t FROM events", "after": position, "timeout_ms": 80_000});
    for _ in 0..3 {
        let mut readers = vec![];
        for _ in 0..READERS {
            readers.push(SlowReader::ask(&server, &all, "ndjson").await);
        }
        drop(readers);
        // The server notices that when it writes to them next.
        let asking = async {
            loop {
                let (status, answer) = SlowReader::ask(&server, &all, "ndjson").await.rest().await;
                if status == 200 {
                    return answer;
                }
                assert_eq!(status, 429, "{answer}");
            }
        };
        let answer = tokio::time::timeout(HANGS, asking).await;
        let answer = answer.expect("there is room again");
        assert_eq!(texts(&answer), (EVENTS, true));
    }
}

/// Rows of 12 KB that no file makes smaller.
fn incompressible(rows: usize) -> String {
    let mut random = StdRng::seed_from_u64(7);
    let mut line = |n| {
        let text = Alphanumeric.sample_string(&mut random, 12_000);
        json!({"n": n, "t": text}).to_string() + "\n"
    };
    (0..rows).map(&mut line).collect()
}

/// Each holds two row groups of 8 MiB and more.
#[tokio::test]
async fn readers_who_read_are_served_beside_some_who_do_not() {
    const ROWS: usize = 3_000;
    let home = tempfile::tempdir().unwrap();
    let (server, position) = with_little_memory(&home, incompressible(ROWS)).await;
    archived(&server.calls(), "events").await;
    let all = json!({"sql": "SELECT n, t FROM events", "after": position, "timeout_ms": 80_000});
    let mut stalled = vec![];
    for _ in 0..READERS {
        stalled.push(SlowReader::ask(&server, &all, "csv").await);
    }
    let reading = (0..3).map(|_| async {
        // As they are told: with more of them who read, it takes its time until each has its turn.
        loop {
            let (status, answer) = read_at_once(&server, &all).await;
            if status == 200 {
                return answer;
            }
            assert_eq!(status, 429, "{answer}");
            assert!(answer.contains("retry-after: "), "{answer}");
        }
    });
    let reading = tokio::time::timeout(HANGS, join_all(reading)).await;
    for answer in reading.expect("they are served") {
        assert!(answer.ends_with("\r\n0\r\n\r\n"));
        let rows = answer.match_indices('\n').count();
        assert!(rows > ROWS, "{rows}");
    }
    drop(stalled);
}

/// Row groups whose rows wait for a reader are fetched when there is room for them.
#[tokio::test]
async fn many_wide_answers_at_once_take_little_more_than_the_memory_of_queries() {
    asked_by_many(&["SELECT n, t FROM events"], 200).await;
}

/// No more compute at once than have memory for what they read.
#[tokio::test]
async fn many_that_compute_at_once_take_little_more_than_the_memory_of_queries() {
    let questions = [
        "SELECT n % 9 AS g, first_value(t ORDER BY n) FROM events GROUP BY n % 9",
        "SELECT sum(length(t)), count(*) FROM events",
        "SELECT count(*) FROM events a JOIN events b ON a.t = b.t",
        "SELECT count(DISTINCT t) FROM events",
    ];
    asked_by_many(&questions, 400).await;
}

/// Each of `questions` by 40 at once: the server grows by less than `mib`.
async fn asked_by_many(questions: &[&str], mib: usize) {
    const ROWS: usize = 3_000;
    const ASKING: usize = 40;
    let home = tempfile::tempdir().unwrap();
    let (server, position) = with_little_memory(&home, incompressible(ROWS)).await;
    archived(&server.calls(), "events").await;
    let before = server.peak_memory();
    for sql in questions {
        let question = json!({"sql": sql, "after": position, "timeout_ms": 80_000});
        let asking = (0..ASKING).map(|_| read_at_once(&server, &question));
        let answers = join_all(asking).await;
        assert!(answers.iter().any(|(status, _)| *status == 200), "{sql}");
        for (status, answer) in answers {
            if status == 200 {
                assert!(answer.contains("content-length: ") || answer.ends_with("\r\n0\r\n\r\n"));
            } else {
                let start = &answer[..answer.len().min(2000)];
                assert!(status == 429 && answer.contains("retry-after: "), "{start}");
            }
        }
        let grown = (server.peak_memory() - before) / MIB;
        assert!(grown < mib, "{grown} MiB for {sql}");
    }
}
