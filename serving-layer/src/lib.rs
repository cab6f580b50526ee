// SPDX-License-Identifier: Apache-2.0
//! The serving layer: statements, answers, and the HTTP API.
//!
//! Purpose: everything around a query. [`sql`] says what a statement asks for, [`ports`] what the HTTP API
//! asks of the rest of the platform, [`http`] serves both. Collaborators: `dovetail-model` for words,
//! `dovetail-log` for wire formats; the binary implements the ports and listens.
//! Invariants: an answer states generation, position and freshness; an error is a problem document; an
//! answer that fails half-way never looks whole. Non-goals: storage, batch runs, command line.

pub mod engine;
mod held;
pub mod http;
pub mod ports;
pub mod problem;
pub mod rows;
pub mod sql;
pub mod time;
