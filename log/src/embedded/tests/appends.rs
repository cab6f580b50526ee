// SPDX-License-Identifier: Apache-2.0
//! What is appended is acknowledged, handed on and read back, in order and whole.

use std::sync::mpsc;

use arrow::array::Array;
use arrow::datatypes::TimestampMicrosecondType;
use dovetail_model::{ARRIVED_AT, PARTITION, ProblemKind};
use futures::future::join_all;
use futures::poll;

use super::*;
use crate::embedded::ONLY_PARTITION;
use crate::embedded::batch::offsets;

#[tokio::test]
async fn events_and_dead_letters_take_offsets_in_order() {
    let world = World::new();
    let log = world.open();
    let first = log
        .append(Append {
            dead_letters: vec![letter("a"), letter("b")],
            ..append(0..3)
        })
        .await
        .unwrap();
    let expected = Appended {
        accepted: 3,
        rejected: 2,
        next: Offset(5),
        duplicate: false,
    };
    assert_eq!(first, expected);
    assert_eq!(log.durable(), Offset(5));
    let second = log
        .append(Append {
            dead_letters: vec![letter("c")],
            replayed: vec![Offset(3)],
            ..append(0..0)
        })
        .await
        .unwrap();
    assert_eq!((second.accepted, second.next), (0, Offset(6)));
    log.append(append(3..4)).await.unwrap();

    assert_eq!(read_all(&log), [(0, 0), (1, 1), (2, 2), (6, 3)]);
    let batches = read(&log, 0, 100);
    let letters: Vec<_> = batches
        .iter()
        .flat_map(|b| b.dead_letters.clone())
        .collect();
    let at = |offset, text| ((ONLY_PARTITION, Offset(offset)), letter(text));
    assert_eq!(letters, [at(3, "a"), at(4, "b"), at(5, "c")]);
    assert_eq!(batches[1].replayed, [(ONLY_PARTITION, Offset(3))]);
    log.close().await;
    same(&world.sunk.lock(), &batches);
    // And so after a restart.
    let log = world.open();
    same(&world.sunk.lock(), &read(&log, 0, 100));
}

fn same(sunk: &[Arc<CommittedBatch>], read: &[CommittedBatch]) {
    assert_eq!(sunk.len(), read.len());
    for (sunk, read) in sunk.iter().zip(read) {
        assert_eq!(sunk.events, read.events);
        assert_eq!(sunk.span, read.span);
        assert_eq!(sunk.dead_letters, read.dead_letters);
        assert_eq!(sunk.replayed, read.replayed);
        assert_eq!(sunk.arrived_at_us, read.arrived_at_us);
    }
}

#[tokio::test]
async fn batches_have_the_streams_events_schema() {
    let world = World::new();
    let log = world.open();
    log.append(append(0..4)).await.unwrap();
    let [batch] = &read(&log, 0, 4)[..] else {
        panic!("one batch")
    };
    assert_eq!(batch.events.schema(), world.schema.events());
    let arrived = batch.events[ARRIVED_AT].as_primitive::<TimestampMicrosecondType>();
    assert_eq!(arrived.values(), &[1_000_000; 4]);
    assert_eq!(batch.events[PARTITION].null_count(), 0);
    assert_eq!(batch.events.column(0), events(0..4).column(0));
    assert_eq!(batch.events.column(1), events(0..4).column(1));
}

