// SPDX-License-Identifier: Apache-2.0
//! Disks that fail and disks that are full.

use std::io::ErrorKind;

use dovetail_model::ProblemKind;
use futures::future::join_all;
use futures::poll;

use super::*;

#[tokio::test]
async fn a_failed_sync_poisons_the_log_until_it_is_opened_anew() {
    for seed in 0..32 {
        let world = World::new();
        let log = world.open();
        log.append(append(0..2)).await.unwrap();
        world.disk.fail_sync_after(0);
        let syncs = world.disk.syncs();
        let error = log.append(keyed(2..4, "k", 1)).await.unwrap_err();
        assert_eq!(error.kind(), ProblemKind::Unavailable);
        assert!(matches!(error, LogError::CommitFailed { .. }), "{error}");
        let error = log.append(append(4..5)).await.unwrap_err();
        assert!(matches!(error, LogError::Poisoned { .. }), "{error}");
        assert!(error.to_string().contains("the sync failed"), "{error}");
        assert_eq!(log.durable(), Offset(2));
        assert_eq!(read_all(&log).len(), 2);
        log.close().await;
        assert_eq!(
            world.disk.syncs(),
            syncs + 1,
            "a failed sync is not tried again"
        );
        assert_eq!(world.sunk.lock().len(), 1);
        // The failed append reads back from memory, but no sync will ever save it: it must not be served.
        let log = world.open();
        assert_eq!(log.durable(), Offset(2));
        let retried = log.append(keyed(2..4, "k", 1)).await.unwrap();
        assert_eq!((retried.duplicate, retried.next), (false, Offset(4)));
        world.disk.crash(seed);
        log.close().await;
        assert_eq!(read_all(&world.open()), [(0, 0), (1, 1), (2, 2), (3, 3)]);
    }
}

#[tokio::test]
async fn a_failed_write_fails_its_whole_group_and_poisons() {
    let world = World::new();
    let log = world.open();
    log.append(append(0..2)).await.unwrap();
    world.disk.fail_write_after(0, ErrorKind::Other);
    let group = (0..5i64).map(|i| log.append(append(i..i + 1)));
    for answer in join_all(group).await {
        assert_eq!(answer.unwrap_err().kind(), ProblemKind::Unavailable);
    }
    log.close().await;
    let (log, recovered) = world.try_open().unwrap();
    assert!(recovered.dropped.is_some());
    assert_eq!(log.append(append(2..3)).await.unwrap().next, Offset(3));
    assert_eq!(read_all(&log), [(0, 0), (1, 1), (2, 2)]);
}

#[tokio::test]
async fn a_repeat_shares_the_failure_of_what_it_repeats() {
    let world = World::new();
    let log = world.open();
    world.disk.fail_sync_after(0);
    let same = (0..4).map(|_| log.append(keyed(0..1, "k", 1)));
    for answer in join_all(same).await {
        assert_eq!(answer.unwrap_err().kind(), ProblemKind::Unavailable);
    }
    log.close().await;
}

#[tokio::test]
async fn a_full_disk_fails_the_append_and_nothing_else() {
    let world = World::new();
    let log = world.open();
    log.append(append(0..100)).await.unwrap();
    let used: usize = world
        .segment_names()
        .iter()
        .map(|name| world.disk.contents(name).unwrap().len())
        .sum();
    for room in [0, 1, 63, 64, 200, 1000] {
        world.disk.set_capacity(Some(used as u64 + room));
        let error = log.append(keyed(100..300, "k", 1)).await.unwrap_err();
        assert!(matches!(error, LogError::DiskFull { .. }), "{error}");
        assert_eq!(error.kind(), ProblemKind::Unavailable);
        assert!(error.to_string().starts_with("the disk is full"), "{error}");
        assert_eq!(log.durable(), Offset(100));
        assert_eq!(read_all(&log).len(), 100);
        let name = &world.segment_names()[0];
        assert_eq!(
            world.disk.contents(name).unwrap().len(),
            used,
            "the room is given back"
        );
        assert_eq!(world.recover().unwrap().next, Offset(100));
    }
    world.disk.set_capacity(None);
    let appended = log.append(keyed(100..300, "k", 1)).await.unwrap();
    assert_eq!((appended.duplicate, appended.next), (false, Offset(300)));
    log.close().await;
    let (log, recovered) = world.try_open().unwrap();
    assert_eq!(recovered.dropped, None);
    assert_eq!(read_all(&log).len(), 300);
}

