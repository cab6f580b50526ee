// SPDX-License-Identifier: Apache-2.0
//! What every object store below Dovetail must do, as functions over `&dyn ObjectStore`.
//!
//! Each function keeps to its own prefix, so one store can serve them all. The tests that run them are at the end, and
//! for real servers in [`super::s3_tests`] and [`super::azure_tests`].

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyMode, Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
    RenameOptions, RenameTargetMode, UpdateVersion,
};

const RIVALS: usize = 16;

/// Runs what Dovetail needs of any store.
pub(super) async fn all(store: &dyn ObjectStore) {
    head_of_a_missing_object(store).await;
    a_put_is_read_back_and_overwritten(store).await;
    put_if_absent_has_one_winner(store).await;
    ranges_are_read(store).await;
    lists_are_complete_and_ordered_by_prefix(store).await;
    a_multipart_upload_appears_whole(store).await;
    an_aborted_upload_leaves_nothing(store).await;
    deletes_remove_and_name_what_they_removed(store).await;
    conditional_reads(store).await;
}

/// What nothing here uses, and not every store has: copy-if-absent, ranges that count from the end, and updates that
/// are one step (the S3 server of the tests loses some under a race). A store of ours that offers it has to be right
/// all the same.
async fn extras(store: &dyn ObjectStore) {
    update_is_a_compare_and_swap(store).await;
    rival_updates_lose_nothing(store).await;
    copies_and_renames(store).await;
    the_end_of_an_object_is_read(store).await;
}

async fn read(store: &dyn ObjectStore, at: &Path) -> Bytes {
    store.get(at).await.unwrap().bytes().await.unwrap()
}

