// SPDX-License-Identifier: Apache-2.0
//! The shipped flights and definitions, and a plain recount of them: the demo's oracle.

use std::collections::BTreeMap;
use std::ops::Range;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int32Type, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::json::LineDelimitedWriter;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use crate::cli::DefinitionFile;

/// See `demo/README.md` for its source and licence.
const FLIGHTS: &[u8] = include_bytes!("../../../../demo/flights.parquet");

const HOUR_US: i64 = 3600 * 1_000_000;
const DAY_US: i64 = 24 * HOUR_US;

/// The definitions of the stream and the views, as `dovetail apply demo/definitions` would send them.
pub(super) fn definitions() -> Vec<DefinitionFile> {
    [
        (
            "airport_delays.sql",
            include_str!("../../../../demo/definitions/airport_delays.sql"),
        ),
        (
            "flights.sql",
            include_str!("../../../../demo/definitions/flights.sql"),
        ),
        (
            "route_performance.sql",
            include_str!("../../../../demo/definitions/route_performance.sql"),
        ),
    ]
    .into_iter()
    .map(|(name, sql)| DefinitionFile {
        name: name.to_owned(),
        sql: sql.to_owned(),
    })
    .collect()
}

/// Flights in the order of their dates.
pub(super) struct Sample {
    flights: RecordBatch,
}

impl Sample {
    /// All that is shipped.
    pub(super) fn shipped() -> Result<Self, ArrowError> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(Bytes::from_static(FLIGHTS))?;
        let schema = std::sync::Arc::clone(builder.schema());
        let batches = builder.build()?.collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            flights: concat_batches(&schema, &batches)?,
        })
    }

    /// The first flights alone.
    #[cfg(test)]
    pub(super) fn first(&self, rows: usize) -> Self {
        Self {
            flights: self.flights.slice(0, rows),
        }
    }

    /// How many flights there are.
    pub(super) fn rows(&self) -> usize {
        self.flights.num_rows()
    }

    /// Some of the flights, one JSON object per line.
    pub(super) fn ndjson(&self, range: Range<usize>) -> Result<Bytes, ArrowError> {
        let flights = self.flights.slice(range.start, range.len());
        let mut writer = LineDelimitedWriter::new(Vec::with_capacity(range.len() * 100));
        writer.write(&flights)?;
        writer.finish()?;
        Ok(Bytes::from(writer.into_inner()))
    }

    /// Midnight before the flight at `row`, in microseconds since the Unix epoch.
    pub(super) fn midnight_before(&self, row: usize) -> i64 {
        let dates = self.dates();
        let date = if dates.is_empty() {
            0
        } else {
            dates[row.min(dates.len() - 1)]
        };
        date.div_euclid(DAY_US) * DAY_US
    }

    /// How many flights are before the time `us`; they are the first ones.
    pub(super) fn rows_before(&self, us: i64) -> usize {
        self.dates().partition_point(|date| *date < us)
    }

    /// What a plain loop over the flights before `us` makes of the demo's question, see
    /// [`Question`](super::question::Question).
    pub(super) fn recount(&self, us: i64, top: usize) -> Vec<Value> {
        let rows = self.rows_before(us);
        let delays = self.flights.column(1).as_primitive::<Int32Type>();
        let origins = self.flights.column(3).as_string::<i32>();
        let mut hours: BTreeMap<(&str, i64), (u64, i64, u64)> = BTreeMap::new();
        for (row, date) in self.dates()[..rows].iter().enumerate() {
            let key = (origins.value(row), date.div_euclid(HOUR_US));
            let (flights, delay, delayed) = hours.entry(key).or_default();
            *flights += 1;
            if delays.is_valid(row) {
                *delay += i64::from(delays.value(row));
                *delayed += 1;
            }
        }
        let mut origins: BTreeMap<&str, (u64, u64, f64)> = BTreeMap::new();
        for ((origin, _), (flights, delay, delayed)) in hours {
            let (hours, all, worst) = origins.entry(origin).or_insert((0, 0, f64::MIN));
            *hours += 1;
            *all += flights;
            // Sums of minutes are far below 2^53: the average is the same in any order.
            *worst = worst.max(delay as f64 / delayed as f64);
        }
        let mut all: Vec<_> = origins.into_iter().collect();
        all.sort_by(|(a, (_, a_flights, _)), (b, (_, b_flights, _))| {
            b_flights.cmp(a_flights).then(a.cmp(b))
        });
        all.truncate(top);
        all.into_iter()
            .map(|(origin, (hours, flights, worst))| {
                json!({"origin": origin, "hours": hours, "flights": flights, "worst_hour": worst})
            })
            .collect()
    }

    fn dates(&self) -> &[i64] {
        self.flights
            .column(0)
            .as_primitive::<TimestampMicrosecondType>()
            .values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_large_small_and_in_order() {
        assert!(FLIGHTS.len() <= 3_000_000);
        let sample = Sample::shipped().unwrap();
        assert!(sample.rows() >= 300_000);
        assert!(sample.dates().is_sorted());
        let midnight = sample.midnight_before(sample.rows() / 2);
        assert_eq!(midnight % DAY_US, 0);
        let before = sample.rows_before(midnight);
        assert!(sample.dates()[before] >= midnight && sample.dates()[before - 1] < midnight);
    }

    #[test]
    fn flights_are_sent_as_the_stream_declares_them() {
        let sample = Sample::shipped().unwrap();
        let body = sample.ndjson(0..2).unwrap();
        assert_eq!(
            body,
            "{\"date\":\"2001-01-01T00:01:00\",\"delay\":33,\"distance\":2176,\"origin\":\"LAS\",\"destination\":\"PHL\"}\n\
             {\"date\":\"2001-01-01T00:01:00\",\"delay\":19,\"distance\":215,\"origin\":\"ATL\",\"destination\":\"SAV\"}\n"
        );
    }

    #[test]
    fn the_recount_is_a_plain_count() {
        let sample = Sample::shipped().unwrap();
        // From the first ten flights: ATL has the three of minute 1, 2 and 3 with delays 19, 18 and 28,
        // and one more in between; LAS has 33 and 39.
        let ten = sample.first(10);
        let rows = ten.recount(i64::MAX, 2);
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0]["origin"], "ATL");
        assert_eq!(rows[0]["flights"], 3);
        assert_eq!(rows[0]["hours"], 1);
        assert_eq!(rows[0]["worst_hour"].as_f64().unwrap(), 65.0 / 3.0);
        assert_eq!(
            rows[1],
            json!({"origin": "LAS", "hours": 1, "flights": 2, "worst_hour": 36.0})
        );
    }

    #[test]
    fn the_definitions_are_those_of_the_directory() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/definitions");
        assert_eq!(
            crate::cli::definitions::read_dir(&dir).unwrap(),
            definitions()
        );
    }
}
