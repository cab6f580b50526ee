// SPDX-License-Identifier: Apache-2.0
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef};
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryConsumer, MemoryPool};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, lit};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, collect};
use datafusion::prelude::SessionConfig;
use datafusion::scalar::ScalarValue;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::*;

mod damage;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("text", DataType::Utf8, true),
        Field::new("real", DataType::Float64, true),
        Field::new("small", DataType::Int32, true),
    ]))
}

/// Ids `range`; every third text is null, every fourth real is NaN, no small is set.
fn batch(range: std::ops::Range<i64>) -> RecordBatch {
    let texts = range
        .clone()
        .map(|i| (i % 3 != 0).then(|| format!("t{i:03}")));
    let reals = range
        .clone()
        .map(|i| if i % 4 == 0 { f64::NAN } else { i as f64 });
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(range.clone())),
        Arc::new(StringArray::from_iter(texts)),
        Arc::new(Float64Array::from_iter_values(reals)),
        Arc::new(Int32Array::new_null(range.count())),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

async fn write(store: &Arc<dyn ObjectStore>, name: &str, batches: Vec<RecordBatch>) -> WrittenFile {
    let options = WriterOptions {
        row_group_rows: 10,
        delta_encoded: vec!["id".to_owned()],
        ..WriterOptions::default()
    };
    let batches = stream::iter(batches.into_iter().map(Ok));
    let path = Path::from(name);
    write_parquet(Arc::clone(store), path, schema(), &options, batches)
        .await
        .unwrap()
}

fn whole(files: &[WrittenFile]) -> Vec<FileToScan> {
    let scan = |file: &WrittenFile| FileToScan::whole(file.path.clone(), file.bytes);
    files.iter().map(scan).collect()
}

fn all(files: &[FileToScan]) -> ParquetScan<'_> {
    ParquetScan {
        files,
        file_schema: schema(),
        projection: None,
        dictionaries: None,
        predicate: None,
        exact: false,
        target_partitions: 1,
    }
}

async fn run(store: &Arc<dyn ObjectStore>, plan: Arc<dyn ExecutionPlan>) -> RecordBatch {
    let runtime = Arc::new(RuntimeEnv::default());
    register_store(&runtime, Arc::clone(store));
    let context = Arc::new(TaskContext::default().with_runtime(runtime));
    let schema = plan.schema();
    concat_batches(&schema, &collect(plan, context).await.unwrap()).unwrap()
}

fn ids(batch: &RecordBatch) -> Vec<i64> {
    let column = batch.column_by_name("id").unwrap();
    column.as_primitive::<Int64Type>().values().to_vec()
}

fn greater(index: usize, value: impl Into<ScalarValue>) -> Option<Arc<dyn PhysicalExpr>> {
    let column = Column::new(schema().field(index).name(), index);
    let value: ScalarValue = value.into();
    Some(Arc::new(BinaryExpr::new(
        Arc::new(column),
        Operator::Gt,
        lit(value),
    )))
}

#[tokio::test]
async fn a_written_file_is_what_it_says() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let file = write(&store, "a/b.parquet", vec![batch(5..12), batch(12..38)]).await;
    let bytes = store.get(&file.path).await.unwrap().bytes().await.unwrap();
    assert_eq!(file.bytes, bytes.len() as u64);
    assert_eq!(file.checksum, blake3::hash(&bytes).to_hex().to_string());
    assert_eq!(file.rows, 33);
    let groups = file
        .row_groups
        .iter()
        .map(|group| group.rows)
        .collect::<Vec<_>>();
    assert_eq!(groups, [10, 10, 10, 3]);
    let bounds =
        |min: &str, max: &str| (Some(ScalarValue::from(min)), Some(ScalarValue::from(max)));
    let [id, text, real, small] = &file.columns[..] else {
        panic!("four columns");
    };
    assert_eq!(
        (&id.min, &id.max),
        (&Some(5i64.into()), &Some(37i64.into()))
    );
    assert_eq!((text.min.clone(), text.max.clone()), bounds("t005", "t037"));
    assert_eq!((&real.min, &real.max), (&None, &None));
    assert_eq!((&small.min, &small.max), (&None, &None));
    let nulls = file
        .columns
        .iter()
        .map(|column| column.null_count)
        .collect::<Vec<_>>();
    assert_eq!(nulls, [0, 11, 0, 33]);
    let files = whole(&[file]);
    let read = run(&store, parquet_scan(all(&files)).unwrap()).await;
    assert_eq!(read, batch(5..38));
}

