// SPDX-License-Identifier: Apache-2.0
//! Arrow streams of other writers' types.

use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Fields, Int8Type, Schema, TimeUnit};
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use dovetail_model::{ColumnType, EpochUnit, ProblemKind, StreamSchema, calendar_days};

use super::cells::{Cell, rows_of};
use super::{column, decode, decode_in_little, rejected, required, schema, strict, with_epoch};
use crate::Format::Arrow;
use crate::decode::OnError;

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<_> = columns
        .iter()
        .map(|(name, array)| Field::new(*name, array.data_type().clone(), true))
        .collect();
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

fn stream(batches: &[RecordBatch]) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(vec![], &batches[0].schema()).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.into_inner().unwrap()
}

/// One column decoded: the good values, and the rows and reasons of the bad ones.
fn one(array: ArrayRef, to: ColumnType) -> (Vec<Cell>, Vec<String>) {
    one_in(array, &schema(vec![column("x", to)]))
}

fn one_in(array: ArrayRef, schema: &StreamSchema) -> (Vec<Cell>, Vec<String>) {
    let body = stream(&[batch(vec![("x", array)])]);
    let decoded = decode(schema, Arrow, body, OnError::DeadLetter).unwrap();
    let good = rows_of(&decoded.events).into_iter().flatten().collect();
    let bad = decoded.dead_letters.iter().map(|l| l.reason.clone());
    (good, bad.collect())
}

fn integers(values: &[i128]) -> Vec<Cell> {
    values.iter().map(|v| Cell::Integer(*v)).collect()
}

#[test]
fn integers_widen_and_narrow_where_they_fit() {
    let (good, bad) = one(Arc::new(UInt8Array::from(vec![0, 255])), ColumnType::Int);
    assert_eq!((good, bad.len()), (integers(&[0, 255]), 0));
    let (good, bad) = one(
        Arc::new(Int64Array::from(vec![1, i64::MAX, -2])),
        ColumnType::Int,
    );
    assert_eq!(good, integers(&[1, -2]));
    assert_eq!(bad, ["`9223372036854775807` cannot be an INT without loss"]);
    let (good, bad) = one(
        Arc::new(UInt64Array::from(vec![7, u64::MAX])),
        ColumnType::BigInt,
    );
    assert_eq!((good, bad.len()), (integers(&[7]), 1));
    let floats = Float64Array::from(vec![1.0, 1.5, f64::NAN, 9.3e18, -0.0, f64::INFINITY]);
    let (good, bad) = one(Arc::new(floats), ColumnType::BigInt);
    assert_eq!((good, bad.len()), (integers(&[1, 0]), 4));
}

#[test]
fn floats_and_decimals_are_exact() {
    let (good, bad) = one(
        Arc::new(Float32Array::from(vec![0.5, f32::NAN])),
        ColumnType::Double,
    );
    assert_eq!(
        (good, bad.len()),
        (vec![Cell::double(0.5), Cell::double(f64::NAN)], 0)
    );
    let large = Int64Array::from(vec![1 << 53, (1 << 53) + 1, i64::MAX]);
    let (good, bad) = one(Arc::new(large), ColumnType::Double);
    assert_eq!(
        (good, bad.len()),
        (vec![Cell::double(9_007_199_254_740_992.0)], 2)
    );
    let decimals = Decimal128Array::from(vec![1_500, 1_234, 99_999_990])
        .with_precision_and_scale(10, 3)
        .unwrap();
    let (good, bad) = one(Arc::new(decimals), ColumnType::Decimal(5, 2));
    assert_eq!(good, integers(&[150]));
    assert_eq!(bad[0], "`1.234` cannot be a DECIMAL(5, 2) without loss");
    let (good, bad) = one(
        Arc::new(Int32Array::from(vec![5, 1000])),
        ColumnType::Decimal(5, 2),
    );
    assert_eq!((good, bad.len()), (integers(&[500]), 1));
    let wide = Decimal256Array::from(vec![arrow::datatypes::i256::MAX, 12.into()])
        .with_precision_and_scale(76, 1)
        .unwrap();
    let (good, bad) = one(Arc::new(wide), ColumnType::Decimal(38, 2));
    assert_eq!((good, bad.len()), (integers(&[120]), 1));
}

