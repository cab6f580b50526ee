// SPDX-License-Identifier: Apache-2.0
use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array};
use arrow::datatypes::{Decimal128Type, Float64Type, Int64Type};
use datafusion::logical_expr::EmitTo;
use proptest::prelude::*;

use super::quotient::nearest;
use super::wide::Groups;
use super::*;
use crate::functions::testing::{ask, column};

type BigintAverages = Groups<Int64Type, Decimal128Type, Quotient<Int64Type, Decimal128Type>>;

fn bigint_averages() -> BigintAverages {
    let finish = Quotient::new("avg(x)", &DataType::Int64, &DataType::Float64);
    Groups::new(DataType::Decimal128(38, 0), finish)
}

type Event = (usize, Option<i64>, Option<bool>);

const NO_VALUES: [Event; 4] = [
    (0, None, None),
    (1, None, None),
    (2, None, None),
    (3, None, None),
];

fn event() -> impl Strategy<Value = Event> {
    let values = vec![1, -7, 0, i64::MAX, i64::MIN, i64::MAX / 2];
    let value = proptest::option::of(proptest::sample::select(values));
    (0..4_usize, value, proptest::option::of(any::<bool>()))
}

proptest! {
    #[test]
    fn averages_of_groups_do_not_depend_on_how_they_are_cut(
        events in proptest::collection::vec(event(), 0..40),
        cut in 0..40_usize,
        filtered: bool,
    ) {
        let update = |states: &mut BigintAverages, events: &[Event]| {
            // Every group comes up, in the order of their numbers, as a group table has it.
            let events: Vec<&Event> = NO_VALUES.iter().chain(events).collect();
            let groups: Vec<usize> = events.iter().map(|e| e.0).collect();
            let values: ArrayRef = Arc::new(events.iter().map(|e| e.1).collect::<Int64Array>());
            let filter: BooleanArray = events.iter().map(|e| e.2).collect();
            let filter = filtered.then_some(&filter);
            states.update_batch(&[Arc::clone(&values)], &groups, filter, 4).unwrap();
            (states.convert_to_state(&[values], filter).unwrap(), groups)
        };
        let expected: Vec<Option<f64>> = (0..4).map(|group| {
            let taken = events.iter().filter(|(g, value, passes)| {
                *g == group && value.is_some() && (!filtered || *passes == Some(true))
            });
            let values: Vec<i128> = taken.filter_map(|e| e.1).map(i128::from).collect();
            let n = i64::try_from(values.len()).unwrap();
            (n > 0).then(|| nearest(values.iter().sum(), n))
        }).collect();

        let mut direct = bigint_averages();
        let (each, groups) = update(&mut direct, &events);
        let mut of_each = bigint_averages();
        of_each.merge_batch(&each, &groups, 4).unwrap();
        let mut merged = bigint_averages();
        let (early, late) = events.split_at(cut.min(events.len()));
        for (part, seen) in [(early, 2), (late, 4)] {
            let mut states = bigint_averages();
            update(&mut states, part);
            let first = states.state(EmitTo::First(2)).unwrap();
            merged.merge_batch(&first, &[0, 1], seen).unwrap();
            let rest = states.state(EmitTo::All).unwrap();
            merged.merge_batch(&rest, &[2, 3], 4).unwrap();
        }
        for mut averages in [direct, of_each, merged] {
            let found = averages.evaluate(EmitTo::All).unwrap();
            prop_assert_eq!(&found.as_primitive::<Float64Type>().iter().collect::<Vec<_>>(), &expected);
        }
    }
}

