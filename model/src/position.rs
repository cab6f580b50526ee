// SPDX-License-Identifier: Apache-2.0
//! Where a reader of a stream stands.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Offset, PartitionId};

/// For one stream, the next offset of every partition.
///
/// A partition that is not listed stands at offset 0, so the empty position is the start of the stream and
/// two positions are equal when they agree on every partition, listed or not. Positions are *partially*
/// ordered: of two positions neither need cover the other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(
    try_from = "BTreeMap<String, Offset>",
    into = "BTreeMap<PartitionId, Offset>"
)]
pub struct Position(BTreeMap<PartitionId, Offset>);

impl Position {
    /// The start of every partition.
    pub fn zero() -> Self {
        Self::default()
    }

    /// A position on a stream with one partition, as the embedded log has.
    pub fn single(next: Offset) -> Self {
        [(PartitionId(0), next)].into_iter().collect()
    }

    /// The next offset of `partition`.
    pub fn get(&self, partition: PartitionId) -> Offset {
        self.0.get(&partition).copied().unwrap_or_default()
    }

    /// The same position with `partition` standing at `next`.
    #[must_use]
    pub fn with(mut self, partition: PartitionId, next: Offset) -> Self {
        if next == Offset(0) {
            self.0.remove(&partition);
        } else {
            self.0.insert(partition, next);
        }
        self
    }

    /// The partitions that stand behind offset 0, in order.
    pub fn iter(&self) -> impl Iterator<Item = (PartitionId, Offset)> + '_ {
        self.0
            .iter()
            .map(|(partition, offset)| (*partition, *offset))
    }

    /// Whether everything before `other` is also before `self`: `self >= other` in every partition.
    pub fn covers(&self, other: &Position) -> bool {
        other
            .iter()
            .all(|(partition, offset)| self.get(partition) >= offset)
    }

    /// Whether the event at `offset` of `partition` lies before this position.
    pub fn is_past(&self, partition: PartitionId, offset: Offset) -> bool {
        offset < self.get(partition)
    }

    /// The smallest position that covers both.
    #[must_use]
    pub fn join(&self, other: &Position) -> Position {
        self.iter()
            .chain(other.iter())
            .fold(Position::zero(), |at, (partition, offset)| {
                let next = at.get(partition).max(offset);
                at.with(partition, next)
            })
    }

    /// The largest position that both cover.
    #[must_use]
    pub fn meet(&self, other: &Position) -> Position {
        self.iter()
            .map(|(partition, offset)| (partition, offset.min(other.get(partition))))
            .collect()
    }
}

impl FromIterator<(PartitionId, Offset)> for Position {
    fn from_iter<I: IntoIterator<Item = (PartitionId, Offset)>>(offsets: I) -> Self {
        Self(
            offsets
                .into_iter()
                .filter(|(_, offset)| *offset != Offset(0))
                .collect(),
        )
    }
}

impl From<BTreeMap<PartitionId, Offset>> for Position {
    fn from(offsets: BTreeMap<PartitionId, Offset>) -> Self {
        offsets.into_iter().collect()
    }
}

/// As JSON has it. Keys are read as text: inside a tagged enum serde hands a map's keys on as strings.
impl TryFrom<BTreeMap<String, Offset>> for Position {
    type Error = std::num::ParseIntError;

    fn try_from(map: BTreeMap<String, Offset>) -> Result<Self, Self::Error> {
        map.into_iter()
            .map(|(partition, next)| Ok((partition.parse()?, next)))
            .collect()
    }
}

impl From<Position> for BTreeMap<PartitionId, Offset> {
    fn from(position: Position) -> Self {
        position.0
    }
}

impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (self.covers(other), other.covers(self)) {
            (true, true) => Some(Ordering::Equal),
            (true, false) => Some(Ordering::Greater),
            (false, true) => Some(Ordering::Less),
            (false, false) => None,
        }
    }
}

/// `0@1234,1@980`; the start of the stream is `0@0`.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("0@0");
        }
        for (index, (partition, offset)) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{partition}@{offset}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn position() -> impl Strategy<Value = Position> {
        proptest::collection::btree_map(0u32..4, 0u64..5, 0..4).prop_map(|map| {
            map.into_iter()
                .map(|(p, o)| (PartitionId(p), Offset(o)))
                .collect()
        })
    }

    #[test]
    fn an_unlisted_partition_stands_at_zero() {
        let listed: Position = [(PartitionId(3), Offset(0))].into_iter().collect();
        assert_eq!(listed, Position::zero());
        assert_eq!(listed.to_string(), "0@0");
        assert_eq!(
            Position::single(Offset(7)).with(PartitionId(0), Offset(0)),
            Position::zero()
        );
    }

    proptest! {
        #[test]
        fn join_is_the_least_upper_bound(a in position(), b in position(), c in position()) {
            let join = a.join(&b);
            prop_assert!(join.covers(&a) && join.covers(&b));
            prop_assert_eq!(&join, &b.join(&a));
            if c.covers(&a) && c.covers(&b) {
                prop_assert!(c.covers(&join));
            }
        }

        #[test]
        fn meet_is_the_greatest_lower_bound(a in position(), b in position(), c in position()) {
            let meet = a.meet(&b);
            prop_assert!(a.covers(&meet) && b.covers(&meet));
            prop_assert_eq!(&meet, &b.meet(&a));
            if a.covers(&c) && b.covers(&c) {
                prop_assert!(meet.covers(&c));
            }
        }

        #[test]
        fn order_is_partial_and_antisymmetric(a in position(), b in position()) {
            prop_assert_eq!(a.partial_cmp(&b), b.partial_cmp(&a).map(Ordering::reverse));
            prop_assert_eq!(a.covers(&b) && b.covers(&a), a == b);
        }

        #[test]
        fn json_keeps_a_position(a in position()) {
            let text = serde_json::to_string(&a).unwrap();
            prop_assert_eq!(serde_json::from_str::<Position>(&text).unwrap(), a);
        }
    }
}
