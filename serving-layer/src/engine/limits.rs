// SPDX-License-Identifier: Apache-2.0
//! What the engine's errors mean to a caller.

use datafusion::error::DataFusionError;
use dovetail_model::{Problem, ProblemKind};

/// The problem document of an engine error; one that carries a [`Problem`] gives that back.
pub fn problem_of(error: &DataFusionError) -> Problem {
    match error.find_root() {
        DataFusionError::External(inner) => match inner.downcast_ref::<Problem>() {
            Some(problem) => problem.clone(),
            None => Problem::internal(inner),
        },
        DataFusionError::ResourcesExhausted(message) => Problem::new(
            ProblemKind::TooLarge,
            format!(
                "the query needs more memory than a query may use: {}; select less, or aggregate more",
                first_line(message)
            ),
        ),
        DataFusionError::Internal(message) => Problem::internal(first_line(message)),
        DataFusionError::ObjectStore(error) => {
            Problem::internal(format!("a file could not be read: {error}"))
        }
        DataFusionError::IoError(error) => {
            Problem::internal(format!("a file could not be read: {error}"))
        }
        DataFusionError::ParquetError(error) => {
            Problem::internal(format!("a file could not be read: {error}"))
        }
        other => Problem::invalid(readable(other)),
    }
}

/// The engine's sentence without its prefix and its backtrace.
fn readable(error: &DataFusionError) -> String {
    let text = error.strip_backtrace();
    let text = text.split("\n\nbacktrace").next().unwrap_or_default();
    let prefixes = [
        "Error during planning: ",
        "Schema error: ",
        "SQL error: ",
        "Execution error: ",
        "Arrow error: ",
    ];
    let stripped = prefixes
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))
        .unwrap_or(text);
    stripped.trim_end_matches('.').to_owned()
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
