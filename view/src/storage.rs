// SPDX-License-Identifier: Apache-2.0
//! The types that may be stored, and the lossless way there and back.
//!
//! Purpose: Delta Lake has no unsigned integers, dictionaries, nanoseconds, intervals or views. A *finished*
//! column gets one of the types that SQL users know ([`surface_type`], by a cast in the select list). A
//! *state* column is a machine's business: its bits are kept and its type is reinterpreted
//! ([`to_stored`], [`from_stored`]).
//! Invariants: `from_stored(to_stored(x)) == x`, bit by bit, for every type [`stored_type`] knows.
//! Non-goals: compression, statistics.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, ListArray, NullArray, PrimitiveArray, StructArray,
    new_null_array,
};
use arrow::buffer::ScalarBuffer;
use arrow::compute::cast;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Decimal128Type, Decimal256Type, Field, FieldRef, Fields,
    Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type, i256,
};
use arrow::error::ArrowError;

/// Name of the items of a list, as Delta and Parquet have it.
const ELEMENT: &str = "element";

/// The type that a finished column of `data_type` gets: one that a stream could declare, or binary. None
/// if there is no such type that holds every value.
pub(crate) fn surface_type(data_type: &DataType) -> Option<DataType> {
    let surface = match data_type {
        DataType::Boolean
        | DataType::Int32
        | DataType::Int64
        | DataType::Float64
        | DataType::Utf8
        | DataType::Binary
        | DataType::Date32
        | DataType::Timestamp(TimeUnit::Microsecond, None)
        | DataType::Decimal128(_, _) => data_type.clone(),
        DataType::Int8 | DataType::Int16 | DataType::UInt8 | DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 | DataType::Float32 => DataType::Float64,
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Timestamp(TimeUnit::Second | TimeUnit::Millisecond, None) => {
            DataType::Timestamp(TimeUnit::Microsecond, None)
        }
        DataType::Dictionary(_, value) => surface_type(value)?,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::FixedSizeList(item, _) => {
            DataType::List(element(surface_type(item.data_type())?))
        }
        DataType::Struct(fields) if !fields.is_empty() => {
            let fields: Option<Vec<Field>> = fields
                .iter()
                .map(|field| {
                    let data_type = surface_type(field.data_type())?;
                    Some(Field::new(field.name(), data_type, field.is_nullable()))
                })
                .collect();
            DataType::Struct(fields?.into())
        }
        _ => return None,
    };
    Some(surface)
}

fn element(data_type: DataType) -> FieldRef {
    Arc::new(Field::new(ELEMENT, data_type, true))
}

/// The type in which a state column of `data_type` is stored; none if it cannot be.
pub(crate) fn stored_type(data_type: &DataType) -> Option<DataType> {
    let stored = match data_type {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::Binary
        | DataType::Date32
        | DataType::Timestamp(TimeUnit::Microsecond, None)
        | DataType::Decimal128(_, _) => data_type.clone(),
        DataType::UInt8 => DataType::Int8,
        DataType::UInt16 => DataType::Int16,
        DataType::UInt32 => DataType::Int32,
        DataType::UInt64
        | DataType::Date64
        | DataType::Time64(_)
        | DataType::Timestamp(_, _)
        | DataType::Duration(_) => DataType::Int64,
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary | DataType::Decimal256(_, _) => {
            DataType::Binary
        }
        DataType::Null => DataType::Boolean,
        DataType::List(item) => DataType::List(element(stored_type(item.data_type())?)),
        DataType::Struct(fields) if !fields.is_empty() => {
            let fields: Option<Vec<Field>> = fields
                .iter()
                .enumerate()
                .map(|(index, field)| {
                    let data_type = stored_type(field.data_type())?;
                    // Named by position: an engine's names may repeat or hold what Delta refuses.
                    Some(Field::new(format!("f{index}"), data_type, true))
                })
                .collect();
            DataType::Struct(fields?.into())
        }
        _ => return None,
    };
    Some(stored)
}

