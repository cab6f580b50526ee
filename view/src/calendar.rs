// SPDX-License-Identifier: Apache-2.0
//! Values of DATE, TIMESTAMP, TIME and DURATION columns that cannot be written as such.
//!
//! Purpose: arrow writes its own error in the place of such a value, which looks like one; whoever writes values as text
//! looks here first. Invariants: what is NULL, or within something that is, is no value. Most batches have none such, and
//! cost a look at the least and the greatest of each column of these types; others cost nothing.

use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::{cast, max, min};
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use arrow::error::ArrowError;
use dovetail_model::{calendar_days, calendar_instants, calendar_years};

use crate::sql_type;

/// A value that cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "column `{column}`: {value} {unit} is {reason}; leave such rows out, ask for the number with CAST(… AS BIGINT), or for the answer as arrow or parquet, which carry it as it is"
)]
pub struct Unwritable {
    /// The column, or the one that the value is nested in.
    pub column: String,
    value: i64,
    unit: String,
    reason: String,
}

/// Refuses a column with a value that cannot be written.
///
/// # Errors
/// [`Unwritable`], naming the first such value.
pub fn check(field: &Field, array: &ArrayRef) -> Result<(), Unwritable> {
    let Some((value, data_type)) = first_unwritable(array) else {
        return Ok(());
    };
    Err(Unwritable {
        column: field.name().clone(),
        value,
        unit: unit_of(&data_type),
        reason: reason_of(&data_type),
    })
}

/// The column as it is, or where it has a value that cannot be written, with numbers in the place of all of that type.
///
/// # Errors
/// When numbers cannot be made of them.
pub fn writable(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    if first_unwritable(array).is_none() {
        return Ok(Arc::clone(array));
    }
    cast(array, &numbers_of(array.data_type()))
}

/// The first value of a column that cannot be written, and its type.
pub(crate) fn first_unwritable(array: &ArrayRef) -> Option<(i64, DataType)> {
    may_hold_unwritable(array).then(|| first_of(array, 0..array.len()))?
}

/// The values of a type that can be written; none where all can.
fn written(data_type: &DataType) -> Option<RangeInclusive<i64>> {
    Some(match data_type {
        DataType::Date32 => {
            let (first, last) = calendar_days().into_inner();
            first.into()..=last.into()
        }
        DataType::Date64 => calendar_instants(1_000),
        DataType::Timestamp(unit, None) => calendar_instants(per_second(*unit)),
        DataType::Timestamp(unit, Some(_)) => {
            let (first, last) = calendar_instants(per_second(*unit)).into_inner();
            // It is written in its own zone, which is less than a day ahead or behind.
            let day = 86_400 * per_second(*unit);
            first.saturating_add(day)..=last.saturating_sub(day)
        }
        DataType::Time32(unit) | DataType::Time64(unit) => 0..=86_400 * per_second(*unit) - 1,
        // Others hold what an i64 does.
        DataType::Duration(TimeUnit::Second) => -i64::MAX / 1_000..=i64::MAX / 1_000,
        DataType::Duration(TimeUnit::Millisecond) => -i64::MAX..=i64::MAX,
        _ => return None,
    })
}

pub(crate) fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// False where every value can be written, those that NULL hides included.
fn may_hold_unwritable(array: &dyn Array) -> bool {
    match array.data_type() {
        DataType::Struct(_) => array
            .as_struct()
            .columns()
            .iter()
            .any(|column| may_hold_unwritable(column)),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let (from, to) = ends(list.value_offsets(), |offset| offset as usize);
            may_hold_unwritable(&list.values().slice(from, to - from))
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            let (from, to) = ends(list.value_offsets(), |offset| offset as usize);
            may_hold_unwritable(&list.values().slice(from, to - from))
        }
        DataType::FixedSizeList(_, _) => may_hold_unwritable(array.as_fixed_size_list().values()),
        DataType::Map(_, _) => {
            let map = array.as_map();
            let (from, to) = ends(map.value_offsets(), |offset| offset as usize);
            may_hold_unwritable(&map.entries().slice(from, to - from))
        }
        DataType::Dictionary(_, _) => may_hold_unwritable(array.as_any_dictionary().values()),
        data_type => written(data_type).is_some_and(|written| !within(array, &written)),
    }
}

fn ends<T: Copy>(offsets: &[T], index: impl Fn(T) -> usize) -> (usize, usize) {
    match (offsets.first(), offsets.last()) {
        (Some(first), Some(last)) => (index(*first), index(*last)),
        _ => (0, 0),
    }
}

/// Whether all values of a column that are not NULL lie in `written`.
fn within(array: &dyn Array, written: &RangeInclusive<i64>) -> bool {
    let numbers = numbers(array);
    let mut ends = [min(&numbers), max(&numbers)].into_iter().flatten();
    ends.all(|end| written.contains(&end))
}

