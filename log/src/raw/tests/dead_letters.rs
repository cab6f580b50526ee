// SPDX-License-Identifier: Apache-2.0
//! Dead letters come back as they came in, until they are replayed.

use std::sync::Arc;

use arrow::array::RecordBatchReader;
use dovetail_model::{Offset, PartitionId, Position, Span};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use super::support::*;
use crate::raw::{ArchivedDeadLetter, DeadLetters, RawLog};
use crate::{CommittedBatch, Envelope};

fn offsets(letters: &[ArchivedDeadLetter]) -> Vec<u64> {
    letters.iter().map(|letter| letter.offset.0).collect()
}

/// A page behind the dead letter at `after` of partition 0.
async fn page(log: &RawLog, after: Option<u64>, limit: usize) -> DeadLetters {
    let after = after.map(|offset| (PartitionId(0), Offset(offset)));
    log.dead_letters(after, limit, &|_, _| true).await.unwrap()
}

#[tokio::test]
async fn a_dead_letter_comes_back_whole_until_it_is_replayed() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let log = open(&store, &def).await.unwrap();
    let first = with_dead(&batch(&def, 0, 0..6, &[0, 5]), &[1, 2, 3, 4], &[]);
    log.archive(&span(0, 6), &[first]).await.unwrap();
    let expected = |offset: u64| ArchivedDeadLetter {
        partition: PartitionId(0),
        offset: Offset(offset),
        arrived_at_us: 0,
        letter: letter(offset),
    };
    let first = page(&log, None, 2).await;
    assert_eq!(first.letters, [expected(1), expected(2)]);
    assert!(first.more && first.total == 4);
    let second = page(&log, Some(2), 2).await;
    assert_eq!(second.letters, [expected(3), expected(4)]);
    assert!(!second.more && second.total == 4);
    assert_eq!(page(&log, Some(4), 9).await.letters, []);
    let some = log.dead_letters(None, 9, &|_, offset| offset.0 % 2 == 0);
    let some = some.await.unwrap();
    assert_eq!((offsets(&some.letters), some.total), (vec![2, 4], 2));

    // 2 is replayed and becomes an event; 3 is replayed and dead again, at a new offset.
    let second = with_dead(&batch(&def, 0, 6..8, &[6]), &[7], &[2, 3]);
    log.archive(&span(6, 8), &[second]).await.unwrap();
    assert_eq!(offsets(&dead_letters(&log).await), [1, 4, 7]);
    assert_eq!(dead_letter_count(&log).await, 3);

    let reopened = open(&store, &def).await.unwrap();
    assert_eq!(dead_letter_count(&reopened).await, 3);
    assert_eq!(offsets(&dead_letters(&reopened).await), [1, 4, 7]);
    assert_eq!(page(&reopened, None, 1).await.letters, [expected(1)]);
}

#[tokio::test]
async fn a_stream_without_dead_letters_has_no_table_for_them() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let log = open(&store, &def).await.unwrap();
    log.archive(&span(0, 5), &[full(&def, 0..5)]).await.unwrap();
    assert_eq!(dead_letter_count(&log).await, 0);
    assert_eq!(dead_letters(&log).await, []);
    let list = store.list_with_delimiter(Some(&root())).await.unwrap();
    assert_eq!(list.common_prefixes.len(), 1);
}

#[tokio::test]
async fn partitions_keep_their_dead_letters_apart() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let log = open(&store, &def).await.unwrap();
    let zero = with_dead(&batch(&def, 0, 0..3, &[0, 2]), &[1], &[]);
    let one = with_dead(&batch(&def, 1, 0..3, &[0, 2]), &[1], &[]);
    let to = position(&[(0, 3), (1, 3)]);
    log.archive(
        &Span::new(Position::zero(), to.clone()).unwrap(),
        &[zero, one],
    )
    .await
    .unwrap();
    let mark = with_dead(&batch(&def, 1, 3..4, &[3]), &[], &[1]);
    let next = Span::new(to.clone(), to.with(PartitionId(1), Offset(4))).unwrap();
    log.archive(&next, &[mark]).await.unwrap();
    let left = dead_letters(&log).await;
    assert_eq!(left.len(), 1);
    assert_eq!(
        (left[0].partition, left[0].offset),
        (PartitionId(0), Offset(1))
    );
}

