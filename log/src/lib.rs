// SPDX-License-Identifier: Apache-2.0
//! Sources and the raw log.
//!
//! Purpose: everything that is durable: the embedded log that acknowledges events, the raw log that keeps
//! them for good, dead letters, the catalog, and the object stores below. Collaborators: `dovetail-model`
//! for words; the layers above read committed batches and raw snapshots.
//! Invariants: nothing is visible before its fsync; `archived <= durable`; a segment is forgotten only
//! when archived. Non-goals: views, queries, HTTP.

mod crash;
mod event;

pub mod catalog;
pub mod decode;
pub mod embedded;
pub mod object;
pub mod parquet_files;
pub mod raw;

pub use crash::crash_point;
pub use event::{CommittedBatch, DeadLetter, Envelope, Format, Place};
