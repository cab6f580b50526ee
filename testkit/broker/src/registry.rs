// SPDX-License-Identifier: Apache-2.0
//! A real schema registry, Apicurio, with Confluent's API under a path of its own.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fetched;
use crate::process::{Kept, free_ports};

/// As in `script/lib.sh`.
const VERSION: &str = "2.6.13.Final";
const PATH: &str = "/apis/ccompat/v7";
/// How long a start may take.
const START: Duration = Duration::from_secs(90);

/// A running registry. What it keeps is lost when it ends; its ids begin with 1.
#[derive(Debug)]
pub struct Registry {
    process: Option<Kept>,
    port: u16,
}

impl Registry {
    /// Starts an empty one.
    pub fn start() -> Self {
        let [port] = free_ports();
        let mut registry = Self {
            process: None,
            port,
        };
        registry.run();
        registry
    }

    /// Starts it again, empty, after [`Registry::kill`].
    pub fn run(&mut self) {
        let jar = format!("apicurio-registry-app-{VERSION}-runner.jar");
        let dir = fetched(&format!("apicurio-{VERSION}"), &jar, "schema-registry");
        let mut java = Command::new("java");
        java.args(["-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .arg("-Dquarkus.http.host=127.0.0.1")
            .arg(format!("-Dquarkus.http.port={}", self.port))
            .arg("-jar")
            .arg(dir.join(jar));
        self.process = Some(Kept::start(&java, Stdio::null(), Stdio::inherit()));
        let begin = Instant::now();
        while !matches!(self.try_call("GET", "/subjects", ""), Some((200, _))) {
            assert!(begin.elapsed() < START, "the registry does not start");
            sleep(Duration::from_millis(50));
        }
    }

    /// Ends it at once, as kill -9 does.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}{PATH}", self.port)
    }

    /// Registers the next version of a subject, which refers to the first versions of subjects of those names; its id.
    pub fn register(&self, subject: &str, kind: &str, schema: &str, references: &[&str]) -> u32 {
        let references = references
            .iter()
            .map(|name| json!({"name": name, "subject": name, "version": 1}));
        let body = json!({
            "schema": schema, "schemaType": kind, "references": references.collect::<Vec<_>>(),
        });
        let path = format!("/subjects/{subject}/versions");
        let answer = self.try_call("POST", &path, &body.to_string());
        let (status, answer) = answer.expect("the registry answers");
        assert_eq!(status, 200, "{answer}");
        let id = answer["id"].as_u64().expect("an id");
        u32::try_from(id).expect("ids have 32 bits")
    }

    /// One request; none without an answer.
    fn try_call(&self, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        write!(
            stream,
            "{method} {PATH}{path} HTTP/1.0\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, serde_json::from_str(body).unwrap_or(Value::Null)))
    }
}
