// SPDX-License-Identifier: Apache-2.0
//! How much of a stream is archived, and after how much a view is recomputed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An amount of archived events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Volume {
    /// How many.
    pub events: u64,
    /// What they take in the raw log, in bytes.
    pub bytes: u64,
}

/// After how much that was archived since its last full run a view is recomputed: whichever comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VolumeTrigger {
    /// So many events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<u64>,
    /// So many bytes of the raw log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

impl VolumeTrigger {
    /// Whether volume starts nothing.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether `archived` is enough.
    pub fn is_reached_by(&self, archived: Volume) -> bool {
        let reached = |wanted: Option<u64>, there| wanted.is_some_and(|wanted| there >= wanted);
        reached(self.events, archived.events) || reached(self.bytes, archived.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whichever_comes_first_is_enough() {
        let archived = |events, bytes| Volume { events, bytes };
        let both = VolumeTrigger {
            events: Some(10),
            bytes: Some(100),
        };
        assert!(!both.is_reached_by(archived(9, 99)));
        assert!(both.is_reached_by(archived(10, 0)) && both.is_reached_by(archived(0, 100)));
        assert!(!VolumeTrigger::default().is_reached_by(archived(u64::MAX, u64::MAX)));
    }
}
