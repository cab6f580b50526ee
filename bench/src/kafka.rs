// SPDX-License-Identifier: Apache-2.0
//! Catching up on a Kafka topic: how many events a second become visible in a view, broker and server on the same
//! cores, archiving on; beside it what others make of the same topic.
//!
//! Run: `cargo run --release -p dovetail-bench --bin bench-kafka`, once `script/kafka-jars` and `script/schema-registry` have
//! fetched a broker and a registry; ClickHouse and Flink take part once `script/bench-peers` has fetched them. The
//! server is `dovetail` beside this program (build it first), or `DOVETAIL_BIN`. `BENCH_EVENTS` (3000000) real flights, lz4,
//! in 4 partitions, as JSON and as Avro; `BENCH_ROUNDS` (3), in each a server of its own for each format, and each peer.

use std::io::Write as _;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use dovetail_bench::{
    Figures, Format, HOURLY, Peer, Server, Took, avro_schema, kafka_stream, messages, setting,
};
use dovetail_broker::{Broker, Producer, Registry};
use serde_json::json;

const PARTITIONS: i32 = 4;
/// Messages in a row to one partition.
const BATCH: usize = 5_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let events = setting("BENCH_EVENTS", 3_000_000)?;
    let rounds = setting("BENCH_ROUNDS", 3)?;
    let broker = Broker::start();
    let registry = Registry::start();
    let id = registry.register("avro-value", "AVRO", &avro_schema()?, &[]);
    let more = format!(", format = 'avro', schema_registry = '{}'", registry.url());
    let topics = [
        Topic::fill(&broker, "json", Format::Json, String::new(), events)?,
        Topic::fill(&broker, "avro", Format::Avro(id), more, events)?,
    ];
    let mut peers = Peer::of_topic(&broker.address(), topics[0].name, topics[0].events()).await?;
    let names = topics
        .iter()
        .map(|topic| format!("dovetail, {}", topic.name));
    let names = names.chain(peers.iter().map(|peer| format!("{}, json", peer.name)));
    let mut lines: Vec<Line> = names.map(Line::new).collect();
    for _ in 0..rounds {
        let mut caught = vec![];
        for topic in &topics {
            caught.push(topic.catch_up().await?);
        }
        for peer in &mut peers {
            caught.push(peer.turn().await?);
        }
        for (line, caught_by) in lines.iter_mut().zip(&caught) {
            line.took(caught_by, &caught[0], topics[0].events());
        }
    }
    show(&lines, topics[0].events(), rounds)
}

/// A topic of flights.
struct Topic {
    name: &'static str,
    /// Declares the stream over it.
    stream: String,
    /// How many messages each partition has.
    ends: Vec<u64>,
}

impl Topic {
    fn fill(
        broker: &Broker,
        name: &'static str,
        format: Format,
        more: String,
        events: u64,
    ) -> Result<Self> {
        broker.create_topic(name, PARTITIONS);
        Ok(Self {
            name,
            stream: kafka_stream(&broker.address(), name, &more),
            ends: produce(&broker.producer(), name, format, events)?,
        })
    }

    fn events(&self) -> u64 {
        self.ends.iter().sum()
    }

    /// From the declaration of the stream until the view has all events.
    async fn catch_up(&self) -> Result<Took> {
        let server = Server::start().await?;
        let begin = Instant::now();
        server.sql(&self.stream).await?;
        server.sql(HOURLY).await?;
        let stream = server.get("/v1/streams/flights").await?;
        let id = stream["id"].as_str().context("a stream has an id")?;
        let places = self.ends.iter().enumerate();
        let places = places.map(|(partition, end)| format!("{partition}@{end}"));
        let token = format!("flights~{id}:{}", places.collect::<Vec<_>>().join(","));
        let query = json!({"sql": "SELECT sum(flights) AS n FROM hourly", "after": token, "timeout_ms": 600_000});
        let answer = server.post("/v1/sql", &query).await?;
        let seconds = begin.elapsed().as_secs_f64();
        let (seen, sent) = (answer["rows"][0]["n"].as_u64(), self.events());
        ensure!(seen == Some(sent), "the view has {seen:?} of {sent} events");
        let caught = Took {
            seconds,
            cpu_seconds: server.cpu_seconds().await?,
            peak_mib: server.peak_memory_mib().await?,
        };
        server.stop().await?;
        Ok(caught)
    }
}

/// Fills the topic with real flights; how many each partition got.
fn produce(producer: &Producer, topic: &str, format: Format, events: u64) -> Result<Vec<u64>> {
    let mut ends = vec![0; usize::try_from(PARTITIONS)?];
    let mut messages = messages(BATCH, format)?;
    for partition in (0..PARTITIONS).cycle() {
        if ends.iter().sum::<u64>() >= events {
            break;
        }
        let values = messages.next().context("they do not end")??;
        ends[usize::try_from(partition)?] += values.len() as u64;
        producer.send(topic, partition, values);
    }
    Ok(ends)
}

/// What one of them took, in all rounds.
struct Line {
    name: String,
    rate: Figures,
    cpu: Figures,
    peak: Figures,
    /// How many times as long the first of the same round took.
    ratio: Figures,
}

impl Line {
    fn new(name: String) -> Self {
        Self {
            name,
            rate: Figures::default(),
            cpu: Figures::default(),
            peak: Figures::default(),
            ratio: Figures::default(),
        }
    }

    fn took(&mut self, caught: &Took, first: &Took, events: u64) {
        self.rate.push(events as f64 / caught.seconds);
        self.cpu.push(caught.cpu_seconds / (events as f64 / 1e6));
        self.peak.push(caught.peak_mib);
        self.ratio.push(caught.seconds / first.seconds);
    }
}

fn show(lines: &[Line], events: u64, rounds: u64) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{events} events in {PARTITIONS} partitions, until the view has all; medians of {rounds} rounds"
    )?;
    writeln!(
        out,
        "{:<24}{:>12}{:>18}{:>12}{:>22}",
        "", "events/s", "CPU s per million", "peak MiB", "time, of the first's"
    )?;
    for line in lines {
        writeln!(
            out,
            "{:<24}{:>12.0}{:>18.2}{:>12.0}{:>22.2}",
            line.name,
            line.rate.median(),
            line.cpu.median(),
            line.peak.median(),
            line.ratio.median()
        )?;
    }
    Ok(())
}