#[tokio::test]
async fn a_disk_too_full_for_a_new_segment_fails_the_append_too() {
    let world = World::with_small_segments();
    let log = world.open();
    log.append(append(0..10)).await.unwrap();
    world.disk.set_capacity(Some(1));
    let error = log.append(append(10..20)).await.unwrap_err();
    assert!(matches!(error, LogError::DiskFull { .. }), "{error}");
    assert!(
        world
            .disk
            .list()
            .unwrap()
            .iter()
            .all(|n| !n.ends_with(".unfinished"))
    );
    world.disk.set_capacity(None);
    log.append(append(10..20)).await.unwrap();
    assert_eq!(read_all(&log).len(), 20);
}

/// As a process without file descriptors, or one whose directory it may not write any more.
#[tokio::test]
async fn a_segment_that_may_not_be_made_fails_the_append_and_nothing_else() {
    let world = World::with_small_segments();
    let log = world.open();
    log.append(append(0..10)).await.unwrap();
    for kind in [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem] {
        world.disk.fail_write_after(0, kind);
        let error = log.append(append(10..20)).await.unwrap_err();
        assert!(matches!(error, LogError::NoSegment { .. }), "{error}");
        assert_eq!(error.kind(), ProblemKind::Unavailable);
        assert_eq!(log.durable(), Offset(10));
    }
    let too_many = std::io::Error::from(rustix::io::Errno::MFILE);
    let error = LogError::segment(&too_many);
    assert!(matches!(error, LogError::NoSegment { .. }), "{error}");
    log.append(append(10..20)).await.unwrap();
    log.close().await;
    assert_eq!(read_all(&world.open()).len(), 20);
}

#[tokio::test]
async fn a_failing_forget_leaves_the_log_whole() {
    let world = World::with_small_segments();
    let log = world.open();
    for id in 0..3 {
        log.append(keyed(id..id + 1, &format!("k{id}"), 1))
            .await
            .unwrap();
    }
    world.disk.fail_sync_after(0);
    let error = log.forget(Offset(2)).unwrap_err();
    assert!(error.to_string().contains("`keys`"), "{error}");
    assert_eq!(read_all(&log).len(), 3);
    assert_eq!(log.forget(Offset(2)).unwrap(), Offset(2));
    assert!(log.append(keyed(0..1, "k0", 1)).await.unwrap().duplicate);
}

/// Nothing is acknowledged before its sync, however long that takes. Whoever comes meanwhile waits in front of a bounded
/// queue: what had no place in it when its client left is nowhere.
#[tokio::test]
async fn a_slow_disk_holds_appends_back_in_front_of_a_bounded_queue() {
    const QUEUE: usize = 2;
    let mut world = World::new();
    world.options.queue_max_requests = QUEUE;
    let log = world.open();
    world.disk.pause_syncs();
    let mut first = Box::pin(log.append(append(0..1)));
    assert!(poll!(&mut first).is_pending());
    let disk = world.disk.clone();
    tokio::task::spawn_blocking(move || disk.wait_for_paused_sync())
        .await
        .unwrap();
    let mut others: Vec<_> = (1..40)
        .map(|id| Box::pin(log.append(append(id..id + 1))))
        .collect();
    for other in &mut others {
        assert!(poll!(other).is_pending());
    }
    assert_eq!(log.durable(), Offset(0));
    drop(others);
    world.disk.resume_syncs();
    assert_eq!(first.await.unwrap().next, Offset(1));
    log.close().await;
    let kept = read_all(&world.open());
    assert_eq!(kept[0], (0, 0));
    assert!(kept.len() <= 1 + QUEUE, "{kept:?}");
}
