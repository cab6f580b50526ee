// SPDX-License-Identifier: Apache-2.0
//! Dead letters as records once more, and the mark of such a record.
//!
//! Whoever reads an event with the mark of its stream settles the letter with the same batch: event and settlement are
//! one record, so there is no moment between them. A mark of another stream, which reads the same topic or did so once,
//! names a record that this one has read itself, as an event or as a letter of its own: such a record is left out. But
//! not where this stream began behind the one that is named: then it is an event like any other.
//!
//! Taking the headers of a record apart costs a fifth of reading it, even where it has none. So a record with a mark ends in
//! a line end, which means nothing in JSON or CSV, and the headers of others are not looked at. Avro and Protobuf have
//! nothing that means nothing: there all headers are looked at.

use std::collections::BTreeSet;
use std::str;
use std::time::Duration;

use bytes::Bytes;
use dovetail_log::decode::{Decoder, OnError, WriterSchemas, schema_id};
use dovetail_log::raw::ArchivedDeadLetter;
use dovetail_log::{DeadLetter, Envelope, Format, Place};
use dovetail_model::{
    KafkaSettings, MessageFormat, Offset, PartitionId, StreamDef, StreamId, StreamSchema,
};

use crate::KafkaError;
use crate::gather::value_schema;
use crate::native::Record;
use crate::produce::Message;
use crate::produce::compose::{Body, Composer, Encode};
use crate::registry::Registry;

/// The header that names the letter, as `stream:partition@offset`.
pub(crate) const HEADER: &str = "dovetail-replays";

/// White space behind a JSON object, the end of a CSV record.
const SIGN: u8 = b'\n';

/// How long the registry has to answer.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes records of the dead letters of one stream.
#[derive(Debug)]
pub struct Replayer<'a> {
    def: &'a StreamDef,
    settings: &'a KafkaSettings,
    /// Of the columns that the values of records have.
    values: StreamSchema,
    decoder: Decoder,
}

impl<'a> Replayer<'a> {
    /// For the letters of `def`, which reads the topic of `settings`.
    pub fn new(def: &'a StreamDef, settings: &'a KafkaSettings) -> Self {
        let values = value_schema(&def.schema, settings);
        Self {
            def,
            settings,
            decoder: Decoder::new(&values),
            values,
        }
    }

    /// The record of each letter that is an event of the declared schema by now, with its mark, or why it is none. It has
    /// the key and the headers of the first try, and the timestamp where that is a column. Blocks while a schema registry is
    /// asked.
    ///
    /// # Errors
    /// When the registry does not answer.
    pub fn records(
        &self,
        letters: &[ArchivedDeadLetter],
        encode: Encode<'_>,
    ) -> Result<Vec<Result<Message, String>>, KafkaError> {
        let schemas = self.schemas(letters)?;
        let record = |letter: &ArchivedDeadLetter| {
            let envelope = letter.letter.envelope.as_ref();
            self.fits(envelope)?;
            let value = self.value(&letter.letter, &schemas, encode)?;
            let mut message = Message {
                value,
                ..Message::default()
            };
            if let Some(envelope) = envelope {
                message.key = envelope.key.clone();
                message.headers = envelope.headers.clone();
                let is_column = self.settings.timestamp_column.is_some();
                message.timestamp_ms = envelope.timestamp_ms.filter(|_| is_column);
            }
            let place = (letter.partition, letter.offset);
            Ok(self.mark(place, message))
        };
        Ok(letters.iter().map(record).collect())
    }

    /// The schemas of values that are in a registry, of those that it has.
    fn schemas(&self, letters: &[ArchivedDeadLetter]) -> Result<WriterSchemas, KafkaError> {
        let mut schemas = WriterSchemas::default();
        let Some(registry) = self.settings.schema_registry.as_ref().map(Registry::new) else {
            return Ok(schemas);
        };
        let ids = letters.iter();
        let ids = ids.filter_map(|letter| schema_id(&letter.letter.bytes));
        for id in ids.collect::<BTreeSet<u32>>() {
            if let Some(schema) = registry.schema(id, REGISTRY_TIMEOUT)? {
                let schema = self.decoder.writer_schema(self.settings.format, &schema);
                schemas.insert(id, schema);
            }
        }
        Ok(schemas)
    }

    /// What the letter holds as the value of a record.
    ///
    /// # Errors
    /// Why that is no event's.
    fn value(
        &self,
        letter: &DeadLetter,
        schemas: &WriterSchemas,
        encode: Encode<'_>,
    ) -> Result<Bytes, String> {
        if self.settings.format.needs_registry() {
            return self.as_it_came(&letter.bytes, schemas);
        }
        if letter.format == Format::Csv {
            // The header line names the columns of its time: the record itself may have those that came since.
            let record = letter.bytes.slice(header_len(&letter.bytes)..);
            if let Ok(value) = self.as_it_came(&record, schemas) {
                return Ok(value);
            }
        }
        if letter.format == Format::Json && first_solid(&letter.bytes) != Some(b'{') {
            return Err("a record holds one JSON object".to_owned());
        }
        let bare = KafkaSettings {
            key_column: None,
            timestamp_column: None,
            headers_column: None,
            ..self.settings.clone()
        };
        let composer = Composer {
            settings: &bare,
            schema: &self.values,
            decoder: &self.decoder,
        };
        let body = Body {
            format: letter.format,
            bytes: &letter.bytes,
            on_error: OnError::Reject,
        };
        let composed = composer.compose(body, encode);
        let composed = composed.map_err(|problem| problem.detail)?;
        match <[Message; 1]>::try_from(composed.messages) {
            Ok([message]) => Ok(message.value),
            Err(messages) => Err(format!("it holds {} events", messages.len())),
        }
    }

