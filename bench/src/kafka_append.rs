// SPDX-License-Identifier: Apache-2.0
//! Appending to a Kafka topic over HTTP, against a plain transactional producer that sends the same bytes: events a
//! second with bodies of 64 KiB and 1 MiB, and how long a single event takes, with a key and without.
//!
//! Run: `cargo run --release -p dovetail-bench --bin bench-kafka-append`, once `script/kafka-jars` has fetched a broker.
//! The server is `dovetail` beside this program (build it first), or `DOVETAIL_BIN`. `BENCH_SECONDS` (5) for each line;
//! one client, one request at a time.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use dovetail_bench::{Figures, Flights, NDJSON, Server, setting};
use dovetail_broker::{Broker, Producer};
use reqwest::header::CONTENT_TYPE;

const PARTITIONS: i32 = 4;
/// Events of one flight's JSON that make about 64 KiB and 1 MiB.
const SIZES: [(&str, usize); 3] = [("1 event", 1), ("64 KiB", 600), ("1 MiB", 9_600)];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let seconds = Duration::from_secs(setting("BENCH_SECONDS", 5)?);
    let broker = Broker::start();
    let server = Server::start().await?;
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{:<10}{:<22}{:>10}{:>12}{:>10}{:>10}",
        "body", "by", "KiB", "events/s", "p50 ms", "p99 ms"
    )?;
    for (name, batch) in SIZES {
        let flights = Flights::load(batch)?;
        let topic = format!("flights-{batch}");
        broker.create_topic(&topic, PARTITIONS);
        let stream = format!("flights_{batch}");
        let create = format!(
            "CREATE STREAM {stream} (date TIMESTAMP NOT NULL, delay BIGINT, distance BIGINT, origin VARCHAR, destination VARCHAR) \
             WITH (event_time = 'date', source = 'kafka', brokers = '{}', topic = '{topic}')",
            broker.address()
        );
        server.sql(&create).await?;
        let url = format!("{}/v1/streams/{stream}", server.url());
        let client = reqwest::Client::builder().no_proxy().build()?;
        for keyed in [false, true] {
            let mut taken = Taken::default();
            let begin = Instant::now();
            while begin.elapsed() < seconds {
                let body = flights.body(taken.events);
                let mut request = client.post(&url).header(CONTENT_TYPE, NDJSON);
                if keyed {
                    let key = format!("{name} {}", taken.ms.len()).replace(' ', "-");
                    request = request.header("idempotency-key", key);
                }
                let sent = Instant::now();
                let answer = request.body(body.clone()).send().await?;
                answer.error_for_status().context("an append is refused")?;
                taken.took(sent, &body);
            }
            let by = if keyed { "POST with a key" } else { "POST" };
            writeln!(out, "{name:<10}{by:<22}{}", taken.said(begin.elapsed()))?;
        }
        let producer = broker.transactional(&topic);
        let mut taken = Taken::default();
        let begin = Instant::now();
        while begin.elapsed() < seconds {
            let body = flights.body(taken.events);
            let sent = Instant::now();
            transact(&producer, &topic, &body)?;
            taken.took(sent, &body);
        }
        writeln!(
            out,
            "{name:<10}{:<22}{}",
            "plain producer",
            taken.said(begin.elapsed())
        )?;
    }
    server.stop().await
}

fn transact(producer: &Producer, topic: &str, body: &Bytes) -> Result<()> {
    let text = std::str::from_utf8(body)?;
    producer.begin();
    producer.send(topic, 0, text.lines());
    producer.commit();
    Ok(())
}

/// How long requests took, and what they held.
#[derive(Default)]
struct Taken {
    ms: Figures,
    events: u64,
    bytes: usize,
}

impl Taken {
    fn took(&mut self, since: Instant, body: &Bytes) {
        self.ms.push(since.elapsed().as_secs_f64() * 1000.0);
        self.events += body.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.bytes += body.len();
    }

    fn said(&self, elapsed: Duration) -> String {
        format!(
            "{:>10.1}{:>12.0}{:>10.2}{:>10.2}",
            self.bytes as f64 / 1024.0 / self.ms.len() as f64,
            self.events as f64 / elapsed.as_secs_f64(),
            self.ms.median(),
            self.ms.at(0.99),
        )
    }
}
