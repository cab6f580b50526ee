// SPDX-License-Identifier: Apache-2.0
//! A repair reads no more of the raw log than can hold the events of the groups that it recomputes, and still
//! recomputes them whole.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use dovetail_batch_layer::StartRequest;
use dovetail_model::{BatchRun, DiffSummary, Outcome, RepairScope, RunMode, ViewId};
use dovetail_sim::{Event, Rig};

const DAY_US: i64 = 86_400_000_000;
const START_US: i64 = 978_307_200_000_000;
const DAYS: i64 = 30;
const PER_DAY: i64 = 50;
const TIMED: &str = "SELECT date_trunc('day', at) AS day, origin, count(*) AS n, sum(distance) AS d, \
     avg(delay) AS mean FROM flights GROUP BY day, origin";
const UNTIMED: &str =
    "SELECT origin, count(*) AS n, sum(distance) AS d FROM flights GROUP BY origin";

fn day(day: i64) -> Vec<Event> {
    let at = |i: i64| START_US + day * DAY_US + i * DAY_US / PER_DAY;
    (0..PER_DAY)
        .map(|i| (at(i), Some("SFO"), Some(i as i32), 100 + day))
        .collect()
}

/// A segment a day, and one late event for the fifth day in the last segment.
async fn rig() -> Rig {
    let rig = Rig::new(64 << 20).await;
    for number in 0..DAYS {
        let mut events = day(number);
        if number == DAYS - 1 {
            events.push((START_US + 5 * DAY_US + 7, Some("JFK"), None, 1));
        }
        rig.push(&events);
        rig.archive().await;
    }
    rig
}

async fn repair(rig: &Rig, view: &ViewId, scope: RepairScope) -> BatchRun {
    let request = StartRequest {
        mode: RunMode::Repair,
        scope,
        dry_run: false,
        trigger: "user",
        ..StartRequest::default()
    };
    let run = rig.run(view, request).await;
    assert_eq!(run.outcome, Outcome::Promoted, "{:?}", run.error);
    BatchRun::clone(&run)
}

/// Noon to evening of the fifth day.
fn part_of_a_day() -> RepairScope {
    RepairScope {
        from_us: Some(START_US + 5 * DAY_US + DAY_US / 2),
        to_us: Some(START_US + 5 * DAY_US + DAY_US * 3 / 4),
        ..RepairScope::default()
    }
}

async fn refreshed(rig: &Rig, name: &str, sql: &str) -> dovetail_model::ViewId {
    let view = rig.create_view(name, sql).await;
    let full = StartRequest {
        mode: RunMode::Full,
        trigger: "user",
        ..StartRequest::default()
    };
    rig.run(&view, full).await;
    rig.check(name).await;
    view
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_time_range_reads_only_the_segments_that_can_hold_its_groups() {
    let rig = rig().await;
    let view = refreshed(&rig, "daily", TIMED).await;
    // An event of the morning is wrong: the range does not hold it, its group is touched all the same.
    let exclusion = rig.exclude("delay = 3 AND distance = 105").await;
    assert_eq!(exclusion.id.0, 1);
    let run = repair(&rig, &view, part_of_a_day()).await;
    rig.check("daily").await;
    let all = (DAYS * PER_DAY + 1) as u64;
    // First the range in the fifth day's segment and the last one, whose statistics reach back to it; then the
    // events that the exclusion matches, which may be anywhere; then the whole day in those two.
    let two_segments = 2 * (2 * PER_DAY as u64 + 1);
    assert!(
        run.rows_read <= all + two_segments,
        "{} of {all} rows were read",
        run.rows_read
    );

    let run = repair(&rig, &view, part_of_a_day()).await;
    rig.check("daily").await;
    assert!(
        run.rows_read > 0 && run.rows_read <= two_segments,
        "{} of {all} rows were read",
        run.rows_read
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_groups_without_a_time_reads_everything_they_may_have() {
    let rig = rig().await;
    let view = refreshed(&rig, "by_origin", UNTIMED).await;
    rig.exclude("delay = 3").await;
    let run = repair(&rig, &view, part_of_a_day()).await;
    rig.check("by_origin").await;
    let all = (DAYS * PER_DAY + 1) as u64;
    assert!(run.rows_read > all, "{} of {all}", run.rows_read);
}

/// Groups by key, far apart in time, one of them of events without a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_keys_finds_late_events_wherever_they_lie() {
    let rig = rig().await;
    let view = refreshed(&rig, "daily", TIMED).await;
    rig.exclude("distance = 1").await;
    let scope = RepairScope {
        predicate: Some("origin = 'JFK' OR day = TIMESTAMP '2001-01-02T00:00:00'".to_owned()),
        ..RepairScope::default()
    };
    repair(&rig, &view, scope).await;
    rig.check("daily").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_range_without_events_changes_nothing() {
    let rig = rig().await;
    let view = refreshed(&rig, "daily", TIMED).await;
    let scope = RepairScope {
        from_us: Some(START_US - 2 * DAY_US),
        to_us: Some(START_US - DAY_US),
        ..RepairScope::default()
    };
    let run = repair(&rig, &view, scope).await;
    assert_eq!((run.rows_read, run.bytes), (0, 0));
    rig.check("daily").await;
}

/// What a full run would change.
async fn diff_of_full_run(rig: &Rig, view: &ViewId) -> DiffSummary {
    let request = StartRequest {
        mode: RunMode::Full,
        dry_run: true,
        trigger: "user",
        ..StartRequest::default()
    };
    let run = rig.run(view, request).await;
    assert_eq!(run.outcome, Outcome::Staged, "{:?}", run.error);
    rig.batch.diff(run.id).await.unwrap()
}

/// A run of a view that has keys and nothing else can be looked at before it is promoted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_view_of_keys_alone_has_a_diff() {
    let rig = rig().await;
    let sql = "SELECT origin FROM flights GROUP BY origin";
    let view = refreshed(&rig, "origins", sql).await;
    rig.exclude("origin = 'JFK'").await;
    let diff = diff_of_full_run(&rig, &view).await;
    assert_eq!((diff.added, diff.removed, diff.changed), (0, 1, 0));
}

/// A report of money is compared to the cent, and an answer shows it so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_decimals_has_an_exact_diff() {
    let rig = rig().await;
    let sql = "SELECT origin, sum(distance * DECIMAL '12345678901234567890.01') AS total FROM flights GROUP BY origin";
    let view = refreshed(&rig, "totals", sql).await;
    rig.exclude("origin = 'JFK'").await;
    let diff = diff_of_full_run(&rig, &view).await;
    let before = &diff.largest[0].before;
    assert_eq!(
        before["total"], "12345678901234567890.0100000000",
        "{before}"
    );
}
