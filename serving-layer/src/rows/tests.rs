// SPDX-License-Identifier: Apache-2.0
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, Decimal128Array, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::prelude::SessionContext;
use dovetail_model::{Column, ColumnType, ProblemKind};
use tokio::time::Instant;

use super::*;
use crate::ports::{Layer, Limits};

fn schema() -> SchemaRef {
    let field = |name: &str, column_type: ColumnType, nullable| {
        Column {
            name: name.to_owned(),
            column_type,
            nullable,
        }
        .to_arrow()
    };
    Arc::new(Schema::new(vec![
        field("origin", ColumnType::Varchar, true),
        field("hour", ColumnType::Timestamp, false),
        field("delay", ColumnType::Double, true),
        field("fare", ColumnType::Decimal(10, 2), true),
        field("day", ColumnType::Date, true),
        field("tags", ColumnType::List(Box::new(ColumnType::Int)), true),
        field("n", ColumnType::Int, true),
    ]))
}

fn request() -> RowsRequest {
    RowsRequest {
        view: "v".to_owned(),
        columns: vec![],
        filters: vec![],
        order: vec![],
        limit: 2,
        cursor: None,
        limits: Limits {
            after: vec![],
            layer: Layer::Merged,
            generation: None,
            timeout: Duration::from_secs(1),
            deadline: Instant::now(),
        },
    }
}

fn filter(column: &str, op: FilterOp, value: &str) -> Filter {
    Filter {
        column: column.to_owned(),
        op,
        values: vec![value.to_owned()],
    }
}

fn by(column: &str, descending: bool) -> OrderBy {
    OrderBy {
        column: column.to_owned(),
        descending,
    }
}

/// Columns 0 and 1 are the keys: the whole key, in their order, and nothing else.
#[test]
fn only_filters_that_say_each_key_and_nothing_else_are_a_key() {
    let key = |filters: &[Filter]| {
        let request = RowsRequest {
            filters: filters.to_vec(),
            ..request()
        };
        RowsPlan::new(&request, &schema(), &[0, 1]).unwrap().key
    };
    let hour = || filter("hour", FilterOp::Eq, "2001-01-01T05:00:00");
    let origin = || filter("origin", FilterOp::Eq, "SFO");
    let is_null = Filter {
        values: vec![],
        ..filter("origin", FilterOp::IsNull, "")
    };
    let at = ScalarValue::TimestampMicrosecond(Some(978_325_200_000_000), None);
    let known = vec![ScalarValue::Utf8(Some("SFO".to_owned())), at.clone()];
    assert_eq!(key(&[origin(), hour()]), Some(known.clone()));
    assert_eq!(key(&[hour(), origin()]), Some(known));
    assert_eq!(
        key(&[is_null, hour()]),
        Some(vec![ScalarValue::Utf8(None), at])
    );
    for others in [
        vec![],
        vec![hour()],
        vec![
            origin(),
            filter("hour", FilterOp::GtEq, "2001-01-01T05:00:00"),
        ],
        vec![filter("origin", FilterOp::In, "SFO"), hour()],
        vec![origin(), hour(), filter("n", FilterOp::Eq, "1")],
        vec![
            origin(),
            hour(),
            filter("hour", FilterOp::LtEq, "2002-01-01T00:00:00"),
        ],
        vec![origin(), filter("n", FilterOp::Eq, "1")],
    ] {
        assert_eq!(key(&others), None, "{others:?}");
    }
}

#[test]
fn what_a_view_cannot_answer_is_named() {
    let cases: [(&str, FilterOp, &str, &str); 10] = [
        (
            "x",
            FilterOp::Eq,
            "1",
            "no column `x`; its columns are origin, hour",
        ),
        (
            "hour",
            FilterOp::Gt,
            "yesterday",
            "`yesterday` is not a TIMESTAMP",
        ),
        (
            "hour",
            FilterOp::Eq,
            "2001-01-01T00:00:00.0000001",
            "more than 6 digits",
        ),
        (
            "delay",
            FilterOp::Eq,
            "1,5",
            "`1,5` is not a DOUBLE, as column `delay` is",
        ),
        ("fare", FilterOp::Eq, "1.005", "more than 2 digits"),
        ("fare", FilterOp::Eq, "", "is not a DECIMAL(10, 2)"),
        (
            "n",
            FilterOp::Eq,
            "x",
            "`x` is not an INT, as column `n` is",
        ),
        ("day", FilterOp::Eq, "2001-02-30", "is not a DATE"),
        ("day", FilterOp::Eq, "2001-02-03T10:00:00", "is not a DATE"),
        (
            "tags",
            FilterOp::Eq,
            "1",
            "column `tags` is LIST<INT> and cannot be compared",
        ),
    ];
    for (column, op, value, part) in cases {
        let mut request = request();
        request.filters = vec![filter(column, op, value)];
        let problem = RowsPlan::new(&request, &schema(), &[0, 1]).unwrap_err();
        assert_eq!(problem.kind, ProblemKind::Invalid);
        assert!(problem.detail.contains(part), "{column}={value}: {problem}");
    }
    let mut twice = request();
    twice.columns = vec!["origin".to_owned(), "origin".to_owned()];
    assert!(RowsPlan::new(&twice, &schema(), &[0]).is_err());
    twice = request();
    twice.order = vec![by("origin", false), by("origin", true)];
    assert!(RowsPlan::new(&twice, &schema(), &[0]).is_err());
}

