// SPDX-License-Identifier: Apache-2.0
//! The handlers, and the calls that they answer. Each takes its parameters, refuses the rest, and calls one port.

pub(super) mod definitions;
pub(super) mod exclusions;
pub(super) mod runs;
mod show;
pub(super) mod sql;
pub(super) mod status;
pub(super) mod streams;
pub(super) mod views;

use super::call::Call;
use super::router::{Api, Reads};

/// Every call, behind the tag that the document lists it under.
pub(super) fn calls() -> Vec<(&'static str, Vec<Call<Api>>)> {
    vec![
        ("sql", sql::calls()),
        ("streams", streams::calls()),
        ("exclusions", exclusions::calls()),
        ("views", views::calls()),
        ("runs", runs::calls()),
        ("definitions", definitions::calls()),
        ("operations", status::calls()),
    ]
}

/// The calls that a replica answers itself; the others it hands on.
pub(super) fn calls_of_reads() -> Vec<Call<Reads>> {
    let mut calls = sql::calls();
    calls.push(views::rows_call());
    calls.extend(status::calls_of_reads());
    calls
}
