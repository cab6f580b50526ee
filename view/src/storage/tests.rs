// SPDX-License-Identifier: Apache-2.0
use arrow::array::{
    BinaryViewArray, BooleanArray, Decimal128Array, Decimal256Array, DurationMicrosecondArray,
    Float64Array, Int32Array, Int64Array, StringArray, StringViewArray, TimestampNanosecondArray,
    UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use proptest::prelude::*;

use super::*;

/// Any array of one of the types that states have, nested up to twice.
fn array() -> impl Strategy<Value = ArrayRef> {
    flat().prop_flat_map(|flat| {
        prop_oneof![
            3 => Just(Arc::clone(&flat)),
            1 => Just(list_of(&flat)),
            1 => Just(struct_of(&flat)),
            1 => Just(list_of(&struct_of(&flat))),
            1 => Just(struct_of(&list_of(&flat))),
        ]
    })
}

fn flat() -> impl Strategy<Value = ArrayRef> {
    let numbers = proptest::collection::vec(proptest::option::of(any::<u64>()), 0..20);
    (numbers, 0..16_usize).prop_map(|(numbers, kind)| flat_of(&numbers, kind))
}

fn flat_of(numbers: &[Option<u64>], kind: usize) -> ArrayRef {
    let numbers = || numbers.iter().copied();
    match kind {
        0 => Arc::new(numbers().collect::<UInt64Array>()),
        1 => Arc::new(
            numbers()
                .map(|n| n.map(|n| n as u32))
                .collect::<UInt32Array>(),
        ),
        2 => Arc::new(
            numbers()
                .map(|n| n.map(|n| n as u16))
                .collect::<UInt16Array>(),
        ),
        3 => Arc::new(
            numbers()
                .map(|n| n.map(|n| n as u8))
                .collect::<UInt8Array>(),
        ),
        4 => Arc::new(
            numbers()
                .map(|n| n.map(f64::from_bits))
                .collect::<Float64Array>(),
        ),
        5 => Arc::new(
            numbers()
                .map(|n| n.map(|n| n as i32))
                .collect::<Int32Array>(),
        ),
        6 => Arc::new(
            numbers()
                .map(|n| n.map(|n| n % 2 == 0))
                .collect::<BooleanArray>(),
        ),
        7 => Arc::new(
            numbers()
                .map(|n| n.map(|n| n.to_string()))
                .collect::<StringArray>(),
        ),
        8 => Arc::new(
            numbers()
                .map(|n| n.map(|n| n.to_string()))
                .collect::<StringViewArray>(),
        ),
        9 => Arc::new(
            numbers()
                .map(|n| n.map(|n| n as i64))
                .collect::<TimestampNanosecondArray>(),
        ),
        10 => Arc::new(
            numbers()
                .map(|n| n.map(|n| n as i64))
                .collect::<DurationMicrosecondArray>(),
        ),
        11 => Arc::new(
            numbers()
                .map(|n| n.map(i128::from))
                .collect::<Decimal128Array>(),
        ),
        12 => Arc::new(BinaryViewArray::from_iter(
            numbers().map(|n| n.map(u64::to_le_bytes)),
        )),
        13 => Arc::new(NullArray::new(numbers().count())),
        14 => Arc::new(
            numbers()
                .map(|n| n.map(wide_number))
                .collect::<Decimal256Array>(),
        ),
        _ => Arc::new(
            numbers()
                .map(|n| n.map(|n| n as i64))
                .collect::<arrow::array::Time64NanosecondArray>(),
        ),
    }
}

/// Numbers of one, of eight and of all 32 bytes, of both signs.
fn wide_number(n: u64) -> i256 {
    match n % 3 {
        0 => i256::from((n >> 8) as i8),
        1 => i256::from(n as i64),
        _ => i256::from_parts(u128::from(n), i128::from(n as i64) << 64),
    }
}

/// Lists of two, none and all the other items; the last but one is NULL. The field is an engine's.
fn list_of(items: &ArrayRef) -> ArrayRef {
    let some = items.len().min(2);
    let lengths = [some, 0, 0, items.len() - some];
    let field = Arc::new(Field::new("item", items.data_type().clone(), true));
    let nulls = NullBuffer::from(vec![true, true, false, true]);
    Arc::new(ListArray::new(
        field,
        OffsetBuffer::from_lengths(lengths),
        Arc::clone(items),
        Some(nulls),
    ))
}

/// Structs of the items twice, under one name that Delta would refuse.
fn struct_of(items: &ArrayRef) -> ArrayRef {
    let field = Field::new("s.x DESC NULLS FIRST", items.data_type().clone(), true);
    let fields = Fields::from(vec![field.clone(), field]);
    Arc::new(StructArray::new(
        fields,
        vec![Arc::clone(items), Arc::clone(items)],
        None,
    ))
}

/// Whether Delta Lake has the type and its names.
fn is_delta(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) => item.name() == ELEMENT && is_delta(item.data_type()),
        DataType::Struct(fields) => {
            let named: std::collections::HashSet<&String> =
                fields.iter().map(|f| f.name()).collect();
            let plain = |f: &FieldRef| f.name().chars().all(|c| c.is_ascii_alphanumeric());
            named.len() == fields.len()
                && fields.iter().all(|f| plain(f) && is_delta(f.data_type()))
        }
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
        | DataType::Decimal128(_, _) => true,
        _ => false,
    }
}

