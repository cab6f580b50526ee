// SPDX-License-Identifier: Apache-2.0
//! One case of the law: cut, accumulate, merge, store, read back, finish; compare with the oracle.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use dovetail_model::{Offset, PartitionId, Position, Span, StreamSchema};
use dovetail_view::{Run, View};

use crate::compare::assert_same;
use crate::draw::Draw;
use crate::views::Case;
use crate::{oracle, plans};

/// Checks one view over one stream's events, cut as `cut` draws.
pub(crate) fn check(stream: &StreamSchema, case: &Case, events: &RecordBatch, cut: &mut Draw) {
    let streams = BTreeMap::from([("s".to_owned(), stream.clone())]);
    let view = View::compile(&case.view, &streams)
        .unwrap_or_else(|error| panic!("{}: {error}", case.view));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let expected = |events| {
        let answers = oracle::answers(&case.oracle, case.keys, events);
        runtime.block_on(answers)
    };
    let agree = |events, found, what| agree(&view, case.keys, expected(events), found, what);

    // The batch layer takes what lies before the cut, the speed layer the rest.
    let at = cut.below(events.num_rows() + 1);
    let (before, after) = (
        events.slice(0, at),
        events.slice(at, events.num_rows() - at),
    );
    let files = runtime.block_on(plans::batch_layer(&view, &before, cut));
    let finished = files.as_ref().map(|files| finished(&view, files));
    agree(
        &before,
        finished.map_err(ToString::to_string),
        "a full run's files",
    );
    let (files, after) = match files {
        Ok(files) => (files, after),
        // There is no generation, then.
        Err(_) => (Vec::new(), events.clone()),
    };
    let runs = speed_layer(&view, &after, cut);
    let mut states: Vec<RecordBatch> = files
        .iter()
        .map(|file| view.states_of_file(&through_parquet(file)).unwrap())
        .collect();
    for run in &runs {
        assert_is_run(&view, run);
        states.extend_from_slice(run.states());
    }

    let in_memory = view.finish(&states);
    agree(
        events,
        in_memory.map_err(|e| e.to_string()),
        "finish in memory",
    );
    let rewritten = plans::incremental_run(&view, &states);
    agree(
        events,
        rewritten.map_err(|e| e.to_string()),
        "an incremental run's file",
    );
}

/// Where the oracle has an answer, the same one; where a value passes the end of its type, an error that says so.
fn agree(
    view: &View,
    keys: usize,
    expected: Result<RecordBatch, DataFusionError>,
    found: Result<RecordBatch, String>,
    what: &str,
) {
    match (expected, found) {
        (Ok(expected), Ok(found)) => assert_same(view, keys, &expected, &found, what),
        (Err(_), Err(found)) => assert!(
            found.contains("does not fit"),
            "{what} of {}: {found}",
            view.sql()
        ),
        (expected, found) => panic!(
            "{what} of {}: expected {expected:?}, found {found:?}",
            view.sql()
        ),
    }
}

/// The finished columns of files.
fn finished(view: &View, files: &[RecordBatch]) -> RecordBatch {
    let outputs: Vec<RecordBatch> = files
        .iter()
        .map(|file| view.output_of_file(file).unwrap())
        .collect();
    arrow::compute::concat_batches(&view.output_schema(), &outputs).unwrap()
}

/// Accumulates micro-batches of any sizes, and merges neighbours in any order.
fn speed_layer(view: &View, events: &RecordBatch, cut: &mut Draw) -> Vec<Arc<Run>> {
    let mut position = Position::zero();
    let mut runs: Vec<Arc<Run>> = Vec::new();
    let mut from = 0;
    while from < events.num_rows() {
        let rows = (1 + cut.below(30)).min(events.num_rows() - from);
        let next = position
            .clone()
            .with(PartitionId(0), Offset((from + rows) as u64));
        let span = Span::new(position, next.clone()).unwrap();
        let run = view.accumulate(&events.slice(from, rows), span).unwrap();
        runs.push(Arc::new(run));
        (from, position) = (from + rows, next);
    }
    while runs.len() > 1 && !cut.one_in(5) {
        let first = cut.below(runs.len());
        let count = (1 + cut.below(4)).min(runs.len() - first);
        let merged = view.merge(&runs[first..first + count]).unwrap();
        runs.splice(first..first + count, [Arc::new(merged)]);
    }
    runs
}

/// A run's contract: its states are in `state_schema`, sorted, and their keys unique.
fn assert_is_run(view: &View, run: &Run) {
    let mut last: Option<Vec<u8>> = None;
    let mut rows = 0;
    for states in run.states() {
        assert_eq!(states.schema(), view.state_schema());
        for key in view.encode_keys(states).unwrap().iter() {
            let key = key.as_ref().to_vec();
            if !view.keys().is_empty() {
                assert!(last.is_none_or(|last| last < key), "keys rise in a run");
            }
            last = Some(key);
            rows += 1;
        }
    }
    assert_eq!(rows, run.rows());
}

fn through_parquet(file: &RecordBatch) -> RecordBatch {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, file.schema(), None).unwrap();
    writer.write(file).unwrap();
    writer.close().unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes))
        .unwrap()
        .with_batch_size(1 << 20)
        .build()
        .unwrap();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    arrow::compute::concat_batches(&file.schema(), &batches).unwrap()
}
