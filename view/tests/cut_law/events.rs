// SPDX-License-Identifier: Apache-2.0
//! Streams and events. Values come from small pools, so that groups repeat and the odd values (NULL, -0.0,
//! NaN, infinities, extremes, empty strings and lists) turn up in every case.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array,
    ListArray, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field};
use dovetail_model::{Column, ColumnType, EventTime, StreamSchema, UnknownColumns};

use crate::draw::Draw;

/// Most columns that a stream of a test has: one byte of each row for each.
pub(crate) const MAX_COLUMNS: usize = 8;

fn simple_types() -> Vec<ColumnType> {
    vec![
        ColumnType::Int,
        ColumnType::Varchar,
        ColumnType::Timestamp,
        ColumnType::Double,
        ColumnType::BigInt,
        ColumnType::Boolean,
        ColumnType::Decimal(10, 2),
        ColumnType::Date,
    ]
}

fn draw_type(draw: &mut Draw) -> ColumnType {
    let simple = simple_types();
    if draw.one_in(16) {
        return ColumnType::Decimal(38, 2);
    }
    if !draw.one_in(5) {
        return draw.one_of(&simple);
    }
    if draw.one_in(2) {
        ColumnType::List(Box::new(draw.one_of(&simple)))
    } else {
        struct_of(&[draw.one_of(&simple), draw.one_of(&simple)])
    }
}

fn struct_of(types: &[ColumnType]) -> ColumnType {
    let fields = types.iter().enumerate().map(|(index, column_type)| Column {
        name: format!("f{index}"),
        column_type: column_type.clone(),
        nullable: true,
    });
    ColumnType::Struct(fields.collect())
}

fn stream_of(types: Vec<(ColumnType, bool)>, event_time: Option<usize>) -> StreamSchema {
    let name = |index: usize| format!("c{index}");
    StreamSchema {
        event_time: event_time.map(|index| EventTime {
            column: name(index),
            epoch: None,
        }),
        columns: types
            .into_iter()
            .enumerate()
            .map(|(index, (column_type, nullable))| Column {
                name: name(index),
                column_type,
                nullable,
            })
            .collect(),
        unknown_columns: UnknownColumns::Ignore,
    }
}

/// A stream of one to eight columns of any types.
pub(crate) fn draw_stream(draw: &mut Draw) -> StreamSchema {
    let types: Vec<(ColumnType, bool)> = (0..=draw.below(MAX_COLUMNS))
        .map(|_| (draw_type(draw), !draw.one_in(3)))
        .collect();
    let times: Vec<usize> = (0..types.len())
        .filter(|index| matches!(types[*index].0, ColumnType::Timestamp | ColumnType::Date))
        .collect();
    let event_time = if times.is_empty() || draw.one_in(4) {
        None
    } else {
        Some(draw.one_of(&times))
    };
    stream_of(types, event_time)
}

/// A stream with a nullable column of every simple type, `c0` to `c7`; `c2` is the event time.
pub(crate) fn every_type() -> StreamSchema {
    let types = simple_types().into_iter().map(|t| (t, true)).collect();
    stream_of(types, Some(2))
}

/// A stream of nested columns and numbers: `c0` a list of doubles, `c1` an INT, `c2` a struct of a double
/// and a list, `c3` a DOUBLE. There is no event time.
pub(crate) fn nested() -> StreamSchema {
    let list = ColumnType::List(Box::new(ColumnType::Double));
    let types = [
        list.clone(),
        ColumnType::Int,
        struct_of(&[ColumnType::Double, list]),
        ColumnType::Double,
    ];
    stream_of(types.into_iter().map(|t| (t, true)).collect(), None)
}

/// A stream of numbers that may be large: `c0` an INT, `c1` a BIGINT, `c2` a DECIMAL(38, 2), `c3` a DECIMAL(30, 2).
pub(crate) fn large_numbers() -> StreamSchema {
    let types = [
        ColumnType::Int,
        ColumnType::BigInt,
        ColumnType::Decimal(38, 2),
        ColumnType::Decimal(30, 2),
    ];
    stream_of(types.into_iter().map(|t| (t, true)).collect(), None)
}

/// The events that `rows` stand for, in `StreamSchema::events()`, spread over two partitions.
pub(crate) fn build(stream: &StreamSchema, rows: &[[u8; MAX_COLUMNS]]) -> RecordBatch {
    let mut columns: Vec<ArrayRef> = Vec::new();
    for (index, column) in stream.columns.iter().enumerate() {
        let codes: Vec<u8> = rows.iter().map(|row| row[index]).collect();
        columns.push(values(&column.column_type, column.nullable, &codes));
    }
    let partitions: Vec<i32> = rows.iter().map(|row| i32::from(row[7] % 2)).collect();
    placed(stream, columns, partitions)
}

