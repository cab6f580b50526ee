// SPDX-License-Identifier: Apache-2.0
//! Object stores that keep their word.
//!
//! Purpose: [`LocalStore`], an `object_store::ObjectStore` on a local directory whose answers are durable:
//! a put, copy, rename or delete that has returned survives a power cut, `PutMode::Create` has one winner
//! and `PutMode::Update` is a compare-and-swap. Collaborators: the catalog, the raw log, generations, and
//! `deltalake-core`, which gets the same store. Reads and lists are `object_store`'s own.
//! Invariants: an object is whole or absent under its name; a half-written file is never listed; what one
//! caller is told of another's put is durable when it is told. Non-goals: attributes and tags, several
//! processes on one directory, anything but Unix.

mod durable;
mod local;
mod staged;
mod upload;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;

pub(crate) use durable::{create_dirs, sync_dir};
pub use local::LocalStore;
