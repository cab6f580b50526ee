// SPDX-License-Identifier: Apache-2.0
//! One Parquet file of the raw log, and how the Delta log remembers it.

use std::collections::HashMap;

use arrow::datatypes::Schema;
use deltalake_core::kernel::{Add, Remove};
use dovetail_model::{Position, Span};
use object_store::path::Path;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::delta::data_path;
use super::stats::delta_stats;
use crate::parquet_files::{FileToScan, WrittenFile};

/// The tag of an `Add` that holds what Delta has no field for.
const TAG: &str = "dovetail";

/// An immutable Parquet file with all events of one span, ordered by partition, then offset.
///
/// The spans of a snapshot's segments form one chain without gap or overlap:
/// ```text
/// zero == first.from   left.to == right.from   last.to == archived
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Path from the store's root.
    pub path: Path,
    /// Events in it; none when the span holds only dead letters or holes.
    pub rows: u64,
    /// Size of the file.
    pub bytes: u64,
    /// About what its events take in memory; none where its writer did not say.
    pub decoded_bytes: Option<u64>,
    /// What it covers, in all partitions of the stream.
    pub span: Span,
    /// Smallest and largest event time, microseconds, both inclusive; none without event times.
    pub event_time: Option<(i64, i64)>,
    /// Earliest and latest arrival, microseconds, both inclusive; none without events.
    pub arrived: Option<(i64, i64)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Tag {
    rows: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    decoded_bytes: Option<u64>,
    span: Span,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_time: Option<(i64, i64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arrived: Option<(i64, i64)>,
}

impl Segment {
    /// The same segment where the partitions that are not its writer's stand at `rest`. It holds nothing of them.
    #[must_use]
    pub(super) fn beside(&self, rest: &Position) -> Self {
        Self {
            span: self.span.beside(rest),
            ..self.clone()
        }
    }

    /// The file as scans take it.
    pub(super) fn to_scan(&self) -> FileToScan {
        FileToScan::whole(self.path.clone(), self.bytes)
    }

    /// The action that makes `file` this segment. `data_change` is false when it only holds rows that were
    /// in the table before.
    pub(super) fn to_add(
        &self,
        file: &WrittenFile,
        schema: &Schema,
        data_change: bool,
        now_ms: i64,
    ) -> Add {
        let tag = Tag {
            rows: self.rows,
            decoded_bytes: self.decoded_bytes,
            span: self.span.clone(),
            event_time: self.event_time,
            arrived: self.arrived,
        };
        Add {
            path: self.file_name(),
            size: file.bytes.cast_signed(),
            modification_time: now_ms,
            data_change,
            stats: Some(delta_stats(file, schema)),
            tags: Some(tags_with(&tag)),
            ..Add::default()
        }
    }

    /// The action that takes it out of the table because another segment holds its rows now.
    pub(super) fn to_remove(&self, now_ms: i64) -> Remove {
        remove_of(&self.path, self.bytes, now_ms)
    }

    /// Reads the segment back from the table at `root`.
    ///
    /// # Errors
    /// A sentence naming the file and what is wrong with its entry.
    pub(super) fn from_add(root: &Path, add: &Add) -> Result<Self, String> {
        let tag: Tag = tag_of(add)?;
        Ok(Self {
            path: data_path(root, &add.path),
            rows: tag.rows,
            bytes: add.size.unsigned_abs(),
            decoded_bytes: tag.decoded_bytes,
            span: tag.span,
            event_time: tag.event_time,
            arrived: tag.arrived,
        })
    }

    fn file_name(&self) -> String {
        self.path.filename().unwrap_or_default().to_owned()
    }
}

/// `tag` as the tags of an `Add`.
pub(super) fn tags_with(tag: &impl Serialize) -> HashMap<String, Option<String>> {
    let tag = serde_json::to_string(tag).expect("a tag is plain JSON");
    HashMap::from([(TAG.to_owned(), Some(tag))])
}

/// What [`tags_with`] put into an `Add`.
///
/// # Errors
/// A sentence naming the file.
pub(super) fn tag_of<T: DeserializeOwned>(add: &Add) -> Result<T, String> {
    let tag = add.tags.as_ref().and_then(|tags| tags.get(TAG)?.as_deref());
    let tag = tag.ok_or_else(|| {
        format!(
            "file `{}` has no `{TAG}` tag: another writer added it",
            add.path
        )
    })?;
    serde_json::from_str(tag).map_err(|error| format!("file `{}` has a bad tag: {error}", add.path))
}

/// The action that takes a file out of a table because another holds its rows now.
pub(super) fn remove_of(path: &Path, bytes: u64, now_ms: i64) -> Remove {
    Remove {
        path: path.filename().unwrap_or_default().to_owned(),
        data_change: false,
        deletion_timestamp: Some(now_ms),
        extended_file_metadata: Some(true),
        size: Some(bytes.cast_signed()),
        partition_values: Some(HashMap::new()),
        ..Remove::default()
    }
}
