// SPDX-License-Identifier: Apache-2.0
//! Compares keys of rows, a column after the other, in sort-key order.
//!
//! Arrow's comparators are called through a pointer each; a merged read compares often enough to feel it. Numbers, times
//! and texts without NULL, which most keys are, are compared in place here, and the others by Arrow.

use std::cmp::Ordering;

use arrow::array::{Array as _, ArrayRef, AsArray as _, StringArray, make_comparator};
use arrow::buffer::ScalarBuffer;
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use arrow::error::ArrowError;

type DynComparator = Box<dyn Fn(usize, usize) -> Ordering + Send + Sync>;

/// NULL first, and from low to high: as keys are encoded.
const ORDER: SortOptions = SortOptions {
    descending: false,
    nulls_first: true,
};

/// Compares rows of one batch with those of another.
pub(crate) struct KeyOrder {
    columns: Vec<Pair>,
}

/// A column of the one, and of the other.
enum Pair {
    Ints([ScalarBuffer<i32>; 2]),
    Longs([ScalarBuffer<i64>; 2]),
    Texts([StringArray; 2]),
    Other(DynComparator),
}

impl KeyOrder {
    /// Of key columns in sort-key order, which have the same types in both; none is nested.
    pub(crate) fn new(one: &[ArrayRef], other: &[ArrayRef]) -> Result<Self, ArrowError> {
        let pairs = one.iter().zip(other);
        let columns: Result<_, _> = pairs.map(|(one, other)| Pair::new(one, other)).collect();
        Ok(Self { columns: columns? })
    }

    /// How the key of a row of the one lies to that of a row of the other.
    pub(crate) fn compare(&self, row: usize, other: usize) -> Ordering {
        for pair in &self.columns {
            let order = pair.compare(row, other);
            if order.is_ne() {
                return order;
            }
        }
        Ordering::Equal
    }
}

impl Pair {
    fn new(one: &ArrayRef, other: &ArrayRef) -> Result<Self, ArrowError> {
        let both = [one, other];
        let is_plain =
            one.data_type() == other.data_type() && one.null_count() + other.null_count() == 0;
        Ok(match one.data_type() {
            DataType::Int32 if is_plain => {
                Self::Ints(both.map(|c| c.as_primitive::<Int32Type>().values().clone()))
            }
            DataType::Int64 if is_plain => {
                Self::Longs(both.map(|c| c.as_primitive::<Int64Type>().values().clone()))
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) if is_plain => {
                let values = both.map(|c| c.as_primitive::<TimestampMicrosecondType>().values());
                Self::Longs(values.map(Clone::clone))
            }
            DataType::Utf8 if is_plain => Self::Texts(both.map(|c| c.as_string().clone())),
            _ => Self::Other(make_comparator(one, other, ORDER)?),
        })
    }

    fn compare(&self, row: usize, other: usize) -> Ordering {
        match self {
            Self::Ints([one, two]) => one[row].cmp(&two[other]),
            Self::Longs([one, two]) => one[row].cmp(&two[other]),
            Self::Texts([one, two]) => {
                let (begins, length) = beginning(one, row);
                let (other_begins, other_length) = beginning(two, other);
                begins.cmp(&other_begins).then_with(|| {
                    if length.max(other_length) <= 8 {
                        length.cmp(&other_length)
                    } else {
                        one.value(row).cmp(two.value(other))
                    }
                })
            }
            Self::Other(compare) => compare(row, other),
        }
    }
}

/// The first eight bytes, with zeros behind a text that ends before, and its length. The bytes order as the texts do,
/// unless they are equal; then, of texts that have no more, the lengths do.
#[inline]
fn beginning(texts: &StringArray, row: usize) -> (u64, usize) {
    let offsets = texts.value_offsets();
    let (from, to) = (offsets[row] as usize, offsets[row + 1] as usize);
    let behind = &texts.value_data()[from..];
    let length = to - from;
    let Some(eight) = behind.first_chunk() else {
        let mut eight = [0; 8];
        eight[..length].copy_from_slice(&behind[..length]);
        return (u64::from_be_bytes(eight), length);
    };
    // Of a short text, the bytes behind it are another's.
    let others = match length {
        0..8 => u64::MAX >> (8 * length),
        _ => 0,
    };
    (u64::from_be_bytes(*eight) & !others, length)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int32Array, Int64Array, TimestampMicrosecondArray};
    use arrow::row::{RowConverter, SortField};
    use proptest::prelude::*;

    use super::*;

    fn columns(rows: &[(Option<i64>, Option<String>)], is_plain: bool) -> Vec<ArrayRef> {
        let numbers = rows.iter().map(|(n, _)| n.or(is_plain.then_some(0)));
        let numbers: Int64Array = numbers.collect();
        let texts = rows.iter().map(|(_, text)| match text {
            None if is_plain => Some(""),
            text => text.as_deref(),
        });
        let ints: Int32Array = numbers.iter().map(|n| n.map(|n| n as i32)).collect();
        let times: TimestampMicrosecondArray = numbers.iter().collect();
        let floats: Float64Array = numbers.iter().map(|n| n.map(|n| n as f64)).collect();
        let texts: StringArray = texts.collect();
        vec![
            Arc::new(ints),
            Arc::new(texts),
            Arc::new(times),
            Arc::new(numbers),
            Arc::new(floats),
        ]
    }

    fn rows() -> impl Strategy<Value = Vec<(Option<i64>, Option<String>)>> {
        let number = prop::option::weighted(0.8, prop_oneof![-2..2_i64, any::<i64>()]);
        // Around eight bytes, alike for most of them, and with zeros.
        let text = prop::option::weighted(0.8, "(abcdef){0,1}[ab\u{0}é]{0,4}");
        prop::collection::vec((number, text), 1..20)
    }

    proptest! {
        #[test]
        fn keys_order_as_their_encoding(
            one in rows(),
            other in rows(),
            is_plain in any::<bool>(),
            from in 0..5_usize,
            order in Just([0, 1, 2, 3, 4]).prop_shuffle(),
        ) {
            // A slice, which begins anywhere in its bytes.
            let from = from.min(one.len() - 1);
            let one = columns(&one, is_plain).into_iter().map(|c| c.slice(from, c.len() - from));
            let one: Vec<ArrayRef> = one.collect();
            let other = columns(&other, is_plain);
            let shuffled = |columns: &[ArrayRef]| order.map(|index| Arc::clone(&columns[index]));
            let (one, other) = (shuffled(&one), shuffled(&other));
            let fields = one.iter().map(|c| SortField::new_with_options(c.data_type().clone(), ORDER));
            let converter = RowConverter::new(fields.collect()).unwrap();
            let (keys, others) = (
                converter.convert_columns(&one).unwrap(),
                converter.convert_columns(&other).unwrap(),
            );
            let compared = KeyOrder::new(&one, &other).unwrap();
            for row in 0..keys.num_rows() {
                for other in 0..others.num_rows() {
                    let expected = keys.row(row).cmp(&others.row(other));
                    prop_assert_eq!(compared.compare(row, other), expected);
                }
            }
        }
    }
}