/// While a commit waits for its sync, others queue, and readers neither wait nor see it; then all that
/// queued share one frame, one sync and one batch.
#[tokio::test]
async fn waiting_appends_share_one_sync() {
    let world = World::new();
    let log = world.open();
    let syncs = world.disk.syncs();
    world.disk.pause_syncs();
    let mut first = Box::pin(log.append(append(0..1)));
    assert!(poll!(&mut first).is_pending());
    let disk = world.disk.clone();
    tokio::task::spawn_blocking(move || disk.wait_for_paused_sync())
        .await
        .unwrap();
    let mut others: Vec<_> = (1..51)
        .map(|id| Box::pin(log.append(append(id..id + 1))))
        .collect();
    for other in &mut others {
        assert!(poll!(other).is_pending());
    }
    assert_eq!(log.durable(), Offset(0));
    assert!(read_all(&log).is_empty() && world.sunk.lock().is_empty());
    world.disk.resume_syncs();
    assert_eq!(first.await.unwrap().next, Offset(1));
    let answers = join_all(others).await;
    let nexts: Vec<u64> = answers.into_iter().map(|a| a.unwrap().next.0).collect();
    assert_eq!(nexts, (2..52).collect::<Vec<_>>());
    assert_eq!(world.disk.syncs() - syncs, 2);
    log.close().await;
    let sizes: Vec<usize> = world
        .sunk
        .lock()
        .iter()
        .map(|b| b.events.num_rows())
        .collect();
    assert_eq!(sizes, [1, 50]);
    let log = world.open();
    assert_eq!(
        read_all(&log),
        (0..51).map(|i| (i as u64, i)).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_large_append_is_handed_on_without_a_copy() {
    let world = World::new();
    let log = world.open();
    let large = append(0..10_000);
    let address = large.events.column(0).to_data().buffers()[0].as_ptr();
    log.append(large).await.unwrap();
    log.close().await;
    let sunk = world.sunk.lock();
    assert_eq!(
        sunk[0].events.column(0).to_data().buffers()[0].as_ptr(),
        address
    );
}

#[tokio::test]
async fn arrival_never_goes_backwards() {
    let world = World::new();
    let log = world.open();
    log.append(append(0..1)).await.unwrap();
    world.clock.advance(-500);
    log.append(append(1..2)).await.unwrap();
    log.close().await;
    let log = world.open();
    log.append(append(2..3)).await.unwrap();
    world.clock.advance(700);
    log.append(append(3..4)).await.unwrap();
    let arrivals: Vec<i64> = read(&log, 0, 4).iter().map(|b| b.arrived_at_us).collect();
    assert_eq!(arrivals, [1_000_000, 1_000_000, 1_000_000, 1_000_200]);
}

#[tokio::test]
async fn what_does_not_fit_the_schema_is_refused() {
    let world = World::new();
    let log = world.open();
    let renamed = RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
        ("other", Arc::new(StringArray::from(vec!["x"]))),
    ])
    .unwrap();
    let with_null = RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from(vec![None])) as ArrayRef),
        ("text", Arc::new(StringArray::from(vec!["x"]))),
    ])
    .unwrap();
    let retyped = RecordBatch::try_from_iter([
        ("id", Arc::new(StringArray::from(vec!["1"])) as ArrayRef),
        ("text", Arc::new(StringArray::from(vec!["x"]))),
    ])
    .unwrap();
    for (events, part) in [(renamed, "other"), (with_null, "null"), (retyped, "type")] {
        let bad = Append {
            events,
            ..append(0..0)
        };
        let error = log.append(bad).await.unwrap_err();
        assert_eq!(error.kind(), ProblemKind::Invalid);
        assert!(error.to_string().contains(part), "{error}");
    }
    let settles_nothing = Append {
        replayed: vec![Offset(0)],
        ..append(0..0)
    };
    assert!(log.append(settles_nothing).await.is_err());
    // None of them took an offset, and an empty append takes none either.
    assert_eq!(log.append(append(0..0)).await.unwrap().next, Offset(0));
    assert_eq!(log.append(append(7..8)).await.unwrap().next, Offset(1));
}

