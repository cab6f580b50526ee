// SPDX-License-Identifier: Apache-2.0
//! A store belongs to whoever claimed it last: what others do behind that claim, in whatever order their requests
//! come, changes nothing, and what they did before it stays.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use async_trait::async_trait;
use dovetail_model::{Entry, ManualClock, Position, Span, StreamDef};
use futures::future::join_all;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::support::*;
use crate::CommittedBatch;
use crate::catalog::tests::{random, stream};
use crate::catalog::{Catalog, CommitError};
use crate::raw::{Compaction, RawError, RawLog, RawScan};

type Random = Box<dyn FnMut() -> u64 + Send>;

/// A store whose requests take turns at random, and are counted.
pub(super) struct Turns {
    inner: InMemory,
    random: Mutex<Random>,
    requests: watch::Sender<u64>,
}

impl Turns {
    pub(super) fn of(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            inner: InMemory::new(),
            random: Mutex::new(Box::new(random(seed))),
            requests: watch::Sender::new(0),
        })
    }

    /// Claims the store by `claim` and acts meanwhile: `acts` are given what tells each of them when to begin.
    pub(super) async fn during<C, A>(
        &self,
        claim: impl Future<Output = C>,
        acts: impl FnOnce(Moments) -> A,
    ) -> (C, A::Output)
    where
        A: Future,
    {
        let over = CancellationToken::new();
        let moments = Moments {
            requests: self.requests.subscribe(),
            over: over.clone(),
        };
        let claim = async {
            let _over = over.drop_guard();
            claim.await
        };
        tokio::join!(Box::pin(claim), Box::pin(acts(moments)))
    }

    async fn turn(&self) {
        self.requests.send_modify(|requests| *requests += 1);
        let turns = (self.random.lock())() % 4;
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }
}

/// When something begins that happens during a claim.
#[derive(Clone)]
pub(super) struct Moments {
    requests: watch::Receiver<u64>,
    over: CancellationToken,
}

impl Moments {
    /// Acts once the store has been asked `requests` more, or the claim is made, if that is sooner. (What is counted is
    /// the claim's progress: the time that it takes depends on the machine.)
    pub(super) async fn after<T>(&self, requests: u64, act: impl Future<Output = T>) -> T {
        let mut asked = self.requests.clone();
        let from = *asked.borrow();
        tokio::select! {
            _ = asked.wait_for(|asked| *asked >= from + requests) => {}
            () = self.over.cancelled() => {}
        }
        act.await
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turns")
    }
}

impl fmt::Display for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("turns")
    }
}

