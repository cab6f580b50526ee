// SPDX-License-Identifier: Apache-2.0
//! Dead letters as rows of their table, and back.

use std::sync::Arc;

use arrow::array::{
    Array, AsArray, BinaryArray, BinaryBuilder, BooleanBuilder, Int32Builder, Int64Builder,
    ListBuilder, PrimitiveArray, RecordBatch, StringBuilder, StructBuilder,
    TimestampMicrosecondBuilder,
};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Field, FieldRef, Fields, Int32Type, Int64Type, Schema, SchemaRef,
    TimeUnit, TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use bytes::Bytes;
use dovetail_model::{ARRIVED_AT, OFFSET, Offset, PARTITION, PartitionId};

use super::ArchivedDeadLetter;
use crate::{DeadLetter, Envelope, Format};

/// Columns of [`schema`] that say which dead letter a row is about.
pub(super) const KEY_COLUMNS: [usize; 3] = [0, 1, 2];
/// Column of [`schema`]: the offset.
pub(super) const OFFSET_COLUMN: usize = 1;
/// Column of [`schema`]: whether the row is a mark.
pub(super) const REPLAYED_COLUMN: usize = 2;

const BYTES_COLUMN: usize = 9;
/// The first of what a record has beside its value: its key; then its timestamp and headers. Tables made before they
/// were kept lack them.
const ENVELOPE_COLUMN: usize = 10;

/// The table's columns. A mark has only the first four, and a letter that was no record of a broker no headers.
pub(super) fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    Arc::new(Schema::new(vec![
        Field::new(PARTITION, DataType::Int32, false),
        Field::new(OFFSET, DataType::Int64, false),
        Field::new("replayed", DataType::Boolean, false),
        Field::new(ARRIVED_AT, time.clone(), false),
        text("format"),
        text("reason"),
        Field::new("line", DataType::Int64, true),
        text("column"),
        text("origin"),
        Field::new("bytes", DataType::Binary, true),
        Field::new("key", DataType::Binary, true),
        Field::new("timestamp", time, true),
        Field::new("headers", DataType::List(header()), true),
    ]))
}

fn header_fields() -> Fields {
    Fields::from(vec![
        Field::new("name", DataType::Utf8, false),
        Field::new("value", DataType::Binary, true),
    ])
}

fn header() -> FieldRef {
    Arc::new(Field::new(
        "element",
        DataType::Struct(header_fields()),
        false,
    ))
}

/// Collects rows.
#[derive(Debug)]
pub(super) struct RowBuilder {
    partition: Int32Builder,
    offset: Int64Builder,
    replayed: BooleanBuilder,
    arrived_at: TimestampMicrosecondBuilder,
    format: StringBuilder,
    reason: StringBuilder,
    line: Int64Builder,
    column: StringBuilder,
    origin: StringBuilder,
    bytes: BinaryBuilder,
    key: BinaryBuilder,
    timestamp: TimestampMicrosecondBuilder,
    headers: ListBuilder<StructBuilder>,
}

impl Default for RowBuilder {
    fn default() -> Self {
        let headers = StructBuilder::from_fields(header_fields(), 0);
        Self {
            partition: Int32Builder::default(),
            offset: Int64Builder::default(),
            replayed: BooleanBuilder::default(),
            arrived_at: TimestampMicrosecondBuilder::default(),
            format: StringBuilder::default(),
            reason: StringBuilder::default(),
            line: Int64Builder::default(),
            column: StringBuilder::default(),
            origin: StringBuilder::default(),
            bytes: BinaryBuilder::default(),
            key: BinaryBuilder::default(),
            timestamp: TimestampMicrosecondBuilder::default(),
            headers: ListBuilder::new(headers).with_field(header()),
        }
    }
}

impl RowBuilder {
    /// Adds a dead letter. Partition and offset were checked to fit their columns.
    pub(super) fn letter(&mut self, key: (PartitionId, Offset), at_us: i64, letter: &DeadLetter) {
        self.place(key, false, at_us);
        self.format.append_value(letter.format.to_string());
        self.reason.append_value(&letter.reason);
        let line = letter
            .line
            .map(|line| i64::try_from(line).unwrap_or(i64::MAX));
        self.line.append_option(line);
        self.column.append_option(letter.column.as_deref());
        self.origin.append_value(&letter.origin);
        self.bytes.append_value(&letter.bytes);
        self.envelope(letter.envelope.as_ref());
    }

    /// Adds the mark that the dead letter at `key` was replayed.
    pub(super) fn mark(&mut self, key: (PartitionId, Offset), at_us: i64) {
        self.place(key, true, at_us);
        self.format.append_null();
        self.reason.append_null();
        self.line.append_null();
        self.column.append_null();
        self.origin.append_null();
        self.bytes.append_null();
        self.envelope(None);
    }

    fn envelope(&mut self, envelope: Option<&Envelope>) {
        self.key
            .append_option(envelope.and_then(|envelope| envelope.key.as_ref()));
        let timestamp = envelope.and_then(|envelope| envelope.timestamp_ms);
        self.timestamp
            .append_option(timestamp.and_then(|millis| millis.checked_mul(1000)));
        for (name, value) in envelope.iter().flat_map(|envelope| &envelope.headers) {
            let pair = self.headers.values();
            let both = "a header has a name and a value";
            pair.field_builder::<StringBuilder>(0)
                .expect(both)
                .append_value(name);
            pair.field_builder::<BinaryBuilder>(1)
                .expect(both)
                .append_option(value.as_ref());
            pair.append(true);
        }
        self.headers.append(envelope.is_some());
    }

