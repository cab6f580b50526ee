// SPDX-License-Identifier: Apache-2.0
//! Typed columns under construction. Text decoders write into them value by value; a bad event is taken
//! back by cutting every column to the rows before it.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, BooleanBufferBuilder, Date32Array, Decimal128Array, Float64Array,
    Int32Array, Int64Array, ListArray, NullBufferBuilder, StringArray, StructArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{Field, Fields};
use arrow::error::ArrowError;
use dovetail_model::{Column as Declared, ColumnType, EpochUnit, calendar_instants};

use super::fault::{Kind, Outcome, What, fault};
use super::number::Unfit;

/// The values of a column; nulls hold a place in them.
pub(super) enum Values {
    Boolean(BooleanBufferBuilder),
    Int(Vec<i32>),
    BigInt(Vec<i64>),
    Double(Vec<f64>),
    Decimal {
        values: Vec<i128>,
        precision: u8,
        scale: i8,
    },
    /// Offsets as Arrow has them: the first is 0, then the end of each value.
    Varchar {
        offsets: Vec<i32>,
        bytes: Vec<u8>,
    },
    Date(Vec<i32>),
    Timestamp {
        values: Vec<i64>,
        epoch: Option<EpochUnit>,
    },
    Struct(Row),
    List {
        offsets: Vec<i32>,
        item: Box<Column>,
    },
}

/// A column under construction.
pub(super) struct Column {
    kind: Kind,
    pub(super) values: Values,
    validity: NullBufferBuilder,
    /// What a value takes in memory, apart from text and items of lists.
    width: usize,
}

/// A column with its name.
pub(super) struct NamedColumn {
    pub(super) name: Arc<str>,
    /// `"name":` as compact JSON writes it, unless the name needs an escape.
    pub(super) compact_key: Option<Box<[u8]>>,
    pub(super) nullable: bool,
    pub(super) column: Column,
}

/// The columns of an event, or of a struct.
pub(super) struct Row {
    pub(super) columns: Vec<NamedColumn>,
    fields: Fields,
    width: usize,
    /// Where each name stands, if there are too many to look through.
    places: HashMap<Box<[u8]>, usize>,
}

/// Fewer columns than this are looked through one by one.
const MANY_COLUMNS: usize = 16;

impl Row {
    /// Empty columns as declared; `epoch` is the unit of the top-level column that it names.
    pub(super) fn new(declared: &[Declared], epoch: Option<(&str, EpochUnit)>) -> Self {
        let columns: Vec<_> = declared
            .iter()
            .map(|column| {
                let unit = epoch.and_then(|(name, unit)| (name == column.name).then_some(unit));
                NamedColumn {
                    name: column.name.as_str().into(),
                    compact_key: compact_key(&column.name),
                    nullable: column.nullable,
                    column: Column::new(&column.column_type, unit),
                }
            })
            .collect();
        let places = if columns.len() < MANY_COLUMNS {
            HashMap::new()
        } else {
            let name = |c: &NamedColumn| Box::from(c.name.as_bytes());
            columns.iter().map(name).zip(0..).collect()
        };
        Self {
            places,
            fields: declared.iter().map(Declared::to_arrow).collect(),
            width: columns.iter().map(|c| c.column.width).sum(),
            columns,
        }
    }

    /// What a row takes in memory, apart from text and items of lists.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Rows so far, of which every column has a value.
    pub(super) fn len(&self) -> usize {
        self.columns.first().map_or(0, |named| named.column.len())
    }

    /// The place of the column named `name`; `guess` is tried first.
    #[inline]
    pub(super) fn find(&self, name: &[u8], guess: usize) -> Option<usize> {
        let is = |column: &NamedColumn| column.name.as_bytes() == name;
        if self.columns.get(guess).is_some_and(is) {
            return Some(guess);
        }
        if self.columns.len() < MANY_COLUMNS {
            return self.columns.iter().position(is);
        }
        self.places.get(name).copied()
    }

    /// Completes row `row`: null for every column that got no value.
    pub(super) fn fill(&mut self, row: usize) -> Outcome<()> {
        for named in &mut self.columns {
            if named.column.len() == row {
                if !named.nullable {
                    return missing(&named.name);
                }
                named.column.push_null();
            }
        }
        Ok(())
    }

    fn push_null(&mut self) {
        for named in &mut self.columns {
            named.column.push_null();
        }
    }

    pub(super) fn truncate(&mut self, rows: usize) {
        for named in &mut self.columns {
            named.column.truncate(rows);
        }
    }

