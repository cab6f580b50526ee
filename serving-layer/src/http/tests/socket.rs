// SPDX-License-Identifier: Apache-2.0
//! Limits and timeouts that only a connection has. Clients here speak raw HTTP/1.1.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::super::{ApiConfig, ServerConfig, serve};
use super::*;

/// Longer than anything here takes, unless it hangs.
const HANG: Duration = Duration::from_secs(60);

struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(fake: &Fake, change: impl FnOnce(&mut ServerConfig)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut config = ServerConfig::default();
        change(&mut config);
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopped.await;
        };
        let task = tokio::spawn(serve(
            listener,
            Served::All(fake.ports()),
            ApiConfig::default(),
            config,
            shutdown,
        ));
        Self {
            address,
            stop: Some(stop),
            task,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn send(&self, request: &str) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// Tells the server to stop.
    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }
}

fn query(table: &str) -> String {
    format!(
        "GET /v1/sql?q=SELECT+*+FROM+{table}&timeout_ms=2000 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    )
}

/// Everything until the server closes or breaks the connection.
async fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = timeout(HANG, stream.read_to_end(&mut bytes))
        .await
        .expect("the server hangs");
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn a_whole_answer_ends_and_a_broken_one_does_not() {
    let server = Server::start(&Fake::default(), |_| {}).await;
    let whole = read_all(&mut server.send(&query("large")).await).await;
    assert!(whole.starts_with("HTTP/1.1 200 OK") && whole.ends_with("\r\n0\r\n\r\n"));
    for table in ["fails_late", "stuck_late"] {
        let broken = read_all(&mut server.send(&query(table)).await).await;
        assert!(
            broken.starts_with("HTTP/1.1 200 OK") && broken.len() > 100_000,
            "{table}"
        );
        assert!(!broken.ends_with("0\r\n\r\n"), "{table}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_query() {
    let fake = Fake::default();
    let server = Server::start(&fake, |_| {}).await;
    let mut stream = server.send(&query("endless")).await;
    let mut some = [0; 4096];
    stream.read_exact(&mut some).await.unwrap();
    drop(stream);
    timeout(HANG, fake.dropped())
        .await
        .expect("the query lives on");
}

/// As one that waits for its turn: it must never get it.
#[tokio::test]
async fn a_client_that_leaves_while_its_query_waits_cancels_it() {
    let fake = Fake::default();
    let server = Server::start(&fake, |_| {}).await;
    let asked = query("gated").replace("2000", "3600000");
    let stream = server.send(&asked).await;
    fake.at_gate().await;
    drop(stream);
    timeout(HANG, fake.dropped())
        .await
        .expect("the query waits on");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let fake = Fake::default();
    let server = Server::start(&fake, |c| c.stall_timeout = Duration::from_millis(200)).await;
    let stream = server
        .send(&query("endless").replace("2000", "3600000"))
        .await;
    timeout(HANG, fake.dropped())
        .await
        .expect("the query lives on");
    drop(stream);
}

/// A byte now and then is not reading: what the kernel holds for it does not move.
#[tokio::test]
async fn a_client_that_reads_a_byte_at_a_time_is_cut_off() {
    let fake = Fake::default();
    let server = Server::start(&fake, |c| c.stall_timeout = Duration::from_millis(500)).await;
    let asked = query("endless").replace("2000", "3600000");
    let mut stream = server.send(&asked).await;
    let dropped = fake.dropped();
    tokio::pin!(dropped);
    let reading = async {
        let mut byte = [0];
        loop {
            tokio::select! {
                () = &mut dropped => return,
                read = stream.read_exact(&mut byte) => {
                    read.unwrap();
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    };
    timeout(HANG, reading).await.expect("the query lives on");
}

#[tokio::test]
async fn slow_and_huge_headers_are_cut_off() {
    let server = Server::start(&Fake::default(), |c| {
        c.head_timeout = Duration::from_millis(200);
        c.idle_timeout = Duration::from_millis(400);
    })
    .await;
    let whole = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    // At the first request of a connection and at a later one, and however the bytes come.
    for (begin, rest) in [
        ("GET /healthz HTTP/1.1\r\nhost: loc", ""),
        (whole, "GET /heal"),
        ("GET", " "),
    ] {
        let mut slow = server.send(begin).await;
        let mut answers = String::new();
        while begin == whole && !answers.ends_with('}') {
            let mut byte = [0];
            slow.read_exact(&mut byte).await.unwrap();
            answers.push(char::from(byte[0]));
        }
        slow.write_all(rest.as_bytes()).await.unwrap();
        answers += &read_all(&mut slow).await;
        let (before, cut) = answers
            .split_once("HTTP/1.1 408 ")
            .unwrap_or_else(|| panic!("{answers}"));
        assert_eq!(before.contains("200 OK"), begin == whole, "{answers}");
        assert!(cut.contains("urn:dovetail:problem:timeout"), "{cut}");
        assert!(
            cut.contains("did not come to its end within 200 ms"),
            "{cut}"
        );
    }
    // One that began to come with the request before it has the time of an idle connection.
    let mut ahead = server.send(&format!("{whole}GET /heal")).await;
    let answers = read_all(&mut ahead).await;
    assert!(answers.starts_with("HTTP/1.1 200 OK"), "{answers}");
    assert!(answers.trim_end().ends_with('}'), "{answers}");
    let mut trickles = server.send("GET /").await;
    let trickle = async {
        while trickles.write_all(b"a").await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(HANG, trickle).await.expect("it may go on for ever");
    let mut idle = server.connect().await;
    assert_eq!(read_all(&mut idle).await, "");
    let huge = format!(
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
        "x".repeat(1_000_000)
    );
    let mut huge = server.send(&huge).await;
    assert!(!read_all(&mut huge).await.contains("200 OK"));
    let mut well = server
        .send("GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await;
    assert!(
        read_all(&mut well).await.contains("200 OK"),
        "the server still answers others"
    );
}

/// Clients that stop in the middle of a head or of a body, or that stay and ask nothing, keep nobody out, and a probe
/// least of all.
#[tokio::test]
async fn stalled_clients_take_no_place_from_those_who_ask() {
    const PLACES: usize = 64;
    let fake = Fake::default();
    let server = Server::start(&fake, |c| c.max_connections = PLACES).await;
    let asks = query("gated").replace("2000", "3600000");
    let mut asking = server.send(&asks).await;
    fake.at_gate().await;
    let body = "POST /v1/streams/flights HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\ncontent-length: 60000000\r\n\r\n{";
    let mut stalled = vec![];
    for _ in 0..80 {
        for begin in ["GET /v1/sta", body, ""] {
            stalled.push(server.send(begin).await);
        }
    }
    // The fake is never ready.
    for (path, status) in [("healthz", 200), ("readyz", 503)] {
        let probe = format!("GET /{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let answer = read_all(&mut server.send(&probe).await).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
    // Who waits for an answer keeps its place.
    let mut byte = [0];
    let waits = timeout(Duration::from_millis(10), asking.read(&mut byte)).await;
    assert!(waits.is_err(), "it was cut off: {waits:?}");
}

/// One line of 200 MB, announced or not: refused, and the client that is still sending hears it.
#[tokio::test]
async fn a_line_of_200_mb_is_refused() {
    let server = Server::start(&Fake::default(), |_| {}).await;
    let head = "POST /v1/streams/flights HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\n";
    let megabyte = "x".repeat(1024 * 1024);
    for announced in [true, false] {
        let (framing, chunk) = if announced {
            ("content-length: 209715200\r\n\r\n", megabyte.clone())
        } else {
            (
                "transfer-encoding: chunked\r\n\r\n",
                format!("100000\r\n{megabyte}\r\n"),
            )
        };
        let stream = server.send(&format!("{head}{framing}")).await;
        let (mut reads, mut writes) = stream.into_split();
        let sender = tokio::spawn(async move {
            for _ in 0..200 {
                writes.write_all(chunk.as_bytes()).await?;
            }
            std::io::Result::Ok(())
        });
        let mut reply = Vec::new();
        let _ = timeout(HANG, reads.read_to_end(&mut reply))
            .await
            .expect("the server hangs");
        let reply = String::from_utf8(reply).unwrap();
        assert!(
            reply.starts_with("HTTP/1.1 413"),
            "announced={announced}: {reply}"
        );
        assert!(
            reply.contains("larger than 64 MiB: send less at a time"),
            "{reply}"
        );
        assert!(sender.await.unwrap().is_err(), "the server took all of it");
    }
}

/// A client that sends its whole body before it reads, as many do, hears a refusal that came early.
#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let server = Server::start(&Fake::default(), |_| {}).await;
    let head = "POST /v1/streams/flights HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/html\r\ncontent-length: 70000000\r\n\r\n";
    let mut stream = server.send(head).await;
    stream.write_all(&vec![b'x'; 70_000_000]).await.unwrap();
    let reply = read_all(&mut stream).await;
    assert!(reply.starts_with("HTTP/1.1 415"), "{reply}");
}

/// Or it would send its next request on a connection that is about to be closed.
#[tokio::test]
async fn a_client_hears_that_its_connection_ends_with_what_was_not_read() {
    let server = Server::start(&Fake::default(), |_| {}).await;
    let append = |kind: &str, bytes: usize| {
        let head = "POST /v1/streams/flights HTTP/1.1\r\nhost: localhost\r\ncontent-type: ";
        format!("{head}{kind}\r\ncontent-length: {bytes}\r\n\r\n")
    };
    for (kind, bytes, sent, status, closes) in [
        ("text/html", 6_000_000, 1000, "415", true),
        ("application/x-ndjson", 200_000_000, 1000, "413", true),
        ("application/x-ndjson", 3, 3, "200", false),
    ] {
        let mut stream = server.send(&append(kind, bytes)).await;
        stream.write_all(&vec![b'\n'; sent]).await.unwrap();
        let mut head = [0; 1024];
        let read = timeout(HANG, stream.read(&mut head))
            .await
            .unwrap()
            .unwrap();
        let head = String::from_utf8_lossy(&head[..read]);
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
        assert_eq!(head.contains("\r\nconnection: close\r\n"), closes, "{head}");
    }
}

#[tokio::test]
async fn connections_past_the_cap_wait() {
    let fake = Fake::default();
    let server = Server::start(&fake, |c| c.max_connections = 1).await;
    let mut first = server.send(&query("gated")).await;
    fake.at_gate().await;
    let mut second = server.send(&query("v")).await;
    fake.open_gate();
    assert!(read_all(&mut first).await.contains("200 OK"));
    // Accepted only once the first is closed: with the gate never opened it would wait for ever.
    assert!(read_all(&mut second).await.contains("200 OK"));
    let calls = fake.calls();
    assert!(
        calls[0].contains("gated") && calls[1].contains("FROM v"),
        "{calls:?}"
    );
}

#[tokio::test]
async fn shutdown_lets_requests_end_and_accepts_no_more() {
    let fake = Fake::default();
    let mut server = Server::start(&fake, |c| c.query_grace = HANG).await;
    let mut running = server.send(&query("gated")).await;
    fake.at_gate().await;
    server.stop();
    // The listener goes away although a request still runs.
    timeout(HANG, async {
        while TcpStream::connect(server.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the server still accepts");
    fake.open_gate();
    let answer = read_all(&mut running).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("}\n"),
        "{answer}"
    );
    timeout(HANG, server.task)
        .await
        .expect("the server hangs")
        .unwrap();
}

/// A client in the middle of its append: the server reads its body.
async fn half_an_append(server: &Server) -> TcpStream {
    let head = "POST /v1/streams/flights HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\nexpect: 100-continue\r\ncontent-length: 6\r\nconnection: close\r\n\r\n";
    let mut stream = server.send(head).await;
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{}\n").await.unwrap();
    stream
}

/// Queries, whatever they wait for, get a short grace; appends keep the long one.
#[tokio::test]
async fn a_query_hears_of_the_shutdown_and_an_append_goes_on() {
    let fake = Fake::default();
    let graces = |c: &mut ServerConfig| {
        (c.query_grace, c.shutdown_grace) = (Duration::from_millis(1), HANG);
    };
    let mut server = Server::start(&fake, graces).await;
    let gated = query("gated").replace("2000", "3600000");
    let mut running = server.send(&gated).await;
    fake.at_gate().await;
    let mut append = half_an_append(&server).await;
    server.stop();
    let answer = read_all(&mut running).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("retry-after: 5\r\n"), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");
    assert!(answer.contains("the server is shutting down"), "{answer}");
    append.write_all(b"{}\n").await.unwrap();
    let answer = read_all(&mut append).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    timeout(HANG, server.task)
        .await
        .expect("the server hangs")
        .unwrap();
}

/// What has begun cannot become a problem any more. It is not made to look whole either.
#[tokio::test]
async fn an_answer_that_is_being_sent_breaks_off_at_the_shutdown() {
    let fake = Fake::default();
    for table in ["endless", "stuck_late"] {
        let graces = |c: &mut ServerConfig| {
            (c.query_grace, c.shutdown_grace) = (Duration::from_millis(1), HANG);
        };
        let mut server = Server::start(&fake, graces).await;
        let asked = query(table).replace("2000", "3600000");
        let mut stream = server.send(&asked).await;
        let mut some = [0; 4096];
        stream.read_exact(&mut some).await.unwrap();
        assert!(some.starts_with(b"HTTP/1.1 200 OK"), "{table}");
        server.stop();
        let rest = read_all(&mut stream).await;
        assert!(!rest.ends_with("0\r\n\r\n"), "{table}");
        timeout(HANG, server.task)
            .await
            .expect("the server hangs")
            .unwrap();
    }
    timeout(HANG, fake.dropped())
        .await
        .expect("the query lives on");
}

/// There a body without a length ends where the connection does: cut or whole, nobody can tell.
#[tokio::test]
async fn an_answer_over_http_1_0_has_its_length_or_is_a_problem() {
    let fake = Fake::default();
    let server = Server::start(&fake, |_| {}).await;
    for (table, format, status) in [
        ("large", "csv", "200 OK"),
        // More than is collected.
        ("large", "json", "413 Payload Too Large"),
        ("endless", "csv", "413 Payload Too Large"),
        ("stuck_late", "csv", "408 Request Timeout"),
    ] {
        let asked = query(table).replace("HTTP/1.1", "HTTP/1.0");
        let asked = asked.replace("&timeout", &format!("&format={format}&timeout"));
        let answer = read_all(&mut server.send(&asked).await).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let head = head.to_lowercase();
        assert!(head.contains(&status.to_lowercase()), "{table}: {head}");
        let length = format!("content-length: {}", body.len());
        assert!(head.contains(&length), "{table}: {head}");
    }
}

#[tokio::test]
async fn shutdown_cuts_off_what_takes_too_long() {
    let fake = Fake::default();
    let mut server = Server::start(&fake, |c| c.shutdown_grace = Duration::from_millis(100)).await;
    let mut stuck = half_an_append(&server).await;
    server.stop();
    assert_eq!(read_all(&mut stuck).await, "");
    timeout(HANG, server.task)
        .await
        .expect("the server hangs")
        .unwrap();
}
