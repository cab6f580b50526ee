// SPDX-License-Identifier: Apache-2.0
//! Rows as CSV: a header line, `\n` line ends, quotes where needed. Null is an empty field, the empty text
//! is `""`, structs and lists are JSON.

use std::fmt::Write as _;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::json::writer::{EncoderOptions, NullableEncoder};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use dovetail_model::Problem;
use dovetail_view::json_value;

use super::super::format::AnswerFormat;
use super::{RowEncoder, as_text, encode_problem};

/// The CSV encoder.
pub(super) struct Csv {
    schema: SchemaRef,
    options: EncoderOptions,
}

impl Csv {
    pub(super) fn new(schema: &SchemaRef) -> Self {
        Self {
            schema: schema.clone(),
            options: json_value::options(),
        }
    }
}

/// One column of a batch, ready to write.
enum Cells<'a> {
    Text(ArrayFormatter<'a>),
    Json(NullableEncoder<'a>),
}

impl RowEncoder for Csv {
    fn start(&mut self, out: &mut Vec<u8>) -> Result<(), Problem> {
        for (index, field) in self.schema.fields().iter().enumerate() {
            separate(index, out);
            field_text(field.name().as_bytes(), out);
        }
        out.push(b'\n');
        Ok(())
    }

    fn rows(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), Problem> {
        let problem = |e| encode_problem(AnswerFormat::Csv, e);
        // What cannot be written is no value: it ends the answer.
        let formats = FormatOptions::default().with_display_error(false);
        let columns = as_text(&self.schema, batch, AnswerFormat::Csv)?;
        let nulls: Vec<_> = columns.iter().map(|c| c.logical_nulls()).collect();
        let mut cells = Vec::with_capacity(columns.len());
        for (field, column) in self.schema.fields().iter().zip(&columns) {
            let nested = column.data_type().is_nested()
                && !matches!(column.data_type(), DataType::RunEndEncoded(_, _));
            cells.push(if nested {
                let encoder = json_value::encoder(field, column.as_ref(), &self.options);
                Cells::Json(encoder.map_err(problem)?)
            } else {
                Cells::Text(ArrayFormatter::try_new(column, &formats).map_err(problem)?)
            });
        }
        let mut text = String::new();
        let mut json = Vec::new();
        for row in 0..batch.num_rows() {
            for (index, (cell, nulls)) in cells.iter_mut().zip(&nulls).enumerate() {
                separate(index, out);
                if nulls.as_ref().is_some_and(|n| n.is_null(row)) {
                    continue;
                }
                match cell {
                    Cells::Text(formatter) => {
                        text.clear();
                        write!(text, "{}", formatter.value(row)).map_err(|_| {
                            encode_problem(AnswerFormat::Csv, "a value cannot be shown")
                        })?;
                        field_text(text.as_bytes(), out);
                    }
                    Cells::Json(encoder) => {
                        json.clear();
                        encoder.encode(row, &mut json);
                        field_text(&json, out);
                    }
                }
            }
            out.push(b'\n');
        }
        Ok(())
    }

    fn finish(&mut self, _out: &mut Vec<u8>) -> Result<(), Problem> {
        Ok(())
    }
}

fn separate(index: usize, out: &mut Vec<u8>) {
    if index > 0 {
        out.push(b',');
    }
}

/// A field, in quotes where it needs them; the empty text always, or it would read as null.
fn field_text(text: &[u8], out: &mut Vec<u8>) {
    let plain = !text.is_empty()
        && !text
            .iter()
            .any(|b| matches!(b, b'"' | b',' | b'\n' | b'\r'));
    if plain {
        out.extend_from_slice(text);
        return;
    }
    out.push(b'"');
    for byte in text {
        if *byte == b'"' {
            out.push(b'"');
        }
        out.push(*byte);
    }
    out.push(b'"');
}
