// SPDX-License-Identifier: Apache-2.0
//! Servers that hold flights, and clients that send them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use dovetail_bench::{ARROW, Encoding, Flights, HOURLY, STREAM, Server};
use serde_json::json;

/// Connections that send at a time.
pub(crate) const CLIENTS: u64 = 4;
/// Events of one request.
pub(crate) const BATCH: usize = 20_000;

/// A server with the hourly view over the flights, so many times over; all of them are in the raw log and in the
/// view's generation.
pub(crate) async fn recomputed(times: u64, options: &[&str]) -> Result<Server> {
    let server = Server::start_with(options, &[]).await?;
    server.sql(STREAM).await?;
    server.sql(HOURLY).await?;
    let flights = Flights::load_as(Encoding::Arrow, 256 * 1024)?;
    for _ in 0..times {
        for body in flights.bodies() {
            server.append(body.clone(), ARROW).await?;
        }
    }
    server.recompute("hourly").await?;
    Ok(server)
}

/// What clients that send as fast as they are answered got through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) events: u64,
    /// From the first request until a query saw the last event.
    pub(crate) seconds: f64,
}

/// Sends for `time`, from several clients, and waits until the hourly view has all.
pub(crate) async fn send_for(
    server: &Arc<Server>,
    flights: &Arc<Flights>,
    time: Duration,
) -> Result<Sent> {
    let next = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let mut clients = vec![];
    for _ in 0..CLIENTS {
        let (server, flights, next) = (Arc::clone(server), Arc::clone(flights), Arc::clone(&next));
        clients.push(tokio::spawn(async move {
            let mut events = 0;
            let mut last = String::new();
            while begun.elapsed() < time {
                let at = next.fetch_add(BATCH as u64, Ordering::Relaxed);
                let (accepted, token) = server
                    .append(flights.body(at), flights.content_type())
                    .await?;
                events += accepted;
                last = token;
            }
            anyhow::Ok((events, last))
        }));
    }
    let mut events = 0;
    for client in clients {
        let (sent, token) = client.await??;
        events += sent;
        until_visible(server, &token).await?;
    }
    Ok(Sent {
        events,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// Returns once the hourly view has what lies before `token`.
pub(crate) async fn until_visible(server: &Server, token: &str) -> Result<()> {
    let query =
        json!({"sql": "SELECT 1 FROM hourly LIMIT 1", "after": token, "timeout_ms": 600_000});
    server.post("/v1/sql", &query).await?;
    Ok(())
}
