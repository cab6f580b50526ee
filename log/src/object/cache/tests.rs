// SPDX-License-Identifier: Apache-2.0
//! What is read through a cache is what the store holds, whatever happens to the cache.

use std::fs;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use object_store::ObjectStoreExt as _;
use object_store::memory::InMemory;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const MIB: u64 = 1024 * 1024;

struct Rig {
    store: Arc<InMemory>,
    home: TempDir,
}

impl Rig {
    fn new() -> Self {
        Self {
            store: Arc::new(InMemory::new()),
            home: tempfile::tempdir().unwrap(),
        }
    }

    fn directory(&self) -> PathBuf {
        self.home.path().join("cache")
    }

    fn open(&self, memory_mib: u64, disk_mib: u64) -> BlockCache {
        let config = CacheConfig {
            directory: self.directory(),
            store: "s3://events".to_owned(),
            disk_bytes: disk_mib * MIB,
            memory_bytes: memory_mib * MIB,
        };
        BlockCache::open(config, &Handle::current()).unwrap()
    }

    fn filling(&self, cache: &BlockCache) -> Arc<dyn ObjectStore> {
        cache.filling(Arc::clone(&self.store) as _)
    }

    /// Puts an object of so many bytes, no two alike.
    async fn put(&self, name: &str, bytes: usize) -> (Path, Bytes) {
        let seed = name.len() * 31 + bytes;
        let body: Bytes = (0..bytes)
            .map(|at| ((at * 2_654_435_761 + seed) >> 7) as u8)
            .collect();
        let at = Path::from(format!("views/v1/files/{name}.parquet"));
        self.store.put(&at, body.clone().into()).await.unwrap();
        (at, body)
    }

    /// The files of the cache, which has nothing left to write.
    fn files(&self) -> Vec<PathBuf> {
        let within = |dir: &FilePath| {
            let entries = fs::read_dir(dir).unwrap();
            entries
                .map(|entry| entry.unwrap().path())
                .collect::<Vec<_>>()
        };
        let shelves = within(&self.directory()).into_iter();
        let mut files: Vec<_> = shelves.flat_map(|shelf| within(&shelf)).collect();
        files.sort();
        files
    }
}

/// Waits until what was fetched is on disk.
async fn written(cache: &BlockCache) {
    let all = u32::try_from(WRITES).unwrap();
    drop(cache.0.writes.acquire_many(all).await.unwrap());
}

async fn read(store: &Arc<dyn ObjectStore>, at: &Path, range: Range<u64>) -> Bytes {
    store.get_range(at, range).await.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any ranges, by several readers at once, through caches too small for what is read, reopened in between.
    #[test]
    fn every_read_is_what_the_store_says(
        sizes in prop::collection::vec(1usize..(3 * MIB as usize + 5), 1..4),
        reads in prop::collection::vec((any::<prop::sample::Index>(), 0.0..1.0f64, 0.0..1.2f64), 1..40),
        memory_mib in 0u64..4,
        disk_mib in 0u64..6,
        fills in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let rig = Rig::new();
            let mut objects = vec![];
            for (index, size) in sizes.iter().enumerate() {
                objects.push(rig.put(&format!("f{index}"), *size).await);
            }
            for _ in 0..2 {
                let cache = rig.open(memory_mib, disk_mib);
                let store = if fills { rig.filling(&cache) } else { cache.sparing(Arc::clone(&rig.store) as _) };
                let each = reads.iter().map(|(which, from, length)| {
                    let (at, body) = &objects[which.index(objects.len())];
                    let size = body.len() as f64;
                    let from = (from * size) as u64;
                    let to = from + 1 + (length * size) as u64;
                    let store = &store;
                    async move {
                        let end = (to as usize).min(body.len());
                        let expected = body.slice(from as usize..end);
                        assert_eq!(store.get_range(at, from..to).await.unwrap(), expected);
                        let both = store.get_ranges(at, &[from..end as u64, 0..1]).await.unwrap();
                        assert_eq!(both, [expected, body.slice(0..1)]);
                    }
                });
                join_all(each).await;
                written(&cache).await;
                cache.0.memory.run_pending_tasks().await;
                let counts = cache.counts();
                assert!(counts.memory_bytes <= memory_mib * MIB, "{counts:?}");
                let on_disk: u64 = rig.files().iter().map(|file| fs::metadata(file).unwrap().len()).sum();
                // A file may go with the block that was written in its place.
                assert!(on_disk <= disk_mib * MIB && on_disk <= counts.disk_bytes, "{on_disk} {counts:?}");
                assert_eq!((counts.corrupt, counts.write_failures), (0, 0));
                assert!(fills || counts.misses == 0);
            }
        });
    }
}

