// SPDX-License-Identifier: Apache-2.0
//! What can go wrong with the raw log.

use std::error::Error;

use datafusion::error::DataFusionError;
use dovetail_model::{Offset, PartitionId, Position, ProblemKind, Span};
use object_store::path::Path;

use super::delta::DeltaLogError;
use crate::object::is_outage;

/// The raw log could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RawError {
    /// The span to archive starts neither where the archive ends nor wholly before that.
    #[error(
        "span `{span}` does not start at the archived position `{archived}`: archive from there on"
    )]
    NotAtArchived {
        /// What was to be archived.
        span: Box<Span>,
        /// Where the archive ends.
        archived: Box<Position>,
    },
    /// The batches handed over do not cover the span exactly.
    #[error(
        "the batches of span `{span}` do not cover it: partition {partition} goes on at offset {expected}, not at {found}"
    )]
    Gap {
        /// What was to be archived.
        span: Box<Span>,
        /// Where the gap or overlap is.
        partition: PartitionId,
        /// The offset that comes next.
        expected: Offset,
        /// What came instead, or where the span ends.
        found: Offset,
    },
    /// A batch contradicts itself or the stream's schema: a fault of its maker.
    #[error("a batch of span `{span}` cannot be archived: {reason}")]
    Batch {
        /// What was to be archived.
        span: Box<Span>,
        /// What is wrong with it.
        reason: String,
    },
    /// A scan asks for events that are not archived.
    #[error("span `{span}` is archived only up to `{archived}`: archive it first")]
    NotArchived {
        /// What was asked for.
        span: Box<Span>,
        /// Where the archive ends.
        archived: Box<Position>,
    },
    /// The table's segments do not cover what its transactions say is archived (law 5).
    #[error("raw log `{table}` has a hole: {reason}")]
    Hole {
        /// The table's root.
        table: Path,
        /// Where.
        reason: String,
    },
    /// The table's columns cannot hold the stream's events.
    #[error("raw log `{table}` does not fit the stream: {reason}")]
    Schema {
        /// The table's root.
        table: Path,
        /// Which column, and why.
        reason: String,
    },
    /// Another data directory has claimed the store, and this table: this process may write nothing more. Stop it.
    #[error(
        "raw log `{table}` was claimed in epoch {found} of {of}, this process writes in epoch {ours}: it is superseded"
    )]
    Superseded {
        /// The table's root.
        table: Path,
        /// Of what.
        of: &'static str,
        /// The table's epoch.
        found: u64,
        /// Ours.
        ours: u64,
    },
    /// Other writers took every version we tried; is another process archiving this stream?
    #[error(
        "raw log `{table}` was changed by another writer {tries} times in a row: is another process archiving this stream?"
    )]
    Contended {
        /// The table's root.
        table: Path,
        /// How often we tried.
        tries: usize,
    },
    /// The Delta log could not be read or written.
    #[error(transparent)]
    Delta(#[from] DeltaLogError),
    /// A data file could not be listed or deleted.
    #[error("the store failed for `{path}`: {source}")]
    Store {
        /// The object.
        path: Path,
        /// What the store said.
        #[source]
        source: object_store::Error,
    },
    /// A data file could not be written or read.
    #[error("data files of `{table}` could not be written or read: {source}")]
    Data {
        /// The table's root.
        table: Path,
        /// What went wrong, the file named in it.
        #[source]
        source: Box<DataFusionError>,
    },
}

impl RawError {
    /// What a caller can do about it.
    pub fn kind(&self) -> ProblemKind {
        match self {
            Self::NotAtArchived { .. } | Self::NotArchived { .. } | Self::Contended { .. } => {
                ProblemKind::Conflict
            }
            Self::Gap { .. } | Self::Batch { .. } | Self::Hole { .. } | Self::Schema { .. } => {
                ProblemKind::Internal
            }
            Self::Delta(error) => error.kind(),
            Self::Superseded { .. } | Self::Store { .. } => ProblemKind::Unavailable,
            Self::Data { source, .. } => kind_of(source.as_ref()),
        }
    }

    pub(super) fn data(table: &Path) -> impl Fn(DataFusionError) -> Self + '_ {
        |source| Self::Data {
            table: table.clone(),
            source: Box::new(source),
        }
    }
}

/// Unavailable when the store failed, so that trying again may help; a file that is not there is a hole.
pub(super) fn kind_of(error: &(dyn Error + 'static)) -> ProblemKind {
    if is_outage(error) {
        return ProblemKind::Unavailable;
    }
    ProblemKind::Internal
}
