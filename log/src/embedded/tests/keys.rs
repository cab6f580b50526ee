// SPDX-License-Identifier: Apache-2.0
//! Idempotency keys: a retry is answered once more and counted once.

use dovetail_model::ProblemKind;
use futures::future::join_all;

use super::*;

const HOUR_US: i64 = 3_600_000_000;

#[tokio::test]
async fn a_retry_gets_the_first_answer() {
    let world = World::new();
    let log = world.open();
    let request = || Append {
        dead_letters: vec![letter("x")],
        ..keyed(0..2, "k", 1)
    };
    let first = log.append(request()).await.unwrap();
    log.append(append(2..3)).await.unwrap();
    let again = log.append(request()).await.unwrap();
    let expected = Appended {
        duplicate: true,
        ..first
    };
    assert_eq!(again, expected);
    assert_eq!(
        (again.accepted, again.rejected, again.next),
        (2, 1, Offset(3))
    );
    assert_eq!(log.durable(), Offset(4));
}

#[tokio::test]
async fn a_key_with_another_body_is_refused_and_named() {
    let world = World::new();
    let log = world.open();
    log.append(keyed(0..2, "order-17", 1)).await.unwrap();
    let error = log.append(keyed(0..2, "order-17", 2)).await.unwrap_err();
    assert_eq!(error.kind(), ProblemKind::Unprocessable);
    assert!(error.to_string().contains("`order-17`"), "{error}");
    assert!(error.to_string().contains("24 h"), "{error}");
    assert_eq!(log.durable(), Offset(2));
}

/// All of them sit in the queue at once, so first and repeats may share a commit.
#[tokio::test]
async fn retries_in_flight_get_the_same_answer() {
    let world = World::new();
    let log = world.open();
    world.disk.pause_syncs();
    let occupy = log.append(append(100..101));
    let same = (0..8).map(|_| log.append(keyed(0..3, "k", 1)));
    let resume = async {
        let disk = world.disk.clone();
        tokio::task::spawn_blocking(move || disk.wait_for_paused_sync())
            .await
            .unwrap();
        world.disk.resume_syncs();
    };
    // Polled in order: everything is queued before the sync goes on.
    let (first, answers, other, ()) = tokio::join!(
        occupy,
        join_all(same),
        log.append(keyed(0..3, "k", 2)),
        resume
    );
    first.unwrap();
    let answers: Vec<Appended> = answers.into_iter().map(Result::unwrap).collect();
    assert!(
        answers
            .iter()
            .all(|answer| answer.next == Offset(4) && answer.accepted == 3)
    );
    assert_eq!(answers.iter().filter(|answer| !answer.duplicate).count(), 1);
    assert_eq!(other.unwrap_err().kind(), ProblemKind::Unprocessable);
    assert_eq!(log.durable(), Offset(4));
}

#[tokio::test]
async fn keys_outlive_restarts_and_forgotten_segments() {
    let world = World::with_small_segments();
    let log = world.open();
    let mut answers = Vec::new();
    for i in 0..4i64 {
        let one = keyed(i..i + 1, &format!("k{i}"), 1);
        answers.push(log.append(one).await.unwrap());
        world.clock.advance(HOUR_US);
    }
    // An append of nothing commits its key too.
    answers.push(log.append(keyed(0..0, "k4", 1)).await.unwrap());
    let retry_all = async |log: &EmbeddedLog| {
        for (i, answer) in answers.iter().enumerate() {
            let i = i as i64;
            let ids = if i < 4 { i..i + 1 } else { 0..0 };
            let again = log.append(keyed(ids.clone(), &format!("k{i}"), 1)).await;
            let expected = Appended {
                duplicate: true,
                ..*answer
            };
            assert_eq!(again.unwrap(), expected);
            let other = log.append(keyed(ids, &format!("k{i}"), 2)).await;
            assert_eq!(other.unwrap_err().kind(), ProblemKind::Unprocessable);
        }
        assert_eq!(log.durable(), Offset(4));
    };
    retry_all(&log).await;
    for archived in 1..=4 {
        log.close().await;
        drop(log.clone());
        let log = world.open();
        retry_all(&log).await;
        log.forget(Offset(archived)).unwrap();
        retry_all(&log).await;
        log.close().await;
    }
    let (log, recovered) = world.try_open().unwrap();
    assert_eq!((recovered.keys, recovered.oldest), (5, Offset(4)));
    retry_all(&log).await;
}

#[tokio::test]
async fn keys_expire_after_their_time_by_the_clock() {
    let world = World::with_small_segments();
    let log = world.open();
    log.append(keyed(0..1, "k", 1)).await.unwrap();
    log.append(append(1..2)).await.unwrap();
    log.forget(Offset(2)).unwrap();
    world.clock.advance(24 * HOUR_US - 1);
    assert!(log.append(keyed(0..1, "k", 1)).await.unwrap().duplicate);
    log.close().await;
    let log = world.open();
    assert!(log.append(keyed(0..1, "k", 1)).await.unwrap().duplicate);
    world.clock.advance(1);
    // Another body now, since the key is new.
    let fresh = log.append(keyed(5..6, "k", 2)).await.unwrap();
    assert_eq!((fresh.duplicate, fresh.next), (false, Offset(3)));
    log.close().await;
    // Both uses of the key are on the disk; the later one counts, though the clock was set back.
    world.clock.advance(-HOUR_US);
    let log = world.open();
    let again = log.append(keyed(5..6, "k", 2)).await.unwrap();
    assert_eq!((again.duplicate, again.next), (true, Offset(3)));
    log.close().await;
    world.clock.advance(25 * HOUR_US);
    assert_eq!(world.recover().unwrap().keys, 0);
}

#[tokio::test]
async fn keys_are_bounded_and_never_forgotten_early() {
    let mut world = World::new();
    world.options.keys_max = 2;
    let log = world.open();
    log.append(keyed(0..1, "a", 1)).await.unwrap();
    log.append(keyed(1..2, "b", 1)).await.unwrap();
    let error = log.append(keyed(2..3, "c", 1)).await.unwrap_err();
    assert_eq!(error.kind(), ProblemKind::Busy);
    assert!(log.append(keyed(0..1, "a", 1)).await.unwrap().duplicate);
    log.append(append(2..3)).await.unwrap();
    world.clock.advance(24 * HOUR_US);
    assert!(!log.append(keyed(3..4, "c", 1)).await.unwrap().duplicate);
}