#[test]
fn null_is_asked_for_by_name() {
    for (op, sql) in [
        (FilterOp::IsNull, "origin IS NULL"),
        (FilterOp::IsNotNull, "origin IS NOT NULL"),
    ] {
        let mut request = request();
        request.filters = vec![Filter {
            values: vec![],
            ..filter("origin", op, "")
        }];
        let plan = RowsPlan::new(&request, &schema(), &[]).unwrap();
        assert_eq!(plan.filter.unwrap().to_string(), sql);
    }
}

#[test]
fn literals_keep_their_value() {
    let plan = |column: &str, value: &str| {
        let mut request = request();
        request.filters = vec![filter(column, FilterOp::Eq, value)];
        RowsPlan::new(&request, &schema(), &[])
            .unwrap()
            .filter
            .unwrap()
            .to_string()
    };
    assert_eq!(plan("origin", ""), "origin = Utf8(\"\")");
    assert_eq!(plan("fare", "1.500"), "fare = Decimal128(1.50,10,2)");
    let utc = plan("hour", "2001-01-01T00:00:00");
    assert_eq!(plan("hour", "2001-01-01T02:00:00+02:00"), utc);
    assert_eq!(plan("hour", "2001-01-01"), utc);
}

#[test]
fn columns_only_sorted_by_stand_behind_the_visible_ones() {
    let mut request = request();
    request.columns = vec!["delay".to_owned()];
    request.order = vec![by("fare", true), by("delay", false)];
    let plan = RowsPlan::new(&request, &schema(), &[0, 1]).unwrap();
    assert_eq!(plan.projection, [2, 3, 0, 1]);
    assert_eq!((plan.page.visible, plan.page.order), (1, vec![1, 0, 2, 3]));
    assert_eq!(plan.fetch, 3);
}

#[test]
fn a_cursor_of_another_request_is_refused() {
    let mut request = request();
    for text in ["zz", "00", "6", "7b7d"] {
        request.cursor = Some(text.to_owned());
        let problem = RowsPlan::new(&request, &schema(), &[0]).unwrap_err();
        assert!(
            problem.detail.contains("not one that a page gave"),
            "{problem}"
        );
    }
    let cursor = Cursor::parse("7b2266223a2278222c2276223a5b5d7d", "x", 0);
    assert!(cursor.is_ok());
    request.cursor = Some("7b2266223a2278222c2276223a5b5d7d".to_owned());
    let problem = RowsPlan::new(&request, &schema(), &[0]).unwrap_err();
    assert!(
        problem.detail.contains("another view, filter or order"),
        "{problem}"
    );
}

/// Every order, with nulls, NaN and equal values: the pages in a row are the whole table, in order.
#[tokio::test]
async fn pages_neither_repeat_nor_skip_a_row() {
    let origins = [
        None,
        Some("a"),
        Some("b"),
        Some("a"),
        None,
        Some("c"),
        Some("b"),
    ];
    let hours = [1_i64, 2, 3, 4, 5, 6, 7_000_001];
    let delays = [
        Some(1.5),
        None,
        Some(f64::NAN),
        Some(-0.0),
        Some(0.1 + 0.2),
        Some(1.5),
        None,
    ];
    let fares = [
        Some(100_i128),
        Some(100),
        None,
        Some(-5),
        Some(7),
        None,
        Some(100),
    ];
    let schema = schema().project(&[0, 1, 2, 3]).unwrap();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(origins.to_vec())),
        Arc::new(TimestampMicrosecondArray::from(hours.to_vec())),
        Arc::new(Float64Array::from(delays.to_vec())),
        Arc::new(
            Decimal128Array::from(fares.to_vec())
                .with_precision_and_scale(10, 2)
                .unwrap(),
        ),
    ];
    let table = RecordBatch::try_new(Arc::new(schema.clone()), columns).unwrap();
    let ctx = SessionContext::new();
    let run = async |request: &RowsRequest| {
        let plan = RowsPlan::new(request, &schema, &[0, 1]).unwrap();
        let mut frame = ctx.read_batch(table.clone()).unwrap();
        if let Some(filter) = plan.filter {
            frame = frame.filter(filter).unwrap();
        }
        let frame = frame
            .sort(plan.sort)
            .unwrap()
            .limit(0, Some(plan.fetch))
            .unwrap();
        let batches = frame.collect().await.unwrap();
        let rows = arrow::compute::concat_batches(&table.schema(), &batches).unwrap();
        (rows.project(&plan.projection).unwrap(), plan.page)
    };
    for first in ["origin", "hour", "delay", "fare"] {
        for (descending, second) in [(false, "fare"), (true, "fare"), (true, "delay")] {
            let mut request = request();
            request.order = vec![by(first, descending)];
            if first != second {
                request.order.push(by(second, !descending));
            }
            request.limit = 100;
            let (whole, _) = run(&request).await;
            request.limit = 2;
            let mut seen = Vec::new();
            loop {
                let (rows, page) = run(&request).await;
                let kept = rows.num_rows().min(2);
                seen.push(rows.slice(0, kept));
                if rows.num_rows() <= 2 {
                    break;
                }
                request.cursor = Some(Cursor::behind(&page, &rows, 1).unwrap().encode());
            }
            let paged = arrow::compute::concat_batches(&whole.schema(), &seen).unwrap();
            assert_eq!(
                format!("{paged:?}"),
                format!("{whole:?}"),
                "{:?}",
                request.order
            );
        }
    }
}
