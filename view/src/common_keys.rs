// SPDX-License-Identifier: Apache-2.0
//! The rows that two batches in sort-key order have in common: a merge of both, a key column after the other.
//!
//! ```text
//!   hour   origin          hour   origin
//!   9:00   ATL       ◄──►  9:00   JFK       within the rows of an hour that both have,
//!   9:00   JFK                              only airports are compared
//!   9:00   SFO
//!  10:00   …
//! ```
//!
//! Arrow's comparators are called through a pointer each; a merged read compares often enough to feel it. Numbers, times
//! and texts without NULL, which most keys are, are compared in place here, and the others by Arrow.

use std::cmp::Ordering;
use std::hint::select_unpredictable;
use std::ops::Range;

use arrow::array::{Array as _, ArrayRef, AsArray as _, StringArray, make_comparator};
use arrow::buffer::ScalarBuffer;
use arrow::compute::SortOptions;
use arrow::datatypes::{
    ArrowNativeType, DataType, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use arrow::error::ArrowError;

type DynComparator = Box<dyn Fn(usize, usize) -> Ordering + Send + Sync>;

/// NULL first, and from low to high: as keys are encoded.
pub(crate) const ORDER: SortOptions = SortOptions {
    descending: false,
    nulls_first: true,
};

/// What two batches have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommonKeys {
    /// The numbers of the rows of one group, in the one and in the other, ascending.
    pub pairs: Vec<(usize, usize)>,
    /// How many rows of the other have a key up to and including the last one of the one.
    pub passed: usize,
}

impl CommonKeys {
    /// Of so many rows of the one and of the other in order, each key once, by their key columns in sort-key order. None of
    /// those is nested.
    pub(crate) fn of_columns(
        one: &[ArrayRef],
        other: &[ArrayRef],
        rows: (usize, usize),
    ) -> Result<Self, ArrowError> {
        let pairs = one.iter().zip(other);
        let columns: Result<Vec<Pair>, _> =
            pairs.map(|(one, other)| Pair::new(one, other)).collect();
        let mut merge = Merge { pairs: Vec::new() };
        let passed = merge.columns(&columns?, 0..rows.0, 0..rows.1);
        Ok(Self {
            pairs: merge.pairs,
            passed,
        })
    }

    /// The same of any rows that `compare` orders.
    pub(crate) fn of_rows(
        rows: (usize, usize),
        compare: impl Fn(usize, usize) -> Ordering,
    ) -> Self {
        let mut merge = Merge { pairs: Vec::new() };
        let passed = merge.rows(0..rows.0, 0..rows.1, &Rows(compare), &[]);
        Self {
            pairs: merge.pairs,
            passed,
        }
    }
}

/// A column of the one, and of the other.
enum Pair {
    Ints([ScalarBuffer<i32>; 2]),
    Longs([ScalarBuffer<i64>; 2]),
    Texts([StringArray; 2]),
    Other(Rows<DynComparator>),
}

/// Values of the one and of the other. Each is taken out of its row once, and compared with many.
trait Values {
    type Value: Copy;

    fn one(&self, row: usize) -> Self::Value;
    fn other(&self, row: usize) -> Self::Value;
    fn compare(&self, one: Self::Value, other: Self::Value) -> Ordering;
}

impl<T: ArrowNativeType + Ord> Values for [ScalarBuffer<T>; 2] {
    type Value = T;

    #[inline]
    fn one(&self, row: usize) -> T {
        self[0][row]
    }

    #[inline]
    fn other(&self, row: usize) -> T {
        self[1][row]
    }

    #[inline]
    fn compare(&self, one: T, other: T) -> Ordering {
        one.cmp(&other)
    }
}

/// A text: the first eight bytes, with zeros behind one that ends before, its length and its row. The bytes order as the
/// texts do, unless they are equal; then, of texts that have no more, the lengths do.
#[derive(Clone, Copy)]
struct Text {
    begins: u64,
    length: usize,
    row: usize,
}

impl Values for [StringArray; 2] {
    type Value = Text;

    #[inline]
    fn one(&self, row: usize) -> Text {
        Text::new(&self[0], row)
    }

    #[inline]
    fn other(&self, row: usize) -> Text {
        Text::new(&self[1], row)
    }

    #[inline]
    fn compare(&self, one: Text, other: Text) -> Ordering {
        one.begins.cmp(&other.begins).then_with(|| {
            if one.length.max(other.length) <= 8 {
                one.length.cmp(&other.length)
            } else {
                self[0].value(one.row).cmp(self[1].value(other.row))
            }
        })
    }
}

