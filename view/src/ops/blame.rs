// SPDX-License-Identifier: Apache-2.0
//! Which output column fails to finish, of which group, and why.
//!
//! Purpose: an error of the select list names neither, and both are what its author needs.
//! Invariants: nothing here runs unless a finish has failed; then its groups are halved until one is left, so the
//! whole search costs about as much as the finish did. Non-goals: every group that fails; one is enough to look at.

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::utils::collect_columns;
use dovetail_model::ProblemKind;

use super::Operators;
use crate::calendar::writable;
use crate::state::batch;
use crate::words::words_of;
use crate::{FinishFailed, ViewError};

/// So much of a group's keys is shown.
const SHOWN: usize = 200;

impl Operators {
    /// The error of finishing groups, with the column and the group that it is about. `states` gives the same
    /// groups, each once.
    pub(super) fn blamed(
        &self,
        error: ViewError,
        states: impl FnOnce() -> Result<RecordBatch, ViewError>,
    ) -> ViewError {
        if error.kind() != ProblemKind::Unprocessable {
            return error;
        }
        let failed = states().and_then(|states| self.failure(states));
        match failed {
            Ok(Some(failed)) => ViewError::Finish(Box::new(failed)),
            Ok(None) | Err(_) => error,
        }
    }

    fn failure(&self, mut states: RecordBatch) -> Result<Option<FinishFailed>, ViewError> {
        while states.num_rows() > 1 {
            let half = states.num_rows() / 2;
            let first = states.slice(0, half);
            states = match self.finish_each(&first) {
                Ok(_) => states.slice(half, states.num_rows() - half),
                Err(_) => first,
            };
        }
        let Some((output, error)) = self.failing_output(&states)? else {
            return Ok(None);
        };
        let Some((column, expression)) = self.outputs.get(output) else {
            return Ok(None);
        };
        Ok(Some(FinishFailed {
            column: column.clone(),
            expression: expression.clone(),
            group: self.group(&states)?,
            reason: words_of(&error),
        }))
    }

    /// The first output column that one group fails in.
    fn failing_output(
        &self,
        state: &RecordBatch,
    ) -> Result<Option<(usize, DataFusionError)>, ViewError> {
        let keys = self.groups.len();
        let mut columns = state.columns()[..keys].to_vec();
        for (index, call) in self.calls.iter().enumerate() {
            match self.value(call, &self.state(call, state), state.num_rows()) {
                Ok(value) => columns.push(value),
                Err(error) => return Ok(self.shown_by(0, keys + index).map(|o| (o, error))),
            }
        }
        let mut row = batch(&self.finished_schema, columns, state.num_rows())?;
        for (stage, (exprs, schema)) in self.stages.iter().enumerate() {
            let mut columns = Vec::with_capacity(exprs.len());
            for (index, expr) in exprs.iter().enumerate() {
                let value = expr.evaluate(&row);
                match value.and_then(|value| value.into_array(row.num_rows())) {
                    Ok(value) => columns.push(value),
                    Err(error) => {
                        return Ok(self.shown_by(stage + 1, index).map(|o| (o, error)));
                    }
                }
            }
            row = batch(schema, columns, row.num_rows())?;
        }
        Ok(None)
    }

    /// The first output column that is made of `column` of what stage `stage` reads.
    fn shown_by(&self, stage: usize, column: usize) -> Option<usize> {
        let mut made_of = vec![column];
        for (exprs, _) in &self.stages[stage..] {
            let reads = exprs.iter().map(collect_columns);
            made_of = reads
                .enumerate()
                .filter(|(_, reads)| reads.iter().any(|c| made_of.contains(&c.index())))
                .map(|(index, _)| index)
                .collect();
        }
        made_of.first().copied()
    }

    /// The keys of one group in words; none without GROUP BY.
    pub(crate) fn group(&self, state: &RecordBatch) -> Result<Option<String>, ViewError> {
        if self.groups.is_empty() {
            return Ok(None);
        }
        let options = FormatOptions::new().with_null("NULL");
        let mut keys = Vec::with_capacity(self.groups.len());
        for (field, column) in self.key_schema.fields().iter().zip(state.columns()) {
            let value = ArrayFormatter::try_new(&writable(column)?, &options)?
                .value(0)
                .to_string();
            let quoted = field.data_type().is_string() && column.is_valid(0);
            keys.push(match quoted {
                true => format!("{} = '{}'", field.name(), value.replace('\'', "''")),
                false => format!("{} = {value}", field.name()),
            });
        }
        let keys = keys.join(", ");
        Ok(Some(match keys.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("{}…", &keys[..end]),
            None => keys,
        }))
    }
}
