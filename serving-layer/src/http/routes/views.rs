// SPDX-License-Identifier: Apache-2.0
//! `/v1/views`: what there is, and rows without SQL.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use axum::extract::{FromRef, State};
use axum::http::{HeaderMap, StatusCode};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use dovetail_model::Problem;
use futures::stream;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

use super::super::answer;
use super::super::auth::Role;
use super::super::call::Call;
use super::super::format::AnswerFormat;
use super::super::openapi::Operation;
use super::super::params::{Params, parameter};
use super::super::patience::Patience;
use super::super::problem::Handled;
use super::super::router::{Api, PathOf, Reads};
use crate::held::Held;
use crate::ports::{
    Answer, Filter, FilterOp, OrderBy, Page, RowsAnswer, RowsRequest, ViewInfo, ViewStatus,
};
use crate::rows::Cursor;

/// Rows of a page unless `limit` says otherwise.
const DEFAULT_LIMIT: u64 = 1000;
/// Rows of a page: it is held whole, to know whether another follows.
const LIMITS: (u64, u64) = (1, 10_000);

pub(in super::super) fn calls() -> Vec<Call<Api>> {
    vec![
        Call::get(
            "/v1/views",
            list,
            Operation::new("list_views", Role::Read, "Every view")
                .answers::<Views>(StatusCode::OK, "The views, in short."),
        ),
        rows_call(),
        Call::get(
            "/v1/views/{view}/status",
            status,
            Operation::new(
                "get_view_status",
                Role::Read,
                "Where the seam of a view stands",
            )
            .of_view()
            .answers::<ViewStatus>(StatusCode::OK, "The view, its seam and its generations."),
        ),
    ]
}

/// The rows of a view, which a replica answers, too.
pub(in super::super) fn rows_call<S>() -> Call<S>
where
    S: Clone + Send + Sync + 'static,
    Reads: FromRef<S>,
{
    let operation = Operation::new("get_rows", Role::Read, "Rows of a view, without SQL")
        .of_view()
        .query::<String>("columns", "The columns to answer, in order, separated by commas; all unless said.")
        .query::<String>(
            "order",
            "Columns to sort by, separated by commas, each with `-` before it for the largest first. The key columns follow as the tie-break.",
        )
        .number("limit", LIMITS, "Most rows to answer; 1000 unless said.")
        .query::<String>("cursor", "Where the page before ended, as that page gave it.")
        .question()
        .filters(
            "Conditions on columns, joined by AND: `column=value`, `column.gt=`, `.gte`, `.lt`, `.lte`, `.in=a,b`, `.is=null`, `.is=not_null`. A column named like a parameter is filtered as `limit.eq=`.",
        )
        .answers_page();
    Call::get("/v1/views/{view}", rows, operation)
}

#[derive(Serialize, JsonSchema)]
struct Views {
    views: Vec<ViewInfo>,
}

/// `GET /v1/views`
pub(in super::super) async fn list(State(api): State<Api>, params: Params) -> Handled {
    params.finish()?;
    let views = api.ports.control.views().await?;
    Ok(answer::json(&Views { views })?)
}

/// `GET /v1/views/{view}/status`
pub(in super::super) async fn status(
    State(api): State<Api>,
    PathOf(view): PathOf<String>,
    params: Params,
) -> Handled {
    params.finish()?;
    Ok(answer::json(&api.ports.control.view_status(&view).await?)?)
}

/// `GET /v1/views/{view}?column=…&column.gte=…&order=…&limit=…&cursor=…`
pub(in super::super) async fn rows(
    State(reads): State<Reads>,
    PathOf(view): PathOf<String>,
    mut params: Params,
    headers: HeaderMap,
) -> Handled {
    let format = AnswerFormat::negotiate(&mut params, &headers)?;
    let limits = params.query_options()?.limits(reads.query_timeout)?;
    let patience = reads.patience(&limits);
    let request = RowsRequest {
        view,
        columns: params
            .text("columns")?
            .map_or(Ok(Vec::new()), |t| list_of("columns", &t))?,
        order: params
            .text("order")?
            .map_or(Ok(Vec::new()), |t| order_of(&t))?,
        limit: params.number("limit", LIMITS)?.unwrap_or(DEFAULT_LIMIT) as usize,
        cursor: params.text("cursor")?,
        filters: filters(params.rest())?,
        limits,
    };
    let limit = request.limit;
    let RowsAnswer { answer, page } = patience.port(reads.queries.rows(request)).await?;
    let (answer, cursor) = paged(answer, &page, limit, &patience).await?;
    Ok(answer::respond(answer, format, patience, Some(cursor)).await?)
}

/// A comma-separated list of names.
fn list_of(name: &'static str, text: &str) -> Result<Vec<String>, Problem> {
    let names: Vec<String> = text.split(',').map(|n| n.trim().to_owned()).collect();
    if names.iter().any(String::is_empty) {
        return Err(parameter(name, format!("`{text}` has an empty name")));
    }
    Ok(names)
}

fn order_of(text: &str) -> Result<Vec<OrderBy>, Problem> {
    let by = |name: String| match name.strip_prefix('-') {
        Some(column) => OrderBy {
            column: column.to_owned(),
            descending: true,
        },
        None => OrderBy {
            column: name,
            descending: false,
        },
    };
    Ok(list_of("order", text)?.into_iter().map(by).collect())
}

fn filters(pairs: Vec<(String, String)>) -> Result<Vec<Filter>, Problem> {
    let filters = pairs.into_iter();
    filters
        .map(|(name, value)| filter_of(&name, value))
        .collect()
}

