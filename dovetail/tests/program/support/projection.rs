// SPDX-License-Identifier: Apache-2.0
//! A view's Delta table, read from its files as another engine would.

use std::collections::BTreeSet;
use std::path::Path;

use arrow::array::{Array as _, AsArray as _};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use super::feed::Hours;

/// What the newest version of a view's Delta table shows.
pub(crate) struct Projection {
    /// The generation that it says it is.
    pub(crate) generation: u64,
    files: BTreeSet<std::path::PathBuf>,
}

impl Projection {
    /// Replays the Delta log of the view with this id.
    pub(crate) fn read(home: &Path, view: &str) -> Self {
        let root = home.join("data/store/views").join(view);
        let mut commits: Vec<_> = std::fs::read_dir(root.join("_delta_log"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "json"))
            .collect();
        commits.sort();
        let mut generation = None;
        let mut files = BTreeSet::new();
        for commit in commits {
            for line in std::fs::read_to_string(commit).unwrap().lines() {
                let action: Value = serde_json::from_str(line).unwrap();
                if let Some(path) = action["add"]["path"].as_str() {
                    assert!(files.insert(root.join(path)), "{path} is added twice");
                }
                if let Some(path) = action["remove"]["path"].as_str() {
                    assert!(files.remove(&root.join(path)), "{path} was not there");
                }
                generation = action["commitInfo"]["dovetailGeneration"]
                    .as_u64()
                    .or(generation);
            }
        }
        Self {
            generation: generation.expect("a generation was projected"),
            files,
        }
    }

    /// The rows, for a table of `hourly`.
    pub(crate) fn hours(&self) -> Hours {
        let mut hours = Hours::new();
        for path in &self.files {
            let file = std::fs::File::open(path).unwrap();
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
            for batch in reader.build().unwrap() {
                let batch = batch.unwrap();
                let column = |name| batch.column_by_name(name).expect("the view's column");
                let origin = column("origin").as_string::<i32>();
                let hour = column("hour").as_primitive::<TimestampMicrosecondType>();
                let number = |name| column(name).as_primitive::<Int64Type>();
                let (seen, delays, last) = (number("seen"), number("delays"), number("last"));
                for row in 0..batch.num_rows() {
                    let time = hour.value_as_datetime(row).unwrap();
                    let key = (
                        origin.is_valid(row).then(|| origin.value(row).to_owned()),
                        time.format("%Y-%m-%dT%H:%M:%S").to_string(),
                    );
                    let delays = delays.is_valid(row).then(|| delays.value(row));
                    let value = (seen.value(row), delays, last.value(row));
                    assert!(hours.insert(key, value).is_none(), "a group is there twice");
                }
            }
        }
        hours
    }
}
