// SPDX-License-Identifier: Apache-2.0
//! Errors of the query engine as problems.

use std::error::Error;

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::tokenizer::Location;
use dovetail_log::object::{is_full, is_outage};
use dovetail_model::{Problem, ProblemKind};
use dovetail_view::calendar::Unwritable;
use dovetail_view::{ExclusionFailed, is_of_a_pattern, words_of};

use crate::sql::problem_at;

/// When a question is worth another try that found no room on the disk.
const FULL_DISK_RETRY_S: u64 = 10;

/// What a caller can do about an error of planning or execution. A [`Problem`] that travelled inside
/// [`DataFusionError::External`] comes out as it went in.
///
/// ```text
/// plan, schema, SQL, value errors   -> Invalid       fix the statement; `line` and `column` where they are known
/// out of memory or disk budget      -> Busy          ask for less, or later
/// no room on a disk                 -> Unavailable   somebody makes room
/// the object store does not answer  -> Unavailable   try again
/// everything else                   -> Internal      our fault
/// ```
pub fn problem_of(error: &DataFusionError) -> Problem {
    let mut source: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(inner) = source {
        if let Some(problem) = inner.downcast_ref::<Problem>() {
            return problem.clone();
        }
        if let Some(failed) = inner.downcast_ref::<ExclusionFailed>() {
            return Problem::conflict(format!("{failed}; withdraw it, or leave `_excluded` out"));
        }
        source = inner.source();
    }
    let root = error.find_root();
    let message = words_of(error);
    if is_full(error) {
        let detail = format!(
            "the query needs more room on the disk than there is: {message}; free some space in the data directory, or ask for less"
        );
        return Problem::new(ProblemKind::Unavailable, detail)
            .with("retry_after_s", FULL_DISK_RETRY_S);
    }
    if is_outage(error) {
        let detail = format!("the object store does not answer: {message}; try again");
        return Problem::new(ProblemKind::Unavailable, detail);
    }
    if is_out_of_spill(error) {
        let detail = format!(
            "the query needs more room to spill than the disk of the data directory has to spare: {message}; ask for fewer groups, rows or columns, or free some space"
        );
        return Problem::new(ProblemKind::Busy, detail).with("retry_after_s", FULL_DISK_RETRY_S);
    }
    let kind = match root {
        _ if is_of_a_pattern(error) => ProblemKind::Invalid,
        DataFusionError::Plan(_)
        | DataFusionError::SchemaError(_, _)
        | DataFusionError::SQL(_, _)
        | DataFusionError::NotImplemented(_)
        | DataFusionError::Execution(_)
        | DataFusionError::Diagnostic(_, _)
        | DataFusionError::Configuration(_) => ProblemKind::Invalid,
        DataFusionError::ArrowError(error, _) => kind_of_arrow(error),
        DataFusionError::ResourcesExhausted(_) => {
            let detail = format!(
                "the query needs more memory than `query_memory` (--query-memory) leaves it: {message}; ask for fewer groups, rows or columns, try again when other queries have ended, or start the server with more of it"
            );
            return Problem::new(ProblemKind::Busy, detail);
        }
        DataFusionError::ObjectStore(_)
        | DataFusionError::IoError(_)
        | DataFusionError::ParquetError(_) => {
            return Problem::internal(format!("a file could not be read: {message}"));
        }
        _ => ProblemKind::Internal,
    };
    match place_of(error) {
        Some(place) if kind == ProblemKind::Invalid => problem_at(place, message),
        _ => Problem::new(kind, message),
    }
}

/// A value that no text stands for.
pub(crate) fn unwritable(error: Unwritable) -> Problem {
    Problem::invalid(error.to_string()).with("column", error.column)
}

/// Whether what is exhausted is the room that spilling may take, which the engine knows as a setting of its own.
/// Whatever spilled has wrapped it.
fn is_out_of_spill(error: &DataFusionError) -> bool {
    error.to_string().contains("max_temp_directory_size")
}

/// Where in the statement the planner found something wrong, if it knows.
fn place_of(error: &DataFusionError) -> Option<Location> {
    let start = error.diagnostic()?.span?.start;
    Some(Location::new(start.line, start.column))
}

fn kind_of_arrow(error: &ArrowError) -> ProblemKind {
    match error {
        ArrowError::CastError(_)
        | ArrowError::ParseError(_)
        | ArrowError::ComputeError(_)
        | ArrowError::DivideByZero
        | ArrowError::ArithmeticOverflow(_)
        | ArrowError::InvalidArgumentError(_)
        | ArrowError::NotYetImplemented(_) => ProblemKind::Invalid,
        _ => ProblemKind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_comes_out_as_it_went_in() {
        let problem = Problem::conflict("the segment is gone").with("offset", 7);
        let error = DataFusionError::External(Box::new(problem.clone()));
        let wrapped = error.context("while reading").context("twice");
        assert_eq!(problem_of(&wrapped), problem);
        let arrow = ArrowError::ExternalError(Box::new(problem.clone()));
        assert_eq!(problem_of(&DataFusionError::from(arrow)), problem);
    }

    #[test]
    fn the_caller_hears_whose_fault_it_is() {
        for (error, kind, text) in [
            (
                DataFusionError::Plan("No field named x.".to_owned()),
                ProblemKind::Invalid,
                "there is no column `x`",
            ),
            (
                std::io::Error::other("no such file").into(),
                ProblemKind::Internal,
                "a file could not be read: ",
            ),
            (
                ArrowError::DivideByZero.into(),
                ProblemKind::Invalid,
                "divide by zero error",
            ),
            (
                DataFusionError::Internal("oops".to_owned()),
                ProblemKind::Internal,
                "oops",
            ),
            (
                DataFusionError::ResourcesExhausted("too big".to_owned()).context("in a sort"),
                ProblemKind::Busy,
                "the query needs more memory than `query_memory` (--query-memory) leaves it: too big",
            ),
            (
                DataFusionError::ResourcesExhausted(
                    "exceeded 5: increase `datafusion.runtime.max_temp_directory_size`".to_owned(),
                ),
                ProblemKind::Busy,
                "the query needs more room to spill than the disk of the data directory has to spare",
            ),
            (
                ArrowError::IoError("io".to_owned(), std::io::ErrorKind::StorageFull.into()).into(),
                ProblemKind::Unavailable,
                "the query needs more room on the disk than there is: ",
            ),
        ] {
            let problem = problem_of(&error);
            assert_eq!(problem.kind, kind, "{error}");
            assert!(problem.detail.starts_with(text), "{problem}");
        }
    }
}