async fn names(store: &dyn ObjectStore, prefix: &str) -> BTreeSet<String> {
    let prefix = Path::from(prefix);
    let listed: Vec<_> = store.list(Some(&prefix)).try_collect().await.unwrap();
    listed.into_iter().map(|m| m.location.to_string()).collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

async fn head_of_a_missing_object(store: &dyn ObjectStore) {
    for at in ["missing", "missing/deeper/x"] {
        let at = Path::from(at);
        let missing = |e: &Error| matches!(e, Error::NotFound { .. });
        assert!(missing(&store.head(&at).await.unwrap_err()));
        assert!(missing(&store.get(&at).await.unwrap_err()));
        assert!(missing(&store.get_range(&at, 0..1).await.unwrap_err()));
    }
    assert!(names(store, "missing").await.is_empty());
}

async fn a_put_is_read_back_and_overwritten(store: &dyn ObjectStore) {
    let at = Path::from("put/deep/er/object.json");
    let first = store.put(&at, "one".into()).await.unwrap();
    assert_eq!(read(store, &at).await, "one");
    let pieces: PutPayload = ["tw", "", "o!"].map(Bytes::from).into_iter().collect();
    let second = store.put(&at, pieces).await.unwrap();
    assert_eq!(read(store, &at).await, "two!");
    let meta = store.head(&at).await.unwrap();
    assert_eq!((meta.size, &meta.location), (4, &at));
    assert!(first.e_tag.is_some() && first.e_tag != second.e_tag);
    assert_eq!(meta.e_tag, second.e_tag);
    store.put(&at, PutPayload::new()).await.unwrap();
    assert_eq!(store.head(&at).await.unwrap().size, 0);
}

async fn put_if_absent_has_one_winner(store: &dyn ObjectStore) {
    one_winner("create", [store]).await;
}

/// Rivals spread over several ways to one store.
pub(super) async fn one_winner<const N: usize>(prefix: &str, ways: [&dyn ObjectStore; N]) {
    let store = ways[0];
    for round in 0..8 {
        let at = Path::from(format!("{prefix}/{round}/commit"));
        let bodies: Vec<String> = (0..RIVALS).map(|rival| format!("by {rival}")).collect();
        let puts = bodies.iter().enumerate().map(|(rival, body)| {
            ways[rival % N].put_opts(&at, body.clone().into(), PutMode::Create.into())
        });
        let results = join_all(puts).await;
        let winners: Vec<usize> = (0..RIVALS).filter(|i| results[*i].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        for result in results.iter().filter(|r| r.is_err()) {
            assert!(
                matches!(result, Err(Error::AlreadyExists { .. })),
                "{result:?}"
            );
        }
        for way in ways {
            assert_eq!(read(way, &at).await, bodies[winners[0]].as_bytes());
        }
        assert_eq!(names(store, &format!("{prefix}/{round}")).await.len(), 1);
    }
}

async fn update_is_a_compare_and_swap(store: &dyn ObjectStore) {
    let at = Path::from("update/object");
    let put = |body: &'static str, mode: PutMode| store.put_opts(&at, body.into(), mode.into());
    let first = store.put(&at, "a".into()).await.unwrap();
    let second = put("b", PutMode::Update(first.clone().into()))
        .await
        .unwrap();
    let stale = put("c", PutMode::Update(first.into())).await.unwrap_err();
    assert!(matches!(stale, Error::Precondition { .. }), "{stale}");
    assert_eq!(read(store, &at).await, "b");
    let unnamed = UpdateVersion {
        e_tag: None,
        version: None,
    };
    assert!(put("d", PutMode::Update(unnamed)).await.is_err());
    let nowhere = Path::from("update/nothing");
    let missing = store
        .put_opts(&nowhere, "e".into(), PutMode::Update(second.into()).into())
        .await
        .unwrap_err();
    assert!(matches!(missing, Error::Precondition { .. }), "{missing}");
    assert_eq!(names(store, "update").await, set(["update/object"]));
}

/// Rivals count up in one object of constant length, whose versions must never be mistaken for another.
async fn rival_updates_lose_nothing(store: &dyn ObjectStore) {
    const EACH: u64 = 8;
    let at = Path::from("race/counter");
    store.put(&at, "00000".into()).await.unwrap();
    let count = |_| async {
        for _ in 0..EACH {
            loop {
                let got = store.get(&at).await.unwrap();
                let version = UpdateVersion {
                    e_tag: got.meta.e_tag.clone(),
                    version: None,
                };
                let body = got.bytes().await.unwrap();
                let number: u64 = std::str::from_utf8(&body).unwrap().parse().unwrap();
                let next = format!("{:05}", number + 1);
                let mode = PutMode::Update(version);
                match store.put_opts(&at, next.into(), mode.into()).await {
                    Ok(_) => break,
                    Err(Error::Precondition { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    join_all((0..4).map(count)).await;
    assert_eq!(read(store, &at).await, format!("{:05}", 4 * EACH));
}

async fn ranges_are_read(store: &dyn ObjectStore) {
    let at = Path::from("ranges/object");
    let body: Bytes = (0..=255).collect();
    store.put(&at, body.clone().into()).await.unwrap();
    assert_eq!(store.get_range(&at, 3..7).await.unwrap(), body.slice(3..7));
    let ranges = [0..1, 250..256, 10..20];
    let got = store.get_ranges(&at, &ranges).await.unwrap();
    assert_eq!(
        got,
        [body.slice(0..1), body.slice(250..256), body.slice(10..20)]
    );
    for (range, expected) in [
        (GetRange::Offset(200), body.slice(200..)),
        (GetRange::Bounded(250..999), body.slice(250..)),
    ] {
        let options = GetOptions {
            range: Some(range),
            ..GetOptions::default()
        };
        let got = store.get_opts(&at, options).await.unwrap();
        assert_eq!(got.bytes().await.unwrap(), expected);
    }
    assert!(store.get_range(&at, 300..301).await.is_err());
}

/// Azure has none.
async fn the_end_of_an_object_is_read(store: &dyn ObjectStore) {
    let at = Path::from("suffix/object");
    store.put(&at, "0123456789".into()).await.unwrap();
    let options = GetOptions {
        range: Some(GetRange::Suffix(3)),
        ..GetOptions::default()
    };
    let got = store.get_opts(&at, options).await.unwrap();
    assert_eq!(got.bytes().await.unwrap(), "789");
}

async fn lists_are_complete_and_ordered_by_prefix(store: &dyn ObjectStore) {
    for name in ["a", "b/1", "b/2", "b/c/3", "bb/4"] {
        let at = Path::from(format!("list/{name}"));
        store.put(&at, "x".into()).await.unwrap();
    }
    assert_eq!(
        names(store, "list").await,
        set(["list/a", "list/b/1", "list/b/2", "list/b/c/3", "list/bb/4"])
    );
    assert_eq!(
        names(store, "list/b").await,
        set(["list/b/1", "list/b/2", "list/b/c/3"])
    );
    let prefix = Path::from("list");
    let offset = Path::from("list/b/1");
    let behind: Vec<_> = store
        .list_with_offset(Some(&prefix), &offset)
        .map_ok(|m| m.location.to_string())
        .try_collect()
        .await
        .unwrap();
    let behind: BTreeSet<_> = behind.into_iter().collect();
    assert_eq!(behind, set(["list/b/2", "list/b/c/3", "list/bb/4"]));
    let level = store
        .list_with_delimiter(Some(&Path::from("list/b")))
        .await
        .unwrap();
    let objects: BTreeSet<_> = level
        .objects
        .iter()
        .map(|m| m.location.to_string())
        .collect();
    assert_eq!(objects, set(["list/b/1", "list/b/2"]));
    assert_eq!(level.common_prefixes, [Path::from("list/b/c")]);
}

async fn a_multipart_upload_appears_whole(store: &dyn ObjectStore) {
    let at = Path::from("multipart/object");
    store.put(&at, "old".into()).await.unwrap();
    let mut upload = store.put_multipart(&at).await.unwrap();
    let parts: Vec<Bytes> = (0..4u8).map(|i| Bytes::from(vec![i; 5 << 20])).collect();
    let puts: Vec<_> = parts
        .iter()
        .map(|part| upload.put_part(part.clone().into()))
        .collect();
    // The later parts are polled first.
    for result in join_all(puts.into_iter().rev()).await {
        result.unwrap();
    }
    assert_eq!(read(store, &at).await, "old");
    assert_eq!(names(store, "multipart").await, set(["multipart/object"]));
    let put = upload.complete().await.unwrap();
    assert_eq!(read(store, &at).await, parts.concat());
    assert_eq!(store.head(&at).await.unwrap().e_tag, put.e_tag);
    assert_eq!(names(store, "multipart").await, set(["multipart/object"]));
}

async fn an_aborted_upload_leaves_nothing(store: &dyn ObjectStore) {
    let at = Path::from("abort/object");
    let mut upload = store.put_multipart(&at).await.unwrap();
    upload.put_part("part".into()).await.unwrap();
    upload.abort().await.unwrap();
    assert!(names(store, "abort").await.is_empty());
    assert!(store.head(&at).await.is_err());
    // A name is free for another try.
    let mut upload = store.put_multipart(&at).await.unwrap();
    upload.put_part("again".into()).await.unwrap();
    upload.complete().await.unwrap();
    assert_eq!(read(store, &at).await, "again");
}

async fn deletes_remove_and_name_what_they_removed(store: &dyn ObjectStore) {
    let paths: Vec<Path> = (0..20)
        .map(|i| Path::from(format!("delete/{}/{i}", i % 3)))
        .collect();
    for at in &paths {
        store.put(at, "x".into()).await.unwrap();
    }
    store.delete(&paths[0]).await.unwrap();
    assert!(store.head(&paths[0]).await.is_err());
    let rest = paths[1..].to_vec();
    let locations = futures::stream::iter(rest.clone().into_iter().map(Ok)).boxed();
    let deleted: Vec<Path> = store.delete_stream(locations).try_collect().await.unwrap();
    assert_eq!(deleted, rest);
    assert!(names(store, "delete").await.is_empty());
    // Stores differ in whether the second delete of a name is an error; none may bring it back.
    let again = store.delete(&paths[0]).await;
    assert!(matches!(again, Ok(()) | Err(Error::NotFound { .. })));
    store
        .put_opts(&paths[0], "new".into(), PutMode::Create.into())
        .await
        .unwrap();
}

async fn copies_and_renames(store: &dyn ObjectStore) {
    let path = |name: &str| Path::from(format!("copy/{name}"));
    store.put(&path("a"), "a".into()).await.unwrap();
    // Twice: the second copy is of the same content.
    for _ in 0..2 {
        store.copy(&path("a"), &path("deep/b")).await.unwrap();
    }
    assert_eq!(read(store, &path("deep/b")).await, "a");
    let taken = store.copy_if_not_exists(&path("a"), &path("deep/b")).await;
    assert!(matches!(taken, Err(Error::AlreadyExists { .. })));
    let missing = store.copy(&path("no"), &path("c")).await;
    assert!(matches!(missing, Err(Error::NotFound { .. })));
    store.put(&path("a"), "changed".into()).await.unwrap();
    assert_eq!(read(store, &path("deep/b")).await, "a");

    store.copy(&path("deep/b"), &path("c")).await.unwrap();
    store.rename(&path("c"), &path("deep/b")).await.unwrap();
    assert_eq!(names(store, "copy").await, set(["copy/a", "copy/deep/b"]));
    let create = || RenameOptions {
        target_mode: RenameTargetMode::Create,
        ..RenameOptions::default()
    };
    let taken = store
        .rename_opts(&path("a"), &path("deep/b"), create())
        .await;
    assert!(matches!(taken, Err(Error::AlreadyExists { .. })));
    store
        .rename_opts(&path("a"), &path("d"), create())
        .await
        .unwrap();
    assert_eq!(read(store, &path("d")).await, "changed");
    assert_eq!(names(store, "copy").await, set(["copy/d", "copy/deep/b"]));

    let rivals: Vec<Path> = (0..RIVALS).map(|i| path(&format!("from/{i}"))).collect();
    for at in &rivals {
        store.put(at, at.to_string().into()).await.unwrap();
    }
    let target = path("won");
    let copies = rivals.iter().map(|at| {
        let options = object_store::CopyOptions {
            mode: CopyMode::Create,
            ..object_store::CopyOptions::default()
        };
        store.copy_opts(at, &target, options)
    });
    let won = join_all(copies).await.iter().filter(|r| r.is_ok()).count();
    assert_eq!(won, 1);
}

async fn conditional_reads(store: &dyn ObjectStore) {
    let at = Path::from("conditional/object");
    let old = store.put(&at, "x".into()).await.unwrap();
    let new = store.put(&at, "y".into()).await.unwrap();
    let matching = |tag: &Option<String>| GetOptions {
        if_match: tag.clone(),
        ..GetOptions::default()
    };
    assert!(store.get_opts(&at, matching(&new.e_tag)).await.is_ok());
    let stale = store.get_opts(&at, matching(&old.e_tag)).await;
    assert!(matches!(stale, Err(Error::Precondition { .. })));
    let unless = GetOptions {
        if_none_match: new.e_tag.clone(),
        ..GetOptions::default()
    };
    let same = store.get_opts(&at, unless).await;
    assert!(matches!(same, Err(Error::NotModified { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_store_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let store = super::LocalStore::open(dir.path().join("not/yet/there")).unwrap();
    all(&store).await;
    extras(&store).await;
    // What the suite left is the same after another open, and nothing else lies around.
    let left: Vec<_> = store.list(None).try_collect().await.unwrap();
    drop(store);
    let store = super::LocalStore::open(dir.path().join("not/yet/there")).unwrap();
    let found: Vec<_> = store.list(None).try_collect().await.unwrap();
    assert_eq!(left, found);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_store_conforms() {
    let store = object_store::memory::InMemory::new();
    all(&store).await;
    extras(&store).await;
}
