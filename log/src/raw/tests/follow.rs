// SPDX-License-Identifier: Apache-2.0
//! Whoever follows a raw log pays for its news alone, and knows what one knows who reads all of it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use dovetail_model::{Clock, ColumnType, IngestEpoch, ManualClock, Share, StoreEpoch, StreamDef};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::support::counting::CountingStore;
use super::support::*;
use crate::catalog::tests::random;
use crate::raw::{Compaction, RawError, RawLog, RawReader, RawWriter};

fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::at(1_700_000_000_000_000))
}

fn reader(store: &Arc<dyn ObjectStore>) -> RawReader {
    let stream = plain().id;
    RawReader::new(Arc::clone(store), root(), stream, clock()).unwrap()
}

async fn opened(store: &Arc<dyn ObjectStore>, writer: impl Into<RawWriter>) -> RawLog {
    let (store, def) = (Arc::clone(store), plain());
    let opened = RawLog::open(store, root(), &def, writer, clock());
    opened.await.unwrap()
}

async fn owner(store: &Arc<dyn ObjectStore>, epoch: u64) -> RawLog {
    opened(store, StoreEpoch(epoch)).await
}

/// One of two that archive, each one partition.
async fn member(store: &Arc<dyn ObjectStore>, rank: usize) -> RawLog {
    let writer = RawWriter::member(IngestEpoch(1), Share::new(rank, 2).unwrap());
    opened(store, writer).await
}

/// Archives events one by one.
async fn archive_each(log: &RawLog, partition: u32, offsets: Range<u64>) {
    for first in offsets {
        let batch = batch(&plain(), partition, first..first + 1, &[first as i64]);
        log.archive(&batch.span, std::slice::from_ref(&batch))
            .await
            .unwrap();
    }
}

fn commit(version: u64) -> String {
    format!("{version:020}.json")
}

/// Where the Delta log has the entry `name`.
fn entry(name: &str) -> Path {
    root().join("raw").join("_delta_log").join(name)
}

fn gets(versions: Range<u64>) -> Vec<String> {
    versions.map(|v| format!("GET {}", commit(v))).collect()
}

/// A look that finds the commits of `versions`, and that there are no more.
fn look(versions: Range<u64>) -> Vec<String> {
    let mut asked = gets(versions.start..versions.end + 1);
    asked.push("GET _last_checkpoint".to_owned());
    asked
}

#[tokio::test]
async fn a_look_costs_what_is_new_however_long_the_log() {
    for commits in [3, 50] {
        let counting = CountingStore::default();
        let store: Arc<dyn ObjectStore> = Arc::new(counting.clone());
        let log = owner(&store, 0).await;
        archive_each(&log, 0, 0..commits).await;
        let (reader, follower) = (reader(&store), owner(&store, 0).await);
        let schema = plain().schema;
        reader.newest(&schema).await.unwrap();
        let version = log.snapshot().version();
        counting.asked();

        let idle = look(version + 1..version + 1);
        reader.newest(&schema).await.unwrap();
        assert_eq!(counting.asked(), idle);
        follower.newest().await.unwrap();
        assert_eq!(counting.asked(), idle);

        archive_each(&log, 0, commits..commits + 4).await;
        counting.asked();
        let news = look(version + 1..version + 5);
        let read = reader.newest(&schema).await.unwrap();
        assert_eq!(counting.asked(), news);
        let followed = follower.newest().await.unwrap();
        assert_eq!(counting.asked(), news);
        for found in [read, followed] {
            assert_eq!(found.segments(), log.snapshot().segments());
            assert_eq!(*found.archived(), at(commits + 4));
        }
    }
}

