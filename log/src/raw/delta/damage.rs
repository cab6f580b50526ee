// SPDX-License-Identifier: Apache-2.0
//! What is not as it was written in a Delta log: which file, and what is wrong with it.
//!
//! Purpose: deltalake says that a table cannot be read, and seldom of which file; and a bit that flips within a text or a
//! number is JSON still. So each commit of ours carries the checksum of its actions, beside each checkpoint of ours lies
//! that of the file, and both are checked where a table is loaded. Where it cannot be, the files that a load reads are
//! looked at one by one. Non-goals: what other writers wrote, or earlier builds: that has no checksum.

use std::panic::AssertUnwindSafe;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use serde_json::{Map, Value};

use super::{EntryKind, entry};
use crate::decode::guarded;

/// Where commitInfo keeps the checksum of the actions behind it.
pub(super) const CHECKSUM_KEY: &str = "dovetailChecksum";

/// What makes a file of a Delta log unreadable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// The file.
    pub(super) file: Path,
    /// What is wrong with it.
    pub(super) reason: String,
}

/// The checksum of actions, or of a checkpoint, as they are written.
pub(super) fn checksum(written: &[u8]) -> String {
    blake3::hash(written).to_hex().to_string()
}

/// Where the checksum of the checkpoint at `path` is. Other engines take no notice of the name.
pub(super) fn sum_of_checkpoint(path: &Path) -> Path {
    Path::from(format!("{path}.blake3"))
}

/// Whether `path` is a checkpoint of a Delta log.
pub(in crate::raw) fn is_checkpoint(path: &Path) -> bool {
    is_entry(path, EntryKind::Checkpoint)
}

/// Whether `path` is a commit of a Delta log.
pub(in crate::raw) fn is_commit(path: &Path) -> bool {
    is_entry(path, EntryKind::Commit)
}

fn is_entry(path: &Path, kind: EntryKind) -> bool {
    let parts: Vec<_> = path.parts().collect();
    let is_in_log = matches!(parts.as_slice(), [.., log, _] if log.as_ref() == "_delta_log");
    is_in_log && entry(path).is_some_and(|(_, of)| of == kind)
}

/// Whether `commit` is what was written, as far as that can be told.
///
/// # Errors
/// What is wrong with it.
pub(in crate::raw) fn check_commit(commit: &[u8]) -> Result<(), String> {
    let mut rest = commit;
    let mut number = 0;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n');
        let (line, behind) = end.map_or((rest, &[][..]), |end| (&rest[..end], &rest[end + 1..]));
        number += 1;
        let action: Map<String, Value> = serde_json::from_slice(line)
            .map_err(|error| format!("line {number} of it is no action: {error}"))?;
        let sum = action
            .get("commitInfo")
            .and_then(|info| info.get(CHECKSUM_KEY));
        if let Some(sum) = sum
            && sum.as_str() != Some(&checksum(behind))
        {
            return Err("its actions do not fit their checksum".to_owned());
        }
        rest = behind;
    }
    match number {
        0 => Err("it is empty".to_owned()),
        _ => Ok(()),
    }
}

/// The first file that keeps the log in `log` from being read up to `version`, from its newest checkpoint on.
///
/// # Errors
/// The store's.
pub(super) async fn find(
    store: &dyn ObjectStore,
    log: &Path,
    version: Option<u64>,
) -> object_store::Result<Option<Finding>> {
    let listed: Vec<_> = store.list(Some(log)).try_collect().await?;
    let within = |of: u64| version.is_none_or(|version| of <= version);
    let mut entries: Vec<_> = listed
        .iter()
        .filter_map(|object| Some((entry(&object.location)?, &object.location)))
        .filter(|((of, kind), _)| within(*of) && *kind != EntryKind::Sum)
        .collect();
    entries.sort_unstable_by_key(|((of, kind), _)| (*of, *kind == EntryKind::Commit));
    let of_checkpoint = |((_, kind), _): &((u64, EntryKind), _)| *kind == EntryKind::Checkpoint;
    let from = entries.iter().rposition(of_checkpoint).unwrap_or(0);
    let mut last = None;
    for ((of, kind), path) in entries.split_off(from) {
        let found = |reason| {
            let file = path.clone();
            Ok(Some(Finding { file, reason }))
        };
        if let Some(last) = last.filter(|last| of > last + 1) {
            return found(format!("there is no commit {} before it", last + 1));
        }
        last = Some(of);
        let checked = match kind {
            EntryKind::Commit => check_commit(&store.get(path).await?.bytes().await?),
            EntryKind::Checkpoint => check_checkpoint(store, path).await?,
            EntryKind::Sum => Ok(()),
        };
        if let Err(reason) = checked {
            return found(reason);
        }
    }
    Ok(None)
}

/// Whether the checkpoint at `path` is what was written, or at least decodes where it has no checksum.
///
/// # Errors
/// The store's; within, what is wrong with it.
pub(in crate::raw) async fn check_checkpoint(
    store: &dyn ObjectStore,
    path: &Path,
) -> object_store::Result<Result<(), String>> {
    let bytes = store.get(path).await?.bytes().await?;
    let sum = match store.get(&sum_of_checkpoint(path)).await {
        Ok(sum) => sum.bytes().await?,
        Err(object_store::Error::NotFound { .. }) => return Ok(decode(bytes)),
        Err(error) => return Err(error),
    };
    Ok(match sum == checksum(&bytes) {
        true => Ok(()),
        false => Err("it does not fit its checksum, in the file `.blake3` beside it".to_owned()),
    })
}

fn decode(checkpoint: Bytes) -> Result<(), String> {
    let decode = || {
        let rows = ParquetRecordBatchReaderBuilder::try_new(checkpoint)?.build()?;
        for batch in rows {
            batch?;
        }
        Ok::<_, ParquetError>(())
    };
    match guarded(AssertUnwindSafe(decode)) {
        Some(decoded) => decoded.map_err(|error| format!("it cannot be decoded: {error}")),
        None => Err("it cannot be decoded".to_owned()),
    }
}