/// The same values in [`stored_type`].
///
/// # Errors
/// When the type cannot be stored.
pub(crate) fn to_stored(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let data_type = array.data_type();
    let stored = stored_type(data_type).ok_or_else(|| {
        ArrowError::NotYetImplemented(format!("a state of type {data_type} cannot be stored"))
    })?;
    Ok(match (data_type, &stored) {
        (from, to) if from == to => Arc::clone(array),
        (DataType::UInt8, _) => reinterpret::<UInt8Type, Int8Type>(array),
        (DataType::UInt16, _) => reinterpret::<UInt16Type, Int16Type>(array),
        (DataType::UInt32, _) => reinterpret::<UInt32Type, Int32Type>(array),
        (DataType::UInt64, _) => reinterpret::<UInt64Type, Int64Type>(array),
        (DataType::Decimal256(_, _), _) => bytes_of_decimals(array),
        (DataType::Null, _) => new_null_array(&stored, array.len()),
        (DataType::List(_), DataType::List(item)) => {
            let list = array.as_list::<i32>();
            let values = to_stored(list.values())?;
            Arc::new(ListArray::try_new(
                Arc::clone(item),
                list.offsets().clone(),
                values,
                list.nulls().cloned(),
            )?)
        }
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let structs = array.as_struct();
            let columns: Result<Vec<ArrayRef>, ArrowError> =
                structs.columns().iter().map(to_stored).collect();
            Arc::new(StructArray::try_new(
                fields.clone(),
                columns?,
                structs.nulls().cloned(),
            )?)
        }
        // Views, large strings, and numbers of microseconds and the like: the same bytes, another name.
        (_, to) => cast(array, to)?,
    })
}

/// The values of a [`to_stored`] array in their own type again.
///
/// # Errors
/// When the array is not of the stored type that belongs to `data_type`.
pub(crate) fn from_stored(array: &ArrayRef, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
    let mismatch = || {
        ArrowError::SchemaError(format!(
            "a state of type {data_type} cannot be read from {}",
            array.data_type()
        ))
    };
    Ok(match (data_type, array.data_type()) {
        (to, from) if from == to => Arc::clone(array),
        (DataType::UInt8, DataType::Int8) => reinterpret::<Int8Type, UInt8Type>(array),
        (DataType::UInt16, DataType::Int16) => reinterpret::<Int16Type, UInt16Type>(array),
        (DataType::UInt32, DataType::Int32) => reinterpret::<Int32Type, UInt32Type>(array),
        (DataType::UInt64, DataType::Int64) => reinterpret::<Int64Type, UInt64Type>(array),
        (DataType::Decimal256(_, _), DataType::Binary) => decimals_of_bytes(array, data_type)?,
        (DataType::Null, DataType::Boolean) => Arc::new(NullArray::new(array.len())),
        (DataType::List(item), DataType::List(_)) => {
            let list = array.as_list::<i32>();
            let values = from_stored(list.values(), item.data_type())?;
            Arc::new(ListArray::try_new(
                Arc::clone(item),
                list.offsets().clone(),
                values,
                list.nulls().cloned(),
            )?)
        }
        (DataType::Struct(fields), DataType::Struct(stored)) if fields.len() == stored.len() => {
            Arc::new(struct_from_stored(array.as_struct(), fields)?)
        }
        (to, from) if stored_type(to).as_ref() == Some(from) => cast(array, to)?,
        _ => return Err(mismatch()),
    })
}

/// Numbers of 256 bits, big-endian, without the leading bytes that only repeat the sign: few are that large.
fn bytes_of_decimals(array: &ArrayRef) -> ArrayRef {
    let numbers = array.as_primitive::<Decimal256Type>();
    let mut stored = BinaryBuilder::with_capacity(numbers.len(), numbers.len() * 16);
    for number in numbers {
        let Some(number) = number else {
            stored.append_null();
            continue;
        };
        let bytes = number.to_be_bytes();
        let sign = if number.is_negative() { u8::MAX } else { 0 };
        let repeats = |pair: &&[u8]| pair[0] == sign && (pair[0] ^ pair[1]) < 0x80;
        let redundant = bytes.windows(2).take_while(repeats).count();
        stored.append_value(&bytes[redundant..]);
    }
    Arc::new(stored.finish())
}