#[async_trait]
impl ObjectStore for Turns {
    async fn put_opts(
        &self,
        at: &Path,
        data: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.turn().await;
        let put = self.inner.put_opts(at, data, options).await;
        self.turn().await;
        put
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.turn().await;
        let got = self.inner.get_opts(at, options).await;
        self.turn().await;
        got
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.turn().await;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// One that has, or had, the store.
struct Process {
    catalog: Catalog,
    raw: RawLog,
}

/// Two events and a dead letter at the next three offsets.
fn tagged(def: &StreamDef, from: u64, tag: i64) -> Arc<CommittedBatch> {
    let at = [from as i64, from as i64 + 1];
    let batch = with_dead(&batch(def, 0, from..from + 3, &at), &[from + 2], &[]);
    let mut batch = CommittedBatch::clone(&batch);
    let mut columns = batch.events.columns().to_vec();
    columns[0] = Arc::new(Int64Array::from(vec![tag; 2])) as ArrayRef;
    batch.events = RecordBatch::try_new(batch.events.schema(), columns).unwrap();
    for (_, letter) in &mut batch.dead_letters {
        letter.origin = tag.to_string();
    }
    Arc::new(batch)
}

impl Process {
    /// Claims the store, as a start with `--take-over` does.
    async fn claim(store: &Arc<dyn ObjectStore>, def: &StreamDef, owner: &str) -> Self {
        let clock = Arc::new(ManualClock::at(1_700_000_000_000_000));
        let catalog = Catalog::open(Arc::clone(store), clock.clone())
            .await
            .unwrap();
        let claim = catalog.claim(owner, "host", true).await.unwrap();
        let raw = RawLog::open(Arc::clone(store), root(), def, claim.epoch, clock);
        let raw = raw.await.unwrap();
        raw.settle().await.unwrap();
        Self { catalog, raw }
    }

    /// Archives from where it believes that the archive ends; where that was.
    async fn archive(&self, def: &StreamDef, tag: i64) -> std::result::Result<u64, RawError> {
        let from = self.raw.current().await?.archived().get(ONLY).0;
        let (next, batches) = (span(from, from + 3), [tagged(def, from, tag)]);
        let archived = self.raw.archive(&next, &batches);
        archived.await.map(|_| from)
    }

    async fn commit(&self, name: &str) -> bool {
        let stream = stream(name);
        let committed = self.catalog.commit::<std::convert::Infallible>(|_| {
            Ok(vec![Entry::StreamCreated {
                stream: stream.clone(),
            }])
        });
        match committed.await {
            Ok(_) => true,
            Err(CommitError::Superseded(_)) => false,
            Err(error) => panic!("{error}"),
        }
    }
}

const ONLY: dovetail_model::PartitionId = dovetail_model::PartitionId(0);

fn is_superseded<T: fmt::Debug>(result: &std::result::Result<T, RawError>) -> bool {
    match result {
        Ok(_) => false,
        Err(RawError::Superseded { .. }) => true,
        Err(error) => panic!("{error}"),
    }
}

/// What was acknowledged to somebody.
#[derive(Default)]
struct Oracle {
    /// Tag by first offset.
    archived: BTreeMap<u64, i64>,
    names: BTreeSet<String>,
}

impl Oracle {
    fn archived(&mut self, result: std::result::Result<u64, RawError>, tag: i64) {
        if !is_superseded(&result) {
            let before = self.archived.insert(result.unwrap(), tag);
            assert_eq!(before, None, "archived twice");
        }
    }

    async fn check(&self, store: &Arc<dyn ObjectStore>, newest: &Process, seed: u64) {
        let snapshot = newest.raw.snapshot();
        let all = RawScan::of(Span::up_to(snapshot.archived().clone()));
        let rows = scan(store, &snapshot, all).await;
        let ids = rows.column(0).as_primitive::<Int64Type>().values().to_vec();
        let found: Vec<(i64, i64)> = offsets_of(&rows).into_iter().zip(ids).collect();
        let expected = self.archived.iter();
        let expected =
            expected.flat_map(|(from, tag)| [(*from as i64, *tag), (*from as i64 + 1, *tag)]);
        assert_eq!(found, expected.collect::<Vec<_>>(), "seed {seed}");
        let letters = dead_letters(&newest.raw).await;
        let letters: BTreeMap<u64, String> = letters
            .into_iter()
            .map(|letter| (letter.offset.0, letter.letter.origin))
            .collect();
        for (from, tag) in &self.archived {
            assert_eq!(
                letters.get(&(from + 2)),
                Some(&tag.to_string()),
                "seed {seed}"
            );
        }
        let state = newest.catalog.reload().await.unwrap();
        let names: BTreeSet<String> = state.live_streams().map(|s| s.def.name.clone()).collect();
        assert_eq!(names, self.names, "seed {seed}");
    }
}

/// How many acts were under way while the store was claimed, and how many of them came too late.
async fn live(seed: u64) -> (usize, usize) {
    let mut random = random(seed);
    let turns = Turns::of(seed ^ 0xabcd);
    let store: Arc<dyn ObjectStore> = Arc::clone(&turns) as _;
    let def = plain();
    let mut oracle = Oracle::default();
    let mut processes = vec![Process::claim(&store, &def, "d0").await];
    let (mut acts, mut fenced) = (0, 0);
    for step in 0..8_i64 {
        let newest = processes.len() - 1;
        if !random().is_multiple_of(3) {
            // All of them at once: only the newest gets through.
            let archives = processes
                .iter()
                .enumerate()
                .map(|(index, process)| process.archive(&def, step * 100 + index as i64));
            let compaction = Compaction {
                min_files: 2,
                ..Compaction::default()
            };
            let compacts = processes[random() as usize % processes.len()]
                .raw
                .compact(compaction);
            let (archives, _) = tokio::join!(join_all(archives), compacts);
            for (index, result) in archives.into_iter().enumerate() {
                assert_eq!(is_superseded(&result), index != newest, "seed {seed}");
                oracle.archived(result, step * 100 + index as i64);
            }
            for (index, process) in processes.iter().enumerate() {
                let name = format!("s{step}x{index}");
                let committed = process.commit(&name).await;
                assert_eq!(committed, index == newest, "seed {seed}");
                if committed {
                    oracle.names.insert(name);
                }
            }
            continue;
        }
        // A claim, while the newest so far is at work: each of its acts is before the claim or not at all.
        let owner = format!("d{}", step + 1);
        let (name, tag) = (format!("c{step}"), step * 100 + 99);
        let old = &processes[newest];
        let (archive_at, commit_at) = (random() % 120, random() % 20);
        let (new, (archived, committed)) = turns
            .during(Process::claim(&store, &def, &owner), async |moments| {
                tokio::join!(
                    moments.after(archive_at, old.archive(&def, tag)),
                    moments.after(commit_at, old.commit(&name))
                )
            })
            .await;
        acts += 2;
        fenced += usize::from(is_superseded(&archived)) + usize::from(!committed);
        oracle.archived(archived, tag);
        if committed {
            oracle.names.insert(name);
        }
        processes.push(new);
        oracle.check(&store, &processes[newest + 1], seed).await;
    }
    let newest = processes.last().unwrap();
    oracle.check(&store, newest, seed).await;
    (acts, fenced)
}

#[tokio::test]
async fn behind_a_claim_nobody_else_commits_and_nothing_is_archived_twice() {
    let (mut acts, mut fenced) = (0, 0);
    for seed in 0..10 {
        let lived = Box::pin(live(seed)).await;
        (acts, fenced) = (acts + lived.0, fenced + lived.1);
    }
    // Both orders have happened.
    assert!(fenced >= 5 && fenced + 5 <= acts, "{fenced} of {acts}");
}

/// Between its dead letters and its events a writer is superseded: its dead letters are there, and those of whoever
/// goes on come behind them and are not mistaken for them.
#[tokio::test]
async fn dead_letters_of_a_superseded_writer_hide_none_of_the_next() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let old = Process::claim(&store, &def, "old").await;
    old.archive(&def, 1).await.unwrap();
    let batch = tagged(&def, 3, 2);
    old.raw
        .dead
        .lock()
        .await
        .append(&batch.span, std::slice::from_ref(&batch))
        .await
        .unwrap();
    let new = Process::claim(&store, &def, "new").await;
    assert_eq!(
        *new.raw.snapshot().archived(),
        Position::single(dovetail_model::Offset(6))
    );
    assert!(is_superseded(&old.archive(&def, 2).await));
    assert_eq!(new.archive(&def, 3).await.unwrap(), 6);
    let origins = dead_letters(&new.raw)
        .await
        .into_iter()
        .map(|l| l.letter.origin);
    assert_eq!(origins.collect::<Vec<_>>(), ["1", "2", "3"]);
}

/// A writer that has never had a dead letter is superseded by one that has none either: their table must not come into
/// being behind the claim.
#[tokio::test]
async fn a_table_of_dead_letters_is_claimed_before_it_is_there() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let old = Process::claim(&store, &def, "old").await;
    let _new = Process::claim(&store, &def, "new").await;
    let batch = tagged(&def, 0, 1);
    let appended = old
        .raw
        .dead
        .lock()
        .await
        .append(&batch.span, std::slice::from_ref(&batch))
        .await;
    assert!(is_superseded(&appended));
    assert_eq!(letter_rows(&store).await, 0);
}

/// It would take the files of whoever has the store now for orphans.
#[tokio::test]
async fn a_superseded_writer_vacuums_nothing() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let old = Process::claim(&store, &def, "old").await;
    old.archive(&def, 1).await.unwrap();
    let new = Process::claim(&store, &def, "new").await;
    new.archive(&def, 2).await.unwrap();
    let vacuumed = old.raw.vacuum(std::time::Duration::ZERO).await;
    assert!(is_superseded(&vacuumed));
    assert_eq!(
        archived_offsets(&store, &new.raw.snapshot()).await,
        [0, 1, 3, 4]
    );
}
