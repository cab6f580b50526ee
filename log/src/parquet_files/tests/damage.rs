// SPDX-License-Identifier: Apache-2.0
//! What is not as it was written is an error that names the file, never another number.

use bytes::Bytes;

use super::super::checked::Checked;
use super::*;

const NAME: &str = "views/v/files/a.parquet";

async fn written() -> (Arc<dyn ObjectStore>, WrittenFile, Vec<u8>) {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let file = write(&store, NAME, vec![batch(0..33)]).await;
    let bytes = store.get(&file.path).await.unwrap().bytes().await.unwrap();
    (store, file, bytes.to_vec())
}

async fn put(store: &Arc<dyn ObjectStore>, bytes: Vec<u8>) {
    store.put(&Path::from(NAME), bytes.into()).await.unwrap();
}

/// As a scan reads a file: its end, then what lies before it.
async fn read(store: &Arc<dyn ObjectStore>, size: u64) -> object_store::Result<Vec<Bytes>> {
    let checked = Checked::over(Arc::clone(store));
    let path = Path::from(NAME);
    let end = checked.get_range(&path, size - 100..size).await?;
    let mut parts = checked.get_ranges(&path, &[0..50, 50..size - 100]).await?;
    parts.push(end);
    Ok(parts)
}

async fn scanned(
    store: &Arc<dyn ObjectStore>,
    file: &WrittenFile,
) -> Result<RecordBatch, DataFusionError> {
    let files = whole(std::slice::from_ref(file));
    let plan = parquet_scan(all(&files))?;
    let runtime = Arc::new(RuntimeEnv::default());
    register_store(&runtime, Arc::clone(store));
    let context = Arc::new(TaskContext::default().with_runtime(runtime));
    let schema = plan.schema();
    Ok(concat_batches(&schema, &collect(plan, context).await?)?)
}

#[tokio::test]
async fn no_flipped_bit_of_a_file_goes_unnoticed() {
    let (store, file, bytes) = written().await;
    let whole = read(&store, file.bytes).await.unwrap().concat();
    assert_eq!(whole, bytes);
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        put(&store, flipped).await;
        let found = read(&store, file.bytes).await;
        let error = found.expect_err("a byte is another, and nobody says so");
        assert!(is_damage(&error), "byte {at}: {error}");
        assert!(error.to_string().contains(NAME), "{error}");
        // A scan takes a while, so not of each byte; those of the end are the delicate ones.
        if at % 13 == 0 || at >= bytes.len() - 8 {
            let scan = scanned(&store, &file).await;
            assert!(scan.is_err(), "byte {at} is another, and the scan goes on");
        }
    }
    put(&store, bytes).await;
    assert_eq!(scanned(&store, &file).await.unwrap(), batch(0..33));
}

#[tokio::test]
async fn a_damaged_file_is_named_and_is_no_outage() {
    let (store, file, mut bytes) = written().await;
    for at in [20, bytes.len() - 40] {
        bytes[at] ^= 4;
        put(&store, bytes.clone()).await;
        bytes[at] ^= 4;
        let error = scanned(&store, &file).await.unwrap_err();
        assert!(is_damage(&error), "{error}");
        assert!(!crate::object::is_outage(&error), "{error}");
        assert!(
            error
                .to_string()
                .contains("`views/v/files/a.parquet` is damaged: its bytes"),
            "{error}"
        );
    }
    for length in [bytes.len() - 1, bytes.len() / 2, 5, 0] {
        bytes.truncate(length);
        put(&store, bytes.clone()).await;
        let error = scanned(&store, &file).await.unwrap_err();
        assert!(error.to_string().contains(NAME), "{length}: {error}");
    }
}

/// Blocks grow with the file, and each range is cut out of those that it lies in.
#[tokio::test]
async fn a_large_file_is_checked_in_larger_blocks() {
    const ROWS: i64 = 24_000;
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let schema = Arc::new(Schema::new(vec![Field::new("text", DataType::Utf8, false)]));
    let mut random = blake3::Hasher::new().finalize_xof();
    // Nothing of it can be compressed.
    let mut text = |_| {
        let mut bytes = [0; 2048];
        random.fill(&mut bytes);
        bytes
            .map(|byte| char::from(b'0' + byte % 64))
            .iter()
            .collect::<String>()
    };
    let texts = StringArray::from_iter_values((0..ROWS).map(&mut text));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(texts)]).unwrap();
    let batches = stream::iter([Ok(batch)]);
    let options = WriterOptions::default();
    let path = Path::from(NAME);
    let writing = write_parquet(Arc::clone(&store), path.clone(), schema, &options, batches);
    let file = writing.await.unwrap();
    let plain = store.get(&path).await.unwrap().bytes().await.unwrap();
    assert_eq!(file.checksum, blake3::hash(&plain).to_hex().to_string());

    let checked = Checked::over(Arc::clone(&store));
    let size = file.bytes;
    let place = |range: &std::ops::Range<u64>| range.start as usize..range.end as usize;
    for range in [
        0..1,
        5..40_000,
        size - 1..size,
        size / 2..size / 2 + 7,
        0..size,
        size - 70_000..size - 3,
    ] {
        let got = checked.get_range(&path, range.clone()).await.unwrap();
        assert_eq!(got, plain[place(&range)], "{range:?}");
    }
    let many: Vec<_> = (0..50)
        .map(|i| i * size / 50..i * size / 50 + 100)
        .rev()
        .collect();
    let got = checked.get_ranges(&path, &many).await.unwrap();
    for (range, got) in many.iter().zip(got) {
        assert_eq!(got, plain[place(range)], "{range:?}");
    }
    // Read before, and damaged since.
    let mut bytes = plain.to_vec();
    bytes[size as usize / 2] ^= 128;
    put(&store, bytes).await;
    checked.get_range(&path, 0..100).await.unwrap();
    let error = checked
        .get_range(&path, size / 2 - 1..size / 2)
        .await
        .unwrap_err();
    assert!(is_damage(&error), "{error}");
}

/// Those that other programs wrote, and earlier builds of ours.
#[tokio::test]
async fn a_file_without_checksums_is_read_as_it_is() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut bytes = vec![];
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, schema(), None).unwrap();
    writer.write(&batch(0..20)).unwrap();
    writer.close().unwrap();
    let size = bytes.len() as u64;
    put(&store, bytes.clone()).await;
    assert_eq!(read(&store, size).await.unwrap().concat(), bytes);
    let file = FileToScan::whole(Path::from(NAME), size);
    let plan = parquet_scan(all(std::slice::from_ref(&file))).unwrap();
    assert_eq!(run(&store, plan).await, batch(0..20));
    let checked = Checked::over(Arc::clone(&store));
    assert!(
        checked
            .get_range(&Path::from("no.parquet"), 0..1)
            .await
            .is_err()
    );
}
