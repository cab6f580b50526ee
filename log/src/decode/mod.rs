// SPDX-License-Identifier: Apache-2.0
//! Bytes to events: one pass over the body, straight into Arrow columns of the declared types.
//!
//! Purpose: decode NDJSON, JSON, CSV and Arrow IPC, and messages of Avro and Protobuf, into a record batch of
//! [`StreamSchema::declared`], and say of every event that cannot be decoded where it is and why. Collaborators: the
//! HTTP API and `dovetail ingest` hand bodies in, the readers of topics messages; a log stores what comes out.
//! Invariants: nothing is coerced with a loss, and no number passes through a float on its way to an
//! integer or a decimal; memory stays within a fixed bound whatever the bytes are; time is linear in the
//! body. A bad event is taken back from the columns where it stands, so good and bad events are decoded by
//! the same code and one bad line costs nothing.
//! Non-goals: limits of the body's size (`decompress` takes one), offsets, durability.

mod arrow_ipc;
mod avro;
mod budget;
mod column;
mod compress;
mod convert;
mod csv;
mod elements;
mod error;
mod fault;
mod guard;
mod infer;
mod json;
mod json_array;
mod messages;
mod ndjson;
mod number;
mod protobuf;
mod put;
mod registered;
mod sink;
mod text;
mod time;
mod unread;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use dovetail_model::{StreamSchema, UnknownColumns};

use crate::{DeadLetter, Format};
use column::Row;
use sink::Sink;
use text::without_bom;

pub use compress::{ContentEncoding, decompress};
pub use elements::{Element, elements};
pub use error::{DecodeError, Place};
pub use guard::{guarded, panics_are_caught};
pub use infer::infer;
pub use messages::{BadMessage, Messages};
pub use registered::{RegisteredSchema, SchemaReference, WriterSchema, WriterSchemas, schema_id};
pub use sink::OnError;

/// What one body may take in memory: a few bytes of text can ask for wide rows of nulls.
const MAX_DECODED_BYTES: usize = 512 << 20;

/// Decodes the events of one stream. Reusable, shared between threads.
#[derive(Debug, Clone)]
pub struct Decoder {
    schema: StreamSchema,
    declared: SchemaRef,
    max_decoded_bytes: usize,
}

/// What a body holds.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// The good events in their order, in the schema [`StreamSchema::declared`].
    pub events: RecordBatch,
    /// The bad ones in their order; always empty where they are refused.
    pub dead_letters: Vec<DeadLetter>,
}

impl Decoder {
    /// A decoder for events of `schema`.
    pub fn new(schema: &StreamSchema) -> Self {
        Self {
            schema: schema.clone(),
            declared: schema.declared(),
            max_decoded_bytes: MAX_DECODED_BYTES,
        }
    }

    /// The same with another limit than 512 MiB for what the events and dead letters of one body may take
    /// in memory.
    #[must_use]
    pub fn with_max_decoded_bytes(mut self, bytes: usize) -> Self {
        self.max_decoded_bytes = bytes;
        self
    }

    /// Decodes a whole body. `origin` is what dead letters say of where they came from.
    ///
    /// # Errors
    /// `Events` with the first bad event, if [`OnError::Reject`]; `Body` if the body is empty, cut off, or
    /// its header or schema does not fit; `TooLarge` if it decodes to more than the limit or is 2 GiB long;
    /// `UnsupportedMedia` for forms of Arrow streams that are not read.
    pub fn decode(
        &self,
        format: Format,
        body: &Bytes,
        on_error: OnError,
        origin: &str,
    ) -> Result<Decoded, DecodeError> {
        if let Some(encoding) = compress::found_in(body) {
            return Err(DecodeError::body(format!(
                "the body is compressed with {encoding}: say so with `Content-Encoding: {encoding}`, and compress it once"
            )));
        }
        match format {
            Format::Ndjson | Format::Json | Format::Csv => {
                let text = body.slice_ref(without_bom(body));
                self.decode_unmarked(format, &text, on_error, origin)
            }
            _ => self.decode_unmarked(format, body, on_error, origin),
        }
    }

    /// Decodes a dead letter by itself: the event that it is by now. A byte order mark is part of it, since that of its body was
    /// left out before there was a letter.
    ///
    /// # Errors
    /// Why it is still none, in the words of the first time.
    pub fn decode_letter(&self, letter: &DeadLetter) -> Result<RecordBatch, String> {
        let DeadLetter { format, origin, .. } = letter;
        let decoded = self.decode_unmarked(*format, &letter.bytes, OnError::DeadLetter, origin);
        let mut decoded = decoded.map_err(|error| error.to_string())?;
        match decoded.dead_letters.pop() {
            None => Ok(decoded.events),
            Some(DeadLetter { column, reason, .. }) => Err(match column {
                Some(column) => format!("column `{column}`: {reason}"),
                None => reason,
            }),
        }
    }

    fn decode_unmarked(
        &self,
        format: Format,
        body: &Bytes,
        on_error: OnError,
        origin: &str,
    ) -> Result<Decoded, DecodeError> {
        if i32::try_from(body.len()).is_err() {
            return Err(DecodeError::too_large(
                "the body is 2 GiB or larger; split it",
            ));
        }
        let mut sink = Sink::new(format, on_error, origin, self.max_decoded_bytes);
        let events = match format {
            Format::Ndjson => self.decode_text(ndjson::decode, body, &mut sink)?,
            Format::Json => self.decode_text(json_array::decode, body, &mut sink)?,
            Format::Csv => self.decode_text(csv::decode, body, &mut sink)?,
            Format::Arrow => arrow_ipc::decode(body, &self.schema, &self.declared, &mut sink)?,
            Format::Avro | Format::Protobuf => return Err(topics_only(format)),
        };
        Ok(Decoded {
            events,
            dead_letters: sink.finish()?,
        })
    }

    fn decode_text(
        &self,
        decode: TextDecode,
        body: &[u8],
        sink: &mut Sink<'_>,
    ) -> Result<RecordBatch, DecodeError> {
        let mut columns = self.row();
        decode(body, &mut columns, self.schema.unknown_columns, sink)?;
        batch_of(columns, &self.declared)
    }

    /// Columns that wait for events.
    fn row(&self) -> Row {
        let epoch = self.schema.event_time.as_ref().and_then(|event_time| {
            let unit = event_time.epoch?;
            Some((event_time.column.as_str(), unit))
        });
        Row::new(&self.schema.columns, epoch)
    }
}

/// A format whose messages say nothing without a registry of schemas.
fn topics_only(format: Format) -> DecodeError {
    DecodeError::UnsupportedMedia {
        reason: format!("{format} is read from Kafka topics only"),
    }
}

fn batch_of(columns: Row, declared: &SchemaRef) -> Result<RecordBatch, DecodeError> {
    columns
        .finish()
        .and_then(|columns| RecordBatch::try_new(Arc::clone(declared), columns))
        .map_err(|error| DecodeError::body(format!("the events do not form a batch: {error}")))
}

/// Decodes a whole text into columns, and hands what is bad to the sink.
type TextDecode = fn(&[u8], &mut Row, UnknownColumns, &mut Sink<'_>) -> Result<(), DecodeError>;

#[cfg(test)]
mod tests;
