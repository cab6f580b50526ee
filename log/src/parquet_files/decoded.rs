// SPDX-License-Identifier: Apache-2.0
//! What rows take in memory, however they are cut into batches: a reader cannot tell it from the size of a file, in which
//! a text that stands in every row is there once.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray as _, OffsetSizeTrait, RecordBatch};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::DataType;

/// About what the rows of `batch` take, all texts at full length.
pub(super) fn decoded_bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(of_column).sum()
}

fn of_column(column: &ArrayRef) -> usize {
    let rows = column.len();
    match column.data_type() {
        DataType::Null => 0,
        DataType::Boolean => rows,
        DataType::Utf8 => of_bytes(column.as_string::<i32>().offsets()),
        DataType::LargeUtf8 => of_bytes(column.as_string::<i64>().offsets()),
        DataType::Binary => of_bytes(column.as_binary::<i32>().offsets()),
        DataType::LargeBinary => of_bytes(column.as_binary::<i64>().offsets()),
        DataType::List(_) => of_list::<i32>(column),
        DataType::LargeList(_) => of_list::<i64>(column),
        DataType::Map(_, _) => {
            let map = column.as_map();
            let (first, last) = ends(map.offsets());
            let entries: ArrayRef = Arc::new(map.entries().slice(first, last - first));
            rows * size_of::<i32>() + of_column(&entries)
        }
        DataType::Struct(_) => column.as_struct().columns().iter().map(of_column).sum(),
        other => match other.primitive_width() {
            Some(width) => rows * width,
            None => {
                let size = column.to_data().get_slice_memory_size();
                size.unwrap_or_else(|_| column.get_array_memory_size())
            }
        },
    }
}

fn of_bytes<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>) -> usize {
    let (first, last) = ends(offsets);
    (offsets.len() - 1) * size_of::<O>() + (last - first)
}

fn of_list<O: OffsetSizeTrait>(column: &ArrayRef) -> usize {
    let list = column.as_list::<O>();
    let (first, last) = ends(list.offsets());
    list.len() * size_of::<O>() + of_column(&list.values().slice(first, last - first))
}

/// Where the values of the first row begin, and those of the last one end.
fn ends<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>) -> (usize, usize) {
    let of = |offset: Option<&O>| offset.map_or(0, |offset| offset.as_usize());
    (of(offsets.first()), of(offsets.last()))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, ListArray, StringArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn it_is_the_same_however_rows_are_cut_into_batches() {
        let texts = StringArray::from_iter_values((0..100).map(|n| "x".repeat(n)));
        let lists = (0..100).map(|n| Some(vec![Some(1); n]));
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(lists);
        let numbers = Int64Array::from_iter_values(0..100);
        let columns: [(&str, ArrayRef); 3] = [
            ("n", Arc::new(numbers)),
            ("t", Arc::new(texts)),
            ("l", Arc::new(lists)),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let whole = decoded_bytes(&batch);
        let values = 99 * 100 / 2;
        assert_eq!(whole, 100 * (8 + 4 + 4) + values + 4 * values);
        let pieces = (0..100).map(|row| decoded_bytes(&batch.slice(row, 1)));
        assert_eq!(pieces.sum::<usize>(), whole);
    }
}
