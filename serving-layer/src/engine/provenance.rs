// SPDX-License-Identifier: Apache-2.0
//! How far an answer covers its streams.

use dovetail_model::{Clock, Position};
use dovetail_seam::{Cut, StreamCell, oldest_behind};

/// Age in milliseconds of the oldest durable event that an answer up to `position` does not cover; 0 when it
/// covers all.
pub fn freshness_ms(cell: &StreamCell, cut: &Cut, position: &Position, clock: &dyn Clock) -> u64 {
    age_ms(oldest_behind(cell, cut, position), clock)
}

/// The age in milliseconds of what arrived at `oldest` (microseconds since the Unix epoch); 0 for nothing.
pub(crate) fn age_ms(oldest: Option<i64>, clock: &dyn Clock) -> u64 {
    oldest.map_or(0, |arrived| {
        u64::try_from((clock.now_us() - arrived) / 1000).unwrap_or(0)
    })
}
