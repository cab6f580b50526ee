// SPDX-License-Identifier: Apache-2.0
//! Messages that hold one event each, as a broker hands them over: nothing has to be found first, and a bad
//! one is known by its number.

use arrow::array::RecordBatch;
use bytes::Bytes;
use dovetail_model::{Column, MessageFormat};

use super::budget::Budget;
use super::column::Row;
use super::csv::RecordReader;
use super::fault::{Outcome, What};
use super::json::JsonReader;
use super::ndjson::check;
use super::registered::{RegisteredReader, WriterSchemas};
use super::{DecodeError, Decoder, batch_of};
use crate::Format;

/// What messages hold.
#[derive(Debug, Clone)]
pub struct Messages {
    /// The good events in their order, in the schema [`StreamSchema::declared`](dovetail_model::StreamSchema::declared).
    pub events: RecordBatch,
    /// The bad ones in their order.
    pub bad: Vec<BadMessage>,
}

/// A message that holds no event of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadMessage {
    /// Its number among the messages, from 0.
    pub index: usize,
    /// Why.
    pub reason: String,
    /// The column, or the path of the field, that is wrong, when one is.
    pub column: Option<String>,
}

impl Decoder {
    /// Decodes messages of one event each. A CSV record has the declared columns in their order; what a registry keeps
    /// the schemas of is read with those of `schemas`.
    ///
    /// # Errors
    /// `TooLarge` if together they decode to more than the limit: give fewer at a time.
    pub fn decode_messages<'a>(
        &self,
        format: MessageFormat,
        schemas: &WriterSchemas,
        messages: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Messages, DecodeError> {
        let mut columns = self.row();
        let mut budget = Budget::new(self.max_decoded_bytes);
        let mut reader = match format {
            MessageFormat::Json => Reader::Json(JsonReader::new(&[], self.schema.unknown_columns)),
            MessageFormat::Csv => Reader::Csv(RecordReader::new(&self.schema)),
            MessageFormat::Avro | MessageFormat::Protobuf => {
                Reader::Registered(RegisteredReader::new(schemas))
            }
        };
        let (mut rows, mut bad) = (0, Vec::new());
        for (index, message) in messages.into_iter().enumerate() {
            match reader.read(message, &mut columns, rows, &mut budget) {
                Ok(()) => rows += 1,
                Err(fault) if fault.what() == What::OverBudget => return Err(budget.exhausted()),
                Err(fault) => {
                    columns.truncate(rows);
                    let described = fault.describe(message);
                    bad.push(BadMessage {
                        index,
                        reason: described.reason,
                        column: described.column,
                    });
                }
            }
        }
        Ok(Messages {
            events: batch_of(columns, &self.declared)?,
            bad,
        })
    }

    /// A message as a body that decodes alone (with its schema, where that is elsewhere), and its format: what a dead
    /// letter keeps of it.
    pub fn letter(&self, format: MessageFormat, message: &[u8]) -> (Bytes, Format) {
        match format {
            MessageFormat::Json => (Bytes::copy_from_slice(message), Format::Json),
            MessageFormat::Avro => (Bytes::copy_from_slice(message), Format::Avro),
            MessageFormat::Protobuf => (Bytes::copy_from_slice(message), Format::Protobuf),
            MessageFormat::Csv => {
                let header = csv_header(&self.schema.columns);
                let body = [header.as_bytes(), message].concat();
                (body.into(), Format::Csv)
            }
        }
    }
}

/// The header line of records that have all columns.
fn csv_header(columns: &[Column]) -> String {
    let names = columns.iter().map(|column| {
        let name = &column.name;
        if name.contains(['"', ',', '\n', '\r']) {
            format!("\"{}\"", name.replace('"', "\"\""))
        } else {
            name.clone()
        }
    });
    let mut line = names.collect::<Vec<_>>().join(",");
    line.push('\n');
    line
}

enum Reader<'a> {
    Json(JsonReader<'a>),
    Csv(RecordReader),
    Registered(RegisteredReader<'a>),
}

impl<'a> Reader<'a> {
    fn read(
        &mut self,
        message: &'a [u8],
        columns: &mut Row,
        row: usize,
        budget: &mut Budget,
    ) -> Outcome<()> {
        match self {
            Self::Json(reader) => {
                check(message, false)?;
                reader.reset(message, 0);
                reader.skip_space();
                reader.event(columns, row, budget)?;
                reader.skip_space();
                if reader.peek().is_some() {
                    return reader.expected("nothing more in the message");
                }
                Ok(())
            }
            Self::Csv(reader) => {
                check(message, false)?;
                reader.read_alone(message, columns, row, budget)
            }
            Self::Registered(reader) => reader.read(message, columns, row, budget),
        }
    }
}