    /// `value` itself, if it is an event's.
    fn as_it_came(&self, value: &Bytes, schemas: &WriterSchemas) -> Result<Bytes, String> {
        let format = self.settings.format;
        let read = self.decoder.decode_messages(format, schemas, [&value[..]]);
        let mut read = read.map_err(|error| error.to_string())?;
        match read.bad.pop() {
            None => Ok(value.clone()),
            Some(bad) => Err(match bad.column {
                Some(column) => format!("column `{column}`: {}", bad.reason),
                None => bad.reason,
            }),
        }
    }

    /// That the columns that are not of the value can hold what the record has.
    ///
    /// # Errors
    /// Which cannot.
    fn fits(&self, envelope: Option<&Envelope>) -> Result<(), String> {
        let Some(envelope) = envelope else {
            return match self.settings.envelope_columns().next() {
                None => Ok(()),
                Some(column) => Err(format!(
                    "the letter is from before keys, timestamps and headers were kept, and column `{column}` is none of the value"
                )),
            };
        };
        let may_be_null = |name: &str| {
            let mut columns = self.def.schema.columns.iter();
            columns.any(|column| column.name == name && column.nullable)
        };
        let is_text = |bytes: &[u8]| str::from_utf8(bytes).is_ok();
        let missing = |what: &str, column: &str| {
            Err(format!(
                "the record has no {what}, and column `{column}` is NOT NULL"
            ))
        };
        if let Some(column) = &self.settings.key_column {
            match &envelope.key {
                Some(key) if !is_text(key) => {
                    return Err(format!(
                        "the record's key is not UTF-8, and column `{column}` is a VARCHAR"
                    ));
                }
                None if !may_be_null(column) => return missing("key", column),
                _ => {}
            }
        }
        if let Some(column) = &self.settings.timestamp_column
            && envelope.timestamp_ms.is_none()
            && !may_be_null(column)
        {
            return missing("timestamp", column);
        }
        let mut headers = envelope.headers.iter();
        if let Some(column) = &self.settings.headers_column
            && !headers.all(|(name, value)| {
                !name.contains(char::REPLACEMENT_CHARACTER) && value.as_deref().is_none_or(is_text)
            })
        {
            return Err(format!(
                "a header is not UTF-8, and column `{column}` holds text"
            ));
        }
        Ok(())
    }

    /// `message` as another try at the letter at `place`.
    fn mark(&self, (partition, offset): Place, mut message: Message) -> Message {
        if has_sign(self.settings.format) && message.value.last() != Some(&SIGN) {
            let mut value = Vec::from(message.value);
            value.push(SIGN);
            message.value = value.into();
        }
        // The letter of a replay that failed has the mark of the one before.
        message.headers.retain(|(name, _)| name != HEADER);
        let letter = format!("{}:{partition}@{offset}", self.def.id);
        message
            .headers
            .push((HEADER.to_owned(), Some(letter.into())));
        message
    }
}

/// Whether a value of the format ends in a line end where it replays a letter.
fn has_sign(format: MessageFormat) -> bool {
    !format.needs_registry()
}

/// Bytes of the header line of a CSV letter.
fn header_len(letter: &[u8]) -> usize {
    let mut quoted = false;
    let end = letter.iter().position(|byte| {
        quoted ^= *byte == b'"';
        *byte == b'\n' && !quoted
    });
    end.map_or(letter.len(), |end| end + 1)
}

fn first_solid(text: &[u8]) -> Option<u8> {
    text.iter()
        .copied()
        .find(|byte| !byte.is_ascii_whitespace())
}

/// What a record replays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// A letter of the stream that reads it.
    Own(Place),
    /// A letter of another stream.
    Other(Place),
}

/// The mark of a record of the format, if it has one, as `stream` reads it.
pub(crate) fn of(stream: &StreamId, format: MessageFormat, record: &Record<'_>) -> Option<Mark> {
    if has_sign(format) && record.value()?.last() != Some(&SIGN) {
        return None;
    }
    let mut headers = record.headers().into_iter();
    let (_, value) = headers.find(|(name, _)| *name == HEADER.as_bytes())?;
    read(stream, value?)
}

fn read(stream: &StreamId, value: &[u8]) -> Option<Mark> {
    let (of, place) = str::from_utf8(value).ok()?.split_once(':')?;
    let (partition, offset) = place.split_once('@')?;
    let place = (
        PartitionId(partition.parse().ok()?),
        Offset(offset.parse().ok()?),
    );
    let other: StreamId = of.parse().ok()?;
    Some(match other == *stream {
        true => Mark::Own(place),
        false => Mark::Other(place),
    })
}

#[cfg(test)]
mod tests;
