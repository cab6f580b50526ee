// SPDX-License-Identifier: Apache-2.0
//! How many messages of each format one thread decodes in a second: flights, as a topic would have them.
//!
//! Run: `cargo run --release -p dovetail-log --example message-rates`, on Linux, which says how long a thread has run: what
//! else the machine does is not counted. Beside Avro the same by `arrow-avro`, which does
//! less: it neither casts to the declared types nor keeps going after a bad message.
#![allow(clippy::print_stdout, reason = "figures are what it is for")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_avro::reader::ReaderBuilder;
use arrow_avro::schema::{
    AvroSchema, Fingerprint, FingerprintAlgorithm, FingerprintStrategy, SchemaStore,
};
use arrow_avro::writer::WriterBuilder;
use arrow_avro::writer::format::AvroSoeFormat;
use dovetail_log::decode::{Decoder, RegisteredSchema, WriterSchemas};
use dovetail_model::{Column, ColumnType, MessageFormat, StreamSchema, UnknownColumns};
use prost_reflect::prost::Message as _;
use prost_reflect::{DynamicMessage, Value};

/// Messages of one batch, as many as a topic gives at once.
const BATCH: usize = 16_384;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(1);
const AIRPORTS: [&str; 8] = ["SFO", "JFK", "ORD", "ATL", "DFW", "DEN", "LAX", "SEA"];
/// 2001-01-01T00:00:00Z, microseconds since the Unix epoch.
const BEGIN_US: i64 = 978_307_200_000_000;
const PROTO: &str = "syntax = \"proto3\"; import \"google/protobuf/timestamp.proto\"; message Flight { \
    google.protobuf.Timestamp date = 1; optional int64 delay = 2; optional int64 distance = 3; \
    optional string origin = 4; optional string destination = 5; }";

type Failed = Box<dyn std::error::Error>;

/// One flight.
struct Flight {
    date_us: i64,
    delay: i64,
    distance: i64,
    origin: &'static str,
    destination: &'static str,
}

fn flights() -> Vec<Flight> {
    (0_i64..)
        .zip(0..BATCH)
        .map(|(n, at)| Flight {
            date_us: BEGIN_US + n * 37_000_000,
            delay: n % 97 - 20,
            distance: 200 + n * 7 % 2_400,
            origin: AIRPORTS[at % 8],
            destination: AIRPORTS[(at + 3) % 8],
        })
        .collect()
}

fn schema() -> StreamSchema {
    let column = |name: &str, column_type| Column {
        name: name.to_owned(),
        column_type,
        nullable: true,
    };
    StreamSchema {
        columns: vec![
            column("date", ColumnType::Timestamp),
            column("delay", ColumnType::BigInt),
            column("distance", ColumnType::BigInt),
            column("origin", ColumnType::Varchar),
            column("destination", ColumnType::Varchar),
        ],
        event_time: None,
        unknown_columns: UnknownColumns::Ignore,
    }
}

fn main() -> Result<(), Failed> {
    let flights = flights();
    let decoder = Decoder::new(&schema());
    let (avro, avro_text) = avro(&flights)?;
    let kinds = [
        (MessageFormat::Json, json(&flights)?, None),
        (MessageFormat::Csv, csv(&flights), None),
        (
            MessageFormat::Avro,
            avro.clone(),
            Some(("AVRO", avro_text.clone())),
        ),
        (
            MessageFormat::Protobuf,
            protobuf(&flights)?,
            Some(("PROTOBUF", PROTO.to_owned())),
        ),
    ];
    println!("{:<12}{:>10}{:>16}", "format", "bytes", "messages/s");
    for (format, messages, text) in kinds {
        let mut schemas = WriterSchemas::default();
        if let Some((kind, text)) = text {
            let text = RegisteredSchema {
                kind: kind.to_owned(),
                text,
                references: vec![],
            };
            schemas.insert(1, decoder.writer_schema(format, &text));
        }
        let rate = rate(|| {
            let values = messages.iter().map(Vec::as_slice);
            let read = decoder.decode_messages(format, &schemas, values)?;
            if read.bad.is_empty() {
                Ok(read.events)
            } else {
                Err(format!("{:?}", read.bad[0]).into())
            }
        })?;
        show(&format!("{format:?}"), &messages, rate);
    }
    let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
    store.set(Fingerprint::Id(1), AvroSchema::new(avro_text))?;
    let reader = ReaderBuilder::new().with_batch_size(BATCH);
    let mut reader = reader.with_writer_schema_store(store).build_decoder()?;
    let rate = rate(|| {
        for message in &avro {
            reader.decode(message)?;
        }
        Ok(reader.flush()?.ok_or("no batch")?)
    })?;
    show("arrow-avro", &avro, rate);
    Ok(())
}