fn decimals_of_bytes(array: &ArrayRef, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
    let number = |stored: &[u8]| {
        let sign = stored
            .first()
            .map(|first| if *first < 0x80 { 0 } else { u8::MAX });
        let mut bytes = [sign.unwrap_or_default(); 32];
        let first = bytes
            .len()
            .checked_sub(stored.len())
            .filter(|_| sign.is_some());
        let first = first.ok_or_else(|| {
            ArrowError::ParseError(format!("a number of {} bytes is none", stored.len()))
        })?;
        bytes[first..].copy_from_slice(stored);
        Ok(i256::from_be_bytes(bytes))
    };
    let stored = array.as_binary::<i32>();
    let numbers: Result<PrimitiveArray<Decimal256Type>, ArrowError> = stored
        .iter()
        .map(|stored| stored.map(number).transpose())
        .collect();
    Ok(Arc::new(numbers?.with_data_type(data_type.clone())))
}

/// Whether [`widened`] leads from one type to the other: it is the same, or a DECIMAL that holds every value.
pub(crate) fn widens(narrow: &DataType, wide: &DataType) -> bool {
    match (narrow, wide) {
        (DataType::Int64, DataType::Decimal128(38, 0)) => true,
        (
            DataType::Decimal128(_, scale),
            DataType::Decimal128(38, wide) | DataType::Decimal256(76, wide),
        ) => scale == wide,
        (narrow, wide) => narrow == wide,
    }
}

/// The same values in a type that [`widens`] theirs.
///
/// # Errors
/// When it does not.
pub(crate) fn widened(array: &ArrayRef, wide: &DataType) -> Result<ArrayRef, ArrowError> {
    Ok(match (array.data_type(), wide) {
        (narrow, wide) if narrow == wide => Arc::clone(array),
        (DataType::Int64, DataType::Decimal128(38, 0)) => {
            let numbers: PrimitiveArray<Decimal128Type> =
                array.as_primitive::<Int64Type>().unary(i128::from);
            Arc::new(numbers.with_data_type(wide.clone()))
        }
        (DataType::Decimal128(_, _), DataType::Decimal128(_, _))
            if widens(array.data_type(), wide) =>
        {
            let numbers = array.as_primitive::<Decimal128Type>().clone();
            Arc::new(numbers.with_data_type(wide.clone()))
        }
        (DataType::Decimal128(_, _), DataType::Decimal256(_, _))
            if widens(array.data_type(), wide) =>
        {
            let numbers: PrimitiveArray<Decimal256Type> = array
                .as_primitive::<Decimal128Type>()
                .unary(i256::from_i128);
            Arc::new(numbers.with_data_type(wide.clone()))
        }
        (narrow, wide) => {
            return Err(ArrowError::SchemaError(format!(
                "a state of type {wide} cannot be read from {narrow}"
            )));
        }
    })
}

fn struct_from_stored(structs: &StructArray, fields: &Fields) -> Result<StructArray, ArrowError> {
    let columns: Result<Vec<ArrayRef>, ArrowError> = structs
        .columns()
        .iter()
        .zip(fields)
        .map(|(column, field)| from_stored(column, field.data_type()))
        .collect();
    StructArray::try_new(fields.clone(), columns?, structs.nulls().cloned())
}

/// The same bits under a type of the same width.
fn reinterpret<From, To>(array: &ArrayRef) -> ArrayRef
where
    From: ArrowPrimitiveType,
    To: ArrowPrimitiveType,
{
    let array: &PrimitiveArray<From> = array.as_primitive();
    let bits = ScalarBuffer::<To::Native>::from(array.values().inner().clone());
    Arc::new(PrimitiveArray::<To>::new(bits, array.nulls().cloned()))
}

#[cfg(test)]
mod tests;
