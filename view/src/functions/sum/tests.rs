// SPDX-License-Identifier: Apache-2.0
use arrow::array::{ArrayRef, AsArray, BooleanArray, Decimal128Array, Int64Array};
use arrow::datatypes::{Decimal128Type, Decimal256Type, Int64Type};
use datafusion::logical_expr::EmitTo;
use proptest::prelude::*;

use super::wide::{Groups, Rows};
use super::*;
use crate::functions::testing::{ask, column};

type BigintSums = Groups<Int64Type, Decimal128Type, Total<Int64Type, Decimal128Type>>;

fn bigint_sums() -> BigintSums {
    let finish = Total::new("sum(x)", &DataType::Int64);
    Groups::new(DataType::Decimal128(38, 0), finish)
}

type Event = (usize, Option<i64>, Option<bool>);

fn event() -> impl Strategy<Value = Event> {
    let values = vec![1, -7, 0, i64::MAX, i64::MIN, i64::MAX / 2];
    let value = proptest::option::of(proptest::sample::select(values));
    (0..4_usize, value, proptest::option::of(any::<bool>()))
}

/// The sum of each group; of the events that pass, if they are filtered.
fn reference(events: &[Event], groups: usize, filtered: bool) -> Vec<Option<i128>> {
    let mut sums = vec![None; groups];
    for (group, value, passes) in events {
        if let (Some(value), true) = (value, !filtered || *passes == Some(true)) {
            *sums[*group].get_or_insert(0) += i128::from(*value);
        }
    }
    sums
}

/// Events whose groups come up one after the other, as a group table numbers them.
fn numbered(mut events: Vec<Event>) -> (Vec<Event>, usize) {
    let mut seen: Vec<usize> = Vec::new();
    for (group, ..) in &mut events {
        let number = seen.iter().position(|g| g == group);
        *group = number.unwrap_or_else(|| {
            seen.push(*group);
            seen.len() - 1
        });
    }
    (events, seen.len())
}

fn values_of(states: &ArrayRef) -> Vec<Option<i128>> {
    states.as_primitive::<Decimal128Type>().iter().collect()
}

proptest! {
    #[test]
    fn states_of_groups_are_the_exact_sums(events in proptest::collection::vec(event(), 0..40), filtered: bool, half: bool) {
        let (events, count) = numbered(events);
        let groups: Vec<usize> = events.iter().map(|e| e.0).collect();
        let values: ArrayRef = Arc::new(events.iter().map(|e| e.1).collect::<Int64Array>());
        let filter: BooleanArray = events.iter().map(|e| e.2).collect();
        let filter = filtered.then_some(&filter);
        let expected = reference(&events, count, filtered);

        let mut direct = bigint_sums();
        direct.update_batch(&[Arc::clone(&values)], &groups, filter, count).unwrap();
        // Each event to a state of its own, and these merged.
        let states = direct.convert_to_state(&[values], filter).unwrap();
        let merged = || {
            let mut merged = bigint_sums();
            merged.merge_batch(&states, &groups, count).unwrap();
            merged
        };
        for mut sums in [direct, merged()] {
            let mut found = Vec::new();
            if half {
                found.extend(values_of(&sums.state(EmitTo::First(count / 2)).unwrap()[0]));
            }
            found.extend(values_of(&sums.state(EmitTo::All).unwrap()[0]));
            prop_assert_eq!(&found, &expected);
        }
        let finished = merged().evaluate(EmitTo::All);
        let fits: Option<Vec<Option<i64>>> = expected
            .iter()
            .map(|sum| sum.map(i64::try_from).transpose().ok())
            .collect();
        match fits {
            None => prop_assert!(finished.is_err()),
            Some(fits) => {
                let finished = finished.unwrap();
                prop_assert_eq!(finished.as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), fits);
            }
        }
    }
}

#[test]
fn one_digit_too_many_is_none_of_the_result() {
    let greatest = 10_i128.pow(38) - 1;
    for (p, s, fits) in [(38, 2, greatest), (29, 2, 10_i128.pow(29) - 1)] {
        let state = DataType::Decimal256(76, s);
        let result = DataType::Decimal128(p, s);
        for (value, more) in [(fits, 1), (-fits, -1)] {
            let finish: Total<Decimal128Type, Decimal256Type> = Total::new("sum(x)", &result);
            let mut rows: Rows<Decimal128Type, _, _> = Rows::new(state.clone(), finish);
            let add = |rows: &mut Rows<_, _, _>, value| {
                let array = Decimal128Array::from_iter_values([value]);
                rows.update_batch(&[Arc::new(array)]).unwrap();
            };
            add(&mut rows, value);
            assert!(rows.evaluate().is_ok());
            add(&mut rows, more);
            assert!(rows.evaluate().is_err());
            add(&mut rows, -more);
            assert!(rows.evaluate().is_ok());
        }
    }
}

