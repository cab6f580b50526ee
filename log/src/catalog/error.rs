// SPDX-License-Identifier: Apache-2.0
//! What can go wrong with the catalog, and what to do about it.

use std::fmt;

use dovetail_model::{CatalogConflict, Problem, ProblemKind, StoreClaim};

/// The catalog cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The object store failed: try again, or look after the store.
    #[error("catalog file `{file}` cannot be {action}: {source}")]
    Store {
        /// The file, or the prefix of a listing.
        file: String,
        /// `read`, `listed` or `written`.
        action: &'static str,
        /// What the store said.
        source: object_store::Error,
    },
    /// The bytes of a file are not what was written: restore it from a backup.
    #[error("catalog file `{file}` is damaged: {reason}; restore it from a backup")]
    Corrupt {
        /// The file.
        file: String,
        /// What does not fit.
        reason: String,
    },
    /// A commit is missing while later ones are there: restore it from a backup.
    #[error("catalog file `{file}` is missing, but commit {last} exists; restore it from a backup")]
    Gap {
        /// The missing file.
        file: String,
        /// The last commit that exists.
        last: u64,
    },
    /// A newer Dovetail has written here: upgrade this one.
    #[error(
        "catalog file `{file}` has format {found}, this version reads up to {known}; use a newer dovetail"
    )]
    Newer {
        /// The file.
        file: String,
        /// Its format.
        found: u32,
        /// The newest format known here.
        known: u32,
    },
    /// A commit on the store contradicts those before it: a fault of whoever wrote it.
    #[error("catalog file `{file}` contradicts the commits before it: {source}")]
    Contradiction {
        /// The file.
        file: String,
        /// How.
        source: CatalogConflict,
    },
    /// A commit would not read back as it was made, so it was not written.
    #[error("the catalog commit cannot be written as JSON: {0}")]
    Unwritable(String),
}

impl CatalogError {
    /// What a caller can do about it.
    pub fn kind(&self) -> ProblemKind {
        match self {
            Self::Store { .. } => ProblemKind::Unavailable,
            Self::Corrupt { .. }
            | Self::Gap { .. }
            | Self::Newer { .. }
            | Self::Contradiction { .. }
            | Self::Unwritable(_) => ProblemKind::Internal,
        }
    }
}

/// Another data directory has claimed the store since: this process may write nothing more. Stop it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("superseded by {0}, which claimed the store: this process writes nothing more to it")]
pub struct Superseded(pub StoreClaim);

/// The store belongs to another data directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "it belongs to {0}: events that only its log holds would be lost to this one; use that directory, or give them up with --take-over; if it is this one, its file `id` has been changed: restore that from a backup"
)]
pub struct Held(pub StoreClaim);

/// Why a commit did not happen.
#[derive(Debug, thiserror::Error)]
pub enum CommitError<E> {
    /// `decide` refused it; the state it saw was the newest.
    #[error("{0}")]
    Refused(E),
    /// Another data directory has claimed the store.
    #[error(transparent)]
    Superseded(Superseded),
    /// The entries contradict the newest state.
    #[error(transparent)]
    Conflict(CatalogConflict),
    /// Other writers were faster every time: try again later.
    #[error("the catalog is too busy: {attempts} attempts lost the race; try again")]
    Contended {
        /// How often it was tried.
        attempts: usize,
    },
    /// The put failed and it could not be found out whether it took effect. It either did as a whole or not
    /// at all; a later reload shows which.
    #[error(
        "it is unknown whether catalog file `{file}` was written: {source}; look before you try again"
    )]
    Unknown {
        /// The file.
        file: String,
        /// The last error.
        source: object_store::Error,
    },
    /// The disk of the store is full, and nothing was written: free some space and try again.
    #[error(
        "catalog file `{file}` cannot be written, the disk is full: {source}; free some space and try again"
    )]
    Full {
        /// The file.
        file: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// The catalog cannot be read or written.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl<E: Into<Problem> + fmt::Display> CommitError<E> {
    /// As callers see it; a refusal keeps its own problem.
    pub fn into_problem(self) -> Problem {
        let kind = match self {
            Self::Refused(refusal) => return refusal.into(),
            Self::Conflict(CatalogConflict::Missing { .. }) => ProblemKind::NotFound,
            Self::Conflict(_) => ProblemKind::Conflict,
            Self::Superseded(_) => ProblemKind::Unavailable,
            Self::Contended { .. } => ProblemKind::Busy,
            Self::Unknown { .. } | Self::Full { .. } => ProblemKind::Unavailable,
            Self::Catalog(ref error) => error.kind(),
        };
        Problem::new(kind, self.to_string())
    }
}