fn show(name: &str, messages: &[Vec<u8>], rate: f64) {
    let bytes: usize = messages.iter().map(Vec::len).sum();
    println!("{name:<12}{:>10}{rate:>16.0}", bytes / messages.len());
}

/// How long this thread has run so far.
fn on_cpu() -> Result<Duration, Failed> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos = text.split(' ').next().ok_or("no time")?;
    Ok(Duration::from_nanos(nanos.parse()?))
}

/// Messages a second of a processor, the median of some rounds.
fn rate(mut decode: impl FnMut() -> Result<RecordBatch, Failed>) -> Result<f64, Failed> {
    let mut rates = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let begin = on_cpu()?;
        let (mut count, mut spent) = (0, Duration::ZERO);
        while spent < ROUND {
            count += black_box(decode()?).num_rows();
            spent = on_cpu()? - begin;
        }
        rates.push(count as f64 / spent.as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    Ok(rates[ROUNDS / 2])
}

fn time(us: i64) -> String {
    let time = chrono::DateTime::from_timestamp_micros(us).unwrap_or_default();
    time.format("%Y-%m-%dT%H:%M:%S").to_string()
}

fn json(flights: &[Flight]) -> Result<Vec<Vec<u8>>, Failed> {
    let event = |flight: &Flight| {
        serde_json::to_vec(&serde_json::json!({
            "date": time(flight.date_us), "delay": flight.delay, "distance": flight.distance,
            "origin": flight.origin, "destination": flight.destination,
        }))
    };
    Ok(flights.iter().map(event).collect::<Result<_, _>>()?)
}

fn csv(flights: &[Flight]) -> Vec<Vec<u8>> {
    let event = |f: &Flight| {
        let date = time(f.date_us);
        format!(
            "{date},{},{},{},{}",
            f.delay, f.distance, f.origin, f.destination
        )
        .into_bytes()
    };
    flights.iter().map(event).collect()
}

fn avro(flights: &[Flight]) -> Result<(Vec<Vec<u8>>, String), Failed> {
    let integers = |of: fn(&Flight) -> i64| Int64Array::from_iter_values(flights.iter().map(of));
    let texts = |of: fn(&Flight) -> &str| StringArray::from_iter_values(flights.iter().map(of));
    let dates = TimestampMicrosecondArray::from_iter_values(flights.iter().map(|f| f.date_us));
    let columns: [(&str, ArrayRef, bool); 5] = [
        ("date", Arc::new(dates), true),
        ("delay", Arc::new(integers(|f| f.delay)), true),
        ("distance", Arc::new(integers(|f| f.distance)), true),
        ("origin", Arc::new(texts(|f| f.origin)), true),
        ("destination", Arc::new(texts(|f| f.destination)), true),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns)?;
    let text = AvroSchema::try_from(batch.schema().as_ref())?.json_string;
    let mut encoder = WriterBuilder::new(batch.schema().as_ref().clone())
        .with_fingerprint_strategy(FingerprintStrategy::Id(1))
        .build_encoder::<AvroSoeFormat>()?;
    encoder.encode(&batch)?;
    Ok((encoder.flush().iter().map(|m| m.to_vec()).collect(), text))
}

fn protobuf(flights: &[Flight]) -> Result<Vec<Vec<u8>>, Failed> {
    let file = protox::file::File::from_source("flight.proto", PROTO)?;
    let mut pool = prost_reflect::DescriptorPool::global();
    pool.add_file_descriptor_proto(file.file_descriptor_proto().clone())?;
    let of = pool.get_message_by_name("Flight").ok_or("no message")?;
    let of_time = pool.get_message_by_name("google.protobuf.Timestamp");
    let of_time = of_time.ok_or("no message")?;
    let event = |flight: &Flight| {
        let mut date = DynamicMessage::new(of_time.clone());
        date.set_field_by_number(1, Value::I64(flight.date_us / 1_000_000));
        let mut message = DynamicMessage::new(of.clone());
        message.set_field_by_number(1, Value::Message(date));
        message.set_field_by_number(2, Value::I64(flight.delay));
        message.set_field_by_number(3, Value::I64(flight.distance));
        message.set_field_by_number(4, Value::String(flight.origin.to_owned()));
        message.set_field_by_number(5, Value::String(flight.destination.to_owned()));
        // Schema 1, the first message of its file.
        [&[0, 0, 0, 0, 1, 0], message.encode_to_vec().as_slice()].concat()
    };
    Ok(flights.iter().map(event).collect())
}
