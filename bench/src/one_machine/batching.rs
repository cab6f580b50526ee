// SPDX-License-Identifier: Apache-2.0
//! How micro-batches grow with the load, and what that does to latency: appends that come together are committed, and
//! become runs, together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use dovetail_bench::{Encoding, Figures, Flights, HOURLY, STREAM, Server};

use crate::Size;
use crate::table::Table;

const CLIENTS: u64 = 16;
/// Events of one request.
const BATCH: usize = 500;
/// Events a second that are offered; at last, as many as are answered.
const RATES: [u64; 6] = [5_000, 50_000, 200_000, 500_000, 1_000_000, u64::MAX];
/// Of one group, which covers what the client has sent.
const LOOKUP: &str = "/v1/views/hourly?origin=SFO&hour=2001-01-01T08:00:00";
/// Of each rate.
const MOST_TIME: Duration = Duration::from_secs(10);

pub(crate) async fn measure(size: Size) -> Result<()> {
    let mut table = Table::new(
        format!(
            "appends of {BATCH} events as NDJSON from {CLIENTS} clients, and until a lookup by key sees them"
        ),
        &[
            "events/s",
            "events a batch",
            "ack p50, ms",
            "ack p99, ms",
            "seen p50, ms",
            "seen p99, ms",
        ],
    );
    let flights = Arc::new(Flights::load_as(Encoding::Ndjson, BATCH)?);
    for rate in RATES {
        let server = Arc::new(Server::start().await?);
        server.sql(STREAM).await?;
        server.sql(HOURLY).await?;
        let name = match rate {
            u64::MAX => "as fast as they are answered".to_owned(),
            rate => format!("{rate} events/s offered"),
        };
        let time = size.time.min(MOST_TIME);
        table.push(&name, &offer(&server, &flights, rate, time).await?);
        server.stop().await?;
    }
    table.print()
}

/// Sends at `rate` for `time`: the figures of one line.
async fn offer(
    server: &Arc<Server>,
    flights: &Arc<Flights>,
    rate: u64,
    time: Duration,
) -> Result<[f64; 6]> {
    let next = Arc::new(AtomicU64::new(0));
    let pause = Duration::from_secs_f64((CLIENTS * BATCH as u64) as f64 / rate as f64);
    let begun = Instant::now();
    let clients = (0..CLIENTS).map(|client| {
        let (server, flights, next) = (Arc::clone(server), Arc::clone(flights), Arc::clone(&next));
        tokio::spawn(async move {
            let (mut acknowledged, mut seen) = (Figures::default(), Figures::default());
            // Not all at the same moment.
            let mut due = begun + pause.mul_f64(client as f64 / CLIENTS as f64);
            while begun.elapsed() < time {
                tokio::time::sleep_until(due.into()).await;
                due = (due + pause).max(Instant::now());
                let at = next.fetch_add(BATCH as u64, Ordering::Relaxed);
                let sent = Instant::now();
                let (_, token) = server
                    .append(flights.body(at), flights.content_type())
                    .await?;
                acknowledged.push(sent.elapsed().as_secs_f64() * 1e3);
                // One of them asks, so that the questions are not the load.
                if client == 0 {
                    server
                        .get(&format!("{LOOKUP}&after={}", token.replace('~', "%7E")))
                        .await?;
                    seen.push(sent.elapsed().as_secs_f64() * 1e3);
                }
            }
            anyhow::Ok((acknowledged, seen))
        })
    });
    let (mut acknowledged, mut seen) = (Figures::default(), Figures::default());
    for client in clients.collect::<Vec<_>>() {
        let (of_this, seen_by_this) = client.await??;
        acknowledged.extend(of_this);
        seen.extend(seen_by_this);
    }
    let seconds = begun.elapsed().as_secs_f64();
    let stage = "{stage=\"accumulate\",stream=\"flights\"}";
    let events = server
        .metric(&format!("dovetail_stage_handled_total{stage}"))
        .await?;
    let batches = server
        .metric(&format!("dovetail_stage_seconds_count{stage}"))
        .await?;
    Ok([
        events / seconds,
        events / batches,
        acknowledged.median(),
        acknowledged.at(0.99),
        seen.median(),
        seen.at(0.99),
    ])
}
