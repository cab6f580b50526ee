// SPDX-License-Identifier: Apache-2.0
//! How far an answer covers its streams.

use dovetail_model::{Clock, Position, PositionToken};
use dovetail_seam::{Cut, StreamCell};

/// Age in milliseconds of the oldest durable event that an answer up to `position` does not cover; 0 when it
/// covers all.
pub fn freshness_ms(cell: &StreamCell, cut: &Cut, position: &Position, clock: &dyn Clock) -> u64 {
    let unread = cell.unread_since_us();
    let oldest = if position.covers(&cell.durable()) {
        unread
    } else {
        [
            cut.oldest_arrival_from(position),
            cell.oldest_pending_us(),
            unread,
        ]
        .into_iter()
        .flatten()
        .min()
    };
    oldest.map_or(0, |arrived| {
        u64::try_from((clock.now_us() - arrived) / 1000).unwrap_or(0)
    })
}

/// The token of a position of the cut's stream.
pub(crate) fn token(cut: &Cut, position: &Position) -> PositionToken {
    let stream = cut.stream();
    PositionToken {
        name: stream.name.clone(),
        stream: stream.id.clone(),
        position: position.clone(),
    }
}
