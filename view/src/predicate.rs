// SPDX-License-Identifier: Apache-2.0
//! Predicates from users: which events an exclusion leaves out, which groups a repair recomputes.
//!
//! Invariants: deterministic, over the columns of one row only, and never NULL: unknown means no.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::prep_null_mask_filter;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{ColumnarValue, Expr, ExprSchemable, Operator, Volatility};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Literal, NegativeExpr};
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_expr_common::physical_expr::fmt_sql;
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use dovetail_model::StreamSchema;

use crate::computable::failing_part;
use crate::engine::session;
use crate::functions::{BoundedCalls, ExactNumbers, check_digits, keep_digits, unbounded, wraps};
use crate::hooked::{Hook, Hooked};
use crate::ops::boolean;
use crate::state::batch as batch_of;
use crate::words::with_sql_types;
use crate::{View, ViewError, sql_type};

/// A boolean expression over one row, compiled against a schema.
#[derive(Debug, Clone)]
pub struct Predicate {
    sql: String,
    schema: SchemaRef,
    /// Columns of `schema` that it reads.
    columns: Vec<usize>,
    /// Over all columns of `schema`.
    expr: Arc<dyn PhysicalExpr>,
    /// The columns that it reads, and the same expression over them alone.
    read: SchemaRef,
    over_read: Arc<dyn PhysicalExpr>,
}

impl Predicate {
    /// A predicate over the events of a stream; `_partition`, `_offset` and `_arrived_at` may be used.
    ///
    /// # Errors
    /// When it is not a boolean expression over the columns, or not deterministic; the message says what
    /// stands in the way.
    pub fn over_events(sql: &str, schema: &StreamSchema) -> Result<Self, ViewError> {
        Self::compile(sql, schema.events(), "a predicate over events")
    }

    /// A predicate over the key columns of a view, under their output names.
    ///
    /// # Errors
    /// As [`Self::over_events`]; other columns of the view are not known.
    pub fn over_keys(sql: &str, view: &View) -> Result<Self, ViewError> {
        let fields: Vec<Field> = view
            .keys()
            .iter()
            .map(|key| Field::new(&key.name, key.data_type.clone(), key.nullable))
            .collect();
        Self::compile(sql, Arc::new(Schema::new(fields)), "a predicate over keys")
    }

    fn compile(sql: &str, schema: SchemaRef, what: &'static str) -> Result<Self, ViewError> {
        let parsed = parse(sql)?;
        let refused = |expression: String, reason: String| ViewError::Refused {
            expression,
            what,
            reason,
        };
        let flow = ast::visit_expressions(&parsed, |part| match refusal_of(part) {
            Some(reason) => ControlFlow::Break(refused(part.to_string(), reason.to_owned())),
            None => ControlFlow::Continue(()),
        });
        if let ControlFlow::Break(error) = flow {
            return Err(error);
        }
        let state = session();
        let definition =
            |error: datafusion::error::DataFusionError| ViewError::Engine(error).of_definition();
        let df_schema = DFSchema::try_from(Arc::clone(&schema)).map_err(definition)?;
        let mut with_alias = ast::ExprWithAlias {
            expr: parsed.clone(),
            alias: None,
        };
        keep_digits(&mut with_alias.expr);
        let expr = state
            .create_logical_expr_from_sql_expr(with_alias, &df_schema)
            .and_then(|expr| ExactNumbers::of_expression(expr, &df_schema))
            .map_err(definition)?;
        if let Some((part, reason)) = unfit(&expr) {
            return Err(refused(part, reason));
        }
        let data_type = expr.get_type(&df_schema).map_err(definition)?;
        if !matches!(data_type, DataType::Boolean | DataType::Null) {
            return Err(refused(
                parsed.to_string(),
                format!(
                    "it is {}, not true or false: compare it with something",
                    sql_type(&data_type)
                ),
            ));
        }
        let expr = if data_type == DataType::Null {
            Expr::Literal(ScalarValue::Boolean(None), None)
        } else {
            expr
        };
        let expr = written_out(expr, &df_schema, &state).map_err(definition)?;
        let bounded = BoundedCalls::default().bounded(expr, &df_schema);
        let expr = bounded.map_err(definition)?.data;
        let expr = state
            .create_physical_expr(expr, &df_schema)
            .and_then(|expr| checked(expr, &schema))
            .map_err(definition)?;
        let mut columns: Vec<usize> = collect_columns(&expr).iter().map(|c| c.index()).collect();
        columns.sort_unstable();
        let read: Vec<Field> = columns
            .iter()
            .map(|index| schema.field(*index).clone().with_nullable(true))
            .collect();
        let read = Arc::new(Schema::new(read));
        Ok(Self {
            sql: parsed.to_string(),
            over_read: reassign_expr_columns(Arc::clone(&expr), &read)?,
            schema,
            columns,
            read,
            expr,
        })
    }