#[tokio::test]
async fn every_type_has_the_exact_average_in_the_type_of_datafusion() {
    let values = |values: [&str; 3]| {
        let [a, b, c] = values;
        format!("(SELECT {a} AS x, 1 AS y UNION ALL SELECT {b}, 2 UNION ALL SELECT {c}, 3) AS t")
    };
    let max = "9223372036854775807";
    for (three, average, data_type) in [
        ([max, "1500", "-9223372036854775807"], "500.0", "Float64"),
        (["1", "2", "NULL"], "1.5", "Float64"),
        (["NULL::INT", "NULL", "NULL"], "", "Float64"),
        (
            [
                "18446744073709551615",
                "18446744073709551615",
                "18446744073709551615",
            ],
            "1.8446744073709552e19",
            "Float64",
        ),
        (
            ["CAST(1 AS TINYINT)", "2", "2"],
            "1.6666666666666667",
            "Float64",
        ),
        (["CAST(1 AS REAL)", "2", "4.5"], "2.5", "Float64"),
        (
            ["1::DECIMAL(5, 2)", "1.01::DECIMAL(5, 2)", "NULL"],
            "1.005000",
            "Decimal128(9, 6)",
        ),
        (
            ["-1::DECIMAL(5, 2)", "-1::DECIMAL(5, 2)", "0::DECIMAL(5, 2)"],
            "-0.666667",
            "Decimal128(9, 6)",
        ),
        (
            [
                "CAST('0.9' AS DECIMAL(38, 38))",
                "CAST('0.9' AS DECIMAL(38, 38))",
                "CAST('0.9' AS DECIMAL(38, 38))",
            ],
            "0.90000000000000000000000000000000000000",
            "Decimal128(38, 38)",
        ),
        (
            ["arrow_cast('1.25', 'Decimal32(5, 2)')", "NULL", "NULL"],
            "1.250000",
            "Decimal32(9, 6)",
        ),
        (
            ["arrow_cast('1.25', 'Decimal64(9, 2)')", "NULL", "NULL"],
            "1.250000",
            "Decimal64(13, 6)",
        ),
        (
            [
                "CAST('1.25' AS DECIMAL(57, 2))",
                "CAST('1.25' AS DECIMAL(57, 2))",
                "NULL",
            ],
            "1.250000",
            "Decimal256(61, 6)",
        ),
        (
            [
                "arrow_cast(5, 'Duration(Second)')",
                "NULL",
                "arrow_cast(2, 'Duration(Second)')",
            ],
            "PT4S",
            "Duration(s)",
        ),
    ] {
        let rows = values(three);
        for select in [
            "avg(x)",
            "mean(x)",
            "avg(x) FILTER (WHERE y < 4)",
            "avg(x) OVER ()",
            "avg(x) OVER (ORDER BY y ROWS BETWEEN 2 PRECEDING AND CURRENT ROW)",
        ] {
            let sql = format!("SELECT {select} AS a FROM {rows}");
            assert_eq!(column(&sql).await.last().unwrap(), average, "{sql}");
            let typed = format!("SELECT arrow_typeof(a) FROM ({sql})");
            assert_eq!(column(&typed).await.last().unwrap(), data_type, "{sql}");
        }
    }
}

#[tokio::test]
async fn frames_of_windows_slide_over_exact_totals() {
    let max = "9223372036854775807";
    let rows =
        format!("(VALUES (1, {max}), (2, 1000), (3, -{max}), (4, NULL), (5, NULL)) AS t(y, x)");
    let frames = |argument| {
        format!("SELECT avg({argument}) OVER (ORDER BY y ROWS 1 PRECEDING) AS a FROM {rows}")
    };
    let (x, decimal) = (frames("x"), frames("CAST(x AS DECIMAL(20, 0))"));
    assert_eq!(
        column(&x).await,
        [
            "9.223372036854776e18",
            "4.611686018427388e18",
            "-4.6116860184273874e18",
            "-9.223372036854776e18",
            ""
        ]
    );
    assert_eq!(
        column(&decimal).await,
        [
            "9223372036854775807.0000",
            "4611686018427388403.5000",
            "-4611686018427387403.5000",
            "-9223372036854775807.0000",
            ""
        ]
    );
}

