// SPDX-License-Identifier: Apache-2.0
//! Lookups by key: how many a second, and how long each takes, against Redis and PostgreSQL in the same run; then while
//! events arrive.
//!
//! Run: `cargo run --release -p dovetail-bench --bin bench-lookup`. The server is `dovetail` beside this program (build it
//! first), or `DOVETAIL_BIN`. `redis-server` and `postgres` take part where they are installed. `BENCH_EVENTS` (3000000)
//! flights, `BENCH_ROUNDS` (5), `BENCH_SECONDS` (3, each measurement), `BENCH_RATE` (100000 events/s), `BENCH_FLIGHTS`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dovetail_bench::lookups::{Key, Measured, Store, measure, postgres_run, redis_fill, redis_key};
use dovetail_bench::{Figures, Flights, HOURLY, NDJSON, STREAM, Server, setting};
use dovetail_broker::process::{Kept, free_ports};
use serde_json::Value;

/// Events of one request.
const BATCH: usize = 10_000;
/// Events of one request of the steady load.
const LOAD_BATCH: usize = 5_000;
/// Rows of one statement that fills the table.
const INSERT_ROWS: usize = 1_000;
/// How long a server of another maker may take to start.
const START: Duration = Duration::from_secs(30);
const CLIENTS: [usize; 2] = [1, 16];
const WHOLE: &str = "SELECT * FROM hourly ORDER BY md5(origin || CAST(hour AS VARCHAR))";
const TABLE: &str = "CREATE TABLE hourly (origin text, hour timestamp, flights bigint, total bigint, \
     mean double precision, least bigint, most bigint, PRIMARY KEY (origin, hour))";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let events = setting("BENCH_EVENTS", 3_000_000)?;
    let rounds = setting("BENCH_ROUNDS", 5)?;
    let time = Duration::from_secs(setting("BENCH_SECONDS", 3)?);
    let rate = setting("BENCH_RATE", 100_000)?;
    let server = Arc::new(Server::start().await?);
    fill(&server, events).await?;
    let rows = server.sql(WHOLE).await?["rows"].take();
    let rows: Vec<Value> = serde_json::from_value(rows)?;
    let keys: Vec<Key> = rows.iter().map(key).collect::<Result<_>>()?;
    let address = server.url().trim_start_matches("http://").to_owned();
    let mut stores = vec![("dovetail", Store::Dovetail { address }, None)];
    if let Some((redis, peer)) = redis(&rows).await? {
        stores.push(("Redis, GET", redis, Some(peer)));
    }
    if let Some((postgres, peer)) = postgres(&rows).await? {
        stores.push(("PostgreSQL, prepared", postgres, Some(peer)));
    }
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{} groups of {events} events; medians of {rounds} rounds",
        keys.len()
    )?;
    head(&mut out)?;
    for clients in CLIENTS {
        let mut lines: Vec<Line> = stores.iter().map(|_| Line::default()).collect();
        for _ in 0..rounds {
            for ((_, store, _), line) in stores.iter().zip(&mut lines) {
                let before = server.cpu_seconds().await?;
                let measured = measure(store, &keys, clients, time).await?;
                if let Store::Dovetail { .. } = store {
                    let seconds = server.cpu_seconds().await? - before;
                    let lookups = measured.latencies.len() as f64;
                    line.cpu_us.push(seconds * 1e6 / lookups);
                }
                line.push(&measured);
            }
        }
        for ((name, ..), line) in stores.iter().zip(&lines) {
            line.write(&mut out, &format!("{name}, {clients} client(s)"))?;
        }
    }
    let store = stores.swap_remove(0).1;
    drop(stores);
    let load = Load::start(Arc::clone(&server), rate);
    for clients in CLIENTS {
        let mut line = Line::default();
        for _ in 0..rounds {
            line.push(&measure(&store, &keys, clients, time).await?);
        }
        line.write(
            &mut out,
            &format!("while events arrive, {clients} client(s)"),
        )?;
    }
    writeln!(out, "{:.0} events/s arrived", load.stop()?)?;
    server.stop().await
}

/// Medians of rounds.
#[derive(Default)]
struct Line {
    per_second: Figures,
    p50: Figures,
    p99: Figures,
    /// Microseconds of the server's processors for each lookup, where they are known.
    cpu_us: Figures,
}

impl Line {
    fn push(&mut self, measured: &Measured) {
        self.per_second.push(measured.per_second);
        self.p50.push(measured.latencies.median());
        self.p99.push(measured.latencies.at(0.99));
    }

    fn write(&self, out: &mut impl std::io::Write, name: &str) -> Result<()> {
        let [per_second, p50, p99] = [&self.per_second, &self.p50, &self.p99].map(Figures::median);
        write!(out, "{name:<40}{per_second:>12.0}{p50:>10.3}{p99:>10.3}")?;
        if !self.cpu_us.is_empty() {
            write!(out, "{:>10.0}", self.cpu_us.median())?;
        }
        writeln!(out)?;
        Ok(())
    }
}

fn head(out: &mut impl std::io::Write) -> Result<()> {
    writeln!(
        out,
        "{:<40}{:>12}{:>10}{:>10}{:>10}",
        "key lookups", "lookups/s", "p50 ms", "p99 ms", "CPU us"
    )?;
    Ok(())
}

