// SPDX-License-Identifier: Apache-2.0
//! What can go wrong with a view.

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use dovetail_model::{ProblemKind, SpanError};

use crate::words::{is_of_a_pattern, words_of, words_of_definition};
use crate::{EventPlace, ExclusionFailed};

/// A definition that cannot be a view, or a view that could not be computed.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The text is not SQL.
    #[error("cannot read the SQL: {0}")]
    Syntax(String),
    /// An expression or clause stands in the way.
    #[error("`{expression}` cannot be part of {what}: {reason}")]
    Refused {
        /// The offending SQL.
        expression: String,
        /// What it was to be part of: a view, an exclusion, a repair.
        what: &'static str,
        /// Why, and what to write instead.
        reason: String,
    },
    /// The definition reads a stream that is not there.
    #[error("there is no stream `{name}`; there {known}")]
    UnknownStream {
        /// The name that was looked up.
        name: String,
        /// The streams there are, as a phrase.
        known: String,
    },
    /// A name, type or argument does not fit the stream.
    #[error("{0}")]
    Definition(String),
    /// Spans that do not touch were to be merged.
    #[error(transparent)]
    Span(#[from] SpanError),
    /// A batch that has not the schema that was asked for.
    #[error("a batch of {what} has the wrong schema: {detail}")]
    Schema {
        /// What the batch was to hold.
        what: &'static str,
        /// The first difference.
        detail: String,
    },
    /// The select list fails on a group of the data. Later events may make the group sound again.
    #[error("{0}")]
    Finish(#[source] Box<FinishFailed>),
    /// An expression fails on an event of the data, and it is known which.
    #[error("{0}")]
    Event(#[source] Box<EventFailed>),
    /// The `where` of a repair fails on the keys of a group.
    #[error("{0}")]
    Where(#[source] Box<WhereFailed>),
    /// The engine failed on the data: an overflow, a division by zero, a cast, or no more memory.
    #[error("{}", words_of(.0))]
    Engine(#[from] DataFusionError),
}

impl ViewError {
    /// What a caller can do about it: fix the definition, look at the data, or report a fault.
    pub fn kind(&self) -> ProblemKind {
        match self {
            Self::Syntax(_)
            | Self::Refused { .. }
            | Self::UnknownStream { .. }
            | Self::Definition(_) => ProblemKind::Invalid,
            Self::Span(_) | Self::Schema { .. } => ProblemKind::Internal,
            Self::Finish(_) | Self::Event(_) | Self::Where(_) => ProblemKind::Unprocessable,
            Self::Engine(error) => engine_error_kind(error),
        }
    }

    /// What went wrong while a definition was compiled: the definition is at fault, whatever the engine calls it.
    pub(crate) fn of_definition(self) -> Self {
        match self {
            Self::Engine(error) => Self::Definition(words_of_definition(&error)),
            Self::Schema { .. } => {
                Self::Definition(format!("the definition cannot be computed: {self}"))
            }
            other => other,
        }
    }

    pub(crate) fn refused(expression: impl ToString, reason: impl Into<String>) -> Self {
        Self::Refused {
            expression: expression.to_string(),
            what: "a view",
            reason: reason.into(),
        }
    }
}

/// For operators of ours in the engine's plans.
impl From<ViewError> for DataFusionError {
    fn from(error: ViewError) -> Self {
        match error {
            ViewError::Engine(error) => error,
            other => Self::External(Box::new(other)),
        }
    }
}

/// What a view still answers while its select list fails on a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// What reads neither the column nor the group.
    Others,
    /// Nothing: what failed was to become its first generation.
    Nothing,
    /// All of another definition: what failed was to take its place.
    Live,
    /// What is live: it is this generation that was to take its place.
    Instead(u64),
}

/// A column of the select list cannot be computed for a group, such as `10 / (sum(i) - 2)` where the sum is 2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.of(None))]
pub struct FinishFailed {
    /// The output column.
    pub column: String,
    /// What the select list computes it from.
    pub expression: String,
    /// The keys of the group, in words; none without GROUP BY.
    pub group: Option<String>,
    /// What the engine said.
    pub reason: String,
}

impl FinishFailed {
    /// What an operator needs to know: the view, the column, the group, the error and the way out. `stream` is the one
    /// that the view reads.
    pub fn explain(&self, view: &str, stream: &str, answered: Answered) -> String {
        let what = match answered {
            Answered::Instead(generation) => {
                format!("generation {generation} cannot be brought forward to the present: ")
            }
            _ => String::new(),
        };
        let answered = match (answered, &self.group) {
            (Answered::Others, Some(_)) => {
                "a query that does not read the column, or whose filter on the view's keys leaves the group out, is answered"
            }
            (Answered::Others, None) => "a query that does not read the column is answered",
            (Answered::Nothing, _) => {
                "the view answers nothing until a full run has written all its groups, which is tried again by itself"
            }
            (Answered::Live, _) => "the definition that is live goes on answering",
            (Answered::Instead(_), _) => "the live generation goes on answering",
        };
        format!(
            "{what}{}; {answered}; until later events change that, exclude the group's events (`dovetail exclude {stream} --where … --reason …`) and recompute the view (`dovetail replay {view}`), or redefine it so that its select list can be computed for every group (such as with nullif for a divisor, or a cast to a wider type)",
            self.of(Some(view))
        )
    }

    fn of(&self, view: Option<&str>) -> String {
        let view = view.map(|view| format!(" of view `{view}`"));
        let group = self
            .group
            .as_ref()
            .map(|group| format!(" for the group {group}"));
        format!(
            "the select list{} fails: column `{}` (`{}`) cannot be computed{}: {}",
            view.unwrap_or_default(),
            self.column,
            self.expression,
            group.unwrap_or_default(),
            self.reason
        )
    }
}

/// A view cannot be computed for an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}, for {event}")]
pub struct EventFailed {
    /// Which.
    pub event: EventPlace,
    /// What the engine said.
    pub reason: String,
}

/// The `where` of a repair cannot be computed for a group, such as `100 / delay > 5` where the delay is 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the `where` of the repair (`{predicate}`) cannot be computed for {}: {reason}", self.named_group())]
pub struct WhereFailed {
    /// The predicate.
    pub predicate: String,
    /// The keys of the group, in words; none without GROUP BY.
    pub group: Option<String>,
    /// An event that falls in it, where one is known.
    pub event: Option<EventPlace>,
    /// What the engine said.
    pub reason: String,
}

impl WhereFailed {
    fn named_group(&self) -> String {
        let group = match &self.group {
            Some(group) => format!("the group {group}"),
            None => "the view's only row".to_owned(),
        };
        match &self.event {
            Some(event) => format!("{group}, which {event} falls in"),
            None => group,
        }
    }
}

impl From<ArrowError> for ViewError {
    fn from(error: ArrowError) -> Self {
        Self::Engine(error.into())
    }
}

/// What an error of the engine means while it computes a view: [`ProblemKind::Unprocessable`] when an expression
/// failed on the data, [`ProblemKind::Unavailable`] when there was no memory, else a fault.
pub fn engine_error_kind(error: &DataFusionError) -> ProblemKind {
    if ExclusionFailed::at_root_of(error).is_some() {
        return ProblemKind::Unprocessable;
    }
    if is_of_a_pattern(error) {
        return ProblemKind::Unprocessable;
    }
    match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => ProblemKind::Unavailable,
        DataFusionError::Execution(_) => ProblemKind::Unprocessable,
        DataFusionError::ArrowError(error, _) => match error.as_ref() {
            ArrowError::DivideByZero
            | ArrowError::ArithmeticOverflow(_)
            | ArrowError::CastError(_)
            | ArrowError::ParseError(_)
            | ArrowError::ComputeError(_)
            // What a narrower DECIMAL cannot hold.
            | ArrowError::InvalidArgumentError(_) => ProblemKind::Unprocessable,
            _ => ProblemKind::Internal,
        },
        _ => ProblemKind::Internal,
    }
}
