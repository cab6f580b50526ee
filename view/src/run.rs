// SPDX-License-Identifier: Apache-2.0
//! Runs: sorted tables of unique groups and their states, covering one span.

mod index;

use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::row::{RowConverter, Rows, SortField};
use dovetail_model::Span;
use parking_lot::Mutex;

use self::index::KeyIndex;
use crate::state::key_arrays;
use crate::{GroupKey, KeyColumn, View, ViewError};

/// The order of a view's groups: the time key first if there is one, then the other keys in GROUP BY
/// order; ascending, nulls first. The order of the bytes of the Arrow row encoding.
pub(crate) struct SortKey {
    keys: Vec<KeyColumn>,
    order: Vec<usize>,
    converter: RowConverter,
}

impl SortKey {
    pub(crate) fn new(keys: &[KeyColumn], time_key: Option<usize>) -> Result<Self, ViewError> {
        let others = (0..keys.len()).filter(|index| Some(*index) != time_key);
        let order: Vec<usize> = time_key.into_iter().chain(others).collect();
        let fields = order
            .iter()
            .map(|index| SortField::new(keys[*index].data_type.clone()))
            .collect();
        Ok(Self {
            keys: keys.to_vec(),
            order,
            converter: RowConverter::new(fields)?,
        })
    }

    pub(crate) fn keys(&self) -> &[KeyColumn] {
        &self.keys
    }

    /// Indices into the view's keys, most significant first.
    pub(crate) fn order(&self) -> &[usize] {
        &self.order
    }

    /// Where the key columns are in `batch`, most significant first.
    pub(crate) fn columns_in(&self, batch: &RecordBatch) -> Result<Vec<usize>, ViewError> {
        let names = self.order.iter().map(|index| &self.keys[*index].name);
        let columns: Result<_, _> = names
            .map(|name| batch.schema_ref().index_of(name))
            .collect();
        Ok(columns?)
    }

    pub(crate) fn encode(&self, batch: &RecordBatch) -> Result<Rows, ViewError> {
        let columns = key_arrays(&self.keys, &self.order, batch)?;
        if columns.is_empty() {
            // Without columns the converter cannot know how many rows there are.
            let mut rows = self.converter.empty_rows(batch.num_rows(), 0);
            let parser = self.converter.parser();
            for _ in 0..batch.num_rows() {
                rows.push(parser.parse(&[]));
            }
            return Ok(rows);
        }
        Ok(self.converter.convert_columns(&columns)?)
    }

    /// The encoding of one row, of which `columns` are the keys in GROUP BY order.
    pub(crate) fn encode_one(&self, columns: &[ArrayRef]) -> Result<Box<[u8]>, ViewError> {
        let ordered: Vec<ArrayRef> = self
            .order
            .iter()
            .map(|i| Arc::clone(&columns[*i]))
            .collect();
        let rows = self.converter.convert_columns(&ordered)?;
        Ok(rows.row(0).data().into())
    }

    pub(crate) fn sort(&self, states: &RecordBatch) -> Result<RecordBatch, ViewError> {
        if self.order.is_empty() || states.num_rows() < 2 {
            return Ok(states.clone());
        }
        Ok(take_record_batch(states, &self.sorted_rows(states)?)?)
    }

    /// The numbers of the rows of `states`, in order.
    pub(crate) fn sorted_rows(&self, states: &RecordBatch) -> Result<UInt32Array, ViewError> {
        let rows = self.encode(states)?;
        let alike = common_beginning(&rows);
        // Most keys differ in the bytes behind: those are compared without a look at the rest. Beside them stands the
        // row, so that what is put in order is small.
        let mut order: Vec<u128> = (0_u32..)
            .zip(rows.iter())
            .map(|(index, row)| twelve_bytes(&row.data()[alike..]) << u32::BITS | u128::from(index))
            .collect();
        order.sort_unstable_by(|a, b| {
            let whole = || {
                rows.row(row_of(*a) as usize)
                    .cmp(&rows.row(row_of(*b) as usize))
            };
            (a >> u32::BITS).cmp(&(b >> u32::BITS)).then_with(whole)
        });
        Ok(order.into_iter().map(row_of).collect())
    }
}

/// The last 32 bits.
const fn row_of(entry: u128) -> u32 {
    entry as u32
}

/// How many bytes all keys begin with.
fn common_beginning(rows: &Rows) -> usize {
    let mut rows = rows.iter();
    let Some(first) = rows.next() else {
        return 0;
    };
    let mut alike = first.data();
    for row in rows {
        while !row.data().starts_with(alike) {
            alike = &alike[..alike.len() - 1];
        }
    }
    alike.len()
}

/// The first bytes of a key, zeros behind a shorter one: they order like the keys, as far as they differ.
fn twelve_bytes(key: &[u8]) -> u128 {
    let mut first = [0; 16];
    let bytes = key.len().min(12);
    first[4..4 + bytes].copy_from_slice(&key[..bytes]);
    u128::from_be_bytes(first)
}

/// A sorted, immutable table of unique group keys and states that covers exactly one span.
///
/// A run is made unsorted and sorts itself when it is first read in order: most runs are merged away
/// before anyone does.
pub struct Run {
    span: Span,
    rows: usize,
    sort_key: Arc<SortKey>,
    /// Gone once `sorted` is there.
    unsorted: Mutex<Option<RecordBatch>>,
    sorted: OnceLock<Vec<RecordBatch>>,
    /// Of the states that are there: the unsorted ones, then the sorted ones. Made when a key is first looked for.
    index: Mutex<Option<Arc<KeyIndex>>>,
}

