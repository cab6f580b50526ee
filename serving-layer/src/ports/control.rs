// SPDX-License-Identifier: Apache-2.0
//! Definitions and exclusions.

use std::fmt;

use dovetail_model::ExclusionId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::sql::Definition;

/// What a definition came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DdlResult {
    /// It is new.
    Created,
    /// A view got a new definition: live at once, or building beside the old one.
    Redefined,
    /// Options or columns changed.
    Altered,
    /// It was there already, or was not there to drop, and the statement allowed that.
    Unchanged,
    /// It is dropped; its data stays until retention.
    Dropped,
    /// It is back.
    Undropped,
}

impl fmt::Display for DdlResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Redefined => "redefined",
            Self::Altered => "altered",
            Self::Unchanged => "unchanged",
            Self::Dropped => "dropped",
            Self::Undropped => "undropped",
        })
    }
}

/// What one definition did. `POST /v1/sql` answers it as one row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DdlAnswer {
    /// What it came to.
    pub result: DdlResult,
    /// What a reader should know, such as `building: 12000000 events to read`.
    #[serde(default)]
    pub note: Option<String>,
}

/// A definition and where it stands in a directory of `.sql` files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocatedDefinition {
    /// The file's name.
    pub file: String,
    /// Line of the statement's first word, from 1.
    pub line: u64,
    /// The statement as it is written there.
    pub text: String,
    /// `CREATE STREAM` or `CREATE VIEW`.
    pub definition: Definition,
}

/// What `apply` does to one definition, or `plan` says it would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// The file's name.
    pub file: String,
    /// Line in it.
    pub line: u64,
    /// `stream` or `view`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What it comes to.
    pub result: DdlResult,
    /// What changes, for people: one line per difference.
    #[serde(default)]
    pub details: Vec<String>,
}

/// Events to declare wrong.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExclusionRequest {
    /// A boolean expression over the stream's columns.
    #[serde(rename = "where")]
    pub predicate: String,
    /// Why, for people.
    pub reason: String,
}

/// An exclusion, as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExclusionInfo {
    /// Its number within the stream.
    pub id: ExclusionId,
    /// The stream.
    pub stream: String,
    /// Which events.
    #[serde(rename = "where")]
    pub predicate: String,
    /// Why.
    pub reason: String,
    /// Token of the durable position when it was declared; later events are never touched.
    pub bound: String,
    /// When, ISO 8601, UTC.
    pub declared_at: String,
    /// The views whose live generation carries it.
    #[serde(default)]
    pub carried_by: Vec<String>,
}
