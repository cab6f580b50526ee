// SPDX-License-Identifier: Apache-2.0
//! Events over HTTP until they are durable and visible, for a while: two views that refresh, archiving and merging on.

use std::sync::Arc;

use anyhow::Result;
use dovetail_bench::{
    Encoding, Flights, HOURLY, ROUTES, STREAM, Server, cpu_seconds_of_this_process,
};

use crate::Size;
use crate::load::{BATCH, CLIENTS, send_for};
use crate::table::Table;

/// How often each view is brought forward.
const REFRESH: &str = "10 seconds";

pub(crate) async fn measure(size: Size) -> Result<()> {
    let mut table = Table::new(
        format!(
            "events over HTTP for {} s from {CLIENTS} clients, {BATCH} a request, until the view has all; \
             two views, refresh = '{REFRESH}'",
            size.time.as_secs()
        ),
        &["M events/s", "server CPU s/M", "sender CPU s/M", "peak MiB"],
    );
    for (name, encoding) in [("NDJSON", Encoding::Ndjson), ("Arrow", Encoding::Arrow)] {
        let flights = Arc::new(Flights::load_as(encoding, BATCH)?);
        let server = Arc::new(Server::start().await?);
        server.sql(STREAM).await?;
        for view in [HOURLY, ROUTES] {
            let view = view.replacen(" AS ", &format!(" WITH (refresh = '{REFRESH}') AS "), 1);
            server.sql(&view).await?;
        }
        let own = cpu_seconds_of_this_process()?;
        let sent = send_for(&server, &flights, size.time).await?;
        let own = cpu_seconds_of_this_process()? - own;
        let millions = sent.events as f64 / 1e6;
        table.push(
            name,
            &[
                millions / sent.seconds,
                server.cpu_seconds().await? / millions,
                own / millions,
                server.peak_memory_mib().await?,
            ],
        );
        server.stop().await?;
    }
    table.print()
}
