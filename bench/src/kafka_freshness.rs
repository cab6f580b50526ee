// SPDX-License-Identifier: Apache-2.0
//! Freshness through Kafka: how long from producing a record (`acks=all`) until a lookup by key answers with it, while
//! records arrive at a steady rate, archiving on; beside it how long until a plain consumer has the same record, which is
//! the limit.
//!
//! Run: `cargo run --release -p dovetail-bench --bin bench-kafka-freshness`, once `script/kafka-jars` has fetched a broker.
//! The server is `dovetail` beside this program (build it first), or `DOVETAIL_BIN`. `BENCH_SECONDS` (30), `BENCH_RATE`
//! (events/s, 50000), in 4 partitions.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dovetail_bench::{Figures, Format, Server, kafka_stream, messages, setting};
use dovetail_broker::{Broker, Follower, Producer, Record};
use serde_json::json;

const TOPIC: &str = "flights";
const PARTITIONS: i32 = 4;
const ROUTES: &str = "CREATE VIEW routes AS SELECT origin, destination, count(*) AS flights, avg(delay) AS mean \
     FROM flights GROUP BY origin, destination";
/// Records of the steady load that are sent at once; to one partition after the other.
const BATCH: usize = 500;
/// Pause between two probes.
const PROBE_PAUSE: Duration = Duration::from_millis(5);

#[tokio::main]
async fn main() -> Result<()> {
    let seconds = setting("BENCH_SECONDS", 30)?;
    let rate = setting("BENCH_RATE", 50_000)?;
    let broker = Broker::start();
    broker.create_topic(TOPIC, PARTITIONS);
    let server = Server::start().await?;
    server
        .sql(&kafka_stream(&broker.address(), TOPIC, ""))
        .await?;
    server.sql(ROUTES).await?;
    let stream = server.get("/v1/streams/flights").await?;
    let id = stream["id"].as_str().context("a stream has an id")?;
    let probes = Probes {
        stream: id.to_owned(),
        producer: broker.producer(),
        follower: broker.follow(TOPIC),
    };
    let load = Load::start(broker.producer(), rate)?;
    let mut out = std::io::stdout();
    writeln!(out, "{rate} events/s for {seconds} s a line")?;
    writeln!(
        out,
        "{:<34}{:>8}{:>10}{:>10}{:>10}{:>12}{:>14}",
        "from producing to", "probes", "p50 ms", "p99 ms", "max ms", "events/s", "server CPU s/s"
    )?;
    let mut seen = vec![];
    for by in [By::Consumer, By::Lookup] {
        let (begin, sent) = (Instant::now(), load.sent());
        let cpu = server.cpu_seconds().await?;
        let mut latencies = Figures::default();
        while begin.elapsed() < Duration::from_secs(seconds) {
            latencies.push(probes.one(&server, by).await?);
            tokio::time::sleep(PROBE_PAUSE).await;
        }
        let elapsed = begin.elapsed().as_secs_f64();
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| latencies.at(share));
        writeln!(
            out,
            "{:<34}{:>8}{p50:>10.2}{p99:>10.2}{max:>10.2}{:>12.0}{:>14.2}",
            by.name(),
            latencies.len(),
            (load.sent() - sent) as f64 / elapsed,
            (server.cpu_seconds().await? - cpu) / elapsed,
        )?;
        seen.push(latencies);
    }
    let ratio = |share: f64| seen[1].at(share) / seen[0].at(share);
    writeln!(out, "ratio p50 {:.2}, p99 {:.2}", ratio(0.5), ratio(0.99))?;
    load.stop()?;
    server.stop().await
}

/// Who sees a probe.
#[derive(Debug, Clone, Copy)]
enum By {
    /// A consumer of all partitions, in this process.
    Consumer,
    /// A lookup by key over HTTP.
    Lookup,
}

impl By {
    fn name(self) -> &'static str {
        match self {
            Self::Consumer => "a plain consumer's having it",
            Self::Lookup => "a lookup's answering with it",
        }
    }
}

/// Records with a key of their own.
struct Probes {
    /// The id of the stream.
    stream: String,
    producer: Producer,
    follower: Follower,
}

impl Probes {
    /// Milliseconds from before it is produced until it is seen.
    async fn one(&self, server: &Server, by: By) -> Result<f64> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let partition = i32::try_from(number % 4)?;
        let key = format!("probe{number}");
        let event = json!({"date": "2001-01-01T00:00:00", "delay": 1, "distance": 1, "origin": key, "destination": key});
        let event = event.to_string();
        let record = Record {
            partition,
            value: Some(event.as_bytes()),
            ..Record::default()
        };
        let begin = Instant::now();
        let offset = tokio::task::block_in_place(|| self.producer.send_one(TOPIC, &record));
        match by {
            By::Consumer => {
                tokio::task::block_in_place(|| self.follower.wait_for(partition, offset));
            }
            By::Lookup => {
                let path = format!(
                    "/v1/views/routes?origin={key}&after=flights%7E{}:{partition}@{}",
                    self.stream,
                    offset + 1
                );
                let answer = server.get(&path).await?;
                let rows = answer["rows"].as_array().map_or(0, Vec::len);
                ensure!(rows == 1, "the probe is not in the answer: {answer}");
            }
        }
        Ok(begin.elapsed().as_secs_f64() * 1e3)
    }
}

/// Records at a steady rate, from a thread of its own.
struct Load {
    thread: std::thread::JoinHandle<Result<()>>,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
}

impl Load {
    fn start(producer: Producer, rate: u64) -> Result<Self> {
        let (stop, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (until, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let mut batches = messages(BATCH, Format::Json)?;
        let thread = std::thread::spawn(move || {
            let begin = Instant::now();
            for partition in (0..PARTITIONS).cycle() {
                if until.load(Ordering::Relaxed) {
                    break;
                }
                let sent = count.load(Ordering::Relaxed);
                let due = Duration::from_secs_f64(sent as f64 / rate as f64);
                std::thread::sleep(due.saturating_sub(begin.elapsed()));
                let batch = batches.next().context("they do not end")??;
                count.fetch_add(batch.len() as u64, Ordering::Relaxed);
                producer.send(TOPIC, partition, batch);
            }
            Ok(())
        });
        Ok(Self { thread, stop, sent })
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow::anyhow!("the load panicked"))?
    }
}
