// SPDX-License-Identifier: Apache-2.0
//! Sums near the ends of their types: right wherever the total fits, though sums of parts do not; an error where it
//! does not, in every way to finish.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, Int32Array, Int64Array, RecordBatch};
use dovetail_model::{Offset, PartitionId, Position, ProblemKind, Span};
use dovetail_view::{View, ViewError};

use crate::draw::Draw;
use crate::views::Case;
use crate::{events, law, numbers, plans};

/// Events of three keys. `signs` says of each event of a key whether its numbers are positive; each number is nine
/// tenths of the end of its type, and a little more than the one before.
fn events(signs: &[bool]) -> RecordBatch {
    let rows: Vec<(i32, i64, bool)> = signs
        .iter()
        .zip(0_i64..)
        .flat_map(|(positive, event)| (0..3).map(move |key| (key, event, *positive)))
        .collect();
    let numbers = |greatest: i128| {
        rows.iter().map(move |(_, event, positive)| {
            let number = greatest / 10 * 9 + i128::from(*event);
            if *positive { number } else { -number }
        })
    };
    let decimals = |greatest: i128, precision: u8| -> ArrayRef {
        let numbers = Decimal128Array::from_iter_values(numbers(greatest));
        Arc::new(numbers.with_precision_and_scale(precision, 2).unwrap())
    };
    let bigints = numbers(i128::from(i64::MAX)).map(|n| i64::try_from(n).unwrap());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from_iter_values(
            rows.iter().map(|(key, ..)| *key),
        )),
        Arc::new(Int64Array::from_iter_values(bigints)),
        decimals(events::GREATEST, 38),
        decimals(10_i128.pow(30) - 1, 30),
    ];
    events::placed(&events::large_numbers(), columns, vec![0; rows.len()])
}

/// As each output is declared, and as the oracle computes it: in types that hold every sum.
const OUTPUTS: &[(&str, &str)] = &[
    ("sum(c1)", "sum(CAST(c1 AS DECIMAL(38, 0)))"),
    (
        "sum(c1) / 2",
        "CAST(sum(CAST(c1 AS DECIMAL(38, 0))) AS BIGINT) / 2",
    ),
    (
        "sum(DISTINCT c1)",
        "sum(DISTINCT CAST(c1 AS DECIMAL(38, 0)))",
    ),
    ("sum(c2)", "sum(CAST(c2 AS DECIMAL(57, 2)))"),
    (
        "coalesce(sum(c2), 0)",
        "coalesce(sum(CAST(c2 AS DECIMAL(57, 2))), 0)",
    ),
    (
        "sum(DISTINCT c2)",
        "sum(DISTINCT CAST(c2 AS DECIMAL(57, 2)))",
    ),
    ("sum(c3)", "sum(CAST(c3 AS DECIMAL(57, 2)))"),
    ("avg(c3)", "avg(CAST(c3 AS DECIMAL(57, 2)))"),
    // Rounded once, of the exact total: the quotients are tested where they are made.
    ("avg(c1)", "avg(c1)"),
    ("avg(DISTINCT c1)", "avg(DISTINCT c1)"),
    // The way out of an average that does not fit.
    (
        "CAST(avg(CAST(c2 AS DECIMAL(42, 2))) AS DECIMAL(38, 2))",
        "CAST(avg(CAST(c2 AS DECIMAL(57, 2))) AS DECIMAL(38, 2))",
    ),
];

fn select(keys: usize, outputs: impl Iterator<Item = &'static str>) -> String {
    let mut items: Vec<String> = ["c0 AS k"][..keys]
        .iter()
        .map(ToString::to_string)
        .collect();
    items.extend(
        outputs
            .zip(0..)
            .map(|(sql, index)| format!("{sql} AS v{index}")),
    );
    let items = items.join(", ");
    match keys {
        0 => format!("SELECT {items} FROM s WHERE c0 = 0"),
        _ => format!("SELECT {items} FROM s GROUP BY c0"),
    }
}

#[test]
fn a_total_that_fits_is_right_though_sums_of_parts_do_not_fit() {
    // From the first event on every total fits; two neighbours of one sign do not.
    let signs: Vec<bool> = [true, false, false, true].repeat(6);
    let events = events(&signs);
    let mut next = numbers();
    for keys in [0, 1] {
        let case = Case {
            view: select(keys, OUTPUTS.iter().map(|(view, _)| *view)),
            oracle: vec![select(keys, OUTPUTS.iter().map(|(_, oracle)| *oracle))],
            keys,
        };
        for _ in 0..24 {
            let mut cut = Draw::new((0..64).map(|_| next()).collect());
            law::check(&events::large_numbers(), &case, &events, &mut cut);
        }
    }
}

#[test]
fn a_total_that_does_not_fit_is_an_error_until_it_fits_again() {
    let exact = "sum(CAST(… AS DECIMAL(38, 0)))";
    for (output, name, way_out) in [
        ("sum(c1)", "BIGINT", exact),
        ("-sum(c1)", "BIGINT", exact),
        ("sum(DISTINCT c1)", "BIGINT", exact),
        ("sum(c2)", "DECIMAL(38, 2)", "sum(CAST(… AS DOUBLE))"),
        (
            "CAST(sum(c2) AS DOUBLE)",
            "DECIMAL(38, 2)",
            "sum(CAST(… AS DOUBLE))",
        ),
    ] {
        for (keys, positive) in [(0, true), (1, true), (0, false), (1, false)] {
            let sql = select(keys, [output].into_iter());
            let streams = BTreeMap::from([("s".to_owned(), events::large_numbers())]);
            let view = View::compile(&sql, &streams).unwrap();
            for error in all_finishes(&view, &[positive, positive]).map(Result::unwrap_err) {
                let text = error.to_string();
                let said = text.contains("does not fit") && text.contains(name);
                assert!(said && text.contains(way_out), "{sql}: {text}");
                assert_eq!(error.kind(), ProblemKind::Unprocessable, "{sql}");
            }
            let again = [positive, positive, !positive];
            for answer in all_finishes(&view, &again) {
                assert!(answer.is_ok(), "{sql}: {answer:?}");
            }
        }
    }
}

/// The answers over such events: by `finish` and by a file.
fn all_finishes(view: &View, signs: &[bool]) -> [Result<RecordBatch, ViewError>; 2] {
    let events = events(signs);
    let next = Position::zero().with(PartitionId(0), Offset(events.num_rows() as u64));
    let span = Span::new(Position::zero(), next).unwrap();
    let run = view.accumulate(&events, span).unwrap();
    [
        view.finish(run.states()),
        plans::incremental_run(view, run.states()),
    ]
}
