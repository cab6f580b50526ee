// SPDX-License-Identifier: Apache-2.0
//! A server of its own for a benchmark, and real flights to send to it.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use arrow::json::LineDelimitedWriter;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::is_problem;

/// Bodies of real flights, cut from the shipped sample or from `BENCH_FLIGHTS`, a Parquet file.
pub(crate) struct Flights {
    bodies: Vec<Bytes>,
    events: u64,
}

impl Flights {
    /// Encodes the flights as NDJSON bodies of `batch` events.
    pub(crate) fn load(batch: usize) -> Result<Self> {
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/flights.parquet");
        let path =
            std::env::var_os("BENCH_FLIGHTS").map_or_else(|| PathBuf::from(shipped), PathBuf::from);
        let file = std::fs::File::open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let reader = ParquetRecordBatchReaderBuilder::try_new(file)?
            .with_batch_size(batch)
            .build()?;
        let mut bodies = vec![];
        let mut events = 0;
        for rows in reader {
            let rows = rows?;
            events += rows.num_rows() as u64;
            let mut writer = LineDelimitedWriter::new(Vec::new());
            writer.write(&rows)?;
            writer.finish()?;
            bodies.push(Bytes::from(writer.into_inner()));
        }
        Ok(Self { bodies, events })
    }

    /// The body that holds event `at`, over and over.
    pub(crate) fn body(&self, at: u64) -> Bytes {
        let at = at % self.events;
        let index = at as usize * self.bodies.len() / self.events as usize;
        self.bodies[index.min(self.bodies.len() - 1)].clone()
    }
}

/// A running `dovetail up` on a fresh directory.
pub(crate) struct Server {
    child: tokio::sync::Mutex<Child>,
    url: String,
    http: reqwest::Client,
    _data: tempfile::TempDir,
}

impl Server {
    /// Starts it, and waits until it listens.
    pub(crate) async fn start() -> Result<Self> {
        let program = match std::env::var_os("DOVETAIL_BIN") {
            Some(program) => PathBuf::from(program),
            None => std::env::current_exe()?.with_file_name("dovetail"),
        };
        let data = tempfile::tempdir()?;
        let mut child = Command::new(&program)
            .args([
                "up",
                "--listen",
                "127.0.0.1:0",
                "--log-level",
                "warn",
                "--data",
            ])
            .arg(data.path())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| {
                format!(
                    "cannot start {}; build it, or set DOVETAIL_BIN",
                    program.display()
                )
            })?;
        let stdout = child.stdout.take().context("its output is piped")?;
        let line = BufReader::new(stdout)
            .lines()
            .next_line()
            .await?
            .context("the server ended at once")?;
        let url = line
            .rsplit(' ')
            .next()
            .context("the server says where it listens")?
            .to_owned();
        Ok(Self {
            child: tokio::sync::Mutex::new(child),
            url,
            http: reqwest::Client::new(),
            _data: data,
        })
    }

    /// One SQL statement.
    pub(crate) async fn sql(&self, sql: &str) -> Result<Value> {
        let request = self
            .http
            .post(format!("{}/v1/sql", self.url))
            .header("content-type", "text/plain");
        answer(request.body(sql.to_owned())).await
    }

    /// Appends to the stream `flights`: how many events, and the position token.
    pub(crate) async fn append(&self, body: Bytes, content_type: &str) -> Result<(u64, String)> {
        let request = self
            .http
            .post(format!("{}/v1/streams/flights", self.url))
            .header("content-type", content_type);
        let answer = answer(request.body(body)).await?;
        let accepted = answer["accepted"]
            .as_u64()
            .context("an append says what it accepted")?;
        Ok((
            accepted,
            answer["position"]
                .as_str()
                .context("an append says its position")?
                .to_owned(),
        ))
    }

    /// A JSON request.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        answer(self.http.post(format!("{}{path}", self.url)).json(body)).await
    }

    /// A JSON answer.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        answer(self.http.get(format!("{}{path}", self.url))).await
    }

    /// Ends it.
    pub(crate) async fn stop(&self) -> Result<()> {
        self.child.lock().await.kill().await?;
        Ok(())
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Result<Value> {
    let response = request.send().await?;
    let value: Value = response.json().await?;
    if is_problem(&value) {
        bail!("{value}");
    }
    Ok(value)
}
