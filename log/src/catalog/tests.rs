// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dovetail_model::{
    BatchRun, CatalogConflict, CatalogState, Clock, Column, ColumnType, Commit, DataFile, Entry,
    EventTime, Exclusion, ExclusionId, GenerationInputs, GenerationNumber, Manifest, ManualClock,
    Offset, Outcome, Position, ProblemKind, PublishReason, RunId, RunMode, Span, StoreEpoch,
    StreamDef, StreamSchema, UnknownColumns, ViewDef,
};
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult,
};
use parking_lot::Mutex;

use super::{Catalog, CatalogError, CommitError, file};

type Refusal = std::convert::Infallible;

pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::at(1_000_000))
}

fn memory() -> Arc<dyn ObjectStore> {
    Arc::new(InMemory::new())
}

/// A small deterministic generator (splitmix64): seeds faults and nonces.
pub(crate) fn random(seed: u64) -> impl FnMut() -> u64 + Send {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

async fn open(store: &Arc<dyn ObjectStore>) -> Catalog {
    Catalog::open(Arc::clone(store), clock()).await.unwrap()
}

async fn open_error(store: &Arc<dyn ObjectStore>) -> CatalogError {
    Catalog::open(Arc::clone(store), clock()).await.unwrap_err()
}

pub(crate) fn stream(name: &str) -> StreamDef {
    let column = Column {
        name: "at".to_owned(),
        column_type: ColumnType::Timestamp,
        nullable: false,
    };
    StreamDef {
        id: name.parse().unwrap(),
        name: name.to_owned(),
        schema: StreamSchema {
            columns: vec![column],
            event_time: Some(EventTime {
                column: "at".to_owned(),
                epoch: None,
            }),
            unknown_columns: UnknownColumns::Reject,
        },
        source: dovetail_model::Source::Embedded,
        created_at: clock().now(),
    }
}

fn created(name: &str) -> Entry {
    Entry::StreamCreated {
        stream: stream(name),
    }
}

/// Commits a stream of that name.
pub(crate) async fn create(catalog: &Catalog, name: &str) -> Arc<CatalogState> {
    let entry = created(name);
    let committed = catalog.commit::<Refusal>(move |_| Ok(vec![entry.clone()]));
    committed.await.unwrap()
}

/// Creates `count` streams named `{prefix}{n}`, one commit each.
async fn create_many(catalog: &Catalog, prefix: &str, count: usize) {
    for n in 0..count {
        create(catalog, &format!("{prefix}{n}")).await;
    }
}

fn names(state: &CatalogState) -> BTreeSet<String> {
    state.live_streams().map(|s| s.def.name.clone()).collect()
}

async fn overwrite(store: &Arc<dyn ObjectStore>, path: &Path, bytes: Vec<u8>) {
    store.put(path, PutPayload::from(bytes)).await.unwrap();
}

async fn bytes_of(store: &Arc<dyn ObjectStore>, path: &Path) -> Bytes {
    store.get(path).await.unwrap().bytes().await.unwrap()
}

#[tokio::test]
async fn a_catalog_reads_back_what_was_committed() {
    let store = memory();
    let catalog = open(&store).await;
    assert_eq!(catalog.state().sequence, 0);
    let mut changes = catalog.subscribe();
    let state = create(&catalog, "a").await;
    assert_eq!(state.sequence, 1);
    assert!(changes.has_changed().unwrap());
    assert_eq!(*changes.borrow_and_update(), catalog.state());
    assert_eq!(open(&store).await.state(), state);
}

#[tokio::test]
async fn a_store_belongs_to_one_data_directory_until_another_takes_it() {
    let store = memory();
    let first = open(&store).await;
    let claim = first.claim("one", "host-1", false).await.unwrap();
    assert_eq!(claim.epoch, StoreEpoch(1));
    // Again, by the same: nothing is committed.
    let again = open(&store).await;
    assert_eq!(again.claim("one", "elsewhere", true).await.unwrap(), claim);
    assert_eq!(again.state().sequence, 1);
    create(&first, "a").await;

    let second = open(&store).await;
    let refused = second.claim("two", "host-2", false).await.unwrap_err();
    let text = refused.to_string();
    for part in [
        "`one`",
        "`host-1`",
        "1970-01-01T00:00:01Z",
        "--take-over",
        "file `id`",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let taken = second.claim("two", "host-2", true).await.unwrap();
    assert_eq!((taken.epoch, &taken.store), (StoreEpoch(2), &claim.store));
    create(&second, "b").await;

    assert_eq!(first.superseded_by(), None);
    let late = first.commit::<Refusal>(|_| Ok(vec![created("c")])).await;
    assert!(
        matches!(&late, Err(CommitError::Superseded(by)) if by.0 == taken),
        "{late:?}"
    );
    assert!(late.unwrap_err().to_string().contains("`two` on `host-2`"));
    assert_eq!(first.superseded().await.0, taken);
    again.reload().await.unwrap();
    assert_eq!(again.superseded_by().unwrap().0, taken);
    assert_eq!(
        names(&open(&store).await.state()),
        ["a", "b"].map(String::from).into()
    );
}

/// The claim lands after the newest state was judged, and before the commit that follows it.
#[tokio::test]
async fn a_claim_in_the_middle_of_a_commit_wins() {
    let store = memory();
    let first = open(&store).await;
    first.claim("one", "host", false).await.unwrap();
    let second = open(&store).await;
    let late = first.commit::<Refusal>(|_| {
        futures::executor::block_on(second.claim("two", "host", true)).unwrap();
        Ok(vec![created("c")])
    });
    let late = late.await;
    assert!(matches!(late, Err(CommitError::Superseded(_))), "{late:?}");
    assert!(names(&open(&store).await.state()).is_empty());
}

#[tokio::test]
async fn every_kind_of_entry_survives_its_file() {
    let position = Position::single(Offset(7));
    let exclusion = Exclusion {
        id: ExclusionId(1),
        predicate: "delay > 1".to_owned(),
        reason: "wrong".to_owned(),
        bound: position.clone(),
        declared_at: clock().now(),
    };
    let view = ViewDef {
        id: "v".parse().unwrap(),
        name: "v".to_owned(),
        stream: "s".parse().unwrap(),
        sql: "SELECT count(*) FROM s".to_owned(),
        recompute: None,
        recompute_after: Default::default(),
        refresh_s: Some(5),
        version: 1,
        definition_hash: "h".to_owned(),
        defined_at: clock().now(),
    };
    let manifest = Manifest {
        view: view.id.clone(),
        stream: view.stream.clone(),
        number: GenerationNumber(1),
        parent: None,
        definition_version: 1,
        sql: view.sql.clone(),
        mode: Some(RunMode::Full),
        run: Some(RunId(1)),
        inputs: GenerationInputs {
            horizon: position.clone(),
            raw_version: 3,
            definition_hash: "h".to_owned(),
            exclusions: vec![exclusion.clone()],
            state_fingerprint: "f".to_owned(),
        },
        files: vec![DataFile {
            path: "files/x.parquet".to_owned(),
            rows: 1,
            bytes: 2,
            decoded_bytes: None,
            checksum: "00".to_owned(),
            first_key: "00".to_owned(),
            last_key: "ff".to_owned(),
        }],
        created_at: clock().now(),
    };
    let run = BatchRun {
        outcome: Outcome::Promoted,
        generation: Some(GenerationNumber(1)),
        span: Some(Span::new(Position::default(), position).unwrap()),
        exclusions: vec![ExclusionId(1)],
        raw_version: Some(3),
        rows_read: 7,
        groups: 1,
        bytes: 2,
        seconds: Some(0.1),
        ended_at: Some(clock().now()),
        ..BatchRun::begun(
            RunId(1),
            view.id.clone(),
            RunMode::Full,
            "user",
            clock().now(),
        )
    };
    let mut grown = stream("s").schema;
    grown.columns.push(Column {
        name: "note".to_owned(),
        column_type: ColumnType::Varchar,
        nullable: true,
    });
    let entries = vec![
        Entry::StoreClaimed {
            owner: "a directory".to_owned(),
            host: "a host".to_owned(),
        },
        created("s"),
        Entry::StreamAltered {
            id: view.stream.clone(),
            schema: grown,
        },
        Entry::ViewCreated { view: view.clone() },
        Entry::ExclusionDeclared {
            stream: view.stream.clone(),
            exclusion,
        },
        Entry::Run { run: Box::new(run) },
        Entry::GenerationWritten {
            manifest: Arc::new(manifest),
        },
        Entry::GenerationPublished {
            view: view.id.clone(),
            expected: None,
            generation: GenerationNumber(1),
            reason: PublishReason::Promoted,
        },
        Entry::SchedulePaused {
            view: view.id.clone(),
            paused: true,
        },
    ];
    let commit = Commit {
        sequence: 1,
        nonce: u64::MAX,
        at: clock().now(),
        entries,
    };
    let bytes = file::encode_commit(&commit).unwrap();
    assert_eq!(file::decode_commit(1, &bytes).unwrap(), commit);

    let mut state = CatalogState::default();
    state.apply(&commit).unwrap();
    let bytes = file::encode_snapshot(&state).unwrap();
    assert_eq!(file::decode_snapshot(1, &bytes).unwrap(), state);
}

#[tokio::test]
async fn racing_catalogs_land_every_commit_once() {
    let store = memory();
    let (left, right) = (open(&store).await, open(&store).await);
    tokio::join!(create_many(&left, "l", 200), create_many(&right, "r", 200));
    let state = left.reload().await.unwrap();
    assert_eq!(state, right.reload().await.unwrap());
    assert_eq!(state.sequence, 400);
    assert_eq!(names(&state).len(), 400);
    assert_eq!(open(&store).await.state(), state);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_commits_of_one_process_all_land() {
    let store = memory();
    let catalog = Arc::new(open(&store).await);
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let catalog = Arc::clone(&catalog);
            tokio::spawn(async move { create_many(&catalog, &format!("t{task}x"), 20).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(catalog.state().sequence, 160);
    assert_eq!(names(&catalog.state()).len(), 160);
}

#[tokio::test]
async fn a_decision_on_an_old_state_is_made_again() {
    let store = memory();
    let (behind, ahead) = (open(&store).await, open(&store).await);
    create(&ahead, "a").await;
    // Both a refusal and a conflict are judged on the newest state.
    let mut seen = Vec::new();
    let refused = behind
        .commit(|state| {
            seen.push(state.sequence);
            Err("no")
        })
        .await;
    assert!(matches!(refused, Err(CommitError::Refused("no"))));
    assert_eq!(seen, [0, 1]);

    create(&ahead, "b").await;
    let taken = behind.commit::<Refusal>(|_| Ok(vec![created("b")])).await;
    let Err(CommitError::Conflict(CatalogConflict::NameTaken { name, .. })) = taken else {
        panic!("{taken:?}");
    };
    assert_eq!(name, "b");
    let nothing = behind.commit::<Refusal>(|_| Ok(vec![])).await.unwrap();
    assert_eq!(nothing.sequence, 2);
}

#[tokio::test]
async fn snapshot_and_replay_equal_a_full_replay() {
    let store = memory();
    let catalog = open(&store).await;
    create_many(&catalog, "s", 300).await;
    let snapshot = file::snapshot_path(256);
    assert_eq!(
        file::decode_snapshot(256, &bytes_of(&store, &snapshot).await)
            .unwrap()
            .sequence,
        256
    );
    // The snapshot is really used: its commits may be gone.
    store.delete(&file::commit_path(9)).await.unwrap();
    let short = open(&store).await.state();
    assert_eq!(short, catalog.state());

    // And a damaged one is not: then the gap shows.
    overwrite(&store, &snapshot, b"{}".to_vec()).await;
    let error = open_error(&store).await;
    let CatalogError::Gap { file, last: 300 } = &error else {
        panic!("{error}");
    };
    assert_eq!(file, "catalog/00000000000000000009.json");
}

#[tokio::test]
async fn a_damaged_snapshot_falls_back_to_the_commits() {
    let store = memory();
    let catalog = open(&store).await;
    create_many(&catalog, "s", 256).await;
    let path = file::snapshot_path(256);
    let mut bytes = bytes_of(&store, &path).await.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    overwrite(&store, &path, bytes).await;
    assert_eq!(open(&store).await.state(), catalog.state());
    store.delete(&path).await.unwrap();
    assert_eq!(open(&store).await.state(), catalog.state());
}

#[tokio::test]
async fn a_long_replay_leaves_a_snapshot() {
    let store = memory();
    create_many(&open(&store).await, "s", 600).await;
    for sequence in [256, 512] {
        store.delete(&file::snapshot_path(sequence)).await.unwrap();
    }
    open(&store).await;
    let path = file::snapshot_path(600);
    assert!(file::decode_snapshot(600, &bytes_of(&store, &path).await).is_ok());
}

#[tokio::test]
async fn a_gap_is_an_error_that_names_the_file() {
    let store = memory();
    create_many(&open(&store).await, "s", 5).await;
    store.delete(&file::commit_path(3)).await.unwrap();
    let error = open_error(&store).await;
    assert!(
        matches!(&error, CatalogError::Gap { last: 5, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("00000000000000000003.json"));
    assert_eq!(error.kind(), ProblemKind::Internal);
}

#[tokio::test]
async fn every_flipped_bit_of_a_commit_is_found() {
    let store = memory();
    create_many(&open(&store).await, "s", 3).await;
    let path = file::commit_path(2);
    let good = bytes_of(&store, &path).await;
    for at in 0..good.len() {
        let mut bytes = good.to_vec();
        bytes[at] ^= 1 << (at % 8);
        overwrite(&store, &path, bytes).await;
        let error = open_error(&store).await;
        assert!(
            error.to_string().contains("00000000000000000002.json"),
            "{error}"
        );
    }
    for length in 0..good.len() {
        let cut = good.slice(..length);
        assert!(file::decode_commit(2, &cut).is_err(), "cut at {length}");
    }
    // A file under another name is not that commit.
    assert!(file::decode_commit(3, &good).is_err());
    overwrite(&store, &path, good.to_vec()).await;
    assert_eq!(open(&store).await.state().sequence, 3);
}

#[tokio::test]
async fn a_newer_format_is_refused_by_name() {
    let store = memory();
    let newer = br#"{"format":2,"something":"else"}"#;
    overwrite(&store, &file::commit_path(1), newer.to_vec()).await;
    let error = open_error(&store).await;
    let CatalogError::Newer { found: 2, .. } = &error else {
        panic!("{error}");
    };
    assert!(
        error.to_string().contains("use a newer dovetail"),
        "{error}"
    );
}

#[tokio::test]
async fn a_commit_that_contradicts_is_refused_by_name() {
    let store = memory();
    create(&open(&store).await, "a").await;
    let commit = Commit {
        sequence: 2,
        nonce: 1,
        at: clock().now(),
        entries: vec![created("a")],
    };
    let bytes = file::encode_commit(&commit).unwrap();
    overwrite(&store, &file::commit_path(2), bytes).await;
    let error = open_error(&store).await;
    assert!(
        matches!(&error, CatalogError::Contradiction { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn foreign_files_are_left_alone() {
    let store = memory();
    for name in [
        "catalog/1.json",
        "catalog/x/00000000000000000001.json#1",
        "catalog/zzz",
    ] {
        overwrite(&store, &Path::from(name), b"?".to_vec()).await;
    }
    assert_eq!(open(&store).await.state().sequence, 0);
}

/// What a faulty put does. Reads fail by themselves.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The put lands, its answer is lost.
    AnswerLost,
    /// The put does not land.
    NotLanded,
    /// The put is still on its way and lands just before the next one.
    LandsLate,
}

/// Fails puts and reads of a store by a seeded plan.
struct Faulty {
    inner: InMemory,
    /// None: never. Some: the next fault, if this one operation has one.
    plan: Mutex<Box<dyn FnMut() -> Option<Fault> + Send>>,
    reads_fail: Mutex<Box<dyn FnMut() -> bool + Send>>,
    late: Mutex<Vec<(Path, PutPayload, PutOptions)>>,
}

impl Faulty {
    fn new(
        plan: impl FnMut() -> Option<Fault> + Send + 'static,
        reads_fail: impl FnMut() -> bool + Send + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            inner: InMemory::new(),
            plan: Mutex::new(Box::new(plan)),
            reads_fail: Mutex::new(Box::new(reads_fail)),
            late: Mutex::new(vec![]),
        })
    }

    async fn land_late_puts(&self) {
        let late = std::mem::take(&mut *self.late.lock());
        for (path, payload, options) in late {
            // Losing to another put is as good as any outcome.
            drop(self.inner.put_opts(&path, payload, options).await);
        }
    }
}

fn fault() -> object_store::Error {
    object_store::Error::Generic {
        store: "faulty",
        source: "injected".into(),
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> StoreResult<PutResult> {
        self.land_late_puts().await;
        let plan = (self.plan.lock())();
        match plan {
            None => self.inner.put_opts(path, payload, options).await,
            Some(Fault::NotLanded) => Err(fault()),
            Some(Fault::AnswerLost) => {
                self.inner.put_opts(path, payload, options).await?;
                Err(fault())
            }
            Some(Fault::LandsLate) => {
                self.late.lock().push((path.clone(), payload, options));
                Err(fault())
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> StoreResult<GetResult> {
        if (self.reads_fail.lock())() {
            return Err(fault());
        }
        self.inner.get_opts(path, options).await
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> StoreResult<Vec<Bytes>> {
        self.inner.get_ranges(path, ranges).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, StoreResult<Path>>,
    ) -> BoxStream<'static, StoreResult<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// Two catalogs on a store that fails one put in three, in every way, and one read in twenty: each
/// commit that was answered `Ok` is there once; each `Unknown` one at most once; nothing else is there.
#[tokio::test]
async fn unknown_outcomes_never_lose_or_double_an_entry() {
    for seed in 0..16 {
        let mut put = random(seed);
        let mut read = random(seed ^ 0xffff);
        let faulty = Faulty::new(
            move || match put() % 9 {
                0 => Some(Fault::AnswerLost),
                1 => Some(Fault::NotLanded),
                2 => Some(Fault::LandsLate),
                _ => None,
            },
            || false,
        );
        let store: Arc<dyn ObjectStore> = faulty.clone();
        let (left, right) = (open(&store).await, open(&store).await);
        *faulty.reads_fail.lock() = Box::new(move || read().is_multiple_of(20));
        let (mut sure, mut unsure) = (BTreeSet::new(), BTreeSet::new());
        let write = async |catalog: &Catalog, prefix: &str| {
            let mut outcomes = Vec::new();
            for n in 0..40 {
                let name = format!("{prefix}{n}");
                let entry = created(&name);
                let result = catalog.commit::<Refusal>(move |_| Ok(vec![entry.clone()]));
                outcomes.push((name, result.await));
            }
            outcomes
        };
        let (l, r) = tokio::join!(write(&left, "l"), write(&right, "r"));
        for (name, outcome) in l.into_iter().chain(r) {
            match outcome {
                Ok(state) => {
                    assert!(state.stream_named(&name).is_some());
                    sure.insert(name);
                }
                // A failed read after a lost race leaves the commit undone; unknown leaves it open.
                Err(CommitError::Unknown { .. } | CommitError::Catalog(_)) => {
                    unsure.insert(name);
                }
                Err(other) => panic!("seed {seed}: {other}"),
            }
        }
        faulty.land_late_puts().await;
        *faulty.reads_fail.lock() = Box::new(|| false);
        let state = open(&store).await.state();
        let found = names(&state);
        assert_eq!(
            state.sequence,
            found.len() as u64,
            "seed {seed}: one entry a commit"
        );
        assert!(
            sure.is_subset(&found),
            "seed {seed}: an answered commit is lost"
        );
        let extra: BTreeSet<_> = found.difference(&sure).cloned().collect();
        assert!(extra.is_subset(&unsure), "seed {seed}");
        assert!(
            sure.len() > 40,
            "seed {seed}: faults must not stop the writers"
        );
        assert_eq!(left.reload().await.unwrap(), state);
        assert_eq!(right.reload().await.unwrap(), state);
    }
}

#[tokio::test]
async fn an_answer_that_is_always_lost_still_commits_once() {
    let store: Arc<dyn ObjectStore> = Faulty::new(|| Some(Fault::AnswerLost), || false);
    let catalog = open(&store).await;
    create_many(&catalog, "s", 10).await;
    assert_eq!(open(&store).await.state().sequence, 10);
}

#[tokio::test]
async fn a_store_that_takes_nothing_is_said_to_be_so() {
    let store: Arc<dyn ObjectStore> = Faulty::new(|| Some(Fault::NotLanded), || false);
    let catalog = open(&store).await;
    let failed = catalog.commit::<Refusal>(|_| Ok(vec![created("a")])).await;
    assert!(
        matches!(&failed, Err(CommitError::Unknown { .. })),
        "{failed:?}"
    );
    assert_eq!(catalog.state().sequence, 0);
}

#[tokio::test]
async fn a_cancelled_commit_is_found_by_the_next_one() {
    let store = memory();
    let catalog = open(&store).await;
    // The commit landed, but its caller went away before it was applied here.
    let commit = Commit {
        sequence: 1,
        nonce: 1,
        at: clock().now(),
        entries: vec![created("a")],
    };
    let bytes = file::encode_commit(&commit).unwrap();
    overwrite(&store, &file::commit_path(1), bytes).await;
    let state = create(&catalog, "b").await;
    assert_eq!(
        names(&state),
        BTreeSet::from(["a".to_owned(), "b".to_owned()])
    );
}
