// SPDX-License-Identifier: Apache-2.0
//! What goes in comes out, through a reopen too.

use std::sync::Arc;

use arrow::compute::concat_batches;
use dovetail_model::Span;
use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::support::*;
use crate::raw::RawScan;

#[tokio::test]
async fn every_column_type_comes_back_as_it_was() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = every_type();
    let log = open(&store, &def).await.unwrap();
    let batches = [full(&def, 0..40), full(&def, 40..41), full(&def, 41..100)];
    log.archive(&span(0, 41), &batches[..2]).await.unwrap();
    log.archive(&span(41, 100), &batches[2..]).await.unwrap();

    let expected = concat_batches(&def.schema.events(), batches.iter().map(|b| &b.events)).unwrap();
    let before = log.snapshot();
    assert_eq!(
        scan(&store, &before, RawScan::of(span(0, 100))).await,
        expected
    );

    let after = open(&store, &def).await.unwrap().snapshot();
    assert_eq!(after.segments(), before.segments());
    assert_eq!(after.version(), before.version());
    assert_eq!(after.archived(), &at(100));
    assert_eq!(
        scan(&store, &after, RawScan::of(span(0, 100))).await,
        expected
    );
}

#[tokio::test]
async fn a_new_stream_is_empty() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let snapshot = open(&store, &plain()).await.unwrap().snapshot();
    assert_eq!(snapshot.archived(), &at(0));
    let nothing = scan(&store, &snapshot, RawScan::of(Span::up_to(at(0)))).await;
    assert_eq!(nothing.num_rows(), 0);
    assert_eq!(nothing.schema(), plain().schema.events());
}

#[tokio::test]
async fn a_scan_gives_exactly_its_span_and_columns() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let log = open(&store, &def).await.unwrap();
    log.archive(&span(0, 50), &[full(&def, 0..50)])
        .await
        .unwrap();
    let snapshot = log
        .archive(&span(50, 90), &[full(&def, 50..90)])
        .await
        .unwrap();
    let request = RawScan {
        columns: Some(vec![3, 0]),
        ..RawScan::of(span(20, 60))
    };
    let events = scan(&store, &snapshot, request).await;
    assert_eq!(events.num_columns(), 2);
    assert_eq!(events.schema().field(1).name(), "id");
    assert_eq!(offsets_of(&events), (20..60).collect::<Vec<_>>());
}
