// SPDX-License-Identifier: Apache-2.0
//! Columns that hold nothing but numbers that the statement writes: of VALUES, and of `SELECT 4.48`.
//!
//! Purpose: they are DOUBLEs, and may be far from where they are written when they meet a DECIMAL. Then each is the number
//! that was written, all the same. Invariants: a column that may hold another DOUBLE, or one that lacks digits of what
//! was written (unless it is the same in every row), carries none. Non-goals: what is computed of such columns.

use datafusion::common::{DFSchema, JoinType, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan};

use super::meeting::{NumberType, number, wider};
use super::written::Written;
use crate::functions::rewriting::schema_read;

/// What the expressions of a node read.
pub(super) struct Reads {
    schema: DFSchema,
    inputs: Vec<LogicalPlan>,
}

impl Reads {
    /// Of a node in a plan.
    pub(super) fn of_node(node: &LogicalPlan) -> Result<Self> {
        Ok(Self {
            schema: schema_read(node)?,
            inputs: node.inputs().into_iter().cloned().collect(),
        })
    }

    /// Of an expression by itself.
    pub(super) fn of_schema(schema: &DFSchema) -> Self {
        Self {
            schema: schema.clone(),
            inputs: vec![],
        }
    }

    pub(super) fn schema(&self) -> &DFSchema {
        &self.schema
    }

    /// The numbers that a column or a subquery carries.
    pub(super) fn numbers(&self, expr: &Expr) -> Option<Numbers> {
        match expr {
            Expr::Column(column) => self.inputs.iter().find_map(|input| {
                let index = input.schema().maybe_index_of_column(column)?;
                numbers_of(input, index)
            }),
            Expr::ScalarSubquery(subquery) => {
                let plan = &subquery.subquery;
                let mut numbers = numbers_of(plan, 0)?;
                // It may have no row.
                numbers.has_null |= written_rows(plan, 0).is_none_or(|rows| rows.len() != 1);
                Some(numbers)
            }
            _ => None,
        }
    }
}

/// What a column carries.
#[derive(Debug, Clone)]
pub(super) struct Numbers {
    /// At least one.
    written: Vec<Written>,
    /// Whether there may be NULLs among them.
    has_null: bool,
}

impl Numbers {
    fn of_rows<'a>(rows: impl IntoIterator<Item = &'a Expr>) -> Option<Self> {
        let (mut written, mut has_null) = (vec![], false);
        for row in rows {
            match number(written_number(row)?) {
                Some((number, _)) => written.push(number),
                None => has_null = true,
            }
        }
        (!written.is_empty()).then_some(Self { written, has_null })
    }

    /// The number that each row has.
    pub(super) fn only(&self) -> Option<&Written> {
        let (first, others) = self.written.split_first()?;
        (!self.has_null && others.iter().all(|other| other == first)).then_some(first)
    }

    /// Digits before and behind the point that hold each of them, if a DOUBLE lacks none.
    pub(super) fn places(&self) -> Option<(usize, usize)> {
        let written = self.written.iter();
        let each = written.map(|written| written.is_of_double().then(|| written.places()));
        each.reduce(|one, other| Some(wider(one?, other?)))?
    }

    fn or_null(mut self) -> Self {
        self.has_null = true;
        self
    }
}

/// What a column of a plan carries that is a DOUBLE.
pub(super) fn numbers_of(plan: &LogicalPlan, column: usize) -> Option<Numbers> {
    let data_type = plan.schema().field(column).data_type();
    data_type.is_floating().then(|| numbers_in(plan, column))?
}

/// The same of a column that may become one, as that of a UNION does.
fn numbers_in(plan: &LogicalPlan, column: usize) -> Option<Numbers> {
    match plan {
        LogicalPlan::Values(values) => {
            Numbers::of_rows(values.values.iter().map(|row| &row[column]))
        }
        LogicalPlan::Projection(projection) => match unaliased(&projection.expr[column]) {
            Expr::Column(column) => {
                let input = &projection.input;
                numbers_in(input, input.schema().maybe_index_of_column(column)?)
            }
            row => Numbers::of_rows([row]),
        },
        LogicalPlan::Union(union) => {
            let inputs = union.inputs.iter().map(|input| numbers_in(input, column));
            inputs.reduce(|one, other| {
                let (mut one, other) = (one?, other?);
                one.written.extend(other.written);
                one.has_null |= other.has_null;
                Some(one)
            })?
        }
        LogicalPlan::Join(join) => {
            let left = join.left.schema().fields().len();
            let of_left = || numbers_in(&join.left, column);
            let of_right = || numbers_in(&join.right, column - left);
            match join.join_type {
                JoinType::Inner if column < left => of_left(),
                JoinType::Inner => of_right(),
                JoinType::Left | JoinType::Right | JoinType::Full if column < left => {
                    of_left().map(Numbers::or_null)
                }
                JoinType::Left | JoinType::Right | JoinType::Full => {
                    of_right().map(Numbers::or_null)
                }
                JoinType::LeftSemi | JoinType::LeftAnti => of_left(),
                _ => None,
            }
        }
        LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Distinct(Distinct::All(_)) => numbers_in(plan.inputs().first()?, column),
        LogicalPlan::Window(window) => {
            let is_of_input = column < window.input.schema().fields().len();
            is_of_input.then(|| numbers_in(&window.input, column))?
        }
        _ => None,
    }
}

/// The rows of a column that is written out as a whole: numbers, and NULLs.
pub(super) fn written_rows(plan: &LogicalPlan, column: usize) -> Option<Vec<Expr>> {
    match plan {
        LogicalPlan::Values(values) => {
            let rows = values.values.iter();
            rows.map(|row| written_number(&row[column]).cloned())
                .collect()
        }
        LogicalPlan::Projection(projection) => match unaliased(&projection.expr[column]) {
            Expr::Column(column) => {
                let input = &projection.input;
                written_rows(input, input.schema().maybe_index_of_column(column)?)
            }
            row => match projection.input.as_ref() {
                LogicalPlan::EmptyRelation(one) if one.produce_one_row => {
                    Some(vec![written_number(row)?.clone()])
                }
                _ => None,
            },
        },
        LogicalPlan::Union(union) => {
            let inputs = union.inputs.iter().map(|input| written_rows(input, column));
            let rows = inputs.collect::<Option<Vec<_>>>()?;
            Some(rows.into_iter().flatten().collect())
        }
        LogicalPlan::SubqueryAlias(_) | LogicalPlan::Distinct(Distinct::All(_)) => {
            written_rows(plan.inputs().first()?, column)
        }
        _ => None,
    }
}

/// The number or NULL that is written, without what makes a DOUBLE of it.
fn written_number(expr: &Expr) -> Option<&Expr> {
    let is_number = |expr: &Expr| number(expr).is_some_and(|(_, of)| of != NumberType::Text);
    match expr {
        Expr::Literal(value, _) if value.is_null() => Some(expr),
        Expr::Cast(Cast { expr, field }) if field.data_type().is_floating() => {
            match (expr.as_ref(), number(expr)) {
                (Expr::Literal(ScalarValue::Null, _), _) | (_, Some((_, NumberType::Whole))) => {
                    Some(expr)
                }
                _ => None,
            }
        }
        expr => is_number(expr).then_some(expr),
    }
}

fn unaliased(mut expr: &Expr) -> &Expr {
    while let Expr::Alias(alias) = expr {
        expr = &alias.expr;
    }
    expr
}
