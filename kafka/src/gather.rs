// SPDX-License-Identifier: Apache-2.0
//! From records to a committed batch: decode the values, fill the columns of the envelope, keep what is bad.
//!
//! Invariants: every record of a [`Batch`] becomes an event, a dead letter, or a counted tombstone; the span ends
//! behind all of them and wherever the partition says that it ends. But for a record whose schema cannot be had: what
//! its partition has from there on is as if it had not been read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, Int32Array, Int64Array, ListBuilder, RecordBatch, StringBuilder, StructBuilder,
    TimestampMicrosecondArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use bytes::Bytes;
use dovetail_log::decode::{BadMessage, Decoder, Messages, WriterSchemas, schema_id};
use dovetail_log::{CommittedBatch, DeadLetter, Envelope, Place};
use dovetail_model::{
    KafkaSettings, KafkaSource, Offset, PartitionId, Position, Span, StreamId, StreamSchema,
    Tombstones,
};
use parking_lot::Mutex;

use crate::KafkaError;
use crate::native::{Batch, Fault, Item, Record};
use crate::probe::{partition_id, place};
use crate::registry::Registry;
use crate::replay::{self, Mark};

/// Makes batches of one schema.
#[derive(Debug)]
pub(crate) struct Gatherer {
    stream: StreamId,
    settings: KafkaSettings,
    /// Of the columns that the values of records have.
    decoder: Decoder,
    /// Where the schemas of the values are, if they need any, and those that were needed so far.
    registry: Option<Arc<Registry>>,
    schemas: Mutex<WriterSchemas>,
    events: SchemaRef,
    /// Where each declared column comes from.
    origins: Vec<Origin>,
    /// Where the stream begins.
    start: Position,
}

#[derive(Debug, Clone, Copy)]
enum Origin {
    /// A column of the decoder.
    Value(usize),
    Key,
    Timestamp,
    Headers,
}

/// What the records of one call make together.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// Where each partition stands now, of those that moved.
    pub(crate) next: BTreeMap<PartitionId, Offset>,
    /// When the last record of each partition was made, milliseconds since the Unix epoch.
    pub(crate) timestamps_ms: BTreeMap<PartitionId, i64>,
    pub(crate) faults: Vec<(i32, Fault)>,
    pub(crate) skipped: Skipped,
    /// Why a partition was not read to the end of the batch.
    pub(crate) held: Option<Held>,
    events: Vec<RecordBatch>,
    dead_letters: Vec<(Place, DeadLetter)>,
    /// The dead letters that records are other tries at, by the places of these.
    tries: BTreeMap<Place, Place>,
    /// Dead letters that the events are replays of.
    replayed: Vec<Place>,
}

/// Why records are no batch.
struct Unfit {
    reason: String,
    /// The column that cannot hold what one of them has.
    column: Option<String>,
}

impl Unfit {
    fn whole(error: impl std::fmt::Display) -> Self {
        Self {
            reason: error.to_string(),
            column: None,
        }
    }
}

/// Records that were left out, and why.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Skipped {
    pub(crate) tombstones: u64,
    /// Replays of other streams.
    pub(crate) replays: u64,
}

/// A record that waits for its schema.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) schema: u32,
    /// Why there is none.
    pub(crate) error: KafkaError,
}

impl Gatherer {
    pub(crate) fn new(
        stream: &StreamId,
        schema: &StreamSchema,
        source: &KafkaSource,
        registry: Option<Arc<Registry>>,
    ) -> Self {
        let settings = &source.settings;
        let values = value_schema(schema, settings);
        let origin = |name: &str| {
            let is = |column: &Option<String>| column.as_deref() == Some(name);
            if is(&settings.key_column) {
                Origin::Key
            } else if is(&settings.timestamp_column) {
                Origin::Timestamp
            } else if is(&settings.headers_column) {
                Origin::Headers
            } else {
                let at = values.columns.iter().position(|column| column.name == name);
                Origin::Value(at.expect("what is not of the envelope is of the value"))
            }
        };
        Self {
            origins: schema
                .columns
                .iter()
                .map(|column| origin(&column.name))
                .collect(),
            stream: stream.clone(),
            settings: settings.clone(),
            decoder: Decoder::new(&values),
            registry,
            schemas: Mutex::default(),
            events: schema.events(),
            start: source.start.clone(),
        }
    }

