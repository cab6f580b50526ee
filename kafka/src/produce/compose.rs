// SPDX-License-Identifier: Apache-2.0
//! From the body of a request to the records of a topic.
//!
//! JSON for a topic of JSON goes as it came, field for field, declared or not; what is decoded only decides whether it
//! may. Everything else is decoded and written anew, and refused unless it reads back as the same events. A record's
//! key, timestamp and headers are taken from the columns that read them, and their fields are left out of its value.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use bytes::Bytes;
use dovetail_log::Format;
use dovetail_log::decode::{
    BadMessage, DecodeError, Decoder, Element, OnError, Place, WriterSchemas, elements,
};
use dovetail_model::{KafkaSettings, MessageFormat, Problem, ProblemKind, StreamSchema};
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Message, ProduceError};
use crate::gather::value_schema;

/// Events of one request at most: each of them takes a few hundred bytes in the producer.
const MOST_EVENTS: usize = 1_000_000;

/// Writes each row of a batch as a value of the format.
pub type Encode<'a> = &'a dyn Fn(MessageFormat, &RecordBatch) -> Result<Vec<Bytes>, Problem>;

/// The body of a request.
#[derive(Debug, Clone, Copy)]
pub struct Body<'a> {
    /// How it is written.
    pub format: Format,
    /// All of it.
    pub bytes: &'a Bytes,
    /// What becomes of an event that cannot be decoded: it refuses the body; or it goes to the topic as it came, where
    /// the stream makes a dead letter of it.
    pub on_error: OnError,
}

/// The records of a body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Composed {
    /// In the order of the body.
    pub messages: Vec<Message>,
    /// How many of them are not events of the stream.
    pub rejected: u64,
}

/// Makes records of bodies, for a stream of `schema`.
#[derive(Debug)]
pub struct Composer<'a> {
    /// The stream's topic.
    pub settings: &'a KafkaSettings,
    /// The stream's schema.
    pub schema: &'a StreamSchema,
    /// Of that schema.
    pub decoder: &'a Decoder,
}

