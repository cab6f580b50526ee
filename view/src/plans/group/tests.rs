// SPDX-License-Identifier: Apache-2.0
use datafusion::catalog::memory::MemorySourceConfig;
use proptest::prelude::*;

use super::*;
use crate::plans::testing::{self, Event, batches, events, largest_row};

const BY_KEY: &str = "SELECT k, x % 7 AS rest, count(*) AS n, min(x) AS least, avg(x) AS mean FROM s GROUP BY k, x % 7";
const ORDERED: &str =
    "SELECT k, nth_value(x, 1 ORDER BY x) AS first, count(*) AS n FROM s GROUP BY k";
const OF_ALL: &str = "SELECT count(*) AS n, sum(x) AS total FROM s";

/// So many spills.
fn check(
    sql: &str,
    partitions: &[Vec<Vec<Event>>],
    piece_bytes: usize,
    memory_bytes: usize,
) -> usize {
    let (merging, order, read) = testing::merging(sql, piece_bytes);
    assert!(!merging.operators.states_grow());
    let mut first = 0;
    let mut all = Vec::new();
    let mut of_partitions = Vec::new();
    for batches in partitions {
        let mut of_this = Vec::new();
        for batch in batches {
            let events = events(batch, first).project(&read).unwrap();
            first += batch.len();
            all.push(merging.operators.accumulate(events.clone()).unwrap());
            of_this.push(events);
        }
        of_partitions.push(of_this);
    }
    let whole = merging.merge(all).unwrap();
    let schema = Arc::new(testing::stream().events().project(&read).unwrap());
    let leaf = MemorySourceConfig::try_new_exec(&of_partitions, schema, None).unwrap();
    let plan = Arc::new(GroupExec::new(leaf, merging.clone(), order));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let outcome = runtime.block_on(testing::run(plan, memory_bytes));
    // A piece of two files, or of each partition; the pool gives each of the operators its share.
    let pieces = partitions.len().max(2) * merging.memory(piece_bytes.max(largest_row(&whole)));
    let enough = memory_bytes >= pieces * (partitions.len() + 1);
    testing::check(&merging, &outcome, &whole, enough);
    outcome.spills
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// However little memory there is: the groups of one table of all events, or an error that says it was too little.
    #[test]
    fn events_are_grouped_in_any_memory_or_it_is_said_that_it_was_too_little(
        partitions in proptest::collection::vec(batches(), 1..4),
        piece_bytes in prop_oneof![Just(1_usize), Just(500), Just(20_000)],
        memory_bytes in prop_oneof![Just(1_usize), Just(20_000), Just(200_000), Just(10_000_000)],
        sql in prop_oneof![8 => Just(BY_KEY), 1 => Just(ORDERED), 1 => Just(OF_ALL)],
    ) {
        check(sql, &partitions, piece_bytes, memory_bytes);
    }
}

#[test]
fn a_table_that_outgrows_its_memory_is_spilled_and_begun_anew() {
    let batch = |first: i64| (0..200).map(|i| (first + i, i)).collect::<Vec<_>>();
    let batches: Vec<_> = (0..50).map(|index| batch(index * 31)).collect();
    let partitions = [batches.clone(), batches];
    assert_eq!(check(BY_KEY, &partitions, 20_000, 100 << 20), 0);
    let spills = check(BY_KEY, &partitions, 400, 200_000);
    assert!(spills > 20, "{spills}");
}
