// SPDX-License-Identifier: Apache-2.0
//! Compaction, checkpoints and vacuum change no answer.

use std::sync::Arc;
use std::time::Duration;

use dovetail_model::{Clock, ManualClock, Position, ProblemKind, Span, StoreEpoch};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};

use super::support::faulty::FaultyStore;
use super::support::*;
use crate::raw::{Compaction, RawLog, RawReader, RawScan};

/// A clock far ahead of the store's, so that every file is old.
fn far_ahead() -> Arc<dyn Clock> {
    Arc::new(ManualClock::at(4_000_000_000_000_000))
}

async fn many_segments(store: &Arc<dyn ObjectStore>) -> RawLog {
    let def = every_type();
    let log = RawLog::open(Arc::clone(store), root(), &def, StoreEpoch(0), far_ahead())
        .await
        .unwrap();
    for first in (0..100).step_by(10) {
        log.archive(&span(first, first + 10), &[full(&def, first..first + 10)])
            .await
            .unwrap();
    }
    log
}

#[tokio::test]
async fn compaction_changes_neither_content_nor_order() {
    let store: Arc<dyn ObjectStore> = Arc::new(FaultyStore::new(Arc::new(InMemory::new())));
    let log = many_segments(&store).await;
    let before = log.snapshot();
    let all = scan(&store, &before, RawScan::of(span(0, 100))).await;
    let part = scan(&store, &before, RawScan::of(span(13, 77))).await;
    let done = log.compact(Compaction::default()).await.unwrap();
    assert_eq!((done.files, done.into), (10, 1));
    let after = log.snapshot();
    assert_eq!(after.segments().len(), 1);
    assert_eq!(after.segments()[0].span, span(0, 100));
    assert_eq!(after.archived(), before.archived());
    assert_eq!(scan(&store, &after, RawScan::of(span(0, 100))).await, all);
    assert_eq!(scan(&store, &after, RawScan::of(span(13, 77))).await, part);
    // And the archive goes on from where it was.
    let def = every_type();
    log.archive(&span(100, 105), &[full(&def, 100..105)])
        .await
        .unwrap();
    let reopened = open(&store, &def).await.unwrap().snapshot();
    assert_eq!(reopened.segments(), log.snapshot().segments());
}

#[tokio::test]
async fn partitions_stay_in_order_when_segments_merge() {
    let store: Arc<dyn ObjectStore> = Arc::new(FaultyStore::new(Arc::new(InMemory::new())));
    let def = plain();
    let log = open(&store, &def).await.unwrap();
    let mut at = Position::zero();
    for step in 0..4 {
        let range = step * 5..step * 5 + 5;
        let offsets = range.clone().map(|o| o as i64).collect::<Vec<_>>();
        let batches = [
            batch(&def, 1, range.clone(), &offsets),
            batch(&def, 0, range.clone(), &offsets),
        ];
        let to = position(&[(0, range.end), (1, range.end)]);
        log.archive(&Span::new(at, to.clone()).unwrap(), &batches)
            .await
            .unwrap();
        at = to;
    }
    let compaction = Compaction {
        min_files: 4,
        ..Compaction::default()
    };
    assert_eq!(log.compact(compaction).await.unwrap().into, 1);
    let events = scan(&store, &log.snapshot(), RawScan::of(Span::up_to(at))).await;
    let twice = (0..20).chain(0..20).collect::<Vec<_>>();
    assert_eq!(offsets_of(&events), twice);
}

#[tokio::test]
async fn a_held_snapshot_stays_readable_until_it_is_let_go() {
    let store: Arc<dyn ObjectStore> = Arc::new(FaultyStore::new(Arc::new(InMemory::new())));
    let log = many_segments(&store).await;
    let held = log.snapshot();
    let files = held
        .segments()
        .iter()
        .map(|s| s.path.clone())
        .collect::<Vec<_>>();
    log.compact(Compaction::default()).await.unwrap();
    let all = scan(&store, &held, RawScan::of(span(0, 100))).await;
    // Held: nothing goes.
    assert_eq!(log.vacuum(Duration::ZERO).await.unwrap().files, 0);
    assert_eq!(scan(&store, &held, RawScan::of(span(0, 100))).await, all);
    // Let go, but another process may have begun to read them.
    drop(held);
    assert_eq!(
        log.vacuum(Duration::from_secs(3600)).await.unwrap().files,
        0
    );
    let done = log.vacuum(Duration::ZERO).await.unwrap();
    assert_eq!(done.files, 10);
    for file in files {
        assert!(store.head(&file).await.is_err(), "{file}");
    }
    assert_eq!(
        scan(&store, &log.snapshot(), RawScan::of(span(0, 100))).await,
        all
    );
    assert_eq!(log.vacuum(Duration::ZERO).await.unwrap().files, 0);
}

#[tokio::test]
async fn vacuum_takes_orphans_and_nothing_else() {
    let store: Arc<dyn ObjectStore> = Arc::new(FaultyStore::new(Arc::new(InMemory::new())));
    let log = many_segments(&store).await;
    let orphan = root().join("raw").join("0123.parquet");
    store.put(&orphan, "left by a crash".into()).await.unwrap();
    let done = log.vacuum(Duration::ZERO).await.unwrap();
    assert_eq!((done.files, done.bytes), (1, 15));
    assert!(store.head(&orphan).await.is_err());
    assert_eq!(archived_offsets(&store, &log.snapshot()).await.len(), 100);
}

