// SPDX-License-Identifier: Apache-2.0
//! The built program, from outside: its command line, its HTTP API, kills and restarts; and the SQL surface of a
//! node. One binary, as linking is what a test crate of this program costs most.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(
    clippy::print_stdout,
    reason = "seeds are printed first, a failure shows what the server said"
)]

mod alter;
mod bad_bodies;
mod bad_input;
mod balancers;
mod cli;
mod config;
mod crash;
mod dead_letters;
mod faults;
mod ingest;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "kafka")]
mod kafka_registry;
mod memory;
mod object_store;
mod poison;
#[cfg(feature = "kafka")]
mod produce;
mod replicas;
#[cfg(feature = "kafka")]
mod roles;
#[cfg(feature = "kafka")]
mod roles_append;
#[cfg(feature = "kafka")]
mod roles_metrics;
#[cfg(feature = "kafka")]
mod roles_tokens;
mod slow_readers;
mod soak;
mod sql_files;
mod support;
mod up;
mod volume;
mod workers;
