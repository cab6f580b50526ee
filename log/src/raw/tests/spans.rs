// SPDX-License-Identifier: Apache-2.0
//! Any span, cut anywhere, over any segments, gives exactly the events inside.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int32Type, Int64Type};
use dovetail_model::{ColumnType, Offset, PartitionId, Position, Span};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;

use super::support::*;
use crate::CommittedBatch;
use crate::raw::{Compaction, EventTimeRange, RawError, RawScan};

/// Two partitions; each archive step is a list of batches, each `(partition, length, holes)`.
type Steps = Vec<Vec<(u32, u64, u64)>>;

fn steps() -> impl Strategy<Value = Steps> {
    let batch = (0u32..2, 1u64..12, 0u64..8);
    proptest::collection::vec(proptest::collection::vec(batch, 1..4), 1..6)
}

/// The batches of `step` from `at` on; an event whose offset and `holes` share bits is missing.
fn batches(at: &mut Position, step: &[(u32, u64, u64)]) -> Vec<Arc<CommittedBatch>> {
    let def = plain();
    step.iter()
        .map(|(partition, length, holes)| {
            let first = at.get(PartitionId(*partition)).0;
            let range = first..first + length;
            *at = at.clone().with(PartitionId(*partition), Offset(range.end));
            let offsets = range.clone().filter(|o| o & holes == 0);
            let offsets = offsets.map(|o| o as i64).collect::<Vec<_>>();
            batch(&def, *partition, range, &offsets)
        })
        .collect()
}

/// Neighbours in order of partition, as one batch each.
fn joined(batches: &[Arc<CommittedBatch>]) -> Vec<Arc<CommittedBatch>> {
    let moved = |batch: &CommittedBatch| {
        let mut moved = batch.span.to().iter();
        moved.next().map(|(partition, _)| partition)
    };
    batches
        .chunk_by(|left, right| moved(left) < moved(right))
        .map(|batches| {
            let spans = batches.iter().map(|batch| &batch.span);
            let span = spans.fold(Span::up_to(Position::zero()), |all, span| {
                Span::new(all.from().join(span.from()), all.to().join(span.to())).unwrap()
            });
            let events = batches.iter().map(|batch| &batch.events);
            Arc::new(CommittedBatch {
                span,
                events: concat_batches(&plain().schema.events(), events).unwrap(),
                ..CommittedBatch::clone(&batches[0])
            })
        })
        .collect()
}

fn keys(events: &RecordBatch) -> Vec<(u32, u64)> {
    let column = |name| events.column_by_name(name).unwrap();
    let partitions = column("_partition").as_primitive::<Int32Type>().values();
    let offsets = column("_offset").as_primitive::<Int64Type>().values();
    let pairs = partitions.iter().zip(offsets.iter());
    pairs.map(|(p, o)| (*p as u32, *o as u64)).collect()
}

