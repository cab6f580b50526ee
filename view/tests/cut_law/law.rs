// SPDX-License-Identifier: Apache-2.0
//! One case of the law: cut, accumulate, merge, store, read back, finish; compare with the oracle.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch, UInt64Array};
use arrow::compute::{concat_batches, filter_record_batch, not};
use datafusion::error::DataFusionError;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use dovetail_model::{Offset, PartitionId, Position, Span, StreamSchema};
use dovetail_view::{CommonKeys, Run, View, ViewError};

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
    if let Ok(rows) = &in_memory {
        assert_some_columns(&view, &states, rows, cut);
    }
    agree(
        events,
        in_memory.map_err(|e| e.to_string()),
        "finish in memory",
    );
    let read = merged_read(&view, &files, &runs);
    agree(
        events,
        read.map_err(|e| e.to_string()),
        "a merged read of files and runs",
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

/// Some columns finished by themselves are those of all of them.
fn assert_some_columns(view: &View, states: &[RecordBatch], rows: &RecordBatch, cut: &mut Draw) {
    let mut columns: Vec<usize> = (0..rows.num_columns()).collect();
    columns.retain(|_| cut.one_in(2));
    if cut.one_in(2) {
        columns.reverse();
    }
    let some = view.finisher(&columns).unwrap().finish(states).unwrap();
    assert_eq!(some, rows.project(&columns).unwrap(), "{}", view.sql());
}

/// What the serving layer answers: rows of files that no run touches as they are, the others finished with the runs.
fn merged_read(
    view: &View,
    files: &[RecordBatch],
    runs: &[Arc<Run>],
) -> Result<RecordBatch, ViewError> {
    let file = concat_batches(&view.file_schema(), files).unwrap();
    let incoming = match runs {
        [] => RecordBatch::new_empty(view.state_schema()),
        runs => concat_batches(&view.state_schema(), view.merge(runs)?.states()).unwrap(),
    };
    let CommonKeys { pairs, passed } = view.common_keys(&file, &incoming)?;
    let keys = |batch| {
        let keys = view.encode_keys(batch).unwrap();
        let keys = keys.iter().map(|key| key.data().to_vec());
        keys.collect::<Vec<_>>()
    };
    let (of_file, of_runs) = (keys(&file), keys(&incoming));
    for (row, key) in of_file.iter().enumerate() {
        let other = of_runs.iter().position(|other| other == key);
        let found = pairs.iter().find(|(one, _)| *one == row);
        assert_eq!(found.map(|(_, other)| *other), other);
        let through = view.rows_through(&incoming, key)?;
        assert_eq!(
            through,
            of_runs.iter().filter(|other| *other <= key).count()
        );
    }
    let through_last = of_runs.iter().filter(|key| of_file.last() >= Some(key));
    assert_eq!(passed, through_last.count());
    let is_common = |row| pairs.iter().any(|(one, _)| *one == row);
    let mask: BooleanArray = (0..file.num_rows())
        .map(|row| Some(is_common(row)))
        .collect();
    let rows = UInt64Array::from_iter_values(pairs.iter().map(|(row, _)| *row as u64));
    let touched = view.measured_of_file(&file, &rows)?;
    let untouched = filter_record_batch(&file, &not(&mask).unwrap()).unwrap();
    let places = pairs.iter().map(|(_, other)| *other).collect();
    let finished = match incoming.num_rows() {
        // Of files alone nothing is finished.
        0 => RecordBatch::new_empty(view.output_schema()),
        _ => {
            let all: Vec<usize> = (0..view.output_schema().fields().len()).collect();
            let finisher = view.finisher(&all)?;
            finisher.finish_with(&incoming, vec![(touched, places)])?
        }
    };
    let output = [view.output_of_file(&untouched)?, finished];
    Ok(concat_batches(&view.output_schema(), &output).unwrap())
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
