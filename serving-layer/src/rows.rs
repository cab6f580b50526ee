// SPDX-License-Identifier: Apache-2.0
//! Rows by REST, as expressions over a view's output columns.
//!
//! Purpose: [`RowsPlan`] checks a [`RowsRequest`] against a schema and turns it into filter, sort, fetch and
//! projection; its cursor continues a page right behind its last row. Collaborators: the implementation of
//! [`Queries::rows`](crate::ports::Queries::rows) plans with it, the router writes the cursors.
//! Invariants: the sort ends with all key columns, so it is total and a page neither repeats nor skips a
//! row of an unchanged view. Non-goals: execution; pinning a cut across pages.

mod cursor;
mod literal;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::{Expr, Operator, SortExpr, and, lit, or};
use dovetail_model::Problem;

pub(crate) use cursor::Cursor;
use literal::literal;

use crate::ports::{Filter, FilterOp, OrderBy, Page, RowsRequest};

/// What may stand in the query string, for someone who has mistyped one.
const FILTER_HINT: &str = "a filter reads `column=value` or `column.op=value` with op eq, gt, gte, lt, lte or in, or `column.is=null`, `column.is=not_null`; other parameters are columns, order, limit, cursor, after, layer, generation, timeout_ms and format";

/// A rows request against the schema of its view.
#[derive(Debug, Clone, PartialEq)]
pub struct RowsPlan {
    /// Which rows, the cursor included. Columns are unqualified.
    pub filter: Option<Expr>,
    /// The values of all keys, in the order of `keys`, where the filters say these and nothing else.
    pub key: Option<Vec<ScalarValue>>,
    /// Their order: total when the view has keys; empty for a view of one row.
    pub sort: Vec<SortExpr>,
    /// Rows to fetch: one more than the limit, so that the router knows whether to offer a cursor.
    pub fetch: usize,
    /// Columns of the output schema to answer, the visible ones first.
    pub projection: Vec<usize>,
    /// What [`RowsAnswer`](crate::ports::RowsAnswer) carries along.
    pub page: Page,
}

impl RowsPlan {
    /// Plans `request` over a view with output columns `schema` whose key columns are `keys`.
    ///
    /// # Errors
    /// `Invalid` for an unknown column, a literal that is not of its column's type, a column that cannot be
    /// compared, two filters that cannot both be meant, or a cursor that belongs to another request.
    pub fn new(request: &RowsRequest, schema: &Schema, keys: &[usize]) -> Result<Self, Problem> {
        let columns = Columns {
            view: &request.view,
            schema,
        };
        let mut filters = columns.filters(&request.filters)?;
        let key = if request.cursor.is_none() {
            columns.key(&filters, keys)
        } else {
            None
        };
        let order = columns.order(&request.order, keys)?;
        // Behind the one row of a key there is no other page.
        let fingerprint = match key {
            Some(_) => String::new(),
            None => fingerprint(request),
        };
        if let Some(text) = &request.cursor {
            let cursor = Cursor::parse(text, &fingerprint, order.len())?;
            filters.extend(columns.behind(&order, &cursor)?);
        }
        let mut projection = columns.visible(&request.columns)?;
        let visible = projection.len();
        for (index, _) in &order {
            if !projection.contains(index) {
                projection.push(*index);
            }
        }
        let place = |index| projection.iter().position(|p| *p == index);
        let page = Page {
            visible,
            order: order
                .iter()
                .filter_map(|(index, _)| place(*index))
                .collect(),
            fingerprint,
            more: false,
        };
        let sort = order
            .iter()
            .map(|(index, descending)| columns.expr(*index).sort(!descending, false))
            .collect();
        Ok(Self {
            filter: filters.into_iter().reduce(and),
            key,
            sort,
            fetch: request.limit.saturating_add(1),
            projection,
            page,
        })
    }
}

