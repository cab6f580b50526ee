// SPDX-License-Identifier: Apache-2.0
//! Lookups by key over a socket, in the protocols of the systems that answer them. One client for all, so that what it
//! costs itself is the same for each.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use crate::Figures;

/// The key of one group of [`crate::HOURLY`].
#[derive(Debug, Clone)]
pub struct Key {
    /// Airport.
    pub origin: String,
    /// Such as `2001-01-01T05:00:00`.
    pub hour: String,
}

/// Who answers.
#[derive(Debug, Clone)]
pub enum Store {
    /// The view, by REST over HTTP/1.1.
    Dovetail {
        /// Host and port.
        address: String,
    },
    /// A JSON text for each key, by GET.
    Redis {
        /// Host and port.
        address: String,
    },
    /// A table with a primary key, by a statement that each connection prepares once.
    Postgres {
        /// Host and port.
        address: String,
    },
}

/// What clients measured.
#[derive(Debug, Default)]
pub struct Measured {
    /// Milliseconds of each lookup.
    pub latencies: Figures,
    /// Answers in a second, of all clients.
    pub per_second: f64,
}

const STATEMENT: &str = "SELECT origin, hour, flights, total, mean, least, most FROM hourly WHERE origin = $1 AND hour = CAST($2 AS timestamp)";

/// Lets so many `clients` look up `keys` one after the other for `time`. Each lookup must find its group.
///
/// # Errors
/// Where a connection fails or a group is not found.
pub async fn measure(
    store: &Store,
    keys: &[Key],
    clients: usize,
    time: Duration,
) -> Result<Measured> {
    let latencies = Rc::new(RefCell::new(Vec::new()));
    let next = Rc::new(Cell::new(0usize));
    let keys: Rc<[Key]> = keys.into();
    let mut connections = vec![];
    for _ in 0..clients {
        connections.push(Connection::open(store.clone()).await?);
    }
    let begin = Instant::now();
    let local = LocalSet::new();
    let mut tasks = vec![];
    for mut connection in connections {
        let (latencies, next, keys) = (Rc::clone(&latencies), Rc::clone(&next), Rc::clone(&keys));
        tasks.push(local.spawn_local(async move {
            while begin.elapsed() < time {
                let at = next.get();
                next.set(at + 1);
                let asked = Instant::now();
                connection.look_up(&keys[at % keys.len()]).await?;
                let latency = asked.elapsed().as_secs_f64() * 1e3;
                latencies.borrow_mut().push(latency);
            }
            anyhow::Ok(())
        }));
    }
    local
        .run_until(async {
            for task in tasks {
                task.await??;
            }
            anyhow::Ok(())
        })
        .await?;
    let elapsed = begin.elapsed().as_secs_f64();
    let latencies = latencies.take();
    Ok(Measured {
        per_second: latencies.len() as f64 / elapsed,
        latencies: latencies.into_iter().collect(),
    })
}

/// Connects and sends `statements` to PostgreSQL, one after the other.
///
/// # Errors
/// Where it refuses one.
pub async fn postgres_run(
    address: &str,
    statements: impl IntoIterator<Item = String>,
) -> Result<()> {
    let store = Store::Postgres {
        address: address.to_owned(),
    };
    let mut connection = Connection::connect(store).await?;
    connection.postgres_start().await?;
    for statement in statements {
        connection.postgres_message(b'Q', &[statement.as_bytes(), b"\0"]);
        connection.exchange().await?;
    }
    Ok(())
}

/// Sets keys of Redis to texts.
///
/// # Errors
/// Where it refuses one.
pub async fn redis_fill(address: &str, entries: &[(String, String)]) -> Result<()> {
    let mut socket = TcpStream::connect(address).await?;
    for chunk in entries.chunks(1000) {
        let mut out = Vec::new();
        for (key, value) in chunk {
            redis_command(&mut out, &[b"SET", key.as_bytes(), value.as_bytes()]);
        }
        socket.write_all(&out).await?;
        let mut answers = vec![0; chunk.len() * b"+OK\r\n".len()];
        socket.read_exact(&mut answers).await?;
        ensure!(answers.starts_with(b"+OK"), "Redis refuses");
    }
    Ok(())
}

/// A key of Redis.
#[must_use]
pub fn redis_key(key: &Key) -> String {
    format!("{}|{}", key.origin, key.hour)
}