    /// Whether there can be a row that it can be computed for. For those that are declared: one that is kept is as it is.
    ///
    /// # Errors
    /// The part that fails whatever a row says, and why.
    pub fn check_computable(&self) -> Result<(), ViewError> {
        match failing_part(&self.expr) {
            None => Ok(()),
            Some((expression, reason)) => Err(ViewError::Refused {
                expression,
                what: "a predicate",
                reason: format!("it fails for every row that has a value there: {reason}"),
            }),
        }
    }

    /// Its canonical text.
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// The schema it was compiled against: the stream's events, or the view's keys.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Columns of [`Self::schema`] that it reads, ascending.
    pub fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// For each row, whether it matches; unknown (NULL) is no. Columns are found by name, so any batch
    /// will do that has those that are read.
    ///
    /// # Errors
    /// When a column is missing or has another type, or the expression fails on the data.
    pub fn matches(&self, batch: &RecordBatch) -> Result<BooleanArray, ViewError> {
        let columns: Result<Vec<ArrayRef>, ViewError> = self
            .read
            .fields()
            .iter()
            .map(|f| column_of(batch, f))
            .collect();
        let input = batch_of(&self.read, columns?, batch.num_rows())?;
        let matches = boolean(&self.over_read, &input)?;
        Ok(if matches.null_count() > 0 {
            prep_null_mask_filter(&matches)
        } else {
            matches
        })
    }

    /// The expression, over all columns of [`Self::schema`] in order. It may yield NULL.
    pub fn expr(&self) -> Arc<dyn PhysicalExpr> {
        Arc::clone(&self.expr)
    }
}

/// The first row of `batch` that something cannot be computed for, where `computes` says whether it can be for some rows;
/// none where it can be for each part.
pub(crate) fn failing_row(
    batch: &RecordBatch,
    computes: impl Fn(&RecordBatch) -> bool,
) -> Option<usize> {
    let (mut from, mut rows) = (0, batch.num_rows());
    while rows > 1 {
        let half = rows / 2;
        if computes(&batch.slice(from, half)) {
            (from, rows) = (from + half, rows - half);
        } else {
            rows = half;
        }
    }
    (rows == 1 && !computes(&batch.slice(from, 1))).then_some(from)
}

/// Calls that are other expressions: the engine computes `coalesce` as a CASE, and cannot do so otherwise.
fn written_out(
    expr: Expr,
    schema: &DFSchema,
    state: &SessionState,
) -> datafusion::error::Result<Expr> {
    let context = SimplifyContext::builder()
        .with_schema(Arc::new(schema.clone()))
        .with_config_options(Arc::clone(state.config_options()))
        .build();
    let written = expr.transform_up(|part| match part {
        Expr::ScalarFunction(ScalarFunction { func, args }) => {
            Ok(match func.simplify(args, &context)? {
                ExprSimplifyResult::Simplified(expr) => Transformed::yes(expr),
                ExprSimplifyResult::Original(args) => {
                    Transformed::no(Expr::ScalarFunction(ScalarFunction { func, args }))
                }
            })
        }
        part => Ok(Transformed::no(part)),
    });
    Ok(written?.data)
}

