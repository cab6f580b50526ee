// SPDX-License-Identifier: Apache-2.0
//! Edges that no merge may cross, because a batch run will make one of them its horizon.

use std::sync::{Arc, Weak};

use dovetail_model::{Position, Span};
use parking_lot::Mutex;

/// The pinned positions of one stream.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    held: Mutex<Vec<Weak<Position>>>,
}

/// Keeps one position pinned while it is held.
#[derive(Debug, Clone)]
pub struct Pin(Arc<Position>);

impl Pin {
    /// The pinned position.
    pub fn position(&self) -> &Position {
        &self.0
    }
}

impl Pins {
    pub(crate) fn pin(&self, position: Position) -> Pin {
        let pin = Arc::new(position);
        let mut held = self.held.lock();
        held.retain(|pin| pin.strong_count() > 0);
        held.push(Arc::downgrade(&pin));
        Pin(pin)
    }

    /// Whether exactly this position is pinned.
    pub(crate) fn hold(&self, position: &Position) -> bool {
        let mut held = self.held.lock();
        held.retain(|pin| pin.strong_count() > 0);
        held.iter()
            .filter_map(Weak::upgrade)
            .any(|pin| *pin == *position)
    }

    /// Whether a pinned position lies strictly inside `span`, so that a run over it would hide the edge.
    pub(crate) fn cross(&self, span: &Span) -> bool {
        let inside = |at: &Position| {
            at != span.from() && at != span.to() && at.covers(span.from()) && span.to().covers(at)
        };
        self.held
            .lock()
            .iter()
            .filter_map(Weak::upgrade)
            .any(|pin| inside(&pin))
    }
}

#[cfg(test)]
mod tests {
    use dovetail_model::Offset;

    use super::*;

    fn at(offset: u64) -> Position {
        Position::single(Offset(offset))
    }

    #[test]
    fn a_pin_guards_its_edge_until_it_is_dropped() {
        let pins = Pins::default();
        let pin = pins.pin(at(5));
        let span = |from, to| Span::new(at(from), at(to)).unwrap();
        assert!(pins.cross(&span(0, 9)));
        assert!(!pins.cross(&span(0, 5)) && !pins.cross(&span(5, 9)));
        assert!(pins.hold(&at(5)) && !pins.hold(&at(4)));
        drop(pin);
        assert!(!pins.hold(&at(5)));
        assert!(!pins.cross(&span(0, 9)));
    }
}
