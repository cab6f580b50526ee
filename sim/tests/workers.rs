// SPDX-License-Identifier: Apache-2.0
//! Batch runs computed by workers, which are lost, fail for themselves, and take their time.
//!
//! Purpose: whoever computes, the same comes out and is counted; what is being written is there when it is named.
//! Collaborators: a real [`Computer`] over the rig's store, by another clock. Non-goals: how workers are reached.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use dovetail_batch_layer::{
    Answer, Computer, ComputerConfig, Failure, Lost, NoWorkers, Place, RetentionPolicy,
    StartRequest, Work, Workers,
};
use dovetail_log::parquet_files::register_store;
use dovetail_model::{BatchRun, Outcome, RowsRead, RunMode, SystemClock, ViewId};
use dovetail_seam::Generation;
use dovetail_sim::Rig;
use futures::TryStreamExt as _;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use tokio::sync::{Notify, Semaphore};

const MEMORY: usize = 64 << 20;
const START_US: i64 = 978_307_200_000_000;
const BY_ORIGIN: &str =
    "SELECT origin, count(*) AS n, sum(delay) AS delays FROM flights GROUP BY origin";

/// What becomes of a place. Whatever it is, the files are on the store.
#[derive(Debug, Clone, Copy)]
enum Act {
    Answers,
    /// When the gate opens.
    AnswersLate,
    IsLost,
    HasTrouble,
}

/// Workers that do what is on the list, in the order in which places are taken, and then are gone.
#[derive(Debug)]
struct Staff {
    computer: Computer,
    acts: Mutex<VecDeque<Act>>,
    written: Notify,
    gate: Semaphore,
}

impl Staff {
    fn over(store: &Arc<dyn ObjectStore>) -> Arc<Self> {
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(MEMORY)))
            .build_arc()
            .expect("a runtime");
        register_store(&runtime, Arc::clone(store));
        let computer = Computer::new(ComputerConfig {
            store: Arc::clone(store),
            // Years away from the rig's.
            clock: Arc::new(SystemClock),
            task: Arc::new(TaskContext::default().with_runtime(runtime)),
            partitions: 2,
            runs: 1,
        });
        Arc::new(Self {
            computer,
            acts: Mutex::default(),
            written: Notify::new(),
            gate: Semaphore::new(0),
        })
    }

    fn acts(&self) -> std::sync::MutexGuard<'_, VecDeque<Act>> {
        self.acts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct StaffPort(Arc<Staff>);

#[derive(Debug)]
struct StaffPlace {
    staff: Arc<Staff>,
    act: Act,
    name: String,
}

#[async_trait]
impl Workers for StaffPort {
    async fn place(&self, mode: RunMode) -> Box<dyn Place> {
        let act = self.0.acts().pop_front();
        match act {
            Some(act) => Box::new(StaffPlace {
                staff: Arc::clone(&self.0),
                act,
                name: format!("{act:?}"),
            }),
            None => NoWorkers.place(mode).await,
        }
    }
}

#[async_trait]
impl Place for StaffPlace {
    fn worker(&self) -> &str {
        &self.name
    }

    async fn compute(
        &mut self,
        work: &Work,
        hear: &(dyn Fn(RowsRead) + Send + Sync),
    ) -> Result<Answer, Lost> {
        let answer = self.staff.computer.compute(work, &Arc::default()).await;
        hear(answer.read);
        match self.act {
            Act::Answers => Ok(answer),
            Act::AnswersLate => {
                self.staff.written.notify_one();
                self.staff
                    .gate
                    .acquire()
                    .await
                    .expect("it is open")
                    .forget();
                Ok(answer)
            }
            Act::IsLost => Err(Lost("it is silent".to_owned())),
            Act::HasTrouble => Ok(Answer {
                result: Err(Failure::Own("no space left on device".to_owned())),
                read: answer.read,
            }),
        }
    }
}

struct Scene {
    rig: Rig,
    staff: Arc<Staff>,
    view: ViewId,
}

impl Scene {
    async fn new() -> Self {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let staff = Staff::over(&store);
        let port = Arc::new(StaffPort(Arc::clone(&staff)));
        let rig = Rig::with_workers(store, MEMORY, 1, port).await;
        let view = rig.create_view("by_origin", BY_ORIGIN).await;
        Self { rig, staff, view }
    }

