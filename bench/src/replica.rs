// SPDX-License-Identifier: Apache-2.0
//! What a store far away costs a reader: how long after its start a replica answers its first query over the whole view,
//! and how long key lookups take with a warm cache, against the same data on a local disk.
//!
//! Run: `cargo run --release -p dovetail-bench --bin bench-replica`, once `script/versitygw` has built an S3 server. The
//! server is `dovetail` beside this program (build it first), or `DOVETAIL_BIN`. `BENCH_EVENTS` (3000000) flights, of which a
//! hundredth comes behind the generation; `BENCH_ROUNDS` (5), `BENCH_LOOKUPS` (2000 a round), `BENCH_FLIGHTS`.

use std::io::Write as _;
use std::time::Instant;

use anyhow::{Result, ensure};
use dovetail_bench::{Figures, Flights, HOURLY, NDJSON, STREAM, Server, setting};
use dovetail_broker::{Gateway, KEYS, process::free_ports, store_options};

const BATCH: usize = 10_000;
const WHOLE: &str = "SELECT count(*) AS groups, sum(flights) AS n FROM hourly";
const SAMPLE: &str =
    "SELECT origin, hour FROM hourly ORDER BY md5(origin || CAST(hour AS VARCHAR)) LIMIT 200";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let events = setting("BENCH_EVENTS", 3_000_000)?;
    let rounds = setting("BENCH_ROUNDS", 5)?;
    let lookups = setting("BENCH_LOOKUPS", 2_000)?;
    let flights = Flights::load(BATCH)?;
    let gateway = Gateway::start();
    let far = store_options(&gateway.endpoint(), "bench");
    let far = far.each_ref().map(String::as_str);
    let [port] = free_ports();
    let cuts = format!("127.0.0.1:{port}");
    let all = [far.as_slice(), &["--cuts", &cuts]].concat();
    let owner = filled(Server::start_with(&all, &KEYS).await?, &flights, events).await?;
    let local = filled(Server::start().await?, &flights, events).await?;

    let replica = [far.as_slice(), &["--roles", "serve"]].concat();
    let expected = first(&local).await?.1;
    let (mut listens, mut answers) = (Figures::default(), Figures::default());
    let mut times = [(); 3].map(|()| Figures::default());
    let sample = keys_of(&local).await?;
    for _ in 0..rounds {
        let begin = Instant::now();
        let started = Server::start_with(&replica, &KEYS).await?;
        listens.push(begin.elapsed().as_secs_f64());
        let (_, answer) = first(&started).await?;
        answers.push(begin.elapsed().as_secs_f64());
        ensure!(answer == expected, "{answer:?} instead of {expected:?}");
        let servers = [&local, &owner, &started];
        for server in servers {
            for path in &sample {
                lookup(server, path).await?;
            }
        }
        for path in sample.iter().cycle().take(usize::try_from(lookups)?) {
            for (server, times) in servers.iter().zip(&mut times) {
                times.push(lookup(server, path).await?);
            }
        }
        started.stop().await?;
    }
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{} groups of {} events; medians of {rounds} rounds",
        expected.0, expected.1
    )?;
    writeln!(
        out,
        "a replica on S3 listens after {:.2} s, has answered over the whole view after {:.2} s",
        listens.median(),
        answers.median()
    )?;
    writeln!(
        out,
        "{:<40}{:>10}{:>10}{:>20}",
        "key lookup over HTTP, warm", "p50 ms", "p99 ms", "p50, of the first's"
    )?;
    let names = ["local disk", "S3", "a replica on S3"];
    for (name, times_of) in names.iter().zip(&times) {
        let ratio = times_of.median() / times[0].median();
        writeln!(
            out,
            "{name:<40}{:>10.2}{:>10.2}{ratio:>20.2}",
            times_of.median(),
            times_of.at(0.99)
        )?;
    }
    owner.stop().await?;
    local.stop().await
}

/// A server with a generation of most events, and the rest behind it.
async fn filled(server: Server, flights: &Flights, events: u64) -> Result<Server> {
    server.sql(STREAM).await?;
    server.sql(HOURLY).await?;
    let mut sent = 0;
    while sent < events - events / 100 {
        sent += server.append(flights.body(sent), NDJSON).await?.0;
    }
    server.recompute("hourly").await?;
    let mut token = String::new();
    while sent < events {
        let (more, at) = server.append(flights.body(sent), NDJSON).await?;
        (sent, token) = (sent + more, at);
    }
    let path = format!(
        "/v1/views/hourly?origin=SFO&limit=1&after={}",
        token.replace('~', "%7E")
    );
    server.get(&path).await?;
    Ok(server)
}

/// Seconds of the query over the whole view; its groups and events.
async fn first(server: &Server) -> Result<(f64, (u64, u64))> {
    let begin = Instant::now();
    let answer = server.sql(WHOLE).await?;
    let number = |name: &str| answer["rows"][0][name].as_u64().unwrap_or_default();
    Ok((
        begin.elapsed().as_secs_f64(),
        (number("groups"), number("n")),
    ))
}

/// Paths of lookups, spread over the view.
async fn keys_of(server: &Server) -> Result<Vec<String>> {
    let answer = server.sql(SAMPLE).await?;
    let rows = answer["rows"].as_array().cloned().unwrap_or_default();
    let path = |row: &serde_json::Value| {
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        format!(
            "/v1/views/hourly?origin={}&hour={}",
            text("origin"),
            text("hour")
        )
    };
    Ok(rows.iter().map(path).collect())
}

/// Milliseconds of one lookup, which finds its group.
async fn lookup(server: &Server, path: &str) -> Result<f64> {
    let begin = Instant::now();
    let answer = server.get(path).await?;
    let rows = answer["rows"].as_array().map_or(0, Vec::len);
    ensure!(rows == 1, "{path}: {answer}");
    Ok(begin.elapsed().as_secs_f64() * 1e3)
}
