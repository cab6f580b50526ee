// SPDX-License-Identifier: Apache-2.0
//! Which process takes which partitions, where several take the events.
//!
//! The partitions of every stream are divided by their numbers alone, so that one which is added has an owner at once.
//! Each change of who takes part begins an epoch: whoever takes over a partition claims the stream's tables for it, and
//! no write of an earlier epoch lands behind that.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Endpoints, PartitionId, Position};

/// The partitions whose number leaves `rank` when it is divided by `of`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Share {
    rank: u32,
    of: u32,
}

impl Share {
    /// Every partition.
    pub const ALL: Self = Self { rank: 0, of: 1 };

    /// The share of the process with this rank, counted from 0, of so many; none for a rank that there is not.
    pub fn new(rank: usize, of: usize) -> Option<Self> {
        let (rank, of) = (u32::try_from(rank).ok()?, u32::try_from(of).ok()?);
        (rank < of).then_some(Self { rank, of })
    }

    /// Whether `partition` is in it.
    pub fn has(self, partition: PartitionId) -> bool {
        partition.0 % self.of == self.rank
    }

    /// `position` in its partitions alone; the others stand at their start.
    #[must_use]
    pub fn part(self, position: &Position) -> Position {
        position.iter().filter(|(p, _)| self.has(*p)).collect()
    }

    /// `position` in the other partitions; its own stand at their start.
    #[must_use]
    pub fn rest(self, position: &Position) -> Position {
        position.iter().filter(|(p, _)| !self.has(*p)).collect()
    }
}

impl Default for Share {
    fn default() -> Self {
        Self::ALL
    }
}

/// `partitions 1, 4, …`; `all partitions`.
impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rank, of } = self;
        match of {
            1 => f.write_str("all partitions"),
            _ => write!(
                f,
                "partitions {rank}, {}, …",
                u64::from(*rank) + u64::from(*of)
            ),
        }
    }
}

/// How often it has changed who takes the events; 0 while no process takes them for others.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct IngestEpoch(pub u64);

impl IngestEpoch {
    /// The epoch that the next change begins.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for IngestEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One process that takes events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngestMember {
    /// What it calls itself: another one after each start.
    pub id: String,
    /// The machine that it is on: for people.
    pub host: String,
    /// Where it is reached.
    pub endpoints: Arc<Endpoints>,
}

/// The processes that take the events, and in which epoch they do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngestMembers {
    /// Begun by the last change.
    pub epoch: IngestEpoch,
    /// In order of their ranks.
    pub members: Vec<IngestMember>,
}

impl IngestMembers {
    /// What the process `id` takes, if it takes part.
    pub fn share_of(&self, id: &str) -> Option<Share> {
        let rank = self.members.iter().position(|member| member.id == id)?;
        Share::new(rank, self.members.len())
    }

    /// Each with its share.
    pub fn shares(&self) -> impl Iterator<Item = (&IngestMember, Share)> {
        let of = self.members.len();
        let members = self.members.iter().enumerate();
        members.filter_map(move |(rank, member)| Some((member, Share::new(rank, of)?)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Offset;

    #[test]
    fn a_share_is_named() {
        assert_eq!(Share::ALL.to_string(), "all partitions");
        assert_eq!(Share::new(1, 3).unwrap().to_string(), "partitions 1, 4, …");
        assert_eq!(Share::new(3, 3), None);
    }

    proptest! {
        #[test]
        fn shares_divide_a_position(
            offsets in proptest::collection::btree_map(0u32..40, 0u64..9, 0..12),
            of in 1usize..6,
        ) {
            let offsets = offsets.into_iter().map(|(p, o)| (PartitionId(p), Offset(o)));
            let position: Position = offsets.collect();
            let shares: Vec<Share> = (0..of).filter_map(|rank| Share::new(rank, of)).collect();
            prop_assert_eq!(shares.len(), of);
            let parts = shares.iter().map(|share| share.part(&position));
            let joined = parts.fold(Position::zero(), |all, part| all.join(&part));
            prop_assert_eq!(&joined, &position);
            for (partition, _) in position.iter() {
                prop_assert_eq!(shares.iter().filter(|share| share.has(partition)).count(), 1);
            }
            for share in shares {
                prop_assert_eq!(&share.part(&position).join(&share.rest(&position)), &position);
                prop_assert_eq!(share.part(&share.rest(&position)), Position::zero());
            }
        }
    }
}