#[tokio::test]
async fn any_range_is_read_exactly() {
    let world = World::with_small_segments();
    let log = world.open();
    for start in 0..5 {
        let one = Append {
            dead_letters: vec![letter(&start.to_string())],
            ..append(start * 2..start * 2 + 2)
        };
        log.append(one).await.unwrap();
    }
    assert!(world.segment_names().len() >= 5);
    let all = read_all(&log);
    for from in 0..=15 {
        for to in 0..=17 {
            let batches = read(&log, from, to);
            let got: Vec<_> = batches.iter().flat_map(pairs).collect();
            let inside = |offset: &u64| (from..to).contains(offset);
            let expected: Vec<_> = all.iter().copied().filter(|(o, _)| inside(o)).collect();
            assert_eq!(got, expected, "{from}..{to}");
            let letters = batches.iter().flat_map(|b| &b.dead_letters);
            let letters: Vec<u64> = letters.map(|((_, offset), _)| offset.0).collect();
            let expected: Vec<u64> = [2, 5, 8, 11, 14].into_iter().filter(inside).collect();
            assert_eq!(letters, expected);
            let mut at = from;
            for batch in &batches {
                let (first, next) = offsets(batch);
                assert_eq!(first.0, at);
                at = next.0;
            }
            assert_eq!(at, to.min(15).max(from), "the batches cover the range");
        }
    }
}

#[tokio::test]
async fn close_commits_what_is_queued_and_refuses_what_comes_after() {
    let world = World::new();
    let log = world.open();
    let mut queued: Vec<_> = (0..20)
        .map(|id| Box::pin(log.append(append(id..id + 1))))
        .collect();
    let mut early = Vec::new();
    for append in &mut queued {
        early.push(poll!(append).is_ready());
    }
    log.close().await;
    log.close().await;
    for (append, early) in queued.into_iter().zip(early) {
        assert!(early || append.await.is_ok());
    }
    let error = log.append(append(20..21)).await.unwrap_err();
    assert_eq!(error.kind(), ProblemKind::Unavailable);
    assert!(matches!(log.forget(Offset(0)), Err(LogError::Closed)));
    drop(log);
    assert_eq!(read_all(&world.open()).len(), 20);
}

/// Whoever has an answer finds the append behind the sink.
#[tokio::test]
async fn the_sink_has_an_append_before_it_is_acknowledged() {
    let world = World::new();
    let log = world.open();
    for id in 0..50 {
        log.append(append(id..id + 1)).await.unwrap();
        let last = world.sunk.lock().last().map(|batch| offsets(batch).1);
        assert_eq!(last, Some(log.durable()));
    }
}

/// A sink that blocks stops the committer: what it holds is durable but not acknowledged, and the rest
/// waits.
#[tokio::test]
async fn a_slow_sink_holds_appends_back() {
    let mut world = World::new();
    world.options.queue_max_requests = 2;
    let (entered, mut in_sink) = tokio::sync::mpsc::unbounded_channel();
    let (let_go, wait) = mpsc::channel::<()>();
    let (log, _) = EmbeddedLog::open(
        Arc::new(world.disk.clone()),
        &world.schema,
        world.options,
        Arc::clone(&world.clock) as _,
        Box::new(move |_| {
            entered.send(()).unwrap();
            wait.recv().unwrap();
        }),
    )
    .unwrap();
    let mut first = Box::pin(log.append(append(0..1)));
    assert!(poll!(&mut first).is_pending());
    in_sink.recv().await.unwrap();
    let mut held: Vec<_> = (1..6)
        .map(|id| Box::pin(log.append(append(id..id + 1))))
        .collect();
    for append in held.iter_mut().chain([&mut first]) {
        assert!(poll!(append).is_pending());
    }
    assert_eq!(log.durable(), Offset(1));
    for _ in 0..6 {
        let_go.send(()).unwrap();
    }
    first.await.unwrap();
    for append in held {
        append.await.unwrap();
    }
    assert_eq!(log.durable(), Offset(6));
    log.close().await;
}

/// An append larger than the whole queue still passes, alone.
#[tokio::test]
async fn no_append_is_too_large_for_the_queue() {
    let mut world = World::new();
    world.options.queue_max_bytes = 4096;
    let log = world.open();
    let appends = (0..4).map(|i| log.append(append(i * 2000..(i + 1) * 2000)));
    for answer in join_all(appends).await {
        answer.unwrap();
    }
    assert_eq!(log.durable(), Offset(8000));
}

