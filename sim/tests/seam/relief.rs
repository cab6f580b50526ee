// SPDX-License-Identifier: Apache-2.0
//! At the hard limit of the speed layer's memory a view lets go of its runs, if no answer needs them or no run can
//! take them over; every other view goes on answering.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dovetail_batch_layer::{Scheduler, SpeedLayerMemory};
use dovetail_model::{Outcome, RunMode, StreamId, ViewId};
use dovetail_seam::Cut;
use dovetail_serving_layer::ports::Layer;
use dovetail_sim::{Event, Rig};
use tokio_util::sync::CancellationToken;

use super::{START_US, TOTAL, start};

const ALL_DELAYS: &str = "SELECT median(delay) AS middle, count(*) AS n FROM flights";
const EVENTS: i64 = 60_000;

/// Memory that is full for as long as it is told.
#[derive(Debug, Default)]
struct Memory {
    full: AtomicBool,
    /// Cuts that something was let go of.
    relieved: Mutex<Vec<Cut>>,
}

impl SpeedLayerMemory for Memory {
    fn pressed(&self) -> Option<StreamId> {
        None
    }

    fn is_full(&self) -> bool {
        self.full.load(Ordering::SeqCst)
    }

    fn note(&self, cut: &Cut) {
        self.relieved
            .lock()
            .expect("nobody panics with it")
            .push(cut.clone());
    }
}

/// A scheduler at work until it is dropped.
struct Scheduling {
    memory: Arc<Memory>,
    stop: CancellationToken,
}

impl Scheduling {
    fn start(rig: &Rig) -> Self {
        let memory = Arc::new(Memory::default());
        let stop = CancellationToken::new();
        let scheduler = Scheduler::new(rig.batch.clone(), Arc::clone(&memory) as _);
        let until = stop.clone();
        tokio::spawn(async move { scheduler.run(until).await });
        memory.full.store(true, Ordering::SeqCst);
        Self { memory, stop }
    }

    /// The first cut that something was let go of.
    async fn relieved(&self) -> Cut {
        let relieved = &self.memory.relieved;
        eventually(|| {
            relieved
                .lock()
                .expect("nobody panics with it")
                .first()
                .cloned()
        })
        .await
    }
}

impl Drop for Scheduling {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn eventually<T>(mut found: impl FnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(found) = found() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, waiting).await.expect("in time")
}

fn push_many(rig: &Rig) {
    let event = |n: i64| -> Event { (START_US + n, Some("SFO"), Some(n as i32), n) };
    for first in (0..EVENTS).step_by(10_000) {
        let events: Vec<Event> = (first..first + 10_000).map(event).collect();
        rig.push(&events);
    }
}

fn bytes(cut: &Cut, view: &ViewId, version: u64) -> usize {
    cut.definition(view, version).expect("it is there").bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_that_no_answer_needs_yet_go_first_and_no_others() {
    let rig = Rig::new(64 << 20).await;
    let view = rig.create_view("delays", TOTAL).await;
    rig.redefine_view(&view, ALL_DELAYS).await;
    push_many(&rig);
    let live = bytes(&rig.cell.load(), &view, 1);
    assert!(bytes(&rig.cell.load(), &view, 2) > live && live > 0);

    let scheduling = Scheduling::start(&rig);
    let relieved = scheduling.relieved().await;
    assert_eq!(bytes(&relieved, &view, 2), 0);
    assert_eq!(bytes(&relieved, &view, 1), live, "answers need them");
    // The build, which is due, is as exact as ever, and what was let go of matters no more.
    eventually(|| {
        let built = rig.catalog.state().views[&view].pending.is_none();
        built.then_some(())
    })
    .await;
    push_many(&rig);
    rig.check("delays").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_that_no_batch_run_can_take_over_go_at_the_limit() {
    let rig = Rig::new(64 << 10).await;
    let total = rig.create_view("total", TOTAL).await;
    let delays = rig.create_view("delays", ALL_DELAYS).await;
    push_many(&rig);
    let others = bytes(&rig.cell.load(), &total, 1);
    let request = start(RunMode::Incremental, false);
    let run = rig.batch.run_to_end(&delays, request).await.unwrap();
    assert_eq!(run.outcome, Outcome::Failed);

    let scheduling = Scheduling::start(&rig);
    let relieved = scheduling.relieved().await;
    assert_eq!(bytes(&relieved, &delays, 1), 0);
    assert_eq!(bytes(&relieved, &total, 1), others);
    let refused = rig.query("SELECT * FROM delays", Layer::Merged).await;
    let problem = refused.unwrap_err();
    assert_eq!(problem.kind.status(), 503);
    let failure = run.error.as_deref().expect("it says why");
    let (_, step) = failure.split_once("a step of it asked for").expect(failure);
    let (step, _) = step.split_once(';').expect(failure);
    for part in ["`delays`", step, "--batch-memory"] {
        assert!(problem.detail.contains(part), "{part}: {problem}");
    }
    push_many(&rig);
    let cut = rig.cell.load();
    assert_eq!(
        bytes(&cut, &delays, 1),
        0,
        "what follows is not kept either"
    );
    rig.check("total").await;
    // It is tried again without anyone's doing.
    rig.wait(Duration::from_secs(61));
    eventually(|| {
        let state = rig.catalog.state();
        let mut runs = state.runs.values();
        runs.any(|again| again.id > run.id && again.view == delays && again.trigger == "memory")
            .then_some(())
    })
    .await;
}
