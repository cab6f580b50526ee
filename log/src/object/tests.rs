// SPDX-License-Identifier: Apache-2.0
//! What the local store does beyond the conformance suite: its files.

use std::path::Path as FilePath;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use super::LocalStore;

fn files(dir: &FilePath) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn unfinished_files_are_neither_listed_nor_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    store.put(&Path::from("a/x"), "whole".into()).await.unwrap();
    // As a kill in the middle of a put leaves it.
    let left = dir.path().join("a/y#7");
    std::fs::write(&left, "half").unwrap();
    let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
    assert_eq!(listed.len(), 1);
    let level = store.list_with_delimiter(Some(&Path::from("a"))).await;
    assert_eq!(level.unwrap().objects.len(), 1);
    drop(store);
    LocalStore::open(dir.path()).unwrap();
    assert_eq!(files(&dir.path().join("a")), ["x"]);
}

#[test]
fn a_directory_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    let error = LocalStore::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("another process has the store"), "{error}");
    let shared = store.clone();
    drop(store);
    LocalStore::open(dir.path()).unwrap_err();
    drop(shared);
    LocalStore::open(dir.path()).unwrap();
}

/// As a worker does beside the process that has the store: neither takes anything from the other.
#[tokio::test]
async fn files_are_added_beside_the_one_that_has_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let owner = LocalStore::open(dir.path()).unwrap();
    let under_way = dir.path().join("x#7");
    std::fs::write(&under_way, "half").unwrap();
    let beside = LocalStore::open_beside(dir.path()).unwrap();
    let (ours, theirs) = (Path::from("a/ours"), Path::from("a/theirs"));
    owner.put(&ours, "1".into()).await.unwrap();
    beside.put(&theirs, "2".into()).await.unwrap();
    for store in [&owner, &beside] {
        for (path, content) in [(&ours, "1"), (&theirs, "2")] {
            let read = store.get(path).await.unwrap().bytes().await.unwrap();
            assert_eq!(read, content);
        }
    }
    assert!(under_way.exists());
}

#[tokio::test]
async fn every_path_cleans_up_its_staged_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    let at = Path::from("x");
    let create = || PutOptions::from(PutMode::Create);
    store.put_opts(&at, "1".into(), create()).await.unwrap();
    store.put_opts(&at, "2".into(), create()).await.unwrap_err();
    for _ in 0..2 {
        store.copy(&at, &Path::from("y")).await.unwrap();
    }
    store.rename(&at, &at).await.unwrap();
    let mut upload = store.put_multipart(&at).await.unwrap();
    upload.put_part("3".into()).await.unwrap();
    upload.abort().await.unwrap();
    assert_eq!(files(dir.path()), ["x", "y"]);
}

#[test]
fn a_dropped_upload_removes_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut upload = store.put_multipart(&Path::from("x")).await.unwrap();
        upload.put_part("part".into()).await.unwrap();
        assert_eq!(files(dir.path()).len(), 1);
    });
    // Waits for the blocking pool.
    drop(runtime);
    assert!(files(dir.path()).is_empty());
}

#[tokio::test]
async fn an_upload_with_an_unwritten_part_does_not_complete() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    let at = Path::from("x");
    let mut upload = store.put_multipart(&at).await.unwrap();
    upload.put_part("written".into()).await.unwrap();
    drop(upload.put_part("never polled".into()));
    let error = upload.complete().await.unwrap_err().to_string();
    assert!(error.contains("only 1 of the 2 parts"), "{error}");
    assert!(store.head(&at).await.is_err());
}

/// The e-tags of equally long versions differ though the kernel's clock ticks too slowly to tell them
/// apart, and still after the clock was set back between two openings.
#[tokio::test]
async fn e_tags_never_repeat() {
    let dir = tempfile::tempdir().unwrap();
    let at = Path::from("x");
    let ahead = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1 << 33);
    let mut latest = 0;
    for _ in 0..2 {
        let store = LocalStore::open(dir.path()).unwrap();
        for body in 0..50 {
            let put = store.put(&at, format!("{body:02}").into()).await.unwrap();
            let e_tag = put.e_tag.unwrap();
            let modified = u64::from_str_radix(e_tag.split('-').nth(1).unwrap(), 16).unwrap();
            assert!(modified > latest, "{modified} after {latest}");
            latest = modified;
        }
        let file = std::fs::File::open(dir.path().join("x")).unwrap();
        file.set_modified(ahead).unwrap();
        latest = (1 << 33) * 1_000_000;
    }
}

#[tokio::test]
async fn a_directory_removed_behind_its_back_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    store.put(&Path::from("a/b/x"), "1".into()).await.unwrap();
    std::fs::remove_dir_all(dir.path().join("a")).unwrap();
    store.put(&Path::from("a/b/x"), "2".into()).await.unwrap();
    store
        .copy(&Path::from("a/b/x"), &Path::from("c/x"))
        .await
        .unwrap();
    std::fs::remove_dir_all(dir.path().join("c")).unwrap();
    store
        .copy(&Path::from("a/b/x"), &Path::from("c/x"))
        .await
        .unwrap();
}

#[tokio::test]
async fn errors_name_the_file_and_its_trouble() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    store.put(&Path::from("a"), "file".into()).await.unwrap();
    let error = store.put(&Path::from("a/b"), "x".into()).await.unwrap_err();
    assert!(error.to_string().contains("cannot create `"), "{error}");
    let name = Path::parse("x#1").unwrap();
    let error = store.put(&name, "x".into()).await.unwrap_err();
    assert!(matches!(error, Error::Generic { .. }), "{error}");
}

/// As the query engine and deltalake may: no runtime at all.
#[test]
fn works_without_a_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    let at = Path::from("x");
    futures::executor::block_on(async {
        store.put(&at, "1".into()).await.unwrap();
        assert_eq!(store.get(&at).await.unwrap().bytes().await.unwrap(), "1");
    });
}
