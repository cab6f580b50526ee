// SPDX-License-Identifier: Apache-2.0
//! From records to a committed batch: decode the values, fill the columns of the envelope, keep what is bad.
//!
//! Invariants: every record of a [`Batch`] becomes an event, a dead letter, or a counted tombstone; the span ends
//! behind all of them and wherever the partition says that it ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int32Array, Int64Array, ListBuilder, RecordBatch, StringBuilder, StructBuilder,
    TimestampMicrosecondArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, SchemaRef};
use dovetail_log::decode::{BadMessage, Decoder, Messages};
use dovetail_log::{CommittedBatch, DeadLetter, Place};
use dovetail_model::{
    KafkaSettings, Offset, PartitionId, Position, Span, StreamSchema, Tombstones,
};

use crate::native::{Batch, Fault, Item, Record};
use crate::probe::{partition_id, place};

/// Makes batches of one schema.
#[derive(Debug)]
pub(crate) struct Gatherer {
    settings: KafkaSettings,
    /// Of the columns that the values of records have.
    decoder: Decoder,
    events: SchemaRef,
    /// Where each declared column comes from.
    origins: Vec<Origin>,
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
    pub(crate) skipped: u64,
    events: Vec<RecordBatch>,
    dead_letters: Vec<(Place, DeadLetter)>,
}

impl Gatherer {
    pub(crate) fn new(schema: &StreamSchema, settings: &KafkaSettings) -> Self {
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
            settings: settings.clone(),
            decoder: Decoder::new(&values),
            events: schema.events(),
        }
    }

    /// Takes a batch of librdkafka's apart.
    pub(crate) fn gather(&self, batch: &Batch<'_>, arrived_at_us: i64) -> Gathered {
        let mut gathered = Gathered::default();
        let mut records = Vec::new();
        for item in batch.iter() {
            match item {
                Item::Record(record) => {
                    gathered.moved(record.partition(), record.offset() + 1);
                    if let Some(millis) = record.timestamp_ms() {
                        gathered
                            .timestamps_ms
                            .insert(partition_id(record.partition()), millis);
                    }
                    match record.value() {
                        Some(value) => records.push((record, value)),
                        None if self.settings.tombstones == Tombstones::Skip => {
                            gathered.skipped += 1;
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
        // Partitions come interleaved, each in its own order.
        records.sort_by_key(|(record, _)| record.partition());
        self.decode(&records, arrived_at_us, &mut gathered);
        gathered
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
            (Err(reason), [(record, value)]) => {
                gathered.refuse(self, *record, value, None, reason);
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
    ) -> Result<(RecordBatch, Vec<BadMessage>), String> {
        let values = records.iter().map(|(_, value)| *value);
        let decoded = self.decoder.decode_messages(self.settings.format, values);
        let Messages { events, bad } = decoded.map_err(|error| error.to_string())?;
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
    ) -> Result<RecordBatch, String> {
        let column = |origin: &Origin| match origin {
            Origin::Value(index) => Ok(Arc::clone(values.column(*index))),
            Origin::Key => keys(records),
            Origin::Timestamp => Ok(timestamps(records)),
            Origin::Headers => headers(records),
        };
        let columns: Result<Vec<ArrayRef>, String> = self.origins.iter().map(column).collect();
        let mut columns = columns?;
        let partitions = records.iter().map(Record::partition);
        columns.push(Arc::new(Int32Array::from_iter_values(partitions)));
        let offsets = records.iter().map(Record::offset);
        columns.push(Arc::new(Int64Array::from_iter_values(offsets)));
        columns.push(Arc::new(TimestampMicrosecondArray::from_value(
            arrived_at_us,
            records.len(),
        )));
        RecordBatch::try_new(Arc::clone(&self.events), columns).map_err(|error| error.to_string())
    }

    /// The batch that goes on from `at`, if anything moved.
    pub(crate) fn commit(
        &self,
        gathered: &mut Gathered,
        at: &Position,
        arrived_at_us: i64,
    ) -> Option<CommittedBatch> {
        let next = std::mem::take(&mut gathered.next);
        let to = at.join(&next.into_iter().collect());
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
            replayed: Vec::new(),
        })
    }
}

impl Gathered {
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
        };
        self.dead_letters.push((place_of(record), letter));
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