/// As a worker, for which the process that has the store holds versions.
#[tokio::test]
async fn a_reader_goes_on_to_a_later_version_by_its_commits() {
    let counting = CountingStore::default();
    let store: Arc<dyn ObjectStore> = Arc::new(counting.clone());
    let log = owner(&store, 0).await;
    archive_each(&log, 0, 0..5).await;
    let (reader, schema) = (reader(&store), plain().schema);
    let first = reader.at(3, &schema).await.unwrap();
    assert_eq!(*first.archived(), at(3));
    counting.asked();
    assert_eq!(*reader.at(5, &schema).await.unwrap().archived(), at(5));
    assert_eq!(counting.asked(), gets(4..6));
    assert_eq!(*reader.at(5, &schema).await.unwrap().archived(), at(5));
    assert!(counting.asked().is_empty());
    // An earlier one again, and one that is not there.
    assert_eq!(*reader.at(4, &schema).await.unwrap().archived(), at(4));
    assert!(reader.at(6, &schema).await.is_err());
    // What was asked for by its version may have been compacted since: it does not pass for the newest.
    counting.asked();
    reader.covering(&at(2), &schema).await.unwrap();
    assert_eq!(counting.asked(), look(6..6));
}

#[tokio::test]
async fn whose_version_is_taken_reads_the_commits_that_took_it() {
    let counting = CountingStore::default();
    let store: Arc<dyn ObjectStore> = Arc::new(counting.clone());
    let (one, other) = (member(&store, 0).await, member(&store, 1).await);
    archive_each(&one, 0, 0..30).await;
    archive_each(&other, 1, 0..1).await;
    for (place, foreign) in [(30, 1..2), (31, 2..8)] {
        let known = one.snapshot().version();
        archive_each(&other, 1, foreign).await;
        let newest = other.snapshot().version();
        counting.asked();
        archive_each(&one, 0, place..place + 1).await;
        let mut expected = vec![format!("PUT {}", commit(known + 1))];
        expected.extend(look(known + 1..newest + 1));
        expected.push(format!("PUT {}", commit(newest + 1)));
        let mut asked = counting.asked();
        asked.retain(|asked| !asked.ends_with(".parquet"));
        assert_eq!(asked, expected);
    }
    let archived = position(&[(0, 32), (1, 8)]);
    let found = reader(&store).newest(&plain().schema).await.unwrap();
    assert_eq!(*found.archived(), archived);
}

/// Commits behind what it knows are gone: that the next one is not there must not pass for that there is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_slept_through_an_expiry_loads_the_table() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let log = owner(&store, 1).await;
    archive_each(&log, 0, 0..3).await;
    let (reader, schema) = (reader(&store), plain().schema);
    let old = reader.newest(&schema).await.unwrap();
    let follower = owner(&store, 1).await;
    let next = owner(&store, 2).await;
    archive_each(&next, 0, 3..6).await;
    next.checkpoint().await.unwrap();
    assert!(next.vacuum(Duration::ZERO).await.unwrap().log_entries > 3);
    let successor = entry(&commit(old.version() + 1));
    assert!(store.head(&successor).await.is_err());
    assert!(store.head(&entry("_last_checkpoint")).await.is_ok());

    assert!(reader.at(old.version() + 2, &schema).await.is_err());
    assert_eq!(*reader.newest(&schema).await.unwrap().archived(), at(6));
    // And the claim that has expired with them still holds.
    let late = follower.newest().await;
    assert!(matches!(late, Err(RawError::Superseded { .. })), "{late:?}");
}

/// Between a checkpoint and its hint a process may end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_expires_before_those_who_follow_can_tell() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let log = owner(&store, 0).await;
    archive_each(&log, 0, 0..3).await;
    let (reader, schema) = (reader(&store), plain().schema);
    reader.newest(&schema).await.unwrap();
    archive_each(&log, 0, 3..6).await;
    log.checkpoint().await.unwrap();
    store.delete(&entry("_last_checkpoint")).await.unwrap();
    assert_eq!(log.vacuum(Duration::ZERO).await.unwrap().log_entries, 0);
    assert_eq!(*reader.newest(&schema).await.unwrap().archived(), at(6));
}