/// All events are in the generation.
async fn fill(server: &Server, events: u64) -> Result<()> {
    let flights = Flights::load(BATCH)?;
    server.sql(STREAM).await?;
    server.sql(HOURLY).await?;
    let mut sent = 0;
    while sent < events {
        sent += server.append(flights.body(sent), NDJSON).await?.0;
    }
    server.recompute("hourly").await?;
    Ok(())
}

fn key(row: &Value) -> Result<Key> {
    let text = |name: &str| {
        let text = row[name].as_str().map(str::to_owned);
        text.with_context(|| format!("{row} has no {name}"))
    };
    Ok(Key {
        origin: text("origin")?,
        hour: text("hour")?,
    })
}

/// A server of another maker; ends before its files go.
struct Peer {
    _process: Kept,
    _home: Option<tempfile::TempDir>,
}

/// Redis with the rows as JSON, if it is installed.
async fn redis(rows: &[Value]) -> Result<Option<(Store, Peer)>> {
    let Some(program) = installed("redis-server") else {
        return Ok(None);
    };
    let [port] = free_ports();
    let mut command = Command::new(program);
    command.args([
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--port",
        &port.to_string(),
    ]);
    let kept = Kept::start(&command, Stdio::null(), Stdio::inherit());
    let address = format!("127.0.0.1:{port}");
    reachable(&address).await?;
    let entry = |row| Ok((redis_key(&key(row)?), row.to_string()));
    let entries: Vec<_> = rows.iter().map(entry).collect::<Result<_>>()?;
    redis_fill(&address, &entries).await?;
    let peer = Peer {
        _process: kept,
        _home: None,
    };
    Ok(Some((Store::Redis { address }, peer)))
}

/// PostgreSQL with the rows as a table, if it is installed.
async fn postgres(rows: &[Value]) -> Result<Option<(Store, Peer)>> {
    let Some(programs) = postgres_programs() else {
        return Ok(None);
    };
    let home = tempfile::tempdir()?;
    let data = home.path().join("data");
    run(Command::new("chown").arg("postgres").arg(home.path()))?;
    let mut init = as_postgres(&programs.join("initdb"));
    init.args([
        "--auth=trust",
        "--no-sync",
        "--encoding=UTF8",
        "--locale=C",
        "-D",
    ]);
    run(init.arg(&data).stdout(Stdio::null()))?;
    let [port] = free_ports();
    let mut command = as_postgres(&programs.join("postgres"));
    command.arg("-D").arg(&data);
    command.args(["-h", "127.0.0.1", "-k", "", "-p", &port.to_string()]);
    let kept = Kept::start(&command, Stdio::null(), Stdio::null());
    let address = format!("127.0.0.1:{port}");
    reachable(&address).await?;
    let mut statements = vec![TABLE.to_owned()];
    for rows in rows.chunks(INSERT_ROWS) {
        let values: Vec<String> = rows.iter().map(values).collect();
        statements.push(format!("INSERT INTO hourly VALUES {}", values.join(", ")));
    }
    statements.push("VACUUM ANALYZE hourly".to_owned());
    postgres_run(&address, statements).await?;
    let peer = Peer {
        _process: kept,
        _home: Some(home),
    };
    Ok(Some((Store::Postgres { address }, peer)))
}

/// A row as `VALUES` has it. Airports and times need no escapes.
fn values(row: &Value) -> String {
    let columns = [
        "origin", "hour", "flights", "total", "mean", "least", "most",
    ];
    let values = columns.map(|name| match &row[name] {
        Value::String(text) => format!("'{text}'"),
        other => other.to_string(),
    });
    format!("({})", values.join(", "))
}

/// It refuses to run as root.
fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid=postgres",
        "--regid=postgres",
        "--clear-groups",
        "--",
    ]);
    command.arg(program);
    command
}

/// The newest of Debian's.
fn postgres_programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let programs = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
    programs.filter(|bin| bin.join("initdb").exists()).max()
}

fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut places = std::env::split_paths(&path).map(|place| place.join(program));
    places.find(|place| place.exists())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

async fn reachable(address: &str) -> Result<()> {
    let begin = Instant::now();
    loop {
        match tokio::net::TcpStream::connect(address).await {
            Ok(_) => return Ok(()),
            Err(error) if begin.elapsed() > START => {
                return Err(error).with_context(|| format!("nothing listens at {address}"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Events that arrive at a steady rate, sent by a thread of its own.
struct Load {
    stop: Arc<AtomicBool>,
    sending: std::thread::JoinHandle<Result<f64>>,
}

impl Load {
    fn start(server: Arc<Server>, rate: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sending = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(send(&server, rate, &stopped))
        });
        Self { stop, sending }
    }

    /// Events a second that the server took.
    fn stop(self) -> Result<f64> {
        self.stop.store(true, Ordering::Relaxed);
        self.sending.join().ok().context("the load panicked")?
    }
}

async fn send(server: &Server, rate: u64, stop: &AtomicBool) -> Result<f64> {
    let flights = Flights::load(LOAD_BATCH)?;
    let mut due = tokio::time::interval(Duration::from_secs_f64(LOAD_BATCH as f64 / rate as f64));
    let begin = Instant::now();
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        due.tick().await;
        sent += server.append(flights.body(sent), NDJSON).await?.0;
    }
    Ok(sent as f64 / begin.elapsed().as_secs_f64())
}
