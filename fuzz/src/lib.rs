// SPDX-License-Identifier: Apache-2.0
//! What must hold of any bytes that come from outside.
//!
//! Purpose: one function per door: each takes bytes and panics when the code behind the door breaks its word, which is more
//! than not to panic itself. Collaborators: `script/fuzz` runs them under libFuzzer (`fuzz/libfuzzer`), `tests/corpus.rs`
//! over the inputs in `corpus`, so that what a fuzzer has found once stays found.
//! Invariants: a function depends on its bytes alone. Non-goals: finding inputs.

mod bodies;
mod compression;
mod log;
mod messages;
mod runs;
mod schema;
mod server;
mod token;

/// Checks bytes; panics when something does not hold of them.
pub type Check = fn(&[u8]);

/// Every target by its name, which is that of its directory in `corpus`.
pub const TARGETS: [(&str, Check); 15] = [
    ("ndjson", bodies::ndjson),
    ("json", bodies::json),
    ("csv", bodies::csv),
    ("arrow", bodies::arrow),
    ("infer", bodies::infer_schema),
    ("gzip", compression::gzip),
    ("zstd", compression::zstd),
    ("avro", messages::avro),
    ("protobuf", messages::protobuf),
    ("segment", log::segment),
    ("damage", log::damage),
    ("runs", runs::runs),
    ("token", token::token),
    ("sql", server::sql),
    ("definitions", server::definitions),
];
