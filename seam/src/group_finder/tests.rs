// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range as Bytes;

use arrow::array::{ArrayRef, AsArray as _, Int64Array, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use async_trait::async_trait;
use chrono::DateTime;
use datafusion::common::ScalarValue;
use datafusion::execution::memory_pool::GreedyMemoryPool;
use dovetail_log::parquet_files::{WriterOptions, write_parquet};
use dovetail_model::{
    Column, ColumnType, DataFile, Manifest, Offset, Position, Span, StreamSchema, UnknownColumns,
    ViewDef, hex,
};
use futures::stream::{self, BoxStream};
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

use super::*;

const SQL: &str = "SELECT name, n, count(*) AS c, avg(n) AS mean FROM events GROUP BY name, n";
const GROUPS: i64 = 10_000;
const FILES: usize = 3;

/// Counts the bytes that are asked of it.
#[derive(Debug, Default)]
struct Counting {
    inner: InMemory,
    bytes: AtomicU64,
}

impl fmt::Display for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("counting")
    }
}

#[async_trait]
impl ObjectStore for Counting {
    async fn put_opts(
        &self,
        path: &Path,
        data: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.inner.put_opts(path, data, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let got = self.inner.get_opts(path, options).await?;
        let bytes = got.range.end - got.range.start;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(got)
    }

    async fn get_ranges(
        &self,
        path: &Path,
        ranges: &[Bytes<u64>],
    ) -> object_store::Result<Vec<bytes::Bytes>> {
        let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.inner.get_ranges(path, ranges).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

struct Rig {
    store: Arc<Counting>,
    pool: Arc<dyn MemoryPool>,
    finder: GroupFinder,
    generation: Generation,
}

fn name(at: i64) -> Option<String> {
    (at % 10 != 0).then(|| format!("name {}", at % 50))
}

fn view() -> Arc<View> {
    let column = |name: &str, column_type| Column {
        name: name.to_owned(),
        column_type,
        nullable: true,
    };
    let schema = StreamSchema {
        columns: vec![
            column("name", ColumnType::Varchar),
            column("n", ColumnType::BigInt),
        ],
        event_time: None,
        unknown_columns: UnknownColumns::Ignore,
    };
    let streams = BTreeMap::from([("events".to_owned(), schema)]);
    Arc::new(View::compile(SQL, &streams).unwrap())
}

/// Groups of even numbers up to twice [`GROUPS`], one event each, in files of pages of 1024 rows.
async fn rig(memory: usize) -> Rig {
    let view = view();
    let numbers = || (0..GROUPS).map(|n| 2 * n);
    let names: ArrayRef = Arc::new(StringArray::from_iter(numbers().map(name)));
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers()));
    let events = RecordBatch::try_from_iter([("name", names), ("n", numbers)]).unwrap();
    let span = Span::new(Position::default(), Position::single(Offset(1))).unwrap();
    let run = view.accumulate(&events, span).unwrap();
    let states = concat_batches(&view.state_schema(), run.states()).unwrap();
    let def = ViewDef {
        id: "v1".parse().unwrap(),
        name: "v".to_owned(),
        stream: "k3f".parse().unwrap(),
        sql: SQL.to_owned(),
        recompute: None,
        recompute_after: Default::default(),
        refresh_s: None,
        version: 1,
        definition_hash: view.definition_hash().to_owned(),
        defined_at: DateTime::UNIX_EPOCH,
    };
    let store = Arc::new(Counting::default());
    let mut manifest = Manifest::empty(&def, view.state_fingerprint());
    let size = states.num_rows().div_ceil(FILES);
    for index in 0..FILES {
        let from = index * size;
        let rows = states.slice(from, size.min(states.num_rows() - from));
        manifest.files.push(file(&store, &view, index, &rows).await);
    }
    let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(memory));
    let finder = GroupFinder::new(
        Arc::clone(&store) as _,
        Handle::current(),
        Arc::clone(&pool),
    );
    Rig {
        store,
        pool,
        finder,
        generation: Generation::new(Arc::new(manifest), view),
    }
}

async fn file(store: &Arc<Counting>, view: &View, index: usize, states: &RecordBatch) -> DataFile {
    let options = WriterOptions {
        page_rows: 1024,
        ..WriterOptions::default()
    };
    let path = format!("files/{index}.parquet");
    let rows = stream::iter([Ok(view.to_file(states).unwrap())]);
    let place = Path::from(format!("views/v1/{path}"));
    let store = Arc::clone(store) as Arc<dyn ObjectStore>;
    let written = write_parquet(store, place, view.file_schema(), &options, rows);
    let written = written.await.unwrap();
    let keys = view.encode_keys(states).unwrap();
    DataFile {
        path,
        rows: written.rows,
        bytes: written.bytes,
        decoded_bytes: Some(written.decoded_bytes),
        checksum: written.checksum,
        first_key: hex(keys.row(0).data()),
        last_key: hex(keys.row(states.num_rows() - 1).data()),
    }
}

impl Rig {
    fn key(&self, name: Option<String>, n: Option<i64>) -> GroupKey {
        let values = [ScalarValue::Utf8(name), ScalarValue::Int64(n)];
        self.generation.view().group_key(&values).unwrap()
    }

    /// The number of the row of this group, if there is one.
    async fn find(&self, name: Option<String>, n: Option<i64>) -> Result<Option<i64>, NotFindable> {
        let row = self
            .finder
            .find(&self.generation, &self.key(name, n))
            .await?;
        Ok(row.map(|row| {
            assert_eq!(row.schema(), self.generation.view().file_schema());
            assert_eq!(row.num_rows(), 1);
            let number = row.column_by_name("n").unwrap();
            number.as_primitive::<Int64Type>().value(0)
        }))
    }