#[tokio::test]
async fn texts_in_dictionary_form_are_the_same_texts() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let few = write(&store, "few.parquet", vec![batch(0..25)]).await;
    // So many that the writer gives its dictionary up on the way.
    let different = 40_000..80_000;
    let texts = different.clone().map(|i| format!("{i:064}"));
    let mut columns = batch(different.clone()).columns().to_vec();
    columns[1] = Arc::new(StringArray::from_iter_values(texts));
    let many = RecordBatch::try_new(schema(), columns).unwrap();
    let many = write_parquet(
        Arc::clone(&store),
        Path::from("many.parquet"),
        schema(),
        &WriterOptions::default(),
        stream::iter([Ok(many)]),
    )
    .await
    .unwrap();
    // From before there was such a column.
    let without = batch(80_000..80_005).project(&[0, 2]).unwrap();
    let without = write_parquet(
        Arc::clone(&store),
        Path::from("without.parquet"),
        without.schema(),
        &WriterOptions::default(),
        stream::iter([Ok(without)]),
    )
    .await
    .unwrap();
    let files = whole(&[few, many, without]);
    let plain = run(&store, parquet_scan(all(&files)).unwrap()).await;

    let runtime = Arc::new(RuntimeEnv::default());
    register_store(&runtime, Arc::clone(&store));
    let context = Arc::new(TaskContext::default().with_runtime(runtime));
    // Nothing but texts has a dictionary.
    let scan = ParquetScan {
        dictionaries: Some(Dictionaries::new(vec![0, 1], &context).unwrap()),
        ..all(&files)
    };
    let plan = parquet_scan(scan).unwrap();
    let schema = plan.schema();
    let batches = collect(plan, context).await.unwrap();
    let [first, second] =
        [0, 1].map(|group: usize| batches[group].column(1).as_dictionary::<Int32Type>());
    assert_eq!(first.values().len(), 6, "a dictionary for each row group");
    assert_eq!(second.values().len(), 7);
    let coded = concat_batches(&schema, &batches).unwrap();
    assert_eq!(ids(&coded), ids(&plain));
    assert_eq!(
        *cast(coded.column(1), &DataType::Utf8).unwrap(),
        *plain.column(1)
    );
    assert_eq!(coded.column(2), plain.column(2));
}

#[tokio::test]
async fn one_partition_reads_the_files_in_the_order_given() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let late = write(&store, "0.parquet", vec![batch(50..80)]).await;
    let early = write(&store, "1.parquet", vec![batch(0..50)]).await;
    let files = whole(&[early, late]);
    let read = run(&store, parquet_scan(all(&files)).unwrap()).await;
    assert_eq!(ids(&read), (0..80).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_predicate_prunes_row_groups_and_filters_only_when_exact() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let files = whole(&[write(&store, "0.parquet", vec![batch(0..100)]).await]);
    let scan = |exact| ParquetScan {
        projection: Some(vec![1]),
        dictionaries: None,
        predicate: greater(0, 84i64),
        exact,
        ..all(&files)
    };
    let pruned = run(&store, parquet_scan(scan(false)).unwrap()).await;
    assert_eq!(pruned.num_rows(), 20);
    let exact = run(&store, parquet_scan(scan(true)).unwrap()).await;
    assert_eq!(exact, batch(85..100).project(&[1]).unwrap());
}

#[tokio::test]
async fn nan_is_larger_than_every_number_and_never_pruned() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let files = whole(&[write(&store, "0.parquet", vec![batch(0..20)]).await]);
    let scan = ParquetScan {
        predicate: greater(2, 1000f64),
        exact: true,
        ..all(&files)
    };
    let read = run(&store, parquet_scan(scan).unwrap()).await;
    assert_eq!(ids(&read), [0, 4, 8, 12, 16]);
}