    pub(super) fn reserve(&mut self, rows: usize) {
        for named in &mut self.columns {
            named.column.reserve(rows);
        }
    }

    pub(super) fn finish(self) -> Result<Vec<ArrayRef>, ArrowError> {
        self.columns
            .into_iter()
            .map(|named| named.column.finish())
            .collect()
    }
}

#[cold]
fn missing(name: &Arc<str>) -> Outcome<()> {
    fault(What::Missing, 0..0).map_err(|f| f.under(name))
}

/// None for a name whose JSON needs an escape: the general path finds such a key.
fn compact_key(name: &str) -> Option<Box<[u8]>> {
    let plain = name.chars().all(|c| c >= ' ' && c != '"' && c != '\\');
    plain.then(|| format!("\"{name}\":").into_bytes().into())
}

impl Column {
    fn new(column_type: &ColumnType, epoch: Option<EpochUnit>) -> Self {
        let values = match column_type {
            ColumnType::Boolean => Values::Boolean(BooleanBufferBuilder::new(0)),
            ColumnType::Int => Values::Int(vec![]),
            ColumnType::BigInt => Values::BigInt(vec![]),
            ColumnType::Double => Values::Double(vec![]),
            ColumnType::Decimal(precision, scale) => Values::Decimal {
                values: vec![],
                precision: *precision,
                scale: *scale,
            },
            ColumnType::Varchar => Values::Varchar {
                offsets: vec![0],
                bytes: vec![],
            },
            ColumnType::Date => Values::Date(vec![]),
            ColumnType::Timestamp => Values::Timestamp {
                values: vec![],
                epoch,
            },
            ColumnType::Struct(fields) => Values::Struct(Row::new(fields, None)),
            ColumnType::List(item) => Values::List {
                offsets: vec![0],
                item: Box::new(Self::new(item, None)),
            },
        };
        Self {
            kind: Kind::of(column_type),
            values,
            validity: NullBufferBuilder::new(0),
            width: width_of(column_type),
        }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// What a value takes in memory, apart from text and items of lists.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Values so far.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.validity.len()
    }

    /// Counts a value that was just pushed to `values`.
    #[inline]
    pub(super) fn mark_valid(&mut self) {
        self.validity.append_non_null();
    }

    pub(super) fn push_null(&mut self) {
        match &mut self.values {
            Values::Boolean(values) => values.append(false),
            Values::Int(values) | Values::Date(values) => values.push(0),
            Values::BigInt(values) | Values::Timestamp { values, .. } => values.push(0),
            Values::Double(values) => values.push(0.0),
            Values::Decimal { values, .. } => values.push(0),
            Values::Varchar { offsets, .. } | Values::List { offsets, .. } => {
                offsets.push(offsets.last().copied().unwrap_or(0));
            }
            Values::Struct(row) => row.push_null(),
        }
        self.validity.append_null();
    }

    /// Cuts the column to its first `rows` values, also when the last one is only half there.
    fn truncate(&mut self, rows: usize) {
        let end = |offsets: &mut Vec<i32>| {
            offsets.truncate(rows + 1);
            // Offsets are only ever pushed from lengths, so they are not negative.
            offsets
                .last()
                .map_or(0, |end| usize::try_from(*end).unwrap_or(0))
        };
        match &mut self.values {
            Values::Boolean(values) => values.truncate(rows),
            Values::Int(values) | Values::Date(values) => values.truncate(rows),
            Values::BigInt(values) | Values::Timestamp { values, .. } => values.truncate(rows),
            Values::Double(values) => values.truncate(rows),
            Values::Decimal { values, .. } => values.truncate(rows),
            Values::Varchar { offsets, bytes } => bytes.truncate(end(offsets)),
            Values::Struct(row) => row.truncate(rows),
            Values::List { offsets, item } => item.truncate(end(offsets)),
        }
        self.validity.truncate(rows);
    }

    fn reserve(&mut self, rows: usize) {
        match &mut self.values {
            Values::Boolean(values) => values.reserve(rows),
            Values::Int(values) | Values::Date(values) => values.reserve(rows),
            Values::BigInt(values) | Values::Timestamp { values, .. } => values.reserve(rows),
            Values::Double(values) => values.reserve(rows),
            Values::Decimal { values, .. } => values.reserve(rows),
            Values::Varchar { offsets, .. } | Values::List { offsets, .. } => offsets.reserve(rows),
            Values::Struct(row) => row.reserve(rows),
        }
    }

