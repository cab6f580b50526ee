// SPDX-License-Identifier: Apache-2.0
//! Two replicas behind the shipped configurations of HAProxy and nginx, one of which is killed under load.
//!
//! Collaborators: both balancers as Debian packages them, the files in `deploy/`, of which only names, addresses and
//! places are filled in. Non-goals: what the algorithms of a balancer do beyond their names.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::Client;
use serde_json::json;

use crate::crash::{append, declare};
use crate::replicas::Place;
use crate::support::feed::Feed;
use crate::support::server::{HANGS, Server};

/// Reads before the kill, and how many of them are asked at once.
const READS: usize = 60;
const READERS: usize = 4;
/// A health check that fails twice, a second apart, or a failed call that is remembered.
const NOTICED: Duration = Duration::from_secs(4);

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(file)
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A balancer in front of two replicas; it ends with the value.
pub(crate) struct Balancer {
    child: Child,
    pub(crate) url: String,
    directory: tempfile::TempDir,
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // It keeps no state, and its workers end with it.
        let pid = i32::try_from(self.child.id()).ok();
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

/// A shipped file with the addresses of this test in it.
fn filled_in(file: &str, port: u16, replicas: [&str; 2], directory: &Path) -> String {
    let text = std::fs::read_to_string(deploy(file)).unwrap();
    text.replace(" replica-1:8080", &format!(" {}", replicas[0]))
        .replace(" replica-2:8080", &format!(" {}", replicas[1]))
        .replace("bind :8080", &format!("bind 127.0.0.1:{port}"))
        .replace("listen 8080", &format!("listen 127.0.0.1:{port}"))
        .replace("/run/haproxy", directory.to_str().unwrap())
}

impl Balancer {
    pub(crate) fn haproxy(way: &str, replicas: [&str; 2]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = Command::new("haproxy");
        command.arg("-db");
        for file in ["haproxy.cfg".to_owned(), format!("balance/{way}.cfg")] {
            let text = filled_in(&format!("haproxy/{file}"), port, replicas, directory.path());
            let place = directory.path().join(file.replace('/', "-"));
            std::fs::write(&place, text).unwrap();
            command.arg("-f").arg(place);
        }
        Self::start(command, port, directory)
    }

    fn nginx(way: &str, replicas: [&str; 2]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let home = directory.path().to_str().unwrap();
        let mut http = String::new();
        for file in [format!("balance/{way}.conf"), "dovetail.conf".to_owned()] {
            http += &filled_in(&format!("nginx/{file}"), port, replicas, directory.path());
        }
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|what| format!("{what}_temp_path {home}/{what};\n"))
            .collect();
        let text = format!(
            "daemon off;\nmaster_process off;\npid {home}/pid;\nerror_log {home}/error.log;\nevents {{}}\n\
             http {{\nlog_format upstream '$upstream_addr';\naccess_log {home}/access.log upstream;\n{temporary}{http}}}\n"
        );
        let place = directory.path().join("nginx.conf");
        std::fs::write(&place, text).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-e").arg(directory.path().join("start.log"));
        command.arg("-p").arg(home).arg("-c").arg(place);
        Self::start(command, port, directory)
    }

    fn start(mut command: Command, port: u16, directory: tempfile::TempDir) -> Self {
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let started = command.env("PATH", with_system_tools()).spawn();
        let child = started.expect("install haproxy and nginx: script/test does");
        Self {
            child,
            url: format!("http://127.0.0.1:{port}"),
            directory,
        }
    }

