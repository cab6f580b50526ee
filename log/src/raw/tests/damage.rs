// SPDX-License-Identifier: Apache-2.0
//! What is not as it was written in a Delta log is named with its file, and nothing is made of it.

use std::sync::Arc;

use dovetail_model::{ManualClock, ProblemKind};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::support::*;
use crate::raw::{RawError, RawReader, RawSnapshot};

/// A raw log of ten commits in `store`, closed.
async fn archived(store: &Arc<dyn ObjectStore>, checkpoint: bool) {
    let def = plain();
    let log = open(store, &def).await.unwrap();
    for first in (0..50).step_by(5) {
        log.archive(&span(first, first + 5), &[full(&def, first..first + 5)])
            .await
            .unwrap();
    }
    if checkpoint {
        log.checkpoint().await.unwrap();
    }
}

/// The newest file of the events' Delta log whose name ends so.
async fn newest(store: &InMemory, ending: &str) -> Path {
    let log = root().join("raw").join("_delta_log");
    let listed = store.list_with_delimiter(Some(&log)).await.unwrap();
    let paths = listed.objects.into_iter().map(|object| object.location);
    paths
        .filter(|path| path.as_ref().ends_with(ending))
        .max()
        .unwrap()
}

/// What opens where `file` holds `bytes`.
async fn opened(
    store: &InMemory,
    file: &Path,
    bytes: Vec<u8>,
) -> Result<Arc<RawSnapshot>, RawError> {
    let store = store.fork();
    store.put(file, bytes.into()).await.unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    Ok(open(&store, &plain()).await?.snapshot())
}

fn names(error: &RawError, file: &Path) {
    let text = error.to_string();
    assert_eq!(error.kind(), ProblemKind::Internal, "{text}");
    for part in [
        file.as_ref(),
        "is damaged: ",
        "restore the file from a copy",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(text.lines().count(), 1, "{text}");
}

async fn read(store: &InMemory, file: &Path) -> Vec<u8> {
    store.get(file).await.unwrap().bytes().await.unwrap().into()
}

#[tokio::test]
async fn any_bit_of_the_actions_of_a_commit_is_missed() {
    let memory = Arc::new(InMemory::new());
    let store: Arc<dyn ObjectStore> = memory.clone();
    archived(&store, false).await;
    let file = newest(&memory, ".json").await;
    let whole = read(&memory, &file).await;
    let actions = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for at in (actions..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        names(&opened(&memory, &file, bytes).await.unwrap_err(), &file);
    }
    for cut in [0, 1, actions, whole.len() - 2] {
        let bytes = whole[..cut].to_vec();
        names(&opened(&memory, &file, bytes).await.unwrap_err(), &file);
    }
}

#[tokio::test]
async fn a_commit_that_is_missing_is_named_by_the_one_behind_it() {
    let memory = Arc::new(InMemory::new());
    let store: Arc<dyn ObjectStore> = memory.clone();
    archived(&store, false).await;
    let last = newest(&memory, ".json").await;
    let missing = Path::from(last.as_ref().replace("10.json", "09.json"));
    assert_ne!(missing, last);
    memory.delete(&missing).await.unwrap();
    let error = open(&store, &plain()).await.unwrap_err();
    names(&error, &last);
    assert!(error.to_string().contains("no commit 9"), "{error}");
}

#[tokio::test]
async fn any_bit_of_a_checkpoint_is_missed() {
    let memory = Arc::new(InMemory::new());
    let store: Arc<dyn ObjectStore> = memory.clone();
    archived(&store, true).await;
    let file = newest(&memory, ".checkpoint.parquet").await;
    let whole = read(&memory, &file).await;
    for at in (0..whole.len()).step_by(97) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        names(&opened(&memory, &file, bytes).await.unwrap_err(), &file);
    }
    for cut in [0, 100, whole.len() - 9] {
        let bytes = whole[..cut].to_vec();
        names(&opened(&memory, &file, bytes).await.unwrap_err(), &file);
    }
    // What tells readers of it is not needed.
    let hint = newest(&memory, "_last_checkpoint").await;
    let read = opened(&memory, &hint, vec![7; 20]).await.unwrap();
    assert_eq!(*read.archived(), at(50));
}

/// As earlier builds left it.
#[tokio::test]
async fn a_checkpoint_without_a_checksum_is_decoded_before_it_is_used() {
    let memory = Arc::new(InMemory::new());
    let store: Arc<dyn ObjectStore> = memory.clone();
    archived(&store, true).await;
    let file = newest(&memory, ".checkpoint.parquet").await;
    let sum = newest(&memory, ".checkpoint.parquet.blake3").await;
    memory.delete(&sum).await.unwrap();
    let mut bytes = read(&memory, &file).await;
    let right = opened(&memory, &file, bytes.clone()).await.unwrap();
    assert_eq!(*right.archived(), at(50));
    let footer = bytes.len() - 100;
    bytes[footer..].fill(0);
    names(&opened(&memory, &file, bytes).await.unwrap_err(), &file);
}

/// Who follows a raw log reads what is behind the version that it knows.
#[tokio::test]
async fn who_follows_hears_of_damage_too() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let log = open(&store, &def).await.unwrap();
    let clock = Arc::new(ManualClock::at(1_700_000_000_000_000));
    let reader = RawReader::new(Arc::clone(&store), root(), def.id.clone(), clock).unwrap();
    reader.newest(&def.schema).await.unwrap();
    log.archive(&span(0, 5), &[full(&def, 0..5)]).await.unwrap();
    let file = root().join("raw").join("_delta_log");
    let file = file.join(format!("{:020}.json", log.snapshot().version()));
    let whole = store.get(&file).await.unwrap().bytes().await.unwrap();
    let text = String::from_utf8(whole.to_vec()).unwrap();
    let wrong = text.replace("numRecords\\\":5", "numRecords\\\":7");
    assert_ne!(wrong, text);
    store.put(&file, wrong.into()).await.unwrap();
    names(&reader.newest(&def.schema).await.unwrap_err(), &file);
    store.put(&file, text.into()).await.unwrap();
    assert_eq!(*reader.newest(&def.schema).await.unwrap().archived(), at(5));
}
