// SPDX-License-Identifier: Apache-2.0
//! Events declared wrong.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{ExclusionId, Position};

/// Events before `bound` that match `predicate` are wrong and are left out of every generation that carries
/// this exclusion. The raw log keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exclusion {
    /// Its number within the stream.
    pub id: ExclusionId,
    /// A boolean SQL expression over the stream's columns, `_partition`, `_offset` and `_arrived_at`.
    #[serde(rename = "where")]
    pub predicate: String,
    /// Why, for people.
    pub reason: String,
    /// The durable position when it was declared. Later events are never touched.
    pub bound: Position,
    /// When it was declared.
    pub declared_at: DateTime<Utc>,
}