/// What a cursor belongs to: the view, its filters and its order. The columns shown may change from page to page.
fn fingerprint(request: &RowsRequest) -> String {
    let text = format!(
        "{}\n{:?}\n{:?}",
        request.view, request.filters, request.order
    );
    let mut hex = blake3::hash(text.as_bytes()).to_hex().to_string();
    hex.truncate(12);
    hex
}

/// The columns of one view, by name and as expressions.
struct Columns<'a> {
    view: &'a str,
    schema: &'a Schema,
}

impl Columns<'_> {
    fn find(&self, name: &str) -> Result<usize, Problem> {
        self.schema.index_of(name).map_err(|_| {
            let known: Vec<&str> = self
                .schema
                .fields()
                .iter()
                .map(|f| f.name().as_str())
                .collect();
            let detail = format!(
                "view `{}` has no column `{name}`; its columns are {}",
                self.view,
                known.join(", ")
            );
            Problem::invalid(detail).with("column", name)
        })
    }

    fn find_comparable(&self, name: &str) -> Result<usize, Problem> {
        let index = self.find(name)?;
        let data_type = self.schema.field(index).data_type();
        if data_type.is_nested() || matches!(data_type, DataType::Null) {
            let detail = format!(
                "column `{name}` is {} and cannot be compared here; ask in SQL",
                crate::sql::sql_type(data_type)
            );
            return Err(Problem::invalid(detail).with("column", name));
        }
        Ok(index)
    }

    fn expr(&self, index: usize) -> Expr {
        Expr::Column(Column::new_unqualified(self.schema.field(index).name()))
    }

    fn visible(&self, names: &[String]) -> Result<Vec<usize>, Problem> {
        if names.is_empty() {
            return Ok((0..self.schema.fields().len()).collect());
        }
        let mut indices = Vec::with_capacity(names.len());
        for name in names {
            let index = self.find(name)?;
            if indices.contains(&index) {
                return Err(Problem::invalid(format!("column `{name}` is named twice")));
            }
            indices.push(index);
        }
        Ok(indices)
    }

    /// The order asked for and then the keys, as `(column, descending)`.
    fn order(&self, order: &[OrderBy], keys: &[usize]) -> Result<Vec<(usize, bool)>, Problem> {
        let mut complete: Vec<(usize, bool)> = Vec::with_capacity(order.len() + keys.len());
        for by in order {
            let index = self.find_comparable(&by.column)?;
            if complete.iter().any(|(known, _)| *known == index) {
                let detail = format!("`order` names column `{}` twice", by.column);
                return Err(Problem::invalid(detail));
            }
            complete.push((index, by.descending));
        }
        for key in keys {
            if !complete.iter().any(|(known, _)| known == key) {
                complete.push((*key, false));
            }
        }
        Ok(complete)
    }

    /// All filters hold at once. Two that cannot both be meant are a slip: they would hold of nothing, or one of them
    /// would be idle.
    fn filters(&self, filters: &[Filter]) -> Result<Vec<Expr>, Problem> {
        let mut planned = Vec::with_capacity(filters.len());
        for (at, filter) in filters.iter().enumerate() {
            planned.push(self.filter(filter)?);
            let column = &filter.column;
            let earlier = filters[..at].iter().filter(|f| f.column == *column);
            if let Some(instead) = earlier.filter_map(|earlier| slip(earlier, filter)).next() {
                let detail = format!("column `{column}` is filtered twice: {instead}");
                return Err(Problem::invalid(detail).with("column", column.as_str()));
            }
        }
        Ok(planned)
    }

    /// The values of `keys`, where each of them is named by one of `filters` and there are no others.
    fn key(&self, filters: &[Expr], keys: &[usize]) -> Option<Vec<ScalarValue>> {
        if filters.len() != keys.len() {
            return None;
        }
        let value_of = |key: &usize| filters.iter().find_map(|filter| self.value(filter, *key));
        keys.iter().map(value_of).collect()
    }

    /// The one value that `filter` leaves to a column, if it is about that column.
    fn value(&self, filter: &Expr, index: usize) -> Option<ScalarValue> {
        let field = self.schema.field(index);
        let is_it = |expr: &Expr| *expr == self.expr(index);
        match filter {
            Expr::BinaryExpr(equal) if equal.op == Operator::Eq && is_it(&equal.left) => {
                equal.right.as_literal().cloned()
            }
            Expr::IsNull(column) if is_it(column) => {
                ScalarValue::try_new_null(field.data_type()).ok()
            }
            _ => None,
        }
    }

    fn filter(&self, filter: &Filter) -> Result<Expr, Problem> {
        let found = match filter.op {
            FilterOp::IsNull | FilterOp::IsNotNull => self.find(&filter.column),
            _ => self.find_comparable(&filter.column),
        };
        let index = found.map_err(|problem| {
            let detail = format!("{}; {FILTER_HINT}", problem.detail);
            Problem { detail, ..problem }
        })?;
        let field = self.schema.field(index);
        let values = filter
            .values
            .iter()
            .map(|text| literal(field, text).map(lit))
            .collect::<Result<Vec<_>, _>>()?;
        let column = self.expr(index);
        match filter.op {
            FilterOp::In => return Ok(column.in_list(values, false)),
            FilterOp::IsNull => return Ok(column.is_null()),
            FilterOp::IsNotNull => return Ok(column.is_not_null()),
            _ => {}
        }
        let Ok([value]) = <[Expr; 1]>::try_from(values) else {
            let detail = format!("a filter on `{}` needs one value", filter.column);
            return Err(Problem::invalid(detail));
        };
        Ok(match filter.op {
            FilterOp::Eq | FilterOp::In | FilterOp::IsNull | FilterOp::IsNotNull => {
                column.eq(value)
            }
            FilterOp::Gt => column.gt(value),
            FilterOp::GtEq => column.gt_eq(value),
            FilterOp::Lt => column.lt(value),
            FilterOp::LtEq => column.lt_eq(value),
        })
    }

    /// The rows behind `cursor`: `a` behind, or `a` equal and `b` behind, or …; nulls are last.
    fn behind(&self, order: &[(usize, bool)], cursor: &Cursor) -> Result<Option<Expr>, Problem> {
        let mut behind: Option<Expr> = None;
        for ((index, descending), value) in order.iter().zip(cursor.values()).rev() {
            let field: &Field = self.schema.field(*index);
            let column = self.expr(*index);
            let Some(text) = value else {
                // Nothing of this column is behind a null.
                behind = Some(behind.map_or(lit(false), |rest| and(column.is_null(), rest)));
                continue;
            };
            let value = lit(literal(field, text)?);
            let strictly = if *descending {
                column.clone().lt(value.clone())
            } else {
                column.clone().gt(value.clone())
            };
            let past = if field.is_nullable() {
                or(strictly, column.clone().is_null())
            } else {
                strictly
            };
            behind = Some(match behind {
                Some(rest) => or(past, and(column.eq(value), rest)),
                None => past,
            });
        }
        Ok(behind)
    }
}

/// What to write where two filters of one column cannot both be meant; None where they can.
fn slip(first: &Filter, second: &Filter) -> Option<String> {
    let column = &second.column;
    Some(match (first.op, second.op) {
        (FilterOp::IsNull, FilterOp::IsNull) | (FilterOp::IsNotNull, FilterOp::IsNotNull) => {
            "keep one".to_owned()
        }
        (FilterOp::IsNull, _) | (_, FilterOp::IsNull) => format!(
            "all filters hold at once, and no row is both `{column}.is=null` and in another filter of `{column}`; keep one, or ask in SQL with OR"
        ),
        (first, second) if first != second => return None,
        (_, FilterOp::Eq | FilterOp::In) => {
            format!("for one of several values write `{column}.in=a,b`")
        }
        _ => "all filters hold at once, so keep the narrower bound".to_owned(),
    })
}

#[cfg(test)]
mod tests;
