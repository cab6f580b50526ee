// SPDX-License-Identifier: Apache-2.0
//! Rows in sort-key order: taken from the front up to a key, and found among others by their keys. What merging several
//! sorted inputs works with.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::row::Rows;

use crate::compare::KeyOrder;
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

/// What two batches have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommonKeys {
    /// The numbers of the rows of one group, in the one and in the other, ascending.
    pub pairs: Vec<(usize, usize)>,
    /// How many rows of the other have a key up to and including the last one of the one.
    pub passed: usize,
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
        if ours.iter().any(|column| column.data_type().is_nested()) {
            let (ours, theirs) = (sort_key.encode(one)?, sort_key.encode(other)?);
            let compare = |a, b| ours.row(a).cmp(&theirs.row(b));
            return Ok(common((one.num_rows(), other.num_rows()), compare));
        }
        let order = KeyOrder::new(&ours, &theirs)?;
        let rows = (one.num_rows(), other.num_rows());
        Ok(common(rows, |a, b| order.compare(a, b)))
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

/// What two sorted inputs of so many rows have in common.
fn common(rows: (usize, usize), compare: impl Fn(usize, usize) -> Ordering) -> CommonKeys {
    let mut pairs = Vec::new();
    let (mut at, mut at_other) = (0, 0);
    // How far it was to the last ones: it is about as far to the next.
    let mut step = 1;
    while at < rows.0 && at_other < rows.1 {
        match compare(at, at_other) {
            Ordering::Equal => {
                pairs.push((at, at_other));
                at += 1;
                at_other += 1;
            }
            Ordering::Less => {
                let from = at;
                at = first_from(at, step, rows.0, |row| compare(row, at_other).is_lt());
                step = (step + at - from).div_ceil(2);
            }
            Ordering::Greater => {
                let behind = |row| compare(at, row).is_gt();
                at_other = first_from(at_other, 1, rows.1, behind);
            }
        }
    }
    CommonKeys {
        pairs,
        passed: at_other,
    }
}

/// The first row behind `at` that is not `before`, where the rows before it all are: by steps that double, then by halves.
fn first_from(at: usize, mut step: usize, rows: usize, before: impl Fn(usize) -> bool) -> usize {
    let mut low = at;
    while low + step < rows && before(low + step) {
        low += step;
        step *= 2;
    }
    let mut high = rows.min(low + step);
    low += 1;
    while low < high {
        let middle = low.midpoint(high);
        if before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}
