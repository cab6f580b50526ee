// SPDX-License-Identifier: Apache-2.0
//! Dead letters as rows of their table, and back.

use std::sync::Arc;

use arrow::array::{
    Array, AsArray, BinaryBuilder, BooleanBuilder, Int32Builder, Int64Builder, PrimitiveArray,
    RecordBatch, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit,
    TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use bytes::Bytes;
use dovetail_model::{ARRIVED_AT, OFFSET, Offset, PARTITION, PartitionId};

use super::ArchivedDeadLetter;
use crate::{DeadLetter, Format};

/// Columns of [`schema`] that say which dead letter a row is about.
pub(super) const KEY_COLUMNS: [usize; 3] = [0, 1, 2];
/// Column of [`schema`]: the offset.
pub(super) const OFFSET_COLUMN: usize = 1;
/// Column of [`schema`]: whether the row is a mark.
pub(super) const REPLAYED_COLUMN: usize = 2;

/// The table's columns. A mark has only the first four.
pub(super) fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    Arc::new(Schema::new(vec![
        Field::new(PARTITION, DataType::Int32, false),
        Field::new(OFFSET, DataType::Int64, false),
        Field::new("replayed", DataType::Boolean, false),
        Field::new(
            ARRIVED_AT,
            DataType::Timestamp(TimeUnit::Microsecond, None),
            false,
        ),
        text("format"),
        text("reason"),
        Field::new("line", DataType::Int64, true),
        text("column"),
        text("origin"),
        Field::new("bytes", DataType::Binary, true),
    ]))
}

/// Collects rows.
#[derive(Debug, Default)]
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
}

impl RowBuilder {
    /// Adds a dead letter. Partition and offset were checked to fit their columns.
    pub(super) fn letter(&mut self, key: (PartitionId, Offset), at_us: i64, letter: &DeadLetter) {
        self.key(key, false, at_us);
        self.format.append_value(letter.format.to_string());
        self.reason.append_value(&letter.reason);
        let line = letter
            .line
            .map(|line| i64::try_from(line).unwrap_or(i64::MAX));
        self.line.append_option(line);
        self.column.append_option(letter.column.as_deref());
        self.origin.append_value(&letter.origin);
        self.bytes.append_value(&letter.bytes);
    }

    /// Adds the mark that the dead letter at `key` was replayed.
    pub(super) fn mark(&mut self, key: (PartitionId, Offset), at_us: i64) {
        self.key(key, true, at_us);
        self.format.append_null();
        self.reason.append_null();
        self.line.append_null();
        self.column.append_null();
        self.origin.append_null();
        self.bytes.append_null();
    }

    fn key(&mut self, (partition, offset): (PartitionId, Offset), replayed: bool, at_us: i64) {
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
    let bytes = batch
        .column(9)
        .as_binary_opt::<i32>()
        .ok_or_else(|| wrong(9))?;
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
            },
        });
    }
    Ok(letters)
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
