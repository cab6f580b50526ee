// SPDX-License-Identifier: Apache-2.0
//! Rows as a Parquet file. Its footer comes last, so a file that was cut off cannot be read.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use dovetail_model::Problem;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::super::format::AnswerFormat;
use super::shared::{Sink, portable, portable_schema};
use super::{Frame, RowEncoder, encode_problem};

/// Rows of a row group, and bytes: bounds the memory of an answer, since a group is written at once.
const ROW_GROUP_ROWS: usize = 128 * 1024;
const ROW_GROUP_BYTES: usize = 8 * 1024 * 1024;

/// The Parquet encoder.
pub(super) struct ParquetFile {
    /// None once finished.
    writer: Option<ArrowWriter<Sink>>,
    schema: SchemaRef,
    sink: Sink,
}

impl ParquetFile {
    pub(super) fn new(schema: &SchemaRef, frame: &Frame) -> Result<Self, Problem> {
        let schema = portable_schema(schema, frame)?;
        let sink = Sink::default();
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
            .build();
        let writer = ArrowWriter::try_new(sink.clone(), schema.clone(), Some(properties))
            .map_err(|e| encode_problem(AnswerFormat::Parquet, e))?;
        Ok(Self {
            writer: Some(writer),
            schema,
            sink,
        })
    }
}

impl RowEncoder for ParquetFile {
    fn start(&mut self, out: &mut Vec<u8>) -> Result<(), Problem> {
        self.sink.take_into(out);
        Ok(())
    }

    fn rows(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), Problem> {
        let batch =
            portable(batch, &self.schema).map_err(|e| encode_problem(AnswerFormat::Parquet, e))?;
        if let Some(writer) = &mut self.writer {
            writer
                .write(&batch)
                .map_err(|e| encode_problem(AnswerFormat::Parquet, e))?;
        }
        self.sink.take_into(out);
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Problem> {
        if let Some(writer) = self.writer.take() {
            writer
                .close()
                .map_err(|e| encode_problem(AnswerFormat::Parquet, e))?;
        }
        self.sink.take_into(out);
        Ok(())
    }

    fn held_bytes(&self) -> usize {
        self.writer.as_ref().map_or(0, ArrowWriter::memory_size)
    }
}
