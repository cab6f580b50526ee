// SPDX-License-Identifier: Apache-2.0
//! Catching up on a Kafka topic: how many events a second become visible in a view, broker and server on the same
//! cores, archiving on.
//!
//! Run: `cargo run --release -p dovetail-bench --bin bench-kafka`, once `script/kafka-jars` has fetched a broker. The
//! server is `dovetail` beside this program (build it first), or `DOVETAIL_BIN`. `BENCH_EVENTS` (3000000) real flights as
//! JSON, lz4, in 4 partitions; `BENCH_ROUNDS` (3), each with a server of its own.

use std::io::Write as _;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use dovetail_bench::{Flights, Server, setting};
use dovetail_broker::{Broker, Producer};
use serde_json::json;

const TOPIC: &str = "flights";
const PARTITIONS: i32 = 4;
/// Events of one body, all to one partition.
const BATCH: usize = 5_000;
const HOURLY: &str = "CREATE VIEW hourly AS SELECT origin, date_trunc('hour', date) AS hour, count(*) AS flights, \
     sum(delay) AS total, avg(delay) AS mean, min(delay) AS least, max(delay) AS most FROM flights GROUP BY origin, hour";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let events = setting("BENCH_EVENTS", 3_000_000)?;
    let rounds = setting("BENCH_ROUNDS", 3)?;
    let broker = Broker::start();
    broker.create_topic(TOPIC, PARTITIONS);
    let ends = produce(&broker.producer(), &Flights::load(BATCH)?, events)?;
    let sent: u64 = ends.iter().sum();
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{sent} events in {PARTITIONS} partitions, from the declaration of the stream until the view has all"
    )?;
    writeln!(
        out,
        "{:<8}{:>12}{:>10}{:>18}{:>12}",
        "round", "events/s", "seconds", "CPU s per million", "peak MiB"
    )?;
    let mut rates = vec![];
    for round in 1..=rounds {
        let server = Server::start().await?;
        let begin = Instant::now();
        let source = format!(
            "CREATE STREAM flights (date TIMESTAMP NOT NULL, delay BIGINT, distance BIGINT, origin VARCHAR, destination VARCHAR) \
             WITH (event_time = 'date', source = 'kafka', brokers = '{}', topic = '{TOPIC}')",
            broker.address()
        );
        server.sql(&source).await?;
        server.sql(HOURLY).await?;
        let stream = server.get("/v1/streams/flights").await?;
        let id = stream["id"].as_str().context("a stream has an id")?;
        let places = ends.iter().enumerate().map(|(p, end)| format!("{p}@{end}"));
        let token = format!("flights~{id}:{}", places.collect::<Vec<_>>().join(","));
        let query = json!({"sql": "SELECT sum(flights) AS n FROM hourly", "after": token, "timeout_ms": 600_000});
        let answer = server.post("/v1/sql", &query).await?;
        let seconds = begin.elapsed().as_secs_f64();
        let seen = answer["rows"][0]["n"].as_u64();
        ensure!(seen == Some(sent), "the view has {seen:?} of {sent} events");
        let rate = sent as f64 / seconds;
        writeln!(
            out,
            "{round:<8}{rate:>12.0}{seconds:>10.2}{:>18.2}{:>12.0}",
            server.cpu_seconds().await? / (sent as f64 / 1e6),
            server.peak_memory_mib().await?
        )?;
        rates.push(rate);
        server.stop().await?;
    }
    rates.sort_by(f64::total_cmp);
    writeln!(out, "median {:.0} events/s", rates[rates.len() / 2])?;
    Ok(())
}

/// Fills the topic with real flights; how many each partition got.
fn produce(producer: &Producer, flights: &Flights, events: u64) -> Result<Vec<u64>> {
    let mut ends = vec![0; usize::try_from(PARTITIONS)?];
    let mut sent = 0;
    let mut partition = 0;
    while sent < events {
        let body = flights.body(sent);
        let text = std::str::from_utf8(&body)?;
        producer.send(TOPIC, partition, text.lines().map(str::to_owned));
        let count = text.lines().count() as u64;
        ends[usize::try_from(partition)?] += count;
        sent += count;
        partition = (partition + 1) % PARTITIONS;
    }
    Ok(ends)
}
