// SPDX-License-Identifier: Apache-2.0
//! A real `dovetail up` in a process of its own, and calls to it that notice its death.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use reqwest::{Client, Method};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;

use super::program::program;

/// Nothing here takes this long, however busy the machine is: past it, something hangs.
pub(crate) const HANGS: Duration = Duration::from_secs(90);

/// A running server.
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
    calls: Calls,
}

/// Asks a server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Calls {
    client: Client,
    url: String,
}

impl Server {
    /// Starts on the data directory below `home`, and waits until it listens.
    ///
    /// # Errors
    /// How it ended, when it ended before that.
    pub(crate) async fn start(home: &Path, crash_at: Option<&str>) -> Result<Self, ExitStatus> {
        let crash_at = crash_at.map(|point| ("DOVETAIL_CRASH_AT", point));
        Self::start_with(home, &[], crash_at.as_slice()).await
    }

    /// The same with more arguments and variables.
    ///
    /// # Errors
    /// How it ended, when it ended before that.
    pub(crate) async fn start_with(
        home: &Path,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Self, ExitStatus> {
        let data = home.join("data");
        let log = home.join("server.log");
        let stderr = std::fs::File::options()
            .append(true)
            .create(true)
            .open(&log)
            .unwrap();
        let data = data.to_str().unwrap();
        let mut command = program(&["up", "--data", data, "--listen", "127.0.0.1:0"]);
        command
            .args(arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = tokio::time::timeout(HANGS, lines.next_line()).await;
        let Some(line) = first.expect("the server says where it listens").unwrap() else {
            return Err(child.wait().await.unwrap());
        };
        let url = line
            .strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("`{line}` names no address"))
            .to_owned();
        let client = Client::builder().timeout(HANGS).no_proxy().build().unwrap();
        let calls = Calls { client, url };
        Ok(Self { child, log, calls })
    }

    /// For callers that live beside it.
    pub(crate) fn calls(&self) -> Calls {
        self.calls.clone()
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> &str {
        &self.calls.url
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// The most memory it has held so far, in bytes.
    pub(crate) fn peak_memory(&self) -> usize {
        self.memory("VmHWM:")
    }

    /// The memory that it holds, in bytes.
    pub(crate) fn resident_memory(&self) -> usize {
        self.memory("VmRSS:")
    }

    fn memory(&self, what: &str) -> usize {
        let path = format!("/proc/{}/status", self.child.id().expect("it runs"));
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(what));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.expect("a peak").trim().parse::<usize>().unwrap() * 1024
    }

    /// Whether it stands still.
    pub(crate) fn is_frozen(&self) -> bool {
        let path = format!("/proc/{}/stat", self.child.id().expect("it runs"));
        let stat = std::fs::read_to_string(path).unwrap();
        // Behind the name, which may hold anything.
        let (_, rest) = stat.rsplit_once(") ").expect("a name");
        rest.starts_with('T')
    }

    /// Kills it as `kill -9` does.
    pub(crate) async fn kill(mut self) {
        self.child.start_kill().unwrap();
        self.child.wait().await.unwrap();
    }

    /// Waits for a death that it brings on itself.
    pub(crate) async fn died(mut self) -> ExitStatus {
        let waiting = tokio::time::timeout(HANGS, self.child.wait());
        waiting.await.expect("the process dies").unwrap()
    }

    /// Asks it to stop.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Lets it have no more open files and connections than this.
    pub(crate) fn limit_files(&self, most: u64) {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        prlimit(Some(self.pid()), Resource::Nofile, limit).unwrap();
    }

    /// Lets it do nothing at all, until [`Server::thaw`].
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok());
        pid.and_then(Pid::from_raw).expect("it runs")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be a device.
        if std::thread::panicking() && self.log.is_file() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(60)..].join("\n");
            println!("the server said last:\n{tail}");
        }
    }
}

impl Calls {
    /// To a server at `url`, by this `client`.
    pub(crate) fn to(client: Client, url: &str) -> Self {
        Self {
            client,
            url: url.to_owned(),
        }
    }

    /// One call. None when the server died before it answered.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Option<(u16, Value)> {
        let mut request = self.client.request(method, format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answered = async {
            let response = request.body(body).send().await?;
            let status = response.status().as_u16();
            Ok::<_, reqwest::Error>((status, response.bytes().await?))
        };
        match answered.await {
            Ok((status, bytes)) => {
                let read = serde_json::from_slice(&bytes);
                let value = read.unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into());
                Some((status, value))
            }
            Err(error) => {
                assert!(!error.is_timeout(), "{path} hangs: {error}");
                None
            }
        }
    }

    /// `POST` of a JSON body.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Option<(u16, Value)> {
        let headers = [("content-type", "application/json")];
        self.call(Method::POST, path, &headers, body.to_string())
            .await
    }

    /// `GET`, which must succeed.
    pub(crate) async fn get(&self, path: &str) -> Option<Value> {
        let (status, value) = self.call(Method::GET, path, &[], String::new()).await?;
        assert_eq!(status, 200, "{path}: {value}");
        Some(value)
    }

    /// One SQL statement with more members of its JSON body, which must succeed.
    pub(crate) async fn sql(&self, sql: &str, options: Value) -> Option<Value> {
        let mut body = json!({"sql": sql});
        for (name, value) in options.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        let (status, value) = self.post("/v1/sql", &body).await?;
        assert_eq!(status, 200, "{sql}: {value}");
        Some(value)
    }

    /// The rows of a query.
    pub(crate) async fn rows(&self, sql: &str, options: Value) -> Option<Vec<Value>> {
        let answer = self.sql(sql, options).await?;
        Some(answer["rows"].as_array().unwrap().clone())
    }

    /// Starts a batch run and waits until it needs nobody; its record.
    pub(crate) async fn recompute(&self, view: &str, request: &Value) -> Option<Value> {
        let path = format!("/v1/views/{view}/recompute");
        let (status, run) = self.post(&path, request).await?;
        assert_eq!(status, 202, "{run}");
        self.wait(run["id"].as_u64().unwrap()).await
    }

    /// Waits until a run needs nobody; its record.
    pub(crate) async fn wait(&self, id: u64) -> Option<Value> {
        let waiting = async {
            loop {
                let run = self.get(&format!("/v1/runs/{id}")).await?;
                let staged = run["outcome"] == "staged" && run["dry_run"] == false;
                if run["outcome"] != "running" && !staged {
                    return Some(run);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(HANGS, waiting)
            .await
            .expect("the run ends")
    }
}
