// SPDX-License-Identifier: Apache-2.0
//! The whole view as Arrow over HTTP, where runs touch a tenth of its groups, beside the same read where there are none.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::ipc::reader::StreamReader;
use dovetail_bench::{ARROW, Server, arrow_body};

use crate::Size;
use crate::load::{recomputed, until_visible};
use crate::table::Table;

/// One group of so many is touched.
const TENTH: u64 = 10;
const WHOLE: &str = "SELECT * FROM hourly";
/// In the order of the generation's files: that of the key which derives from event time first.
const KEYS: &str = "SELECT origin, hour AS date FROM hourly ORDER BY hour, origin";

pub(crate) async fn measure(size: Size) -> Result<()> {
    let mut servers = vec![];
    for touched in [Touched::Nothing, Touched::Clustered, Touched::Uniform] {
        let server = recomputed(1, &[]).await?;
        let groups = touched.touch(&server).await?;
        servers.push((touched, server, groups));
    }
    let mut table = Table::new(
        format!(
            "the whole view over HTTP as Arrow, warm; medians of {} rounds",
            size.rounds
        ),
        &["groups", "touched", "ms", "of untouched"],
    );
    for round in 0..=size.rounds {
        let mut untouched = f64::NAN;
        for (touched, server, (groups, of_them)) in &servers {
            let begun = Instant::now();
            server.rows(WHOLE, "arrow").await?;
            let ms = begun.elapsed().as_secs_f64() * 1e3;
            if *touched == Touched::Nothing {
                untouched = ms;
            }
            // The first one warms up.
            if round > 0 {
                table.push(
                    touched.name(),
                    &[*groups as f64, *of_them as f64, ms, ms / untouched],
                );
            }
        }
    }
    table.print()?;
    for (_, server, _) in &servers {
        server.stop().await?;
    }
    Ok(())
}

/// Which groups new events fall into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Touched {
    Nothing,
    /// The last tenth.
    Clustered,
    /// Each tenth one.
    Uniform,
}

impl Touched {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "speed layer empty",
            Self::Clustered => "a tenth touched, clustered",
            Self::Uniform => "a tenth touched, uniform",
        }
    }

    /// Sends an event into each of these groups; how many groups there are, and how many of them got one.
    async fn touch(self, server: &Server) -> Result<(u64, u64)> {
        let keys = keys(server).await?;
        let groups = keys.num_rows() as u64;
        let rows: Vec<u64> = match self {
            Self::Nothing => vec![],
            Self::Clustered => (groups - groups / TENTH..groups).collect(),
            Self::Uniform => (0..groups).step_by(TENTH as usize).collect(),
        };
        if rows.is_empty() {
            return Ok((groups, 0));
        }
        let touched = rows.len() as u64;
        let keys = take_record_batch(&keys, &UInt64Array::from(rows))?;
        let ones: ArrayRef = Arc::new(Int64Array::from_value(1, keys.num_rows()));
        let [origin, date] = [keys.column(0), keys.column(1)].map(Arc::clone);
        let columns = [
            ("date", date),
            ("delay", Arc::clone(&ones)),
            ("distance", ones),
            ("origin", Arc::clone(&origin)),
            ("destination", origin),
        ];
        let events = RecordBatch::try_from_iter(columns)?;
        let (_, token) = server.append(arrow_body(&events)?, ARROW).await?;
        until_visible(server, &token).await?;
        Ok((groups, touched))
    }
}

async fn keys(server: &Server) -> Result<RecordBatch> {
    let body = server.body(KEYS, "arrow").await?;
    let reader = StreamReader::try_new(body.as_ref(), None)?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<Vec<_>, _>>()?;
    concat_batches(&schema, &batches).context("the keys are one batch")
}