#[tokio::test]
async fn only_the_selected_row_groups_are_read() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut files = whole(&[write(&store, "0.parquet", vec![batch(0..50)]).await]);
    files[0].row_groups = Some(RowGroupSelection {
        total: 5,
        selected: vec![1, 4],
    });
    let read = run(&store, parquet_scan(all(&files)).unwrap()).await;
    assert_eq!(ids(&read), (10..20).chain(40..50).collect::<Vec<_>>());
}

/// Pages of 1024 rows in groups of 5000: where rows are asked for, these come, and only columns that were.
#[tokio::test]
async fn rows_are_read_from_the_pages_that_they_lie_in() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let options = WriterOptions {
        row_group_rows: 5000,
        page_rows: 1024,
        ..WriterOptions::default()
    };
    let path = Path::from("0.parquet");
    let batches = stream::iter([Ok(batch(0..12_000))]);
    let written = write_parquet(Arc::clone(&store), path, schema(), &options, batches);
    let written = written.await.unwrap();
    let open = PagedFile::open(Arc::clone(&store), written.path.clone(), written.bytes);
    let file = open.await.unwrap();
    assert_eq!((file.rows(), file.column("real")), (12_000, Some(2)));
    let pages = file.page_rows();
    assert_eq!(pages.len(), 5 + 5 + 2, "{pages:?}");
    assert_eq!(
        (pages[4].clone(), pages[5].clone()),
        (4096..5000, 5000..6024)
    );
    let within = [3..4, 1000..1100, 4999..5001, 4000..11_000, 11_999..12_000];
    for rows in pages.into_iter().chain(within) {
        let expected = batch(rows.start as i64..rows.end as i64);
        let read = file.read(Arc::clone(&store), rows.clone(), None).await;
        assert_eq!(read.unwrap(), expected, "{rows:?}");
        let read = file.read(Arc::clone(&store), rows.clone(), Some(&[1, 0]));
        assert_eq!(read.await.unwrap(), expected.project(&[0, 1]).unwrap());
    }
    let behind = file.read(Arc::clone(&store), 11_990..12_010, None).await;
    assert!(behind.unwrap_err().to_string().contains("0.parquet"));
}

#[tokio::test]
async fn a_page_that_is_cut_off_or_damaged_is_an_error() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let file = write(&store, "0.parquet", vec![batch(0..50)]).await;
    let open = |path: &'static str, bytes| {
        let store = Arc::clone(&store);
        async move { PagedFile::open(store, Path::from(path), bytes).await }
    };
    let paged = open("0.parquet", file.bytes).await.unwrap();
    let bytes = store.get(&file.path).await.unwrap().bytes().await.unwrap();
    // The first bytes behind the magic number are those of the first page.
    let mut damaged = bytes.to_vec();
    damaged[4..40].fill(0xff);
    store.put(&file.path, damaged.into()).await.unwrap();
    assert!(paged.read(Arc::clone(&store), 0..5, None).await.is_err());
    store
        .put(&file.path, bytes.slice(..30).into())
        .await
        .unwrap();
    assert!(paged.read(Arc::clone(&store), 40..50, None).await.is_err());
    assert!(open("0.parquet", file.bytes).await.is_err());
    assert!(open("1.parquet", file.bytes).await.is_err());
}

