// SPDX-License-Identifier: Apache-2.0
//! Many clients at once, and slow ones: each is answered or told when to come again, and memory stays bounded.

use std::sync::Arc;

use parking_lot::Mutex;
use reqwest::Client;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::crash::{append, declare};
use crate::support::feed::Feed;
use crate::support::server::{Calls, HANGS, Server};

const CLIENTS: usize = 200;
/// Appends and questions of each.
const TURNS: usize = 5;
const MIB: usize = 1 << 20;

/// What clients that are told to come again heard.
const BUSY: [u16; 2] = [429, 503];

pub(super) async fn client(calls: Calls, feed: Arc<Mutex<Feed>>) -> usize {
    let mut refused = 0;
    for _ in 0..TURNS {
        let (number, request) = {
            let mut feed = feed.lock();
            let number = feed.push(20, 0);
            (number, feed.request(number))
        };
        loop {
            let (status, answer) = request.try_send(&calls).await.expect("it lives");
            if status == 200 {
                feed.lock().answered(number, answer);
                break;
            }
            assert!(BUSY.contains(&status), "{status}: {answer}");
            refused += 1;
        }
        let (after, acknowledged) = feed.lock().acknowledged().unwrap();
        let question = json!({"sql": "SELECT seen FROM total", "after": after, "timeout_ms": HANGS.as_millis() as u64});
        let (status, answer) = calls.post("/v1/sql", &question).await.expect("it lives");
        if status == 200 {
            let seen = answer["rows"][0]["seen"].as_i64().unwrap();
            assert!(
                seen >= acknowledged,
                "{answer}, {acknowledged} were acknowledged"
            );
        } else {
            assert!(BUSY.contains(&status), "{status}: {answer}");
            refused += 1;
        }
    }
    refused
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_at_once_are_all_served() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    declare(&server.calls()).await.unwrap();
    let feed = Arc::new(Mutex::new(Feed::default()));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(client(server.calls(), Arc::clone(&feed)));
    }
    let refused: usize = clients.join_all().await.into_iter().sum();
    println!(
        "{refused} of {} requests were to come again",
        CLIENTS * TURNS * 2
    );
    let feed = std::mem::take(&mut *feed.lock());
    feed.verify(&server.calls()).await;
    let peak = server.peak_memory();
    assert!(peak < 1024 * MIB, "{} MiB", peak / MIB);
}

/// Files and connections compete for descriptors: whoever gets none is told to come again, or waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_file_descriptors_left_loses_nothing() {
    let home = tempfile::tempdir().unwrap();
    let arguments = ["--archive-interval", "1s"];
    let server = Server::start_with(home.path(), &arguments, &[]).await;
    let server = server.expect("it starts");
    declare(&server.calls()).await.unwrap();
    server.limit_files(96);
    let feed = Arc::new(Mutex::new(Feed::default()));
    let mut clients = JoinSet::new();
    // Each request comes over a connection of its own: idle ones would hold descriptors until they time out.
    let once = Client::builder().pool_max_idle_per_host(0).timeout(HANGS);
    let once = once.no_proxy().build().unwrap();
    for _ in 0..CLIENTS {
        let calls = Calls::to(once.clone(), server.url());
        clients.spawn(client(calls, Arc::clone(&feed)));
    }
    clients.join_all().await;
    assert!(server.log().contains("os error 24"), "{}", server.log());
    let feed = std::mem::take(&mut *feed.lock());
    feed.verify(&server.calls()).await;
}

/// Each holds an answer of gigabytes, of which it reads a byte at a time. The server holds none of them, and serves others.
#[tokio::test]
pub(super) async fn clients_that_read_a_byte_at_a_time_cost_no_memory_and_keep_nobody_waiting() {
    const SLOW: usize = 32;
    const EVENTS: i64 = 20_000;
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    let mut feed = Feed::default();
    declare(&calls).await.unwrap();
    append(&calls, &mut feed, EVENTS, 0).await.unwrap();
    feed.verify(&calls).await;
    let before = server.peak_memory();
    let address = server.url().strip_prefix("http://").unwrap().to_owned();
    let mut slow = vec![];
    for _ in 0..SLOW {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let request = format!(
            "GET /v1/sql?q=SELECT+a.n,+b.n+AS+m+FROM+events+a,+events+b&format=ndjson&timeout_ms=3600000 HTTP/1.1\r\nhost: {address}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    for _ in 0..20 {
        for stream in &mut slow {
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
        }
        append(&calls, &mut feed, 10, 0).await.unwrap();
        feed.verify_views(&calls, &feed.after()).await;
    }
    let grown = server.peak_memory().saturating_sub(before);
    assert!(grown < 512 * MIB, "{} MiB", grown / MIB);
    drop(slow);
    feed.verify(&calls).await;
}
