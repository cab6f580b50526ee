// SPDX-License-Identifier: Apache-2.0
//! A server of its own for a benchmark.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::RETRY_AFTER;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// Clock ticks in a second of `/proc/PID/stat`: the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// A running `dovetail up` on a fresh directory.
pub struct Server {
    child: tokio::sync::Mutex<Child>,
    url: String,
    http: reqwest::Client,
    started: Started,
}

/// How a server was started, so that it can be started again.
struct Started {
    program: PathBuf,
    options: Vec<String>,
    environment: Vec<(String, String)>,
    data: tempfile::TempDir,
}

impl Server {
    /// Starts `dovetail` from beside this program, or `DOVETAIL_BIN`, and waits until it listens.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub async fn start() -> Result<Self> {
        Self::start_with(&[], &[]).await
    }

    /// The same with options and variables of the environment.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub async fn start_with(options: &[&str], environment: &[(&str, &str)]) -> Result<Self> {
        let program = match std::env::var_os("DOVETAIL_BIN") {
            Some(program) => PathBuf::from(program),
            None => std::env::current_exe()?.with_file_name("dovetail"),
        };
        Self::start_program(&program, options, environment).await
    }

    /// Starts this program, and waits until it listens.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub async fn start_program(
        program: &Path,
        options: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let owned = |text: &&str| (*text).to_owned();
        let environment = environment.iter();
        let environment = environment.map(|(name, value)| (owned(name), owned(value)));
        Self::start_on(Started {
            program: program.to_owned(),
            options: options.iter().map(owned).collect(),
            environment: environment.collect(),
            data: tempfile::tempdir()?,
        })
        .await
    }

    /// Kills it where it stands, and starts it again on its directory.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub async fn killed_and_started(self) -> Result<Self> {
        self.stop().await?;
        Self::start_on(self.started).await
    }

    async fn start_on(started: Started) -> Result<Self> {
        let mut child = Command::new(&started.program)
            .args(["up", "--listen", "127.0.0.1:0", "--log-level", "warn"])
            .arg("--data")
            .arg(started.data.path())
            .args(&started.options)
            .envs(
                started
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| {
                format!(
                    "cannot start {}; build it, or set DOVETAIL_BIN",
                    started.program.display()
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
            started,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// One SQL statement.
    ///
    /// # Errors
    /// Where the server refuses it.
    pub async fn sql(&self, sql: &str) -> Result<Value> {
        let request = self
            .http
            .post(format!("{}/v1/sql", self.url))
            .header("content-type", "text/plain");
        answer(request.body(sql.to_owned())).await
    }

    /// Appends to the stream `flights`: how many events, and the position token.
    ///
    /// # Errors
    /// Where the server refuses it.
    pub async fn append(&self, body: Bytes, content_type: &str) -> Result<(u64, String)> {
        let request = || {
            self.http
                .post(format!("{}/v1/streams/flights", self.url))
                .header("content-type", content_type)
                .body(body.clone())
        };
        let mut response = request().send().await?;
        // A server that is full says when to come back.
        while response.status() == StatusCode::TOO_MANY_REQUESTS {
            let pause = response.headers().get(RETRY_AFTER);
            let pause = pause.and_then(|seconds| seconds.to_str().ok()?.parse().ok());
            tokio::time::sleep(Duration::from_secs(pause.unwrap_or(1))).await;
            response = request().send().await?;
        }
        let answer = read(response).await?;
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

    /// A number of `/metrics`, by its name and labels as they stand there.
    ///
    /// # Errors
    /// Where there is no such line.
    pub async fn metric(&self, series: &str) -> Result<f64> {
        let url = format!("{}/metrics", self.url);
        let text = self.http.get(url).send().await?.text().await?;
        let mut values = text.lines().filter_map(|line| line.strip_prefix(series));
        let value = values.next().with_context(|| format!("no {series}"))?;
        Ok(value.trim().parse()?)
    }

    /// A JSON request.
    ///
    /// # Errors
    /// Where the server refuses it.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        answer(self.http.post(format!("{}{path}", self.url)).json(body)).await
    }

    /// A JSON answer.
    ///
    /// # Errors
    /// Where the server refuses it.
    pub async fn get(&self, path: &str) -> Result<Value> {
        answer(self.http.get(format!("{}{path}", self.url))).await
    }

    /// The answer to a query, drained: how many bytes it has.
    ///
    /// # Errors
    /// Where the server refuses it.
    pub async fn rows(&self, sql: &str, format: &str) -> Result<usize> {
        Ok(self.body(sql, format).await?.len())
    }

    /// The answer to a query.
    ///
    /// # Errors
    /// Where the server refuses it.
    pub async fn body(&self, sql: &str, format: &str) -> Result<Bytes> {
        let request = self.http.get(format!("{}/v1/sql", self.url));
        let response = request.query(&[("q", sql), ("format", format)]);
        let response = response.send().await?.error_for_status()?;
        Ok(response.bytes().await?)
    }

    /// One full recompute of `view`, promoted: the seconds of its ledger entry.
    ///
    /// # Errors
    /// Where it ends in another way.
    pub async fn recompute(&self, view: &str) -> Result<f64> {
        self.run(view, "full").await
    }

    /// One batch run of `view` in `mode`, `full` or `incremental`, promoted: the seconds of its ledger entry.
    ///
    /// # Errors
    /// Where it ends in another way.
    pub async fn run(&self, view: &str, mode: &str) -> Result<f64> {
        let path = format!("/v1/views/{view}/recompute");
        let run = self.post(&path, &json!({ "mode": mode })).await?;
        let id = run["id"].as_u64().context("a run has an id")?;
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let run = self.get(&format!("/v1/runs/{id}")).await?;
            match run["outcome"].as_str() {
                Some("running" | "staged") => {}
                Some("promoted") => {
                    return run["seconds"].as_f64().context("a run says its seconds");
                }
                other => bail!("the {mode} run ended {other:?}: {}", run["error"]),
            }
        }
    }

    /// Processor seconds of the server so far.
    ///
    /// # Errors
    /// Where the process is gone.
    pub async fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(&self.proc_file("stat").await?)
    }

    /// The most memory that the server has had resident, MiB.
    ///
    /// # Errors
    /// Where the process is gone.
    pub async fn peak_memory_mib(&self) -> Result<f64> {
        let status = self.proc_file("status").await?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|rest| rest.split_whitespace().next());
        Ok(kib.context("VmHWM is there")?.parse::<f64>()? / 1024.0)
    }

    async fn proc_file(&self, name: &str) -> Result<String> {
        let id = self.child.lock().await.id();
        let id = id.context("the server runs")?;
        Ok(tokio::fs::read_to_string(format!("/proc/{id}/{name}")).await?)
    }

    /// Ends it.
    ///
    /// # Errors
    /// Where it cannot be killed.
    pub async fn stop(&self) -> Result<()> {
        self.child.lock().await.kill().await?;
        Ok(())
    }

    /// Kills it where it stands; what it leaves in its data directory.
    ///
    /// # Errors
    /// Where it cannot be killed.
    pub async fn stopped(self) -> Result<tempfile::TempDir> {
        self.stop().await?;
        Ok(self.started.data)
    }
}

/// Processor seconds of this process so far: what a load cost to generate.
///
/// # Errors
/// Where `/proc` is not there.
pub fn cpu_seconds_of_this_process() -> Result<f64> {
    cpu_seconds(&std::fs::read_to_string("/proc/self/stat")?)
}

/// Processor seconds in a `/proc/PID/stat`.
fn cpu_seconds(stat: &str) -> Result<f64> {
    let after_name = stat.rsplit_once(')').context("the name is in brackets")?.1;
    let ticks = after_name.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(str::parse::<u64>).sum::<Result<_, _>>()?;
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

async fn answer(request: reqwest::RequestBuilder) -> Result<Value> {
    read(request.send().await?).await
}

async fn read(response: reqwest::Response) -> Result<Value> {
    let value: Value = response.json().await?;
    if is_problem(&value) {
        bail!("{value}");
    }
    Ok(value)
}

/// Whether a JSON answer is a problem document.
fn is_problem(value: &Value) -> bool {
    value.get("status").is_some() && value.get("title").is_some()
}