#[tokio::test]
async fn compaction_leaves_dead_letters_as_they_are() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let log = open(&store, &def).await.unwrap();
    for first in (0..20).step_by(2) {
        let marks = if first == 10 { &[3, 5][..] } else { &[] };
        let dead = with_dead(
            &batch(&def, 0, first..first + 2, &[first as i64]),
            &[first + 1],
            marks,
        );
        log.archive(&span(first, first + 2), &[dead]).await.unwrap();
    }
    let before = dead_letters(&log).await;
    assert_eq!(before.len(), 8);
    let done = log.compact(Default::default()).await.unwrap();
    assert_eq!((done.files, done.into), (20, 2));
    assert_eq!(dead_letters(&log).await, before);
    let reopened = open(&store, &def).await.unwrap();
    assert_eq!(dead_letters(&reopened).await, before);
}

/// A batch up to offset `first + 1` whose one letter was a record of a broker.
fn of_a_record(first: u64) -> Arc<CommittedBatch> {
    let batch = batch(&plain(), 0, first..first + 1, &[]);
    let mut batch = CommittedBatch::clone(&with_dead(&batch, &[first], &[]));
    let header =
        |name: &str, value: Option<&'static [u8]>| (name.to_owned(), value.map(Into::into));
    batch.dead_letters[0].1.envelope = Some(Envelope {
        key: (first > 0).then(|| "a".into()),
        timestamp_ms: (first > 0).then_some(1_234),
        headers: match first {
            0 => vec![],
            _ => vec![header("h", Some(b"\xff")), header("", None)],
        },
    });
    Arc::new(batch)
}

#[tokio::test]
async fn the_letter_of_a_record_keeps_what_was_beside_its_value() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let log = open(&store, &plain()).await.unwrap();
    let batches = [of_a_record(0), of_a_record(1)];
    for (first, batch) in (0..).zip(&batches) {
        let span = span(first, first + 1);
        log.archive(&span, &[Arc::clone(batch)]).await.unwrap();
    }
    let found = dead_letters(&open(&store, &plain()).await.unwrap()).await;
    for (found, batch) in found.iter().zip(&batches) {
        assert_eq!(found.letter, batch.dead_letters[0].1);
    }
    assert_eq!(found.len(), 2);
}

/// Takes the last three columns out of the table, which has one file: so older programs made it.
async fn make_older(store: &Arc<dyn ObjectStore>) {
    const COLUMNS: usize = 10;
    let table = root().join("dead-letters");
    let commit = |version: u64| {
        table
            .clone()
            .join("_delta_log")
            .join(format!("{version:020}.json"))
    };
    let read = async |path: &Path| store.get(path).await.unwrap().bytes().await.unwrap();
    let mut file = None;
    for version in 0..2 {
        let text = read(&commit(version)).await;
        let mut lines = String::new();
        for line in str::from_utf8(&text).unwrap().lines() {
            let mut action: Value = serde_json::from_str(line).unwrap();
            if let Some(schema) = action.pointer_mut("/metaData/schemaString") {
                let mut fields: Value = serde_json::from_str(schema.as_str().unwrap()).unwrap();
                fields["fields"].as_array_mut().unwrap().truncate(COLUMNS);
                *schema = json!(fields.to_string());
            }
            if let Some(add) = action.get_mut("add") {
                let path = table.clone().join(add["path"].as_str().unwrap());
                let rows = ParquetRecordBatchReaderBuilder::try_new(read(&path).await);
                let rows = rows.unwrap().build().unwrap();
                let columns: Vec<usize> = (0..COLUMNS).collect();
                let schema = Arc::new(rows.schema().project(&columns).unwrap());
                let mut written = ArrowWriter::try_new(Vec::new(), schema, None).unwrap();
                for rows in rows {
                    let rows = rows.unwrap().project(&columns).unwrap();
                    written.write(&rows).unwrap();
                }
                let written = written.into_inner().unwrap();
                add["size"] = json!(written.len());
                store.put(&path, written.into()).await.unwrap();
                file = Some(path);
            }
            // An earlier build kept no checksum of them.
            if let Some(info) = action["commitInfo"].as_object_mut() {
                info.remove("dovetailChecksum");
            }
            lines += &format!("{action}\n");
        }
        store.put(&commit(version), lines.into()).await.unwrap();
    }
    file.expect("a file was added");
}

