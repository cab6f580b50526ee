// SPDX-License-Identifier: Apache-2.0
//! Casts of plain Arrow columns that give null where a value would lose something.

use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowNumericType, ArrowPrimitiveType, AsArray, Decimal128Array,
    PrimitiveArray, TimestampMicrosecondArray,
};
use arrow::compute::kernels::length::length;
use arrow::compute::{CastOptions, cast, cast_with_options, max, min};
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType, UInt64Type,
};
use arrow::error::ArrowError;
use arrow::util::display::array_value_to_string;
use dovetail_model::{ColumnType, EpochUnit, calendar_days, calendar_instants};

use crate::decode::column::{CALENDAR_US, epoch_scale};
use crate::decode::fault::{Kind, excerpt, out_of_range};

const DAY_MS: i64 = 86_400_000;
const DAY_US: i64 = 86_400_000_000;

/// Casts `array` to the type of a column that is neither STRUCT nor LIST; none if there is no such cast.
pub(super) fn convert(
    array: &ArrayRef,
    to: &ColumnType,
    epoch: Option<EpochUnit>,
) -> Result<Option<ArrayRef>, ArrowError> {
    let from = array.data_type();
    Ok(match to {
        ColumnType::Boolean => (from == &DataType::Boolean).then(|| Arc::clone(array)),
        ColumnType::Int => integer::<Int32Type>(array)?,
        ColumnType::BigInt => integer::<Int64Type>(array)?,
        ColumnType::Double => double(array)?,
        ColumnType::Decimal(precision, scale) => decimal(array, *precision, *scale)?,
        ColumnType::Varchar => match from {
            DataType::Utf8 | DataType::LargeUtf8 => Some(cast(array, &DataType::Utf8)?),
            _ => None,
        },
        ColumnType::Date => match from {
            DataType::Date32 => {
                let days = array.as_primitive::<Date32Type>().clone();
                Some(Arc::new(within(days, &calendar_days())))
            }
            DataType::Date64 => {
                let days = |ms: i64| (ms % DAY_MS == 0).then_some(ms / DAY_MS);
                let array = array.as_primitive::<Date64Type>();
                let days = array.unary_opt::<_, Date32Type>(|ms| {
                    days(ms).and_then(|days| i32::try_from(days).ok())
                });
                Some(Arc::new(within(days, &calendar_days())))
            }
            _ => None,
        },
        ColumnType::Timestamp => timestamp(array, epoch)?,
        ColumnType::Struct(_) | ColumnType::List(_) => None,
    })
}

/// Null where the value does not fit.
fn safe_cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    let options = CastOptions {
        safe: true,
        ..CastOptions::default()
    };
    cast_with_options(array, to, &options)
}

fn integer<T>(array: &ArrayRef) -> Result<Option<ArrayRef>, ArrowError>
where
    T: ArrowPrimitiveType,
    T::Native: TryFrom<i64>,
{
    let from = array.data_type();
    if from.is_integer() {
        return safe_cast(array, &T::DATA_TYPE).map(Some);
    }
    if !from.is_floating() {
        return Ok(None);
    }
    let floats = cast(array, &DataType::Float64)?;
    let whole = |v: f64| {
        // 2^63 itself is the first that does not fit; NaN and infinities have no zero fraction.
        let fits = v.fract() == 0.0 && (-(2_f64.powi(63))..2_f64.powi(63)).contains(&v);
        fits.then_some(v as i64)
            .and_then(|v| T::Native::try_from(v).ok())
    };
    let integers = floats
        .as_primitive::<Float64Type>()
        .unary_opt::<_, T>(whole);
    Ok(Some(Arc::new(integers)))
}

