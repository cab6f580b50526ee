// SPDX-License-Identifier: Apache-2.0
//! Runs that are all started at one moment compute in turns: one full or repair run and one incremental run at a
//! time. Whoever waits holds up nobody of the other lane, can be cancelled, and does not keep a server from stopping.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::sync::Arc;
use std::time::Duration;

use dovetail_batch_layer::{BatchError, StartRequest};
use dovetail_log::catalog::Catalog;
use dovetail_model::{BatchRun, ManualClock, Outcome, RepairScope, RunId, RunMode, ViewId};
use dovetail_sim::{Event, GatedStore, Rig};

const BY_ORIGIN: &str = "SELECT origin, count(*) AS n FROM flights GROUP BY origin";

struct World {
    rig: Arc<Rig>,
    gate: Arc<GatedStore>,
    live: Vec<ViewId>,
}

impl World {
    /// `live` views over an empty stream, then some events, and a closed gate.
    async fn new(live: usize) -> Self {
        let gate = GatedStore::new();
        let rig = Rig::over(Arc::clone(&gate) as _, 64 << 20, 1).await;
        let mut views = vec![];
        for number in 0..live {
            views.push(rig.create_view(&format!("live{number}"), BY_ORIGIN).await);
        }
        let world = Self {
            rig: Arc::new(rig),
            gate,
            live: views,
        };
        world.push();
        world.gate.set_open(false);
        world
    }

    fn push(&self) {
        let event: Event = (978_307_200_000_000, Some("SFO"), Some(1), 1);
        self.rig.push(&[event]);
    }

    async fn start(&self, view: &ViewId, mode: RunMode) -> RunId {
        let request = StartRequest {
            mode,
            trigger: "memory",
            ..StartRequest::default()
        };
        self.rig.batch.start(view, request).await.unwrap().id
    }

    fn is_waiting(&self, run: RunId) -> bool {
        let progress = self.rig.batch.progress(run);
        progress.is_some_and(|progress| progress.is_waiting())
    }

    async fn at_gate(&self, views: &[&ViewId]) {
        eventually(|| {
            let mut now = self.gate.waiting();
            now.sort_unstable();
            let mut wanted: Vec<ViewId> = views.iter().map(|id| (*id).clone()).collect();
            wanted.sort_unstable();
            now == wanted
        })
        .await;
    }

    async fn ended(&self, run: RunId) -> Arc<BatchRun> {
        soon(self.rig.batch.wait(run)).await.unwrap()
    }
}

impl Drop for World {
    /// A test that fails must end: its runtime waits for its threads.
    fn drop(&mut self) {
        self.gate.set_stuck(false);
    }
}

