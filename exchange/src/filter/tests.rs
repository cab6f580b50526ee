use std::collections::BTreeMap;

use arrow::array::{
    BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use datafusion::common::DFSchema;
use datafusion::common::cast::as_boolean_array;
use datafusion::logical_expr::{col as column, in_list as one_of, lit as constant};
use datafusion::prelude::SessionContext;
use dovetail_model::{Column, ColumnType, StreamSchema, UnknownColumns};
use proptest::prelude::*;

use super::*;

const KEYS: [&str; 4] = ["origin", "hour", "number", "price"];

fn view() -> View {
    let types = [
        ColumnType::Varchar,
        ColumnType::Timestamp,
        ColumnType::BigInt,
        ColumnType::Double,
    ];
    let columns = KEYS.iter().zip(types).map(|(name, of)| Column {
        name: (*name).to_owned(),
        column_type: of,
        nullable: true,
    });
    let schema = StreamSchema {
        columns: columns.collect(),
        event_time: None,
        unknown_columns: UnknownColumns::Ignore,
    };
    let sql = "SELECT origin, hour, number, price, count(*) AS seen FROM s GROUP BY origin, hour, number, price";
    View::compile(sql, &BTreeMap::from([("s".to_owned(), schema)])).unwrap()
}

type Row = (Option<usize>, Option<i64>, Option<i64>, Option<usize>);

const ORIGINS: [&str; 4] = ["", "JFK", "SFO", "ångström"];
const PRICES: [f64; 6] = [f64::NEG_INFINITY, -0.0, 0.0, 1.5, f64::INFINITY, f64::NAN];

fn row() -> impl Strategy<Value = Row> {
    let some = |n: i64| proptest::option::of(-n..n);
    (
        proptest::option::of(0..ORIGINS.len()),
        some(3),
        some(3),
        proptest::option::of(0..PRICES.len()),
    )
}

fn states(view: &View, rows: &[Row]) -> RecordBatch {
    let origins = rows.iter().map(|row| row.0.map(|at| ORIGINS[at]));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(origins.collect::<StringArray>()),
        Arc::new(
            rows.iter()
                .map(|row| row.1)
                .collect::<TimestampMicrosecondArray>(),
        ),
        Arc::new(rows.iter().map(|row| row.2).collect::<Int64Array>()),
        Arc::new(
            rows.iter()
                .map(|row| row.3.map(|at| PRICES[at]))
                .collect::<Float64Array>(),
        ),
        Arc::new(Int64Array::from(vec![1; rows.len()])),
    ];
    RecordBatch::try_new(view.state_schema(), columns).unwrap()
}

/// A constant for a key column.
fn value(key: usize, of: i64) -> Expr {
    let at = |n: usize| usize::try_from(of.rem_euclid(100)).unwrap() % n;
    match KEYS[key] {
        "origin" => constant(ORIGINS[at(ORIGINS.len())]),
        "hour" => constant(ScalarValue::TimestampMicrosecond(Some(of % 4), None)),
        "number" => constant(of % 4),
        _ => constant(PRICES[at(PRICES.len())]),
    }
}

fn part() -> impl Strategy<Value = Expr> {
    let operators = [
        Operator::Eq,
        Operator::NotEq,
        Operator::Lt,
        Operator::LtEq,
        Operator::Gt,
        Operator::GtEq,
    ];
    let compared = (
        0..KEYS.len(),
        proptest::sample::select(operators.to_vec()),
        -4i64..4,
        any::<bool>(),
    );
    let compared = compared.prop_map(|(key, operator, of, swapped)| {
        let (left, right) = (column(KEYS[key]), value(key, of));
        let (left, right) = if swapped {
            (right, left)
        } else {
            (left, right)
        };
        Expr::BinaryExpr(datafusion::logical_expr::BinaryExpr::new(
            Box::new(left),
            operator,
            Box::new(right),
        ))
    });
    let listed = (
        0..KEYS.len(),
        proptest::collection::vec(-4i64..4, 1..4),
        any::<bool>(),
    );
    let listed = listed.prop_map(|(key, of, negated)| {
        one_of(
            column(KEYS[key]),
            of.into_iter().map(|of| value(key, of)).collect(),
            negated,
        )
    });
    let null = (0..KEYS.len()).prop_map(|key| column(KEYS[key]).is_null());
    let leaf = prop_oneof![4 => compared, 2 => listed, 1 => null];
    leaf.prop_recursive(2, 8, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| a.and(b)),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| a.or(b)),
            inner.prop_map(|a| !a),
        ]
    })
}

