// SPDX-License-Identifier: Apache-2.0
//! Query times as the raw log grows while the view does not: they are to stay the same.

use std::time::Instant;

use anyhow::Result;
use dovetail_bench::{Figures, Server};

use crate::Size;
use crate::load::recomputed;
use crate::table::Table;

/// Statements and lookups of one size.
const QUERIES: usize = 200;
const GROUP: &str =
    "SELECT flights, mean FROM hourly WHERE origin = 'SFO' AND hour = '2001-01-01T08:00:00'";
const LOOKUP: &str = "/v1/views/hourly?origin=SFO&hour=2001-01-01T08:00:00";

pub(crate) async fn measure(size: Size) -> Result<()> {
    let mut table = Table::new(
        "query times as the raw log grows, warm; medians",
        &[
            "raw, times",
            "whole, ms",
            "one group, ms",
            "lookup, ms",
            "peak MiB",
        ],
    );
    for times in [1, size.times.div_ceil(3), size.times] {
        let server = recomputed(times, &[]).await?;
        let mut whole = Figures::default();
        for _ in 0..=size.rounds {
            let begun = Instant::now();
            server.rows("SELECT * FROM hourly", "arrow").await?;
            whole.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        let group = median_ms(&server, Ask::Sql).await?;
        let lookup = median_ms(&server, Ask::Lookup).await?;
        let peak = server.peak_memory_mib().await?;
        table.push(
            &format!("{times} times the flights"),
            &[times as f64, whole.median(), group, lookup, peak],
        );
        server.stop().await?;
    }
    table.print()
}

enum Ask {
    Sql,
    Lookup,
}

async fn median_ms(server: &Server, ask: Ask) -> Result<f64> {
    let mut figures = Figures::default();
    for _ in 0..QUERIES {
        let begun = Instant::now();
        match ask {
            Ask::Sql => {
                server.rows(GROUP, "json").await?;
            }
            Ask::Lookup => {
                server.get(LOOKUP).await?;
            }
        }
        figures.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(figures.median())
}