impl Text {
    // It is what a merge does most: as a call, it takes a quarter more of the whole.
    #[inline(always)]
    fn new(texts: &StringArray, row: usize) -> Self {
        let offsets = texts.value_offsets();
        let (from, to) = (offsets[row] as usize, offsets[row + 1] as usize);
        let behind = &texts.value_data()[from..];
        let length = to - from;
        let begins = match behind.first_chunk() {
            // Of a short text, the bytes behind it are another's.
            Some(eight) => {
                let bits = 8 * length.min(8) as u32;
                u64::from_be_bytes(*eight) & !u64::MAX.unbounded_shr(bits)
            }
            None => {
                let mut eight = [0; 8];
                eight[..length].copy_from_slice(&behind[..length]);
                u64::from_be_bytes(eight)
            }
        };
        Self {
            begins,
            length,
            row,
        }
    }
}

/// Rows that are compared by their numbers.
struct Rows<F>(F);

impl<F: Fn(usize, usize) -> Ordering> Values for Rows<F> {
    type Value = usize;

    fn one(&self, row: usize) -> usize {
        row
    }

    fn other(&self, row: usize) -> usize {
        row
    }

    fn compare(&self, one: usize, other: usize) -> Ordering {
        (self.0)(one, other)
    }
}

/// What is found so far.
struct Merge {
    pairs: Vec<(usize, usize)>,
}

impl Merge {
    /// Merges rows that are alike in the columns before these. Where it comes to in the other: behind its rows with a key
    /// up to the last one of the one.
    fn columns(&mut self, columns: &[Pair], one: Range<usize>, other: Range<usize>) -> usize {
        let Some((column, rest)) = columns.split_first() else {
            // All of a key is alike, and no key is there twice.
            let both = one.start < one.end && other.start < other.end;
            self.pairs.extend(both.then_some((one.start, other.start)));
            return other.start + usize::from(both);
        };
        match column {
            Pair::Ints(values) => self.rows(one, other, values, rest),
            Pair::Longs(values) => self.rows(one, other, values, rest),
            Pair::Texts(values) => self.rows(one, other, values, rest),
            Pair::Other(values) => self.rows(one, other, values, rest),
        }
    }

    /// The same, where `values` orders the rows by the first of the columns and `rest` are the others.
    fn rows<V: Values>(
        &mut self,
        one: Range<usize>,
        other: Range<usize>,
        values: &V,
        rest: &[Pair],
    ) -> usize {
        let (mut at, mut at_other) = (one.start, other.start);
        // How far it was to the last ones: it is about as far to the next.
        let mut step = 1;
        while at < one.end && at_other < other.end {
            let (a, b) = (values.one(at), values.other(at_other));
            let of_one = |row| values.compare(values.one(row), b);
            let of_other = |row| values.compare(a, values.other(row));
            match values.compare(a, b) {
                Ordering::Less => {
                    let from = at;
                    at = first_from(at, step, one.end, |row| of_one(row).is_lt());
                    step = (step + at - from).div_ceil(2);
                }
                Ordering::Greater => {
                    at_other = first_from(at_other, 1, other.end, |row| of_other(row).is_gt());
                }
                Ordering::Equal if rest.is_empty() => {
                    self.pairs.push((at, at_other));
                    at += 1;
                    at_other += 1;
                }
                Ordering::Equal => {
                    let end = first_from(at, 1, one.end, |row| of_one(row).is_eq());
                    let other_end = first_from(at_other, 1, other.end, |row| of_other(row).is_eq());
                    let passed = self.columns(rest, at..end, at_other..other_end);
                    at = end;
                    at_other = if end < one.end { other_end } else { passed };
                }
            }
        }
        at_other
    }
}

