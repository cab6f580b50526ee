// SPDX-License-Identifier: Apache-2.0
//! From the start of a process that was killed with millions of events behind its generation, until it answers right.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dovetail_bench::{Encoding, Flights, HOURLY, STREAM, Server};
use serde_json::Value;

use crate::Size;
use crate::load::BATCH;
use crate::table::Table;

const EVENTS: u64 = 3_000_000;
const SUM: &str = "SELECT sum(flights) AS n FROM hourly";

pub(crate) async fn measure(size: Size) -> Result<()> {
    let mut table = Table::new(
        format!(
            "killed with {EVENTS} events that no generation covers, and started again; medians of {} rounds",
            size.rounds
        ),
        &["seconds", "peak MiB"],
    );
    for _ in 0..size.rounds {
        for (name, pause) in [
            ("all of them in the log or just archived", Duration::ZERO),
            ("all of them archived", Duration::from_secs(12)),
        ] {
            let server = filled().await?;
            tokio::time::sleep(pause).await;
            let begun = Instant::now();
            let server = server.killed_and_started().await?;
            let answer = server.sql(SUM).await?;
            let seconds = begun.elapsed().as_secs_f64();
            ensure!(
                has_all(&answer),
                "after {seconds} s the view has {}",
                answer["rows"]
            );
            table.push(name, &[seconds, server.peak_memory_mib().await?]);
            server.stop().await?;
        }
    }
    table.print()
}

fn has_all(answer: &Value) -> bool {
    answer["rows"][0]["n"]
        .as_u64()
        .is_some_and(|seen| seen >= EVENTS)
}

async fn filled() -> Result<Server> {
    let server = Server::start().await?;
    server.sql(STREAM).await?;
    server.sql(HOURLY).await?;
    let flights = Flights::load_as(Encoding::Arrow, BATCH)?;
    let mut sent = 0;
    while sent < EVENTS {
        sent += server
            .append(flights.body(sent), flights.content_type())
            .await?
            .0;
    }
    Ok(server)
}
