// SPDX-License-Identifier: Apache-2.0
//! Finds the row of a key among states that are in any order.
//!
//! A table with open addressing: a place holds a part of the hash and the row, so that a key that is not there is
//! mostly told by one look, without reading states.

use arrow::array::RecordBatch;

use super::SortKey;
use crate::group_key::hash_keys;
use crate::{GroupKey, ViewError};

/// Place of no row.
const EMPTY: u64 = 0;

/// Which row of some states is of which group.
pub(super) struct KeyIndex {
    states: Vec<RecordBatch>,
    /// Of each row the upper half of its key's hash, and in the lower half one more than its number. A power of two
    /// of them, at least twice as many as rows.
    places: Vec<u64>,
}

impl KeyIndex {
    /// Of states with `keys` key columns in front, each key once.
    pub(super) fn new(states: Vec<RecordBatch>, keys: usize) -> Result<Self, ViewError> {
        let rows: usize = states.iter().map(RecordBatch::num_rows).sum();
        let mut index = Self {
            states,
            places: vec![EMPTY; (rows * 2).next_power_of_two()],
        };
        let mut hashes = Vec::new();
        let mut row = 0;
        for batch in &index.states {
            hashes.clear();
            hashes.resize(batch.num_rows(), 0);
            hash_keys(&batch.columns()[..keys], &mut hashes)?;
            for hash in &hashes {
                row += 1;
                let mut at = place(*hash, index.places.len());
                while index.places[at] != EMPTY {
                    at = (at + 1) % index.places.len();
                }
                index.places[at] = tag(*hash) | row;
            }
        }
        Ok(index)
    }

    /// The row of `key`.
    pub(super) fn find(
        &self,
        key: &GroupKey,
        sort_key: &SortKey,
    ) -> Result<Option<RecordBatch>, ViewError> {
        let mut at = place(key.hash(), self.places.len());
        while self.places[at] != EMPTY {
            let held = self.places[at];
            if tag(held) == tag(key.hash()) {
                let row = self.row((held & u64::from(u32::MAX)) as usize - 1);
                let columns = &row.columns()[..sort_key.keys.len()];
                if *sort_key.encode_one(columns)? == *key.encoded() {
                    return Ok(Some(row));
                }
            }
            at = (at + 1) % self.places.len();
        }
        Ok(None)
    }

    /// Memory beside the states, which the run counts.
    pub(super) fn bytes(&self) -> usize {
        self.places.len() * size_of::<u64>()
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

fn tag(hash: u64) -> u64 {
    hash & !u64::from(u32::MAX)
}

/// Where the search for a hash begins among so many places, a power of two: by the half that is not the tag.
fn place(hash: u64, places: usize) -> usize {
    hash as usize & u32::MAX as usize & (places - 1)
}
