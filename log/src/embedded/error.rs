// SPDX-License-Identifier: Apache-2.0
//! What can go wrong with the embedded log.

use std::io::{self, ErrorKind};
use std::time::Duration;

use arrow::error::ArrowError;
use dovetail_model::{Offset, ProblemKind};

/// Why the log refuses or fails. Many requests may share one failure, so it is cheap to clone.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// A file is not as it was written. Nothing of the log is served: restore the file from a copy, or the
    /// stream from its raw log.
    #[error(
        "`{file}` is damaged at byte {position}, where the events from offset {offset} on stand: {reason}"
    )]
    Corrupt {
        /// Name of the file in the log's directory.
        file: String,
        /// Where in the file.
        position: u64,
        /// The offset that is expected there.
        offset: Offset,
        /// What is wrong.
        reason: String,
    },
    /// A whole file is gone. Restore it from a copy, or the stream from its raw log.
    #[error(
        "segment number {sequence} of the log is missing, though `{witness}` proves that it was there"
    )]
    Missing {
        /// Its number.
        sequence: u64,
        /// Name of the file that proves it.
        witness: String,
    },
    /// A newer Dovetail wrote the file: run that one.
    #[error(
        "`{file}` has format version {found}, and this build reads versions up to {known}; run the newer build that wrote it"
    )]
    NewerFormat {
        /// Name of the file.
        file: String,
        /// Its version.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// Events in the log cannot be read as the stream's schema has it now.
    #[error("`{file}` holds events of another schema: {reason}")]
    Schema {
        /// Name of the file.
        file: String,
        /// Which column differs, and how.
        reason: String,
    },
    /// A file operation failed while no append was at stake.
    #[error("cannot {action} `{file}`: {reason}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Name of the file.
        file: String,
        /// What the system says.
        reason: String,
    },
    /// The append is not one that the log takes.
    #[error("the append is refused: {0}")]
    BadAppend(String),
    /// The key was used for another body.
    #[error(
        "idempotency key `{key}` was used for another body within the last {ttl}; use a new key for a new request"
    )]
    KeyReused {
        /// The key.
        key: String,
        /// How long keys live.
        ttl: String,
    },
    /// As many keys are remembered as the log may remember.
    #[error(
        "{remembered} idempotency keys are remembered, the most that is allowed; append without one, or wait until older ones have passed {ttl}"
    )]
    TooManyKeys {
        /// How many.
        remembered: usize,
        /// How long keys live.
        ttl: String,
    },
    /// There is no room on the disk; nothing of the append was kept, and the log goes on.
    #[error(
        "the disk is full: {reason}; nothing of the append was kept; free some space and retry"
    )]
    DiskFull {
        /// What the system says.
        reason: String,
    },
    /// A new segment could not be begun, for want of file descriptors or of the right to; nothing of the append was kept,
    /// and the log goes on.
    #[error(
        "a new segment cannot be begun: {reason}; nothing of the append was kept; see to it and retry"
    )]
    NoSegment {
        /// What the system says.
        reason: String,
    },
    /// The disk failed; the append may or may not be there after a restart. Retry it with its key.
    #[error(
        "the log could not {action}: {reason}; the append may or may not be kept: restart, then retry it with its idempotency key"
    )]
    CommitFailed {
        /// What was tried.
        action: &'static str,
        /// What the system says.
        reason: String,
    },
    /// An earlier commit failed; after that the disk's word is worth nothing until the log is opened anew.
    #[error("the log takes no more appends since it failed: {reason}; restart to recover")]
    Poisoned {
        /// The first failure.
        reason: String,
    },
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// The offsets are in the raw log only.
    #[error("offsets from {from} on were asked for, but the log starts at {oldest}")]
    Forgotten {
        /// First offset asked for.
        from: Offset,
        /// First offset retained.
        oldest: Offset,
    },
    /// More was said to be archived than is durable.
    #[error("cannot forget up to offset {archived}: the log is durable up to {durable} only")]
    ForgetBeyond {
        /// What was said to be archived.
        archived: Offset,
        /// Where the log ends.
        durable: Offset,
    },
}

impl LogError {
    /// What callers can do about it.
    pub fn kind(&self) -> ProblemKind {
        match self {
            Self::BadAppend(_) => ProblemKind::Invalid,
            Self::KeyReused { .. } => ProblemKind::Unprocessable,
            Self::TooManyKeys { .. } => ProblemKind::Busy,
            Self::DiskFull { .. }
            | Self::NoSegment { .. }
            | Self::CommitFailed { .. }
            | Self::Poisoned { .. }
            | Self::Closed => ProblemKind::Unavailable,
            Self::Corrupt { .. }
            | Self::Missing { .. }
            | Self::NewerFormat { .. }
            | Self::Schema { .. }
            | Self::Io { .. }
            | Self::Forgotten { .. }
            | Self::ForgetBeyond { .. } => ProblemKind::Internal,
        }
    }

    /// For `map_err`: `action` on `file` failed.
    pub(super) fn io(action: &'static str, file: &str) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |error| Self::Io {
            action,
            file,
            reason: error.to_string(),
        }
    }

    /// The failure of a write within a commit. A full disk is told apart; a failed sync is never that,
    /// since nothing is known of the data after it.
    pub(super) fn write(error: &io::Error) -> Self {
        let reason = error.to_string();
        match error.kind() {
            // The disk, a quota or a limit of the file's size.
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Self::DiskFull { reason }
            }
            _ => Self::CommitFailed {
                action: "write",
                reason,
            },
        }
    }

    /// The failure to begin a segment. What the system refused before it did anything leaves all that was synced as it is.
    pub(super) fn segment(error: &io::Error) -> Self {
        let too_many = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
        let is_refused = match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => true,
            _ => too_many
                .iter()
                .any(|errno| error.raw_os_error() == Some(errno.raw_os_error())),
        };
        match is_refused {
            true => Self::NoSegment {
                reason: error.to_string(),
            },
            false => Self::write(error),
        }
    }

    pub(super) fn bad_append(error: ArrowError) -> Self {
        Self::BadAppend(error.to_string())
    }
}

/// `24 h`, or in seconds when it is not whole hours.
pub(super) fn in_words(ttl: Duration) -> String {
    let seconds = ttl.as_secs();
    if seconds > 0 && seconds.is_multiple_of(3600) {
        format!("{} h", seconds / 3600)
    } else {
        format!("{seconds} s")
    }
}
