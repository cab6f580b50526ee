// SPDX-License-Identifier: Apache-2.0
//! Freshness: how long from an append's acknowledgement until a query sees the event, while events arrive
//! at a steady rate, alone and while batch runs follow one another, incremental and full ones. Runs are merged all the time.
//!
//! Run: `cargo run --release -p dovetail-bench --bin bench-freshness`. The server is `dovetail` beside this
//! program (build it first), or `DOVETAIL_BIN`. `BENCH_SECONDS` (per phase, 20), `BENCH_RATE` (events/s,
//! 50000), `BENCH_EVENTS` (history before the first phase, 1000000).

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use dovetail_bench::{Figures, Flights, HOURLY, NDJSON, ROUTES, STREAM, Server, setting};

/// Events of one request of the steady load.
const BATCH: usize = 5_000;
/// Pause between two probes.
const PROBE_PAUSE: Duration = Duration::from_millis(20);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let seconds = setting("BENCH_SECONDS", 20)?;
    let rate = setting("BENCH_RATE", 50_000)?;
    let history = setting("BENCH_EVENTS", 1_000_000)?;
    let flights = Arc::new(Flights::load(BATCH)?);
    let server = Arc::new(Server::start().await?);
    for statement in [STREAM, HOURLY, ROUTES] {
        server.sql(statement).await?;
    }
    let mut sent = 0;
    while sent < history {
        sent += server.append(flights.body(sent), NDJSON).await?.0;
    }
    let mut out = std::io::stdout();
    writeln!(
        out,
        "history {sent} events, then {rate} events/s for {seconds} s a phase"
    )?;
    writeln!(
        out,
        "{:<28}{:>9}{:>10}{:>10}{:>10}{:>12}{:>12}{:>12}",
        "acknowledged to visible",
        "probes",
        "p50 ms",
        "p99 ms",
        "max ms",
        "events/s",
        "p50 ratio",
        "p99 ratio"
    )?;
    let quiet = phase(&server, &flights, seconds, rate, None).await?;
    report(&mut out, "no batch run", &quiet, &quiet)?;
    for (mode, name) in [
        ("incremental", "incremental runs"),
        ("full", "full recomputes"),
    ] {
        let busy = phase(&server, &flights, seconds, rate, Some(mode)).await?;
        report(&mut out, &format!("{name} ({})", busy.runs), &busy, &quiet)?;
    }
    server.stop().await
}

struct Phase {
    /// Milliseconds.
    latencies: Figures,
    events_per_second: f64,
    runs: u64,
}

fn report(out: &mut impl std::io::Write, name: &str, phase: &Phase, quiet: &Phase) -> Result<()> {
    let at = |phase: &Phase| [0.5, 0.99, 1.0].map(|share| phase.latencies.at(share));
    let ([p50, p99, max], [quiet_p50, quiet_p99, _]) = (at(phase), at(quiet));
    writeln!(
        out,
        "{name:<28}{:>9}{p50:>10.2}{p99:>10.2}{max:>10.2}{:>12.0}{:>12.2}{:>12.2}",
        phase.latencies.len(),
        phase.events_per_second,
        p50 / quiet_p50,
        p99 / quiet_p99,
    )?;
    Ok(())
}

async fn phase(
    server: &Arc<Server>,
    flights: &Arc<Flights>,
    seconds: u64,
    rate: u64,
    mode: Option<&'static str>,
) -> Result<Phase> {
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let load = tokio::spawn(load(
        Arc::clone(server),
        Arc::clone(flights),
        rate,
        Arc::clone(&stop),
        Arc::clone(&sent),
    ));
    let running =
        mode.map(|mode| tokio::spawn(run_loop(Arc::clone(server), mode, Arc::clone(&stop))));
    let started = Instant::now();
    let mut latencies = Figures::default();
    while started.elapsed() < Duration::from_secs(seconds) {
        latencies.push(probe(server).await?);
        tokio::time::sleep(PROBE_PAUSE).await;
    }
    stop.store(true, Ordering::Relaxed);
    let elapsed = started.elapsed().as_secs_f64();
    load.await??;
    let runs = match running {
        Some(task) => task.await??,
        None => 0,
    };
    Ok(Phase {
        latencies,
        events_per_second: sent.load(Ordering::Relaxed) as f64 / elapsed,
        runs,
    })
}

/// Sends [`BATCH`] events whenever the rate says that they are due.
async fn load(
    server: Arc<Server>,
    flights: Arc<Flights>,
    rate: u64,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
) -> Result<()> {
    let mut due = tokio::time::interval(Duration::from_secs_f64(BATCH as f64 / rate as f64));
    while !stop.load(Ordering::Relaxed) {
        due.tick().await;
        let at = sent.load(Ordering::Relaxed);
        let (events, _) = server.append(flights.body(at), NDJSON).await?;
        sent.fetch_add(events, Ordering::Relaxed);
    }
    Ok(())
}

async fn run_loop(server: Arc<Server>, mode: &'static str, stop: Arc<AtomicBool>) -> Result<u64> {
    let mut runs = 0;
    while !stop.load(Ordering::Relaxed) {
        server.run("hourly", mode).await?;
        runs += 1;
    }
    Ok(runs)
}

/// One event with a key of its own: milliseconds from its acknowledgement to the answer that holds it.
async fn probe(server: &Server) -> Result<f64> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let key = format!("probe{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let event = json!({"date": "2001-01-01T00:00:00", "delay": 1, "distance": 1, "origin": key, "destination": key});
    let (_, token) = server.append(format!("{event}\n").into(), NDJSON).await?;
    let acknowledged = Instant::now();
    let rows = server
        .get(&format!(
            "/v1/views/routes?origin={key}&after={}",
            token.replace('~', "%7E")
        ))
        .await?;
    let latency = acknowledged.elapsed().as_secs_f64() * 1000.0;
    ensure!(
        rows["rows"].as_array().map_or(0, Vec::len) == 1,
        "the probe is not in the answer: {rows}"
    );
    Ok(latency)
}
