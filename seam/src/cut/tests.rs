// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeSet;

use dovetail_model::{
    Clock, Column, ColumnType, ManualClock, Offset, StreamSchema, UnknownColumns,
};
use proptest::prelude::*;

use super::*;

fn at(offset: u64) -> Position {
    Position::single(Offset(offset))
}

fn span(from: u64, to: u64) -> Span {
    Span::new(at(from), at(to)).unwrap()
}

fn view() -> Arc<View> {
    let schema = StreamSchema {
        columns: vec![Column {
            name: "x".to_owned(),
            column_type: ColumnType::Int,
            nullable: true,
        }],
        event_time: None,
        unknown_columns: UnknownColumns::Ignore,
    };
    let streams = BTreeMap::from([("s".to_owned(), schema)]);
    Arc::new(View::compile("SELECT sum(100 / x) AS q FROM s", &streams).unwrap())
}

fn cut_of(view: &Arc<View>) -> ViewCut {
    ViewCut::new("v", 1, Arc::clone(view), at(0))
}

fn made(view: &View, span: &Span, good: bool) -> Accumulated {
    if good {
        Ok(Arc::new(Run::empty(view, span.clone())))
    } else {
        Err(format!("division by zero in {span}"))
    }
}

/// Spans of runs (true) and poisoned spans (false), in order.
fn pieces(cut: &ViewCut) -> Vec<(Span, bool)> {
    let runs = cut.runs.iter().map(|run| (run.span().clone(), true));
    let poisoned = cut.poisoned.iter().map(|p| (p.span.clone(), false));
    let mut pieces: Vec<_> = runs.chain(poisoned).collect();
    pieces.sort_by_key(|(span, _)| span.to().get(dovetail_model::PartitionId(0)));
    pieces
}