/// The first row behind `at` that is not `before`, where the rows before it all are: by steps that double, then by halves.
#[inline]
fn first_from(at: usize, mut step: usize, rows: usize, before: impl Fn(usize) -> bool) -> usize {
    let mut low = at;
    while low + step < rows && before(low + step) {
        low += step;
        step *= 2;
    }
    // The row is behind `low`, and at most `left` behind. Which half it is in cannot be foretold, nor by a processor.
    let mut left = rows.min(low + step) - low;
    while left > 1 {
        let half = left / 2;
        low = select_unpredictable(before(low + half), low + half, low);
        left -= half;
    }
    low + 1
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
            _ => Self::Other(Rows(make_comparator(one, other, ORDER)?)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use arrow::array::UInt32Array;
    use arrow::array::{Float64Array, Int32Array, Int64Array, TimestampMicrosecondArray};
    use arrow::compute::take;
    use arrow::row::{RowConverter, SortField};
    use proptest::prelude::*;

    use super::*;

    type Key = (Option<i64>, Option<String>, Option<i64>);

    /// Key columns of each type, of which only the first three differ beyond what the others say.
    fn columns(keys: &[Key], is_plain: bool) -> Vec<ArrayRef> {
        let plain = |n: Option<i64>| n.or(is_plain.then_some(0));
        let numbers: Int64Array = keys.iter().map(|(n, _, _)| plain(*n)).collect();
        let others: Vec<Option<i64>> = keys.iter().map(|(_, _, n)| plain(*n)).collect();
        let ints: Int32Array = others.iter().map(|n| n.map(|n| n as i32)).collect();
        let times: TimestampMicrosecondArray = others.iter().copied().collect();
        let floats: Float64Array = others.iter().map(|n| n.map(|n| n as f64)).collect();
        let texts = keys.iter().map(|(_, text, _)| match text {
            None if is_plain => Some(""),
            text => text.as_deref(),
        });
        let texts: StringArray = texts.collect();
        vec![
            Arc::new(ints),
            Arc::new(texts),
            Arc::new(times),
            Arc::new(numbers),
            Arc::new(floats),
        ]
    }

    fn keys() -> impl Strategy<Value = Vec<Key>> {
        let number = || prop::option::weighted(0.8, -2..2_i64);
        // Around eight bytes, alike for most of them, and with zeros.
        let text = prop::option::weighted(0.8, "(abcdef){0,1}[ab\u{0}é]{0,4}");
        prop::collection::vec((number(), text, number()), 0..60)
    }

    /// The rows in order, each key once, with their encoding.
    fn sorted(converter: &RowConverter, columns: &[ArrayRef]) -> (Vec<ArrayRef>, Vec<Vec<u8>>) {
        let encoded = converter.convert_columns(columns).unwrap();
        let rows = (0..)
            .zip(encoded.iter())
            .map(|(row, key)| (key.data().to_vec(), row));
        let rows: BTreeMap<Vec<u8>, u32> = rows.collect();
        let indices: UInt32Array = rows.values().copied().collect();
        let columns = columns
            .iter()
            .map(|column| take(column, &indices, None).unwrap());
        (columns.collect(), rows.into_keys().collect())
    }

    proptest! {
        #[test]
        fn rows_in_common_are_those_with_the_same_encoding(
            one in keys(),
            other in keys(),
            is_plain in any::<bool>(),
            from in 0..5_usize,
            order in Just([0, 1, 2, 3, 4]).prop_shuffle(),
            used in 0..6_usize,
        ) {
            let used = &order[..used.max(1).min(order.len())];
            let chosen = |keys: &[Key]| {
                let columns = columns(keys, is_plain);
                used.iter().map(|index| Arc::clone(&columns[*index])).collect::<Vec<_>>()
            };
            let (one, other) = (chosen(&one), chosen(&other));
            let fields = one.iter().map(|c| SortField::new_with_options(c.data_type().clone(), ORDER));
            let converter = RowConverter::new(fields.collect()).unwrap();
            let ((one, keys), (other, others)) = (sorted(&converter, &one), sorted(&converter, &other));
            // A slice, which begins anywhere in its bytes.
            let from = from.min(keys.len());
            let keys = &keys[from..];
            let one: Vec<ArrayRef> = one.iter().map(|c| c.slice(from, keys.len())).collect();
            let pairs = keys.iter().enumerate().filter_map(|(row, key)| {
                Some((row, others.binary_search(key).ok()?))
            });
            let expected = CommonKeys {
                pairs: pairs.collect(),
                passed: keys.last().map_or(0, |last| others.partition_point(|key| key <= last)),
            };
            let rows = (keys.len(), others.len());
            prop_assert_eq!(&CommonKeys::of_columns(&one, &other, rows).unwrap(), &expected);
            let by_encoding = CommonKeys::of_rows(rows, |a, b| keys[a].cmp(&others[b]));
            prop_assert_eq!(by_encoding, expected);
        }
    }
}
