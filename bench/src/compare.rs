// SPDX-License-Identifier: Apache-2.0
//! The hot paths of one or two builds of the server, in pairs: did a change, or another build profile, make
//! them slower? Each round starts every build on a fresh directory, one after the other, so that both see
//! the same machine; the table holds the median over the rounds, and the median of the ratios pair by pair.
//!
//! Run: `cargo run --release -p dovetail-bench --bin bench-compare -- BUILD [OTHER_BUILD]`, each a path of a
//! `dovetail` program. `BENCH_ROUNDS` (5), `BENCH_EVENTS` (2000000), `BENCH_FLIGHTS` (a Parquet file of flights).

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use dovetail_bench::{Figures, Flights, HOURLY, NDJSON, STREAM, Server, setting};

const VIEWS: [&str; 2] = [
    HOURLY,
    "CREATE VIEW routes AS SELECT origin, destination, count(*) AS flights, avg(delay) AS mean, \
     approx_distinct(distance) AS distances FROM flights GROUP BY origin, destination",
];
/// Events of one request, and how many requests are under way at a time.
const BATCH: usize = 10_000;
const CLIENTS: u64 = 4;
/// Statements and lookups timed in a round; each answer's time counts.
const QUERIES: usize = 200;

/// What a round measures; the same order as [`NAMES`].
type Measured = [f64; 8];
const NAMES: [(&str, &str); 8] = [
    ("ingest NDJSON, two views", "events/s"),
    ("  server CPU of it", "s/M events"),
    ("full recompute", "events/s"),
    ("  server CPU of it", "s/M events"),
    ("merged view, whole, Arrow", "ms"),
    ("SQL of one group", "ms p50"),
    ("key lookup by REST", "ms p50"),
    ("resident memory, peak", "MiB"),
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let builds: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    ensure!(
        (1..=2).contains(&builds.len()),
        "give the path of one `dovetail` program, or of two to compare"
    );
    let rounds = setting("BENCH_ROUNDS", 5)?;
    let events = setting("BENCH_EVENTS", 2_000_000)?;
    let flights = Arc::new(Flights::load(BATCH)?);
    let mut measured: Vec<Vec<Measured>> = vec![vec![]; builds.len()];
    for _ in 0..rounds {
        for (build, figures) in builds.iter().zip(&mut measured) {
            figures.push(round(build, &flights, events).await?);
        }
    }
    let mut out = std::io::stdout();
    writeln!(out, "{events} events, {rounds} rounds; medians")?;
    for (index, (name, unit)) in NAMES.iter().enumerate() {
        write!(out, "{name:<28}{unit:>12}")?;
        for figures in &measured {
            let of: Figures = figures.iter().map(|f| f[index]).collect();
            write!(out, "{:>14.2}", of.median())?;
        }
        if let [first, second] = measured.as_slice() {
            let ratios = first.iter().zip(second).map(|(a, b)| a[index] / b[index]);
            write!(out, "{:>10.2}", Figures::from_iter(ratios).median())?;
        }
        writeln!(out)?;
    }
    Ok(())
}

async fn round(build: &Path, flights: &Arc<Flights>, events: u64) -> Result<Measured> {
    let server = Arc::new(Server::start_program(build, &[], &[]).await?);
    server.sql(STREAM).await?;
    for view in VIEWS {
        server.sql(view).await?;
    }
    let millions = events as f64 / 1e6;

    let (cpu, started) = (server.cpu_seconds().await?, Instant::now());
    let token = ingest(&server, flights, events).await?;
    server.get(&group_of("routes", &token)).await?;
    let ingest_rate = events as f64 / started.elapsed().as_secs_f64();
    let ingest_cpu = (server.cpu_seconds().await? - cpu) / millions;

    let cpu = server.cpu_seconds().await?;
    let seconds = server.recompute("hourly").await?;
    let batch_cpu = (server.cpu_seconds().await? - cpu) / millions;

    ingest(&server, flights, BATCH as u64).await?;
    let mut whole = Figures::default();
    for _ in 0..5 {
        let started = Instant::now();
        let bytes = server.rows("SELECT * FROM hourly", "arrow").await?;
        ensure!(bytes > 0, "the view is empty");
        whole.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let (mut sql, mut lookup) = (Figures::default(), Figures::default());
    let one = "SELECT flights, mean FROM routes WHERE origin = 'SFO' AND destination = 'LAX'";
    for _ in 0..QUERIES {
        let started = Instant::now();
        server.rows(one, "json").await?;
        sql.push(started.elapsed().as_secs_f64() * 1e3);
        let started = Instant::now();
        server.get(&group_of("routes", "")).await?;
        lookup.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let memory = server.peak_memory_mib().await?;
    server.stop().await?;
    Ok([
        ingest_rate,
        ingest_cpu,
        events as f64 / seconds,
        batch_cpu,
        whole.median(),
        sql.median(),
        lookup.median(),
        memory,
    ])
}

fn group_of(view: &str, after: &str) -> String {
    let after = after.replace('~', "%7E");
    let wait = if after.is_empty() { "" } else { "&after=" };
    format!("/v1/views/{view}?origin=SFO&destination=LAX{wait}{after}")
}

/// Appends `events` flights over several connections, the last request by itself: its token covers them all.
async fn ingest(server: &Arc<Server>, flights: &Arc<Flights>, events: u64) -> Result<String> {
    let last = events.saturating_sub(BATCH as u64);
    let mut clients = vec![];
    for client in 0..CLIENTS {
        let (server, flights) = (Arc::clone(server), Arc::clone(flights));
        clients.push(tokio::spawn(async move {
            let mut at = client * BATCH as u64;
            while at < last {
                server.append(flights.body(at), NDJSON).await?;
                at += CLIENTS * BATCH as u64;
            }
            anyhow::Ok(())
        }));
    }
    for client in clients {
        client.await??;
    }
    Ok(server.append(flights.body(last), NDJSON).await?.1)
}
