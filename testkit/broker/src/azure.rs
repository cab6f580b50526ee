// SPDX-License-Identifier: Apache-2.0
//! A real server of Azure's blobs: Azurite, in memory.
//!
//! Invariants: it listens on loopback only, on a port that was free; it ends with its [`AzureServer`], or with the process
//! that started it; one that does not start fails the test with what it said.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::fetched;
use crate::gateway::{BUCKET, options_of};
use crate::process::{Kept, free_ports};

/// As in `testkit/azurite/package.json`.
const VERSION: &str = "3.37.0";
/// How long a start may take on a busy machine; it takes a second.
const PATIENCE: Duration = Duration::from_secs(60);

const ACCOUNT: &str = "dovetailtest";
const KEY: &str = "dGhlIGtleSBvZiB0aGUgQXp1cmUgc2VydmVyIG9mIHRoZSB0ZXN0cw==";
/// Lets its holder create containers, until the year 2099: signed with that key, for that account.
const MAY_CREATE: &str = "sv=2021-06-08&ss=b&srt=c&sp=c&se=2099-01-01T00%3A00%3A00Z&spr=https%2Chttp&\
    sig=qQhRz6Kd7LcTbEij2j1zO5fEC%2BQnOv3GmAbvBOMuZEs%3D";

/// The account that it takes and its key, as variables of the environment.
pub const AZURE_KEYS: [(&str, &str); 2] = [
    ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT),
    ("AZURE_STORAGE_ACCOUNT_KEY", KEY),
];

/// A running server with an empty container, [`BUCKET`]. What it keeps is lost when it ends.
#[derive(Debug)]
pub struct AzureServer {
    // Ends before its directory is removed.
    _process: Kept,
    port: u16,
    _dir: TempDir,
}

impl AzureServer {
    /// Starts one.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let [port] = free_ports();
        let log = dir.path().join("log");
        let main = "node_modules/azurite/dist/src/blob/main.js";
        let installed = fetched(&format!("azurite-{VERSION}"), main, "azurite");
        let mut node = Command::new(installed.join("node"));
        node.env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}"))
            .arg(installed.join(main))
            .args(["--blobHost", "127.0.0.1", "--blobPort"])
            .arg(port.to_string())
            .args(["--inMemoryPersistence", "--silent", "--disableTelemetry"]);
        Self {
            _process: Kept::start_server("Azurite", &node, &log, PATIENCE, || has_container(port)),
            port,
            _dir: dir,
        }
    }

    /// The URL of its account.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/{ACCOUNT}", self.port)
    }

    /// The options that name a store below `prefix` of its container.
    pub fn store_options(&self, prefix: &str) -> [String; 6] {
        options_of(&format!("az://{BUCKET}/{prefix}"), &self.endpoint())
    }
}

/// Creates the container; whether it is there then.
fn has_container(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "PUT /{ACCOUNT}/{BUCKET}?restype=container&{MAY_CREATE} HTTP/1.1\r\nhost: 127.0.0.1\r\n\
             x-ms-version: 2021-06-08\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        )?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer)?;
        Ok(answer.ends_with(b" 201") || answer.ends_with(b" 409"))
    };
    ask().unwrap_or(false)
}
