// SPDX-License-Identifier: Apache-2.0
//! Arrow columns as they come to the columns that are declared: by name, without loss, `NOT NULL` checked on
//! the values.
//!
//! A cast that would lose something gives null; a row where that happened, or where a `NOT NULL` is null,
//! is a bad event. Until those are taken out, nested fields are all nullable.

mod hidden;
mod leaf;
mod row_faults;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, ListArray, RecordBatch, StructArray, new_empty_array,
    new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::{cast, filter};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use dovetail_model::{Column, ColumnType, EpochUnit, StreamSchema, UnknownColumns};

use super::budget::Budget;
use super::column::width_of;
use super::error::{DecodeError, Place};
use super::fault::{Described, Kind, UNKNOWN, excerpt};
use super::infer::column_type_of;
use super::sink::Sink;
use row_faults::{RowFaults, Rows};

/// Converts the batches of one stream.
pub(super) struct Converter<'a> {
    schema: &'a StreamSchema,
    /// Rows of the batches so far.
    rows: u64,
}

impl<'a> Converter<'a> {
    /// Checks that batches of schema `found` can be converted at all.
    pub(super) fn new(schema: &'a StreamSchema, found: &Schema) -> Result<Self, DecodeError> {
        let empty: Vec<_> = found
            .fields()
            .iter()
            .map(|field| new_empty_array(field.data_type()))
            .collect();
        let mut budget = Budget::new(0);
        let mut step = Step {
            unknown: schema.unknown_columns,
            epoch: None,
            path: Vec::new(),
            faults: RowFaults::new(0, false),
            budget: &mut budget,
        };
        let epoch = epoch_of(schema);
        step.columns(
            &schema.columns,
            found.fields(),
            &empty,
            0,
            &Rows::Top,
            epoch,
        )?;
        Ok(Self { schema, rows: 0 })
    }

    /// The good events of one batch; the bad ones go to `sink`.
    pub(super) fn convert(
        &mut self,
        batch: &RecordBatch,
        declared: &SchemaRef,
        sink: &mut Sink<'_>,
    ) -> Result<RecordBatch, DecodeError> {
        let before = self.rows;
        let length = batch.num_rows();
        self.rows += length as u64;
        let keeps_all = sink.keeps_all();
        // One byte a row for what is bad.
        if !sink.budget.take(length) {
            return Err(sink.budget.exhausted());
        }
        let mut step = Step {
            unknown: self.schema.unknown_columns,
            epoch: None,
            path: Vec::new(),
            faults: RowFaults::new(length, keeps_all),
            budget: &mut sink.budget,
        };
        let fields = batch.schema_ref().fields();
        let columns = step.columns(
            &self.schema.columns,
            fields,
            batch.columns(),
            length,
            &Rows::Top,
            epoch_of(self.schema),
        )?;
        let faults = step.faults;
        let good = faults.good_rows();
        for (row, described) in faults.into_described() {
            let place = Place::row(before + row as u64 + 1);
            match described {
                None => sink.count(),
                Some(described) => {
                    let bytes = if keeps_all {
                        alone(batch, row).map_err(|error| failed(&error))?
                    } else {
                        Bytes::new()
                    };
                    sink.refuse_described(place, described, || bytes)?;
                }
            }
        }
        finish(&self.schema.columns, columns, good.as_ref(), declared)
            .map_err(|error| failed(&error))
    }
}

fn epoch_of(schema: &StreamSchema) -> Option<(&str, EpochUnit)> {
    let event_time = schema.event_time.as_ref()?;
    Some((event_time.column.as_str(), event_time.epoch?))
}

fn failed(error: &ArrowError) -> DecodeError {
    DecodeError::body(format!("the Arrow stream cannot be converted: {error}"))
}

/// Leaves the bad rows out and gives nested fields their declared nullability.
fn finish(
    columns: &[Column],
    arrays: Vec<ArrayRef>,
    good: Option<&BooleanArray>,
    declared: &SchemaRef,
) -> Result<RecordBatch, ArrowError> {
    let arrays = columns
        .iter()
        .zip(arrays)
        .map(|(column, array)| {
            let array = match good {
                Some(good) => filter(&array, good)?,
                None => array,
            };
            as_declared(&column.column_type, &array)
        })
        .collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new(Arc::clone(declared), arrays)
}

fn as_declared(column_type: &ColumnType, array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match column_type {
        ColumnType::Struct(fields) => {
            let source = array.as_struct();
            let children = fields
                .iter()
                .zip(source.columns())
                .map(|(field, child)| as_declared(&field.column_type, child))
                .collect::<Result<Vec<_>, _>>()?;
            let fields: Fields = fields.iter().map(Column::to_arrow).collect();
            let nulls = source.nulls().cloned();
            Ok(Arc::new(StructArray::try_new_with_length(
                fields,
                children,
                nulls,
                array.len(),
            )?))
        }
        ColumnType::List(item) => {
            let source = array.as_list::<i32>();
            let values = as_declared(item, source.values())?;
            Ok(Arc::new(ListArray::try_new(
                Arc::new(Field::new("element", item.to_arrow(), true)),
                source.offsets().clone(),
                values,
                source.nulls().cloned(),
            )?))
        }
        _ => Ok(Arc::clone(array)),
    }
}

