// SPDX-License-Identifier: Apache-2.0
//! One desk, workers on real connections, and workers that are nothing but what they say.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dovetail_log::catalog::Catalog;
use dovetail_model::{Endpoints, Entry, ManualClock, Problem, ProblemKind};
use dovetail_seam::{Cells, StreamCell};
use futures::FutureExt as _;
use object_store::memory::InMemory;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{CutServer, PeerToken};

fn view() -> ViewId {
    "v1".parse().unwrap()
}

fn raw(text: &str) -> Box<RawValue> {
    serde_json::value::to_raw_value(text).unwrap()
}

fn beat(worker: u64, in_hand: &[u64]) -> Beat {
    let told = in_hand.iter().map(|task| Told {
        task: *task,
        read: RowsRead {
            before: 0,
            present: Some((*task % 100, 100)),
        },
    });
    Beat {
        worker,
        name: format!("w{worker}"),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        runs: 1,
        computing: told.collect(),
        leaves: false,
    }
}

fn answered(worker: u64, task: u64, answer: &str) -> Answered {
    Answered {
        worker,
        task,
        answer: raw(answer),
    }
}

/// A beat at which there is news at once.
async fn news(desk: &Desk, worker: u64, in_hand: &[u64]) -> Orders {
    let orders = desk.beat(beat(worker, in_hand)).now_or_never();
    orders.expect("there is news").unwrap()
}

fn nothing(_: RowsRead) {}

#[tokio::test]
async fn a_place_waits_for_a_worker_and_each_lane_is_apart() {
    let desk = Desk::default();
    let mut waiting = pin!(desk.place(RunMode::Full));
    assert!((&mut waiting).now_or_never().is_none());
    desk.beat(beat(1, &[])).await.unwrap();
    let first = waiting.await;
    assert_eq!(first.worker(), "w1");
    let mut repair = pin!(desk.place(RunMode::Repair));
    assert!((&mut repair).now_or_never().is_none());
    let forward = desk.place(RunMode::Incremental).now_or_never().unwrap();
    // A second worker takes what waits.
    desk.beat(beat(2, &[])).await.unwrap();
    let second = repair.await;
    assert_eq!(second.worker(), "w2");
    drop((first, forward));
    let again = desk.place(RunMode::Full).now_or_never().unwrap();
    assert_eq!(again.worker(), "w1");
}

#[tokio::test]
async fn a_task_is_told_until_the_worker_has_it_and_is_answered_once() {
    let desk = Desk::default();
    desk.beat(beat(1, &[])).await.unwrap();
    let place = desk.place(RunMode::Full).await;
    let read = Mutex::new(vec![]);
    let hear = |said: RowsRead| read.lock().push(said.total());
    let id = view();
    let mut computing = Box::pin(place.compute(&id, raw("work"), &hear));
    assert!((&mut computing).now_or_never().is_none());
    let told = news(&desk, 1, &[]).await;
    let task = told.begin[0].task;
    assert_eq!(told.begin[0].work.get(), "\"work\"");
    // The answer to that beat may have been lost on the way.
    assert_eq!(news(&desk, 1, &[]).await.begin[0].task, task);
    assert!(desk.beat(beat(1, &[task])).await.unwrap().is_empty());
    assert!((&mut computing).now_or_never().is_none());
    assert_eq!(*read.lock(), [task % 100]);
    assert_eq!(desk.workers()[0].tasks[0].read.total(), task % 100);
    assert!(!desk.answer(answered(2, task, "of another")));
    assert!(desk.answer(answered(1, task, "first")));
    assert!(!desk.answer(answered(1, task, "second")));
    assert_eq!(computing.await.unwrap().get(), "\"first\"");
    // What is answered is nothing to go on with.
    assert_eq!(news(&desk, 1, &[task]).await.give_up, [task]);
}

#[tokio::test]
async fn a_withdrawn_task_is_given_up_at_the_next_beat() {
    let desk = Desk::default();
    desk.beat(beat(1, &[])).await.unwrap();
    let place = desk.place(RunMode::Full).await;
    let id = view();
    let mut computing = Box::pin(place.compute(&id, raw("work"), &nothing));
    assert!((&mut computing).now_or_never().is_none());
    let task = news(&desk, 1, &[]).await.begin[0].task;
    // It may be woken once more by what it knows by now.
    assert!(desk.beat(beat(1, &[task])).await.unwrap().is_empty());
    let mut held = Box::pin(desk.beat(beat(1, &[task])));
    assert!((&mut held).now_or_never().is_none());
    drop(computing);
    // The beat that is held hears of it.
    let orders = held.now_or_never().expect("there is news").unwrap();
    assert_eq!(orders.give_up, [task]);
    assert!(!desk.answer(answered(1, task, "late")));
}

