// SPDX-License-Identifier: Apache-2.0
//! Rows as an Arrow IPC stream. Without its end marker a reader sees that it was cut off.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::StreamWriter;
use dovetail_model::Problem;

use super::super::format::AnswerFormat;
use super::shared::{Sink, portable, portable_schema};
use super::{Frame, RowEncoder, encode_problem};

/// The Arrow encoder.
pub(super) struct ArrowStream {
    writer: StreamWriter<Sink>,
    schema: SchemaRef,
    sink: Sink,
}

impl ArrowStream {
    pub(super) fn new(schema: &SchemaRef, frame: &Frame) -> Result<Self, Problem> {
        let schema = portable_schema(schema, frame)?;
        let sink = Sink::default();
        let writer = StreamWriter::try_new(sink.clone(), &schema)
            .map_err(|e| encode_problem(AnswerFormat::Arrow, e))?;
        Ok(Self {
            writer,
            schema,
            sink,
        })
    }
}

impl RowEncoder for ArrowStream {
    fn start(&mut self, out: &mut Vec<u8>) -> Result<(), Problem> {
        self.sink.take_into(out);
        Ok(())
    }

    fn rows(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), Problem> {
        portable(batch, &self.schema)
            .and_then(|batch| self.writer.write(&batch))
            .map_err(|e| encode_problem(AnswerFormat::Arrow, e))?;
        self.sink.take_into(out);
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Problem> {
        self.writer
            .finish()
            .map_err(|e| encode_problem(AnswerFormat::Arrow, e))?;
        self.sink.take_into(out);
        Ok(())
    }
}