async fn eventually(mut holds: impl FnMut() -> bool) {
    soon(async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, work).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_runs_that_start_at_one_moment_one_of_each_lane_computes() {
    let world = World::new(4).await;
    let mut building = vec![];
    for name in ["new0", "new1"] {
        building.push(world.rig.create_view(name, BY_ORIGIN).await);
    }
    let mut incremental = vec![];
    for view in &world.live {
        incremental.push(world.start(view, RunMode::Incremental).await);
    }
    let mut full = vec![];
    for view in &building {
        full.push(world.start(view, RunMode::Full).await);
    }
    // One of each computes; all others say that they wait.
    eventually(|| world.gate.waiting().len() == 2).await;
    eventually(|| {
        let waiting = |runs: &[RunId]| runs.iter().filter(|run| world.is_waiting(**run)).count();
        (waiting(&incremental), waiting(&full)) == (3, 1)
    })
    .await;

    world.gate.set_open(true);
    for run in incremental.iter().chain(&full) {
        let ended = world.ended(*run).await;
        assert_eq!(ended.outcome, Outcome::Promoted, "{:?}", ended.error);
    }
    for at_once in world.gate.seen() {
        let (of_live, of_new): (Vec<ViewId>, Vec<ViewId>) =
            at_once.into_iter().partition(|id| world.live.contains(id));
        assert!(
            of_live.len() <= 1 && of_new.len() <= 1,
            "{of_live:?} {of_new:?}"
        );
    }
    for name in ["live0", "live3", "new0", "new1"] {
        world.rig.check(name).await;
    }
}

/// The second full run waits behind the first for as long as that takes. Its view is brought forward meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_run_that_waits_holds_nothing_that_an_incremental_one_needs() {
    let world = World::new(1).await;
    let view = &world.live[0];
    world.gate.set_open(true);
    world
        .rig
        .batch
        .wait(world.start(view, RunMode::Full).await)
        .await
        .unwrap();
    world.gate.set_open(false);
    let first = world.rig.create_view("new", BY_ORIGIN).await;
    let long = world.start(&first, RunMode::Full).await;
    world.at_gate(&[&first]).await;
    let full = world.start(view, RunMode::Full).await;
    eventually(|| world.is_waiting(full)).await;

    world.push();
    let incremental = world.start(view, RunMode::Incremental).await;
    world.at_gate(&[&first, view]).await;
    assert!(world.is_waiting(full) && !world.is_waiting(incremental));
    // Both computations are let go: the lane of the long one is taken by the one that waited.
    world.gate.set_open(true);
    for run in [incremental, long, full] {
        let ended = world.ended(run).await;
        assert_eq!(ended.outcome, Outcome::Promoted, "{:?}", ended.error);
    }
    let state = world.rig.catalog.state();
    let base = state.runs[&full].base;
    assert_eq!(
        base, state.runs[&incremental].generation,
        "it starts from the newest"
    );
    world.rig.check("live0").await;
}