    fn push(&self) {
        for delay in 0..3 {
            let origin = [Some("SFO"), Some("JFK"), None][delay as usize];
            self.rig.push(&[
                (START_US, origin, Some(delay), 100),
                (START_US, Some("SEA"), None, 7),
            ]);
        }
    }

    /// A run while `acts` are the workers.
    async fn run(&self, mode: RunMode, dry_run: bool, acts: &[Act]) -> Arc<BatchRun> {
        self.push();
        self.staff.acts().extend(acts);
        let request = StartRequest {
            mode,
            dry_run,
            trigger: "user",
            ..StartRequest::default()
        };
        self.rig.run(&self.view, request).await
    }

    /// The files of the view that nothing names.
    async fn orphans(&self) -> BTreeSet<String> {
        let root = Generation::view_root(&self.view);
        let state = self.rig.catalog.state();
        let manifests = state.views[&self.view].generations.values();
        let named: BTreeSet<String> = manifests
            .flat_map(|manifest| &manifest.files)
            .map(|file| format!("{root}/{}", file.path))
            .collect();
        let listed = self
            .rig
            .store
            .list(Some(&Path::from(format!("{root}/files"))));
        let stored: BTreeSet<String> = listed
            .map_ok(|file| file.location.to_string())
            .try_collect()
            .await
            .expect("the files are listed");
        assert!(stored.is_superset(&named), "files are missing");
        stored.difference(&named).cloned().collect()
    }

    /// A sweep two hours later.
    async fn sweep(&self) -> u64 {
        self.rig.wait(Duration::from_secs(7200));
        let policy = RetentionPolicy::default();
        self.rig.batch.sweep(&policy).await.expect("the sweep ends")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_worker_costs_time_and_nothing_else() {
    use Act::{Answers, HasTrouble, IsLost};
    let (alone, scene) = (Scene::new().await, Scene::new().await);
    // Places are taken for a full run, for its base, and for the full run again each time that its worker is lost.
    let cases: [(RunMode, &[Act], Option<&str>, usize); 6] = [
        (RunMode::Incremental, &[Answers], Some("Answers"), 0),
        (RunMode::Incremental, &[IsLost, Answers], Some("Answers"), 0),
        (
            RunMode::Full,
            &[IsLost, Answers, Answers],
            Some("Answers"),
            0,
        ),
        (RunMode::Full, &[HasTrouble, IsLost], None, 0),
        (
            RunMode::Full,
            &[IsLost, HasTrouble, IsLost, Answers, HasTrouble],
            None,
            0,
        ),
        (
            RunMode::Incremental,
            &[HasTrouble, IsLost, HasTrouble, Answers],
            None,
            1,
        ),
    ];
    for (mode, acts, worker, left) in cases {
        let expected = alone.run(mode, false, &[]).await;
        let run = scene.run(mode, false, acts).await;
        assert_eq!(run.worker.as_deref(), worker, "{acts:?}");
        assert_eq!(scene.staff.acts().drain(..).count(), left, "{acts:?}");
        let counted = |run: &BatchRun| (run.outcome, run.rows_read, run.groups, run.span.clone());
        assert_eq!(counted(&run), counted(&expected), "{acts:?}");
        assert_eq!(run.outcome, Outcome::Promoted);
        scene.rig.check("by_origin").await;
    }
    assert_ne!(scene.orphans().await, BTreeSet::new());
    assert_eq!(scene.sweep().await, 0);
    assert!(scene.sweep().await > 0);
    assert_eq!(scene.orphans().await, BTreeSet::new());
    scene.rig.check("by_origin").await;
}

/// A promote brings its generation forward while no run is at work: the ledger does not say that files are on their way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_writes_stays_until_it_is_named_however_long_that_takes() {
    let scene = Scene::new().await;
    let staged = scene.run(RunMode::Full, true, &[]).await;
    assert_eq!(staged.outcome, Outcome::Staged);
    scene.push();
    scene.staff.acts().push_back(Act::AnswersLate);
    let promoting = scene.rig.batch.promote(staged.id);
    let sweeping = async {
        scene.staff.written.notified().await;
        assert_ne!(scene.orphans().await, BTreeSet::new());
        for _ in 0..3 {
            assert_eq!(scene.sweep().await, 0);
        }
        scene.staff.gate.add_permits(1);
    };
    let (promoted, ()) = tokio::join!(promoting, sweeping);
    promoted.unwrap();
    scene.orphans().await;
    scene.rig.check("by_origin").await;
}
