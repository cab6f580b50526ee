// SPDX-License-Identifier: Apache-2.0
//! A stream may gain nullable columns; nothing else changes under its events.

use std::sync::Arc;

use arrow::array::Array;
use dovetail_model::{ColumnType, StreamDef};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::support::*;
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
    log.evolve(&grown().schema).await.unwrap();
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
    let mut relaxed = plain();
    relaxed.schema.columns[0].nullable = true;
    let mut dropped = plain();
    dropped.schema.columns.remove(0);
    for (changed, name) in [
        (required, "note"),
        (retyped, "id"),
        (relaxed, "id"),
        (dropped, "id"),
    ] {
        let error = log.evolve(&changed.schema).await.unwrap_err();
        assert!(matches!(error, RawError::Schema { .. }), "{error}");
        assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
    }
    assert_eq!(log.snapshot().version(), 0);
}