/// Events of these declared columns, each in its partition.
pub(crate) fn placed(
    stream: &StreamSchema,
    mut columns: Vec<ArrayRef>,
    partitions: Vec<i32>,
) -> RecordBatch {
    let mut next = [0_i64; 2];
    let offsets: Vec<i64> = partitions
        .iter()
        .map(|partition| {
            let offset = &mut next[*partition as usize];
            *offset += 1;
            *offset - 1
        })
        .collect();
    let arrived: Vec<i64> = (0..partitions.len() as i64).collect();
    columns.push(Arc::new(Int32Array::from(partitions)));
    columns.push(Arc::new(Int64Array::from(offsets)));
    columns.push(Arc::new(TimestampMicrosecondArray::from(arrived)));
    RecordBatch::try_new(stream.events(), columns).unwrap()
}

/// One value of the pool for each code; a sixth of them NULL where that is allowed.
fn values(column_type: &ColumnType, nullable: bool, codes: &[u8]) -> ArrayRef {
    let pool = pool(column_type);
    let indices: Int32Array = codes
        .iter()
        .map(|code| {
            let null = nullable && code % 6 == 5;
            (!null).then(|| i32::from(code / 6) % pool.len() as i32)
        })
        .collect();
    take(&pool, &indices, None).unwrap()
}

/// 38 nines.
pub(crate) const GREATEST: i128 = 10_i128.pow(38) - 1;
const HOUR_US: i64 = 3_600_000_000;

fn pool(column_type: &ColumnType) -> ArrayRef {
    match column_type {
        ColumnType::Boolean => Arc::new(BooleanArray::from(vec![true, false])),
        ColumnType::Int => Arc::new(Int32Array::from(vec![1, 2, 0, -7, 3, i32::MAX, i32::MIN])),
        ColumnType::BigInt => Arc::new(Int64Array::from(vec![1, 5, 0, -9, 1 << 53, i64::MAX])),
        ColumnType::Double => Arc::new(Float64Array::from(vec![
            1.5,
            0.0,
            -0.0,
            f64::NAN,
            0.1,
            -2.25,
            1e10,
            f64::INFINITY,
            f64::MIN_POSITIVE,
        ])),
        // Sums of these pass the end of 38 digits as often as not.
        ColumnType::Decimal(38, scale) => Arc::new(
            Decimal128Array::from(vec![100, GREATEST, 0, -GREATEST, -250, GREATEST / 2])
                .with_precision_and_scale(38, *scale)
                .unwrap(),
        ),
        ColumnType::Decimal(precision, scale) => Arc::new(
            Decimal128Array::from(vec![100, 1, 0, -250, 9_999_999_999])
                .with_precision_and_scale(*precision, *scale)
                .unwrap(),
        ),
        ColumnType::Varchar => Arc::new(StringArray::from(vec![
            "a",
            "b",
            "",
            "Zürich",
            "a longer string that no view array would inline",
        ])),
        ColumnType::Date => Arc::new(Date32Array::from(vec![0, 1, -1, 11_000])),
        ColumnType::Timestamp => Arc::new(TimestampMicrosecondArray::from(vec![
            0,
            1,
            -1,
            HOUR_US,
            HOUR_US + 1,
            30 * HOUR_US,
        ])),
        ColumnType::List(item) => list_pool(item),
        ColumnType::Struct(fields) => struct_pool(column_type, fields),
    }
}

fn list_pool(item: &ColumnType) -> ArrayRef {
    let items = pool(item);
    let field = Arc::new(Field::new("element", items.data_type().clone(), true));
    let values = some_and_null(&items);
    let lengths = arrow::buffer::OffsetBuffer::from_lengths([1, 0, 2, 1]);
    Arc::new(ListArray::new(field, lengths, values, None))
}

/// Four values: of doubles, 0.0, -0.0, NULL and NaN.
fn some_and_null(items: &ArrayRef) -> ArrayRef {
    let last = items.len() as i32 - 1;
    let indices = Int32Array::from(vec![Some(1), Some(last.min(2)), None, Some(last.min(3))]);
    take(items, &indices, None).unwrap()
}

fn struct_pool(column_type: &ColumnType, fields: &[Column]) -> ArrayRef {
    let DataType::Struct(arrow_fields) = column_type.to_arrow() else {
        unreachable!("a struct's Arrow type is a struct")
    };
    let columns: Vec<ArrayRef> = fields
        .iter()
        .map(|field| some_and_null(&pool(&field.column_type)))
        .collect();
    Arc::new(StructArray::new(arrow_fields, columns, None))
}