#[tokio::test]
async fn a_table_from_before_envelopes_were_kept_is_read_and_widened() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let log = open(&store, &plain()).await.unwrap();
    let old = with_dead(&batch(&plain(), 0, 0..1, &[]), &[0], &[]);
    log.archive(&span(0, 1), &[Arc::clone(&old)]).await.unwrap();
    make_older(&store).await;
    let log = open(&store, &plain()).await.unwrap();
    let new = of_a_record(1);
    log.archive(&span(1, 2), &[Arc::clone(&new)]).await.unwrap();
    log.archive(&span(2, 3), &[of_a_record(2)]).await.unwrap();
    for log in [&log, &open(&store, &plain()).await.unwrap()] {
        let found = dead_letters(log).await;
        assert_eq!(found[0].letter, old.dead_letters[0].1);
        assert_eq!(found[1].letter, new.dead_letters[0].1);
        assert_eq!(found.len(), 3);
    }
    // Other engines see the columns, and are told of them once.
    let mut widened = vec![];
    for version in 0..6 {
        let path = format!("{}/dead-letters/_delta_log/{version:020}.json", root());
        let Ok(commit) = store.get(&Path::from(path)).await else {
            break;
        };
        let commit = commit.bytes().await.unwrap();
        let text = str::from_utf8(&commit).unwrap();
        widened.extend(text.contains("\\\"headers\\\"").then_some(version));
    }
    assert_eq!(widened.len(), 1, "{widened:?}");
}

/// Pages hold a few megabytes, not a number of letters: together they hold each letter once.
#[tokio::test]
async fn large_dead_letters_come_in_small_pages() {
    const MIB: usize = 1024 * 1024;
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let def = plain();
    let log = open(&store, &def).await.unwrap();
    for first in [0, 10, 20] {
        let dead: Vec<u64> = (first..first + 10).collect();
        let events = batch(&def, 0, first..first + 10, &[]);
        let mut large = CommittedBatch::clone(&with_dead(&events, &dead, &[]));
        for ((_, offset), letter) in &mut large.dead_letters {
            // The last one alone is more than a page.
            let size = match offset.0 {
                29 => 9 * MIB,
                offset if offset % 3 == 0 => 3 * MIB,
                _ => 1000,
            };
            letter.bytes = vec![b'x'; size].into();
        }
        let all = span(first, first + 10);
        log.archive(&all, &[Arc::new(large)]).await.unwrap();
    }
    let (mut after, mut found) = (None, vec![]);
    loop {
        let page = page(&log, after, 1000).await;
        let bytes: usize = page.letters.iter().map(|l| l.letter.bytes.len()).sum();
        assert!(bytes <= 8 * MIB || page.letters.len() == 1, "{bytes}");
        assert_eq!(page.total, 30);
        found.extend(offsets(&page.letters));
        after = found.last().copied();
        if !page.more {
            break;
        }
    }
    assert_eq!(found, (0..30).collect::<Vec<_>>());
}
