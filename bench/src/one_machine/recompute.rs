// SPDX-License-Identifier: Apache-2.0
//! A full recompute from the raw log, published, beside DuckDB doing the same from Parquet to Parquet.

use anyhow::Result;
use dovetail_bench::{Peer, Server, flights_file};

use crate::Size;
use crate::load::recomputed;
use crate::table::Table;

/// The memory that each of them has: ample, then little.
const MEMORY: [&str; 2] = ["4GiB", "1GiB"];

pub(crate) async fn measure(size: Size) -> Result<()> {
    for memory in MEMORY {
        let server = recomputed(size.times, &["--batch-memory", memory]).await?;
        let mut duckdb = Peer::duckdb(&flights_file(), size.times, memory).await?;
        let events = events(&server).await?;
        let mut table = Table::new(
            format!(
                "full recompute of {events} events, published, with {memory}; medians of {} rounds",
                size.rounds
            ),
            &["Mrows/s", "seconds", "CPU s", "peak MiB", "of DuckDB"],
        );
        for _ in 0..size.rounds {
            let before = server.cpu_seconds().await?;
            let seconds = server.recompute("hourly").await?;
            let cpu = server.cpu_seconds().await? - before;
            let mut ratio = f64::NAN;
            if let Some(duckdb) = &mut duckdb {
                let took = duckdb.turn().await?;
                ratio = took.seconds / seconds;
                let rate = events / took.seconds / 1e6;
                table.push(
                    duckdb.name,
                    &[
                        rate,
                        took.seconds,
                        took.cpu_seconds,
                        took.peak_mib,
                        f64::NAN,
                    ],
                );
            }
            let peak = server.peak_memory_mib().await?;
            table.push(
                "dovetail",
                &[events / seconds / 1e6, seconds, cpu, peak, ratio],
            );
        }
        table.print()?;
        server.stop().await?;
    }
    Ok(())
}

async fn events(server: &Server) -> Result<f64> {
    let answer = server.sql("SELECT sum(flights) AS n FROM hourly").await?;
    Ok(answer["rows"][0]["n"].as_f64().unwrap_or(f64::NAN))
}