#[tokio::test]
async fn a_column_that_a_file_lacks_reads_as_null() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let files = whole(&[write(&store, "0.parquet", vec![batch(0..5)]).await]);
    let mut fields = schema().fields().to_vec();
    fields.push(Arc::new(Field::new("later", DataType::Utf8, true)));
    let scan = ParquetScan {
        file_schema: Arc::new(Schema::new(fields)),
        projection: Some(vec![4, 0]),
        dictionaries: None,
        ..all(&files)
    };
    let read = run(&store, parquet_scan(scan).unwrap()).await;
    assert_eq!(read.column(0).null_count(), 5);
    assert_eq!(ids(&read), (0..5).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_large_file_goes_up_in_parts_and_is_scanned_by_several() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let rows = 1_500_000;
    // A linear congruential generator's numbers do not compress.
    let mut state = 1i64;
    let values = Int64Array::from_iter_values((0..rows).map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state
    }));
    let sum = values
        .values()
        .iter()
        .fold(0i64, |sum, value| sum.wrapping_add(*value));
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(values)]).unwrap();
    let file = write_parquet(
        Arc::clone(&store),
        Path::from("large.parquet"),
        Arc::clone(&schema),
        &WriterOptions::default(),
        stream::iter([Ok(batch)]),
    )
    .await
    .unwrap();
    assert!(file.bytes > 11_000_000, "{}", file.bytes);
    let stored = store.get(&file.path).await.unwrap().bytes().await.unwrap();
    assert_eq!(file.checksum, blake3::hash(&stored).to_hex().to_string());
    let files = whole(&[file]);
    let scan = ParquetScan {
        file_schema: schema,
        target_partitions: 3,
        ..all(&files)
    };
    let plan = parquet_scan(scan).unwrap();
    assert_eq!(plan.output_partitioning().partition_count(), 3);
    let read = ids(&run(&store, plan).await);
    assert_eq!(read.len(), rows as usize);
    assert_eq!(
        read.iter()
            .fold(0i64, |sum, value| sum.wrapping_add(*value)),
        sum
    );
}

#[tokio::test]
async fn a_failed_write_leaves_nothing() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let path = Path::from("half.parquet");
    let failure = DataFusionError::Execution("the source broke".to_owned());
    let batches = stream::iter([Ok(batch(0..50)), Err(failure)]);
    let options = WriterOptions::default();
    let error = write_parquet(
        Arc::clone(&store),
        path.clone(),
        schema(),
        &options,
        batches,
    )
    .await;
    assert!(error.unwrap_err().to_string().contains("the source broke"));
    assert!(store.head(&path).await.is_err());
}

#[derive(Debug)]
struct Pooled(Arc<dyn MemoryPool>);

impl Holder for Pooled {
    fn hold(&self, bytes: usize) -> BoxFuture<'_, datafusion::error::Result<Note>> {
        let account = MemoryConsumer::new("files").register(&self.0);
        let grown = account.try_grow(bytes);
        async { grown.map(|()| Box::new(account) as Note) }.boxed()
    }
}

#[tokio::test]
async fn what_a_scan_has_fetched_is_noted_until_it_has_passed() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    // Two row groups; the pages of the first stay until its last row.
    let file = write(&store, "a", vec![batch(0..20)]).await;
    let runtime = Arc::new(RuntimeEnv::default());
    register_store(&runtime, Arc::clone(&store));
    let config = SessionConfig::new().with_batch_size(4);
    let context = TaskContext::default().with_runtime(runtime);
    let context = Arc::new(context.with_session_config(config));
    let pool = Arc::clone(context.memory_pool());
    let holder: Arc<dyn Holder> = Arc::new(Pooled(Arc::clone(&pool)));
    let plan = parquet_scan(all(&whole(&[file]))).unwrap();
    let plan = accounted(plan, &context, &holder).unwrap();
    let mut rows = plan.execute(0, Arc::clone(&context)).unwrap();
    let mut read = vec![];
    while let Some(batch) = rows.next().await {
        read.extend(ids(&batch.unwrap()));
        if read.len() < 10 {
            assert!(pool.reserved() > 0, "{} rows", read.len());
        }
    }
    drop(rows);
    assert_eq!(read, (0..20).collect::<Vec<_>>());
    assert_eq!(pool.reserved(), 0);
}

#[tokio::test]
async fn a_scan_that_has_no_room_says_so_before_it_fetches() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let file = write(&store, "a", vec![batch(0..20)]).await;
    let runtime = Arc::new(RuntimeEnv::default());
    register_store(&runtime, Arc::clone(&store));
    let context = Arc::new(TaskContext::default().with_runtime(runtime));
    let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(1));
    let holder: Arc<dyn Holder> = Arc::new(Pooled(pool));
    let plan = parquet_scan(all(&whole(&[file]))).unwrap();
    let plan = accounted(plan, &context, &holder).unwrap();
    let mut rows = plan.execute(0, context).unwrap();
    let error = rows.next().await.unwrap().unwrap_err();
    let root = error.find_root();
    assert!(
        matches!(root, DataFusionError::ResourcesExhausted(_)),
        "{error}"
    );
}
