// SPDX-License-Identifier: Apache-2.0
//! A set of group keys, encoded in sort order, and counted in the run's memory pool: a repair knows it whole.

use std::sync::Arc;

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use dovetail_view::{Predicate, View};

use super::states::SortedStates;
use crate::BatchError;

/// What the allocator takes for a small piece of memory, at least and in steps.
const ALLOCATION: usize = 16;
const SLOT: usize = size_of::<Box<[u8]>>();

/// Encoded keys, sorted and unique. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeySet(Arc<Keys>);

#[derive(Debug, Default)]
struct Keys {
    keys: Vec<Box<[u8]>>,
    /// Counts them for as long as they are there.
    _memory: Option<MemoryReservation>,
}

/// Keys on their way to a set.
#[derive(Debug)]
pub(crate) struct KeyCollector {
    keys: Vec<Box<[u8]>>,
    memory: MemoryReservation,
}

impl KeyCollector {
    pub(crate) fn new(pool: &Arc<dyn MemoryPool>) -> Self {
        Self {
            keys: vec![],
            memory: MemoryConsumer::new("keys of the groups to repair").register(pool),
        }
    }

    /// Adds the keys of all `states` that match.
    pub(crate) async fn collect(
        &mut self,
        view: &View,
        mut states: SortedStates,
        matching: Option<&Predicate>,
    ) -> Result<(), BatchError> {
        while let Some(batch) = states.next().await? {
            let matches = match matching {
                Some(predicate) => Some(view.groups_matching(predicate, &batch)?),
                None => None,
            };
            let rows = view.encode_keys(&batch)?;
            let kept = || {
                let all = rows.iter().enumerate();
                all.filter(|(row, _)| matches.as_ref().is_none_or(|m| m.value(*row)))
                    .map(|(_, key)| key)
            };
            let bytes = kept().map(|key| key.data().len().next_multiple_of(ALLOCATION));
            self.make_room(kept().count(), bytes.sum())?;
            self.keys.extend(kept().map(|key| Box::from(key.as_ref())));
        }
        Ok(())
    }

    /// Counts `more` keys of `bytes` before they are there.
    fn make_room(&mut self, more: usize, bytes: usize) -> Result<(), BatchError> {
        self.memory.try_grow(bytes)?;
        let (slots, needed) = (self.keys.capacity(), self.keys.len() + more);
        if needed > slots {
            // Old and new ones are there together while they move.
            let wanted = needed.max(2 * slots);
            self.memory.try_grow(wanted * SLOT)?;
            self.keys.reserve_exact(wanted - self.keys.len());
            self.memory.shrink(slots * SLOT);
        }
        Ok(())
    }

    /// The set, ready to be searched.
    pub(crate) fn sorted(mut self) -> KeySet {
        self.keys.sort_unstable();
        self.keys.dedup();
        KeySet(Arc::new(Keys {
            keys: self.keys,
            _memory: Some(self.memory),
        }))
    }
}

impl KeySet {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.keys.is_empty()
    }

    /// The smallest and the largest key.
    pub(crate) fn ends(&self) -> Option<(&[u8], &[u8])> {
        Some((self.0.keys.first()?, self.0.keys.last()?))
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        let keys = &self.0.keys;
        keys.binary_search_by(|probe| probe.as_ref().cmp(key))
            .is_ok()
    }

    /// Whether some key lies in `first..=last`.
    pub(crate) fn meets(&self, first: &[u8], last: &[u8]) -> bool {
        let at = self.0.keys.partition_point(|key| key.as_ref() < first);
        let next = self.0.keys.get(at);
        next.is_some_and(|key| key.as_ref() <= last)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::GreedyMemoryPool;
    use dovetail_model::ProblemKind;

    use super::*;

    fn collector(bytes: usize) -> (Arc<dyn MemoryPool>, KeyCollector) {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(bytes));
        let collector = KeyCollector::new(&pool);
        (pool, collector)
    }

    #[test]
    fn finds_keys_and_ranges() {
        let (_, mut collector) = collector(1000);
        collector
            .keys
            .extend([&b"b"[..], b"d", b"b"].map(Box::<[u8]>::from));
        let set = collector.sorted();
        assert_eq!(set.ends(), Some((&b"b"[..], &b"d"[..])));
        assert!(set.contains(b"b") && set.contains(b"d") && !set.contains(b"c"));
        assert!(
            set.meets(b"a", b"b")
                && set.meets(b"c", b"z")
                && !set.meets(b"c", b"c")
                && !set.meets(b"e", b"z")
        );
    }

    #[test]
    fn keys_are_counted_until_the_last_clone_is_gone() {
        let (pool, mut collector) = collector(64 * SLOT);
        collector.make_room(10, 100).unwrap();
        assert_eq!(pool.reserved(), 10 * SLOT + 100);
        collector.make_room(0, 28).unwrap();
        assert_eq!(pool.reserved(), 10 * SLOT + 128);
        let error = collector.make_room(1000, 0).unwrap_err();
        assert_eq!(error.kind(), ProblemKind::Unavailable, "{error}");
        let set = collector.sorted();
        let clone = set.clone();
        drop(set);
        assert!(pool.reserved() > 0);
        drop(clone);
        assert_eq!(pool.reserved(), 0);
    }
}