    /// Takes a batch of librdkafka's apart. Blocks for up to `within` for each schema that it is the first to need.
    pub(crate) fn gather(
        &self,
        batch: &Batch<'_>,
        arrived_at_us: i64,
        within: Duration,
    ) -> Gathered {
        let mut gathered = Gathered::default();
        let ends = match &self.registry {
            Some(registry) => self.learn(registry, batch, within, &mut gathered),
            None => BTreeMap::new(),
        };
        let is_held =
            |partition: i32, at: i64| ends.get(&partition).is_some_and(|held| at >= *held);
        let mut records = Vec::new();
        // Records come in long rows of one partition: only the last of a row says how far that is.
        let mut last: Option<Record<'_>> = None;
        for item in batch.iter() {
            match item {
                Item::Record(record) if is_held(record.partition(), record.offset()) => {}
                Item::End { partition, next } if is_held(partition, next) => {}
                Item::Record(record) => {
                    if let Some(before) = last.replace(record)
                        && before.partition() != record.partition()
                    {
                        gathered.read(before);
                    }
                    match record.value() {
                        Some(value) => {
                            match replay::of(&self.stream, self.settings.format, &record) {
                                Some(Mark::Other(letter)) if self.has_read(letter) => {
                                    gathered.skipped.replays += 1;
                                }
                                mark => {
                                    if let Some(Mark::Own(letter)) = mark {
                                        gathered.tries.insert(place_of(record), letter);
                                    }
                                    records.push((record, value));
                                }
                            }
                        }
                        None if self.settings.tombstones == Tombstones::Skip => {
                            gathered.skipped.tombstones += 1;
                        }
                        None => {
                            let reason = "the record has no value (a tombstone); to leave such records out, declare the stream with tombstones = 'skip'";
                            gathered.refuse(self, record, &[], None, reason.to_owned());
                        }
                    }
                }
                Item::End { partition, next } => gathered.moved(partition, next),
                Item::Fault { partition, fault } => gathered.faults.push((partition, fault)),
            }
        }
        if let Some(last) = last {
            gathered.read(last);
        }
        // Partitions come interleaved, each in its own order.
        records.sort_by_key(|(record, _)| record.partition());
        self.decode(&records, arrived_at_us, &mut gathered);
        gathered
    }

    /// Whether the stream began before a place, so that it has read what is there.
    fn has_read(&self, (partition, offset): Place) -> bool {
        offset >= self.start.get(partition)
    }

    /// Gets the schemas that the batch needs. Where one cannot be had: the offset of the first record of each
    /// partition that needs it.
    fn learn(
        &self,
        registry: &Registry,
        batch: &Batch<'_>,
        within: Duration,
        gathered: &mut Gathered,
    ) -> BTreeMap<i32, i64> {
        let mut schemas = self.schemas.lock();
        let mut missing: BTreeMap<u32, Option<KafkaError>> = BTreeMap::new();
        let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
        for item in batch.iter() {
            let Item::Record(record) = item else { continue };
            let Some(id) = record.value().and_then(schema_id) else {
                continue;
            };
            if schemas.contains(id) {
                continue;
            }
            if !missing.contains_key(&id) {
                // One that does not answer is not asked again and again.
                let silent = missing.values().flatten().next().cloned();
                let found = silent.map_or_else(|| registry.schema(id, within), Err);
                match found {
                    Ok(Some(schema)) => {
                        let schema = self.decoder.writer_schema(self.settings.format, &schema);
                        schemas.insert(id, schema);
                        continue;
                    }
                    Ok(None) => drop(missing.insert(id, None)),
                    Err(error) => drop(missing.insert(id, Some(error))),
                }
            }
            let at = record.offset();
            let end = ends.entry(record.partition()).or_insert(at);
            if *end == at && gathered.held.is_none() {
                let error = missing[&id].clone();
                gathered.held = Some(Held {
                    schema: id,
                    error: error.unwrap_or_else(|| self.unknown(id, record, batch)),
                });
            }
        }
        ends
    }

    /// The error of a record whose schema the registry does not have: with those of the same schema behind it.
    fn unknown(&self, id: u32, first: Record<'_>, batch: &Batch<'_>) -> KafkaError {
        let records = batch.iter().filter_map(|item| match item {
            Item::Record(record) => Some(record),
            _ => None,
        });
        let (partition, offset) = place_of(first);
        let last = records
            .filter(|record| record.partition() == first.partition())
            .skip_while(|record| record.offset() < first.offset())
            .take_while(|record| record.value().and_then(schema_id) == Some(id))
            .last()
            .unwrap_or(first);
        KafkaError::UnknownSchema {
            topic: self.settings.topic.clone(),
            partition,
            offset,
            to: place_of(last).1.next(),
            id,
        }
    }