/// What the values of a column of such a type count.
fn numbers(array: &dyn Array) -> Int64Array {
    let own = cast(array, &number_of(array.data_type()));
    let numbers = own.and_then(|own| cast(&own, &DataType::Int64));
    let numbers = numbers.expect("days, instants and times are numbers of 32 or 64 bits");
    numbers.as_primitive().clone()
}

/// The number that a value of such a type is.
fn number_of(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Date32 | DataType::Time32(_) => DataType::Int32,
        _ => DataType::Int64,
    }
}

/// The first value in `rows` that cannot be written, with its type.
fn first_of(array: &dyn Array, mut rows: std::ops::Range<usize>) -> Option<(i64, DataType)> {
    rows.find_map(|row| at(array, row))
}

fn at(array: &dyn Array, row: usize) -> Option<(i64, DataType)> {
    if array.is_null(row) {
        return None;
    }
    let all_of = |items: ArrayRef| first_of(&items, 0..items.len());
    match array.data_type() {
        DataType::Struct(_) => {
            let mut columns = array.as_struct().columns().iter();
            columns.find_map(|column| at(column, row))
        }
        DataType::List(_) => all_of(array.as_list::<i32>().value(row)),
        DataType::LargeList(_) => all_of(array.as_list::<i64>().value(row)),
        DataType::FixedSizeList(_, _) => all_of(array.as_fixed_size_list().value(row)),
        DataType::Map(_, _) => all_of(Arc::new(array.as_map().value(row))),
        DataType::Dictionary(_, _) => {
            let dictionary = array.as_any_dictionary();
            let keys = dictionary.normalized_keys();
            at(dictionary.values(), *keys.get(row)?)
        }
        data_type => {
            let written = written(data_type)?;
            let number = numbers(&array.slice(row, 1)).value(0);
            (!written.contains(&number)).then(|| (number, data_type.clone()))
        }
    }
}

