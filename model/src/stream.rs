// SPDX-License-Identifier: Apache-2.0
//! The declaration of a stream.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{Source, StreamId, StreamSchema};

/// A named append-only sequence of events with a declared schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamDef {
    /// Its identity.
    pub id: StreamId,
    /// Its label.
    pub name: String,
    /// What an event looks like.
    pub schema: StreamSchema,
    /// Where its events come from.
    #[serde(default, skip_serializing_if = "Source::is_embedded")]
    pub source: Source,
    /// When it was declared.
    pub created_at: DateTime<Utc>,
}