#[test]
fn days_and_instants_are_those_of_the_calendar() {
    let out = |number: i128, kind: &str| {
        format!(
            "`{number}` is out of range for {kind}: the calendar has the years -262143 to 262142"
        )
    };
    let (first, last) = calendar_days().into_inner();
    let days = vec![first, last, first - 1, last + 1, i32::MAX];
    let (good, bad) = one(Arc::new(Date32Array::from(days)), ColumnType::Date);
    assert_eq!(good, integers(&[first.into(), last.into()]));
    let wrong = [i128::from(first) - 1, i128::from(last) + 1, i32::MAX.into()];
    assert_eq!(bad, wrong.map(|number| out(number, "DATE")));
    // A day of milliseconds, and a part of one.
    let ms = vec![i64::MAX / 86_400_000 * 86_400_000, 1];
    let (good, bad) = one(Arc::new(Date64Array::from(ms.clone())), ColumnType::Date);
    assert_eq!((good.len(), &bad[0]), (0, &out(ms[0].into(), "DATE")));
    assert!(bad[1].ends_with("cannot be a DATE without loss"), "{bad:?}");
    let instants: [(ArrayRef, i128); 5] = [
        (Arc::new(Date32Array::from(vec![i32::MIN])), i32::MIN.into()),
        (Arc::new(Date64Array::from(vec![i64::MIN])), i64::MIN.into()),
        (
            Arc::new(TimestampSecondArray::from(vec![i64::MAX])),
            i64::MAX.into(),
        ),
        (
            Arc::new(TimestampMillisecondArray::from(vec![i64::MAX])),
            i64::MAX.into(),
        ),
        (
            Arc::new(TimestampMicrosecondArray::from(vec![i64::MAX])),
            i64::MAX.into(),
        ),
    ];
    for (array, number) in instants {
        let (good, bad) = one(array, ColumnType::Timestamp);
        assert_eq!((good.len(), bad), (0, vec![out(number, "TIMESTAMP")]));
    }
    let columns = vec![column("x", ColumnType::Timestamp)];
    let seconds = with_epoch(schema(columns), "x", EpochUnit::Second);
    let (good, bad) = one_in(Arc::new(UInt64Array::from(vec![1, u64::MAX])), &seconds);
    assert_eq!(good, integers(&[1_000_000]));
    assert_eq!(bad, [out(u64::MAX.into(), "TIMESTAMP")]);
}

#[test]
fn text_of_every_kind() {
    let expected = [Some("a"), None, Some("b")];
    let as_cells = |texts: &[Option<&str>]| -> Vec<Cell> {
        let cell = |t: &Option<&str>| t.map_or(Cell::Null, |t| Cell::Text(t.to_owned()));
        texts.iter().map(cell).collect()
    };
    let dictionary: DictionaryArray<Int8Type> = expected.into_iter().collect();
    let views = Arc::new(StringViewArray::from(vec!["a", "b"]));
    let keys = Int8Array::from(vec![Some(0), None, Some(1)]);
    let of_views = DictionaryArray::try_new(keys, views).unwrap();
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(expected.to_vec())),
        Arc::new(LargeStringArray::from(expected.to_vec())),
        Arc::new(StringViewArray::from(expected.to_vec())),
        Arc::new(dictionary),
        Arc::new(of_views),
    ];
    for array in arrays {
        let kind = array.data_type().to_string();
        let (good, bad) = one(array, ColumnType::Varchar);
        assert_eq!((good, bad.len()), (as_cells(&expected), 0), "{kind}");
    }
    let nulls: ArrayRef = Arc::new(NullArray::new(2));
    assert_eq!(one(nulls, ColumnType::Varchar).0, [Cell::Null, Cell::Null]);
}

