// SPDX-License-Identifier: Apache-2.0
//! What can go wrong at the seam.

use arrow::error::ArrowError;
use dovetail_log::raw::RawError;
use dovetail_model::{Position, Problem, ProblemKind, SpanError, ViewId};
use dovetail_view::ViewError;

/// A swap that would open the seam, or a file under it that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SeamError {
    /// The new piece does not start where the cut ends.
    #[error(
        "the seam would open: the cut of stream `{stream}` ends at `{at}`, the new piece starts at `{from}`"
    )]
    NotAdjacent {
        /// The stream's name.
        stream: String,
        /// Where the cut ends.
        at: Position,
        /// Where the piece starts.
        from: Position,
    },
    /// A boundary would stand before another that it must cover.
    #[error("the seam would open: {what} at `{position}` does not cover {other} at `{bound}`")]
    OutOfOrder {
        /// The boundary that moves.
        what: &'static str,
        /// Where it would stand.
        position: Position,
        /// The boundary that it must cover.
        other: &'static str,
        /// Where that stands.
        bound: Position,
    },
    /// A generation ends where the speed layer has no run edge.
    #[error(
        "generation {generation} of view `{view}` ends at `{horizon}`, which is not an edge of its runs"
    )]
    NoEdge {
        /// The view's name.
        view: String,
        /// The generation's number.
        generation: u64,
        /// Its horizon.
        horizon: Position,
    },
    /// A generation of one definition cannot be under the runs of another.
    #[error(
        "generation {generation} of view `{view}` is of its definition {of}, the speed layer holds runs of definition {held}"
    )]
    OtherDefinition {
        /// The view's name.
        view: String,
        /// The generation's number.
        generation: u64,
        /// Version of the generation's definition.
        of: u64,
        /// Version of the definition that the runs are of.
        held: u64,
    },
    /// The view is not part of the cut, or no longer.
    #[error("view `{0}` is not served by this stream")]
    NoView(ViewId),
    /// The speed layer lost a view's runs for a span.
    #[error(transparent)]
    Span(#[from] SpanError),
    /// The view could not compute.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The raw log refused.
    #[error(transparent)]
    Raw(#[from] RawError),
    /// Archiving panicked, or the runtime ended under it.
    #[error("archiving did not come to its end: {0}")]
    Unfinished(String),
    /// A committed batch does not have the stream's columns.
    #[error("a committed batch does not fit the stream's schema: {0}")]
    Batch(ArrowError),
    /// The processes that hold the runs gave no target.
    #[error("{0}")]
    NoTarget(Problem),
    /// The embedded log could not forget what is archived.
    #[error("cannot forget archived events: {0}")]
    Forget(String),
}

impl SeamError {
    /// What callers can do about it.
    pub fn kind(&self) -> ProblemKind {
        match self {
            Self::NoView(_) => ProblemKind::NotFound,
            Self::View(error) => error.kind(),
            Self::Raw(error) => error.kind(),
            Self::NoTarget(problem) => problem.kind,
            Self::NotAdjacent { .. }
            | Self::OutOfOrder { .. }
            | Self::NoEdge { .. }
            | Self::OtherDefinition { .. }
            | Self::Span(_)
            | Self::Unfinished(_)
            | Self::Batch(_)
            | Self::Forget(_) => ProblemKind::Internal,
        }
    }
}
