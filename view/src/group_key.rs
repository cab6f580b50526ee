// SPDX-License-Identifier: Apache-2.0
//! One group of a view, by the values of its key.
//!
//! Purpose: what a key lookup looks for, in runs by hash and in files by order. Collaborators: [`crate::Run::find`]
//! takes it; the serving layer makes it. Invariants: two keys are the same group exactly if their encodings are
//! equal. Non-goals: keys whose `=` in SQL is another one ([`View::has_exact_keys`]).

use arrow::array::{Array as _, ArrayRef};
use arrow::datatypes::DataType;
use arrow::row::Rows;
use datafusion::common::ScalarValue;
use datafusion::common::hash_utils::{RandomState, create_hashes};

use crate::{View, ViewError};

/// Of hashes of keys within this process.
const HASHES: RandomState = RandomState::with_seed(0x6b65_7973);

/// The key of one group of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupKey {
    encoded: Box<[u8]>,
    hash: u64,
}

impl GroupKey {
    /// The Arrow row encoding of the key, in sort-key order, as [`View::encode_keys`] has those of rows.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }
}

impl View {
    /// Whether there is a GROUP BY, and `=` holds in SQL between values of its keys exactly if they are of one group.
    /// Of DOUBLE it does not (`0 = -0`, NaN), and lists and structs are not looked up.
    pub fn has_exact_keys(&self) -> bool {
        let is_exact = |data_type: &DataType| !data_type.is_floating() && !data_type.is_nested();
        !self.keys().is_empty() && self.keys().iter().all(|key| is_exact(&key.data_type))
    }

    /// The group with these values, in GROUP BY order and of the keys' types; NULL is a value.
    ///
    /// # Errors
    /// When there are more or fewer of them than keys, or one is of another type.
    pub fn group_key(&self, values: &[ScalarValue]) -> Result<GroupKey, ViewError> {
        let columns: Vec<ArrayRef> = values
            .iter()
            .map(ScalarValue::to_array)
            .collect::<Result<_, _>>()?;
        let types = columns.iter().map(|column| column.data_type());
        if !types.eq(self.keys().iter().map(|key| &key.data_type)) {
            return Err(ViewError::Schema {
                what: "a key",
                detail: format!("its values are {values:?}"),
            });
        }
        let mut hash = [0];
        hash_keys(&columns, &mut hash)?;
        Ok(GroupKey {
            encoded: self.sort_key().encode_one(&columns)?,
            hash: hash[0],
        })
    }
}

/// How many of the sorted `keys`, as [`View::encode_keys`] has them, come before the first that is not `before`.
pub fn rows_while(keys: &Rows, before: impl Fn(&[u8]) -> bool) -> usize {
    let (mut low, mut high) = (0, keys.num_rows());
    while low < high {
        let middle = low + (high - low) / 2;
        if before(keys.row(middle).data()) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// The hash of the key of each row. `columns` are the keys in GROUP BY order.
pub(crate) fn hash_keys(columns: &[ArrayRef], hashes: &mut [u64]) -> Result<(), ViewError> {
    create_hashes(columns, &HASHES, hashes)?;
    Ok(())
}