    fn finish(mut self) -> Result<ArrayRef, ArrowError> {
        let nulls = self.validity.finish();
        Ok(match self.values {
            Values::Boolean(mut values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Values::Int(values) => Arc::new(Int32Array::try_new(values.into(), nulls)?),
            Values::BigInt(values) => Arc::new(Int64Array::try_new(values.into(), nulls)?),
            Values::Double(values) => Arc::new(Float64Array::try_new(values.into(), nulls)?),
            Values::Decimal {
                values,
                precision,
                scale,
            } => {
                let array = Decimal128Array::try_new(values.into(), nulls)?;
                Arc::new(array.with_precision_and_scale(precision, scale)?)
            }
            Values::Varchar { offsets, bytes } => {
                let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                Arc::new(StringArray::try_new(offsets, bytes.into(), nulls)?)
            }
            Values::Date(values) => Arc::new(Date32Array::try_new(values.into(), nulls)?),
            Values::Timestamp { values, .. } => {
                Arc::new(TimestampMicrosecondArray::try_new(values.into(), nulls)?)
            }
            Values::Struct(row) => {
                let (fields, length) = (row.fields.clone(), nulls.as_ref().map(|n| n.len()));
                let columns = row.finish()?;
                let length = length.or_else(|| columns.first().map(|c| c.len()));
                Arc::new(StructArray::try_new_with_length(
                    fields,
                    columns,
                    nulls,
                    length.unwrap_or(0),
                )?)
            }
            Values::List { offsets, item } => {
                let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                let item = item.finish()?;
                let field = Arc::new(Field::new("element", item.data_type().clone(), true));
                Arc::new(ListArray::try_new(field, offsets, item, nulls)?)
            }
        })
    }
}

/// What a value takes in memory, in bytes, apart from text and items of lists.
pub(super) fn width_of(column_type: &ColumnType) -> usize {
    match column_type {
        ColumnType::Boolean => 1,
        ColumnType::Int | ColumnType::Date | ColumnType::Varchar | ColumnType::List(_) => 4,
        ColumnType::BigInt | ColumnType::Double | ColumnType::Timestamp => 8,
        ColumnType::Decimal(..) => 16,
        ColumnType::Struct(fields) => {
            1 + fields
                .iter()
                .map(|f| width_of(&f.column_type))
                .sum::<usize>()
        }
    }
}

/// The end of a text or list that reaches to `length`. Bodies are shorter than 2 GiB, so it fits.
#[inline]
pub(super) fn end_of(length: usize) -> i32 {
    i32::try_from(length).expect("a body is shorter than 2 GiB")
}

/// An exact integer, or why there is none, as a fault of a value of `kind`.
pub(super) fn fitted<T: TryFrom<i128>>(scaled: Result<i128, Unfit>, kind: Kind) -> Result<T, What> {
    match scaled {
        Ok(value) => T::try_from(value).map_err(|_| What::OutOfRange(kind)),
        Err(Unfit::TooLarge) => Err(What::OutOfRange(kind)),
        // `1.5` has not too many digits for an INT, it is none.
        Err(Unfit::Inexact) if matches!(kind, Kind::Int | Kind::BigInt) => Err(What::NotA(kind)),
        Err(Unfit::Inexact) => Err(What::Inexact(kind)),
    }
}

/// Checks a decimal's digits against its precision.
pub(super) fn fitted_decimal(
    scaled: Result<i128, Unfit>,
    precision: u8,
    scale: i8,
) -> Result<i128, What> {
    let kind = Kind::Decimal(precision, scale);
    let value: i128 = fitted(scaled, kind)?;
    // At most 38 digits: 10^38 fits into 127 bits.
    if value.unsigned_abs() < 10_u128.pow(u32::from(precision)) {
        Ok(value)
    } else {
        Err(What::OutOfRange(kind))
    }
}

/// Microseconds since the Unix epoch that the calendar has.
pub(super) const CALENDAR_US: RangeInclusive<i64> = calendar_instants(1_000_000);

/// Checks microseconds against the calendar.
pub(super) fn fitted_instant(scaled: Result<i128, Unfit>) -> Result<i64, What> {
    let micros = fitted(scaled, Kind::Timestamp)?;
    if CALENDAR_US.contains(&micros) {
        Ok(micros)
    } else {
        Err(What::OutOfRange(Kind::Timestamp))
    }
}

/// The power of ten from `unit` to microseconds.
pub(super) fn epoch_scale(unit: EpochUnit) -> i32 {
    match unit {
        EpochUnit::Second => 6,
        EpochUnit::Millisecond => 3,
        EpochUnit::Microsecond => 0,
        EpochUnit::Nanosecond => -3,
    }
}
