// SPDX-License-Identifier: Apache-2.0
//! Dead letters come back as they came in, until they are replayed.

use std::sync::Arc;

use dovetail_model::{Offset, PartitionId, Position, Span};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::support::*;
use crate::raw::{ArchivedDeadLetter, RawLog};

async fn offsets(log: &RawLog, skip: usize, limit: usize) -> Vec<u64> {
    let letters = log.dead_letters(skip, limit).await.unwrap();
    letters.iter().map(|letter| letter.offset.0).collect()
}

#[tokio::test]
async fn a_dead_letter_comes_back_whole_until_it_is_replayed() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let log = open(&store, &def).await.unwrap();
    let first = with_dead(&batch(&def, 0, 0..6, &[0, 5]), &[1, 2, 3, 4], &[]);
    log.archive(&span(0, 6), &[first]).await.unwrap();
    let expected = |offset: u64| ArchivedDeadLetter {
        partition: PartitionId(0),
        offset: Offset(offset),
        arrived_at_us: 0,
        letter: letter(offset),
    };
    assert_eq!(
        log.dead_letters(0, 2).await.unwrap(),
        [expected(1), expected(2)]
    );
    assert_eq!(log.dead_letters(3, 9).await.unwrap(), [expected(4)]);
    assert_eq!(log.dead_letters(4, 9).await.unwrap(), []);

    // 2 is replayed and becomes an event; 3 is replayed and dead again, at a new offset.
    let second = with_dead(&batch(&def, 0, 6..8, &[6]), &[7], &[2, 3]);
    log.archive(&span(6, 8), &[second]).await.unwrap();
    assert_eq!(offsets(&log, 0, 9).await, [1, 4, 7]);
    assert_eq!(log.dead_letter_count().await.unwrap(), 3);

    let reopened = open(&store, &def).await.unwrap();
    assert_eq!(reopened.dead_letter_count().await.unwrap(), 3);
    assert_eq!(offsets(&reopened, 0, 9).await, [1, 4, 7]);
    assert_eq!(reopened.dead_letters(0, 1).await.unwrap(), [expected(1)]);
}

#[tokio::test]
async fn a_stream_without_dead_letters_has_no_table_for_them() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let log = open(&store, &def).await.unwrap();
    log.archive(&span(0, 5), &[full(&def, 0..5)]).await.unwrap();
    assert_eq!(log.dead_letter_count().await.unwrap(), 0);
    assert_eq!(log.dead_letters(0, 10).await.unwrap(), []);
    let list = store.list_with_delimiter(Some(&root())).await.unwrap();
    assert_eq!(list.common_prefixes.len(), 1);
}

#[tokio::test]
async fn partitions_keep_their_dead_letters_apart() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let log = open(&store, &def).await.unwrap();
    let zero = with_dead(&batch(&def, 0, 0..3, &[0, 2]), &[1], &[]);
    let one = with_dead(&batch(&def, 1, 0..3, &[0, 2]), &[1], &[]);
    let to = position(&[(0, 3), (1, 3)]);
    log.archive(
        &Span::new(Position::zero(), to.clone()).unwrap(),
        &[zero, one],
    )
    .await
    .unwrap();
    let mark = with_dead(&batch(&def, 1, 3..4, &[3]), &[], &[1]);
    let next = Span::new(to.clone(), to.with(PartitionId(1), Offset(4))).unwrap();
    log.archive(&next, &[mark]).await.unwrap();
    let left = log.dead_letters(0, 10).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(
        (left[0].partition, left[0].offset),
        (PartitionId(0), Offset(1))
    );
}

#[tokio::test]
async fn compaction_leaves_dead_letters_as_they_are() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let log = open(&store, &def).await.unwrap();
    for first in (0..20).step_by(2) {
        let marks = if first == 10 { &[3, 5][..] } else { &[] };
        let dead = with_dead(
            &batch(&def, 0, first..first + 2, &[first as i64]),
            &[first + 1],
            marks,
        );
        log.archive(&span(first, first + 2), &[dead]).await.unwrap();
    }
    let before = log.dead_letters(0, 100).await.unwrap();
    assert_eq!(before.len(), 8);
    let done = log.compact(Default::default()).await.unwrap();
    assert_eq!((done.files, done.into), (20, 2));
    assert_eq!(log.dead_letters(0, 100).await.unwrap(), before);
    let reopened = open(&store, &def).await.unwrap();
    assert_eq!(reopened.dead_letters(0, 100).await.unwrap(), before);
}
