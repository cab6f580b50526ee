// SPDX-License-Identifier: Apache-2.0
//! What a select list that fails on some group says: which column, of which group, and why.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray, new_null_array,
};
use arrow::datatypes::Int64Type;
use dovetail_model::{Offset, Position, ProblemKind, Span};
use dovetail_view::{Answered, FinishFailed, View, ViewError};

use crate::{stream, streams};

/// Delays of flights, with their origins.
fn events(flights: &[(Option<&str>, i32)]) -> RecordBatch {
    let origins: StringArray = flights.iter().map(|(origin, _)| *origin).collect();
    let delays: Int32Array = flights.iter().map(|(_, delay)| Some(*delay)).collect();
    let given = BTreeMap::<&str, ArrayRef>::from([
        ("origin", Arc::new(origins) as ArrayRef),
        ("delay", Arc::new(delays)),
    ]);
    let schema = stream().declared();
    let columns = schema.fields().iter().map(|field| {
        let missing = || new_null_array(field.data_type(), flights.len());
        given
            .get(field.name().as_str())
            .map_or_else(missing, Arc::clone)
    });
    let columns = columns.collect();
    RecordBatch::try_new(schema, columns).unwrap()
}

fn failure(sql: &str, flights: &[(Option<&str>, i32)]) -> FinishFailed {
    let view = View::compile(sql, &streams()).unwrap();
    let span = Span::up_to(Position::single(Offset(flights.len() as u64)));
    let run = view.accumulate(&events(flights), span).unwrap();
    let error = view.finish(run.states()).unwrap_err();
    assert_eq!(error.kind(), ProblemKind::Unprocessable);
    let ViewError::Finish(failed) = error else {
        panic!("{error}");
    };
    if let [states] = run.states() {
        let unique = view.finish_unique(states).unwrap_err();
        assert_eq!(unique.to_string(), failed.to_string());
        assert!(matches!(view.to_file(states), Err(ViewError::Finish(_))));
    }
    *failed
}

#[test]
fn it_names_the_column_and_the_group() {
    let flights = [
        (Some("SFO"), 1),
        (Some("O'Hare"), 2),
        (Some("SFO"), 3),
        (None, 7),
    ];
    let sql =
        "SELECT count(*) AS n, 10 / (sum(delay) - 2) AS r, origin FROM flights GROUP BY origin";
    let failed = failure(sql, &flights);
    assert_eq!(failed.column, "r");
    assert_eq!(failed.expression, "10 / (sum(delay) - 2)");
    assert_eq!(failed.group.as_deref(), Some("origin = 'O''Hare'"));
    assert_eq!(failed.reason, "divide by zero error");

    let sql = "SELECT origin, 10 / (sum(delay) - 7) AS r FROM flights GROUP BY origin";
    assert_eq!(
        failure(sql, &flights).group.as_deref(),
        Some("origin = NULL")
    );
}

#[test]
fn columns_that_nobody_asks_for_fail_nobody() {
    let sql = "SELECT 10 / (sum(delay) - 2) AS r, -sum(9000000000000000000 + delay) AS s, origin, count(*) AS n, sum(delay) + 1 AS d
        FROM flights GROUP BY origin";
    let flights = [(Some("SFO"), 1), (Some("SFO"), 1)];
    assert_eq!(failure(sql, &flights).column, "s");
    let view = View::compile(sql, &streams()).unwrap();
    let span = Span::up_to(Position::single(Offset(2)));
    let run = view.accumulate(&events(&flights), span).unwrap();
    let states = &run.states()[0];
    let finisher = view.finisher(&[4, 2, 3]).unwrap();
    let rows = finisher.finish(run.states()).unwrap();
    let expected: [(&str, ArrayRef); 3] = [
        ("d", Arc::new(Int64Array::from(vec![3]))),
        ("origin", Arc::new(StringArray::from(vec!["SFO"]))),
        ("n", Arc::new(Int64Array::from(vec![2]))),
    ];
    for (index, (name, column)) in expected.iter().enumerate() {
        assert_eq!(rows.schema().field(index).name(), name);
        assert_eq!(rows.column(index), column);
    }
    assert_eq!(finisher.finish_unique(states).unwrap(), rows);
    let without_keys = states.project(&(1..states.num_columns()).collect::<Vec<_>>());
    let twice = finisher.finish_with(states, vec![(without_keys.unwrap(), vec![0])]);
    assert_eq!(
        twice
            .unwrap()
            .column(2)
            .as_primitive::<Int64Type>()
            .value(0),
        4
    );
    assert_eq!(
        view.finisher(&[])
            .unwrap()
            .finish(run.states())
            .unwrap()
            .num_rows(),
        1
    );
    let Err(ViewError::Finish(failed)) = view.finisher(&[3, 0]).unwrap().finish(run.states())
    else {
        panic!("the column that is asked for fails");
    };
    assert_eq!(
        (failed.column.as_str(), failed.group.as_deref()),
        ("r", Some("origin = 'SFO'"))
    );
}

