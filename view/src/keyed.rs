// SPDX-License-Identifier: Apache-2.0
//! Rows in sort-key order: taken from the front up to a key, and found among others by their keys. What merging several
//! sorted inputs works with.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::row::Rows;

use crate::CommonKeys;
use crate::group_key::rows_while;
use crate::run::SortKey;
use crate::state::key_arrays;
use crate::{View, ViewError};

/// States in sort-key order, each key once, with their keys encoded.
pub struct KeyedStates {
    states: RecordBatch,
    keys: Arc<Rows>,
    /// The first row that is not taken.
    at: usize,
}

/// Part of [`KeyedStates`].
pub(crate) struct Taken {
    states: RecordBatch,
    keys: Arc<Rows>,
    first_key: usize,
}

impl Taken {
    pub(crate) fn states(&self) -> &RecordBatch {
        &self.states
    }

    /// The encoded key of a row of the states.
    pub(crate) fn key(&self, row: usize) -> &[u8] {
        self.keys.row(self.first_key + row).data()
    }
}

impl KeyedStates {
    /// Sorted `states` of `view`.
    ///
    /// # Errors
    /// When the key columns are not there.
    pub fn new(view: &View, states: RecordBatch) -> Result<Self, ViewError> {
        Self::encoded(view.sort_key(), states)
    }

    pub(crate) fn encoded(sort_key: &SortKey, states: RecordBatch) -> Result<Self, ViewError> {
        let keys = Arc::new(sort_key.encode(&states)?);
        Ok(Self {
            states,
            keys,
            at: 0,
        })
    }

    /// Whether everything is taken.
    pub fn is_empty(&self) -> bool {
        self.at == self.states.num_rows()
    }

    /// The last key up to and including `bound`, of all when there is no bound; None if none is left there.
    pub fn last_through(&self, bound: Option<&[u8]>) -> Option<&[u8]> {
        let behind = bound.map_or(self.keys.num_rows(), |bound| self.rows_through(bound));
        (behind > self.at).then(|| self.keys.row(behind - 1).data())
    }

    /// Takes what is left up to and including `bound`, if there is any.
    pub fn take_through(&mut self, bound: &[u8]) -> Option<RecordBatch> {
        self.take_keyed_through(bound).map(|taken| taken.states)
    }

    /// As [`Self::take_through`], with the keys.
    pub(crate) fn take_keyed_through(&mut self, bound: &[u8]) -> Option<Taken> {
        let (from, to) = (self.at, self.rows_through(bound));
        if to <= from {
            return None;
        }
        self.at = to;
        Some(Taken {
            states: self.states.slice(from, to - from),
            keys: Arc::clone(&self.keys),
            first_key: from,
        })
    }

    /// All that is left.
    pub fn into_rest(self) -> RecordBatch {
        self.states.slice(self.at, self.states.num_rows() - self.at)
    }

    /// How many of the keys are at most `bound`.
    fn rows_through(&self, bound: &[u8]) -> usize {
        rows_while(&self.keys, |key| key <= bound)
    }
}

impl View {
    /// Which rows of two batches are of one group. Both are in sort-key order, each key once; key columns are found by
    /// name. It costs a few comparisons for each row of the batch that has fewer.
    ///
    /// # Errors
    /// When a key column is missing or has another type.
    pub fn common_keys(
        &self,
        one: &RecordBatch,
        other: &RecordBatch,
    ) -> Result<CommonKeys, ViewError> {
        let sort_key = self.sort_key();
        let columns = |batch| key_arrays(sort_key.keys(), sort_key.order(), batch);
        let (ours, theirs) = (columns(one)?, columns(other)?);
        let rows = (one.num_rows(), other.num_rows());
        if ours.iter().any(|column| column.data_type().is_nested()) {
            let (ours, theirs) = (sort_key.encode(one)?, sort_key.encode(other)?);
            let compare = |a, b| ours.row(a).cmp(&theirs.row(b));
            return Ok(CommonKeys::of_rows(rows, compare));
        }
        Ok(CommonKeys::of_columns(&ours, &theirs, rows)?)
    }

    /// How many rows of `sorted` have a key up to and including `bound`, which is as [`Self::encode_keys`] has it.
    ///
    /// # Errors
    /// When a key column is missing or has another type.
    pub fn rows_through(&self, sorted: &RecordBatch, bound: &[u8]) -> Result<usize, ViewError> {
        let sort_key = self.sort_key();
        let keys = sorted.project(&sort_key.columns_in(sorted)?)?;
        let (mut low, mut high) = (0, keys.num_rows());
        while low < high {
            let middle = low.midpoint(high);
            let key = sort_key.encode(&keys.slice(middle, 1))?;
            if key.row(0).data() <= bound {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}
