// SPDX-License-Identifier: Apache-2.0
//! A column with some of its values replaced: cheaper than to take the others out and to put new ones beside them.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray as _, BooleanBufferBuilder, PrimitiveArray,
    downcast_primitive,
};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::compute::interleave;
use arrow::error::ArrowError;

/// `column` with its value at `.0` replaced by that of `by` at `.1`, for each of `pairs`. Both are of one type. Numbers
/// that nobody else holds are written over where they are.
///
/// # Errors
/// When they are not.
pub fn replaced(
    column: ArrayRef,
    by: &ArrayRef,
    pairs: &[(usize, usize)],
) -> Result<ArrayRef, ArrowError> {
    if column.data_type() != by.data_type() {
        return Err(ArrowError::InvalidArgumentError(format!(
            "values of type {} cannot replace values of type {}",
            by.data_type(),
            column.data_type()
        )));
    }
    macro_rules! primitive {
        ($t:ty) => {{
            let numbers = column.as_primitive::<$t>().clone();
            drop(column);
            Ok(Arc::new(replaced_numbers(
                numbers,
                by.as_primitive(),
                pairs,
            )))
        }};
    }
    downcast_primitive! {
        column.data_type() => (primitive),
        _ => {
            let mut places: Vec<(usize, usize)> = (0..column.len()).map(|row| (0, row)).collect();
            for (row, other) in pairs {
                places[*row] = (1, *other);
            }
            interleave(&[column.as_ref(), by.as_ref()], &places)
        }
    }
}

fn replaced_numbers<T: ArrowPrimitiveType>(
    column: PrimitiveArray<T>,
    by: &PrimitiveArray<T>,
    pairs: &[(usize, usize)],
) -> PrimitiveArray<T> {
    let data_type = column.data_type().clone();
    let (_, values, nulls) = column.into_parts();
    let rows = values.len();
    let mut values = match values.into_inner().into_vec::<T::Native>() {
        Ok(own) => own,
        Err(shared) => ScalarBuffer::<T::Native>::from(shared).to_vec(),
    };
    for (row, other) in pairs {
        values[*row] = by.value(*other);
    }
    let nulls = match nulls {
        None if by.null_count() == 0 => None,
        nulls => {
            let mut valid = BooleanBufferBuilder::new(rows);
            match nulls {
                Some(nulls) => valid.append_buffer(nulls.inner()),
                None => valid.append_n(rows, true),
            }
            for (row, other) in pairs {
                valid.set_bit(*row, by.is_valid(*other));
            }
            Some(NullBuffer::new(valid.finish()))
        }
    };
    PrimitiveArray::new(values.into(), nulls).with_data_type(data_type)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Decimal128Array, Int64Array, StringArray, UInt64Array};
    use arrow::compute::{concat, take};
    use proptest::prelude::*;

    use super::*;

    fn arrays(values: &[Option<i64>]) -> Vec<ArrayRef> {
        let numbers = Int64Array::from(values.to_vec());
        let decimals: Decimal128Array = values.iter().map(|v| v.map(i128::from)).collect();
        let texts: StringArray = values.iter().map(|v| v.map(|v| v.to_string())).collect();
        vec![
            Arc::new(numbers),
            Arc::new(decimals.with_precision_and_scale(10, 2).unwrap()),
            Arc::new(texts),
        ]
    }

    proptest! {
        /// The same as taking each value from where it is.
        #[test]
        fn a_replaced_value_is_the_other_one(
            column in prop::collection::vec(prop::option::weighted(0.8, -9..9_i64), 0..200),
            by in prop::collection::vec(prop::option::weighted(0.8, -9..9_i64), 1..50),
            is_replaced in prop::collection::vec(any::<bool>(), 200),
            cut in 0..200_usize,
        ) {
            let rows = column.len();
            let from = cut.min(rows);
            let pairs: Vec<(usize, usize)> = (0..rows - from)
                .filter(|row| is_replaced[*row])
                .map(|row| (row, row % by.len()))
                .collect();
            for (column, by) in arrays(&column).iter().zip(&arrays(&by)) {
                // A slice, whose bits begin anywhere.
                let column = column.slice(from, rows - from);
                let mut places: Vec<u64> = (0..column.len() as u64).collect();
                for (row, other) in &pairs {
                    places[*row] = (column.len() + other) as u64;
                }
                let both = concat(&[column.as_ref(), by.as_ref()]).unwrap();
                let expected = take(&both, &UInt64Array::from(places), None).unwrap();
                prop_assert_eq!(&replaced(Arc::clone(&column), by, &pairs).unwrap(), &expected);
                // One that nobody else holds.
                let own = take(&column, &UInt64Array::from_iter_values(0..column.len() as u64), None);
                prop_assert_eq!(&replaced(own.unwrap(), by, &pairs).unwrap(), &expected);
            }
        }
    }

    #[test]
    fn another_type_is_refused() {
        let [numbers, _, texts] = &arrays(&[Some(1)])[..] else {
            unreachable!()
        };
        assert!(replaced(Arc::clone(numbers), texts, &[(0, 0)]).is_err());
    }
}
