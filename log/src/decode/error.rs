// SPDX-License-Identifier: Apache-2.0
//! Why a body cannot be decoded.

use std::fmt;

use dovetail_model::{Problem, ProblemKind};

use super::fault::Described;

/// Where in a request something is wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// The line, from 1.
    pub line: Option<u64>,
    /// The row, from 1, where there are no lines (Arrow).
    pub row: Option<u64>,
}

impl Place {
    pub(super) fn line(line: u64) -> Self {
        Self {
            line: Some(line),
            row: None,
        }
    }

    pub(super) fn row(row: u64) -> Self {
        Self {
            line: None,
            row: Some(row),
        }
    }
}

/// Why a body was refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// One or more events cannot be decoded: fix them, or ask for dead letters.
    Events {
        /// The first of them.
        place: Place,
        /// The column, or the path of the field, that is wrong, when one is.
        column: Option<String>,
        /// What is wrong with it.
        reason: String,
        /// How many events are bad in all.
        bad: u64,
    },
    /// The body is wrong beyond single events: cut off, empty, a header or a schema that does not fit.
    Body {
        /// Where.
        place: Place,
        /// The column that does not fit, when one is.
        column: Option<String>,
        /// What is wrong.
        reason: String,
    },
    /// More than a limit: split it.
    TooLarge {
        /// What is too large, and the limit.
        reason: String,
    },
    /// A media type or encoding that is not read here.
    UnsupportedMedia {
        /// Which, and which are.
        reason: String,
    },
}

impl DecodeError {
    pub(super) fn body(reason: impl Into<String>) -> Self {
        Self::Body {
            place: Place::default(),
            column: None,
            reason: reason.into(),
        }
    }

    pub(super) fn body_at(place: Place, described: Described) -> Self {
        Self::Body {
            place,
            column: described.column,
            reason: described.reason,
        }
    }

    pub(super) fn too_large(reason: impl Into<String>) -> Self {
        Self::TooLarge {
            reason: reason.into(),
        }
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ProblemKind {
        match self {
            Self::Events { .. } | Self::Body { .. } => ProblemKind::Invalid,
            Self::TooLarge { .. } => ProblemKind::TooLarge,
            Self::UnsupportedMedia { .. } => ProblemKind::UnsupportedMedia,
        }
    }

    /// As callers see it, with the members `line` or `row`, `column` and `bad` where they mean something.
    pub fn problem(&self) -> Problem {
        let mut problem = Problem::new(self.kind(), self.to_string());
        let (place, column, bad) = match self {
            Self::Events {
                place, column, bad, ..
            } => (*place, column.as_deref(), Some(*bad)),
            Self::Body { place, column, .. } => (*place, column.as_deref(), None),
            Self::TooLarge { .. } | Self::UnsupportedMedia { .. } => return problem,
        };
        let numbers = [("line", place.line), ("row", place.row), ("bad", bad)];
        for (member, number) in numbers {
            if let Some(number) = number {
                problem = problem.with(member, number);
            }
        }
        match column {
            Some(column) => problem.with("column", column),
            None => problem,
        }
    }
}

impl From<DecodeError> for Problem {
    fn from(error: DecodeError) -> Self {
        error.problem()
    }
}

/// `line 7: column `delay`: `abc` is not an INT`
impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (place, column, reason) = match self {
            Self::Events {
                place,
                column,
                reason,
                ..
            }
            | Self::Body {
                place,
                column,
                reason,
            } => (*place, column, reason),
            Self::TooLarge { reason } | Self::UnsupportedMedia { reason } => {
                return f.write_str(reason);
            }
        };
        if let Some(line) = place.line {
            write!(f, "line {line}: ")?;
        }
        if let Some(row) = place.row {
            write!(f, "row {row}: ")?;
        }
        if let Some(column) = column {
            write!(f, "column `{column}`: ")?;
        }
        f.write_str(reason)?;
        match self {
            Self::Events { bad, .. } if *bad > 1 => {
                write!(f, " (the first of {bad} bad events)")
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for DecodeError {}
