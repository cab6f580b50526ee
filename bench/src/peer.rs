// SPDX-License-Identifier: Apache-2.0
//! Other systems that do the same work, each in a process of its own that waits for its turn.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use dovetail_broker::cached;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Where the programs of the peers are.
const PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers");

/// What a turn took.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Took {
    /// Of wall.
    pub seconds: f64,
    /// Of processors, by the peer's process and those that it starts.
    pub cpu_seconds: f64,
    /// The most memory that was resident, MiB, since the process started.
    pub peak_mib: f64,
}

/// A peer that waits for its turn.
pub struct Peer {
    /// What it is called in a table.
    pub name: &'static str,
    process: Child,
    turns: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    /// Those that `script/bench-peers` has fetched and that catch up on a topic, warm: each has caught up once, which
    /// is not counted.
    ///
    /// # Errors
    /// Where one does not start or cannot read the topic.
    pub async fn of_topic(brokers: &str, topic: &str, events: u64) -> Result<Vec<Self>> {
        let mut peers = vec![];
        let python = cached("peers").join("bin/python");
        if python.exists() {
            let mut clickhouse = Command::new(python);
            clickhouse.arg(format!("{PEERS}/clickhouse.py"));
            clickhouse.args([brokers, topic, &events.to_string()]);
            peers.push(Self::start("ClickHouse 26.9", clickhouse)?);
        }
        let jars = cached("flink-2.3.0");
        if jars.exists() {
            let mut flink = Command::new("java");
            // As Flink's own scripts open the JDK for it.
            flink.args([
                "-Xmx2g",
                "--add-opens=java.base/java.util=ALL-UNNAMED",
                "-cp",
            ]);
            flink.arg(format!("{}/*", jars.display()));
            flink.arg(format!("{PEERS}/flink/Flink.java"));
            flink.args([brokers, topic]);
            peers.push(Self::start("Flink SQL 2.3", flink)?);
        }
        for peer in &mut peers {
            peer.turn().await?;
        }
        Ok(peers)
    }

    /// DuckDB with so much memory, such as `1GB`, which computes the hourly view of the flights in a Parquet file, so
    /// many times over; warm. None where `script/bench-peers` has not fetched it.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn duckdb(flights: &Path, times: u64, memory: &str) -> Result<Option<Self>> {
        let python = cached("peers").join("bin/python");
        if !python.exists() {
            return Ok(None);
        }
        let mut duckdb = Command::new(python);
        duckdb.arg(format!("{PEERS}/duckdb_batch.py"));
        duckdb.arg(flights).args([&times.to_string(), memory]);
        let mut duckdb = Self::start("DuckDB 2.0", duckdb)?;
        duckdb.turn().await?;
        Ok(Some(duckdb))
    }

    fn start(name: &'static str, mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let process = command.kill_on_drop(true).spawn();
        let mut process = process.with_context(|| format!("{name} does not start"))?;
        let turns = process.stdin.take().context("its input is piped")?;
        let answers = process.stdout.take().context("its output is piped")?;
        Ok(Self {
            name,
            process,
            turns,
            answers: BufReader::new(answers).lines(),
        })
    }

    /// Lets it do its work once, from the beginning.
    ///
    /// # Errors
    /// Where it ends instead.
    pub async fn turn(&mut self) -> Result<Took> {
        self.turns.write_all(b"\n").await?;
        let answer = self.answers.next_line().await?;
        let Some(answer) = answer else {
            let ended = self.process.wait().await?;
            return Err(anyhow::anyhow!("{} ended: {ended}", self.name));
        };
        let took: Took = serde_json::from_str(&answer)
            .with_context(|| format!("{} said {answer}", self.name))?;
        ensure!(took.seconds > 0.0, "{} took no time", self.name);
        Ok(took)
    }
}
