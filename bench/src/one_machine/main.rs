// SPDX-License-Identifier: Apache-2.0
//! Hard use on one machine: real flights by airport and hour, many times over.
//!
//! Run: `cargo run --release -p dovetail-bench --bin bench-one-machine -- [PART…]`; without a PART all of them, in the order of
//! [`PARTS`]. The server is `dovetail` beside this program (build it first), or `DOVETAIL_BIN`; DuckDB takes part once
//! `script/bench-peers` has fetched it. `BENCH_FLIGHTS` (a Parquet file of flights; else the shipped sample),
//! `BENCH_TIMES` (10, how many times over), `BENCH_ROUNDS` (5), `BENCH_SECONDS` (60, of each steady load).

mod batching;
mod growth;
mod load;
mod reads;
mod recompute;
mod restart;
mod steady;
mod table;

use std::time::Duration;

use anyhow::{Result, ensure};
use dovetail_bench::setting;
use tikv_jemallocator::Jemalloc;

/// As the server has it, for what is read in this process.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// What can be measured by itself.
const PARTS: [&str; 6] = [
    "recompute",
    "steady",
    "batching",
    "reads",
    "restart",
    "growth",
];

/// How much of it.
#[derive(Debug, Clone, Copy)]
struct Size {
    times: u64,
    rounds: u64,
    time: Duration,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut asked: Vec<String> = std::env::args().skip(1).collect();
    for part in &asked {
        ensure!(
            PARTS.contains(&part.as_str()),
            "there is no part `{part}`; there are {}",
            PARTS.join(", ")
        );
    }
    if asked.is_empty() {
        asked = PARTS.map(str::to_owned).to_vec();
    }
    let size = Size {
        times: setting("BENCH_TIMES", 10)?,
        rounds: setting("BENCH_ROUNDS", 5)?,
        time: Duration::from_secs(setting("BENCH_SECONDS", 60)?),
    };
    for part in PARTS
        .iter()
        .filter(|part| asked.iter().any(|asked| asked == *part))
    {
        match *part {
            "recompute" => recompute::measure(size).await?,
            "steady" => steady::measure(size).await?,
            "batching" => batching::measure(size).await?,
            "reads" => reads::measure(size).await?,
            "restart" => restart::measure(size).await?,
            _ => growth::measure(size).await?,
        }
    }
    Ok(())
}