    /// Bytes that were asked of the store since this was asked last.
    fn bytes_read(&self) -> u64 {
        self.store.bytes.swap(0, Ordering::Relaxed)
    }

    fn bytes_of_files(&self) -> u64 {
        self.generation
            .manifest()
            .files
            .iter()
            .map(|f| f.bytes)
            .sum()
    }

    /// The same files under another manifest.
    fn with_manifest(mut self, change: impl FnOnce(&mut Manifest)) -> Self {
        let mut manifest = Manifest::clone(self.generation.manifest());
        change(&mut manifest);
        let view = Arc::clone(self.generation.view());
        self.generation = Generation::new(Arc::new(manifest), view);
        self
    }
}

const AMPLE: usize = 256 << 20;

#[tokio::test]
async fn every_group_is_found_and_no_other_is() {
    let rig = rig(AMPLE).await;
    for at in 0..GROUPS {
        let n = 2 * at;
        assert_eq!(rig.find(name(n), Some(n)).await.unwrap(), Some(n));
        assert_eq!(rig.find(name(n), Some(n + 1)).await.unwrap(), None);
    }
    for (name, n) in [
        (None, None),
        (None, Some(2)),
        (Some("zzz".to_owned()), Some(0)),
        (Some(String::new()), Some(0)),
    ] {
        assert_eq!(rig.find(name, n).await.unwrap(), None);
    }
    let none = rig.with_manifest(|manifest| manifest.files.clear());
    assert_eq!(none.find(name(2), Some(2)).await.unwrap(), None);
}

#[tokio::test]
async fn what_was_read_once_is_not_read_again_and_a_block_is_read_alone() {
    let rig = rig(AMPLE).await;
    assert_eq!(rig.find(name(2), Some(2)).await.unwrap(), Some(2));
    let first = rig.bytes_read();
    assert!(first > 0);
    assert_eq!(rig.find(name(2), Some(2)).await.unwrap(), Some(2));
    assert_eq!(rig.find(name(2), Some(3)).await.unwrap(), None);
    assert_eq!(rig.bytes_read(), 0, "the block is there");
    // In the same file, some blocks away: names come first, and a fiftieth of the groups has each.
    assert_eq!(rig.find(name(24), Some(24)).await.unwrap(), Some(24));
    let more = rig.bytes_read();
    assert!(more > 0, "it is another block");
    assert!(
        more < rig.bytes_of_files() / 5,
        "{more} of {}",
        rig.bytes_of_files()
    );
}

#[tokio::test]
async fn what_is_kept_is_bounded_and_on_the_account_of_queries() {
    let memory = 2 << 20;
    let rig = rig(memory).await;
    for at in (0..GROUPS).step_by(97) {
        assert_eq!(
            rig.find(name(2 * at), Some(2 * at)).await.unwrap(),
            Some(2 * at)
        );
        rig.finder.0.blocks.run_pending_tasks().await;
        rig.finder.0.files.run_pending_tasks().await;
        let held = rig.finder.0.blocks.weighted_size() + rig.finder.0.files.weighted_size();
        let bound = memory / SHARE_OF_MEMORY;
        assert!(held <= bound as u64);
        // What went is let go of a little later, and on the account until then.
        let reserved = rig.pool.reserved();
        assert!(
            reserved as u64 >= held && reserved <= 4 * bound,
            "{reserved}"
        );
    }
    assert!(rig.pool.reserved() > 0);
}

#[tokio::test]
async fn a_lookup_is_answered_where_queries_have_no_memory_left() {
    let rig = rig(AMPLE).await;
    let queries = MemoryConsumer::new("queries").register(&rig.pool);
    queries.try_grow(AMPLE).unwrap();
    for _ in 0..2 {
        assert_eq!(rig.find(name(2), Some(2)).await.unwrap(), Some(2));
        assert!(rig.bytes_read() > 0, "nothing is kept");
    }
    queries.free();
    rig.find(name(2), Some(2)).await.unwrap();
    rig.bytes_read();
    rig.find(name(2), Some(2)).await.unwrap();
    assert_eq!(rig.bytes_read(), 0);
}

#[tokio::test]
async fn a_file_that_is_not_what_its_manifest_says_is_an_error() {
    type Change = fn(&mut Manifest);
    let changes: [Change; 4] = [
        |manifest| manifest.files[0].rows += 1,
        |manifest| manifest.files[0].path = manifest.files[1].path.clone(),
        |manifest| manifest.files[0].path = "files/gone.parquet".to_owned(),
        |manifest| manifest.files[0].first_key = "no key".to_owned(),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let rig = rig(AMPLE).await.with_manifest(change);
        // Of the first file: NULL comes first.
        assert!(rig.find(None, Some(20)).await.is_err(), "{index}");
    }
}

#[tokio::test]
async fn a_damaged_page_is_an_error_and_read_again_once_it_is_whole() {
    let rig = rig(AMPLE).await;
    let path = Path::from("views/v1/files/0.parquet");
    let whole = rig.store.get(&path).await.unwrap().bytes().await.unwrap();
    assert_eq!(rig.find(None, Some(20)).await.unwrap(), Some(20));
    let mut damaged = whole.to_vec();
    let half = damaged.len() / 2;
    damaged[4..half].fill(0x55);
    rig.store.put(&path, damaged.into()).await.unwrap();
    // In another block of the file, whose footer is known.
    let elsewhere = (Some("name 12".to_owned()), Some(12));
    let found = rig.find(elsewhere.0.clone(), elsewhere.1).await;
    assert!(found.is_err(), "{found:?}");
    rig.store.put(&path, whole.into()).await.unwrap();
    let found = rig.find(elsewhere.0, elsewhere.1).await;
    assert_eq!(found.unwrap(), Some(12));
}