#[test]
fn a_failed_batch_takes_all_between_two_pins_and_names_itself() {
    let view = view();
    let mut cut = cut_of(&view);
    for (from, good) in [(0, true), (10, true), (20, false), (30, true), (40, false)] {
        let span = span(from, from + 10);
        cut.push(&span, made(&view, &span, good), |_| false);
    }
    assert_eq!(pieces(&cut), vec![(span(0, 50), false)]);
    let poisoned = &cut.poisoned[0];
    assert_eq!(poisoned.failed, span(20, 30), "the first that failed");
    let text = poisoned.explain("v", "s");
    for part in [
        "`v`",
        "`s`",
        "[0@20, 0@30)",
        "division by zero",
        "dovetail exclude s",
        "dovetail replay v",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn what_comes_behind_a_pinned_edge_answers_once_a_generation_ends_there() {
    let view = view();
    let mut cut = cut_of(&view);
    let pinned = |position: &Position| *position == at(20);
    for (from, good) in [(0, true), (10, false), (20, true), (30, true)] {
        let span = span(from, from + 10);
        cut.push(&span, made(&view, &span, good), pinned);
    }
    let runs = [(span(20, 30), true), (span(30, 40), true)];
    assert_eq!(pieces(&cut)[1..], runs);
    cut.settle(generation(&view, 1, 20), &at(20), Duration::ZERO);
    assert!(cut.poisoned.is_empty());
    assert_eq!(pieces(&cut), runs);
}

#[test]
fn what_was_let_go_says_so_until_an_event_fails_in_it() {
    let view = view();
    let mut cut = cut_of(&view);
    let memory = Poison::Memory("its runs took 900 MiB".to_owned());
    cut.push(&span(0, 10), made(&view, &span(0, 10), true), |_| false);
    cut.shed(&memory, |_| false);
    cut.push(&span(10, 20), made(&view, &span(10, 20), true), |_| false);
    assert_eq!(pieces(&cut), vec![(span(0, 20), false)]);
    assert!(cut.is_out_of_memory());
    let text = cut.poisoned[0].explain("v", "s");
    for part in ["`v`", "[0@0, 0@20)", "900 MiB", "an incremental run"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    cut.push(&span(20, 30), made(&view, &span(20, 30), false), |_| false);
    cut.shed(&memory, |_| false);
    assert_eq!(pieces(&cut), vec![(span(0, 30), false)]);
    assert_eq!(cut.poisoned[0].failed, span(20, 30));
    assert!(!cut.is_out_of_memory());
    assert!(!cut_of(&view).is_out_of_memory());
}

proptest! {
    /// However often it fails, and whenever it lets go of its runs, a view holds no more poisoned spans than pinned edges, and no run that could
    /// never answer; every pinned edge stays an edge, so that a generation that ends there can be published.
    #[test]
    fn poison_never_piles_up_and_never_hides_a_pinned_edge(
        batches in proptest::collection::vec(any::<bool>(), 1..60),
        pins in proptest::collection::btree_set(0u64..60, 0..5),
        shed_before in 0usize..60,
    ) {
        let view = view();
        let mut cut = cut_of(&view);
        let pins: BTreeSet<u64> = pins.into_iter().filter(|pin| *pin < batches.len() as u64).collect();
        for (index, good) in batches.iter().enumerate() {
            let pinned = |position: &Position| pins.iter().any(|pin| at(*pin) == *position);
            if index == shed_before {
                cut.shed(&Poison::Memory("too much".to_owned()), pinned);
                prop_assert!(cut.runs.is_empty());
            }
            let span = span(index as u64, index as u64 + 1);
            cut.push(&span, made(&view, &span, *good), pinned);
        }
        let shed = if shed_before < batches.len() { shed_before } else { 0 };
        let pieces = pieces(&cut);
        let mut end = at(0);
        for (span, _) in &pieces {
            prop_assert_eq!(span.from(), &end, "no gap, no overlap");
            end = span.to().clone();
        }
        prop_assert_eq!(&end, &at(batches.len() as u64));
        prop_assert_eq!(cut.end(), &end);
        prop_assert!(cut.poisoned.len() <= pins.len() + 1);
        for pin in &pins {
            prop_assert!(cut.has_edge(&at(*pin)), "{pin} is an edge of {pieces:?}");
        }
        // Between two pins there is one poisoned span or there are good runs, as the batches say.
        let mut edges: Vec<u64> = pins.iter().copied().collect();
        edges.insert(0, 0);
        edges.push(batches.len() as u64);
        edges.dedup();
        for pair in edges.windows(2) {
            let good = pair[0] as usize >= shed
                && batches[pair[0] as usize..pair[1] as usize].iter().all(|good| *good);
            let inside = pieces.iter().filter(|(piece, _)| {
                piece.from().covers(&at(pair[0])) && at(pair[1]).covers(piece.to())
            });
            let kinds: Vec<bool> = inside.map(|(_, run)| *run).collect();
            if good {
                prop_assert!(kinds.iter().all(|run| *run), "{pieces:?}");
            } else {
                prop_assert_eq!(kinds, vec![false], "{:?}", pieces);
            }
        }
    }
}

/// A generation of the view, up to `horizon`.
fn generation(view: &Arc<View>, number: u64, horizon: u64) -> Arc<Generation> {
    let def = dovetail_model::ViewDef {
        id: "v1".parse().unwrap(),
        name: "v".to_owned(),
        stream: "k3f".parse().unwrap(),
        sql: view.sql().to_owned(),
        recompute: None,
        recompute_after: Default::default(),
        refresh_s: None,
        version: 1,
        definition_hash: view.definition_hash().to_owned(),
        defined_at: Clock::now(&ManualClock::at(0)),
    };
    let mut manifest = dovetail_model::Manifest::empty(&def, view.state_fingerprint());
    manifest.number = GenerationNumber(number);
    manifest.inputs.horizon = at(horizon);
    Arc::new(Generation::new(Arc::new(manifest), Arc::clone(view)))
}

proptest! {
    /// Whoever asks for the runs under a generation that was live a moment ago gets those from its horizon on, in
    /// order and without a gap, however often the view was published and merged since.
    #[test]
    fn a_generation_that_was_live_still_has_all_its_runs(
        batches in proptest::collection::vec((any::<bool>(), any::<bool>()), 1..20),
    ) {
        let grace = Duration::from_secs(3600);
        let view = view();
        let mut cut = cut_of(&view);
        cut.settle(generation(&view, 1, 0), &at(0), grace);
        let mut horizons = vec![0];
        for (place, (good, publishes)) in (0..).zip(&batches) {
            let span = span(place * 10, place * 10 + 10);
            cut.push(&span, made(&view, &span, *good), |_| true);
            if *publishes {
                let horizon = place * 10 + 10;
                horizons.push(horizon);
                cut.settle(generation(&view, horizons.len() as u64, horizon), &at(horizon), grace);
            }
        }
        let end = batches.len() as u64 * 10;
        for (number, horizon) in (1..).zip(&horizons) {
            let under = cut.under(Some(GenerationNumber(number))).unwrap();
            prop_assert_eq!(under.generation.unwrap().number(), GenerationNumber(number));
            let runs = under.runs.iter().map(|run| run.span().clone());
            let poisoned = under.poisoned.iter().map(|poisoned| poisoned.span.clone());
            let mut spans: Vec<Span> = runs.chain(poisoned).collect();
            spans.sort_by_key(|span| span.to().get(dovetail_model::PartitionId(0)));
            let mut reached = at(*horizon);
            for span in spans {
                prop_assert_eq!(span.from(), &reached);
                reached = span.to().clone();
            }
            prop_assert_eq!(reached, at(end.max(*horizon)));
        }
        let unknown = GenerationNumber(horizons.len() as u64 + 1);
        prop_assert!(cut.under(Some(unknown)).is_none());
        cut.forget_retired(Duration::ZERO);
        let newest = GenerationNumber(horizons.len() as u64);
        prop_assert!(cut.under(Some(newest)).is_some());
        prop_assert_eq!(cut.under(Some(GenerationNumber(1))).is_some(), horizons.len() == 1);
    }
}
