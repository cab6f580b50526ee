// SPDX-License-Identifier: Apache-2.0
//! Rows as bytes of a format.
//!
//! Purpose: [`RowEncoder`] turns batches into bytes as they come, holding at most one batch (Parquet: one
//! row group). Collaborators: [`super::answer`] feeds it. Invariants: the bytes are well formed only after
//! `finish`, as far as the format can tell; column names are unique in every format.

mod arrow_ipc;
mod csv;
mod json;
mod parquet;
mod shared;

use std::collections::HashSet;
use std::sync::Arc;

use ::arrow::array::{ArrayRef, RecordBatch};
use ::arrow::datatypes::{Field, Schema, SchemaRef};
use bytes::Bytes;
use dovetail_model::{MessageFormat, Problem, ProblemKind};
use dovetail_view::{calendar, json_value};

pub(super) use json::{RowsDocument, RowsPage};

use super::format::AnswerFormat;
use crate::ports::Provenance;
use crate::problem::unwritable;

/// What stands around the rows of an answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Frame {
    /// What they were made from.
    pub(super) provenance: Provenance,
    /// For rows by REST: where the next page begins, or that there is none.
    pub(super) cursor: Option<Option<String>>,
}

/// Encodes one answer: `start`, then `rows` for each batch, then `finish`.
pub(super) trait RowEncoder: Send {
    /// What stands before the rows.
    fn start(&mut self, out: &mut Vec<u8>) -> Result<(), Problem>;
    /// Some rows.
    fn rows(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), Problem>;
    /// What stands behind the rows.
    fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Problem>;
    /// Memory of rows that it keeps.
    fn held_bytes(&self) -> usize {
        0
    }
}

/// The encoder of `format` for batches of `schema`, which [`unique_names`] made.
///
/// # Errors
/// `Invalid` for a type that the format cannot hold.
pub(super) fn encoder(
    format: AnswerFormat,
    schema: &SchemaRef,
    frame: Frame,
) -> Result<Box<dyn RowEncoder>, Problem> {
    Ok(match format {
        AnswerFormat::Json => Box::new(json::JsonDocument::new(schema, frame)),
        AnswerFormat::Ndjson => Box::new(json::JsonLines::new(schema)),
        AnswerFormat::Csv => Box::new(csv::Csv::new(schema)),
        AnswerFormat::Arrow => Box::new(arrow_ipc::ArrowStream::new(schema, &frame)?),
        AnswerFormat::Parquet => Box::new(parquet::ParquetFile::new(schema, &frame)?),
    })
}

/// Each row of `batch` as the value of a record: a JSON object, or a CSV record without its line end.
///
/// # Errors
/// `Invalid` for a type that the format cannot hold, `UnsupportedMedia` for a format with schemas of a registry.
pub fn message_values(format: MessageFormat, batch: &RecordBatch) -> Result<Vec<Bytes>, Problem> {
    let schema = batch.schema();
    let mut out = Vec::new();
    let mut ends = Vec::with_capacity(batch.num_rows());
    match format {
        MessageFormat::Json => {
            json::JsonLines::new(&schema).rows(batch, &mut out)?;
            // A line feed within a text is escaped.
            ends.extend(memchr::memchr_iter(b'\n', &out).map(|at| at + 1));
        }
        MessageFormat::Csv => {
            let mut encoder = csv::Csv::new(&schema);
            for row in 0..batch.num_rows() {
                encoder.rows(&batch.slice(row, 1), &mut out)?;
                ends.push(out.len());
            }
        }
        MessageFormat::Avro | MessageFormat::Protobuf => {
            let reason = "values of Avro and Protobuf are read, and not written";
            return Err(Problem::new(ProblemKind::UnsupportedMedia, reason));
        }
    }
    let out = Bytes::from(out);
    let mut start = 0;
    let values = ends.into_iter().map(|end| {
        let value = out.slice(start..end - 1);
        start = end;
        value
    });
    Ok(values.collect())
}

/// The schema with every column name unique (`a`, `a_1`, …) and every column nullable: a join may name two
/// columns alike, and plans are not always exact about nulls.
pub(super) fn unique_names(schema: &Schema) -> SchemaRef {
    let given: HashSet<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let mut taken: HashSet<String> = HashSet::new();
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| {
            let mut name = field.name().clone();
            let mut number = 0;
            while taken.contains(&name) || (number > 0 && given.contains(name.as_str())) {
                number += 1;
                name = format!("{}_{number}", field.name());
            }
            taken.insert(name.clone());
            field.as_ref().clone().with_name(name).with_nullable(true)
        })
        .collect();
    Arc::new(Schema::new(fields))
}

/// The columns of `batch`, which are those of `schema`, as they are written as text.
///
/// # Errors
/// `Invalid` for a value that cannot be written, such as a date in no year.
fn as_text(
    schema: &Schema,
    batch: &RecordBatch,
    format: AnswerFormat,
) -> Result<Vec<ArrayRef>, Problem> {
    let columns = schema.fields().iter().zip(batch.columns());
    let columns = columns.map(|(field, column)| {
        calendar::check(field, column).map_err(unwritable)?;
        json_value::prepared(column).map_err(|error| encode_problem(format, error))
    });
    columns.collect()
}

/// A failure to encode that no batch before it foretold.
fn encode_problem(format: AnswerFormat, error: impl std::fmt::Display) -> Problem {
    Problem::invalid(format!(
        "the answer cannot be written as {format}: {error}; cast the column or ask for another format"
    ))
}

#[cfg(test)]
mod tests;
