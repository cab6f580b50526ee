// SPDX-License-Identifier: Apache-2.0
//! Rows as one JSON document or as a JSON object per line.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::json::writer::{EncoderOptions, NullableEncoder};
use dovetail_model::Problem;
use dovetail_view::json_value;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::super::format::AnswerFormat;
use super::{Frame, RowEncoder, as_text, encode_problem};
use crate::ports::Provenance;
use crate::sql::sql_type;

/// A column as an answer lists it.
#[derive(Serialize, JsonSchema)]
pub(in super::super) struct ColumnOf<'a> {
    /// Its name.
    name: &'a str,
    /// Its SQL type.
    r#type: String,
}

/// What [`JsonDocument`] writes piece by piece, as one type.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "only its schema is used")]
pub(in super::super) struct RowsDocument {
    /// The columns, in order.
    columns: Vec<ColumnOf<'static>>,
    /// Objects with a key for each column, in order.
    rows: Vec<Map<String, Value>>,
    /// What they were made from.
    provenance: Provenance,
}

/// The same for a page of rows.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "only its schema is used")]
pub(in super::super) struct RowsPage {
    #[serde(flatten)]
    rows: RowsDocument,
    /// Where the next page begins: give it as `cursor`. Null on the last page.
    cursor: Option<String>,
}

fn write_json(value: &impl Serialize, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value)
        .expect("texts and lists of them are JSON, and a vector takes it");
}

/// Rows as JSON objects, their keys in column order.
struct Rows {
    schema: SchemaRef,
    /// `"name":` of each column, escaped.
    keys: Vec<Vec<u8>>,
    options: EncoderOptions,
    format: AnswerFormat,
}

impl Rows {
    fn new(schema: &SchemaRef, format: AnswerFormat) -> Self {
        let key = |name: &String| {
            let mut key = Vec::with_capacity(name.len() + 3);
            write_json(name, &mut key);
            key.push(b':');
            key
        };
        Self {
            schema: schema.clone(),
            keys: schema.fields().iter().map(|f| key(f.name())).collect(),
            options: json_value::options(),
            format,
        }
    }

    /// Writes each row of `batch`; `before` writes what stands before it.
    fn write(
        &self,
        batch: &RecordBatch,
        out: &mut Vec<u8>,
        mut before: impl FnMut(&mut Vec<u8>),
        after: &[u8],
    ) -> Result<(), Problem> {
        let problem = |e| encode_problem(self.format, e);
        let columns = as_text(&self.schema, batch, self.format)?;
        let mut encoders: Vec<NullableEncoder<'_>> = self
            .schema
            .fields()
            .iter()
            .zip(&columns)
            .map(|(field, column)| json_value::encoder(field, column.as_ref(), &self.options))
            .collect::<Result<_, _>>()
            .map_err(problem)?;
        for row in 0..batch.num_rows() {
            before(out);
            out.push(b'{');
            for (index, (key, encoder)) in self.keys.iter().zip(&mut encoders).enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(key);
                if encoder.is_null(row) {
                    out.extend_from_slice(b"null");
                } else {
                    encoder.encode(row, out);
                }
            }
            out.push(b'}');
            out.extend_from_slice(after);
        }
        Ok(())
    }
}

/// `{"columns": […], "rows": […], "provenance": {…}}`, and `"cursor"` for rows by REST.
pub(super) struct JsonDocument {
    rows: Rows,
    frame: Frame,
    first: bool,
}

impl JsonDocument {
    pub(super) fn new(schema: &SchemaRef, frame: Frame) -> Self {
        Self {
            rows: Rows::new(schema, AnswerFormat::Json),
            frame,
            first: true,
        }
    }
}

impl RowEncoder for JsonDocument {
    fn start(&mut self, out: &mut Vec<u8>) -> Result<(), Problem> {
        let fields = self.rows.schema.fields().iter();
        let columns: Vec<ColumnOf> = fields
            .map(|field| ColumnOf {
                name: field.name(),
                r#type: sql_type(field.data_type()),
            })
            .collect();
        out.extend_from_slice(b"{\"columns\":");
        write_json(&columns, out);
        out.extend_from_slice(b",\"rows\":[");
        Ok(())
    }

    fn rows(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), Problem> {
        let first = &mut self.first;
        let before = |out: &mut Vec<u8>| {
            if !std::mem::take(first) {
                out.push(b',');
            }
            out.push(b'\n');
        };
        self.rows.write(batch, out, before, b"")
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Problem> {
        out.extend_from_slice(b"],\n\"provenance\":");
        write_json(&self.frame.provenance, out);
        if let Some(cursor) = &self.frame.cursor {
            out.extend_from_slice(b",\"cursor\":");
            write_json(cursor, out);
        }
        out.extend_from_slice(b"}\n");
        Ok(())
    }
}

/// One JSON object per line; provenance is in the headers only.
pub(super) struct JsonLines(Rows);

impl JsonLines {
    pub(super) fn new(schema: &SchemaRef) -> Self {
        Self(Rows::new(schema, AnswerFormat::Ndjson))
    }
}

impl RowEncoder for JsonLines {
    fn start(&mut self, _out: &mut Vec<u8>) -> Result<(), Problem> {
        Ok(())
    }

    fn rows(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), Problem> {
        self.0.write(batch, out, |_| {}, b"\n")
    }

    fn finish(&mut self, _out: &mut Vec<u8>) -> Result<(), Problem> {
        Ok(())
    }
}
