// SPDX-License-Identifier: Apache-2.0
//! From states to finished rows, of all columns of a view or of some.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::ViewError;
use crate::ops::Operators;
use crate::state::expect_schema;

/// Finishes states to those output columns that [`View::finisher`](crate::View::finisher) was asked for. The select
/// list may fail on a group in another one: nothing is computed of that.
#[derive(Clone)]
pub struct Finisher {
    operators: Arc<Operators>,
    /// Of states without their keys.
    measured: SchemaRef,
}

impl Finisher {
    pub(crate) fn new(operators: Arc<Operators>, measured: &SchemaRef) -> Self {
        Self {
            operators,
            measured: Arc::clone(measured),
        }
    }

    /// The finished rows of any number of batches in [`View::state_schema`](crate::View::state_schema), in which keys may
    /// repeat. Groups come in no particular order. Without GROUP BY there is always one row.
    ///
    /// # Errors
    /// When a batch has another schema, or the select list fails on the data.
    pub fn finish(&self, states: &[RecordBatch]) -> Result<RecordBatch, ViewError> {
        self.expect_states(states)?;
        self.operators.finish(states)
    }

    /// The finished rows of states whose keys are unique, in the same order: of one run, or of one merged
    /// batch. Faster than [`Self::finish`], as nothing is hashed; of keys that repeat it would make as many
    /// rows.
    ///
    /// # Errors
    /// As [`Self::finish`]; also for more than one row without GROUP BY.
    pub fn finish_unique(&self, states: &RecordBatch) -> Result<RecordBatch, ViewError> {
        self.expect_states([states])?;
        if !self.operators.has_keys() && states.num_rows() != 1 {
            return Err(ViewError::Schema {
                what: "unique states",
                detail: format!("it has {} rows, but there is one group", states.num_rows()),
            });
        }
        self.operators.finish_unique(states)
    }

    /// The finished rows of `states` with `others` merged into them, in the order of `states`, whose keys are unique.
    /// The others are as [`View::measured_of_file`](crate::View::measured_of_file) has them; with each batch comes, for
    /// each of its rows, the row of `states` that is of the same group. Nothing is hashed.
    ///
    /// # Errors
    /// As [`Self::finish_unique`].
    pub fn finish_with(
        &self,
        states: &RecordBatch,
        others: Vec<(RecordBatch, Vec<usize>)>,
    ) -> Result<RecordBatch, ViewError> {
        self.expect_states([states])?;
        for (measured, _) in &others {
            expect_schema("states", &self.measured, measured.schema_ref())?;
        }
        self.operators.finish_with(states, others)
    }

    fn expect_states<'a>(
        &self,
        states: impl IntoIterator<Item = &'a RecordBatch>,
    ) -> Result<(), ViewError> {
        let expected = self.operators.state_schema();
        let mut states = states.into_iter();
        states.try_for_each(|batch| expect_schema("states", expected, batch.schema_ref()))
    }
}

impl std::fmt::Debug for Finisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Finisher").finish_non_exhaustive()
    }
}
