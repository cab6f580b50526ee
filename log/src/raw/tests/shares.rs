// SPDX-License-Identifier: Apache-2.0
//! Several processes archive one stream, each its share of the partitions: every event lands once, whoever takes part,
//! and nothing of an epoch that is over lands behind the next one's claim.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::AsArray as _;
use arrow::datatypes::{Int32Type, Int64Type};
use dovetail_model::{
    IngestEpoch, ManualClock, Offset, PartitionId, Position, Share, Span, StoreEpoch, StreamDef,
};
use futures::future::join_all;
use object_store::ObjectStore;

use super::fencing::Turns;
use super::support::*;
use crate::CommittedBatch;
use crate::catalog::tests::random;
use crate::raw::{Compaction, RawError, RawLog, RawScan, RawWriter};

const PARTITIONS: u32 = 5;

type Places = BTreeSet<(u32, u64)>;

struct Member {
    share: Share,
    raw: RawLog,
}

impl Member {
    async fn join(store: &Arc<dyn ObjectStore>, def: &StreamDef, epoch: u64, share: Share) -> Self {
        let clock = Arc::new(ManualClock::at(1_700_000_000_000_000));
        let writer = RawWriter::member(IngestEpoch(epoch), share);
        let raw = RawLog::open(Arc::clone(store), root(), def, writer, clock);
        Self {
            share,
            raw: raw.await.unwrap(),
        }
    }

    /// Archives two events and a dead letter of each of its partitions; where the events are.
    async fn archive(&self, def: &StreamDef) -> Result<Places, RawError> {
        let from = self.raw.current().await?.archived().clone();
        assert_eq!(self.share.rest(&from), Position::zero());
        let mut at = from.clone();
        let (mut batches, mut places) = (vec![], Places::new());
        for partition in (0..PARTITIONS).filter(|p| self.share.has(PartitionId(*p))) {
            let first = at.get(PartitionId(partition)).0;
            let offsets = [first as i64, first as i64 + 1];
            let batch = batch(def, partition, first..first + 3, &offsets);
            let mut batch = CommittedBatch::clone(&batch);
            let next = at.clone().with(PartitionId(partition), Offset(first + 3));
            batch.span = Span::new(at, next.clone()).unwrap();
            let place = (PartitionId(partition), Offset(first + 2));
            batch.dead_letters = vec![(place, letter(first + 2))];
            at = next;
            places.extend(offsets.map(|offset| (partition, offset as u64)));
            batches.push(Arc::new(batch));
        }
        if batches.is_empty() {
            return Ok(places);
        }
        let span = Span::new(from, at).unwrap();
        self.raw.archive(&span, &batches).await?;
        Ok(places)
    }
}

fn members(count: usize) -> Vec<Share> {
    let share = |rank| Share::new(rank, count);
    (0..count).filter_map(share).collect()
}

/// How many archives were under way at a change of members, and how many of them came too late.
async fn live(seed: u64) -> (usize, usize) {
    let mut random = random(seed);
    let turns = Turns::of(seed ^ 0x5ea7);
    let store: Arc<dyn ObjectStore> = Arc::clone(&turns) as _;
    let def = plain();
    let clock = Arc::new(ManualClock::at(1_700_000_000_000_000));
    let owner = RawLog::open(Arc::clone(&store), root(), &def, StoreEpoch(1), clock);
    let owner = owner.await.unwrap();
    let mut archived = Places::new();
    let (mut acts, mut fenced) = (0, 0);
    let mut old: Vec<Member> = vec![];
    for epoch in 1..4 {
        let count = 1 + random() as usize % 4;
        let joining = members(count).into_iter();
        let joining = join_all(joining.map(|share| Member::join(&store, &def, epoch, share)));
        // Those of the last epoch are at work still: each archive lands before the claim, or not at all.
        let (new, left) = turns
            .during(joining, async |moments| {
                let leave = |member| moments.after(random() % 1500, Member::archive(member, &def));
                join_all(old.iter().map(leave)).await
            })
            .await;
        acts += left.len();
        for result in left {
            match result {
                Ok(places) => archived.extend(places),
                Err(RawError::Superseded { .. }) => fenced += 1,
                Err(error) => panic!("seed {seed}: {error}"),
            }
        }
        for member in &old {
            let late = member.archive(&def).await;
            let idle = (0..PARTITIONS).all(|p| !member.share.has(PartitionId(p)));
            assert!(
                idle || matches!(late, Err(RawError::Superseded { .. })),
                "seed {seed}"
            );
        }
        for _ in 0..2 {
            let compaction = Compaction {
                min_files: 2,
                ..Compaction::default()
            };
            let archiving = join_all(new.iter().map(|member| member.archive(&def)));
            let (done, compacted) = tokio::join!(archiving, owner.compact(compaction));
            compacted.unwrap();
            for places in done {
                let places = places.unwrap();
                let before = archived.len();
                let count = places.len();
                archived.extend(places);
                assert_eq!(
                    archived.len(),
                    before + count,
                    "archived twice, seed {seed}"
                );
            }
        }
        old = new;
    }
    check(&store, &owner, &archived, seed).await;
    (acts, fenced)
}

async fn check(store: &Arc<dyn ObjectStore>, owner: &RawLog, archived: &Places, seed: u64) {
    let snapshot = owner.newest().await.unwrap();
    let all = RawScan::of(Span::up_to(snapshot.archived().clone()));
    let rows = scan(store, &snapshot, all).await;
    let partitions = rows.column_by_name("_partition").unwrap();
    let partitions = partitions.as_primitive::<Int32Type>().values().iter();
    let offsets = rows.column_by_name("_offset").unwrap();
    let offsets = offsets.as_primitive::<Int64Type>().values().iter();
    let found: Vec<(u32, u64)> = partitions
        .zip(offsets)
        .map(|(p, o)| (p.cast_unsigned(), o.cast_unsigned()))
        .collect();
    assert_eq!(found.len(), archived.len(), "seed {seed}");
    assert_eq!(&Places::from_iter(found), archived, "seed {seed}");
    let letters = dead_letters(owner).await;
    let letters: Vec<_> = letters
        .iter()
        .map(|l| (l.partition.0, l.offset.0))
        .collect();
    let expected = archived.iter().filter(|(_, offset)| offset % 3 == 1);
    let expected: Vec<_> = expected.map(|(p, offset)| (*p, offset + 1)).collect();
    assert_eq!(letters, expected, "seed {seed}");
}

#[tokio::test]
async fn shares_are_archived_side_by_side_and_change_hands_exactly() {
    let (mut acts, mut fenced) = (0, 0);
    for seed in 0..4 {
        let lived = Box::pin(live(seed)).await;
        (acts, fenced) = (acts + lived.0, fenced + lived.1);
    }
    assert!(fenced >= 2 && fenced + 2 <= acts, "{fenced} of {acts}");
}
