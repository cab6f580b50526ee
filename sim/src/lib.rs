// SPDX-License-Identifier: Apache-2.0
//! The layers together, without process, disk or network, against an oracle.
//!
//! Purpose: drive log batches, merges, archives, batch runs, promotes and rollbacks in any order and check
//! every answer. Collaborators: all layers; the tests of this crate choose what happens.
//! Invariants: an answer equals a plain query over the events before its own stated position.
//! Non-goals: HTTP and the real process, which have tests of their own.

mod gate;
pub mod lookup;
mod oracle;
mod rig;

pub use gate::GatedStore;
pub use oracle::{Oracle, same_rows};
pub use rig::{Event, MORE_COLUMNS, Rig, STREAM, collect, event_schema};
