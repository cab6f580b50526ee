// SPDX-License-Identifier: Apache-2.0
//! The bytes of a catalog file: one JSON document, `{"format", "crc32", "commit" or "state"}`.
//!
//! The checksum covers the format and the exact bytes of the payload, so a flipped bit is found even where
//! the document stays well formed.

use dovetail_model::{CatalogState, Commit};
use object_store::path::Path;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::CatalogError;

/// The format written here; older ones are read, newer ones refused.
pub(super) const FORMAT: u32 = 1;
/// Where the catalog lives.
pub(super) const PREFIX: &str = "catalog";
/// Name before the sequence of a snapshot.
const SNAPSHOT: &str = "snapshot-";

/// The file of commit `sequence`.
pub(super) fn commit_path(sequence: u64) -> Path {
    Path::from(format!("{PREFIX}/{sequence:020}.json"))
}

/// The file of the snapshot after commit `sequence`.
pub(super) fn snapshot_path(sequence: u64) -> Path {
    Path::from(format!("{PREFIX}/{SNAPSHOT}{sequence:020}.json"))
}

/// What a file in the catalog's directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileName {
    /// A commit and its sequence.
    Commit(u64),
    /// A snapshot and the sequence of the last commit in it.
    Snapshot(u64),
}

impl FileName {
    /// Reads a path; none if the file is not the catalog's, such as the temporary file of a store.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let stem = path.filename()?.strip_suffix(".json")?;
        let digits = |text: &str| {
            let valid = text.len() == 20 && text.bytes().all(|b| b.is_ascii_digit());
            valid.then(|| text.parse().ok()).flatten()
        };
        match stem.strip_prefix(SNAPSHOT) {
            Some(rest) => digits(rest).map(Self::Snapshot),
            None => digits(stem).map(Self::Commit),
        }
    }
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

#[derive(Serialize, Deserialize)]
struct CommitFile<'a> {
    format: u32,
    crc32: &'a str,
    #[serde(borrow)]
    commit: &'a RawValue,
}

#[derive(Serialize, Deserialize)]
struct SnapshotFile<'a> {
    format: u32,
    crc32: &'a str,
    #[serde(borrow)]
    state: &'a RawValue,
}

/// The bytes of a commit's file.
pub(super) fn encode_commit(commit: &Commit) -> serde_json::Result<Vec<u8>> {
    let commit = serde_json::value::to_raw_value(commit)?;
    serde_json::to_vec(&CommitFile {
        format: FORMAT,
        crc32: &checksum(&commit),
        commit: &commit,
    })
}

/// The bytes of a snapshot's file.
pub(super) fn encode_snapshot(state: &CatalogState) -> serde_json::Result<Vec<u8>> {
    let state = serde_json::value::to_raw_value(state)?;
    serde_json::to_vec(&SnapshotFile {
        format: FORMAT,
        crc32: &checksum(&state),
        state: &state,
    })
}

/// Reads commit `sequence` back.
pub(super) fn decode_commit(sequence: u64, bytes: &[u8]) -> Result<Commit, CatalogError> {
    let file = commit_path(sequence);
    check_format(&file, bytes)?;
    let document: CommitFile<'_> = parse(&file, bytes)?;
    let commit: Commit = verified(&file, document.crc32, document.commit)?;
    same_sequence(&file, sequence, commit.sequence)?;
    Ok(commit)
}

/// Reads the snapshot after commit `sequence` back.
pub(super) fn decode_snapshot(sequence: u64, bytes: &[u8]) -> Result<CatalogState, CatalogError> {
    let file = snapshot_path(sequence);
    check_format(&file, bytes)?;
    let document: SnapshotFile<'_> = parse(&file, bytes)?;
    let state: CatalogState = verified(&file, document.crc32, document.state)?;
    same_sequence(&file, sequence, state.sequence)?;
    Ok(state)
}

fn checksum(payload: &RawValue) -> String {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(format!("{FORMAT}:").as_bytes());
    hasher.update(payload.get().as_bytes());
    format!("{:08x}", hasher.finalize())
}

/// The format comes first: a newer document need not have the members of ours.
fn check_format(file: &Path, bytes: &[u8]) -> Result<(), CatalogError> {
    let FormatOnly { format } = parse(file, bytes)?;
    if format > FORMAT {
        return Err(CatalogError::Newer {
            file: file.to_string(),
            found: format,
            known: FORMAT,
        });
    }
    Ok(())
}

fn parse<'a, T: Deserialize<'a>>(file: &Path, bytes: &'a [u8]) -> Result<T, CatalogError> {
    serde_json::from_slice(bytes).map_err(|error| corrupt(file, error.to_string()))
}

fn verified<T: DeserializeOwned>(
    file: &Path,
    crc32: &str,
    payload: &RawValue,
) -> Result<T, CatalogError> {
    let computed = checksum(payload);
    if computed != crc32 {
        let reason = format!("its checksum is `{computed}`, not `{crc32}` as it says");
        return Err(corrupt(file, reason));
    }
    parse(file, payload.get().as_bytes())
}

fn same_sequence(file: &Path, expected: u64, found: u64) -> Result<(), CatalogError> {
    if expected == found {
        return Ok(());
    }
    Err(corrupt(file, format!("it holds sequence {found}")))
}

fn corrupt(file: &Path, reason: String) -> CatalogError {
    CatalogError::Corrupt {
        file: file.to_string(),
        reason,
    }
}
