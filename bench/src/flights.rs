// SPDX-License-Identifier: Apache-2.0
//! Real flights to send, as the bodies of requests and as messages of a topic.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::ipc::writer::StreamWriter;
use arrow::json::LineDelimitedWriter;
use arrow::record_batch::RecordBatch;
use arrow_avro::schema::{AvroSchema, FingerprintStrategy};
use arrow_avro::writer::WriterBuilder;
use arrow_avro::writer::format::AvroSoeFormat;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// Declares the stream of flights.
pub const STREAM: &str = "CREATE STREAM flights (date TIMESTAMP NOT NULL, delay BIGINT, distance BIGINT, \
     origin VARCHAR, destination VARCHAR) WITH (event_time = 'date')";
/// The view of the benchmarks: groups of airport and hour.
pub const HOURLY: &str = "CREATE VIEW hourly AS SELECT origin, date_trunc('hour', date) AS hour, count(*) AS flights, \
     sum(delay) AS total, avg(delay) AS mean, min(delay) AS least, max(delay) AS most FROM flights GROUP BY origin, hour";
/// Another one, of many events in few groups.
pub const ROUTES: &str = "CREATE VIEW routes AS SELECT origin, destination, count(*) AS flights, avg(delay) AS mean \
     FROM flights GROUP BY origin, destination";
/// The content type of bodies with an object on each line.
pub const NDJSON: &str = "application/x-ndjson";
/// The content type of bodies in Arrow's streaming format.
pub const ARROW: &str = "application/vnd.apache.arrow.stream";

/// Declares the stream of flights over a topic; `more` are further options, each behind a comma.
#[must_use]
pub fn kafka_stream(brokers: &str, topic: &str, more: &str) -> String {
    let declared = STREAM.trim_end_matches(')');
    format!("{declared}, source = 'kafka', brokers = '{brokers}', topic = '{topic}'{more})")
}

/// How the bodies of requests are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// An object on each line.
    Ndjson,
    /// Arrow's streaming format, without compression.
    Arrow,
}

impl Encoding {
    /// What a request says of its body.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Ndjson => NDJSON,
            Self::Arrow => ARROW,
        }
    }

    fn encode(self, rows: &RecordBatch) -> Result<Bytes> {
        match self {
            Self::Ndjson => {
                let mut writer = LineDelimitedWriter::new(Vec::new());
                writer.write(rows)?;
                writer.finish()?;
                Ok(Bytes::from(writer.into_inner()))
            }
            Self::Arrow => arrow_body(rows),
        }
    }
}

/// `rows` in Arrow's streaming format.
///
/// # Errors
/// Never: it is written to memory.
pub fn arrow_body(rows: &RecordBatch) -> Result<Bytes> {
    let mut writer = StreamWriter::try_new(Vec::new(), &rows.schema())?;
    writer.write(rows)?;
    Ok(Bytes::from(writer.into_inner()?))
}

/// Bodies of real flights, cut from the shipped sample or from `BENCH_FLIGHTS`, a Parquet file.
pub struct Flights {
    encoding: Encoding,
    bodies: Vec<Bytes>,
    events: u64,
}

impl Flights {
    /// Encodes the flights as NDJSON bodies of `batch` events.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn load(batch: usize) -> Result<Self> {
        Self::load_as(Encoding::Ndjson, batch)
    }

    /// Encodes the flights as bodies of `batch` events.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn load_as(encoding: Encoding, batch: usize) -> Result<Self> {
        let mut bodies = vec![];
        let mut events = 0;
        for rows in read(batch)? {
            let rows = rows?;
            events += rows.num_rows() as u64;
            bodies.push(encoding.encode(&rows)?);
        }
        Ok(Self {
            encoding,
            bodies,
            events,
        })
    }

    /// How many events there are, before they come again.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.events
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// What a request says of its body.
    #[must_use]
    pub fn content_type(&self) -> &'static str {
        self.encoding.content_type()
    }

    /// The bodies of all events, each once.
    #[must_use]
    pub fn bodies(&self) -> &[Bytes] {
        &self.bodies
    }

    /// The body that holds event `at`, over and over.
    #[must_use]
    pub fn body(&self, at: u64) -> Bytes {
        let at = at % self.events;
        let index = at as usize * self.bodies.len() / self.events as usize;
        self.bodies[index.min(self.bodies.len() - 1)].clone()
    }
}

/// How the values of a topic are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One object each.
    Json,
    /// With the schema of this id in a registry.
    Avro(u32),
}

/// The flights in the order of their file, over and over: message after message, in batches of `batch` at most.
///
/// # Errors
/// Where the file cannot be read.
pub fn messages(batch: usize, format: Format) -> Result<impl Iterator<Item = Result<Vec<Bytes>>>> {
    let batches = read(batch)?.collect::<Result<Vec<_>>>()?;
    let encoded = move |at: usize| encode(&batches[at % batches.len()], format);
    Ok((0..).map(encoded))
}

/// The Avro schema of a flight.
///
/// # Errors
/// Never, since it is fixed.
pub fn avro_schema() -> Result<String> {
    Ok(AvroSchema::try_from(&schema())?.json_string)
}

fn encode(rows: &RecordBatch, format: Format) -> Result<Vec<Bytes>> {
    match format {
        Format::Json => {
            let mut writer = LineDelimitedWriter::new(Vec::new());
            writer.write(rows)?;
            writer.finish()?;
            let body = Bytes::from(writer.into_inner());
            let lines = body.split(|byte| *byte == b'\n');
            let lines = lines.filter(|line| !line.is_empty());
            Ok(lines.map(|line| body.slice_ref(line)).collect())
        }
        Format::Avro(id) => {
            let mut encoder = WriterBuilder::new(rows.schema().as_ref().clone())
                .with_fingerprint_strategy(FingerprintStrategy::Id(id))
                .build_encoder::<AvroSoeFormat>()?;
            encoder.encode(rows)?;
            Ok(encoder.flush().iter().collect())
        }
    }
}

/// Of every source: the widths of its integers and texts do not matter.
fn schema() -> Schema {
    Schema::new(vec![
        Field::new(
            "date",
            DataType::Timestamp(TimeUnit::Microsecond, None),
            true,
        ),
        Field::new("delay", DataType::Int64, true),
        Field::new("distance", DataType::Int64, true),
        Field::new("origin", DataType::Utf8, true),
        Field::new("destination", DataType::Utf8, true),
    ])
}

/// The Parquet file of the flights: `BENCH_FLIGHTS`, or the shipped sample.
#[must_use]
pub fn flights_file() -> PathBuf {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/flights.parquet");
    std::env::var_os("BENCH_FLIGHTS").map_or_else(|| PathBuf::from(shipped), PathBuf::from)
}

fn read(batch: usize) -> Result<impl Iterator<Item = Result<RecordBatch>>> {
    let path = flights_file();
    let file =
        std::fs::File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)?
        .with_batch_size(batch)
        .build()?;
    Ok(reader.map(|rows| conform(&rows?)))
}

fn conform(rows: &RecordBatch) -> Result<RecordBatch> {
    let schema = Arc::new(schema());
    let column = |field: &Arc<Field>| {
        let column = rows.column_by_name(field.name());
        let column =
            column.with_context(|| format!("the file has no column `{}`", field.name()))?;
        Ok(cast(column, field.data_type())?)
    };
    let columns = schema.fields().iter().map(column);
    let columns = columns.collect::<Result<_>>()?;
    Ok(RecordBatch::try_new(schema, columns)?)
}
