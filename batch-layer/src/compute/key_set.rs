// SPDX-License-Identifier: Apache-2.0
//! A set of group keys, encoded in sort order.

use std::sync::Arc;

use dovetail_view::{Predicate, View};

use super::states::SortedStates;
use crate::BatchError;

/// Encoded keys, sorted and unique once [`KeySet::sorted`] was called. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeySet(Arc<Vec<Box<[u8]>>>);

impl KeySet {
    /// Adds the keys of all `states` that match.
    pub(crate) async fn collect(
        &mut self,
        view: &View,
        mut states: SortedStates,
        matching: Option<&Predicate>,
    ) -> Result<(), BatchError> {
        let keys = Arc::make_mut(&mut self.0);
        while let Some(batch) = states.next().await? {
            let matches = match matching {
                Some(predicate) => Some(predicate.matches(&batch)?),
                None => None,
            };
            let rows = view.encode_keys(&batch)?;
            let kept = rows
                .iter()
                .enumerate()
                .filter(|(row, _)| matches.as_ref().is_none_or(|m| m.value(*row)));
            keys.extend(kept.map(|(_, key)| Box::from(key.as_ref())));
        }
        Ok(())
    }

    /// The same set, ready to be searched.
    pub(crate) fn sorted(mut self) -> Self {
        let keys = Arc::make_mut(&mut self.0);
        keys.sort_unstable();
        keys.dedup();
        self
    }

    /// The smallest and the largest key.
    pub(crate) fn ends(&self) -> Option<(&[u8], &[u8])> {
        Some((self.0.first()?, self.0.last()?))
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.0
            .binary_search_by(|probe| probe.as_ref().cmp(key))
            .is_ok()
    }

    /// Whether some key lies in `first..=last`.
    pub(crate) fn meets(&self, first: &[u8], last: &[u8]) -> bool {
        let at = self.0.partition_point(|key| key.as_ref() < first);
        self.0.get(at).is_some_and(|key| key.as_ref() <= last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_keys_and_ranges() {
        let set = KeySet(Arc::new(vec![
            Box::from(&b"b"[..]),
            Box::from(&b"d"[..]),
            Box::from(&b"b"[..]),
        ]))
        .sorted();
        assert_eq!(set.ends(), Some((&b"b"[..], &b"d"[..])));
        assert!(set.contains(b"b") && set.contains(b"d") && !set.contains(b"c"));
        assert!(
            set.meets(b"a", b"b")
                && set.meets(b"c", b"z")
                && !set.meets(b"c", b"c")
                && !set.meets(b"e", b"z")
        );
    }
}
