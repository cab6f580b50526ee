// SPDX-License-Identifier: Apache-2.0
//! What the two binary formats share.

use std::io;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use dovetail_model::Problem;
use parking_lot::Mutex;

use super::Frame;

/// Schema metadata that holds an answer's provenance, as JSON.
const PROVENANCE_KEY: &str = "dovetail.provenance";

/// A writer whose bytes are taken out as they come, so that nothing of a long answer piles up.
#[derive(Debug, Clone, Default)]
pub(super) struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    /// Moves what was written behind `out`.
    pub(super) fn take_into(&self, out: &mut Vec<u8>) {
        out.append(&mut self.0.lock());
    }
}

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The schema that readers see: provenance in its metadata, and string views as plain strings, which every
/// reader knows.
pub(super) fn portable_schema(schema: &SchemaRef, frame: &Frame) -> Result<SchemaRef, Problem> {
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| {
            let data_type = match field.data_type() {
                DataType::Utf8View => DataType::Utf8,
                DataType::BinaryView => DataType::Binary,
                other => other.clone(),
            };
            field.as_ref().clone().with_data_type(data_type)
        })
        .collect();
    let provenance = serde_json::to_string(&frame.provenance).map_err(Problem::internal)?;
    let metadata = [(PROVENANCE_KEY.to_owned(), provenance)].into();
    Ok(Arc::new(Schema::new_with_metadata(fields, metadata)))
}

/// `batch` in its portable schema.
pub(super) fn portable(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns: Vec<ArrayRef> = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| {
            if column.data_type() == field.data_type() {
                Ok(Arc::clone(column))
            } else {
                cast(column, field.data_type())
            }
        })
        .collect::<Result<_, _>>()?;
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
}