/// One row as a stream of its own. Shared dictionaries and view buffers stay behind, and so do columns that
/// no stream could ever declare.
fn alone(batch: &RecordBatch, row: usize) -> Result<Bytes, ArrowError> {
    let row = batch.slice(row, 1);
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for (field, column) in row.schema_ref().fields().iter().zip(row.columns()) {
        let plain = match column.data_type() {
            DataType::Dictionary(_, value) => cast(column, value)?,
            _ => Arc::clone(column),
        };
        if column_type_of(plain.data_type()).is_none() {
            continue;
        }
        let plain = match plain.data_type() {
            DataType::Utf8View => cast(&plain, &DataType::Utf8)?,
            DataType::BinaryView => cast(&plain, &DataType::Binary)?,
            _ => plain,
        };
        fields.push(Field::new(
            field.name(),
            plain.data_type().clone(),
            field.is_nullable(),
        ));
        columns.push(plain);
    }
    let plain = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
    let mut writer = StreamWriter::try_new(Vec::new(), plain.schema_ref())?;
    writer.write(&plain)?;
    Ok(writer.into_inner()?.into())
}

/// The conversion of one batch.
struct Step<'a> {
    unknown: UnknownColumns,
    /// The unit of numbers in the column at hand.
    epoch: Option<EpochUnit>,
    path: Vec<String>,
    faults: RowFaults,
    budget: &'a mut Budget,
}