    /// Turns records into events and dead letters. Where they cannot become one batch (they are too much for it, or a
    /// column of the envelope cannot hold what one of them has), in halves, down to the one that stands in the way.
    fn decode(&self, records: &[(Record<'_>, &[u8])], arrived_at_us: i64, gathered: &mut Gathered) {
        if records.is_empty() {
            return;
        }
        match (self.batch(records, arrived_at_us), records) {
            (Ok((events, bad)), _) => {
                gathered.events.push(events);
                gathered.settle(records, &bad);
                for BadMessage {
                    index,
                    reason,
                    column,
                } in bad
                {
                    let (record, value) = records[index];
                    gathered.refuse(self, record, value, column, reason);
                }
            }
            (Err(Unfit { reason, column }), [(record, value)]) => {
                gathered.refuse(self, *record, value, column, reason);
            }
            (Err(_), _) => {
                let (left, right) = records.split_at(records.len() / 2);
                self.decode(left, arrived_at_us, gathered);
                self.decode(right, arrived_at_us, gathered);
            }
        }
    }

    /// The events of records, and those of them that hold none.
    fn batch(
        &self,
        records: &[(Record<'_>, &[u8])],
        arrived_at_us: i64,
    ) -> Result<(RecordBatch, Vec<BadMessage>), Unfit> {
        let values = records.iter().map(|(_, value)| *value);
        let schemas = self.schemas.lock();
        let format = self.settings.format;
        let decoded = self.decoder.decode_messages(format, &schemas, values);
        let Messages { events, bad } = decoded.map_err(Unfit::whole)?;
        let mut indices = bad.iter().map(|bad| bad.index).peekable();
        let good: Vec<Record<'_>> = records
            .iter()
            .enumerate()
            .filter(|(index, _)| indices.next_if_eq(index).is_none())
            .map(|(_, (record, _))| *record)
            .collect();
        let events = self.assemble(&events, &good, arrived_at_us)?;
        Ok((events, bad))
    }

    /// The declared columns of good records, then the system columns.
    fn assemble(
        &self,
        values: &RecordBatch,
        records: &[Record<'_>],
        arrived_at_us: i64,
    ) -> Result<RecordBatch, Unfit> {
        let column = |(origin, field): (&Origin, &FieldRef)| {
            let (what, made) = match origin {
                Origin::Value(index) => return Ok(Arc::clone(values.column(*index))),
                Origin::Key => ("key", keys(records)),
                Origin::Timestamp => ("timestamp", Ok(timestamps(records))),
                Origin::Headers => ("headers", headers(records)),
            };
            let name = field.name();
            let unfit = |reason| Unfit {
                reason,
                column: Some(name.clone()),
            };
            let made = made.map_err(unfit)?;
            if made.null_count() > 0 && !field.is_nullable() {
                let reason = format!("the record has no {what}, and its column is NOT NULL");
                return Err(unfit(reason));
            }
            Ok(made)
        };
        let columns = self.origins.iter().zip(self.events.fields()).map(column);
        let mut columns = columns.collect::<Result<Vec<ArrayRef>, Unfit>>()?;
        let partitions = records.iter().map(Record::partition);
        columns.push(Arc::new(Int32Array::from_iter_values(partitions)));
        let offsets = records.iter().map(Record::offset);
        columns.push(Arc::new(Int64Array::from_iter_values(offsets)));
        columns.push(Arc::new(TimestampMicrosecondArray::from_value(
            arrived_at_us,
            records.len(),
        )));
        RecordBatch::try_new(Arc::clone(&self.events), columns).map_err(Unfit::whole)
    }

    /// The batch that goes on from `at`, if anything moved.
    pub(crate) fn commit(
        &self,
        gathered: &mut Gathered,
        at: &Position,
        arrived_at_us: i64,
    ) -> Option<CommittedBatch> {
        let next = gathered.next.iter().map(|(at, next)| (*at, *next));
        let to = at.join(&next.collect());
        if to == *at {
            return None;
        }
        let events = match &gathered.events[..] {
            [one] => one.clone(),
            // In order of partition: halves come one behind the other.
            parts => concat_batches(&self.events, parts).expect("they have one schema"),
        };
        gathered.dead_letters.sort_by_key(|(place, _)| *place);
        Some(CommittedBatch {
            span: Span::new(at.clone(), to).expect("a join covers what it joins"),
            arrived_at_us,
            events,
            dead_letters: std::mem::take(&mut gathered.dead_letters),
            replayed: std::mem::take(&mut gathered.replayed),
        })
    }
}

impl Gathered {
    /// Those of the records that are events settle the letters that they are other tries at.
    fn settle(&mut self, records: &[(Record<'_>, &[u8])], bad: &[BadMessage]) {
        if self.tries.is_empty() {
            return;
        }
        let mut indices = bad.iter().map(|bad| bad.index).peekable();
        let good = records.iter().enumerate();
        let good = good.filter(|(index, _)| indices.next_if_eq(index).is_none());
        let letters = good.filter_map(|(_, (record, _))| self.tries.get(&place_of(*record)));
        self.replayed.extend(letters.copied());
    }

    /// Everything of the record's partition is read up to it.
    fn read(&mut self, record: Record<'_>) {
        self.moved(record.partition(), record.offset() + 1);
        if let Some(millis) = record.timestamp_ms() {
            let partition = partition_id(record.partition());
            self.timestamps_ms.insert(partition, millis);
        }
    }

    fn moved(&mut self, partition: i32, next: i64) {
        let (partition, next) = place((partition, next));
        let known = self.next.entry(partition).or_insert(next);
        *known = next.max(*known);
    }

    fn refuse(
        &mut self,
        gatherer: &Gatherer,
        record: Record<'_>,
        value: &[u8],
        column: Option<String>,
        reason: String,
    ) {
        let settings = &gatherer.settings;
        let (bytes, format) = gatherer.decoder.letter(settings.format, value);
        let (topic, partition, offset) = (&settings.topic, record.partition(), record.offset());
        let letter = DeadLetter {
            bytes,
            format,
            reason,
            line: None,
            column,
            origin: format!("kafka {topic}/{partition}@{offset}"),
            envelope: Some(envelope(record)),
        };
        self.dead_letters.push((place_of(record), letter));
    }
}

/// The columns that the values of records have.
pub(crate) fn value_schema(schema: &StreamSchema, settings: &KafkaSettings) -> StreamSchema {
    let mut values = schema.clone();
    values
        .columns
        .retain(|column| !settings.envelope_columns().any(|name| name == column.name));
    // The timestamp's column may be the event time: then the values have none.
    let in_values = |name: &str| values.columns.iter().any(|column| column.name == name);
    if values
        .event_time
        .as_ref()
        .is_some_and(|time| !in_values(&time.column))
    {
        values.event_time = None;
    }
    values
}

/// What a dead letter keeps of a record beside its value.
fn envelope(record: Record<'_>) -> Envelope {
    let headers = record.headers().into_iter().map(|(name, value)| {
        let name = String::from_utf8_lossy(name).into_owned();
        (name, value.map(Bytes::copy_from_slice))
    });
    Envelope {
        key: record.key().map(Bytes::copy_from_slice),
        timestamp_ms: record.timestamp_ms(),
        headers: headers.collect(),
    }
}

fn place_of(record: Record<'_>) -> Place {
    place((record.partition(), record.offset()))
}

fn keys(records: &[Record<'_>]) -> Result<ArrayRef, String> {
    let mut keys = StringBuilder::with_capacity(records.len(), records.len() * 16);
    for record in records {
        keys.append_option(
            record
                .key()
                .map(|key| text(key, "the record's key"))
                .transpose()?,
        );
    }
    Ok(Arc::new(keys.finish()))
}

fn timestamps(records: &[Record<'_>]) -> ArrayRef {
    let micros = records
        .iter()
        .map(|record| record.timestamp_ms()?.checked_mul(1000));
    Arc::new(micros.collect::<TimestampMicrosecondArray>())
}

fn headers(records: &[Record<'_>]) -> Result<ArrayRef, String> {
    let field = |name: &str| arrow::datatypes::Field::new(name, DataType::Utf8, true);
    let fields = vec![field("name"), field("value")];
    let item =
        arrow::datatypes::Field::new("element", DataType::Struct(fields.clone().into()), true);
    let pair = StructBuilder::from_fields(fields, 0);
    let mut lists = ListBuilder::new(pair).with_field(item);
    for record in records {
        for (name, value) in record.headers() {
            // The producer did not send it.
            if name == replay::HEADER.as_bytes() {
                continue;
            }
            let name = text(name, "the name of a header")?;
            let value = value
                .map(|value| text(value, "the value of a header"))
                .transpose()?;
            let pair = lists.values();
            string_field(pair, 0).append_value(name);
            string_field(pair, 1).append_option(value);
            pair.append(true);
        }
        lists.append(true);
    }
    Ok(Arc::new(lists.finish()))
}

fn string_field(pair: &mut StructBuilder, index: usize) -> &mut StringBuilder {
    pair.field_builder(index).expect("both fields are VARCHAR")
}

fn text<'a>(bytes: &'a [u8], what: &str) -> Result<&'a str, String> {
    std::str::from_utf8(bytes)
        .map_err(|_| format!("{what} is not UTF-8, and its column is a VARCHAR"))
}
