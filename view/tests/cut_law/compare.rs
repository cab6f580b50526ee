// SPDX-License-Identifier: Apache-2.0
//! Comparing answers: rows in key order, values by the class that the view declares for each output.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::row::{RowConverter, SortField};
use arrow::util::pretty::pretty_format_batches;
use datafusion::common::utils::normalize_float_zero;
use dovetail_view::{Equality, View};

/// Asserts that `found` holds the rows of `expected`, in any order.
pub(crate) fn assert_same(
    view: &View,
    keys: usize,
    expected: &RecordBatch,
    found: &RecordBatch,
    what: &str,
) {
    let expected = in_key_order(&as_output(view, expected), keys);
    let found = in_key_order(&as_output(view, found), keys);
    let tables = || {
        format!(
            "{what} of {}\nexpected\n{}\nfound\n{}",
            view.sql(),
            pretty_format_batches(std::slice::from_ref(&expected)).unwrap(),
            pretty_format_batches(std::slice::from_ref(&found)).unwrap()
        )
    };
    assert_eq!(expected.num_rows(), found.num_rows(), "{}", tables());
    for (index, equality) in view.equality().iter().enumerate() {
        let (left, right) = (expected.column(index), found.column(index));
        if is_quantile(equality) {
            // Another merge order, another digest: `quantiles` bounds its error. NULL is NULL, though.
            assert_eq!(left.logical_nulls(), right.logical_nulls(), "{}", tables());
            continue;
        }
        let same = equality.same(left, right).unwrap();
        assert_eq!(
            same.true_count(),
            same.len(),
            "column {index}, {equality:?}: {}",
            tables()
        );
    }
}

fn is_quantile(equality: &Equality) -> bool {
    matches!(equality, Equality::Bound(bound) if *bound > 0.01)
}

/// The oracle's columns in the types that the view promises.
fn as_output(view: &View, batch: &RecordBatch) -> RecordBatch {
    let columns: Vec<ArrayRef> = batch
        .columns()
        .iter()
        .zip(view.output_schema().fields())
        .map(|(column, field)| cast(column, field.data_type()).unwrap())
        .collect();
    RecordBatch::try_new(view.output_schema(), columns).unwrap()
}

/// The rows in the order of their first `keys` columns.
pub(crate) fn in_key_order(batch: &RecordBatch, keys: usize) -> RecordBatch {
    if keys == 0 {
        return batch.clone();
    }
    let columns: Vec<ArrayRef> = batch.columns()[..keys]
        .iter()
        .map(normalize_float_zero)
        .collect();
    let fields = columns
        .iter()
        .map(|c| SortField::new(c.data_type().clone()))
        .collect();
    let rows = RowConverter::new(fields)
        .unwrap()
        .convert_columns(&columns)
        .unwrap();
    let mut order: Vec<u32> = (0..batch.num_rows() as u32).collect();
    order.sort_by_key(|index| rows.row(*index as usize).owned());
    take_record_batch(batch, &(Arc::new(UInt32Array::from(order)) as ArrayRef)).unwrap()
}
