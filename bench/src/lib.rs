// SPDX-License-Identifier: Apache-2.0
//! What the benchmarks share: a server of their own, real flights to send to it, and figures to say.

mod figures;
mod flights;
pub mod lookups;
mod peer;
mod server;

pub use figures::{Figures, setting};
pub use flights::{Flights, Format, HOURLY, NDJSON, STREAM, avro_schema, kafka_stream, messages};
pub use peer::{Caught, Peer};
pub use server::Server;