/// The type with numbers in the place of what [`written`] bounds.
fn numbers_of(data_type: &DataType) -> DataType {
    let field = |field: &FieldRef| {
        let numbers = numbers_of(field.data_type());
        Arc::new(field.as_ref().clone().with_data_type(numbers))
    };
    match data_type {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(field).collect()),
        DataType::List(item) => DataType::List(field(item)),
        DataType::LargeList(item) => DataType::LargeList(field(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(field(item), *size),
        DataType::Map(entries, sorted) => DataType::Map(field(entries), *sorted),
        DataType::Dictionary(_, values) => numbers_of(values),
        leaf if written(leaf).is_some() => number_of(leaf),
        leaf => leaf.clone(),
    }
}

/// What a value of such a type counts.
fn unit_of(data_type: &DataType) -> String {
    let parts = |unit| match unit {
        TimeUnit::Second => "seconds",
        TimeUnit::Millisecond => "milliseconds",
        TimeUnit::Microsecond => "microseconds",
        TimeUnit::Nanosecond => "nanoseconds",
    };
    match data_type {
        DataType::Date32 => "days since 1970-01-01".to_owned(),
        DataType::Date64 => "milliseconds since 1970-01-01".to_owned(),
        DataType::Timestamp(unit, _) => format!("{} since 1970-01-01", parts(*unit)),
        DataType::Time32(unit) | DataType::Time64(unit) => {
            format!("{} since midnight", parts(*unit))
        }
        DataType::Duration(unit) => parts(*unit).to_owned(),
        _ => String::new(),
    }
}

fn reason_of(data_type: &DataType) -> String {
    let named = sql_type(data_type);
    match data_type {
        DataType::Time32(_) | DataType::Time64(_) => format!("a {named} that no day has"),
        DataType::Duration(_) => format!("an {named} too long to be written"),
        _ => {
            let (first, last) = calendar_years();
            format!("a {named} outside the calendar, which has the years {first} to {last}")
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Date32Array, DictionaryArray, FixedSizeListArray, Int32Array, ListArray, MapArray,
        StructArray, TimestampSecondArray,
    };
    use arrow::buffer::{NullBuffer, OffsetBuffer};
    use arrow::util::display::{ArrayFormatter, FormatOptions};

    use super::*;

    const FAR: i32 = i32::MAX;

    fn checked(array: ArrayRef) -> Result<(), String> {
        let field = Field::new("at", array.data_type().clone(), true);
        check(&field, &array).map_err(|error| error.to_string())
    }

    fn item(data_type: DataType) -> FieldRef {
        Arc::new(Field::new("element", data_type, true))
    }

    /// Whether arrow writes each value, for every type that has values which it does not.
    #[test]
    fn what_is_refused_is_what_arrow_cannot_write() {
        let mut types = vec![DataType::Date32, DataType::Date64];
        for unit in [
            TimeUnit::Second,
            TimeUnit::Millisecond,
            TimeUnit::Microsecond,
            TimeUnit::Nanosecond,
        ] {
            types.push(DataType::Timestamp(unit, None));
            types.push(DataType::Duration(unit));
            types.push(match unit {
                TimeUnit::Second | TimeUnit::Millisecond => DataType::Time32(unit),
                _ => DataType::Time64(unit),
            });
        }
        for data_type in types {
            let mut values = vec![
                0,
                -1,
                1,
                i64::MIN,
                i64::MAX,
                i32::MIN.into(),
                i32::MAX.into(),
            ];
            if let Some(written) = written(&data_type) {
                let (first, last) = written.into_inner();
                values.extend([first, last]);
                values.extend(first.checked_sub(1));
                values.extend(last.checked_add(1));
            }
            for value in values {
                let number: ArrayRef = Arc::new(Int64Array::from(vec![value]));
                let number = cast(&number, &number_of(&data_type)).unwrap();
                if number.is_null(0) {
                    continue;
                }
                let array = cast(&number, &data_type).unwrap();
                let options = FormatOptions::default();
                let formatter = ArrayFormatter::try_new(&array, &options).unwrap();
                let text = formatter.value(0).try_to_string();
                let is_written = text.is_ok_and(|text| text != "<invalid>");
                assert_eq!(
                    checked(array.clone()).is_ok(),
                    is_written,
                    "{data_type} {value}"
                );
            }
        }
    }

    #[test]
    fn an_instant_is_written_in_any_zone() {
        for zone in ["+23:59", "-23:59", "Pacific/Kiritimati", "America/New_York"] {
            let data_type = DataType::Timestamp(TimeUnit::Second, Some(zone.into()));
            let (first, last) = written(&data_type).unwrap().into_inner();
            let array = TimestampSecondArray::from(vec![first, last]).with_timezone(zone);
            let options = FormatOptions::default();
            let formatter = ArrayFormatter::try_new(&array, &options).unwrap();
            for row in 0..2 {
                formatter.value(row).try_to_string().unwrap();
            }
            for value in [first - 1, last + 1] {
                let array = TimestampSecondArray::from(vec![value]).with_timezone(zone);
                assert!(checked(Arc::new(array)).is_err(), "{zone}");
            }
        }
    }

    #[test]
    fn a_value_is_found_wherever_it_is_nested_and_what_null_hides_is_none() {
        let days = || -> ArrayRef { Arc::new(Date32Array::from(vec![1, FAR, 2])) };
        let hides = Some(NullBuffer::from(vec![true, false, true]));
        let own = Date32Array::new(vec![1, FAR, 2].into(), hides.clone());
        let structs = |nulls| {
            let fields = vec![Field::new("day", DataType::Date32, true)].into();
            StructArray::new(fields, vec![days()], nulls)
        };
        let lists = |nulls| {
            let ends = OffsetBuffer::from_lengths([1, 1, 1]);
            ListArray::new(item(DataType::Date32), ends, days(), nulls)
        };
        let fixed = |nulls| FixedSizeListArray::new(item(DataType::Date32), 1, days(), nulls);
        let maps = |nulls| {
            let fields = vec![
                Field::new("key", DataType::Int32, false),
                Field::new("value", DataType::Date32, true),
            ];
            let keys: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3]));
            let entries = StructArray::new(fields.into(), vec![keys, days()], None);
            let field = Field::new("entries", entries.data_type().clone(), false);
            let ends = OffsetBuffer::from_lengths([1, 1, 1]);
            MapArray::new(Arc::new(field), ends, entries, nulls, false)
        };
        let coded = |keys| DictionaryArray::new(Int32Array::from(keys), days());
        let shown: [ArrayRef; 6] = [
            days(),
            Arc::new(structs(None)),
            Arc::new(lists(None)),
            Arc::new(fixed(None)),
            Arc::new(maps(None)),
            Arc::new(coded(vec![Some(0), Some(1), Some(2)])),
        ];
        for array in shown {
            let refused = checked(Arc::clone(&array)).unwrap_err();
            assert_eq!(
                refused,
                "column `at`: 2147483647 days since 1970-01-01 is a DATE outside the calendar, which has the years -262143 to 262142; leave such rows out, ask for the number with CAST(… AS BIGINT), or for the answer as arrow or parquet, which carry it as it is"
            );
            assert!(checked(array.slice(1, 1)).is_err());
            for others in [array.slice(0, 1), array.slice(2, 1), array.slice(1, 0)] {
                assert_eq!(checked(others), Ok(()));
            }
            let numbers = writable(&array).unwrap();
            assert_eq!(checked(Arc::clone(&numbers)), Ok(()));
            let options = FormatOptions::default();
            let formatter = ArrayFormatter::try_new(&numbers, &options).unwrap();
            assert!(formatter.value(1).to_string().contains("2147483647"));
        }
        let hidden: [ArrayRef; 6] = [
            Arc::new(own),
            Arc::new(structs(hides.clone())),
            Arc::new(lists(hides.clone())),
            Arc::new(fixed(hides.clone())),
            Arc::new(maps(hides)),
            Arc::new(coded(vec![Some(0), None, Some(2)])),
        ];
        for array in hidden {
            assert_eq!(checked(Arc::clone(&array)), Ok(()), "{array:?}");
            assert_eq!(&writable(&array).unwrap(), &array);
        }
    }
}
