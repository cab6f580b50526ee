// SPDX-License-Identifier: Apache-2.0
//! An archived event is archived once, whatever the store says.

use std::sync::Arc;

use arrow::compute::concat_batches;
use dovetail_model::Span;
use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::support::faulty::{Fault, FaultyStore};
use super::support::*;
use crate::CommittedBatch;
use crate::raw::RawError;

#[tokio::test]
async fn archiving_a_span_again_changes_nothing() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let log = open(&store, &def).await.unwrap();
    let batches = [full(&def, 0..5), full(&def, 5..10)];
    let first = log.archive(&span(0, 10), &batches).await.unwrap();
    for again in [span(0, 10), span(5, 10), span(0, 5)] {
        let second = log.archive(&again, &batches).await.unwrap();
        assert_eq!(second.version(), first.version());
    }
    assert_eq!(
        archived_offsets(&store, &log.snapshot()).await,
        (0..10).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_span_starts_where_the_archive_ends() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let log = open(&store, &def).await.unwrap();
    log.archive(&span(0, 10), &[full(&def, 0..10)])
        .await
        .unwrap();
    for (wrong, range) in [(span(11, 20), 11..20), (span(9, 20), 9..20)] {
        let error = log.archive(&wrong, &[full(&def, range)]).await.unwrap_err();
        assert!(matches!(error, RawError::NotAtArchived { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains(&wrong.to_string()) && text.contains("`0@10`"),
            "{text}"
        );
    }
    assert_eq!(log.snapshot().rows(), 10);
}

#[tokio::test]
async fn batches_that_do_not_tile_the_span_are_refused() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let log = open(&store, &def).await.unwrap();
    let gap = [full(&def, 0..5), full(&def, 6..10)];
    let overlap = [full(&def, 0..5), full(&def, 4..10)];
    let short = [full(&def, 0..9)];
    let long = [full(&def, 0..11)];
    for batches in [&gap[..], &overlap, &short, &long] {
        let error = log.archive(&span(0, 10), batches).await.unwrap_err();
        assert!(matches!(error, RawError::Gap { .. }), "{error}");
    }
    let unsorted = batch(&def, 0, 0..10, &[1, 3, 2]);
    let outside = batch(&def, 0, 0..10, &[3, 10]);
    let both = [(0, 0..5), (1, 0..5)].map(|(p, range)| batch(&def, p, range, &[0, 1]));
    let backwards = [&both[1], &both[0]].map(|batch| &batch.events);
    let backwards = Arc::new(CommittedBatch {
        events: concat_batches(&def.schema.events(), backwards).unwrap(),
        span: Span::up_to(both[0].span.to().join(both[1].span.to())),
        ..CommittedBatch::clone(&both[0])
    });
    for wrong in [unsorted, outside, backwards] {
        let error = log.archive(&span(0, 10), &[wrong]).await.unwrap_err();
        assert!(matches!(error, RawError::Batch { .. }), "{error}");
    }
    assert_eq!(log.snapshot().version(), 0);
}

/// Archives ten events while the `nth` put under `part` fails as `fault` says, trying again until it holds.
async fn archive_through(part: &str, fault: Fault) {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let faulty = FaultyStore::new(Arc::clone(&memory));
    let store: Arc<dyn ObjectStore> = Arc::new(faulty.clone());
    let def = plain();
    let log = open(&store, &def).await.unwrap();
    let batches = [with_dead(
        &batch(&def, 0, 0..10, &[0, 1, 2, 3, 4, 6, 7, 8, 9]),
        &[5],
        &[],
    )];
    faulty.arm(part, fault);
    let mut tries = 0;
    while let Err(error) = log.archive(&span(0, 10), &batches).await {
        tries += 1;
        assert!(tries < 3, "{error}");
    }
    assert!(faulty.fired(), "no put under {part}");
    faulty.disarm();
    let more = [with_dead(&batch(&def, 0, 10..12, &[10]), &[11], &[])];
    log.archive(&span(10, 12), &more).await.unwrap();
    let here = log.snapshot();
    let reopened = open(&memory, &def).await.unwrap();
    let there = reopened.snapshot();
    assert_eq!(here.segments(), there.segments(), "{part} {fault:?}");
    assert_eq!(here.version(), there.version());
    let expected = vec![0, 1, 2, 3, 4, 6, 7, 8, 9, 10];
    assert_eq!(
        archived_offsets(&memory, &there).await,
        expected,
        "{part} {fault:?}"
    );
    let letters = dead_letters(&reopened).await;
    let offsets = letters.iter().map(|l| l.offset.0).collect::<Vec<_>>();
    assert_eq!(offsets, [5, 11], "{part} {fault:?}");
    assert_eq!(dead_letter_count(&reopened).await, 2);
    assert_eq!(dead_letter_count(&log).await, 2);
    assert_eq!(letter_rows(&memory).await, 2, "{part} {fault:?}");
}

#[tokio::test]
async fn an_error_of_a_put_never_doubles_or_loses() {
    for part in [
        "raw/_delta_log",
        "dead-letters/_delta_log",
        "raw",
        "dead-letters",
    ] {
        for fault in [
            Fault::FailAfterPut,
            Fault::FailBeforePut,
            Fault::ExistsAfterPut,
            Fault::FailAfterPutAndRead,
            Fault::FailBeforePutAndRead,
            Fault::PutLater,
        ] {
            archive_through(part, fault).await;
        }
    }
}

#[tokio::test]
async fn a_commit_in_doubt_is_looked_up_before_the_next() {
    let faulty = FaultyStore::new(Arc::new(InMemory::new()));
    let store: Arc<dyn ObjectStore> = Arc::new(faulty.clone());
    let def = plain();
    let log = open(&store, &def).await.unwrap();
    faulty.arm("raw/_delta_log", Fault::FailAfterPutAndRead);
    let error = log.archive(&span(0, 10), &[full(&def, 0..10)]).await;
    let text = error.unwrap_err().to_string();
    assert!(text.contains("unknown"), "{text}");
    log.archive(&span(0, 10), &[full(&def, 0..10)])
        .await
        .unwrap();
    let files = store
        .list_with_delimiter(Some(&root().join("raw")))
        .await
        .unwrap();
    assert_eq!(files.objects.len(), 1, "its events were written again");
}

#[tokio::test]
async fn another_writer_is_noticed() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let (one, other) = (
        open(&store, &def).await.unwrap(),
        open(&store, &def).await.unwrap(),
    );
    one.archive(&span(0, 10), &[full(&def, 0..10)])
        .await
        .unwrap();
    // The same events, archived by the other one too, are there once.
    let seen = other
        .archive(&span(0, 10), &[full(&def, 0..10)])
        .await
        .unwrap();
    assert_eq!(seen.segments(), one.snapshot().segments());
    // Another cut of the log is not mixed in.
    one.archive(&span(10, 20), &[full(&def, 10..20)])
        .await
        .unwrap();
    let error = other
        .archive(&span(10, 25), &[full(&def, 10..25)])
        .await
        .unwrap_err();
    assert!(matches!(error, RawError::NotAtArchived { .. }), "{error}");
    other
        .archive(&span(20, 25), &[full(&def, 20..25)])
        .await
        .unwrap();
    assert_eq!(
        archived_offsets(&store, &other.snapshot()).await,
        (0..25).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_crash_between_the_two_commits_repeats_neither() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let faulty = FaultyStore::new(Arc::clone(&memory));
    let store: Arc<dyn ObjectStore> = Arc::new(faulty.clone());
    let log = open(&store, &def).await.unwrap();
    let head = with_dead(&batch(&def, 0, 0..4, &[0, 2, 3]), &[1], &[]);
    let middle = with_dead(&batch(&def, 0, 4..8, &[4, 6, 7]), &[5], &[1]);
    let tail = with_dead(&batch(&def, 0, 8..12, &[8, 9, 10]), &[11], &[]);
    faulty.arm("raw/_delta_log", Fault::FailBeforePut);
    log.archive(&span(0, 8), &[head.clone(), middle.clone()])
        .await
        .unwrap_err();
    drop(log);

    // The next process may archive less or more than the one that crashed.
    let log = open(&memory, &def).await.unwrap();
    assert_eq!(log.snapshot().archived(), &at(0));
    assert_eq!(dead_letter_count(&log).await, 0, "not archived yet");
    log.archive(&span(0, 4), std::slice::from_ref(&head))
        .await
        .unwrap();
    // The replay of 1 is durable, though the events of its batch are not archived yet.
    assert_eq!(dead_letter_count(&log).await, 0);
    log.archive(&span(4, 12), &[middle, tail]).await.unwrap();
    let letters = dead_letters(&log).await;
    let offsets = letters.iter().map(|l| l.offset.0).collect::<Vec<_>>();
    assert_eq!(offsets, [5, 11]);
    assert_eq!(
        letter_rows(&memory).await,
        3 + 1,
        "three dead letters and a mark"
    );
    let expected = vec![0, 2, 3, 4, 6, 7, 8, 9, 10];
    assert_eq!(archived_offsets(&memory, &log.snapshot()).await, expected);
}

#[tokio::test]
async fn a_dropped_archive_can_be_repeated() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let log = open(&store, &def).await.unwrap();
    let batches = [full(&def, 0..10)];
    // Drop the future at each of its suspension points in turn.
    for polls in 0..200 {
        let span = span(0, 10);
        let mut archive = Box::pin(log.archive(&span, &batches));
        let mut left = polls;
        let finished = std::future::poll_fn(|context| {
            if left == 0 {
                return std::task::Poll::Ready(false);
            }
            left -= 1;
            context.waker().wake_by_ref();
            archive.as_mut().poll(context).map(|done| done.is_ok())
        });
        finished.await;
    }
    log.archive(&span(0, 10), &batches).await.unwrap();
    assert_eq!(
        archived_offsets(&store, &log.snapshot()).await,
        (0..10).collect::<Vec<_>>()
    );
    let reopened = open(&store, &def).await.unwrap().snapshot();
    assert_eq!(reopened.segments(), log.snapshot().segments());
}
