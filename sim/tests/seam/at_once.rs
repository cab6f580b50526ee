// SPDX-License-Identifier: Apache-2.0
//! Everyone who may change a view does so at the same time: redefine it, give that up, drop and restore it, roll
//! it back, run it, promote. Each is done or refused with a reason; each answer meanwhile is of one definition and
//! exact; afterwards the cut holds the definitions that the catalog names, and no others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dovetail_batch_layer::{BatchError, StartRequest};
use dovetail_model::{Outcome, ProblemKind, RunMode, ViewDef, ViewId};
use dovetail_sim::Rig;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;

use super::{
    BY_ORIGIN, REDEFINED, REDEFINED_AGAIN, events, first_seed, held, partitions, seeds, start,
};

const NAME: &str = "by_origin";
const DEFINITIONS: [&str; 3] = [BY_ORIGIN, REDEFINED, REDEFINED_AGAIN];
/// What each of those who change the view does before it stops.
const STEPS: usize = 40;

struct Shared {
    rig: Rig,
    view: ViewId,
    over: AtomicBool,
    answers: AtomicU64,
    redefined: AtomicU64,
    rolled_back: AtomicU64,
}

impl Shared {
    /// Definitions come one at a time, as from a server.
    async fn define(&self, mut random: StdRng) {
        for _ in 0..STEPS {
            let sql = DEFINITIONS[random.random_range(0..DEFINITIONS.len())];
            match random.random_range(0..10) {
                0 => self.drop_and_restore().await,
                1..4 => {
                    let wanted = self.rig.compile(sql);
                    let wanted = |live: &ViewDef| live.definition_hash == wanted.definition_hash();
                    let given_up = self.rig.batch.give_up_pending(&self.view, wanted).await;
                    given_up.expect("giving up is always allowed");
                }
                _ => {
                    self.rig.redefine_view(&self.view, sql).await;
                    // Refused if the scheduler of the day was faster.
                    allowed(
                        self.rig
                            .batch
                            .start(&self.view, StartRequest::build())
                            .await,
                    );
                    self.redefined.fetch_add(1, Ordering::Relaxed);
                }
            }
            self.pause(&mut random).await;
        }
    }

    async fn drop_and_restore(&self) {
        self.rig
            .batch
            .drop_view(&self.view)
            .await
            .expect("it is there");
        let state = self.rig.catalog.state();
        let dropped = &state.views[&self.view];
        let compiled = self.rig.compile(&dropped.def.sql);
        let pending = dropped
            .pending
            .as_ref()
            .map(|def| self.rig.compile(&def.sql));
        let restored = self.rig.batch.undrop_view(dropped, compiled, pending).await;
        assert!(allowed(restored).unwrap_or(true), "it had a generation");
    }

    async fn roll_back(&self, mut random: StdRng) {
        for _ in 0..STEPS {
            let state = self.rig.catalog.state();
            let known: Vec<_> = state.views[&self.view].generations.keys().collect();
            let named = *known[random.random_range(0..known.len())];
            let to = random.random_bool(0.5).then_some(named);
            if allowed(self.rig.batch.rollback(&self.view, to).await).is_some() {
                self.rolled_back.fetch_add(1, Ordering::Relaxed);
            }
            self.pause(&mut random).await;
        }
    }

    async fn recompute(&self, mut random: StdRng) {
        for _ in 0..STEPS {
            let request = match random.random_range(0..4) {
                0 | 1 => start(RunMode::Incremental, false),
                2 => start(RunMode::Full, false),
                _ => start(RunMode::Full, true),
            };
            let Some(run) = allowed(self.rig.batch.run_to_end(&self.view, request).await) else {
                self.pause(&mut random).await;
                continue;
            };
            let reason = run.error.clone().unwrap_or_default();
            let lost = ["stale: ", "was dropped", "is not served", "pointer"];
            assert!(
                run.outcome != Outcome::Failed || lost.iter().any(|part| reason.contains(part)),
                "{reason}"
            );
            if run.outcome == Outcome::Staged {
                allowed(self.rig.batch.promote(run.id).await);
            }
        }
    }

    async fn push_events(&self, mut random: StdRng) {
        // Bounded, so that the oracle stays quick.
        for _ in 0..600 {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            self.rig.push(&events(&mut random));
            while self.rig.merge() {}
            self.pause(&mut random).await;
        }
    }