/// As one that is stopped, and goes on after its work was given away.
#[tokio::test]
async fn a_silent_worker_is_lost_and_its_late_answer_changes_nothing() {
    let desk = Desk::default();
    desk.beat(beat(1, &[])).await.unwrap();
    let place = desk.place(RunMode::Full).await;
    let id = view();
    let mut computing = Box::pin(place.compute(&id, raw("work"), &nothing));
    assert!((&mut computing).now_or_never().is_none());
    let task = news(&desk, 1, &[]).await.begin[0].task;
    desk.silence(1);
    let lost = computing.now_or_never().expect("at once").unwrap_err();
    assert!(lost.to_string().contains("w1"), "{lost}");
    assert!(desk.workers().is_empty());
    drop(place);

    desk.beat(beat(2, &[])).await.unwrap();
    let place = desk.place(RunMode::Full).await;
    let mut computing = Box::pin(place.compute(&id, raw("work"), &nothing));
    assert!((&mut computing).now_or_never().is_none());
    let other = news(&desk, 2, &[]).await.begin[0].task;
    assert!(!desk.answer(answered(1, task, "late")));
    assert!(!desk.answer(answered(1, other, "not its own")));
    assert_eq!(news(&desk, 1, &[task]).await.give_up, [task]);
    assert!((&mut computing).now_or_never().is_none());
    assert!(desk.answer(answered(2, other, "right")));
    assert_eq!(computing.await.unwrap().get(), "\"right\"");
}

/// Nobody asks for it: whoever waits for the answer finds out.
#[tokio::test]
async fn silence_is_noticed_while_the_answer_is_waited_for() {
    let desk = Desk::with_patience(Duration::from_millis(200));
    let place = loop {
        desk.beat(beat(1, &[])).now_or_never();
        if let Some(place) = desk.place(RunMode::Full).now_or_never() {
            break place;
        }
    };
    let id = view();
    let lost = soon(place.compute(&id, raw("work"), &nothing)).await;
    assert!(lost.is_err());
}

#[tokio::test]
async fn a_worker_that_leaves_hands_back_at_once() {
    let desk = Desk::default();
    desk.beat(beat(1, &[])).await.unwrap();
    let place = desk.place(RunMode::Full).await;
    let id = view();
    let mut computing = Box::pin(place.compute(&id, raw("work"), &nothing));
    assert!((&mut computing).now_or_never().is_none());
    let leaving = Beat {
        leaves: true,
        ..beat(1, &[])
    };
    desk.beat(leaving).await.unwrap();
    assert!(computing.now_or_never().expect("at once").is_err());
}

#[tokio::test]
async fn a_worker_of_another_version_is_refused() {
    let other = Beat {
        version: "0.0.1-other".to_owned(),
        ..beat(1, &[])
    };
    let problem = Desk::default().beat(other).await.unwrap_err();
    assert!(problem.detail.contains("0.0.1-other"), "{problem}");
}

#[derive(Debug)]
struct NoCells;

impl Cells for NoCells {
    fn cell(&self, _: &dovetail_model::StreamId) -> Option<Arc<StreamCell>> {
        None
    }
}

/// A catalog that names the servers that are started.
struct Rig {
    catalog: Arc<Catalog>,
}

impl Rig {
    async fn new() -> Self {
        let store = Arc::new(InMemory::new());
        let catalog = Catalog::open(store, Arc::new(ManualClock::at(0)))
            .await
            .unwrap();
        let catalog = Arc::new(catalog);
        catalog.claim("d1", "here", false).await.unwrap();
        Self { catalog }
    }

    /// A server of `desk` for those that show `token`, until the guard is dropped.
    async fn serve(&self, desk: &Desk, token: &'static str) -> tokio_util::sync::DropGuard {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoints = Endpoints {
            http: "http://127.0.0.1:1".to_owned(),
            cuts: format!("http://{}", listener.local_addr().unwrap()),
        };
        let epoch = self.catalog.state().epoch();
        let admin = move |headers: &tonic::metadata::MetadataMap| {
            let shown = headers.get("authorization").and_then(|v| v.to_str().ok());
            if shown == Some(&format!("Bearer {token}")) {
                return Ok(());
            }
            Err(Problem::new(ProblemKind::Forbidden, "no"))
        };
        let server = CutServer::of_decider(
            Arc::new(NoCells),
            Arc::clone(&self.catalog),
            epoch,
            None,
            Arc::new(ManualClock::at(0)),
            (Arc::new(|_| Ok(())), Arc::new(admin)),
        );
        let server = server.with_work(desk.clone());
        let stop = CancellationToken::new();
        tokio::spawn(server.serve(listener, stop.clone()));
        let endpoints = Some(endpoints);
        let said = self.catalog.commit(|_| {
            let endpoints = endpoints.clone();
            Ok::<_, std::convert::Infallible>(vec![Entry::StoreServed { epoch, endpoints }])
        });
        said.await.unwrap();
        stop.drop_guard()
    }

    /// A worker that shows `token`.
    fn worker(&self, token: &str, computes: &Arc<Echo>) -> tokio_util::sync::DropGuard {
        let config = HandConfig {
            catalog: Arc::clone(&self.catalog),
            token: PeerToken::new(Some(token)),
            name: "w".to_owned(),
            runs: 1,
            runtime: Handle::current(),
        };
        let stop = CancellationToken::new();
        tokio::spawn(Hand::new(config, Arc::clone(computes) as _).work(stop.clone()));
        stop.drop_guard()
    }
}