    fn place(&mut self, (partition, offset): (PartitionId, Offset), replayed: bool, at_us: i64) {
        self.partition.append_value(partition.0.cast_signed());
        self.offset.append_value(offset.0.cast_signed());
        self.replayed.append_value(replayed);
        self.arrived_at.append_value(at_us);
    }

    /// All rows.
    pub(super) fn finish(mut self) -> RecordBatch {
        RecordBatch::try_new(
            schema(),
            vec![
                Arc::new(self.partition.finish()),
                Arc::new(self.offset.finish()),
                Arc::new(self.replayed.finish()),
                Arc::new(self.arrived_at.finish()),
                Arc::new(self.format.finish()),
                Arc::new(self.reason.finish()),
                Arc::new(self.line.finish()),
                Arc::new(self.column.finish()),
                Arc::new(self.origin.finish()),
                Arc::new(self.bytes.finish()),
                Arc::new(self.key.finish()),
                Arc::new(self.timestamp.finish()),
                Arc::new(self.headers.finish()),
            ],
        )
        .expect("every row sets every column")
    }
}

/// Which dead letter each row of the [`KEY_COLUMNS`] is about, and whether it is a mark.
pub(super) fn keys(
    batch: &RecordBatch,
) -> Result<impl Iterator<Item = ((PartitionId, Offset), bool)>, ArrowError> {
    let partitions = primitive::<Int32Type>(batch, 0)?.clone();
    let offsets = primitive::<Int64Type>(batch, OFFSET_COLUMN)?.clone();
    let replayed = batch.column(REPLAYED_COLUMN).as_boolean_opt();
    let replayed = replayed.ok_or_else(|| wrong(REPLAYED_COLUMN))?.clone();
    Ok((0..batch.num_rows()).map(move |row| {
        let partition = PartitionId(partitions.value(row).cast_unsigned());
        let offset = Offset(offsets.value(row).cast_unsigned());
        ((partition, offset), replayed.value(row))
    }))
}

/// The dead letters among the rows of a batch with all columns that `wanted` wants.
pub(super) fn letters(
    batch: &RecordBatch,
    wanted: impl Fn(&(PartitionId, Offset)) -> bool,
) -> Result<Vec<ArchivedDeadLetter>, ArrowError> {
    let arrived_at = primitive::<TimestampMicrosecondType>(batch, 3)?;
    let line = primitive::<Int64Type>(batch, 6)?;
    let text = |index: usize| {
        batch
            .column(index)
            .as_string_opt::<i32>()
            .ok_or_else(|| wrong(index))
    };
    let (format, reason, column, origin) = (text(4)?, text(5)?, text(7)?, text(8)?);
    let bytes = binary(batch, BYTES_COLUMN)?;
    let mut letters = Vec::new();
    for (row, (key, replayed)) in keys(batch)?.enumerate() {
        if replayed || !wanted(&key) {
            continue;
        }
        let format = format.value(row).parse::<Format>();
        letters.push(ArchivedDeadLetter {
            partition: key.0,
            offset: key.1,
            arrived_at_us: arrived_at.value(row),
            letter: DeadLetter {
                bytes: Bytes::copy_from_slice(bytes.value(row)),
                format: format.map_err(ArrowError::InvalidArgumentError)?,
                reason: reason.value(row).to_owned(),
                line: line.is_valid(row).then(|| line.value(row).cast_unsigned()),
                column: column.is_valid(row).then(|| column.value(row).to_owned()),
                origin: origin.value(row).to_owned(),
                envelope: envelope(batch, row)?,
            },
        });
    }
    Ok(letters)
}

/// What a record has beside its value, if the row is one of a broker's.
fn envelope(batch: &RecordBatch, row: usize) -> Result<Option<Envelope>, ArrowError> {
    let at = ENVELOPE_COLUMN;
    let keys = binary(batch, at)?;
    let timestamps = primitive::<TimestampMicrosecondType>(batch, at + 1)?;
    let headers = batch.column(at + 2);
    let lists = headers.as_list_opt::<i32>().ok_or_else(|| wrong(at + 2))?;
    if lists.is_null(row) {
        return Ok(None);
    }
    let pairs = lists.value(row);
    let pairs = pairs.as_struct_opt().ok_or_else(|| wrong(at + 2))?;
    let names = pairs.column(0).as_string_opt::<i32>();
    let values = pairs.column(1).as_binary_opt::<i32>();
    let (names, values) = names.zip(values).ok_or_else(|| wrong(at + 2))?;
    let some = |values: &BinaryArray, row: usize| {
        let value = values.is_valid(row).then(|| values.value(row));
        value.map(Bytes::copy_from_slice)
    };
    let pair = |index: usize| (names.value(index).to_owned(), some(values, index));
    Ok(Some(Envelope {
        key: some(keys, row),
        timestamp_ms: timestamps
            .is_valid(row)
            .then(|| timestamps.value(row) / 1000),
        headers: (0..pairs.len()).map(pair).collect(),
    }))
}

fn binary(batch: &RecordBatch, index: usize) -> Result<&BinaryArray, ArrowError> {
    let column = batch.column(index).as_binary_opt();
    column.ok_or_else(|| wrong(index))
}

fn primitive<T: ArrowPrimitiveType>(
    batch: &RecordBatch,
    index: usize,
) -> Result<&PrimitiveArray<T>, ArrowError> {
    batch
        .column(index)
        .as_primitive_opt::<T>()
        .ok_or_else(|| wrong(index))
}

fn wrong(index: usize) -> ArrowError {
    let schema = schema();
    let name = schema.field(index).name();
    ArrowError::SchemaError(format!(
        "column `{name}` of the dead letters has a wrong type"
    ))
}
