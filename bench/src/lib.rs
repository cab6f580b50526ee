// SPDX-License-Identifier: Apache-2.0
//! What the benchmarks share: a server of their own, real flights to send to it, and figures to say.

mod figures;
mod flights;
pub mod lookups;
mod peer;
mod server;

pub use figures::{Figures, setting};
pub use flights::{
    ARROW, Encoding, Flights, Format, HOURLY, NDJSON, ROUTES, STREAM, arrow_body, avro_schema,
    flights_file, kafka_stream, messages,
};
pub use peer::{Peer, Took};
pub use server::{Server, cpu_seconds_of_this_process};