/// Whole numbers and DECIMALs that do not fit their type are an error: they do not wrap around, or lose digits.
fn checked(
    expr: Arc<dyn PhysicalExpr>,
    schema: &Schema,
) -> datafusion::error::Result<Arc<dyn PhysicalExpr>> {
    let checked = expr.transform_up(|part| {
        let data_type = part.data_type(schema)?;
        if let Some(negative) = part.downcast_ref::<NegativeExpr>()
            && data_type.is_integer()
        {
            let zero = Arc::new(Literal::new(ScalarValue::new_zero(&data_type)?));
            let less = BinaryExpr::new(zero, Operator::Minus, Arc::clone(negative.arg()));
            return Ok(Transformed::yes(
                Arc::new(less.with_fail_on_overflow(true)) as _
            ));
        }
        let Some(binary) = part.downcast_ref::<BinaryExpr>() else {
            return Ok(Transformed::no(part));
        };
        Ok(match data_type {
            DataType::Decimal128(..) => Transformed::yes(Arc::new(Hooked::new(part, Digits)) as _),
            _ if wraps(*binary.op()) => {
                Transformed::yes(Arc::new(binary.clone().with_fail_on_overflow(true)) as _)
            }
            _ => Transformed::no(part),
        })
    });
    Ok(checked?.data)
}

/// Whether a DECIMAL has no more digits than its type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Digits;

impl Hook for Digits {
    fn evaluate(
        &self,
        inner: &dyn PhysicalExpr,
        batch: &RecordBatch,
    ) -> datafusion::error::Result<ColumnarValue> {
        let value = inner.evaluate(batch)?;
        check_digits(&value, || Ok(fmt_sql(inner).to_string()))?;
        Ok(value)
    }
}

fn column_of(batch: &RecordBatch, field: &Field) -> Result<ArrayRef, ViewError> {
    batch
        .column_by_name(field.name())
        .filter(|column| column.data_type() == field.data_type())
        .cloned()
        .ok_or_else(|| ViewError::Schema {
            what: "rows for a predicate",
            detail: format!(
                "there is no column `{}` of type {}",
                field.name(),
                sql_type(field.data_type())
            ),
        })
}

fn parse(sql: &str) -> Result<ast::Expr, ViewError> {
    let syntax = |error: datafusion::sql::sqlparser::parser::ParserError| {
        let said = error.to_string();
        let said = said.strip_prefix("sql parser error: ").unwrap_or(&said);
        ViewError::Syntax(said.to_owned())
    };
    let mut parser = Parser::new(&GenericDialect {})
        .with_recursion_limit(crate::checks::RECURSION_LIMIT)
        .try_with_sql(sql)
        .map_err(syntax)?;
    let expr = parser.parse_expr().map_err(syntax)?;
    let rest = parser.peek_token();
    if rest.token == datafusion::sql::sqlparser::tokenizer::Token::EOF {
        Ok(expr)
    } else {
        Err(ViewError::Syntax(format!(
            "the predicate ends before `{rest}`"
        )))
    }
}

fn refusal_of(part: &ast::Expr) -> Option<&'static str> {
    match part {
        ast::Expr::Subquery(_) | ast::Expr::InSubquery { .. } | ast::Expr::Exists { .. } => {
            Some("it may look at one row only: list the values, as in x IN (1, 2)")
        }
        ast::Expr::Function(function) if function.over.is_some() => {
            Some("it may look at one row only, without window functions")
        }
        ast::Expr::Value(value) if matches!(value.value, ast::Value::Placeholder(_)) => {
            Some("write the value itself: a predicate has no parameters")
        }
        _ => None,
    }
}

/// The first part of the expression that looks beyond one row or gives another value each time.
fn unfit(expr: &Expr) -> Option<(String, String)> {
    let mut found = None;
    expr.apply(|part| {
        let unbounded = match part {
            Expr::ScalarFunction(call) => unbounded(call),
            _ => None,
        };
        let reason = match part {
            _ if unbounded.is_some() => unbounded.as_deref().unwrap_or_default(),
            Expr::AggregateFunction(_) | Expr::WindowFunction(_) => {
                "it may look at one row only, without aggregates"
            }
            Expr::ScalarFunction(function)
                if function.func.signature().volatility != Volatility::Immutable =>
            {
                "it gives another value each time: write the value itself"
            }
            Expr::Unnest(_) => "it may look at one row only, without unnest",
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        let part = with_sql_types(&part.human_display().to_string());
        found = Some((part, reason.to_owned()));
        Ok(TreeNodeRecursion::Stop)
    })
    .expect("looking at an expression cannot fail");
    found
}