    async fn ask(&self) {
        while !self.over.load(Ordering::Relaxed) {
            match self.rig.check_answer(NAME).await {
                Ok(_) => _ = self.answers.fetch_add(1, Ordering::Relaxed),
                Err(problem) => assert!(
                    // While it is dropped, and until its generation is brought to the present again.
                    matches!(
                        problem.kind,
                        ProblemKind::NotFound | ProblemKind::Unavailable
                    ),
                    "{problem}"
                ),
            }
        }
    }

    async fn pause(&self, random: &mut StdRng) {
        for _ in 0..random.random_range(0..20) {
            tokio::task::yield_now().await;
        }
    }

    /// What the catalog and the cut hold of the view, when nothing moves any more.
    fn definitions(&self) -> (Vec<u64>, Vec<u64>) {
        let state = self.rig.catalog.state();
        let view = &state.views[&self.view];
        let named = [Some(&view.def), view.pending.as_ref()];
        let named = named.into_iter().flatten().map(|def| def.version).collect();
        (named, held(&self.rig))
    }
}

/// The result of what came through. What the present state of the view forbids is refused; nothing else stops it.
fn allowed<T>(result: Result<T, BatchError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            let refused = matches!(error.kind(), ProblemKind::Conflict | ProblemKind::NotFound);
            assert!(refused, "{error}");
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_changes_a_view_at_once_gets_it_done_or_refused() {
    let (mut redefined, mut rolled_back, mut answers) = (0, 0, 0);
    for seed in first_seed()..first_seed() + seeds().div_ceil(3) {
        println!("seed {seed}");
        let rig = Rig::with_partitions(64 << 20, partitions(seed)).await;
        let view = rig.create_view(NAME, BY_ORIGIN).await;
        let shared = Arc::new(Shared {
            rig,
            view,
            over: AtomicBool::new(false),
            answers: AtomicU64::new(0),
            redefined: AtomicU64::new(0),
            rolled_back: AtomicU64::new(0),
        });
        let random = |of: u64| StdRng::seed_from_u64(seed * 10 + of);
        let mut others = JoinSet::new();
        let pushing = Arc::clone(&shared);
        let seeded = random(1);
        others.spawn(async move { pushing.push_events(seeded).await });
        let asking = Arc::clone(&shared);
        others.spawn(async move { asking.ask().await });
        let mut changers = JoinSet::new();
        let changing = || Arc::clone(&shared);
        let (one, seeded) = (changing(), random(2));
        changers.spawn(async move { one.define(seeded).await });
        for of in [3, 4] {
            let (one, seeded) = (changing(), random(of));
            changers.spawn(async move { one.roll_back(seeded).await });
        }
        for of in [5, 6] {
            let (one, seeded) = (changing(), random(of));
            changers.spawn(async move { one.recompute(seeded).await });
        }
        while let Some(ended) = changers.join_next().await {
            if ended.is_err() {
                shared.over.store(true, Ordering::Relaxed);
            }
            ended.expect("nobody fails");
        }
        shared.over.store(true, Ordering::Relaxed);
        while let Some(ended) = others.join_next().await {
            ended.expect("every answer is exact");
        }
        settle(&shared).await;
        redefined += shared.redefined.load(Ordering::Relaxed);
        rolled_back += shared.rolled_back.load(Ordering::Relaxed);
        answers += shared.answers.load(Ordering::Relaxed);
    }
    println!("{redefined} redefinitions, {rolled_back} rollbacks, {answers} answers");
    assert!(
        redefined > 0 && rolled_back > 0 && answers > 0,
        "much happened"
    );
}

/// Runs that nobody waits for end; then the cut is what the catalog says, and the newest definition can be built.
async fn settle(shared: &Shared) {
    shared.rig.batch.cancel_all().await;
    let (named, held) = shared.definitions();
    assert_eq!(held, named, "the cut holds what the catalog names");
    shared.rig.check(NAME).await;
    let built = shared
        .rig
        .run(&shared.view, start(RunMode::Full, false))
        .await;
    assert_eq!(built.outcome, Outcome::Promoted);
    let (named, held) = shared.definitions();
    assert_eq!((named.len(), &held), (1, &named));
    shared.rig.check(NAME).await;
}