fn passes(predicate: &dyn PhysicalExpr, batch: &RecordBatch) -> BooleanArray {
    let passes = predicate.evaluate(batch).unwrap();
    let passes = passes.into_array(batch.num_rows()).unwrap();
    as_boolean_array(&passes).unwrap().clone()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// What the reader's own predicate lets through, no filter that travelled keeps back.
    #[test]
    fn no_row_is_kept_back_that_the_question_needs(
        rows in proptest::collection::vec(row(), 0..30),
        filters in proptest::collection::vec(part(), 1..4),
    ) {
        let view = view();
        let batch = states(&view, &rows);
        let schema = DFSchema::try_from(view.state_schema()).unwrap();
        let context = SessionContext::new();
        let sent = KeyFilter::of(&view, &filters);
        let sent: Vec<KeyFilter> = serde_json::from_slice(&serde_json::to_vec(&sent).unwrap()).unwrap();
        let sent: Vec<_> = sent.iter().map(|filter| passes(&*filter.predicate(&view).unwrap(), &batch)).collect();
        let asked: Vec<_> = filters
            .iter()
            .map(|filter| passes(&*context.create_physical_expr(filter.clone(), &schema).unwrap(), &batch))
            .collect();
        let lets = |all: &[BooleanArray], row: usize| {
            all.iter().all(|passes| arrow::array::Array::is_valid(passes, row) && passes.value(row))
        };
        for (place, row) in rows.iter().enumerate() {
            prop_assert!(!lets(&asked, place) || lets(&sent, place), "{place}: {row:?}");
        }
    }
}

proptest! {
    #[test]
    fn constants_that_nobody_has_sent_are_an_error(
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        kept in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let view = view();
        let filter = column("origin").eq(constant("JFK"));
        let mut sent = KeyFilter::of(&view, &[filter]).pop().unwrap();
        for (at, byte) in edits {
            let at = at.index(sent.constants.len());
            sent.constants[at] = byte;
        }
        if let Some(kept) = kept {
            sent.constants.truncate(kept.index(sent.constants.len()));
        }
        if let Ok(predicate) = sent.predicate(&view) {
            let _ = predicate.evaluate(&states(&view, &[(Some(1), None, None, None)]));
        }
    }
}

#[test]
fn comparisons_of_keys_with_constants_travel_and_nothing_else_does() {
    let view = view();
    let kept = |filter: Expr| {
        let sent = KeyFilter::of(&view, &[filter]);
        let rows: Vec<Row> = (-2..2).map(|n| (None, None, Some(n), None)).collect();
        let batch = states(&view, &rows);
        let mut kept: Vec<bool> = vec![true; rows.len()];
        for filter in &sent {
            let passes = passes(&*filter.predicate(&view).unwrap(), &batch);
            for (kept, passes) in kept.iter_mut().zip(&passes) {
                *kept &= passes == Some(true);
            }
        }
        (sent.len(), kept)
    };
    let number = || column("number");
    assert_eq!(
        kept(number().lt(constant(0i64))),
        (1, vec![true, true, false, false])
    );
    assert_eq!(
        kept(constant(0i64).lt(number())),
        (1, vec![false, false, false, true])
    );
    let both = number()
        .gt_eq(constant(-1i64))
        .and(number().not_eq(constant(0i64)));
    assert_eq!(kept(both), (1, vec![false, true, true, true]));
    let listed = one_of(number(), vec![constant(1i64), constant(-2i64)], false);
    assert_eq!(kept(listed), (1, vec![true, false, false, true]));
    for other in [
        number().eq(constant(0i32)),
        number().eq(constant(ScalarValue::Int64(None))),
        number().eq(column("number")),
        column("seen").eq(constant(1i64)),
        (number() + constant(1i64)).eq(constant(0i64)),
        one_of(number(), vec![constant(1i64)], true),
    ] {
        assert_eq!(kept(other.clone()).0, 0, "{other}");
    }
}