impl Composer<'_> {
    /// The records of `body`.
    ///
    /// # Errors
    /// Why the body, or an event of it, cannot go to the topic: with line or row, column and reason where it has them.
    pub fn compose(&self, body: Body<'_>, encode: Encode<'_>) -> Result<Composed, Problem> {
        let found = match self.settings.format {
            MessageFormat::Json => elements(body.format, body.bytes)?,
            MessageFormat::Csv => None,
            MessageFormat::Avro | MessageFormat::Protobuf => {
                return Err(unwritten(self.settings));
            }
        };
        match found {
            Some(elements) => self.as_it_came(body, &elements),
            None => self.written_anew(body, encode),
        }
    }

    fn as_it_came(&self, body: Body<'_>, elements: &[Element]) -> Result<Composed, Problem> {
        check_count(elements.len())?;
        let text = |element: &Element| &body.bytes[element.range.clone()];
        let decoded = self.decoder.decode_messages(
            MessageFormat::Json,
            &WriterSchemas::default(),
            elements.iter().map(text),
        )?;
        self.check_bad(body, elements, &decoded.bad)?;
        let mut bad = decoded.bad.iter().map(|bad| bad.index).peekable();
        let envelope = Envelope::of(self.settings, &decoded.events);
        let mut messages = Vec::with_capacity(elements.len());
        let mut row = 0;
        for (index, element) in elements.iter().enumerate() {
            if bad.next_if_eq(&index).is_some() {
                messages.push(Message {
                    value: body.bytes.slice(element.range.clone()),
                    ..Message::default()
                });
                continue;
            }
            let message = envelope
                .message(row, || self.value(body.bytes, &element.range))
                .map_err(|fault| fault.at(line(element)))?;
            messages.push(message);
            row += 1;
        }
        Ok(Composed {
            messages,
            rejected: decoded.bad.len() as u64,
        })
    }

    /// Refuses the body for its bad events, unless they will be dead letters.
    fn check_bad(
        &self,
        body: Body<'_>,
        elements: &[Element],
        bad: &[BadMessage],
    ) -> Result<(), DecodeError> {
        let refused = match body.on_error {
            OnError::Reject => bad.first(),
            // What is wrong may be wrong with the envelope alone: then the stream would read an event without it.
            OnError::DeadLetter => {
                let values = Decoder::new(&value_schema(self.schema, self.settings));
                let texts = bad
                    .iter()
                    .map(|bad| &body.bytes[elements[bad.index].range.clone()]);
                let read = values.decode_messages(
                    MessageFormat::Json,
                    &WriterSchemas::default(),
                    texts,
                )?;
                let still: Vec<usize> = read.bad.iter().map(|bad| bad.index).collect();
                let mut bad = bad.iter().enumerate();
                bad.find(|(index, _)| still.binary_search(index).is_err())
                    .map(|(_, bad)| bad)
            }
        };
        match refused {
            None => Ok(()),
            Some(first) => Err(DecodeError::Events {
                place: line(&elements[first.index]),
                column: first.column.clone(),
                reason: first.reason.clone(),
                bad: bad.len() as u64,
            }),
        }
    }

    /// The value of an event, without the fields that the record has elsewhere.
    fn value(&self, body: &Bytes, at: &Range<usize>) -> Result<Bytes, Fault> {
        if self.settings.envelope_columns().next().is_none() {
            return Ok(body.slice(at.clone()));
        }
        let fields: Fields<'_> = serde_json::from_slice(&body[at.clone()])
            .map_err(|error| Fault::new(None, error.to_string()))?;
        Ok(fields.without(|name| self.settings.envelope_columns().any(|other| other == name)))
    }

    fn written_anew(&self, body: Body<'_>, encode: Encode<'_>) -> Result<Composed, Problem> {
        let Body { format, bytes, .. } = body;
        let decoded = self
            .decoder
            .decode(format, bytes, OnError::Reject, "")
            .map_err(|error| kept_nowhere(body, self.settings, &error))?;
        check_count(decoded.events.num_rows())?;
        let schema = value_schema(self.schema, self.settings);
        let names: Vec<&str> = schema.columns.iter().map(|column| &*column.name).collect();
        let columns = names.iter().map(|name| decoded.events[*name].clone());
        let events = RecordBatch::try_new(schema.declared(), columns.collect());
        let events = events.map_err(Problem::internal)?;
        let values = encode(self.settings.format, &events)?;
        let read = Decoder::new(&schema).decode_messages(
            self.settings.format,
            &WriterSchemas::default(),
            values.iter().map(|value| &value[..]),
        )?;
        if !read.bad.is_empty() || read.events != events {
            return Err(lossy(body, self.settings, &read.bad));
        }
        let envelope = Envelope::of(self.settings, &decoded.events);
        let messages = values.into_iter().enumerate().map(|(row, value)| {
            let message = envelope.message(row, || Ok(value));
            message.map_err(|fault| {
                fault.at(Place {
                    line: None,
                    row: Some(row as u64 + 1),
                })
            })
        });
        Ok(Composed {
            messages: messages.collect::<Result<_, _>>()?,
            rejected: 0,
        })
    }
}

fn line(element: &Element) -> Place {
    Place {
        line: Some(element.line),
        row: None,
    }
}

fn check_count(events: usize) -> Result<(), Problem> {
    if events <= MOST_EVENTS {
        return Ok(());
    }
    let limit = MOST_EVENTS;
    Err(ProduceError::TooMany { events, limit }.problem())
}

/// The refusal of a bad event that has no form in which the topic could keep it.
fn kept_nowhere(body: Body<'_>, settings: &KafkaSettings, error: &DecodeError) -> Problem {
    let mut problem = error.problem();
    if body.on_error == OnError::DeadLetter && matches!(error, DecodeError::Events { .. }) {
        problem.detail = format!(
            "{}; a bad event of a {} body cannot be kept in topic `{}`, whose values are {}, so errors=dead-letter refuses it, too",
            problem.detail,
            body.format,
            settings.topic,
            name(settings.format),
        );
    }
    problem
}

/// The refusal of any body for a topic whose values need a schema of a registry: which one, its producers decide.
fn unwritten(settings: &KafkaSettings) -> Problem {
    let topic = &settings.topic;
    let name = name(settings.format);
    Problem::new(
        ProblemKind::UnsupportedMedia,
        format!(
            "topic `{topic}` holds {name} with schemas of a registry, which the stream reads and does not write; \
             only topics of JSON and CSV take events over HTTP: produce {name} to the topic itself"
        ),
    )
}

fn lossy(body: Body<'_>, settings: &KafkaSettings, bad: &[BadMessage]) -> Problem {
    let reason = match bad.first() {
        Some(bad) => format!("row {}: {}", bad.index + 1, bad.reason),
        None => "they read back as others".to_owned(),
    };
    let kind = ProblemKind::UnsupportedMedia;
    Problem::new(
        kind,
        format!(
            "the events of this {} body cannot be written as {}, which topic `{}` holds, without a loss: {reason}; send them as {} lines",
            body.format,
            name(settings.format),
            settings.topic,
            name(settings.format),
        ),
    )
}

