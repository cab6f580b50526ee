// SPDX-License-Identifier: Apache-2.0
//! A stream may gain nullable columns, and a column may become nullable; nothing else changes under its events.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch, new_null_array};
use dovetail_model::{ColumnType, StreamDef};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::support::*;
use crate::CommittedBatch;
use crate::raw::{Compaction, RawError, RawScan};

fn grown() -> StreamDef {
    let mut def = plain();
    def.schema
        .columns
        .push(column("note", ColumnType::Varchar, true));
    def
}

#[tokio::test]
async fn older_events_read_as_null_in_a_new_column() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let log = open(&store, &plain()).await.unwrap();
    let old = log
        .archive(&span(0, 5), &[full(&plain(), 0..5)])
        .await
        .unwrap();
    log.widen(&grown().schema).await.unwrap();
    // Until it is adopted, everything goes on as before, and what knows more would lose it.
    let ahead = full(&plain(), 5..8).in_schema(&grown().schema.events());
    let early = log.archive(&span(5, 8), &[Arc::new(ahead.unwrap())]).await;
    assert!(matches!(early, Err(RawError::Batch { .. })), "{early:?}");
    assert_eq!(log.snapshot().schema(), &plain().schema);
    log.adopt(&grown().schema).await.unwrap();
    // Batches from before the change may still come.
    log.archive(&span(5, 8), &[full(&plain(), 5..8)])
        .await
        .unwrap();
    log.archive(&span(8, 12), &[full(&plain(), 8..12)])
        .await
        .unwrap();
    let check = async |log: &crate::raw::RawLog| {
        let events = scan(&store, &log.snapshot(), RawScan::of(span(0, 12))).await;
        assert_eq!(events.schema(), grown().schema.events());
        assert_eq!(events.column_by_name("note").unwrap().null_count(), 12);
        assert_eq!(offsets_of(&events), (0..12).collect::<Vec<_>>());
    };
    check(&log).await;
    check(&open(&store, &grown()).await.unwrap()).await;
    let compaction = Compaction {
        min_files: 2,
        ..Compaction::default()
    };
    assert_eq!(log.compact(compaction).await.unwrap().into, 1);
    check(&log).await;
    // A snapshot from before keeps its schema.
    let before = scan(&store, &old, RawScan::of(span(0, 5))).await;
    assert_eq!(before.schema(), plain().schema.events());
}

#[tokio::test]
async fn opening_with_a_new_column_adds_it() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let version = open(&store, &plain()).await.unwrap().snapshot().version();
    let grown = open(&store, &grown()).await.unwrap();
    assert_eq!(grown.snapshot().version(), version + 1);
    // The other way round nothing is taken away.
    let again = open(&store, &plain()).await.unwrap();
    assert_eq!(again.snapshot().version(), version + 1);
    again
        .archive(&span(0, 5), &[full(&plain(), 0..5)])
        .await
        .unwrap();
}

#[tokio::test]
async fn other_changes_are_refused_by_name() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let log = open(&store, &plain()).await.unwrap();
    let mut required = plain();
    required
        .schema
        .columns
        .push(column("note", ColumnType::Varchar, false));
    let mut retyped = plain();
    retyped.schema.columns[0].column_type = ColumnType::Varchar;
    let mut dropped = plain();
    dropped.schema.columns.remove(0);
    for (changed, name) in [(required, "note"), (retyped, "id"), (dropped, "id")] {
        let error = log.widen(&changed.schema).await.unwrap_err();
        assert!(matches!(error, RawError::Schema { .. }), "{error}");
        assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
    }
    assert_eq!(log.snapshot().version(), 0);
}

#[tokio::test]
async fn a_column_that_was_required_may_become_null() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let log = open(&store, &plain()).await.unwrap();
    log.archive(&span(0, 5), &[full(&plain(), 0..5)])
        .await
        .unwrap();
    let mut relaxed = plain();
    relaxed.schema.columns[0].nullable = true;
    log.widen(&relaxed.schema).await.unwrap();
    log.archive(&span(5, 8), &[full(&plain(), 5..8)])
        .await
        .unwrap();
    let version = log.snapshot().version();
    // A stream that did not follow its table after all goes on as it was.
    let behind = open(&store, &plain()).await.unwrap();
    assert_eq!(behind.snapshot().version(), version);
    log.adopt(&relaxed.schema).await.unwrap();
    let with_nulls = without_ids(&relaxed, 8..12);
    log.archive(&span(8, 12), &[with_nulls]).await.unwrap();
    let check = async |log: &crate::raw::RawLog| {
        let events = scan(&store, &log.snapshot(), RawScan::of(span(0, 12))).await;
        assert_eq!(events.schema(), relaxed.schema.events());
        assert_eq!(events.column_by_name("id").unwrap().null_count(), 4);
        assert_eq!(offsets_of(&events), (0..12).collect::<Vec<_>>());
    };
    check(&log).await;
    check(&open(&store, &relaxed).await.unwrap()).await;
    let compaction = Compaction {
        min_files: 2,
        ..Compaction::default()
    };
    assert_eq!(log.compact(compaction).await.unwrap().into, 1);
    check(&log).await;
}

/// A batch of `def` whose first column is all null.
fn without_ids(def: &StreamDef, offsets: std::ops::Range<u64>) -> Arc<CommittedBatch> {
    let batch = CommittedBatch::clone(&full(def, offsets));
    let mut columns = batch.events.columns().to_vec();
    columns[0] = new_null_array(columns[0].data_type(), batch.events.num_rows());
    let events = RecordBatch::try_new(def.schema.events(), columns).unwrap();
    Arc::new(CommittedBatch { events, ..batch })
}