/// Meanwhile someone excludes events: the run that has not begun to read goes by that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exclusion_that_comes_while_a_run_waits_is_carried_by_it() {
    let world = World::new(1).await;
    let first = world.rig.create_view("new", BY_ORIGIN).await;
    let long = world.start(&first, RunMode::Full).await;
    world.at_gate(&[&first]).await;
    let full = world.start(&world.live[0], RunMode::Full).await;
    eventually(|| world.is_waiting(full)).await;
    world.rig.exclude("delay = 1").await;
    world.gate.set_open(true);
    let ended = world.ended(full).await;
    assert_eq!(ended.outcome, Outcome::Promoted, "{:?}", ended.error);
    assert_eq!(ended.exclusions.len(), 1);
    world.rig.check("live0").await;
    let stale = world.ended(long).await;
    assert!(
        stale
            .error
            .as_ref()
            .unwrap()
            .contains("exclusions have changed")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_waits_can_be_cancelled() {
    let world = World::new(3).await;
    let mut runs = vec![];
    for view in &world.live {
        runs.push(world.start(view, RunMode::Incremental).await);
        world.at_gate(&[&world.live[0]]).await;
    }
    eventually(|| world.is_waiting(runs[1]) && world.is_waiting(runs[2])).await;
    let cancelled = soon(world.rig.batch.cancel(runs[1])).await.unwrap();
    // The outcome says it all.
    assert_eq!(
        (cancelled.outcome, &cancelled.error),
        (Outcome::Cancelled, &None)
    );
    assert!(world.is_waiting(runs[2]) && !world.rig.batch.is_in_flight(runs[1]));
    world.gate.set_open(true);
    for run in [runs[0], runs[2]] {
        assert_eq!(world.ended(run).await.outcome, Outcome::Promoted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_stops_while_runs_and_a_promote_wait() {
    let world = World::new(3).await;
    let [first, second, staged] = [0, 1, 2].map(|n| &world.live[n]);
    world.gate.set_open(true);
    let dry = StartRequest {
        mode: RunMode::Full,
        dry_run: true,
        trigger: "user",
        ..StartRequest::default()
    };
    let dry = world.rig.batch.run_to_end(staged, dry).await.unwrap();
    assert_eq!(dry.outcome, Outcome::Staged, "{:?}", dry.error);
    world.gate.set_open(false);
    world.push();
    let computes = world.start(first, RunMode::Incremental).await;
    world.at_gate(&[first]).await;
    let waits = world.start(second, RunMode::Incremental).await;
    eventually(|| world.is_waiting(waits)).await;
    let batch = world.rig.batch.clone();
    let promote = tokio::spawn(async move { batch.promote(dry.id).await });

    soon(world.rig.batch.close()).await;
    for run in [computes, waits] {
        let ended = world.rig.batch.run(run).unwrap();
        assert_eq!(ended.outcome, Outcome::Cancelled, "{:?}", ended.error);
    }
    // It needs a turn to catch up, and there are no more.
    let promote = soon(promote).await.unwrap();
    assert!(matches!(promote, Err(BatchError::Cancelled)), "{promote:?}");
    let late = world.start(first, RunMode::Incremental).await;
    assert_eq!(world.ended(late).await.outcome, Outcome::Cancelled);
}

/// The engine keeps the thread of a run: no cancellation reaches it. The stop leaves it behind, and what it does when
/// it goes on after all changes nothing that the next start finds.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stop_leaves_a_run_behind_that_does_not_give_way() {
    for mode in [RunMode::Incremental, RunMode::Full] {
        let world = World::new(1).await;
        let view = &world.live[0];
        world.gate.set_open(true);
        let first = world.start(view, RunMode::Incremental).await;
        assert_eq!(world.ended(first).await.outcome, Outcome::Promoted);
        world.push();
        world.gate.set_stuck(true);
        // A full run first brings its base forward, which is a publish of its own.
        let run = world.start(view, mode).await;
        world.at_gate(&[view]).await;
        let live = world.rig.catalog.state().views[view].live;

        soon(world.rig.batch.close()).await;
        assert_eq!(
            world.gate.waiting(),
            std::slice::from_ref(view),
            "it is at work as before"
        );
        let left = world.ended(run).await;
        let found = (left.outcome, left.error.as_deref());
        assert_eq!(found, (Outcome::Failed, Some("interrupted")), "{mode}");
        let sequence = world.rig.catalog.state().sequence;

        world.gate.set_stuck(false);
        eventually(|| !world.rig.batch.is_in_flight(run)).await;
        let clock = Arc::new(ManualClock::at(1_800_000_000_000_000));
        let next = Catalog::open(Arc::clone(&world.gate) as _, clock).await;
        let found = next.unwrap().state();
        assert_eq!(found.sequence, sequence, "{mode}");
        assert_eq!((found.views[view].live, &found.runs[&run]), (live, &left));
        world.rig.check("live0").await;
    }
}

/// The same for who promotes by hand: nothing in the ledger waits for that, so only the seal keeps it from the pointer.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_promote_that_does_not_give_way_moves_no_pointer_after_the_stop() {
    let world = World::new(1).await;
    let view = &world.live[0];
    world.gate.set_open(true);
    let dry = StartRequest {
        dry_run: true,
        trigger: "user",
        ..StartRequest::default()
    };
    let dry = world.rig.batch.run_to_end(view, dry).await.unwrap();
    assert_eq!(dry.outcome, Outcome::Staged, "{:?}", dry.error);
    world.push();
    world.gate.set_stuck(true);
    let batch = world.rig.batch.clone();
    let promote = tokio::spawn(async move { batch.promote(dry.id).await });
    world.at_gate(&[view]).await;

    soon(world.rig.batch.close()).await;
    world.rig.batch.seal();
    let before = world.rig.catalog.state();
    world.gate.set_stuck(false);
    let promote = soon(promote).await.unwrap();
    assert!(matches!(promote, Err(BatchError::Cancelled)), "{promote:?}");
    assert_eq!(world.rig.catalog.state().sequence, before.sequence);
    world.rig.check("live0").await;
}

/// Every way to wait for a turn at once, with one turn in each lane: nobody waits in a circle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_waits_for_turns_and_publish_locks_ends() {
    const STEPS: usize = 12;
    let world = World::new(3).await;
    world.gate.set_open(true);
    let mut at_once = tokio::task::JoinSet::new();
    for (number, view) in world.live.iter().enumerate() {
        for what in 0..4 {
            let (rig, view) = (Arc::clone(&world.rig), view.clone());
            at_once.spawn(async move {
                for _ in 0..STEPS {
                    let event: Event = (978_307_200_000_000, Some("SFO"), Some(1), 1);
                    rig.push(&[event]);
                    let mode = [RunMode::Full, RunMode::Incremental, RunMode::Repair][what.min(2)];
                    let request = StartRequest {
                        mode,
                        scope: RepairScope {
                            predicate: (what == 2).then(|| "origin = 'SFO'".to_owned()),
                            ..RepairScope::default()
                        },
                        // Promoted by hand, so that a promote waits as a caller's does.
                        dry_run: what == 0 && number == 0,
                        trigger: "user",
                        ..StartRequest::default()
                    };
                    if what == 3 {
                        let _ = rig.batch.rollback(&view, None).await;
                    } else if let Ok(run) = rig.batch.run_to_end(&view, request).await
                        && run.outcome == Outcome::Staged
                    {
                        let _ = rig.batch.promote(run.id).await;
                    }
                }
            });
        }
    }
    soon(async { while at_once.join_next().await.is_some() {} }).await;
    for (number, view) in world.live.iter().enumerate() {
        world
            .ended(world.start(view, RunMode::Incremental).await)
            .await;
        world.rig.check(&format!("live{number}")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_needs_something_to_repair() {
    let world = World::new(1).await;
    world.gate.set_open(true);
    let view = &world.live[0];
    let repair = |scope| StartRequest {
        mode: RunMode::Repair,
        scope,
        trigger: "user",
        ..StartRequest::default()
    };
    let refused = world
        .rig
        .batch
        .start(view, repair(RepairScope::default()))
        .await;
    let error = refused.unwrap_err().to_string();
    assert!(
        error.contains("--where") && error.contains("--mode full"),
        "{error}"
    );
    assert!(world.rig.catalog.state().runs.is_empty());

    // Which groups the events of an exclusion are in says the exclusion.
    world
        .rig
        .push(&[(978_307_200_000_000, Some("LAX"), Some(7), 1)]);
    world.rig.exclude("delay = 7").await;
    let run = world.rig.run(view, repair(RepairScope::default())).await;
    assert_eq!((run.outcome, run.exclusions.len()), (Outcome::Promoted, 1));
    world.rig.check("live0").await;
    let again = world
        .rig
        .batch
        .start(view, repair(RepairScope::default()))
        .await;
    assert!(matches!(again, Err(BatchError::Invalid(_))));
}

/// Who asks a view whose first build came to nothing is told so, and what makes it answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_build_is_not_called_building() {
    let world = World::new(0).await;
    let view = world.rig.create_view("new", BY_ORIGIN).await;
    let ask = async || world.rig.check_answer("new").await.unwrap_err().to_string();
    let run = world.rig.batch.start(&view, StartRequest::build()).await;
    world.at_gate(&[&view]).await;
    let building = ask().await;
    assert!(building.contains("shows the progress"), "{building}");

    let cancelled = world.rig.batch.cancel(run.unwrap().id).await.unwrap();
    let told = ask().await;
    assert!(!told.contains("shows the progress"), "{told}");
    let again = cancelled.ended_at.unwrap() + Duration::from_secs(60);
    for part in [
        "run 1, was cancelled".to_owned(),
        format!("after {}", again.format("%Y-%m-%dT%H:%M:%SZ")),
        "`dovetail recompute new`".to_owned(),
    ] {
        assert!(told.contains(&part), "{told}");
    }

    world.gate.set_open(true);
    let request = StartRequest {
        trigger: "user",
        ..StartRequest::default()
    };
    world.rig.run(&view, request).await;
    world.rig.check("new").await;
}