fn double(array: &ArrayRef) -> Result<Option<ArrayRef>, ArrowError> {
    let exact: PrimitiveArray<Float64Type> = match array.data_type() {
        DataType::Int64 => array.as_primitive::<Int64Type>().unary_opt(|v| {
            let float = v as f64;
            (float as i128 == i128::from(v)).then_some(float)
        }),
        DataType::UInt64 => array.as_primitive::<UInt64Type>().unary_opt(|v| {
            let float = v as f64;
            (float as i128 == i128::from(v)).then_some(float)
        }),
        from if from.is_integer() || from.is_floating() => {
            return cast(array, &DataType::Float64).map(Some);
        }
        _ => return Ok(None),
    };
    Ok(Some(Arc::new(exact)))
}

fn decimal(array: &ArrayRef, precision: u8, scale: i8) -> Result<Option<ArrayRef>, ArrowError> {
    let (wide, from_scale) = match array.data_type() {
        DataType::Decimal32(_, s)
        | DataType::Decimal64(_, s)
        | DataType::Decimal128(_, s)
        | DataType::Decimal256(_, s) => (safe_cast(array, &DataType::Decimal128(38, *s))?, *s),
        from if from.is_integer() => (safe_cast(array, &DataType::Decimal128(38, 0))?, 0),
        _ => return Ok(None),
    };
    let limit = 10_i128.pow(u32::from(precision));
    let shift = i32::from(scale) - i32::from(from_scale);
    let factor = 10_i128.checked_pow(shift.unsigned_abs());
    let rescaled = |v: i128| {
        let scaled = match factor {
            _ if v == 0 => Some(0),
            None => None,
            Some(factor) if shift >= 0 => v.checked_mul(factor),
            Some(factor) => (v % factor == 0).then_some(v / factor),
        };
        scaled.filter(|v| v.unsigned_abs() < limit.unsigned_abs())
    };
    let decimals: Decimal128Array = wide
        .as_primitive::<Decimal128Type>()
        .unary_opt::<_, Decimal128Type>(rescaled);
    let decimals = decimals.with_precision_and_scale(precision, scale)?;
    Ok(Some(Arc::new(decimals)))
}

fn timestamp(array: &ArrayRef, epoch: Option<EpochUnit>) -> Result<Option<ArrayRef>, ArrowError> {
    let from = array.data_type();
    let microseconds: TimestampMicrosecondArray = match (from, epoch) {
        // Instants are UTC whatever zone they are shown in.
        (DataType::Timestamp(unit, _), _) => {
            let raw = raw_timestamps(array, *unit);
            in_microseconds(&raw, epoch_unit(*unit))
        }
        (DataType::Date32, _) => array
            .as_primitive::<Date32Type>()
            .unary_opt(|days| i64::from(days).checked_mul(DAY_US)),
        (DataType::Date64, _) => array
            .as_primitive::<Date64Type>()
            .unary_opt(|ms| ms.checked_mul(1_000)),
        (from, Some(unit)) if from.is_integer() => {
            let raw = safe_cast(array, &DataType::Int64)?;
            in_microseconds(raw.as_primitive(), unit)
        }
        _ => return Ok(None),
    };
    Ok(Some(Arc::new(within(microseconds, &CALENDAR_US))))
}

/// Null where the calendar does not have the value. Most columns have none of these, and are handed on as they are.
fn within<T: ArrowNumericType>(
    array: PrimitiveArray<T>,
    calendar: &RangeInclusive<T::Native>,
) -> PrimitiveArray<T>
where
    T::Native: PartialOrd,
{
    let mut ends = [min(&array), max(&array)].into_iter().flatten();
    if ends.all(|end| calendar.contains(&end)) {
        return array;
    }
    array.unary_opt(|value| calendar.contains(&value).then_some(value))
}

fn raw_timestamps(array: &ArrayRef, unit: TimeUnit) -> PrimitiveArray<Int64Type> {
    use arrow::datatypes::{
        TimestampMillisecondType as Milli, TimestampNanosecondType as Nano,
        TimestampSecondType as Second,
    };
    match unit {
        TimeUnit::Second => array.as_primitive::<Second>().reinterpret_cast(),
        TimeUnit::Millisecond => array.as_primitive::<Milli>().reinterpret_cast(),
        TimeUnit::Microsecond => array
            .as_primitive::<TimestampMicrosecondType>()
            .reinterpret_cast(),
        TimeUnit::Nanosecond => array.as_primitive::<Nano>().reinterpret_cast(),
    }
}