/// Answers what it is told once its gate is open.
#[derive(Default)]
struct Echo {
    gate: Arc<Notify>,
    begun: AtomicU64,
    /// Told when the task that begins next is over or given up.
    ended: Mutex<Option<oneshot::Sender<()>>>,
}

impl Echo {
    fn ends(&self) -> oneshot::Receiver<()> {
        let (tell, ended) = oneshot::channel();
        *self.ended.lock() = Some(tell);
        ended
    }
}

impl Computes for Echo {
    fn begin(&self, work: &RawValue) -> Begun {
        self.begun.fetch_add(1, Ordering::Relaxed);
        let (gate, work) = (Arc::clone(&self.gate), work.to_owned());
        // Dropped with the task, it is heard.
        let ended = self.ended.lock().take();
        Begun {
            answer: Box::pin(async move {
                gate.notified().await;
                drop(ended);
                work
            }),
            read: Box::new(|| RowsRead {
                before: 1,
                present: Some((2, 3)),
            }),
        }
    }
}

/// Nothing here takes this long.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    let waited = timeout(Duration::from_secs(60), work).await;
    waited.expect("it hangs")
}

#[tokio::test]
async fn work_goes_to_a_worker_and_its_answer_comes_back() {
    let rig = Rig::new().await;
    let desk = Desk::default();
    let _server = rig.serve(&desk, "admin").await;
    let (echo, stranger) = (Arc::<Echo>::default(), Arc::<Echo>::default());
    let _stranger = rig.worker("reader", &stranger);
    let _worker = rig.worker("admin", &echo);
    let (read, heard) = (AtomicU64::new(0), Notify::new());
    let hear = |said: RowsRead| {
        read.store(said.total(), Ordering::Relaxed);
        heard.notify_one();
    };
    // Larger than what a message may be where nobody says so.
    let work = "x".repeat(8 << 20);
    for _ in 0..2 {
        let place = soon(desk.place(RunMode::Full)).await;
        let id = view();
        let opens = async {
            heard.notified().await;
            echo.gate.notify_one();
        };
        let computing = place.compute(&id, raw(&work), &hear);
        let (answer, ()) = soon(async { tokio::join!(computing, opens) }).await;
        assert_eq!(answer.unwrap().get(), raw(&work).get());
        assert_eq!(read.load(Ordering::Relaxed), 3);
    }
    assert_eq!(echo.begun.load(Ordering::Relaxed), 2);
    assert_eq!(stranger.begun.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_nobody_waits_for_is_given_up() {
    let rig = Rig::new().await;
    let desk = Desk::default();
    let _server = rig.serve(&desk, "admin").await;
    let echo = Arc::<Echo>::default();
    let _worker = rig.worker("admin", &echo);
    let ended = echo.ends();
    let place = soon(desk.place(RunMode::Full)).await;
    let id = view();
    let began = Notify::new();
    let hear = |_: RowsRead| began.notify_one();
    soon(async {
        tokio::select! {
            answer = place.compute(&id, raw("work"), &hear) => panic!("{answer:?}"),
            () = began.notified() => {}
        }
    })
    .await;
    // Dropped at the worker, though its gate was never opened.
    assert!(soon(ended).await.is_err());
}

#[tokio::test]
async fn a_worker_goes_over_to_whoever_has_the_store() {
    let rig = Rig::new().await;
    let (before, after) = (Desk::default(), Desk::default());
    let server = rig.serve(&before, "admin").await;
    let echo = Arc::<Echo>::default();
    let worker = rig.worker("admin", &echo);
    let ended = echo.ends();
    let place = soon(before.place(RunMode::Full)).await;
    let id = view();
    let mut computing = Box::pin(place.compute(&id, raw("old"), &nothing));
    soon(async {
        while echo.begun.load(Ordering::Relaxed) == 0 {
            assert!((&mut computing).now_or_never().is_none());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    drop(server);
    let _server = rig.serve(&after, "admin").await;
    assert!(soon(ended).await.is_err());
    let place = soon(after.place(RunMode::Full)).await;
    echo.gate.notify_one();
    let answer = soon(place.compute(&id, raw("new"), &nothing)).await;
    assert_eq!(answer.unwrap().get(), "\"new\"");
    // One that stops says so.
    drop(worker);
    soon(async {
        while !after.workers().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