#[tokio::test]
async fn every_type_is_added_up_or_refused_with_a_way_out() {
    let max = "9223372036854775807";
    for (value, sum) in [
        (
            max,
            "`sum(t.x)` does not fit BIGINT: write sum(CAST(… AS DECIMAL(38, 0))), or sum(CAST(… AS DOUBLE))",
        ),
        (
            "18446744073709551615",
            "`sum(t.x)` does not fit BIGINT UNSIGNED: write sum(CAST(… AS DECIMAL(38, 0))), or sum(CAST(… AS DOUBLE))",
        ),
        (
            "arrow_cast(9223372036854775807, 'Duration(Microsecond)')",
            "`sum(t.x)` does not fit INTERVAL: write sum(CAST(CAST(… AS BIGINT) AS DECIMAL(38, 0))), or CAST(… AS DOUBLE) inside",
        ),
        (
            "CAST('99999999999999999999999999999999999999' AS DECIMAL(38, 0))",
            "`sum(t.x)` does not fit DECIMAL(38, 0): write sum(CAST(… AS DOUBLE))",
        ),
        (
            "CAST('999999999999999999999999999999999999.99' AS DECIMAL(38, 2))",
            "`sum(t.x)` does not fit DECIMAL(38, 2): write sum(CAST(… AS DOUBLE)), or sum(CAST(… AS DECIMAL(38, 0)))",
        ),
        (
            "arrow_cast('9999999.99', 'Decimal32(9, 2)')",
            "`sum(t.x)` does not fit DECIMAL(9, 2): write sum(CAST(… AS DECIMAL(38, 2))), or sum(CAST(… AS DOUBLE))",
        ),
        (
            "CAST('1' AS DECIMAL(76, 2))",
            "`sum` takes no DECIMAL(76, 2), whose sums nothing holds: cast the argument, as in sum(CAST(… AS DECIMAL(57, 2)))",
        ),
        (
            "CAST('0.1' AS DECIMAL(76, 76))",
            "`sum` takes no DECIMAL(76, 76), whose sums nothing holds: cast the argument, as in sum(CAST(… AS DECIMAL(57, 57)))",
        ),
    ] {
        for select in [
            "sum(x)",
            "sum(x) OVER (ORDER BY y)",
            "sum(x) OVER (ORDER BY y ROWS 1 PRECEDING)",
        ] {
            let sql = format!(
                "SELECT {select} FROM (SELECT {value} AS x, 1 AS y UNION ALL SELECT {value}, 2) AS t"
            );
            let error = ask(&sql).await.expect_err(&sql);
            assert_eq!(crate::words_of(&error), sum, "{sql}");
        }
    }
    let two = "(SELECT CAST('1.25' AS DECIMAL(57, 2)) AS x UNION ALL SELECT 2)";
    assert_eq!(
        column(&format!("SELECT sum(x) AS s FROM {two} AS t")).await,
        ["3.25"]
    );
}

#[tokio::test]
async fn way_outs_lead_out() {
    let rows = "(SELECT arrow_cast(9223372036854775807, 'Duration(Microsecond)') AS d, 9223372036854775807 AS x, 1 AS y \
                UNION ALL SELECT arrow_cast(9223372036854775807, 'Duration(Microsecond)'), 9223372036854775807, 2) AS t";
    for call in [
        "sum(CAST(x AS DECIMAL(38, 0)))",
        "sum(CAST(CAST(d AS BIGINT) AS DECIMAL(38, 0)))",
    ] {
        assert_eq!(
            column(&format!("SELECT {call} AS s FROM {rows}")).await,
            ["18446744073709551614"]
        );
    }
}

#[tokio::test]
async fn frames_of_windows_slide_over_sums_that_do_not_fit() {
    let rows = "(VALUES (1, 9223372036854775807), (2, -9223372036854775807), (3, -9223372036854775807), (4, NULL), (5, 5), (6, 5)) AS t(y, x)";
    let frame = "OVER (ORDER BY y ROWS 1 PRECEDING) AS s";
    let error = ask(&format!("SELECT sum(x) {frame} FROM {rows}"))
        .await
        .unwrap_err();
    assert!(crate::words_of(&error).contains("does not fit BIGINT"));
    let fitting = format!("SELECT sum(x) {frame} FROM {rows} WHERE y <> 3");
    assert_eq!(
        column(&fitting).await,
        [
            "9223372036854775807",
            "0",
            "-9223372036854775807",
            "5",
            "10"
        ]
    );
    let distinct = format!("SELECT sum(DISTINCT x) {frame} FROM {rows}");
    assert_eq!(
        column(&distinct).await,
        [
            "9223372036854775807",
            "0",
            "-9223372036854775807",
            "-9223372036854775807",
            "5",
            "5"
        ]
    );
    // The whole passes the end and comes back: the frame slides on.
    let wide = format!("SELECT sum(CAST(x AS DECIMAL(38, 0))) {frame} FROM {rows} WHERE y < 4");
    assert_eq!(
        column(&wide).await,
        ["9223372036854775807", "0", "-18446744073709551614"]
    );
}

#[tokio::test]
async fn a_sum_with_a_constant_added_is_not_made_of_the_sum_without() {
    // DataFusion would answer sum(x) + 3 * count(x): sum(x) passes the end.
    let rows = "(VALUES (-4611686018427387904), (-4611686018427387904), (-1)) AS t(x)";
    let sql = format!("SELECT sum(x + 3) - sum(x + 1) AS s FROM {rows}");
    assert_eq!(column(&sql).await, ["6"]);
}
