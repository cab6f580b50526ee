// SPDX-License-Identifier: Apache-2.0
//! What can stop a batch run, or be refused before it starts.

use datafusion::error::DataFusionError;
use dovetail_log::catalog::Superseded;
use dovetail_log::raw::RawError;
use dovetail_model::{
    CatalogConflict, GenerationNumber, Offset, PartitionId, Problem, ProblemKind, RunId, RunMode,
    Span, way_to_find,
};
use dovetail_seam::{Poison, Poisoned, SeamError};
use dovetail_view::{
    Answered, EventPlace, ExclusionFailed, FinishFailed, ViewError, WhereFailed, engine_error_kind,
    words_of,
};

/// How the engine calls the limit of what it may spill, wherever it says that it has used it up.
const SPILL_SETTING: &str = "max_temp_directory_size";

/// How a predicate is guarded against what it meets.
const GUARDS: &str = "nullif for a divisor, TRY_CAST for a cast, CASE for anything else";

/// A failure of the batch layer.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// There is no such view, run or generation.
    #[error("there is no {what} `{name}`{}", way_to_find(what))]
    NotFound {
        /// What kind of thing.
        what: &'static str,
        /// Its name or number.
        name: String,
    },
    /// The view was dropped.
    #[error("view `{view}` was dropped; UNDROP VIEW {view} restores it")]
    Dropped {
        /// The view's name.
        view: String,
    },
    /// A run of the same kind is at work on the view.
    #[error("run {run} of view `{view}` is still running; wait for it or cancel it")]
    AlreadyRunning {
        /// The view's name.
        view: String,
        /// The run at work.
        run: RunId,
    },
    /// A first run was asked for, and the definition has a generation.
    #[error("view `{0}` is built already")]
    NothingToBuild(String),
    /// The run is not in the state that the request needs.
    #[error("run {run} is {found}, not {needed}: `dovetail runs {run}` says what became of it")]
    WrongOutcome {
        /// The run.
        run: RunId,
        /// Where it stands.
        found: &'static str,
        /// Where it would have to stand.
        needed: &'static str,
    },
    /// The staged generation answers for something that has changed since.
    #[error("run {run} is stale: {reason}; discard it and start a new one")]
    Stale {
        /// The run.
        run: RunId,
        /// What changed.
        reason: String,
    },
    /// The request makes no sense for this view.
    #[error("{0}")]
    Invalid(String),
    /// The state stands against it.
    #[error("{0}")]
    Refused(String),
    /// An expression of the view fails on an event that the run must read.
    #[error("{}", poisoned.explain(view, stream))]
    Poisoned {
        /// The view's name.
        view: String,
        /// Its stream's name.
        stream: String,
        /// Where, and why.
        poisoned: Box<Poisoned>,
    },
    /// The select list of the view fails on a group that the run must write.
    #[error("{}", failed.explain(view, stream, *answered))]
    Finish {
        /// The view's name.
        view: String,
        /// Its stream's name.
        stream: String,
        /// Which column of which group, and why.
        failed: Box<FinishFailed>,
        /// What the view still answers.
        answered: Answered,
    },
    /// The predicate of an exclusion fails on an event that the run must read.
    #[error("{failed}; withdraw it (`dovetail unexclude {stream} {}`) and declare one that can be computed for every event ({GUARDS})", failed.id)]
    Exclusion {
        /// The stream's name.
        stream: String,
        /// Which, and why.
        failed: ExclusionFailed,
    },
    /// The `where` of a repair fails on a group that the run must look at.
    #[error(
        "{failed}; the view is as it was: ask again with one that can be computed for every group ({GUARDS})"
    )]
    Where {
        /// Which group, and why.
        failed: Box<WhereFailed>,
    },
    /// What a run has to hold does not fit into its memory, though it spilled what it could.
    #[error("the run needs more memory than the {} MiB that it may have, its share of --batch-memory: {reason}; start {} with a larger --batch-memory{}{}", limit >> 20, whose(worker.as_deref()), fewer_runs(*at_a_time), fewer_groups(*mode))]
    Memory {
        /// What one run may have, in bytes.
        limit: usize,
        /// How many runs of its kind may compute at a time.
        at_a_time: usize,
        /// What it computes.
        mode: RunMode,
        /// The worker whose memory it is; none where it is this process's.
        worker: Option<String>,
        /// What did not fit.
        reason: String,
    },
    /// What a run spills does not fit onto the disk, beside what is left to others.
    #[error(
        "the run needs more room to spill than the disk of the data directory has to spare: {0}; free some space"
    )]
    Spill(String),
    /// Someone cancelled the run.
    #[error("cancelled")]
    Cancelled,
    /// The catalog could not commit.
    #[error("{0}")]
    Commit(Problem),
    /// Another data directory has the store now.
    #[error(transparent)]
    Superseded(Superseded),
    /// The catalog's state stands against the change.
    #[error(transparent)]
    Conflict(#[from] CatalogConflict),
    /// The seam refused a swap.
    #[error(transparent)]
    Seam(#[from] SeamError),
    /// The raw log could not be read or written.
    #[error(transparent)]
    Raw(#[from] RawError),
    /// The view could not be compiled or computed.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The engine failed.
    #[error("the engine failed: {0}")]
    Engine(#[from] DataFusionError),
    /// A file of a generation could not be written or read.
    #[error("{action} `{path}` failed: {source}")]
    Store {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// The view's Delta projection could not be written. Answers are not affected.
    #[error("the delta projection of view `{view}` failed: {reason}")]
    Projection {
        /// The view's name.
        view: String,
        /// Why.
        reason: String,
    },
}

impl BatchError {
    /// What callers can do about it.
    pub fn kind(&self) -> ProblemKind {
        match self {
            Self::NotFound { .. } | Self::Dropped { .. } => ProblemKind::NotFound,
            Self::AlreadyRunning { .. }
            | Self::NothingToBuild(_)
            | Self::WrongOutcome { .. }
            | Self::Stale { .. }
            | Self::Refused(_)
            | Self::Conflict(_)
            | Self::Poisoned { .. }
            | Self::Exclusion { .. }
            | Self::Finish { .. }
            | Self::Where { .. }
            | Self::Cancelled => ProblemKind::Conflict,
            Self::Invalid(_) => ProblemKind::Invalid,
            Self::Commit(problem) => problem.kind,
            Self::Seam(error) => error.kind(),
            Self::Raw(error) => error.kind(),
            // No request contradicts an earlier one here: the data stands against it.
            Self::View(_) | Self::Engine(_) if self.is_of_the_data() => ProblemKind::Conflict,
            Self::View(error) => error.kind(),
            Self::Engine(error) => engine_error_kind(error),
            Self::Memory { .. } | Self::Spill(_) | Self::Superseded(_) => ProblemKind::Unavailable,
            Self::Store { .. } | Self::Projection { .. } => ProblemKind::Internal,
        }
    }

    /// Whether a user's own act ended a run: they cancelled or discarded it, dropped or redefined its view, declared an
    /// exclusion, or moved the pointer. Nobody needs to be warned of that.
    pub(crate) fn is_users_act(&self) -> bool {
        matches!(
            self,
            Self::Cancelled | Self::Dropped { .. } | Self::Stale { .. } | Self::WrongOutcome { .. }
        )
    }

    /// What did not fit into a run's memory, if that is what went wrong.
    pub(crate) fn exhausted(&self) -> Option<String> {
        match self {
            Self::Engine(error)
                if matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)) =>
            {
                Some(words_of(error))
            }
            _ => None,
        }
    }

    /// What did not fit onto the disk of what a run spills, if that is what went wrong.
    pub(crate) fn unspilled(&self) -> Option<String> {
        match self {
            Self::Engine(error) if error.to_string().contains(SPILL_SETTING) => {
                Some(words_of(error))
            }
            _ => None,
        }
    }

    /// Whether an expression failed on the data.
    pub(crate) fn is_of_the_data(&self) -> bool {
        let kind = match self {
            Self::View(error) => error.kind(),
            Self::Engine(error) => engine_error_kind(error),
            _ => return false,
        };
        kind == ProblemKind::Unprocessable
    }

    /// Whether an expression of the view failed on some event, and nothing says on which.
    pub(crate) fn is_of_an_event(&self) -> bool {
        let is_of_exclusion = match self {
            Self::Engine(error) => ExclusionFailed::at_root_of(error).is_some(),
            Self::View(ViewError::Engine(_)) => false,
            _ => return false,
        };
        self.is_of_the_data() && !is_of_exclusion
    }

    /// The error, where generation `number` was to take the place of the live one.
    pub(crate) fn of_instead(mut self, number: GenerationNumber) -> Self {
        if let Self::Finish { answered, .. } = &mut self {
            *answered = Answered::Instead(number.0);
        }
        self
    }

    /// The error of a computation over `span` with its way out, where an expression of the view failed on some
    /// event there. `answered` is what the view answers without it, `known` what the speed layer knows of it: a narrower span, if the view is poisoned.
    pub(crate) fn explained(
        self,
        view: &str,
        stream: &str,
        span: &Span,
        answered: Answered,
        known: &[Poisoned],
    ) -> Self {
        let reason = match &self {
            Self::Engine(error) => match ExclusionFailed::at_root_of(error) {
                Some(failed) => {
                    let (stream, failed) = (stream.to_owned(), failed.clone());
                    return Self::Exclusion { stream, failed };
                }
                None => words_of(error),
            },
            // No event is at fault: the state of the whole group is.
            Self::View(ViewError::Finish(failed)) => {
                return Self::Finish {
                    view: view.to_owned(),
                    stream: stream.to_owned(),
                    failed: failed.clone(),
                    answered,
                };
            }
            // No event is at fault, and not the view: the question is.
            Self::View(ViewError::Where(failed)) => {
                let failed = failed.clone();
                return Self::Where { failed };
            }
            Self::View(error) => error.to_string(),
            _ => return self,
        };
        if !self.is_of_the_data() {
            return self;
        }
        let event = match &self {
            Self::View(ViewError::Event(failed)) => position_of(&failed.event),
            _ => None,
        };
        let inside = |at: &&Poisoned| {
            let is_inside =
                at.failed.from().covers(span.from()) && span.to().covers(at.failed.to());
            is_inside
                && event.is_none_or(|(partition, offset)| {
                    let from = at.failed.from().get(partition);
                    from <= offset && offset < at.failed.to().get(partition)
                })
        };
        let failed = known
            .iter()
            .find(inside)
            .map_or(span, |known| &known.failed);
        let poisoned = Poisoned {
            span: span.clone(),
            failed: failed.clone(),
            reason: Poison::Event(reason),
        };
        Self::Poisoned {
            view: view.to_owned(),
            stream: stream.to_owned(),
            poisoned: Box::new(poisoned),
        }
    }

    /// The problem document, with the running run's number where that helps.
    pub fn problem(&self) -> Problem {
        let problem = Problem::new(self.kind(), self.to_string());
        match self {
            Self::AlreadyRunning { run, .. }
            | Self::Stale { run, .. }
            | Self::WrongOutcome { run, .. } => problem.with("run", run.0),
            _ => problem,
        }
    }
}

fn position_of(event: &EventPlace) -> Option<(PartitionId, Offset)> {
    let partition = PartitionId(event.partition.try_into().ok()?);
    Some((partition, Offset(event.offset.try_into().ok()?)))
}

impl From<BatchError> for Problem {
    fn from(error: BatchError) -> Self {
        error.problem()
    }
}

/// Who has too little of it.
fn whose(worker: Option<&str>) -> String {
    worker.map_or_else(
        || "the server".to_owned(),
        |worker| format!("the worker `{worker}`"),
    )
}

/// A way to more memory, where others have a part of it.
fn fewer_runs(at_a_time: usize) -> &'static str {
    match at_a_time {
        0 | 1 => "",
        _ => " or with fewer --batch-runs",
    }
}

/// A way to need less, for who may ask for less.
fn fewer_groups(mode: RunMode) -> &'static str {
    match mode {
        RunMode::Repair => ", or repair fewer groups at a time",
        RunMode::Full | RunMode::Incremental => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_who_ends_a_run_warns_nobody() {
        let run = RunId(1);
        for (error, users) in [
            (BatchError::Cancelled, true),
            (
                BatchError::Dropped {
                    view: "v".to_owned(),
                },
                true,
            ),
            (
                BatchError::WrongOutcome {
                    run,
                    found: "discarded",
                    needed: "staged",
                },
                true,
            ),
            (
                BatchError::Stale {
                    run,
                    reason: "the view has been redefined".to_owned(),
                },
                true,
            ),
            (BatchError::Refused("the run stopped".to_owned()), false),
            (
                BatchError::Engine(DataFusionError::Internal("oops".to_owned())),
                false,
            ),
        ] {
            assert_eq!(error.is_users_act(), users, "{error}");
        }
    }

    #[test]
    fn a_disk_that_is_too_small_to_spill_to_is_not_too_little_memory() {
        let said = "The used disk space during the spilling process has exceeded the allowable limit of 5.0 MB. \
            Please try increasing the config: `datafusion.runtime.max_temp_directory_size`.";
        let spilling = DataFusionError::IoError(std::io::Error::other(said));
        let error = BatchError::Engine(spilling.context("in a sort"));
        assert_eq!(error.exhausted(), None);
        let reason = error.unspilled().unwrap();
        let text = BatchError::Spill(reason).to_string();
        assert!(
            text.contains("5.0 MB") && !text.contains("datafusion"),
            "{text}"
        );
        assert_eq!(BatchError::Cancelled.unspilled(), None);
    }

    #[test]
    fn the_way_out_of_too_little_memory_is_one_that_the_run_has() {
        let ways_out = |mode, at_a_time| {
            let error = BatchError::Memory {
                limit: 32 << 20,
                at_a_time,
                mode,
                worker: None,
                reason: "no room".to_owned(),
            };
            let text = error.to_string();
            let (_, ways_out) = text.split_once("; start the server with ").unwrap();
            ways_out.to_owned()
        };
        let more = "a larger --batch-memory";
        for mode in [RunMode::Full, RunMode::Incremental] {
            assert_eq!(ways_out(mode, 1), more);
            assert_eq!(
                ways_out(mode, 2),
                format!("{more} or with fewer --batch-runs")
            );
        }
        assert_eq!(
            ways_out(RunMode::Repair, 1),
            format!("{more}, or repair fewer groups at a time")
        );
    }
}
