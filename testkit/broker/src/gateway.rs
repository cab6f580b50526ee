// SPDX-License-Identifier: Apache-2.0
//! A real S3 server: versitygw on a directory.
//!
//! Invariants: it listens on loopback only, on a port that was free; it ends with its [`Gateway`], or with the process
//! that started it; one that does not start fails the test with what it said.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use crate::fetched;
use crate::process::{Kept, free_ports};

/// As in `script/lib.sh`.
const VERSION: &str = "1.8.0";
/// How long a start may take on a busy machine; it takes a quarter of a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// The bucket that every gateway has.
pub const BUCKET: &str = "events";
/// The id of the key that it takes.
pub const KEY_ID: &str = "AKDOVETAILTEST";
/// The key's secret.
pub const SECRET: &str = "a/secret+of=the/tests";

/// Both, as variables of the environment.
pub const KEYS: [(&str, &str); 2] = [
    ("AWS_ACCESS_KEY_ID", KEY_ID),
    ("AWS_SECRET_ACCESS_KEY", SECRET),
];

/// The options that name a store below `prefix` of the [`BUCKET`] at an endpoint.
pub fn store_options(endpoint: &str, prefix: &str) -> [String; 6] {
    options_of(&format!("s3://{BUCKET}/{prefix}"), endpoint)
}

/// The options that name `store` at an endpoint.
pub(crate) fn options_of(store: &str, endpoint: &str) -> [String; 6] {
    let option = "--store-option".to_owned();
    [
        "--store".to_owned(),
        store.to_owned(),
        option.clone(),
        format!("endpoint={endpoint}"),
        option,
        "allow_http=true".to_owned(),
    ]
}

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    // Ends before its directory is removed.
    process: Option<Kept>,
    port: u16,
    dir: Arc<TempDir>,
}

impl Gateway {
    /// Starts a gateway on a directory of its own with an empty [`BUCKET`].
    ///
    /// # Panics
    /// When it is not installed or does not start.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for part in [&format!("root/{BUCKET}"), "sidecar"] {
            std::fs::create_dir_all(dir.path().join(part)).expect("a directory in it");
        }
        Self::on(Arc::new(dir))
    }

    /// Another gateway on the same directory.
    ///
    /// # Panics
    /// As [`Gateway::start`].
    pub fn beside(&self) -> Self {
        Self::on(Arc::clone(&self.dir))
    }

    fn on(dir: Arc<TempDir>) -> Self {
        let [port] = free_ports();
        let mut gateway = Self {
            process: None,
            port,
            dir,
        };
        gateway.run();
        gateway
    }

    /// The URL of its endpoint.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Starts it again, on its port and directory, after [`Gateway::kill`].
    ///
    /// # Panics
    /// As [`Gateway::start`].
    pub fn run(&mut self) {
        let log = self.dir.path().join(format!("{}.log", self.port));
        let mut command = Command::new(binary());
        command
            .env("ROOT_ACCESS_KEY", KEY_ID)
            .env("ROOT_SECRET_KEY", SECRET)
            .args(["--quiet", "--health", "/healthz", "--port"])
            .arg(self.address().to_string())
            // Attributes in files of their own: not every temporary directory has extended ones.
            .args(["posix", "--sidecar"])
            .arg(self.dir.path().join("sidecar"))
            .arg(self.dir.path().join("root"));
        let started =
            Kept::start_server("versitygw", &command, &log, PATIENCE, || self.is_healthy());
        self.process = Some(started);
    }

    /// Ends it at once, as kill -9 does.
    pub fn kill(&mut self) {
        self.process = None;
    }

    fn is_healthy(&self) -> bool {
        let ask = || -> std::io::Result<bool> {
            let mut stream = TcpStream::connect_timeout(&self.address(), PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"GET /healthz HTTP/1.0\r\nhost: gateway\r\n\r\n")?;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer)?;
            Ok(answer.ends_with(b" 200"))
        };
        ask().unwrap_or(false)
    }
}

/// Where `script/versitygw` puts it.
fn binary() -> PathBuf {
    fetched(&format!("versitygw-{VERSION}"), "versitygw", "versitygw").join("versitygw")
}