#[test]
fn a_part_that_several_columns_share_is_found_in_one_of_them() {
    let sql = "SELECT count(*) AS n, 10 / (sum(delay) - 2) + 1 AS a, 10 / (sum(delay) - 2) + 2 AS b FROM flights";
    let failed = failure(sql, &[(None, 2)]);
    assert_eq!(
        (failed.column.as_str(), failed.group.as_deref()),
        ("a", None)
    );
    let explained = failed.explain("v", "flights", Answered::Others);
    for part in [
        "view `v`",
        "`a`",
        "a query that does not read the column is answered",
        "divide by zero",
        "`dovetail exclude flights",
        "`dovetail replay v`",
        "nullif",
        "redefine",
    ] {
        assert!(explained.contains(part), "{part}: {explained}");
    }
}

#[test]
fn a_sum_that_does_not_fit_names_the_first_column_that_it_is_in() {
    let sql = "SELECT origin, count(*) AS n, -sum(9000000000000000000 + delay) AS s FROM flights GROUP BY origin";
    let flights = [(Some("SFO"), 1), (Some("OAK"), 2), (Some("OAK"), 3)];
    let failed = failure(sql, &flights);
    assert_eq!(failed.column, "s");
    assert_eq!(failed.group.as_deref(), Some("origin = 'OAK'"));
    assert!(failed.reason.contains("does not fit"), "{failed}");
}

/// Each event by itself is at fault here: before, its product was another number.
#[test]
fn arithmetic_that_does_not_fit_is_an_error_and_never_another_number() {
    let span = Span::up_to(Position::single(Offset(2)));
    let flights = [(Some("SFO"), 1), (Some("OAK"), i32::MAX)];
    for (expression, said) in [
        (
            "sum(delay * delay)",
            "`2147483647 * 2147483647` does not fit INT",
        ),
        ("max(delay + 1)", "`2147483647 + 1` does not fit INT"),
        (
            "count(*) FILTER (WHERE -2 - delay < 0)",
            "`-2 - 2147483647` does not fit INT",
        ),
    ] {
        let sql = format!("SELECT {expression} AS x FROM flights");
        let view = View::compile(
            &sql.replace(" 1", " CAST(1 AS INT)")
                .replace("-2", "CAST(-2 AS INT)"),
            &streams(),
        )
        .unwrap();
        let error = view
            .accumulate(&events(&flights), span.clone())
            .unwrap_err();
        assert_eq!(error.kind(), ProblemKind::Unprocessable, "{sql}");
        assert!(error.to_string().contains(said), "{sql}: {error}");
        assert!(
            view.accumulate(&events(&flights[..1]), span.clone())
                .is_ok()
        );
    }
    let failed = failure(
        "SELECT max(delay) * CAST(2 AS INT) AS x FROM flights",
        &flights,
    );
    assert_eq!(failed.column, "x");
    assert!(failed.reason.contains("does not fit INT"), "{failed}");
}