#[test]
fn times_of_every_unit() {
    let cases: Vec<(ArrayRef, Vec<i128>, usize)> = vec![
        (
            Arc::new(TimestampSecondArray::from(vec![1, i64::MAX])),
            vec![1_000_000],
            1,
        ),
        (
            Arc::new(TimestampMillisecondArray::from(vec![-1])),
            vec![-1_000],
            0,
        ),
        (
            Arc::new(TimestampNanosecondArray::from(vec![2_000, 1])),
            vec![2],
            1,
        ),
        (
            Arc::new(TimestampMicrosecondArray::from(vec![5]).with_timezone("Europe/Zurich")),
            vec![5],
            0,
        ),
        (
            Arc::new(Date32Array::from(vec![1])),
            vec![86_400_000_000],
            0,
        ),
        (
            Arc::new(Date64Array::from(vec![86_400_001])),
            vec![86_400_001_000],
            0,
        ),
    ];
    for (array, expected, bad) in cases {
        let kind = array.data_type().to_string();
        let (good, reasons) = one(array, ColumnType::Timestamp);
        assert_eq!((good, reasons.len()), (integers(&expected), bad), "{kind}");
    }
    let (good, bad) = one(
        Arc::new(Date64Array::from(vec![86_400_000, 1])),
        ColumnType::Date,
    );
    assert_eq!((good, bad.len()), (integers(&[1]), 1));
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![3]));
    let epoch = with_epoch(
        schema(vec![column("x", ColumnType::Timestamp)]),
        "x",
        EpochUnit::Millisecond,
    );
    assert_eq!(one_in(numbers, &epoch).0, integers(&[3_000]));
}

#[test]
fn not_null_is_checked_on_the_values() {
    let schema = schema(vec![required("x", ColumnType::Int)]);
    // The flag says nullable, but every value is there.
    let (good, bad) = one_in(Arc::new(Int32Array::from(vec![1])), &schema);
    assert_eq!((good, bad.len()), (integers(&[1]), 0));
    let batches = [
        batch(vec![(
            "x",
            Arc::new(Int32Array::from(vec![Some(1), Some(2)])),
        )]),
        batch(vec![(
            "x",
            Arc::new(Int32Array::from(vec![None, Some(4), None])),
        )]),
    ];
    let body = stream(&batches);
    let error = rejected(&schema, Arrow, &body);
    assert_eq!(
        error.to_string(),
        "row 3: column `x`: it is NOT NULL, but the value is null (the first of 2 bad events)"
    );
    assert_eq!(error.problem().members["row"], 3);
    let decoded = decode(&schema, Arrow, &body, OnError::DeadLetter).unwrap();
    assert_eq!(rows_of(&decoded.events).concat(), integers(&[1, 2, 4]));
    assert_eq!(decoded.dead_letters.len(), 2);
}