#[tokio::test]
async fn a_running_log_takes_a_grown_schema_without_losing_an_append() {
    let mut world = World::new();
    let log = world.open();
    log.append(append(0..2)).await.unwrap();
    let reader = log.read(Offset(0), Offset(2));
    // Queued before the change.
    let early = log.append(append(2..3));
    let mut grown = world.schema.clone();
    grown.columns[0].nullable = true;
    grown.columns.push(column("more", ColumnType::Int, true));
    let (appended, evolved) = tokio::join!(early, log.evolve(&grown));
    appended.unwrap();
    evolved.unwrap();
    let refused = log.append(append(9..10)).await.unwrap_err();
    assert!(matches!(refused, LogError::BadAppend(_)), "{refused}");
    let more = Arc::new(arrow::array::Int32Array::from(vec![7])) as ArrayRef;
    let columns = [events(3..4).columns(), &[more]].concat();
    let newer = Append {
        events: RecordBatch::try_new(grown.declared(), columns).unwrap(),
        ..append(0..0)
    };
    log.append(newer).await.unwrap();

    let sunk = world.sunk.lock().clone();
    let last = sunk.last().unwrap();
    assert_eq!(last.events.schema(), grown.events());
    assert_eq!(sunk.iter().flat_map(|b| pairs(b)).count(), 4);
    // A reader from before goes on in what it began with; a new one sees the new columns everywhere.
    let before: Vec<CommittedBatch> = reader.collect::<Result<_, _>>().unwrap();
    assert_eq!(before[0].events.schema(), world.schema.events());
    let check = |log: &EmbeddedLog| {
        let batches = read(log, 0, 4);
        assert!(batches.iter().all(|b| b.events.schema() == grown.events()));
        let nulls = batches.iter().map(|b| b.events["more"].null_count());
        assert_eq!(nulls.sum::<usize>(), 3);
        assert_eq!(read_all(log), [(0, 0), (1, 1), (2, 2), (3, 3)]);
    };
    check(&log);
    // Not the schema before, grown.
    let shrunk = log.evolve(&world.schema).await.unwrap_err();
    assert!(matches!(shrunk, LogError::Schema { .. }), "{shrunk}");
    log.close().await;
    assert!(matches!(log.evolve(&grown).await, Err(LogError::Closed)));
    world.schema = grown.clone();
    check(&world.open());
}

/// What is checked under one schema may reach the committer behind the change to the next.
#[tokio::test]
async fn an_append_that_waits_for_room_while_the_schema_grows_gets_nulls() {
    let mut world = World::new();
    world.options.queue_max_bytes = 1024;
    let (release, released) = std::sync::mpsc::channel::<()>();
    let sunk = Arc::clone(&world.sunk);
    let (log, _) = EmbeddedLog::open(
        Arc::new(world.disk.clone()),
        &world.schema,
        world.options,
        Arc::clone(&world.clock) as _,
        Box::new(move |batches| {
            sunk.lock().extend(batches);
            let _ = released.recv();
        }),
    )
    .unwrap();
    let mut grown = world.schema.clone();
    grown.columns.push(column("more", ColumnType::Int, true));
    // The first one fills the queue until it is let go.
    let (first, second, evolved, ()) = tokio::join!(
        log.append(append(0..200)),
        log.append(append(200..201)),
        log.evolve(&grown),
        async { drop(release) },
    );
    first.unwrap();
    second.unwrap();
    evolved.unwrap();
    let sunk = world.sunk.lock().clone();
    let schemas: Vec<_> = sunk.iter().map(|batch| batch.events.schema()).collect();
    assert_eq!(schemas, [world.schema.events(), grown.events()]);
    assert_eq!(sunk.iter().flat_map(|b| pairs(b)).count(), 201);
}