impl Step<'_> {
    /// Finds the declared columns among `fields` and converts them.
    fn columns(
        &mut self,
        declared: &[Column],
        fields: &Fields,
        arrays: &[ArrayRef],
        length: usize,
        rows: &Rows<'_>,
        epoch: Option<(&str, EpochUnit)>,
    ) -> Result<Vec<ArrayRef>, DecodeError> {
        let places = self.places(declared, fields)?;
        let mut converted = Vec::with_capacity(declared.len());
        for column in declared {
            self.path.push(column.name.clone());
            self.epoch = epoch.and_then(|(name, unit)| (name == column.name).then_some(unit));
            let found = places.get(column.name.as_str());
            converted.push(match found.and_then(|index| arrays.get(*index)) {
                Some(array) => self.column(array, &column.column_type, column.nullable, rows)?,
                None if column.nullable => {
                    self.charge(length.saturating_mul(width_of(&column.column_type)))?;
                    new_null_array(&relaxed(&column.column_type), length)
                }
                None => {
                    return Err(
                        self.refuse("it is NOT NULL, but the Arrow schema does not have it")
                    );
                }
            });
            self.path.pop();
        }
        Ok(converted)
    }

    /// Where each field stands; none comes twice, and none is unknown where that is refused.
    fn places<'f>(
        &mut self,
        declared: &[Column],
        fields: &'f Fields,
    ) -> Result<HashMap<&'f str, usize>, DecodeError> {
        let mut places = HashMap::with_capacity(fields.len());
        for (index, field) in fields.iter().enumerate() {
            if places.insert(field.name().as_str(), index).is_some() {
                self.path.push(excerpt(field.name().as_bytes()));
                return Err(self.refuse("the Arrow schema has it twice"));
            }
        }
        if self.unknown == UnknownColumns::Reject {
            let known: HashSet<_> = declared.iter().map(|c| c.name.as_str()).collect();
            let unknown = fields.iter().find(|f| !known.contains(f.name().as_str()));
            if let Some(field) = unknown {
                self.path.push(excerpt(field.name().as_bytes()));
                return Err(self.refuse(UNKNOWN));
            }
        }
        Ok(places)
    }

    /// Converts one column; bad rows are noted.
    fn column(
        &mut self,
        array: &ArrayRef,
        to: &ColumnType,
        nullable: bool,
        rows: &Rows<'_>,
    ) -> Result<ArrayRef, DecodeError> {
        self.charge(array.len().saturating_mul(width_of(to)))?;
        let array = self.plain(array)?;
        if array.data_type() == &DataType::Null {
            let nulls = new_null_array(&relaxed(to), array.len());
            self.note_bad_rows(&nulls, &nulls, to, nullable, rows)?;
            return Ok(nulls);
        }
        let converted = match to {
            ColumnType::Struct(declared) => self.structure(&array, declared, rows)?,
            ColumnType::List(item) => self.list(&array, item, rows)?,
            _ => leaf::convert(&array, to, self.epoch)
                .map_err(|error| self.refuse(&error.to_string()))?
                .ok_or_else(|| self.not_castable(&array, to))?,
        };
        self.note_bad_rows(&array, &converted, to, nullable, rows)?;
        Ok(converted)
    }

    /// The array without dictionary or views, and lists of one kind only.
    fn plain(&mut self, array: &ArrayRef) -> Result<ArrayRef, DecodeError> {
        let target = match array.data_type() {
            DataType::Dictionary(_, value) if !value.is_nested() => value.as_ref().clone(),
            DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                DataType::List(Arc::clone(item))
            }
            DataType::Utf8View => DataType::Utf8,
            _ => return Ok(Arc::clone(array)),
        };
        // Few bytes may stand for a text many times over.
        self.charge(leaf::text_bytes(array))?;
        let plain = cast(array, &target).map_err(|error| self.refuse(&error.to_string()))?;
        if plain.data_type() == &DataType::Utf8View {
            return self.plain(&plain);
        }
        Ok(plain)
    }

    fn structure(
        &mut self,
        array: &ArrayRef,
        declared: &[Column],
        rows: &Rows<'_>,
    ) -> Result<ArrayRef, DecodeError> {
        let to = || ColumnType::Struct(declared.to_vec());
        let Some(source) = array.as_struct_opt() else {
            return Err(self.not_castable(array, &to()));
        };
        let visible =
            hidden::visible_fields(source).map_err(|error| self.refuse(&error.to_string()))?;
        let inner = Rows::Struct {
            parent: rows,
            nulls: source.nulls(),
        };
        let children = self.columns(
            declared,
            source.fields(),
            &visible,
            source.len(),
            &inner,
            None,
        )?;
        let DataType::Struct(fields) = relaxed(&to()) else {
            return Err(self.not_castable(array, &to()));
        };
        let nulls = source.nulls().cloned();
        StructArray::try_new_with_length(fields, children, nulls, source.len())
            .map(|array| Arc::new(array) as ArrayRef)
            .map_err(|error| self.refuse(&error.to_string()))
    }

    fn list(
        &mut self,
        array: &ArrayRef,
        item: &ColumnType,
        rows: &Rows<'_>,
    ) -> Result<ArrayRef, DecodeError> {
        let Some(source) = array.as_list_opt::<i32>() else {
            return Err(self.not_castable(array, &ColumnType::List(Box::new(item.clone()))));
        };
        // One byte an item for what is visible.
        self.charge(source.values().len())?;
        let source =
            hidden::visible_items(source).map_err(|error| self.refuse(&error.to_string()))?;
        let inner = Rows::List {
            parent: rows,
            offsets: source.value_offsets(),
        };
        self.path.push("[]".to_owned());
        self.epoch = None;
        let values = self.column(source.values(), item, true, &inner)?;
        self.path.pop();
        let field = Arc::new(Field::new("element", values.data_type().clone(), true));
        let offsets = source.offsets().clone();
        ListArray::try_new(field, offsets, values, source.nulls().cloned())
            .map(|array| Arc::new(array) as ArrayRef)
            .map_err(|error| self.refuse(&error.to_string()))
    }

    /// Notes the rows that lost a value, or have none where one must be.
    fn note_bad_rows(
        &mut self,
        from: &ArrayRef,
        converted: &ArrayRef,
        to: &ColumnType,
        nullable: bool,
        rows: &Rows<'_>,
    ) -> Result<(), DecodeError> {
        let Some(nulls) = converted.nulls().filter(|nulls| nulls.null_count() > 0) else {
            return Ok(());
        };
        let before = from.nulls();
        if nullable && before.map_or(0, NullBuffer::null_count) == nulls.null_count() {
            return Ok(());
        }
        for index in (0..nulls.len()).filter(|index| nulls.is_null(*index)) {
            let lost = before.is_none_or(|before| before.is_valid(index));
            if nullable && !lost {
                continue;
            }
            let Some(row) = rows.of(index) else { continue };
            let (path, epoch) = (&self.path, self.epoch);
            let noted = self.faults.note(row, || Described {
                column: Some(path_text(path)),
                reason: if lost {
                    leaf::loss(from, index, Kind::of(to), epoch)
                } else {
                    "it is NOT NULL, but the value is null".to_owned()
                },
            });
            self.charge(noted)?;
        }
        Ok(())
    }

    fn charge(&mut self, bytes: usize) -> Result<(), DecodeError> {
        if self.budget.take(bytes) {
            Ok(())
        } else {
            Err(self.budget.exhausted())
        }
    }

    fn not_castable(&self, array: &ArrayRef, to: &ColumnType) -> DecodeError {
        self.refuse(&format!(
            "{} cannot be read as {to} without loss",
            array.data_type()
        ))
    }

    /// The stream does not fit, whatever its values are.
    fn refuse(&self, reason: &str) -> DecodeError {
        let described = Described {
            column: Some(path_text(&self.path)),
            reason: reason.to_owned(),
        };
        DecodeError::body_at(Place::default(), described)
    }
}

fn path_text(path: &[String]) -> String {
    path.join(".").replace(".[]", "[]")
}

/// The Arrow type with every nested field nullable.
fn relaxed(column_type: &ColumnType) -> DataType {
    match column_type {
        ColumnType::Struct(fields) => DataType::Struct(
            fields
                .iter()
                .map(|f| Field::new(&f.name, relaxed(&f.column_type), true))
                .collect(),
        ),
        ColumnType::List(item) => {
            DataType::List(Arc::new(Field::new("element", relaxed(item), true)))
        }
        leaf => leaf.to_arrow(),
    }
}