async fn check(
    steps: Steps,
    join: bool,
    from: [u64; 2],
    length: [u64; 2],
    compact: bool,
    threads: usize,
) {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let log = open(&store, &plain()).await.unwrap();
    let mut at = Position::zero();
    let mut all = Vec::new();
    for step in &steps {
        let from = at.clone();
        let batches = batches(&mut at, step);
        all.extend(batches.iter().flat_map(|batch| keys(&batch.events)));
        let span = Span::new(from, at.clone()).unwrap();
        let batches = if join { joined(&batches) } else { batches };
        log.archive(&span, &batches).await.unwrap();
    }
    if compact {
        let compaction = Compaction {
            min_files: 2,
            ..Compaction::default()
        };
        log.compact(compaction).await.unwrap();
    }
    let snapshot = log.snapshot();
    assert_eq!(snapshot.archived(), &at);
    assert_eq!(snapshot.rows(), all.len() as u64);

    let end = |p: u32| at.get(PartitionId(p)).0;
    let cut = |p: u32| from[p as usize].min(end(p));
    let to = |p: u32| (cut(p) + length[p as usize]).min(end(p));
    let span = Span::new(
        position(&[(0, cut(0)), (1, cut(1))]),
        position(&[(0, to(0)), (1, to(1))]),
    );
    let span = span.unwrap();
    let request = RawScan {
        target_partitions: threads,
        ..RawScan::of(span.clone())
    };
    let found = keys(&scan(&store, &snapshot, request).await);
    for partition in 0..2 {
        let inside = |keys: &[(u32, u64)]| {
            let of = keys.iter().filter(|(p, _)| *p == partition);
            of.map(|(_, o)| *o).collect::<Vec<_>>()
        };
        let mut expected = inside(&all);
        expected.retain(|o| span.contains(PartitionId(partition), Offset(*o)));
        assert_eq!(inside(&found), expected, "partition {partition} of {span}");
    }
    assert!(
        found
            .iter()
            .all(|(p, o)| span.contains(PartitionId(*p), Offset(*o)))
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_scan_gives_the_events_of_its_span_in_order(
        steps in steps(),
        join: bool,
        from in [0u64..60, 0u64..60],
        length in [0u64..60, 0u64..60],
        compact: bool,
        threads in 1usize..3,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(check(steps, join, from, length, compact, threads));
    }
}

#[tokio::test]
async fn a_span_beyond_the_archive_is_an_error_not_a_short_answer() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let log = open(&store, &def).await.unwrap();
    let snapshot = log
        .archive(&span(0, 10), &[full(&def, 0..10)])
        .await
        .unwrap();
    let error = snapshot.scan(RawScan::of(span(5, 11))).unwrap_err();
    assert!(matches!(error, RawError::NotArchived { .. }));
    let text = error.to_string();
    assert!(text.contains("0@11") && text.contains("`0@10`"), "{text}");
}

#[tokio::test]
async fn an_event_time_range_prunes_segments_and_filters_rows() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let log = open(&store, &def).await.unwrap();
    log.archive(&span(0, 10), &[full(&def, 0..10)])
        .await
        .unwrap();
    let snapshot = log
        .archive(&span(10, 30), &[full(&def, 10..30)])
        .await
        .unwrap();
    assert_eq!(
        snapshot.segments()[1].event_time,
        Some((event_time(10), event_time(29)))
    );
    // A segment that is not read does not miss its file.
    store.delete(&snapshot.segments()[0].path).await.unwrap();
    let request = |from, to| RawScan {
        event_time: Some(EventTimeRange { from, to }),
        ..RawScan::of(span(0, 30))
    };
    let some = request(Some(event_time(15)), Some(event_time(18)));
    assert_eq!(
        offsets_of(&scan(&store, &snapshot, some).await),
        [15, 16, 17]
    );
    let open_end = request(Some(event_time(28) + 1), None);
    assert_eq!(offsets_of(&scan(&store, &snapshot, open_end).await), [29]);
    let needs_both = request(None, Some(event_time(15)));
    assert!(
        run(&store, snapshot.scan(needs_both).unwrap())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_date_lies_in_a_range_if_its_midnight_does() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut def = every_type();
    def.schema.event_time.as_mut().unwrap().column = "day".to_owned();
    let log = open(&store, &def).await.unwrap();
    // `day` is the offset less three, null for 1, 4, 7, …
    let snapshot = log.archive(&span(0, 9), &[full(&def, 0..9)]).await.unwrap();
    let day = 86_400_000_000;
    assert_eq!(snapshot.segments()[0].event_time, Some((-3 * day, 5 * day)));
    for (from, to, expected) in [
        (-day, 2 * day, vec![2, 3]),
        (-day + 1, 2 * day + 1, vec![3, 5]),
        (3 * day, 3 * day + 1, vec![6]),
    ] {
        let request = RawScan {
            event_time: Some(EventTimeRange {
                from: Some(from),
                to: Some(to),
            }),
            ..RawScan::of(span(0, 9))
        };
        assert_eq!(
            offsets_of(&scan(&store, &snapshot, request).await),
            expected
        );
    }
}

#[tokio::test]
async fn a_range_needs_an_event_time() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = def(vec![column("id", ColumnType::BigInt, false)], None);
    let snapshot = open(&store, &def).await.unwrap().snapshot();
    let request = RawScan {
        event_time: Some(EventTimeRange {
            from: Some(0),
            to: None,
        }),
        ..RawScan::of(span(0, 0))
    };
    assert!(matches!(
        snapshot.scan(request),
        Err(RawError::Schema { .. })
    ));
}