fn redis_command(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

struct Connection {
    store: Store,
    socket: TcpStream,
    out: Vec<u8>,
    received: Vec<u8>,
}

impl Connection {
    async fn connect(store: Store) -> Result<Self> {
        let (Store::Dovetail { address } | Store::Redis { address } | Store::Postgres { address }) =
            &store;
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Self {
            store,
            socket,
            out: Vec::new(),
            received: Vec::new(),
        })
    }

    async fn open(store: Store) -> Result<Self> {
        let mut connection = Self::connect(store).await?;
        if let Store::Postgres { .. } = connection.store {
            connection.postgres_start().await?;
            let no_types = [0, 0];
            let parts: [&[u8]; 4] = [b"of_key\0", STATEMENT.as_bytes(), b"\0", &no_types];
            connection.postgres_message(b'P', &parts);
            connection.postgres_message(b'S', &[]);
            connection.exchange().await?;
        }
        Ok(connection)
    }

    async fn look_up(&mut self, key: &Key) -> Result<()> {
        match &self.store {
            Store::Dovetail { address } => {
                let Key { origin, hour } = key;
                let path = format!("/v1/views/hourly?origin={origin}&hour={hour}");
                let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n");
                self.out.extend_from_slice(request.as_bytes());
            }
            Store::Redis { .. } => {
                let name = redis_key(key);
                redis_command(&mut self.out, &[b"GET", name.as_bytes()]);
            }
            Store::Postgres { .. } => self.postgres_bind(key),
        }
        let found = self.exchange().await?;
        ensure!(found, "there is no {key:?}");
        Ok(())
    }

    /// Sends what is to be sent and takes the whole answer: whether it has a row.
    async fn exchange(&mut self) -> Result<bool> {
        self.socket.write_all(&self.out).await?;
        self.out.clear();
        self.received.clear();
        loop {
            let read = self.socket.read_buf(&mut self.received).await?;
            ensure!(read > 0, "the connection ended");
            let whole = match &self.store {
                Store::Dovetail { .. } => http_answer(&self.received)?,
                Store::Redis { .. } => redis_answer(&self.received)?,
                Store::Postgres { .. } => postgres_answer(&self.received)?,
            };
            if let Some(found) = whole {
                return Ok(found);
            }
        }
    }

    async fn postgres_start(&mut self) -> Result<()> {
        let body = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0";
        let length = u32::try_from(body.len() + 4)?;
        self.out.extend_from_slice(&length.to_be_bytes());
        self.out.extend_from_slice(body);
        self.exchange().await.map(drop)
    }

    fn postgres_message(&mut self, kind: u8, parts: &[&[u8]]) {
        self.out.push(kind);
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let length = (length + 4) as u32;
        self.out.extend_from_slice(&length.to_be_bytes());
        for part in parts {
            self.out.extend_from_slice(part);
        }
    }

    fn postgres_bind(&mut self, key: &Key) {
        // No portal, the statement, no formats (all are text), two values, no formats of results.
        let sizes = [&key.origin, &key.hour].map(|text| (text.len() as u32).to_be_bytes());
        self.postgres_message(
            b'B',
            &[
                b"\0of_key\0\0\0\0\x02",
                &sizes[0],
                key.origin.as_bytes(),
                &sizes[1],
                key.hour.as_bytes(),
                &[0, 0],
            ],
        );
        self.postgres_message(b'E', &[b"\0\0\0\0\0"]);
        self.postgres_message(b'S', &[]);
    }
}

/// Stands in an answer of ours that has a row.
const ROW: &[u8] = b"\"rows\":[\n{";

/// Whether there is a row, once the answer is whole.
fn http_answer(received: &[u8]) -> Result<Option<bool>> {
    let end = received.windows(4).position(|four| four == b"\r\n\r\n");
    let Some(end) = end else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&received[..end])?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.context("an answer says its length")?.parse()?;
    let body = &received[end + 4..];
    Ok((body.len() >= length).then(|| body.windows(ROW.len()).any(|part| part == ROW)))
}

fn redis_answer(received: &[u8]) -> Result<Option<bool>> {
    let Some(end) = received.windows(2).position(|two| two == b"\r\n") else {
        return Ok(None);
    };
    let line = std::str::from_utf8(&received[..end])?;
    let length = line
        .strip_prefix('$')
        .context("Redis answers with a text")?;
    let Ok(length) = length.parse::<usize>() else {
        return Ok(Some(false));
    };
    Ok((received.len() >= end + 2 + length + 2).then_some(true))
}

/// Messages up to `ReadyForQuery`.
fn postgres_answer(mut received: &[u8]) -> Result<Option<bool>> {
    let mut found = false;
    while let [kind, a, b, c, d, ..] = *received {
        let length = u32::from_be_bytes([a, b, c, d]) as usize + 1;
        if received.len() < length {
            return Ok(None);
        }
        match kind {
            b'Z' => return Ok(Some(found)),
            b'D' => found = true,
            b'E' => bail!("{}", String::from_utf8_lossy(&received[5..length])),
            _ => {}
        }
        received = &received[length..];
    }
    Ok(None)
}