#[tokio::test]
async fn a_grown_schema_reads_what_was_written_before() {
    let mut world = World::new();
    let log = world.open();
    log.append(append(0..2)).await.unwrap();
    log.close().await;
    let grown = column("more", ColumnType::Int, true);
    world.schema.columns.push(grown);
    let log = world.open();
    let mut columns = events(2..3).columns().to_vec();
    columns.push(Arc::new(arrow::array::Int32Array::from(vec![7])));
    let newer = Append {
        events: RecordBatch::try_new(world.schema.declared(), columns).unwrap(),
        ..append(0..0)
    };
    log.append(newer).await.unwrap();
    let check = |log: &EmbeddedLog| {
        let batches = read(log, 0, 3);
        let nulls: Vec<usize> = batches
            .iter()
            .map(|b| b.events["more"].null_count())
            .collect();
        assert_eq!(nulls, [2, 0]);
        assert_eq!(read_all(log), [(0, 0), (1, 1), (2, 2)]);
    };
    check(&log);
    log.close().await;
    check(&world.open());
    // A schema that lost a column does not open.
    world.schema.columns.remove(1);
    let error = world.try_open().unwrap_err();
    assert!(error.to_string().contains("`text`"), "{error}");
}

#[tokio::test]
async fn forgetting_frees_whole_segments_below_the_archived_offset() {
    let world = World::with_small_segments();
    let log = world.open();
    for start in 0..5 {
        log.append(append(start * 2..start * 2 + 2)).await.unwrap();
    }
    assert_eq!(log.forget(Offset(5)).unwrap(), Offset(4));
    assert_eq!(log.oldest_retained(), Offset(4));
    let error = log.read(Offset(3), Offset(9)).next().unwrap().unwrap_err();
    assert!(matches!(error, LogError::Forgotten { .. }), "{error}");
    assert_eq!(read_all(&log).len(), 6);
    let error = log.forget(Offset(11)).unwrap_err();
    assert!(error.to_string().contains("durable up to 10"), "{error}");
    // The last segment stays, so that the log knows where it stands.
    assert_eq!(log.forget(Offset(10)).unwrap(), Offset(8));
    log.close().await;
    let (log, recovered) = world.try_open().unwrap();
    assert_eq!((recovered.oldest, recovered.next), (Offset(8), Offset(10)));
    assert_eq!(log.append(append(10..11)).await.unwrap().next, Offset(11));
    assert_eq!(read_all(&log), [(8, 8), (9, 9), (10, 10)]);
    let open_reader = log.read(Offset(8), Offset(11));
    log.forget(Offset(10)).unwrap();
    let error = open_reader.last().unwrap().unwrap_err();
    assert!(matches!(error, LogError::Forgotten { .. }), "{error}");
}

#[tokio::test]
async fn it_runs_on_a_real_directory() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new();
    world.options.segment_max_bytes = 64 << 10;
    let open = || {
        let disk = FsDisk::open(dir.path().join("log/abc")).unwrap();
        EmbeddedLog::open(
            Arc::new(disk),
            &world.schema,
            world.options,
            Arc::clone(&world.clock) as _,
            Box::new(|_| ()),
        )
        .unwrap()
    };
    let (log, _) = open();
    for start in 0..20 {
        log.append(append(start * 500..(start + 1) * 500))
            .await
            .unwrap();
    }
    assert!(log.forget(Offset(7000)).unwrap() > Offset(5000));
    log.close().await;
    // As a kill leaves it: half a frame.
    let names = FsDisk::open(dir.path().join("log/abc"))
        .unwrap()
        .list()
        .unwrap();
    let last = names
        .iter()
        .filter(|n| n.ends_with(".segment"))
        .max()
        .unwrap();
    let path = dir.path().join("log/abc").join(last);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend_from_slice(b"DvFr and more");
    std::fs::write(&path, bytes).unwrap();
    let (log, recovered) = open();
    assert_eq!(recovered.dropped.unwrap().bytes, 13);
    assert_eq!(recovered.next, Offset(10_000));
    log.append(append(10_000..10_001)).await.unwrap();
    let read = read_all(&log);
    assert_eq!(read.len() as u64, 10_001 - log.oldest_retained().0);
    assert!(
        read.iter()
            .all(|(offset, id)| *offset == id.cast_unsigned())
    );
    log.close().await;
}