/// `column=value`, `column.op=value` or `column.is=null`. Only what stands behind the last dot can be an operator, so a
/// column with dots in its name is reached too.
fn filter_of(name: &str, value: String) -> Result<Filter, Problem> {
    let op = |suffix: &str| match suffix {
        "eq" => Some(FilterOp::Eq),
        "gt" => Some(FilterOp::Gt),
        "gte" => Some(FilterOp::GtEq),
        "lt" => Some(FilterOp::Lt),
        "lte" => Some(FilterOp::LtEq),
        "in" => Some(FilterOp::In),
        "is" => Some(FilterOp::IsNull),
        _ => None,
    };
    let (column, op) = name
        .rsplit_once('.')
        .and_then(|(column, suffix)| Some((column, op(suffix)?)))
        .unwrap_or((name, FilterOp::Eq));
    if op == FilterOp::IsNull {
        let op = match value.as_str() {
            "null" => op,
            "not_null" => FilterOp::IsNotNull,
            other => {
                let why = format!("`{other}` is neither `null` nor `not_null`");
                return Err(parameter(name, why));
            }
        };
        return Ok(Filter {
            column: column.to_owned(),
            op,
            values: vec![],
        });
    }
    let values = if op == FilterOp::In {
        split_values(&value).ok_or_else(|| {
            parameter(
                name,
                "a quoted value must end with a quote and be followed by a comma",
            )
        })?
    } else {
        vec![value]
    };
    Ok(Filter {
        column: column.to_owned(),
        op,
        values,
    })
}

/// The values of `.in`, as CSV splits them: `a,"b,c"`. None for a quote that is out of place.
fn split_values(text: &str) -> Option<Vec<String>> {
    let mut values = Vec::new();
    let mut rest = text;
    loop {
        let value;
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut text = String::new();
            let mut from = quoted;
            loop {
                let (part, behind) = from.split_once('"')?;
                text.push_str(part);
                match behind.strip_prefix('"') {
                    Some(more) => {
                        text.push('"');
                        from = more;
                    }
                    None => {
                        rest = behind;
                        break;
                    }
                }
            }
            value = text;
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            value = rest[..end].to_owned();
            rest = &rest[end..];
        }
        values.push(value);
        if rest.is_empty() {
            return Some(values);
        }
        rest = rest.strip_prefix(',')?;
    }
}

/// Collects a page, cuts it at the limit and says where the next one begins.
async fn paged(
    answer: Answer,
    page: &Page,
    limit: usize,
    patience: &Patience,
) -> Result<(Answer, Option<String>), Problem> {
    let Answer {
        mut batches,
        provenance,
        memory,
    } = answer;
    let visible: Vec<usize> = (0..page.visible).collect();
    let schema = batches.schema().project(&visible);
    let schema: SchemaRef = Arc::new(schema.map_err(Problem::internal)?);
    let mut shown: Vec<(RecordBatch, Held)> = Vec::new();
    let mut left = limit;
    let mut last: Option<(RecordBatch, usize)> = None;
    let mut more = page.more;
    while let Some(batch) = patience.next_batch(&mut batches).await? {
        if batch.num_rows() == 0 {
            continue;
        }
        let rows = batch.num_rows().min(left);
        let is_cut = rows < batch.num_rows();
        if rows > 0 {
            let part = batch.slice(0, rows);
            let part = part.project(&visible).map_err(Problem::internal)?;
            let held = patience.port(memory.collected(&part)).await?;
            shown.push((part, held));
            last = Some((batch, rows - 1));
        }
        left -= rows;
        if is_cut {
            more = true;
            break;
        }
    }
    let last = last.filter(|_| more);
    let cursor = last.map(|(batch, row)| Cursor::behind(page, &batch, row));
    let cursor = cursor.transpose()?.map(|last| last.encode());
    // Each is let go when the next one is asked for.
    let shown = stream::unfold((shown.into_iter(), None), |(mut shown, _before)| async {
        let (batch, held) = shown.next()?;
        Some((Ok(batch), (shown, Some(held))))
    });
    let answer = Answer {
        batches: Box::pin(RecordBatchStreamAdapter::new(schema, shown)),
        provenance,
        memory,
    };
    Ok((answer, cursor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_dot_can_be_an_operator() {
        let read = |name: &str| {
            let f = filter_of(name, "1".to_owned()).unwrap();
            (f.column, f.op)
        };
        assert_eq!(read("origin"), ("origin".to_owned(), FilterOp::Eq));
        assert_eq!(read("hour.gte"), ("hour".to_owned(), FilterOp::GtEq));
        assert_eq!(read("limit.eq"), ("limit".to_owned(), FilterOp::Eq));
        assert_eq!(read("a.b.lt"), ("a.b".to_owned(), FilterOp::Lt));
        assert_eq!(read("a.ne"), ("a.ne".to_owned(), FilterOp::Eq));
        for (value, op) in [
            ("null", FilterOp::IsNull),
            ("not_null", FilterOp::IsNotNull),
        ] {
            let filter = filter_of("a.is", value.to_owned()).unwrap();
            assert_eq!((filter.column.as_str(), filter.op), ("a", op));
            assert!(filter.values.is_empty());
        }
    }

    #[test]
    fn values_are_split_as_csv_splits_them() {
        for (text, values) in [
            ("SFO,LAX", Some(vec!["SFO", "LAX"])),
            ("", Some(vec![""])),
            ("a,", Some(vec!["a", ""])),
            (r#""a,b",c"#, Some(vec!["a,b", "c"])),
            (r#""a""b""#, Some(vec![r#"a"b"#])),
            (r#""a"b"#, None),
            (r#""a"#, None),
        ] {
            let values = values.map(|v| v.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(split_values(text), values, "{text}");
        }
    }
}