#[tokio::test]
async fn distinct_values_count_once() {
    let max = "9223372036854775807";
    let rows =
        format!("(VALUES (1, {max}), (2, {max}), (3, 1000), (4, -{max}), (5, NULL)) AS t(y, x)");
    for (argument, average) in [
        ("x", "333.3333333333333"),
        ("CAST(x AS DECIMAL(20, 1))", "333.33333"),
        ("arrow_cast(x, 'Duration(Second)')", "PT333S"),
    ] {
        let whole = format!("SELECT avg(DISTINCT {argument}) AS a FROM {rows}");
        assert_eq!(column(&whole).await, [average], "{whole}");
        let beside = format!(
            "SELECT avg(DISTINCT {argument}) AS a FROM {rows} GROUP BY y > 9, 'x' HAVING count(*) = 5"
        );
        assert_eq!(column(&beside).await, [average], "{beside}");
        let frame = "OVER (ORDER BY y ROWS 2 PRECEDING)";
        let frames = format!("SELECT avg(DISTINCT {argument}) {frame} AS a FROM {rows}");
        assert_eq!(column(&frames).await[3], average, "{frames}");
    }
}

#[tokio::test]
async fn what_does_not_fit_says_how_it_would() {
    for (value, said, ways) in [
        (
            "CAST('999999999999999999999999999999999999.99' AS DECIMAL(38, 2))",
            "`avg(t.x)` does not fit DECIMAL(38, 6): write CAST(avg(CAST(… AS DECIMAL(42, 2))) AS DECIMAL(38, 2)), or avg(CAST(… AS DOUBLE))",
            [
                (
                    "CAST(avg(CAST(x AS DECIMAL(42, 2))) AS DECIMAL(38, 2))",
                    "999999999999999999999999999999999999.99",
                ),
                ("avg(CAST(x AS DOUBLE))", "1e36"),
            ],
        ),
        (
            "CAST('99.5' AS DECIMAL(38, 36))",
            "`avg(t.x)` does not fit DECIMAL(38, 38): write CAST(avg(CAST(… AS DECIMAL(42, 36))) AS DECIMAL(38, 36)), or avg(CAST(… AS DOUBLE))",
            [
                (
                    "CAST(avg(CAST(x AS DECIMAL(42, 36))) AS DECIMAL(38, 36))",
                    "99.500000000000000000000000000000000000",
                ),
                ("CAST(avg(CAST(x AS DOUBLE)) AS DECIMAL(5, 2))", "99.50"),
            ],
        ),
        (
            "arrow_cast('9999999.99', 'Decimal32(9, 2)')",
            "`avg(t.x)` does not fit DECIMAL(9, 6): write avg(CAST(… AS DECIMAL(38, 2))), or avg(CAST(… AS DOUBLE))",
            [
                ("avg(CAST(x AS DECIMAL(38, 2)))", "9999999.990000"),
                ("avg(CAST(x AS DOUBLE))", "9999999.99"),
            ],
        ),
    ] {
        let rows = format!("(SELECT {value} AS x, 1 AS y UNION ALL SELECT {value}, 2) AS t");
        for select in ["avg(x)", "avg(x) OVER (ORDER BY y ROWS 1 PRECEDING)"] {
            let sql = format!("SELECT {select} FROM {rows}");
            let error = ask(&sql).await.expect_err(&sql);
            assert_eq!(crate::words_of(&error), said, "{sql}");
        }
        for (way, average) in ways {
            let sql = format!("SELECT {way} AS a FROM {rows}");
            assert_eq!(column(&sql).await, [average], "{sql}");
        }
    }
    let error = ask("SELECT avg(CAST('1' AS DECIMAL(76, 2)))")
        .await
        .unwrap_err();
    assert_eq!(
        crate::words_of(&error),
        "`avg` takes no DECIMAL(76, 2), whose sums nothing holds: cast the argument, as in avg(CAST(… AS DECIMAL(57, 2)))"
    );
}
