// SPDX-License-Identifier: Apache-2.0
//! Messages whose schema a registry keeps: Confluent's wire format, and what a stream makes of the schemas.
//!
//! A message is a zero byte, the id of its schema as four bytes, big endian, and what was encoded. An id means one
//! schema for ever, so a [`WriterSchema`] is made once.

use std::collections::HashMap;
use std::sync::Arc;

use dovetail_model::MessageFormat;

use super::Decoder;
use super::avro;
use super::budget::Budget;
use super::column::Row;
use super::fault::{Outcome, worded};
use super::protobuf;

/// Bytes before what was encoded.
const FRAME: usize = 5;

/// A schema as a registry keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredSchema {
    /// Its type, in the registry's words: `AVRO`, `PROTOBUF`.
    pub kind: String,
    /// The schema.
    pub text: String,
    /// The schemas that it refers to, each behind those that it refers to itself.
    pub references: Vec<SchemaReference>,
}

/// A schema that another refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaReference {
    /// As the others call it: a file that they import.
    pub name: String,
    /// The schema.
    pub text: String,
}

/// A schema as a stream reads it: laid against its columns. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WriterSchema(Arc<Result<Writer, String>>);

#[derive(Debug)]
enum Writer {
    Avro(avro::Plan),
    Protobuf(protobuf::Plan),
}

/// The schemas of messages, by their ids.
#[derive(Debug, Clone, Default)]
pub struct WriterSchemas(HashMap<u32, WriterSchema>);

impl WriterSchemas {
    /// Whether messages of this schema can be told.
    pub fn contains(&self, id: u32) -> bool {
        self.0.contains_key(&id)
    }

    /// From now on messages of this schema are read.
    pub fn insert(&mut self, id: u32, schema: WriterSchema) {
        self.0.insert(id, schema);
    }
}

/// The id of the schema of a message, if it begins as Confluent's wire format has it.
pub fn schema_id(message: &[u8]) -> Option<u32> {
    match message {
        [0, a, b, c, d, ..] => Some(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => None,
    }
}

impl Decoder {
    /// Lays a schema against the columns of the stream. One that cannot be used makes each of its messages a bad one,
    /// with the reason.
    pub fn writer_schema(&self, format: MessageFormat, schema: &RegisteredSchema) -> WriterSchema {
        let (columns, unknown) = (&self.schema.columns, self.schema.unknown_columns);
        let writer = match (format, schema.kind.as_str()) {
            (MessageFormat::Avro, "AVRO") => {
                let references = schema.references.iter().map(|r| r.text.as_str());
                avro::Plan::new(&schema.text, references, columns, unknown).map(Writer::Avro)
            }
            (MessageFormat::Protobuf, "PROTOBUF") => {
                protobuf::Plan::new(schema, columns, unknown).map(Writer::Protobuf)
            }
            (_, kind) => Err(format!("it is a schema of type {kind}")),
        };
        WriterSchema(Arc::new(writer))
    }
}

/// Reads messages of registered schemas.
pub(super) struct RegisteredReader<'a> {
    schemas: &'a WriterSchemas,
    /// The schema of the last message; mostly the next one's, too.
    last: Option<(u32, &'a WriterSchema)>,
}

impl<'a> RegisteredReader<'a> {
    pub(super) fn new(schemas: &'a WriterSchemas) -> Self {
        Self {
            schemas,
            last: None,
        }
    }

    pub(super) fn read(
        &mut self,
        message: &[u8],
        columns: &mut Row,
        row: usize,
        budget: &mut Budget,
    ) -> Outcome<()> {
        let Some(id) = schema_id(message) else {
            return worded(
                "it does not begin with a zero byte and the four bytes of a schema's id".to_owned(),
            );
        };
        let schema = match self.last {
            Some((last, schema)) if last == id => schema,
            _ => match self.schemas.0.get(&id) {
                Some(schema) => schema,
                None => return worded(format!("schema {id} is not known")),
            },
        };
        self.last = Some((id, schema));
        let body = &message[FRAME..];
        match schema.0.as_ref() {
            Ok(Writer::Avro(plan)) => plan.read(body, columns, row, budget),
            Ok(Writer::Protobuf(plan)) => plan.read(body, columns, row, budget),
            Err(reason) => worded(format!("schema {id} cannot be used: {reason}")),
        }
    }
}
