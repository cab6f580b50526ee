// SPDX-License-Identifier: Apache-2.0
//! What the demonstration has shown, and whether it is what it claims.

use indicatif::HumanCount;
use serde_json::{Value, json};

use super::question::{Answer, Question, TOP, same_rows};
use crate::cli::console::Console;
use crate::cli::{CliError, sql, table};

/// A full run that was promoted while events arrived.
pub(super) struct Promotion {
    /// The answer right before the promote.
    pub(super) before: Answer,
    /// The answer right after it.
    pub(super) after: Answer,
    /// Whether the recompute found the groups as they were.
    pub(super) recompute_agrees: bool,
    /// Events acknowledged before the run began.
    pub(super) fed_at_start: usize,
}

impl Promotion {
    /// How many events arrived between the run's start and the answer before the promote, and how many
    /// between that and the answer after it.
    pub(super) fn arrived(&self) -> Result<[usize; 2], String> {
        let (before, after) = (self.before.covered()?, self.after.covered()?);
        Ok([
            before.saturating_sub(self.fed_at_start),
            after.saturating_sub(before),
        ])
    }
}

/// What the demonstration has shown.
pub(super) struct Outcome {
    before: Answer,
    after: Answer,
    /// Events that the last answer counts.
    events: u64,
    /// Answers that were checked.
    checked: u64,
    /// What was not as it must be.
    failures: Vec<String>,
}

impl Outcome {
    /// Checks everything: the two answers, the ones in between (`watched`), the count of all events at the
    /// end (`counted`), and that there was something to see.
    pub(super) fn judge(
        question: &Question,
        promotion: Promotion,
        watched: Result<u64, String>,
        counted: Result<u64, String>,
        sent: usize,
    ) -> Self {
        let arrived = promotion.arrived();
        let Promotion { before, after, .. } = promotion;
        let mut failures = Vec::new();
        let mut kept = |result: Result<u64, String>| {
            result.unwrap_or_else(|failure| {
                failures.push(failure);
                0
            })
        };
        let checked = kept(watched) + 3;
        let events = kept(counted);
        for answer in [&before, &after] {
            kept(question.check(answer).map(|()| 0));
        }
        let claims = [
            (
                before.rows.as_array().is_some_and(|rows| rows.len() == TOP),
                "the question has too few rows",
            ),
            (
                promotion.recompute_agrees,
                "the recompute differs from the generation it started from",
            ),
            (
                before.generation() < after.generation(),
                "both answers are from the same generation",
            ),
            (
                matches!(arrived, Ok([computing, promoting]) if computing > 0 && promoting > 0)
                    && after.covered().is_ok_and(|covered| covered < sent),
                "no events arrived during the recompute and the promote",
            ),
            (
                events == sent as u64,
                "not every acknowledged event is counted once",
            ),
        ];
        let broken = claims.iter().filter(|(holds, _)| !holds);
        failures.extend(broken.map(|(_, failure)| (*failure).to_owned()));
        Self {
            before,
            after,
            events,
            checked,
            failures,
        }
    }

    /// Whether nothing jumped: both answers have the same rows, and no answer in between was wrong.
    pub(super) fn is_equal(&self) -> bool {
        let rows = |answer: &Answer| answer.rows.as_array().cloned().unwrap_or_default();
        self.failures.is_empty() && same_rows(&rows(&self.before), &rows(&self.after))
    }

    /// The line that `--exit` ends with.
    pub(super) fn to_json(&self) -> Value {
        let side = |answer: &Answer| json!({"rows": answer.rows, "provenance": answer.provenance});
        json!({
            "before": side(&self.before),
            "after": side(&self.after),
            "events": self.events,
            "equal": self.is_equal(),
        })
    }

    /// Prints both answers and what came of the checks.
    pub(super) fn report(
        &self,
        question: &Question,
        console: &mut Console,
    ) -> Result<(), CliError> {
        console.line(format_args!("\n{}\n", question.sql))?;
        for (when, answer) in [("before", &self.before), ("after", &self.after)] {
            let columns = answer.columns.as_array().map(Vec::as_slice);
            let rows = answer.rows.as_array().map(Vec::as_slice);
            console.line(format_args!(
                "{when} the promote{}\n{}\n",
                sql::provenance(&answer.provenance),
                table::rows(columns.unwrap_or_default(), rows.unwrap_or_default()),
            ))?;
        }
        for failure in &self.failures {
            console.line(format_args!("FAILED: {failure}"))?;
        }
        if self.is_equal() {
            console.line(format_args!(
                "nothing jumped: {} answers before, during and after the promote were checked, against a recount of\n\
                 the sample or against their own position; all {} events are counted, once",
                HumanCount(self.checked),
                HumanCount(self.events),
            ))?;
        }
        Ok(())
    }
}
