// SPDX-License-Identifier: Apache-2.0
//! The catalog on an object store: an append-only log of checksummed JSON commits, advanced by
//! put-if-absent, optimistic for many writers.
//!
//! ```text
//! catalog/00000000000000000001.json           commit 1, 2, 3 … without a gap
//! catalog/snapshot-00000000000000000256.json  the state after commit 256; only a short cut
//! ```
//! Purpose: durable home of streams, views, live pointers, exclusions and the run ledger. Collaborators:
//! [`dovetail_model::CatalogState`] folds the commits and says which are allowed; the layers above hold one
//! [`Catalog`] and read its state.
//! Invariants: the state in memory is the fold of commits that were read back or written as they stand on
//! the store; a put whose result is unknown is settled by reading back and comparing nonces, so that an
//! entry is never lost while its writer was told it is there, and never applied twice; a handle commits only in the
//! epoch that it opened or claimed, judged on the very state that the commit follows.
//! Non-goals: deleting old commits.

mod error;
mod file;
mod log;
mod random;
mod store;

pub use error::{CatalogError, CommitError, Held, Superseded};
pub use random::{NonceSource, random_u64};
pub use store::Catalog;

#[cfg(test)]
pub(crate) mod tests;
