// SPDX-License-Identifier: Apache-2.0
//! Object stores that keep their word.
//!
//! Purpose: [`open_store`] opens the store that a URL names and counts what it is asked, [`check_store`] finds out whether it
//! keeps its word; [`BlockCache`] keeps parts of its immutable files at hand;
//! [`LocalStore`] is an `object_store::ObjectStore` on a local directory whose answers are durable:
//! a put, copy, rename or delete that has returned survives a power cut, `PutMode::Create` has one winner
//! and `PutMode::Update` is a compare-and-swap. Collaborators: the catalog, the raw log, generations, and
//! `deltalake-core`, which gets the same store. Reads and lists are `object_store`'s own.
//! Invariants: an object is whole or absent under its name; a half-written file is never listed; what one
//! caller is told of another's put is durable when it is told; no error and no log line holds a secret.
//! Non-goals: attributes and tags, several processes on one directory, anything but Unix.

mod aws_files;
mod below;
mod cache;
mod durable;
mod local;
mod open;
mod options;
mod outage;
mod requests;
mod sightings;
mod staged;
mod upload;
mod url;

#[cfg(test)]
mod azure_tests;
#[cfg(test)]
mod conformance;
#[cfg(test)]
pub(crate) mod s3_tests;
#[cfg(test)]
mod tests;

pub use cache::{BlockCache, CacheConfig, CacheCounts};
pub(crate) use durable::create_dirs;
pub use durable::sync_dir;
pub use local::LocalStore;
pub use open::{Environment, StoreError, Usage, check_beside_others, check_store, open_store};
pub use options::StoreOption;
pub use outage::{is_full, is_outage};
pub use requests::{
    Counts, LATENCY_BOUNDS_S, Latencies, Operation, Purpose, RequestCount, RequestKind,
    RequestOutcome, StoreRequests,
};
pub use sightings::Sightings;
pub use url::StoreUrl;
