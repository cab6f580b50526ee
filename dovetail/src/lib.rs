// SPDX-License-Identifier: Apache-2.0
//! The command line, and the wiring of all layers into one process.
//!
//! Purpose: what the `dovetail` program does. [`cli`] reads the command line; most commands are clients of
//! the HTTP API through [`client`] and [`ingest`]. Collaborators: the layers below, which only the wiring
//! knows. Invariants: a command never reaches around the HTTP API. Non-goals: what the layers do.

pub mod cli;
pub mod client;
pub mod ingest;
pub mod node;
