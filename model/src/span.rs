// SPDX-License-Identifier: Apache-2.0
//! What lies between two positions.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Offset, PartitionId, Position};

/// Two positions that are not in order, or two spans that do not touch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    /// `to` does not cover `from`.
    #[error("a span cannot run back from `{from}` to `{to}`")]
    Backwards {
        /// Where the span was to start.
        from: Position,
        /// Where it was to end.
        to: Position,
    },
    /// The right span does not start where the left one ends.
    #[error("spans do not touch: the left one ends at `{left}`, the right one starts at `{right}`")]
    NotAdjacent {
        /// End of the left span.
        left: Position,
        /// Start of the right span.
        right: Position,
    },
}

/// The events of one stream in `[from, to)`, half open in every partition.
///
/// ```text
/// from <= event offset < to      for each partition
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Bounds")]
pub struct Span {
    from: Position,
    to: Position,
}

#[derive(Deserialize)]
struct Bounds {
    from: Position,
    to: Position,
}

impl TryFrom<Bounds> for Span {
    type Error = SpanError;

    fn try_from(bounds: Bounds) -> Result<Self, SpanError> {
        Self::new(bounds.from, bounds.to)
    }
}

impl Span {
    /// The span `[from, to)`.
    ///
    /// # Errors
    /// When `to` does not cover `from`.
    pub fn new(from: Position, to: Position) -> Result<Self, SpanError> {
        if to.covers(&from) {
            Ok(Self { from, to })
        } else {
            Err(SpanError::Backwards { from, to })
        }
    }

    /// Everything before `to`.
    pub fn up_to(to: Position) -> Self {
        Self {
            from: Position::zero(),
            to,
        }
    }

    /// First position inside.
    pub fn from(&self) -> &Position {
        &self.from
    }

    /// First position behind.
    pub fn to(&self) -> &Position {
        &self.to
    }

    /// The same events where the partitions that the span says nothing of stand at `rest`.
    #[must_use]
    pub fn beside(&self, rest: &Position) -> Self {
        Self {
            from: self.from.join(rest),
            to: self.to.join(rest),
        }
    }

    /// Whether no event can lie inside.
    pub fn is_empty(&self) -> bool {
        self.from == self.to
    }

    /// Whether the event at `offset` of `partition` lies inside.
    pub fn contains(&self, partition: PartitionId, offset: Offset) -> bool {
        !self.from.is_past(partition, offset) && self.to.is_past(partition, offset)
    }

    /// This span and the one right behind it, as one.
    ///
    /// # Errors
    /// When `next` does not start exactly where this span ends: merging across a gap or an overlap would
    /// lose or double events.
    pub fn followed_by(&self, next: &Span) -> Result<Span, SpanError> {
        if self.to == next.from {
            Ok(Self {
                from: self.from.clone(),
                to: next.to.clone(),
            })
        } else {
            Err(SpanError::NotAdjacent {
                left: self.to.clone(),
                right: next.from.clone(),
            })
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.from, self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Position {
        Position::single(Offset(offset))
    }

    #[test]
    fn half_open_in_every_partition() {
        let span = Span::new(at(2), at(4).with(PartitionId(1), Offset(1))).unwrap();
        let inside = |p, o| span.contains(PartitionId(p), Offset(o));
        assert!(!inside(0, 1) && inside(0, 2) && inside(0, 3) && !inside(0, 4));
        assert!(inside(1, 0) && !inside(1, 1) && !inside(2, 0));
    }

    #[test]
    fn only_adjacent_spans_join() {
        let left = Span::new(at(0), at(2)).unwrap();
        let right = Span::new(at(2), at(5)).unwrap();
        assert_eq!(
            left.followed_by(&right).unwrap(),
            Span::new(at(0), at(5)).unwrap()
        );
        assert!(right.followed_by(&left).is_err());
        let gap = Span::new(at(3), at(5)).unwrap();
        assert!(left.followed_by(&gap).is_err());
    }

    #[test]
    fn a_span_never_runs_backwards_even_from_json() {
        assert!(Span::new(at(2), at(1)).is_err());
        assert!(serde_json::from_str::<Span>(r#"{"from":{"0":2},"to":{"0":1}}"#).is_err());
    }
}
