// SPDX-License-Identifier: Apache-2.0
//! What the benchmarks share: a server of their own, and real flights to send to it.

mod server;

pub use server::{Flights, NDJSON, STREAM, Server, setting};