proptest! {
    #[test]
    fn stored_states_come_back_bit_by_bit_and_are_deltas(array in array(), from in 0..4_usize) {
        // A slice, as states are that one buffer of a file holds.
        let array = array.slice(from.min(array.len()), array.len() - from.min(array.len()));
        let stored = to_stored(&array).unwrap();
        prop_assert!(is_delta(stored.data_type()), "{}", stored.data_type());
        prop_assert_eq!(Some(stored.data_type().clone()), stored_type(array.data_type()));
        let back = from_stored(&stored, array.data_type()).unwrap();
        prop_assert_eq!(back.data_type(), array.data_type());
        // Of the data, not the arrays: floats are then compared by their bits.
        prop_assert!(back.to_data() == array.to_data());
        if stored.data_type() != array.data_type() {
            let wrong = from_stored(&(Arc::new(Float64Array::from(vec![1.0])) as ArrayRef), array.data_type());
            prop_assert!(wrong.is_err() || array.data_type() == &DataType::Float64);
        }
    }
}

#[test]
fn finished_types_hold_every_value_or_there_is_none() {
    let surface = |data_type: DataType| surface_type(&data_type);
    assert_eq!(surface(DataType::UInt64), Some(DataType::Decimal128(20, 0)));
    assert_eq!(surface(DataType::UInt32), Some(DataType::Int64));
    assert_eq!(surface(DataType::Utf8View), Some(DataType::Utf8));
    assert_eq!(
        surface(DataType::Timestamp(TimeUnit::Nanosecond, None)),
        None
    );
    assert_eq!(
        surface(DataType::Timestamp(
            TimeUnit::Microsecond,
            Some("UTC".into())
        )),
        None
    );
    assert_eq!(surface(DataType::Null), None);
    let all = UInt64Array::from(vec![u64::MAX, 0]);
    let cast = cast(&all, &DataType::Decimal128(20, 0)).unwrap();
    let values = cast.as_primitive::<arrow::datatypes::Decimal128Type>();
    assert_eq!(values.values().to_vec(), vec![i128::from(u64::MAX), 0]);
}

#[test]
fn a_narrower_number_becomes_a_state_only_where_it_stays_the_same() {
    let bigints: ArrayRef = Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(7)]));
    let (min, seven) = (i128::from(i64::MIN), 7);
    let wide = widened(&bigints, &DataType::Decimal128(38, 0)).unwrap();
    let wide: Vec<Option<i128>> = wide.as_primitive::<Decimal128Type>().iter().collect();
    assert_eq!(wide, [Some(min), None, Some(seven)]);

    let decimals = Decimal128Array::from(vec![Some(min), None, Some(seven)]);
    let decimals: ArrayRef = Arc::new(decimals.with_precision_and_scale(29, 2).unwrap());
    for wide in [DataType::Decimal128(38, 2), DataType::Decimal256(76, 2)] {
        assert!(widens(decimals.data_type(), &wide));
        let widened = widened(&decimals, &wide).unwrap();
        assert_eq!(widened.data_type(), &wide);
        assert_eq!(
            cast(&widened, decimals.data_type()).unwrap().as_ref(),
            decimals.as_ref()
        );
    }
    for other in [
        DataType::Decimal128(38, 0),
        DataType::Decimal256(76, 3),
        DataType::Int64,
    ] {
        assert!(!widens(decimals.data_type(), &other));
        assert!(widened(&decimals, &other).is_err());
    }
}
