// SPDX-License-Identifier: Apache-2.0
//! Finds the row of a key among states that are in any order.

use arrow::array::RecordBatch;

use super::SortKey;
use crate::group_key::hash_keys;
use crate::places::Places;
use crate::{GroupKey, ViewError};

/// Which row of some states is of which group.
pub(super) struct KeyIndex {
    states: Vec<RecordBatch>,
    places: Places,
}

impl KeyIndex {
    /// Of states with `keys` key columns in front, each key once.
    pub(super) fn new(states: Vec<RecordBatch>, keys: usize) -> Result<Self, ViewError> {
        let rows = states.iter().map(RecordBatch::num_rows).sum();
        let mut places = Places::with_room_for(rows);
        let mut hashes = Vec::new();
        for batch in &states {
            hashes.clear();
            hashes.resize(batch.num_rows(), 0);
            hash_keys(&batch.columns()[..keys], &mut hashes)?;
            hashes.iter().for_each(|hash| places.add(*hash));
        }
        Ok(Self { states, places })
    }

    /// The row of `key`.
    pub(super) fn find(
        &self,
        key: &GroupKey,
        sort_key: &SortKey,
    ) -> Result<Option<RecordBatch>, ViewError> {
        for number in self.places.candidates(key.hash()) {
            let row = self.row(number);
            let columns = &row.columns()[..sort_key.keys.len()];
            if *sort_key.encode_one(columns)? == *key.encoded() {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    /// Memory beside the states, which the run counts.
    pub(super) fn bytes(&self) -> usize {
        self.places.bytes()
    }

    fn row(&self, mut number: usize) -> RecordBatch {
        let mut batches = self.states.iter();
        let batch = batches.find(|batch| {
            let is_here = number < batch.num_rows();
            if !is_here {
                number -= batch.num_rows();
            }
            is_here
        });
        batch
            .expect("a place holds a row of the states")
            .slice(number, 1)
    }
}
