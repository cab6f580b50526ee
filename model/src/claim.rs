// SPDX-License-Identifier: Apache-2.0
//! Whose a store is.
//!
//! The embedded log's newest events are in one data directory alone, so a store belongs to one of them at a time. Each
//! claim begins an epoch; what a process writes, it writes for the epoch that it claimed, and no write of an earlier
//! epoch lands behind the claim of a later one.

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// How many claims a store has seen; 0 before the first.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct StoreEpoch(pub u64);

impl StoreEpoch {
    /// The epoch that the next claim begins.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for StoreEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who has claimed a store, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreClaim {
    /// The store's own id, made by its first claim: what a data directory knows it by, wherever it was moved.
    pub store: String,
    /// The id of a data directory.
    pub owner: String,
    /// The machine that it was on then: for people.
    pub host: String,
    /// When the commit was made.
    pub at: DateTime<Utc>,
    /// The epoch that it began.
    pub epoch: StoreEpoch,
    /// Where the process that has the data directory can be reached, if others are to ask it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Arc<Endpoints>>,
}

/// Where other processes reach the one that takes the events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// Its HTTP API, as a URL.
    pub http: String,
    /// Where it hands out cuts, as a URL.
    pub cuts: String,
}

impl fmt::Display for StoreClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            owner, host, at, ..
        } = self;
        let at = at.format("%Y-%m-%dT%H:%M:%SZ");
        write!(f, "the data directory `{owner}` on `{host}` at {at}")
    }
}
