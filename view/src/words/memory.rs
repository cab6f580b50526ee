// SPDX-License-Identifier: Apache-2.0
//! Memory and disk that a step of the engine did not get.

/// How much a step asked for and how much there is; not which part of the engine it was, nor the engine's settings.
pub(super) fn exhausted(text: &str) -> Option<String> {
    refused(text)
        .or_else(|| indivisible(text))
        .or_else(|| disk(text))
}

/// `Failed to allocate additional X for … with Z already allocated for this reservation - Y remain available …`. Of Y
/// the pools say whether Z is part of it or not only by their kind: what is said here is true of both. Behind it stands the
/// pool, as `greedy(used: U, pool_size: P)`.
fn refused(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("Failed to allocate additional ")?;
    let (more, rest) = rest.split_once(" for ")?;
    let (before, rest) = rest.split_once(" already allocated for this reservation - ")?;
    let (_, held) = before.rsplit_once(" with ")?;
    let (left, pool) = rest.split_once(" remain available")?;
    let all = pool.split_once("pool_size: ").map_or("", |(_, all)| all);
    let all = all.split([',', ')']).next().unwrap_or_default();
    let there = if all.is_empty() {
        format!("there are {left} for it")
    } else {
        format!("there are {left} for it, of {all} in all")
    };
    Some(if held == "0.0 B" {
        format!("a step of it asked for {more}, and {there}")
    } else {
        format!("a step of it that holds {held} asked for {more} more, and {there}")
    })
}

/// `Cannot merge sorted runs: a single record batch of N bytes exceeds …`
fn indivisible(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("Cannot merge sorted runs: a single record batch of ")?;
    let (bytes, _) = rest.split_once(" bytes exceeds")?;
    Some(format!(
        "a step of it needs {bytes} bytes in one piece, more than are left"
    ))
}

/// `The used disk space during the spilling process has exceeded the allowable limit of X. Please try increasing …`
fn disk(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("The used disk space during the spilling process")?;
    let (_, rest) = rest.split_once("limit of ")?;
    let (limit, _) = rest.split_once(". ").unwrap_or((rest, ""));
    Some(format!(
        "its temporary files passed the {limit} that they may take"
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::error::DataFusionError;
    use datafusion::execution::memory_pool::{
        FairSpillPool, GreedyMemoryPool, MemoryConsumer, MemoryPool, TrackConsumersPool,
    };

    use crate::words_of;

    /// What every kind of pool says of a step that asks for more than there is.
    #[test]
    fn a_step_that_gets_no_memory_says_how_much_it_wanted() {
        let top = std::num::NonZeroUsize::MIN;
        let pools: [Arc<dyn MemoryPool>; 3] = [
            Arc::new(GreedyMemoryPool::new(3 << 20)),
            Arc::new(FairSpillPool::new(3 << 20)),
            Arc::new(TrackConsumersPool::new(GreedyMemoryPool::new(3 << 20), top)),
        ];
        for pool in pools {
            let reservation = MemoryConsumer::new("ExternalSorter[0]").register(&pool);
            let error = reservation.try_grow(5 << 20).unwrap_err();
            let said =
                "a step of it asked for 5.0 MB, and there are 3.0 MB for it, of 3.0 MB in all";
            assert_eq!(words_of(&error), said, "{error}");
            let wrapped = format!("Failed to reserve memory for sort during spill: {error}");
            let wrapped = DataFusionError::ResourcesExhausted(wrapped).context("in a sort");
            assert_eq!(words_of(&wrapped), said);
        }
        let pool: Arc<dyn MemoryPool> = Arc::new(FairSpillPool::new(3 << 20));
        let consumer = MemoryConsumer::new("ReduceExec[0]").with_can_spill(true);
        let reservation = consumer.register(&pool);
        reservation.try_grow(1 << 20).unwrap();
        let error = reservation.try_grow(2_621_440).unwrap_err();
        assert_eq!(
            words_of(&error),
            "a step of it that holds 1024.0 KB asked for 2.5 MB more, and there are 3.0 MB for it, of 3.0 MB in all"
        );
    }

    #[test]
    fn settings_of_the_engine_are_nobodys_way_out() {
        for (text, said) in [
            (
                "Cannot merge sorted runs: a single record batch of 900 bytes exceeds the available merge memory and cannot be split further",
                "a step of it needs 900 bytes in one piece, more than are left",
            ),
            (
                "The used disk space during the spilling process has exceeded the allowable limit of 100.0 GB. Please try increasing the config: `datafusion.runtime.max_temp_directory_size`.",
                "its temporary files passed the 100.0 GB that they may take",
            ),
        ] {
            let error = DataFusionError::ResourcesExhausted(text.to_owned());
            assert_eq!(words_of(&error), said);
        }
    }
}
