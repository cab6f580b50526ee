// SPDX-License-Identifier: Apache-2.0
//! What the log hands on: committed events, and what could not be decoded.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{RecordBatch, new_null_array};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use bytes::Bytes;
use dovetail_model::{Offset, PartitionId, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A wire format of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One JSON object per line: `application/x-ndjson`.
    Ndjson,
    /// One JSON array of objects: `application/json`.
    Json,
    /// RFC 4180 with a header line: `text/csv`.
    Csv,
    /// An Arrow IPC stream: `application/vnd.apache.arrow.stream`.
    Arrow,
    /// An Avro message behind the id of its schema: only of dead letters of a Kafka topic.
    Avro,
    /// A Protobuf message behind the id of its schema: only of dead letters of a Kafka topic.
    Protobuf,
}

impl Format {
    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Ndjson => "application/x-ndjson",
            Self::Json => "application/json",
            Self::Csv => "text/csv",
            Self::Arrow => "application/vnd.apache.arrow.stream",
            Self::Avro => "application/avro",
            Self::Protobuf => "application/protobuf",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ndjson => "ndjson",
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Arrow => "arrow",
            Self::Avro => "avro",
            Self::Protobuf => "protobuf",
        })
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ndjson" | "jsonl" => Ok(Self::Ndjson),
            "json" => Ok(Self::Json),
            "csv" => Ok(Self::Csv),
            "arrow" => Ok(Self::Arrow),
            "avro" => Ok(Self::Avro),
            "protobuf" => Ok(Self::Protobuf),
            other => Err(format!(
                "`{other}` is not a format: use ndjson, json, csv or arrow"
            )),
        }
    }
}

/// One event that could not be decoded, kept so that it can be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The event as it came, decodable alone in `format` (a CSV record keeps its header line before it).
    pub bytes: Bytes,
    /// The format it came in.
    pub format: Format,
    /// Why it could not be decoded.
    pub reason: String,
    /// Line in its request, from 1, where lines mean something.
    pub line: Option<u64>,
    /// The column, or the path of the field, that is wrong, when one is.
    pub column: Option<String>,
    /// Where it came from, such as `http` or `kafka flights/3@1234`.
    pub origin: String,
    /// What its record has beside the value, where it was one of a broker's.
    pub envelope: Option<Envelope>,
}

/// What a broker's record has beside its value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Envelope {
    /// Its key.
    pub key: Option<Bytes>,
    /// Its timestamp, milliseconds since the Unix epoch.
    pub timestamp_ms: Option<i64>,
    /// Its headers in their order. What is no UTF-8 in a name is replaced.
    pub headers: Vec<(String, Option<Bytes>)>,
}

impl DeadLetter {
    /// Bytes of what came from outside.
    pub fn size(&self) -> usize {
        self.bytes.len() + self.envelope.as_ref().map_or(0, Envelope::size)
    }
}

impl Envelope {
    fn size(&self) -> usize {
        let len = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers = self.headers.iter();
        len(&self.key)
            + headers
                .map(|(name, value)| name.len() + len(value))
                .sum::<usize>()
    }
}

/// The place of one event or dead letter in its stream.
pub type Place = (PartitionId, Offset);

/// One durable micro-batch: what the archive and the speed layer both get.
///
/// It holds everything that lies in its span, of each partition that moves in it. Events and dead letters share the
/// offsets; each takes one, and an offset may be taken by neither.
#[derive(Debug, Clone)]
pub struct CommittedBatch {
    /// What of the stream it holds.
    pub span: Span,
    /// When it was committed, microseconds since the Unix epoch.
    pub arrived_at_us: i64,
    /// The events, in the stream's events schema, system columns included, in order of partition, then offset.
    pub events: RecordBatch,
    /// What could not be decoded.
    pub dead_letters: Vec<(Place, DeadLetter)>,
    /// Earlier dead letters that this append replayed and that are settled by it.
    pub replayed: Vec<Place>,
}

impl CommittedBatch {
    /// Bytes of its columns and dead letters in memory.
    pub fn bytes(&self) -> usize {
        let letters = self.dead_letters.iter();
        let dead: usize = letters.map(|(_, letter)| letter.size()).sum();
        // Columns read back from the log share one buffer: count what each one uses, not what it could.
        let columns = self
            .events
            .columns()
            .iter()
            .map(|column| column.to_data().get_slice_memory_size().unwrap_or(0));
        columns.sum::<usize>() + dead
    }

    /// The batch with its events in `schema`, the stream's events schema of another moment: columns are found by
    /// name, those that it lacks are null.
    ///
    /// # Errors
    /// When a column has another type, or one that may not be null lacks values.
    pub fn in_schema(&self, schema: &SchemaRef) -> Result<Self, ArrowError> {
        Ok(Self {
            events: in_schema(&self.events, schema)?,
            ..self.clone()
        })
    }
}

/// `batch` with the columns of `schema`: those it lacks are null, those that `schema` lacks are left out.
pub(crate) fn in_schema(
    batch: &RecordBatch,
    schema: &SchemaRef,
) -> Result<RecordBatch, ArrowError> {
    if batch.schema_ref() == schema {
        return Ok(batch.clone());
    }
    let columns = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(column) => Arc::clone(column),
            None => new_null_array(field.data_type(), batch.num_rows()),
        });
    RecordBatch::try_new(Arc::clone(schema), columns.collect())
}