#[tokio::test]
async fn what_was_read_once_needs_the_store_no_more() {
    let rig = Rig::new();
    let (at, body) = rig.put("x", 2 * MIB as usize + 7).await;
    let cache = rig.open(8, 8);
    let store = rig.filling(&cache);
    assert_eq!(
        read(&store, &at, 5..2 * MIB + 6).await,
        body.slice(5..2 * MIB as usize + 6)
    );
    written(&cache).await;
    assert_eq!(cache.counts().misses, 3);
    rig.store.delete(&at).await.unwrap();
    assert_eq!(read(&store, &at, 0..2 * MIB + 7).await, body);
    assert_eq!(cache.counts().memory_hits, 3);
    // And after a restart, from the disk; for readers that leave nothing behind, too.
    drop((store, cache));
    let cache = rig.open(8, 8);
    let sparing = cache.sparing(Arc::clone(&rig.store) as _);
    let got = sparing
        .get_opts(&at, GetOptions::new().with_range(Some(0..10u64)))
        .await
        .unwrap();
    assert_eq!(
        (got.meta.size, got.range.clone(), &got.meta.location),
        (body.len() as u64, 0..10, &at)
    );
    assert!(got.meta.e_tag.is_some());
    assert_eq!(got.bytes().await.unwrap(), body.slice(0..10));
    assert_eq!((cache.counts().disk_hits, cache.counts().misses), (1, 0));
    // Another store's objects of that name are others.
    drop((sparing, cache));
    let mut config = CacheConfig {
        directory: rig.directory(),
        store: "s3://other".to_owned(),
        disk_bytes: MIB,
        memory_bytes: 0,
    };
    let other = BlockCache::open(config.clone(), &Handle::current()).unwrap();
    let missing = rig.filling(&other).get_range(&at, 0..1).await.unwrap_err();
    assert!(matches!(missing, Error::NotFound { .. }), "{missing}");
    assert_eq!(other.counts().corrupt, 0);
    // Without room nothing stays.
    config.disk_bytes = 0;
    drop(BlockCache::open(config, &Handle::current()).unwrap());
    assert_eq!(rig.files(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn only_files_that_never_change_are_kept() {
    let rig = Rig::new();
    let cache = rig.open(8, 8);
    let store = rig.filling(&cache);
    for name in [
        "catalog/1.parquet",
        "streams/s/raw/_delta_log/1.checkpoint.parquet",
        "streams/s/raw/_delta_log/1.json",
        "probe.parquet",
    ] {
        let at = Path::from(name);
        for body in ["old", "new"] {
            rig.store.put(&at, body.into()).await.unwrap();
            assert_eq!(read(&store, &at, 0..3).await, body, "{name}");
        }
    }
    assert_eq!(cache.counts(), CacheCounts::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_want_one_block_fetch_it_once() {
    let rig = Rig::new();
    let (at, body) = rig.put("x", MIB as usize).await;
    let wait = ThrottleConfig {
        wait_get_per_call: Duration::from_millis(200),
        ..ThrottleConfig::default()
    };
    let slow = ThrottledStore::new(Arc::clone(&rig.store), wait);
    let cache = rig.open(8, 0);
    let store = cache.filling(Arc::new(slow));
    let ranges = (0..32).map(|from| store.get_range(&at, from..from + 9));
    for (from, got) in try_join_all(ranges).await.unwrap().into_iter().enumerate() {
        assert_eq!(got, body.slice(from..from + 9));
    }
    assert_eq!(cache.counts().misses, 1);
}

#[tokio::test]
async fn that_something_is_not_there_is_not_remembered() {
    let rig = Rig::new();
    let cache = rig.open(8, 8);
    let store = rig.filling(&cache);
    let at = Path::from("views/v1/files/x.parquet");
    let both = join_all([store.get_range(&at, 0..1), store.get_range(&at, 0..2)]).await;
    assert!(
        both.iter()
            .all(|got| matches!(got, Err(Error::NotFound { .. }))),
        "{both:?}"
    );
    let (at, body) = rig.put("x", 10).await;
    assert_eq!(read(&store, &at, 0..10).await, body);
    assert!(store.get_range(&at, 10..11).await.is_err());
}

#[tokio::test]
async fn a_delete_drops_what_is_kept() {
    let rig = Rig::new();
    let (at, _) = rig.put("x", 2 * MIB as usize).await;
    let (other, body) = rig.put("y", 10).await;
    let cache = rig.open(8, 8);
    let store = rig.filling(&cache);
    read(&store, &at, 0..2 * MIB).await;
    read(&store, &other, 0..10).await;
    written(&cache).await;
    assert_eq!(rig.files().len(), 3);
    // By whoever deletes.
    cache
        .sparing(Arc::clone(&rig.store) as _)
        .delete(&at)
        .await
        .unwrap();
    assert_eq!(rig.files().len(), 1);
    let gone = store.get_range(&at, 0..1).await.unwrap_err();
    assert!(matches!(gone, Error::NotFound { .. }), "{gone}");
    rig.store.delete(&other).await.unwrap();
    assert_eq!(read(&store, &other, 0..10).await, body);
}

/// Every kind of damage to a file of the cache: none is answered, each is counted and mended.
#[tokio::test]
async fn damage_on_disk_is_found_and_mended() {
    let rig = Rig::new();
    let (at, body) = rig.put("x", 3000).await;
    let (another, _) = rig.put("y", 3000).await;
    let fill = async || {
        let cache = rig.open(0, 8);
        let store = rig.filling(&cache);
        read(&store, &another, 0..1).await;
        assert_eq!(read(&store, &at, 0..3000).await, body);
        written(&cache).await;
        cache.counts()
    };
    fill().await;
    let files = rig.files();
    let [file, other] = [&files[0], &files[1]];
    let whole = fs::read(file).unwrap();
    let mut damaged: Vec<Vec<u8>> = (0..whole.len())
        .step_by(13)
        .map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            bytes
        })
        .collect();
    damaged.extend([0, 7, 12, 200, whole.len() - 1].map(|length| whole[..length].to_vec()));
    damaged.push([&whole[..], b"more"].concat());
    damaged.push(fs::read(other).unwrap());
    for bytes in damaged {
        fs::write(file, bytes).unwrap();
        assert_eq!(fill().await.corrupt, 1);
        assert_eq!(fs::read(file).unwrap(), whole);
    }
    assert_eq!(fill().await.corrupt, 0);
}

/// As a kill in the middle of a write leaves it; and a power cut behind a rename that was not synced.
#[tokio::test]
async fn unfinished_files_are_neither_read_nor_kept() {
    let rig = Rig::new();
    let (at, body) = rig.put("x", 3000).await;
    let cache = rig.open(0, 8);
    read(&rig.filling(&cache), &at, 0..1).await;
    written(&cache).await;
    drop(cache);
    let [file] = &rig.files()[..] else { panic!() };
    let whole = fs::read(file).unwrap();
    fs::write(file, &whole[..whole.len() / 2]).unwrap();
    let unfinished = format!("{}.7.new", file.display());
    fs::write(&unfinished, &whole[..100]).unwrap();
    let cache = rig.open(0, 8);
    assert!(!fs::exists(&unfinished).unwrap());
    assert_eq!(read(&rig.filling(&cache), &at, 0..3000).await, body);
    assert_eq!((cache.counts().corrupt, cache.counts().misses), (1, 1));
}

/// A disk that takes nothing, and takes something again later.
#[tokio::test]
async fn a_disk_that_cannot_be_written_costs_no_answer() {
    let rig = Rig::new();
    let cache = rig.open(0, 8);
    let store = rig.filling(&cache);
    fs::remove_dir_all(rig.directory()).unwrap();
    fs::write(rig.directory(), "in the way").unwrap();
    let (at, body) = rig.put("x", 3000).await;
    for _ in 0..3 {
        assert_eq!(read(&store, &at, 0..3000).await, body);
        written(&cache).await;
    }
    assert_eq!(
        (cache.counts().write_failures, cache.counts().misses),
        (3, 3)
    );
    fs::remove_file(rig.directory()).unwrap();
    for _ in 0..2 {
        assert_eq!(read(&store, &at, 0..3000).await, body);
        written(&cache).await;
    }
    assert_eq!((cache.counts().misses, cache.counts().disk_hits), (4, 1));
}
