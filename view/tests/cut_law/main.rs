// SPDX-License-Identifier: Apache-2.0
//! The cut law: however the events of a stream are cut, batched, merged, stored and read back, the finished
//! rows are those of one plain query over all events.
//!
//! Each case draws a stream schema, a view, events and a way to cut them. The oracle is DataFusion with all
//! its own optimizer rules over one table of all events; where a value passes the end of its type, both refuse.
//! `DOVETAIL_PROPTEST_CASES` sets the number of
//! cases.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod compare;
mod draw;
mod ends;
mod events;
mod law;
mod oracle;
mod plans;
mod quantiles;
mod views;

use proptest::prelude::*;
use proptest::test_runner::Config;

use crate::draw::Draw;

fn cases() -> u32 {
    std::env::var("DOVETAIL_PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(24)
}

proptest! {
    #![proptest_config(Config { cases: cases(), max_shrink_iters: 2000, ..Config::default() })]

    #[test]
    fn any_cut_of_any_view_equals_one_query_over_all_events(
        shape in proptest::collection::vec(any::<u16>(), 96),
        rows in proptest::collection::vec(proptest::array::uniform8(any::<u8>()), 0..120),
        cut in proptest::collection::vec(any::<u16>(), 64),
    ) {
        let mut shape = Draw::new(shape);
        let stream = events::draw_stream(&mut shape);
        let view = views::draw_view(&mut shape, &stream);
        let events = events::build(&stream, &rows);
        law::check(&stream, &view, &events, &mut Draw::new(cut));
    }
}

/// A linear congruential generator: reproducible, and good enough to draw shapes and cuts.
fn numbers() -> impl FnMut() -> u16 {
    let mut seed = 1_u64;
    move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 40) as u16
    }
}

/// The shapes that broke prototypes, each through many cuts, so that no random draw is needed to meet them.
#[test]
fn known_traps_hold_for_many_cuts() {
    let mut next = numbers();
    for (stream, view) in views::traps() {
        for rows in [0_usize, 1, 37, 120] {
            let rows: Vec<[u8; 8]> = (0..rows)
                .map(|_| std::array::from_fn(|_| next() as u8))
                .collect();
            let events = events::build(&stream, &rows);
            let cut = Draw::new((0..64).map(|_| next()).collect());
            law::check(&stream, &view, &events, &mut cut.clone());
        }
    }
}
