// SPDX-License-Identifier: Apache-2.0
//! Offsets that a stream goes on without.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{Offset, PartitionId, Position};

/// Offsets of a topic that were gone before they were read, and that an operator decided to go on without. Written
/// as `partition@from..to`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hole {
    /// Their partition.
    pub partition: PartitionId,
    /// The first that was lost: everything before it is archived.
    pub from: Offset,
    /// The first behind them: there reading went on.
    pub to: Offset,
    /// When it was decided.
    pub skipped_at: DateTime<Utc>,
}

impl Hole {
    /// Whether an answer up to `position` runs over it.
    pub fn is_before(&self, position: &Position) -> bool {
        position.is_past(self.partition, self.from)
    }

    /// Where a stream that begins at `start` and is archived up to `archived` reads on, `holes` being its own in
    /// their order. A hole counts where the stream stands at its beginning: if less is archived than was when it
    /// was skipped, what is missing must not be passed over in silence.
    pub fn resume(start: &Position, archived: &Position, holes: &[Hole]) -> Position {
        let begin = start.join(archived);
        holes.iter().fold(begin, |at, hole| {
            if at.get(hole.partition) == hole.from {
                at.with(hole.partition, hole.to)
            } else {
                at
            }
        })
    }
}

impl fmt::Display for Hole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            partition,
            from,
            to,
            ..
        } = self;
        write!(f, "{partition}@{from}..{to}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hole(partition: u32, from: u64, to: u64) -> Hole {
        Hole {
            partition: PartitionId(partition),
            from: Offset(from),
            to: Offset(to),
            skipped_at: DateTime::UNIX_EPOCH,
        }
    }

    fn at(places: &[(u32, u64)]) -> Position {
        let places = places.iter();
        places.map(|(p, o)| (PartitionId(*p), Offset(*o))).collect()
    }

    #[test]
    fn reading_goes_on_behind_a_hole_only_from_its_beginning() {
        let holes = [hole(0, 10, 20), hole(0, 20, 25), hole(1, 3, 7)];
        let resume = |archived: &[(u32, u64)]| Hole::resume(&at(&[(1, 3)]), &at(archived), &holes);
        // The second begins where the first ends; the other partition stands at its start.
        assert_eq!(resume(&[(0, 10)]), at(&[(0, 25), (1, 7)]));
        assert_eq!(resume(&[(0, 9)]), at(&[(0, 9), (1, 7)]));
        assert_eq!(resume(&[(0, 40), (1, 8)]), at(&[(0, 40), (1, 8)]));
    }

    #[test]
    fn an_answer_runs_over_a_hole_once_it_covers_its_first_offset() {
        assert!(!hole(1, 3, 7).is_before(&at(&[(0, 9), (1, 3)])));
        assert!(hole(1, 3, 7).is_before(&at(&[(1, 7)])));
        assert_eq!(hole(1, 3, 7).to_string(), "1@3..7");
    }
}