impl Run {
    /// The run of `view` that covers `span` and in which nothing happened.
    pub fn empty(view: &View, span: Span) -> Self {
        let states = RecordBatch::new_empty(view.state_schema());
        Self::unsorted(view.sort_key(), span, states)
    }

    /// A run of states that are in sort-key order already, each key once, as a generation's files and
    /// [`View::states_plan`] give them.
    pub fn from_sorted(view: &View, span: Span, sorted: Vec<RecordBatch>) -> Self {
        let sorted: Vec<RecordBatch> = sorted
            .into_iter()
            .filter(|batch| batch.num_rows() > 0)
            .collect();
        Self {
            span,
            rows: sorted.iter().map(RecordBatch::num_rows).sum(),
            sort_key: Arc::clone(view.sort_key()),
            unsorted: Mutex::new(None),
            sorted: OnceLock::from(sorted),
            index: Mutex::default(),
        }
    }

    /// A run of states whose keys are unique, in any order.
    pub(crate) fn unsorted(sort_key: &Arc<SortKey>, span: Span, states: RecordBatch) -> Self {
        Self {
            span,
            rows: states.num_rows(),
            sort_key: Arc::clone(sort_key),
            unsorted: Mutex::new(Some(states)),
            sorted: OnceLock::new(),
            index: Mutex::default(),
        }
    }

    /// The events it covers, all of them and no others.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// Its states in `state_schema`, in sort-key order, one row for each group. None of the batches is
    /// empty. The first call sorts.
    pub fn states(&self) -> &[RecordBatch] {
        let sorted = self.sorted.get_or_init(|| {
            let states = self.unsorted.lock().clone();
            let states = states.expect("unsorted states are there until the sorted ones are");
            let sorted = self
                .sort_key
                .sort(&states)
                .expect("keys of a type that a row encoding was made for can be encoded");
            if sorted.num_rows() == 0 {
                Vec::new()
            } else {
                vec![sorted]
            }
        });
        if self.unsorted.lock().take().is_some() {
            // It would keep the unsorted states.
            *self.index.lock() = None;
        }
        sorted
    }

    /// The one row of its states that is of this group, if there is one. By hash: the first call makes an index,
    /// which takes some 40 ns a row.
    ///
    /// # Errors
    /// When the keys cannot be hashed.
    pub fn find(&self, key: &GroupKey) -> Result<Option<RecordBatch>, ViewError> {
        if self.rows == 0 {
            return Ok(None);
        }
        self.index()?.find(key, &self.sort_key)
    }

    /// Whether [`Self::find`] has its index.
    pub fn is_indexed(&self) -> bool {
        self.index.lock().is_some()
    }

    /// Makes the index of [`Self::find`] before somebody waits for it.
    ///
    /// # Errors
    /// As there.
    pub fn make_index(&self) -> Result<(), ViewError> {
        self.index().map(drop)
    }

    fn index(&self) -> Result<Arc<KeyIndex>, ViewError> {
        let mut index = self.index.lock();
        if let Some(index) = index.as_ref() {
            return Ok(Arc::clone(index));
        }
        let made = KeyIndex::new(self.states_in_any_order(), self.sort_key.keys.len())?;
        Ok(Arc::clone(index.insert(Arc::new(made))))
    }

    /// Its states in any order: for those who need none. It sorts nothing.
    pub fn states_in_any_order(&self) -> Vec<RecordBatch> {
        if let Some(states) = self.unsorted.lock().as_ref() {
            return vec![states.clone()];
        }
        self.states().to_vec()
    }

    /// How many groups it has.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Memory it holds, in bytes.
    pub fn bytes(&self) -> usize {
        let index = self.index.lock().as_ref().map_or(0, |index| index.bytes());
        index + self.states_bytes()
    }

    fn states_bytes(&self) -> usize {
        if let Some(states) = self.unsorted.lock().as_ref() {
            return states.get_array_memory_size();
        }
        let batches = self.sorted.get().into_iter().flatten();
        batches.map(RecordBatch::get_array_memory_size).sum()
    }
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run")
            .field("span", &self.span)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{Field, Schema};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Keys that begin alike, that end within what others go on with, and NULL.
        #[test]
        fn rows_are_in_the_order_of_their_whole_keys(
            keys in prop::collection::vec(
                (prop::option::weighted(0.9, 0..3_i64), prop::option::weighted(0.9, "(abcdefgh){0,2}[a\u{0}]{0,3}")),
                0..60,
            ),
        ) {
            let numbers: Int64Array = keys.iter().map(|(n, _)| *n).collect();
            let texts: StringArray = keys.iter().map(|(_, text)| text.as_deref()).collect();
            let columns: Vec<ArrayRef> = vec![Arc::new(numbers), Arc::new(texts)];
            let names = ["n", "s"];
            let fields = names.iter().zip(&columns);
            let fields: Vec<Field> =
                fields.map(|(name, c)| Field::new(*name, c.data_type().clone(), true)).collect();
            let keys: Vec<KeyColumn> = (0..)
                .zip(&fields)
                .map(|(output_index, field)| KeyColumn {
                    name: field.name().clone(),
                    data_type: field.data_type().clone(),
                    output_index,
                    nullable: true,
                })
                .collect();
            let states = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
            let sort_key = SortKey::new(&keys, None).unwrap();
            let rows = sort_key.encode(&states).unwrap();
            let order = sort_key.sorted_rows(&states).unwrap();
            let mut all: Vec<u32> = order.values().to_vec();
            prop_assert!(all.is_sorted_by_key(|row| rows.row(*row as usize)));
            all.sort_unstable();
            prop_assert!(all.into_iter().eq(0..states.num_rows() as u32));
        }
    }
}
