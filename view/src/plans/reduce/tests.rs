// SPDX-License-Identifier: Apache-2.0
use datafusion::catalog::memory::MemorySourceConfig;
use proptest::prelude::*;

use super::*;
use crate::plans::testing::{self, Event, batches, events, largest_row};

const BY_KEY: &str = "SELECT k, array_agg(x ORDER BY x DESC) AS all_of_them, median(x) AS middle, \
     count(DISTINCT x) AS different, count(*) AS n FROM s GROUP BY k";
const OF_ALL: &str = "SELECT array_agg(x ORDER BY x) AS all_of_them, count(*) AS n FROM s";

fn check(sql: &str, batches: &[Vec<Event>], piece_bytes: usize, memory_part: f64) -> usize {
    let (merging, order, read) = testing::merging(sql, piece_bytes);
    assert!(merging.operators.states_grow());
    let mut first = 0;
    let mut states = Vec::new();
    for batch in batches {
        let events = events(batch, first).project(&read).unwrap();
        first += batch.len();
        states.push(merging.operators.accumulate(events).unwrap());
    }
    let whole = merging.merge(states.clone()).unwrap();
    // With this much it must come through: one batch, or a piece of two files.
    let batch = states.iter().map(bytes_of).max().unwrap_or(0);
    let enough = merging.memory(batch.max(2 * piece_bytes.max(largest_row(&whole))));
    let memory_bytes = (enough as f64 * memory_part) as usize;

    let schema = Arc::clone(merging.operators.state_schema());
    let states = MemorySourceConfig::try_new_exec(&[states], schema, None).unwrap();
    let plan = Arc::new(ReduceExec::new(states, merging.clone(), order));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let outcome = runtime.block_on(testing::run(plan, memory_bytes));
    testing::check(&merging, &outcome, &whole, memory_part >= 1.0);
    outcome.spills
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// However little memory there is: the answer of a merge in memory, or an error that says it was too little.
    #[test]
    fn states_are_merged_in_any_memory_or_it_is_said_that_it_was_too_little(
        batches in batches(),
        piece_bytes in prop_oneof![Just(1_usize), Just(500), Just(20_000)],
        memory_part in prop_oneof![Just(0.5), Just(1.0), Just(3.0)],
        of_all in proptest::bool::weighted(0.1),
    ) {
        let sql = if of_all { OF_ALL } else { BY_KEY };
        check(sql, &batches, piece_bytes, memory_part);
    }
}

#[test]
fn many_files_are_merged_in_several_passes() {
    let batch = |first: i64| (0..200).map(|i| ((first + i) % 317, i)).collect::<Vec<_>>();
    let batches: Vec<_> = (0..120).map(|index| batch(index * 31)).collect();
    let spills = check(BY_KEY, &batches, 400, 1.0);
    // More than there would be if each were written once.
    assert!(spills > 120, "{spills}");
}
