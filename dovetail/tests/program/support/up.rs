// SPDX-License-Identifier: Apache-2.0
//! A running `dovetail up`, to be asked by the program itself.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Child;

use super::fake::{Ran, run};
use super::program::program;

/// How long a start or an orderly stop may take on a busy machine; both take a fraction of it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running `dovetail up`.
pub(crate) struct Up {
    pub(crate) url: String,
    pub(crate) child: Child,
}

impl Up {
    pub(crate) async fn start(data: &Path, more: &[&str]) -> Self {
        let data = data.to_str().unwrap();
        let mut args = vec!["up", "--data", data, "--listen", "127.0.0.1:0"];
        args.extend(more);
        let mut child = program(&args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.as_mut().unwrap());
        let read = tokio::time::timeout(PATIENCE, stdout.read_line(&mut line)).await;
        read.unwrap().unwrap();
        let url = line.trim().strip_prefix("listening on ");
        let url = url.unwrap_or_else(|| panic!("it said {line:?}")).to_owned();
        Self { url, child }
    }

    pub(crate) async fn run(&self, args: &[&str]) -> Ran {
        run(&[&["--url", self.url.as_str()], args].concat(), b"").await
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Stops it in order: its exit code, and what it has logged.
    pub(crate) async fn stop(mut self, signal: Signal) -> (i32, String) {
        self.signal(signal);
        let mut log = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        let ended = async {
            stderr.read_to_string(&mut log).await.unwrap();
            self.child.wait().await.unwrap()
        };
        let status = tokio::time::timeout(PATIENCE, ended).await.unwrap();
        (status.code().unwrap_or(-1), log)
    }
}