#[tokio::test]
async fn who_follows_knows_of_columns_that_another_process_added() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (log, follower) = (owner(&store, 0).await, owner(&store, 0).await);
    let mut schema = plain().schema;
    schema
        .columns
        .push(column("note", ColumnType::Varchar, true));
    log.widen(&schema).await.unwrap();
    let version = follower.newest().await.unwrap().version();
    assert_eq!(version, log.snapshot().version());
    follower.widen(&schema).await.unwrap();
    assert_eq!(
        follower.snapshot().version(),
        version,
        "there was room already"
    );
}

/// One stream's life, followed by those that look now and then.
struct Life {
    store: Arc<dyn ObjectStore>,
    def: StreamDef,
    log: RawLog,
    epoch: u64,
    next: u64,
}

impl Life {
    async fn act(&mut self, act: u64) {
        match act % 16 {
            0 => {
                let compaction = Compaction {
                    min_files: 2,
                    ..Compaction::default()
                };
                self.log.compact(compaction).await.unwrap();
            }
            1 => self.log.checkpoint().await.unwrap(),
            2 => {
                self.log.vacuum(Duration::ZERO).await.unwrap();
            }
            3 => {
                self.epoch += 1;
                let epoch = StoreEpoch(self.epoch);
                let store = Arc::clone(&self.store);
                let opened = RawLog::open(store, root(), &self.def, epoch, clock());
                self.log = opened.await.unwrap();
            }
            4 if self.def.schema.columns.len() < 4 => {
                let name = format!("c{}", self.next);
                let added = column(&name, ColumnType::Varchar, true);
                self.def.schema.columns.push(added);
                self.log.widen(&self.def.schema).await.unwrap();
                self.log.adopt(&self.def.schema).await.unwrap();
            }
            _ => self.archive().await,
        }
    }

    /// Two events, and a dead letter in between every third time.
    async fn archive(&mut self) {
        let first = self.next;
        let events = batch(&plain(), 0, first..first + 3, &[first as i64]);
        let dead = match first % 9 {
            0 => vec![first + 1],
            _ => vec![],
        };
        let batch = with_dead(&events, &dead, &[]);
        let span = span(first, first + 3);
        self.log.archive(&span, &[batch]).await.unwrap();
        self.next += 3;
    }
}

async fn live(seed: u64) -> usize {
    let mut random = random(seed);
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut life = Life {
        log: owner(&store, 1).await,
        store: Arc::clone(&store),
        def: plain(),
        epoch: 1,
        next: 0,
    };
    life.archive().await;
    let readers = [reader(&store), reader(&store)];
    // Of an epoch that no claim is behind.
    let writer = RawWriter::member(IngestEpoch(0), Share::ALL);
    let follower = opened(&store, writer).await;
    let mut looks = 0;
    for _ in 0..40 {
        life.act(random()).await;
        let who = random() % 24;
        let found = match who {
            0..4 => readers[0].newest(&life.def.schema).await.unwrap(),
            4 => readers[1].newest(&life.def.schema).await.unwrap(),
            5..9 => follower.newest().await.unwrap(),
            _ => continue,
        };
        let whole = reader(&store).newest(&life.def.schema).await.unwrap();
        assert_eq!(found.version(), whole.version(), "seed {seed}");
        assert_eq!(found.segments(), whole.segments(), "seed {seed}");
        if who < 5 {
            assert_eq!(found.schema(), whole.schema(), "seed {seed}");
        } else {
            let letters = dead_letters(&follower).await;
            assert_eq!(letters, dead_letters(&life.log).await, "seed {seed}");
        }
        looks += 1;
    }
    looks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_knows_what_one_knows_who_reads_everything() {
    let mut looks = 0;
    for seed in 0..3 {
        looks += Box::pin(live(seed)).await;
    }
    assert!(looks > 35, "{looks}");
}
