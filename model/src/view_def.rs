// SPDX-License-Identifier: Apache-2.0
//! The declaration of a view.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{StreamId, ViewId, VolumeTrigger};

/// One `SELECT … GROUP BY …` over a stream, declared once for both layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewDef {
    /// Its identity; a redefinition keeps it.
    pub id: ViewId,
    /// Its label.
    pub name: String,
    /// The one stream it reads.
    pub stream: StreamId,
    /// The SELECT, as canonical SQL text.
    pub sql: String,
    /// Cron schedule (five fields, UTC) of full runs.
    pub recompute: Option<String>,
    /// Archived volume since the last full run at which another one starts.
    #[serde(default, skip_serializing_if = "VolumeTrigger::is_none")]
    pub recompute_after: VolumeTrigger,
    /// Interval of incremental runs, in seconds.
    pub refresh_s: Option<u64>,
    /// Counts redefinitions, from 1.
    pub version: u64,
    /// Hash of what decides the view's content: the SELECT and the columns it reads.
    pub definition_hash: String,
    /// When this version was declared.
    pub defined_at: DateTime<Utc>,
}

impl ViewDef {
    /// Takes the options of `other`: they are the view's, whichever of its definitions is in force.
    pub fn take_options(&mut self, other: &Self) {
        self.recompute.clone_from(&other.recompute);
        self.recompute_after = other.recompute_after;
        self.refresh_s = other.refresh_s;
    }
}