fn epoch_unit(unit: TimeUnit) -> EpochUnit {
    match unit {
        TimeUnit::Second => EpochUnit::Second,
        TimeUnit::Millisecond => EpochUnit::Millisecond,
        TimeUnit::Microsecond => EpochUnit::Microsecond,
        TimeUnit::Nanosecond => EpochUnit::Nanosecond,
    }
}

fn in_microseconds(raw: &PrimitiveArray<Int64Type>, unit: EpochUnit) -> TimestampMicrosecondArray {
    match unit {
        EpochUnit::Second => raw.unary_opt(|v| v.checked_mul(1_000_000)),
        EpochUnit::Millisecond => raw.unary_opt(|v| v.checked_mul(1_000)),
        EpochUnit::Microsecond => raw.reinterpret_cast(),
        EpochUnit::Nanosecond => raw.unary_opt(|v| (v % 1_000 == 0).then_some(v / 1_000)),
    }
}

/// Bytes of text that `array` stands for once nothing is shared any more.
pub(super) fn text_bytes(array: &ArrayRef) -> usize {
    if let Some(views) = array.as_string_view_opt() {
        return views.iter().flatten().map(str::len).sum();
    }
    let Some(dictionary) = array.as_any_dictionary_opt() else {
        return 0;
    };
    let int64 = |array: &dyn Array| cast(array, &DataType::Int64).ok();
    let lengths = length(dictionary.values()).ok().and_then(|a| int64(&a));
    let (Some(lengths), Some(keys)) = (lengths, int64(dictionary.keys())) else {
        return 0;
    };
    let lengths = lengths.as_primitive::<Int64Type>();
    keys.as_primitive::<Int64Type>()
        .iter()
        .flatten()
        .filter_map(|key| lengths.values().get(usize::try_from(key).ok()?))
        .filter_map(|length| usize::try_from(*length).ok())
        .fold(0, usize::saturating_add)
}

/// Why the value at `index` could not be kept.
pub(super) fn loss(from: &ArrayRef, index: usize, kind: Kind, epoch: Option<EpochUnit>) -> String {
    if matches!(kind, Kind::Date | Kind::Timestamp)
        && let Some(number) = outside_calendar(from, index, epoch)
    {
        return out_of_range(&number, kind);
    }
    let value = array_value_to_string(from, index).unwrap_or_default();
    let value = excerpt(value.as_bytes());
    format!("`{value}` cannot be {} {kind} without loss", kind.article())
}

/// The number that the value at `index` is, if the calendar does not have it.
fn outside_calendar(from: &ArrayRef, index: usize, epoch: Option<EpochUnit>) -> Option<String> {
    let (number, unit) = match from.data_type() {
        DataType::Date32 => {
            let days = from.as_primitive::<Date32Type>().value(index);
            return (!calendar_days().contains(&days)).then(|| days.to_string());
        }
        DataType::Date64 => {
            let ms = from.as_primitive::<Date64Type>().value(index);
            (Some(ms), EpochUnit::Millisecond)
        }
        DataType::Timestamp(unit, _) => {
            let raw = raw_timestamps(from, *unit);
            (Some(raw.value(index)), epoch_unit(*unit))
        }
        integer if integer.is_integer() => {
            let number = safe_cast(&from.slice(index, 1), &DataType::Int64).ok()?;
            let number = number.as_primitive::<Int64Type>().iter().next()?;
            (number, epoch?)
        }
        _ => return None,
    };
    let per_second =
        10_i64.pow((epoch_scale(EpochUnit::Second) - epoch_scale(unit)).unsigned_abs());
    match number {
        Some(number) if calendar_instants(per_second).contains(&number) => None,
        Some(number) => Some(number.to_string()),
        // More than a BIGINT holds.
        None => array_value_to_string(from, index).ok(),
    }
}