#[test]
fn nested_columns_match_by_name_and_fault_by_row() {
    let points = ColumnType::List(Box::new(ColumnType::Struct(vec![
        required("x", ColumnType::Int),
        column("y", ColumnType::Varchar),
    ])));
    let to = schema(vec![column("p", points)]);
    let fields: Fields = vec![
        Field::new("z", DataType::Utf8, true),
        Field::new("x", DataType::Int64, true),
    ]
    .into();
    let items = StructArray::new(
        fields.clone(),
        vec![
            Arc::new(StringArray::from(vec!["ignored"; 6])),
            Arc::new(Int64Array::from(vec![
                Some(1),
                Some(2),
                None,
                None,
                None,
                Some(1 << 40),
            ])),
        ],
        Some(NullBuffer::from(vec![true, true, true, true, false, true])),
    );
    let item = Arc::new(Field::new("item", DataType::Struct(fields), true));
    // Row 1: [1, 2]; row 2: a null x; row 3: null, though it spans an item with a null x; row 4: [null];
    // row 5: too large.
    let offsets = OffsetBuffer::new(ScalarBuffer::from(vec![0_i64, 2, 3, 4, 5, 6]));
    let nulls = Some(NullBuffer::from(vec![true, true, false, true, true]));
    let list = LargeListArray::new(item, offsets, Arc::new(items), nulls);
    let body = stream(&[batch(vec![("p", Arc::new(list))])]);
    let decoded = decode(&to, Arrow, &body, OnError::DeadLetter).unwrap();
    let point = |x| Cell::Struct(vec![Cell::Integer(x), Cell::Null]);
    assert_eq!(
        rows_of(&decoded.events).concat(),
        [
            Cell::List(vec![point(1), point(2)]),
            Cell::Null,
            Cell::List(vec![Cell::Null]),
        ]
    );
    assert_eq!(decoded.events.schema(), to.declared());
    let told: Vec<_> = decoded
        .dead_letters
        .iter()
        .map(|l| (l.column.clone().unwrap(), l.reason.clone()))
        .collect();
    assert_eq!(
        told,
        [
            (
                "p[].x".to_owned(),
                "it is NOT NULL, but the value is null".to_owned()
            ),
            (
                "p[].x".to_owned(),
                "`1099511627776` cannot be an INT without loss".to_owned()
            ),
        ]
    );
}

/// Arrow lets arrays carry values that belong to no row; a `NOT NULL` inside says nothing of them.
#[test]
fn values_that_no_row_holds_are_no_fault() {
    let point = ColumnType::Struct(vec![required("x", ColumnType::Int)]);
    let inner = ColumnType::Struct(vec![
        required("l", ColumnType::List(Box::new(point.clone()))),
        required("n", ColumnType::Int),
    ]);
    let to = schema(vec![column("s", inner)]);
    let fields: Fields = vec![Field::new("x", DataType::Int64, true)].into();
    let x = Int64Array::from(vec![None, Some(1), None, None, Some(5), None]);
    let points = StructArray::new(fields, vec![Arc::new(x)], None);
    let item = Arc::new(Field::new("item", points.data_type().clone(), true));
    // An item before the first list and one behind the last; the second list lies below a null struct.
    let offsets = OffsetBuffer::new(ScalarBuffer::from(vec![1, 2, 4, 5]));
    let lists = ListArray::new(item, offsets, Arc::new(points), None);
    let outer: Fields = vec![
        Field::new("l", lists.data_type().clone(), true),
        Field::new("n", DataType::Int32, true),
    ]
    .into();
    let numbers = Int32Array::from(vec![Some(7), None, Some(8)]);
    let nulls = Some(NullBuffer::from(vec![true, false, true]));
    let structs = StructArray::new(outer, vec![Arc::new(lists), Arc::new(numbers)], nulls);
    let body = stream(&[batch(vec![("s", Arc::new(structs))])]);
    let decoded = decode(&to, Arrow, body, OnError::Reject).unwrap();
    let row = |x, n| {
        let list = Cell::List(vec![Cell::Struct(integers(&[x]))]);
        Cell::Struct(vec![list, Cell::Integer(n)])
    };
    let expected = [row(1, 7), Cell::Null, row(5, 8)];
    assert_eq!(rows_of(&decoded.events).concat(), expected);
}