/// By our clock, wherever the store's stands: it is decades behind in the first case and ahead in the second.
#[tokio::test]
async fn an_orphan_goes_an_hour_after_it_was_seen_whatever_the_store_says() {
    let hour = Duration::from_secs(3600);
    for start in [4_000_000_000_000_000, 1_000_000_000_000] {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let clock = Arc::new(ManualClock::at(start));
        let ours: Arc<dyn Clock> = Arc::clone(&clock) as _;
        let def = every_type();
        let opened = RawLog::open(Arc::clone(&store), root(), &def, StoreEpoch(0), ours);
        let log = opened.await.unwrap();
        for table in ["raw", "dead-letters"] {
            let orphan = root().join(table).join("0123.parquet");
            store.put(&orphan, "left by a crash".into()).await.unwrap();
        }
        let dead = with_dead(&batch(&every_type(), 0, 0..2, &[0]), &[1], &[]);
        log.archive(&span(0, 2), &[dead]).await.unwrap();
        let vacuumed = async || log.vacuum(hour).await.unwrap().files;
        assert_eq!(vacuumed().await, 0, "{start}");
        clock.advance(3_599_000_000);
        assert_eq!(vacuumed().await, 0, "{start}");
        clock.advance(1_000_000);
        assert_eq!(vacuumed().await, 2, "{start}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_replaces_the_log_before_it() {
    let store: Arc<dyn ObjectStore> = Arc::new(FaultyStore::new(Arc::new(InMemory::new())));
    let def = every_type();
    let log = many_segments(&store).await;
    let dead = with_dead(&batch(&def, 0, 100..102, &[100]), &[101], &[]);
    log.archive(&span(100, 102), &[dead]).await.unwrap();
    log.checkpoint().await.unwrap();
    log.archive(&span(102, 104), &[full(&def, 102..104)])
        .await
        .unwrap();
    let before = log.snapshot();
    let done = log.vacuum(Duration::ZERO).await.unwrap();
    assert_eq!((done.files, done.log_entries > 8), (0, true), "{done:?}");
    // Segments, their tags and the transactions come back from the checkpoint alone.
    let reopened = open(&store, &def).await.unwrap();
    let after = reopened.snapshot();
    assert_eq!(after.segments(), before.segments());
    assert_eq!(
        (after.version(), after.archived()),
        (before.version(), before.archived())
    );
    assert_eq!(dead_letter_count(&reopened).await, 1);
    let next = [full(&def, 104..110)];
    reopened.archive(&span(104, 110), &next).await.unwrap();
    assert_eq!(
        archived_offsets(&store, &reopened.snapshot()).await.len(),
        109
    );
}

/// A process that stops its upkeep, and opens the store again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_is_cut_off_lets_go_of_the_store() {
    let faulty = FaultyStore::new(Arc::new(InMemory::new()));
    let store: Arc<dyn ObjectStore> = Arc::new(faulty.clone());
    drop(many_segments(&store).await);
    let holders = Arc::strong_count(&store);
    // Reads of the table, and of the checkpoint's maker.
    for behind in 0..12 {
        let log = Arc::new(open(&store, &every_type()).await.unwrap());
        let held = faulty.hold_read(behind);
        let ours = Arc::clone(&log);
        let checkpoint = tokio::spawn(async move { ours.checkpoint().await });
        held.is_there.notified().await;
        checkpoint.abort();
        let _ = checkpoint.await;
        let mut released = Box::pin(log.released());
        assert!(futures::poll!(&mut released).is_pending(), "{behind}");
        held.goes_on.notify_one();
        released.await;
        drop(log);
        // What deltalake read ahead ends at its next step.
        while Arc::strong_count(&store) > holders {
            tokio::task::yield_now().await;
        }
    }
}

/// As one that computes for hours in another process, from what this one holds for it.
#[tokio::test]
async fn a_reader_elsewhere_reads_the_very_version_that_is_held_here() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let log = many_segments(&store).await;
    let held = log.snapshot();
    let all = scan(&store, &held, RawScan::of(span(0, 100))).await;
    log.compact(Compaction::default()).await.unwrap();
    let def = every_type();
    log.archive(&span(100, 105), &[full(&def, 100..105)])
        .await
        .unwrap();
    log.checkpoint().await.unwrap();

    let reader = RawReader::new(Arc::clone(&store), root(), def.id.clone(), far_ahead()).unwrap();
    let read = reader.at(held.version(), &def.schema).await.unwrap();
    assert_eq!(read.segments(), held.segments());
    assert_eq!(read.archived(), held.archived());
    assert_eq!(scan(&store, &read, RawScan::of(span(0, 100))).await, all);
    let newest = reader.newest(&def.schema).await.unwrap();
    assert_ne!(newest.segments(), held.segments());
}

#[tokio::test]
async fn a_reader_that_the_store_does_not_answer_may_ask_again() {
    let faulty = FaultyStore::new(Arc::new(InMemory::new()));
    let store: Arc<dyn ObjectStore> = Arc::new(faulty.clone());
    many_segments(&store).await;
    let def = every_type();
    let reader = RawReader::new(store, root(), def.id.clone(), far_ahead()).unwrap();
    faulty.fail_read();
    let error = reader.newest(&def.schema).await.unwrap_err();
    assert_eq!(error.kind(), ProblemKind::Unavailable, "{error}");
    assert!(reader.newest(&def.schema).await.is_ok());
}