fn name(format: MessageFormat) -> &'static str {
    match format {
        MessageFormat::Json => "JSON",
        MessageFormat::Csv => "CSV",
        MessageFormat::Avro => "Avro",
        MessageFormat::Protobuf => "Protobuf",
    }
}

/// Why an event has no place in a record.
struct Fault {
    column: Option<String>,
    reason: String,
}

impl Fault {
    fn new(column: Option<&str>, reason: impl Into<String>) -> Self {
        Self {
            column: column.map(str::to_owned),
            reason: reason.into(),
        }
    }

    fn at(self, place: Place) -> Problem {
        let error = DecodeError::Events {
            place,
            column: self.column,
            reason: self.reason,
            bad: 1,
        };
        error.problem()
    }
}

/// The columns of events that are no part of a record's value.
struct Envelope<'a> {
    settings: &'a KafkaSettings,
    events: &'a RecordBatch,
}

impl<'a> Envelope<'a> {
    fn of(settings: &'a KafkaSettings, events: &'a RecordBatch) -> Self {
        Self { settings, events }
    }

    fn message(
        &self,
        row: usize,
        value: impl FnOnce() -> Result<Bytes, Fault>,
    ) -> Result<Message, Fault> {
        let settings = self.settings;
        let of = |column: &'a Option<String>| {
            let name = column.as_deref()?;
            let column = self.events.column_by_name(name)?;
            column.is_valid(row).then_some((name, column))
        };
        let key = of(&settings.key_column);
        let key = key.map(|(_, keys)| text(keys.as_string::<i32>(), row));
        let timestamp = of(&settings.timestamp_column);
        let timestamp = timestamp.map(|(name, times)| {
            let micros = times.as_primitive::<TimestampMicrosecondType>().value(row);
            millis(micros).map_err(|reason| Fault::new(Some(name), reason))
        });
        let headers = of(&settings.headers_column);
        let headers = headers.map(|(name, lists)| {
            let pairs = lists.as_list::<i32>().value(row);
            pairs_of(pairs.as_ref()).map_err(|reason| Fault::new(Some(name), reason))
        });
        Ok(Message {
            value: value()?,
            key,
            timestamp_ms: timestamp.transpose()?,
            headers: headers.transpose()?.unwrap_or_default(),
        })
    }
}

fn text(column: &arrow::array::StringArray, row: usize) -> Bytes {
    Bytes::copy_from_slice(column.value(row).as_bytes())
}

/// The timestamp of a record, if it can have this one.
fn millis(micros: i64) -> Result<i64, &'static str> {
    if micros % 1000 != 0 {
        return Err("the timestamp of a record has milliseconds, and this time is finer");
    }
    // Kafka has no time before its epoch, and its clients take 0 for none.
    if micros <= 0 {
        return Err("the timestamp of a record lies after 1970-01-01T00:00:00");
    }
    Ok(micros / 1000)
}

fn pairs_of(pairs: &dyn Array) -> Result<Vec<(String, Option<Bytes>)>, &'static str> {
    let pairs = pairs.as_struct();
    let (names, values) = (pairs.column(0), pairs.column(1));
    let (names, values) = (names.as_string::<i32>(), values.as_string::<i32>());
    let pair = |row: usize| {
        if pairs.is_null(row) || names.is_null(row) {
            return Err("a header needs a name");
        }
        let name = names.value(row);
        if name.contains('\0') {
            return Err("the name of a header holds a zero byte");
        }
        let value = values.is_valid(row).then(|| text(values, row));
        Ok((name.to_owned(), value))
    };
    (0..pairs.len()).map(pair).collect()
}

/// The fields of a JSON object, each as it came.
struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl Fields<'_> {
    fn without(&self, left_out: impl Fn(&str) -> bool) -> Bytes {
        let mut object = vec![b'{'];
        for (name, value) in &self.0 {
            if left_out(name) {
                continue;
            }
            if object.len() > 1 {
                object.push(b',');
            }
            object.extend(serde_json::Value::from(&**name).to_string().into_bytes());
            object.push(b':');
            object.extend(value.get().as_bytes());
        }
        object.push(b'}');
        object.into()
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some((name, value)) = map.next_entry::<Name<'de>, _>()? {
                    fields.push((name.0, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests;
