// SPDX-License-Identifier: Apache-2.0
//! A hole is an error (law 5): a file or a segment that is missing never makes an answer smaller.

use std::sync::Arc;

use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::support::*;
use crate::raw::{RawError, RawLog, RawScan};

#[tokio::test]
async fn a_missing_file_fails_the_scan_and_is_named() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let log = open(&store, &def).await.unwrap();
    log.archive(&span(0, 5), &[full(&def, 0..5)]).await.unwrap();
    let snapshot = log.archive(&span(5, 9), &[full(&def, 5..9)]).await.unwrap();
    let lost = snapshot.segments()[0].path.clone();
    store.delete(&lost).await.unwrap();
    let plan = snapshot.scan(RawScan::of(span(0, 9))).unwrap();
    let error = run(&store, plan).await.unwrap_err().to_string();
    assert!(error.contains(lost.filename().unwrap()), "{error}");
    // Whoever does not need it is not bothered.
    let rest = scan(&store, &snapshot, RawScan::of(span(5, 9))).await;
    assert_eq!(rest.num_rows(), 4);
}

/// Appends a commit of another engine to the stream's raw log.
async fn foreign_commit(store: &Arc<dyn ObjectStore>, version: u64, action: String) {
    let path = Path::from(format!("streams/k3f/raw/_delta_log/{version:020}.json"));
    store.put(&path, Bytes::from(action).into()).await.unwrap();
}

/// What one says who opens the table, and `log`, which had it open and looks at it again.
async fn errors(store: &Arc<dyn ObjectStore>, log: &RawLog) -> [RawError; 2] {
    let opened = open(store, &plain()).await.unwrap_err();
    [opened, log.newest().await.unwrap_err()]
}

#[tokio::test]
async fn a_segment_taken_out_of_the_table_fails_the_open() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let log = open(&store, &def).await.unwrap();
    log.archive(&span(0, 5), &[full(&def, 0..5)]).await.unwrap();
    let snapshot = log.archive(&span(5, 9), &[full(&def, 5..9)]).await.unwrap();
    let name = snapshot.segments()[0].path.filename().unwrap().to_owned();
    let remove = format!(r#"{{"remove":{{"path":"{name}","dataChange":false}}}}"#);
    foreign_commit(&store, 3, remove).await;
    for error in errors(&store, &log).await {
        let text = error.to_string();
        assert!(matches!(error, RawError::Hole { .. }), "{text}");
        assert!(text.contains("behind position `0@0` is missing"), "{text}");
    }
}

#[tokio::test]
async fn the_last_segment_taken_out_fails_the_open_too() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let log = open(&store, &def).await.unwrap();
    log.archive(&span(0, 5), &[full(&def, 0..5)]).await.unwrap();
    let snapshot = log.archive(&span(5, 9), &[full(&def, 5..9)]).await.unwrap();
    let name = snapshot.segments()[1].path.filename().unwrap().to_owned();
    let remove = format!(r#"{{"remove":{{"path":"{name}","dataChange":false}}}}"#);
    foreign_commit(&store, 3, remove).await;
    for error in errors(&store, &log).await {
        let text = error.to_string();
        assert!(matches!(error, RawError::Hole { .. }), "{text}");
        let says = text.contains("end at offset 5") && text.contains("Some(9)");
        assert!(says, "{text}");
    }
}

#[tokio::test]
async fn a_file_that_another_engine_added_is_not_read_as_ours() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let log = open(&store, &def).await.unwrap();
    log.archive(&span(0, 5), &[full(&def, 0..5)]).await.unwrap();
    let add = r#"{"add":{"path":"theirs.parquet","partitionValues":{},"size":1,"modificationTime":0,"dataChange":true}}"#;
    foreign_commit(&store, 2, add.to_owned()).await;
    for error in errors(&store, &log).await {
        assert!(error.to_string().contains("theirs.parquet"), "{error}");
    }
}

#[tokio::test]
async fn dead_letters_alone_advance_the_archive() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let log = open(&store, &def).await.unwrap();
    let dead = with_dead(&batch(&def, 0, 0..2, &[]), &[0, 1], &[]);
    let snapshot = log.archive(&span(0, 2), &[dead]).await.unwrap();
    assert_eq!((snapshot.archived(), snapshot.rows()), (&at(2), 0));
    log.archive(&span(2, 4), &[full(&def, 2..4)]).await.unwrap();
    let reopened = open(&store, &def).await.unwrap().snapshot();
    assert_eq!(archived_offsets(&store, &reopened).await, [2, 3]);
}
