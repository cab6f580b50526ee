// SPDX-License-Identifier: Apache-2.0
//! A generation's manifest: what one batch result of a view is made of and made from.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{Exclusion, GenerationNumber, Position, RunId, RunMode, StreamId, ViewDef, ViewId};

/// One immutable Parquet file of a generation. Its rows are sorted by the view's sort key, one per group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataFile {
    /// Path relative to the view's directory, such as `files/0f3a….parquet`.
    pub path: String,
    /// Groups in the file, at least one.
    pub rows: u64,
    /// Size of the file.
    pub bytes: u64,
    /// About what its rows take in memory; none where its writer did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoded_bytes: Option<u64>,
    /// BLAKE3 of the whole file, hex.
    pub checksum: String,
    /// Smallest sort key, as the hex of its Arrow row encoding. Files of a generation are in key order and
    /// do not overlap.
    pub first_key: String,
    /// Largest sort key, encoded alike.
    pub last_key: String,
}

/// What a generation was made from. Same inputs, equal content (law 7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationInputs {
    /// The position up to which the generation covers the stream: the seam.
    pub horizon: Position,
    /// Version of the raw log's table that was read.
    pub raw_version: u64,
    /// The definition's hash.
    pub definition_hash: String,
    /// The exclusions that were applied, in order of id.
    pub exclusions: Vec<Exclusion>,
    /// Hash of the functions, state types and engine that made the states: states of different
    /// fingerprints never merge.
    pub state_fingerprint: String,
}

/// The manifest of one generation of a view.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The view.
    pub view: ViewId,
    /// The stream it reads.
    pub stream: StreamId,
    /// Which generation of the view this is.
    pub number: GenerationNumber,
    /// The generation whose files this one started from, if any.
    pub parent: Option<GenerationNumber>,
    /// The version of the view's definition it belongs to.
    pub definition_version: u64,
    /// The SELECT it answers: lets a rollback restore an old definition.
    pub sql: String,
    /// The kind of run that made it; none for the empty generation of a new view on an empty stream.
    pub mode: Option<RunMode>,
    /// The run that made it.
    pub run: Option<RunId>,
    /// What it was made from.
    pub inputs: GenerationInputs,
    /// Its files, in key order.
    pub files: Vec<DataFile>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

impl Manifest {
    /// The first generation of a new view on an empty stream: no groups, up to the start.
    pub fn empty(view: &ViewDef, state_fingerprint: &str) -> Self {
        Self {
            view: view.id.clone(),
            stream: view.stream.clone(),
            number: GenerationNumber(1),
            parent: None,
            definition_version: view.version,
            sql: view.sql.clone(),
            mode: None,
            run: None,
            inputs: GenerationInputs {
                horizon: Position::zero(),
                raw_version: 0,
                definition_hash: view.definition_hash.clone(),
                exclusions: vec![],
                state_fingerprint: state_fingerprint.to_owned(),
            },
            files: vec![],
            created_at: view.defined_at,
        }
    }

    /// Groups in all files.
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|f| f.rows).sum()
    }

    /// Bytes in all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }
}