#[test]
fn a_dead_letter_stands_alone_without_its_dictionary() {
    let long = "y".repeat(1 << 20);
    let keys = Int8Array::from(vec![0, 1, 1]);
    let values = Arc::new(StringArray::from(vec![long.as_str(), "b"]));
    let dictionary: ArrayRef = Arc::new(DictionaryArray::try_new(keys, values).unwrap());
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 1 << 40, 3]));
    let to = schema(vec![
        column("d", ColumnType::Varchar),
        column("n", ColumnType::Int),
    ]);
    let body = stream(&[batch(vec![("d", dictionary), ("n", numbers)])]);
    let decoded = decode(&to, Arrow, body, OnError::DeadLetter).unwrap();
    assert_eq!(decoded.events.num_rows(), 2);
    let letter = &decoded.dead_letters[0];
    assert!(letter.bytes.len() < 10_000, "{}", letter.bytes.len());
    let wider = schema(vec![
        column("d", ColumnType::Varchar),
        column("n", ColumnType::BigInt),
    ]);
    let replayed = decode(&wider, Arrow, &letter.bytes, OnError::Reject).unwrap();
    let expected = vec![Cell::Text("b".to_owned()), Cell::Integer(1 << 40)];
    assert_eq!(rows_of(&replayed.events), [expected]);
}

#[test]
fn schemas_that_do_not_fit() {
    let text: ArrayRef = Arc::new(StringArray::from(vec!["1"]));
    let number: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    let to = schema(vec![required("x", ColumnType::Int)]);
    let error = |batch: RecordBatch, to: &StreamSchema| {
        // Also without a single row.
        let empty = rejected(to, Arrow, stream(&[batch.slice(0, 0)])).to_string();
        let full = rejected(to, Arrow, stream(&[batch])).to_string();
        assert_eq!(empty, full);
        full
    };
    assert_eq!(
        error(batch(vec![("x", text.clone())]), &to),
        "column `x`: Utf8 cannot be read as INT without loss"
    );
    assert_eq!(
        error(batch(vec![("y", number.clone())]), &to),
        "column `x`: it is NOT NULL, but the Arrow schema does not have it"
    );
    assert_eq!(
        error(
            batch(vec![("x", number.clone()), ("x", number.clone())]),
            &to
        ),
        "column `x`: the Arrow schema has it twice"
    );
    assert_eq!(
        error(
            batch(vec![("x", number.clone()), ("y", number)]),
            &strict(to)
        ),
        "column `y`: the stream has no such column and refuses unknown ones; leave it out, or add it to the stream"
    );
}

#[test]
fn a_file_is_not_a_stream() {
    let to = schema(vec![column("x", ColumnType::Varchar)]);
    let numbers: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let whole = batch(vec![("x", numbers)]);
    let mut writer = FileWriter::try_new(vec![], &whole.schema()).unwrap();
    writer.write(&whole).unwrap();
    let file = writer.into_inner().unwrap();
    let error = rejected(&to, Arrow, &file).to_string();
    assert!(error.contains("the body is an Arrow file"), "{error}");
    assert!(error.contains("dovetail ingest"), "{error}");
}

#[test]
fn streams_that_are_cut_off_or_too_much() {
    let to = schema(vec![column("x", ColumnType::Varchar)]);
    let numbers: ArrayRef = Arc::new(StringArray::from(vec!["a"; 1000]));
    let whole = batch(vec![("x", numbers)]);
    let body = stream(std::slice::from_ref(&whole));
    let error = rejected(&to, Arrow, &body[..body.len() - 8]).to_string();
    assert!(error.contains("cut off"), "{error}");
    assert!(
        rejected(&to, Arrow, "")
            .to_string()
            .contains("the body is empty")
    );
    let options = IpcWriteOptions::default()
        .try_with_compression(Some(CompressionType::ZSTD))
        .unwrap();
    let mut writer = StreamWriter::try_new_with_options(vec![], &whole.schema(), options).unwrap();
    writer.write(&whole).unwrap();
    let error = rejected(&to, Arrow, writer.into_inner().unwrap());
    assert_eq!(error.kind(), ProblemKind::UnsupportedMedia);
    assert!(
        error.to_string().contains("Content-Encoding: zstd"),
        "{error}"
    );
}