    /// Waits until it answers.
    pub(crate) async fn ready(&mut self, client: &Client) {
        let asking = async {
            loop {
                let ended = self.child.try_wait().unwrap();
                assert!(ended.is_none(), "it ended:\n{}", self.said());
                let asked = client.get(format!("{}/readyz", self.url)).send().await;
                if asked.is_ok_and(|answer| answer.status().is_success()) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let ready = tokio::time::timeout(HANGS, asking).await;
        ready.unwrap_or_else(|_| {
            panic!("it is never ready:\n{}", self.said());
        });
    }

    fn said(&self) -> String {
        let read = |file| std::fs::read_to_string(self.directory.path().join(file));
        ["log", "error.log", "start.log"]
            .map(|file| read(file).unwrap_or_default())
            .concat()
    }
}

/// Debian keeps both where only the system looks.
fn with_system_tools() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/sbin")
}

/// What readers were told.
#[derive(Debug, Default)]
struct Told {
    right: usize,
    wrong: Vec<String>,
}

/// Asks until `ended`, and at least [`READS`] times; both ways of asking in turn.
async fn read(url: String, client: Client, expected: i64, ended: Arc<AtomicBool>) -> Told {
    let mut told = Told::default();
    let mut asked = 0;
    while asked < READS / READERS || !ended.load(Ordering::Relaxed) {
        asked += 1;
        let request = client.get(format!("{url}/v1/views/total"));
        let answered = async {
            let answer = request.send().await?;
            let status = answer.status();
            Ok::<_, reqwest::Error>((status, answer.text().await?))
        };
        match answered.await {
            Ok((status, body)) => {
                let read: Result<serde_json::Value, _> = serde_json::from_str(&body);
                let seen = read.map(|body| body["rows"][0]["seen"].as_i64());
                if status.is_success() && seen.is_ok_and(|seen| seen == Some(expected)) {
                    told.right += 1;
                } else {
                    told.wrong.push(format!("{status}: {body}"));
                }
            }
            Err(error) => told.wrong.push(error.to_string()),
        }
    }
    told
}

async fn readers(
    url: &str,
    client: &Client,
    expected: i64,
    during: impl Future<Output = ()>,
) -> Told {
    let ended = Arc::new(AtomicBool::new(false));
    let reading = (0..READERS).map(|_| {
        let (url, client) = (url.to_owned(), client.clone());
        tokio::spawn(read(url, client, expected, Arc::clone(&ended)))
    });
    let reading: Vec<_> = reading.collect();
    during.await;
    ended.store(true, Ordering::Relaxed);
    let mut all = Told::default();
    for told in reading {
        let told = told.await.unwrap();
        all.right += told.right;
        all.wrong.extend(told.wrong);
    }
    all
}

/// How often each replica was asked, as the balancer tells it.
async fn shares(balancer: &Balancer, client: &Client, calls: usize) -> BTreeMap<String, usize> {
    let log = balancer.directory.path().join("access.log");
    let before = std::fs::read_to_string(&log).map_or(0, |log| log.lines().count());
    let mut shares = BTreeMap::new();
    for _ in 0..calls {
        let asked = client.get(format!("{}/healthz", balancer.url)).send().await;
        if let Some(replica) = asked.unwrap().headers().get("dovetail-replica") {
            let replica = replica.to_str().unwrap().to_owned();
            *shares.entry(replica).or_default() += 1;
        }
    }
    if let Ok(log) = std::fs::read_to_string(&log) {
        for replica in log.lines().skip(before) {
            *shares.entry(replica.to_owned()).or_default() += 1;
        }
    }
    shares
}

/// Both balancers, in every way that is shipped, and what share of 40 calls the first of two replicas gets at least and
/// at most. A call that is handed on, as one of them was too slow for it, is one more for somebody.
const WAYS: [(&str, &str, usize, usize); 10] = [
    ("haproxy", "roundrobin", 20, 20),
    ("haproxy", "weighted", 30, 30),
    ("haproxy", "source", 0, 40),
    ("haproxy", "leastconn", 1, 39),
    ("haproxy", "responsetime", 20, 20),
    ("nginx", "round-robin", 20, 20),
    ("nginx", "weighted", 30, 30),
    ("nginx", "ip-hash", 0, 40),
    ("nginx", "least-conn", 1, 39),
    ("nginx", "two-choices", 1, 39),
];

#[tokio::test]
async fn a_killed_replica_fails_no_read_behind_any_balancer() {
    let place = Place::new();
    let taker = place.taker(&[]).await;
    let mut feed = Feed::default();
    declare(&taker.calls()).await.unwrap();
    append(&taker.calls(), &mut feed, 90, 0).await.unwrap();
    let run = taker.calls().recompute("total", &json!({})).await.unwrap();
    assert_eq!(run["outcome"], "promoted", "{run}");
    append(&taker.calls(), &mut feed, 9, 0).await.unwrap();

    let steady = place.replica("steady", &[]).await;
    for (number, (program, way, least, most)) in WAYS.into_iter().enumerate() {
        let killed = place.replica(&format!("killed-{number}"), &[]).await;
        let replicas = [address(&killed), address(&steady)];
        let replicas = [replicas[0].as_str(), replicas[1].as_str()];
        let mut balancer = match program {
            "haproxy" => Balancer::haproxy(way, replicas),
            _ => Balancer::nginx(way, replicas),
        };
        let client = Client::builder().timeout(HANGS).no_proxy().build().unwrap();
        balancer.ready(&client).await;
        let shares = shares(&balancer, &client, 40).await;
        let first = shares.get("replica-1").or_else(|| shares.get(replicas[0]));
        let first = first.copied().unwrap_or(0);
        let handed_on = shares.values().sum::<usize>() - 40;
        assert!(
            (least..=most + handed_on).contains(&first),
            "{program} {way}: {shares:?}"
        );
        if way.contains("hash") || way == "source" {
            assert_eq!(shares.len(), 1, "{program} {way}: {shares:?}");
        }

        // Under load.
        let during = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            killed.kill().await;
            tokio::time::sleep(NOTICED).await;
        };
        let told = readers(&balancer.url, &client, 99, during).await;
        assert!(told.right >= READS, "{program} {way}: {told:?}");
        println!(
            "{program} {way}: {} right, {} failed until it was noticed",
            told.right,
            told.wrong.len()
        );
        // Once it was noticed.
        let told = readers(&balancer.url, &client, 99, async {}).await;
        assert!(told.wrong.is_empty(), "{program} {way}: {told:?}");
        if way == "responsetime" {
            sets_weights(&balancer);
        }
    }
}

/// The weights that the shipped program sets are those of the replicas that are up.
fn sets_weights(balancer: &Balancer) {
    let ran = Command::new("python3")
        .arg(deploy("haproxy/response-time.py"))
        .args(["--once", "--socket"])
        .arg(balancer.directory.path().join("admin.sock"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(
        ran.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    assert_eq!(said, "replica-2 100\n");
}

fn address(server: &Server) -> String {
    server.url().trim_start_matches("http://").to_owned()
}