#[test]
fn shared_bytes_cannot_ask_for_much_memory() {
    let to = schema(vec![column("x", ColumnType::Varchar)]);
    let long = "y".repeat(1 << 10);
    let values = Arc::new(StringArray::from(vec![long.as_str()]));
    let keys = Int8Array::from(vec![0; 5_000]);
    let dictionary: ArrayRef = Arc::new(DictionaryArray::try_new(keys, values).unwrap());
    let mut views = StringViewBuilder::new().with_deduplicate_strings();
    for _ in 0..5_000 {
        views.append_value(&long);
    }
    let nulls: ArrayRef = Arc::new(NullArray::new(1 << 30));
    for array in [dictionary, Arc::new(views.finish()), nulls] {
        let body = stream(&[batch(vec![("x", array)])]);
        assert!(body.len() < 200_000);
        let error = decode_in_little(&to, Arrow, body, OnError::Reject).unwrap_err();
        assert_eq!(error.kind(), ProblemKind::TooLarge);
    }
    // Many small batches with one large dictionary, which each of them checks again.
    let values = Arc::new(StringArray::from(vec!["y".repeat(8 << 20)]));
    let keys = Int8Array::from(vec![None; 1]);
    let dictionary: ArrayRef = Arc::new(DictionaryArray::try_new(keys, values).unwrap());
    let batches = vec![batch(vec![("x", dictionary)]); 600];
    let error = rejected(&to, Arrow, stream(&batches)).to_string();
    assert!(error.contains("write larger batches"), "{error}");
}

#[test]
fn a_zone_does_not_move_an_instant() {
    let zoned = DataType::Timestamp(TimeUnit::Second, Some("+05:00".into()));
    let array = TimestampSecondArray::from(vec![60]).with_data_type(zoned);
    assert_eq!(
        one(Arc::new(array), ColumnType::Timestamp).0,
        integers(&[60_000_000])
    );
}

/// A stream of two batches with columns of many types, and a schema that reads them all.
pub(super) fn many_types() -> (StreamSchema, Vec<u8>) {
    let texts = [Some("a"), None, Some("longer than a view holds itself")];
    let dictionary: DictionaryArray<Int8Type> = texts.into_iter().collect();
    let point = Field::new("x", DataType::Int64, true);
    let points = StructArray::new(
        vec![point].into(),
        vec![Arc::new(Int64Array::from(vec![1, 2, 3]))],
        None,
    );
    let item = Arc::new(Field::new("item", points.data_type().clone(), true));
    let offsets = OffsetBuffer::new(ScalarBuffer::from(vec![0, 2, 2, 3]));
    let list = ListArray::new(item, offsets, Arc::new(points), None);
    let decimals = Decimal128Array::from(vec![1, 2, 3]).with_precision_and_scale(9, 2);
    let batch = batch(vec![
        ("d", Arc::new(dictionary)),
        ("v", Arc::new(StringViewArray::from(texts.to_vec()))),
        ("l", Arc::new(list)),
        ("n", Arc::new(decimals.unwrap())),
        (
            "t",
            Arc::new(TimestampNanosecondArray::from(vec![0, 1, 2_000])),
        ),
        ("b", Arc::new(BooleanArray::from(vec![true, false, true]))),
        ("ignored", Arc::new(BinaryArray::from(vec![&b"x"[..]; 3]))),
    ]);
    let x = column("x", ColumnType::Int);
    let schema = schema(vec![
        column("d", ColumnType::Varchar),
        column("v", ColumnType::Varchar),
        column("l", ColumnType::List(Box::new(ColumnType::Struct(vec![x])))),
        column("n", ColumnType::Decimal(9, 3)),
        column("t", ColumnType::Timestamp),
        required("b", ColumnType::Boolean),
    ]);
    let stream = stream(&[batch.clone(), batch]);
    let decoded = decode(&schema, Arrow, &stream, OnError::DeadLetter).unwrap();
    assert_eq!(
        (decoded.events.num_rows(), decoded.dead_letters.len()),
        (4, 2)
    );
    (schema, stream)
}
