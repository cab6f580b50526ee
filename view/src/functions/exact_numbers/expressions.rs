// SPDX-License-Identifier: Apache-2.0
//! What stands beside what in an expression.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::expr::{
    Between, Case, Cast, InList, InSubquery, ScalarFunction, SetComparison, TryCast, WindowFunction,
};
use datafusion::logical_expr::expr_schema::cast_subquery;
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, Operator, Subquery, WindowFunctionDefinition,
};

use super::carried::{Reads, numbers_of, written_rows};
use super::list_search::{self, searched};
use super::meeting::{NumberType, Use, double, number, places_of, wider};
use super::of_doubles::decimal_of_double;
use super::plans::with_output;
use super::together::together;
use super::written::{alternatives_type, decimal_type};

/// Functions whose arguments are alternatives to each other.
const ALTERNATIVES: [&str; 4] = ["coalesce", "greatest", "least", "make_array"];

/// Functions that make a list of the elements of lists.
const LISTS_TOGETHER: [&str; 4] = [
    "array_concat",
    "array_except",
    "array_intersect",
    "array_union",
];

/// Functions that look for the elements of one list in another.
const LISTS_COMPARED: [&str; 2] = ["array_has_all", "array_has_any"];

/// What stands in `part` beside a DECIMAL as it is written.
pub(super) fn beside_decimals(part: Expr, reads: &Reads) -> Result<Transformed<Expr>> {
    Ok(match part {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(op) => {
            let sides = together([*left, *right], Use::Compare, reads);
            sides.update_data(|[left, right]| {
                Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
            })
        }
        Expr::Between(between) => {
            let negated = between.negated;
            let parts = [*between.expr, *between.low, *between.high];
            let parts = together(parts, Use::Compare, reads);
            parts.update_data(|[expr, low, high]| {
                let [expr, low, high] = [expr, low, high].map(Box::new);
                Expr::Between(Between::new(expr, negated, low, high))
            })
        }
        Expr::InList(InList {
            expr,
            list,
            negated,
        }) => {
            let parts: Vec<Expr> = std::iter::once(*expr).chain(list).collect();
            let parts = together(parts, Use::Compare, reads);
            parts.update_data(|mut list| {
                let expr = Box::new(list.remove(0));
                Expr::InList(InList::new(expr, list, negated))
            })
        }
        Expr::Case(case) => of_case(case, reads),
        Expr::ScalarFunction(call) if call.func.name() == list_search::NAME => {
            searched(call, reads)
        }
        Expr::ScalarFunction(call) => of_call(call, reads),
        Expr::WindowFunction(call) => of_window(*call, reads)?,
        Expr::Cast(Cast { expr, field }) if field.data_type().is_decimal() => {
            written_decimal(*expr).update_data(|expr| {
                let expr = Box::new(expr);
                Expr::Cast(Cast { expr, field })
            })
        }
        Expr::TryCast(TryCast { expr, field }) if field.data_type().is_decimal() => {
            written_decimal(*expr).update_data(|expr| {
                let expr = Box::new(expr);
                Expr::TryCast(TryCast { expr, field })
            })
        }
        Expr::InSubquery(InSubquery {
            expr,
            subquery,
            negated,
        }) => match rows_beside(&expr, &subquery, reads) {
            Some(rows) => {
                let list = Expr::InList(InList::new(expr, rows, negated));
                Transformed::yes(beside_decimals(list, reads)?.data)
            }
            None => of_subquery(*expr, subquery, reads)?.update_data(|(expr, subquery)| {
                Expr::InSubquery(InSubquery::new(Box::new(expr), subquery, negated))
            }),
        },
        Expr::SetComparison(SetComparison {
            expr,
            subquery,
            op,
            quantifier,
        }) => of_subquery(*expr, subquery, reads)?.update_data(|(expr, subquery)| {
            Expr::SetComparison(SetComparison::new(Box::new(expr), subquery, op, quantifier))
        }),
        part => Transformed::no(part),
    })
}

fn compares(operator: Operator) -> bool {
    matches!(
        operator,
        Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
    )
}

fn of_case(case: Case, reads: &Reads) -> Transformed<Expr> {
    let (whens, thens): (Vec<Expr>, Vec<Expr>) = case
        .when_then_expr
        .into_iter()
        .map(|(when, then)| (*when, *then))
        .unzip();
    let with_base = case.expr.is_some();
    let looked_at: Vec<Expr> = case
        .expr
        .map(|base| *base)
        .into_iter()
        .chain(whens)
        .collect();
    let looked_at = if with_base {
        together(looked_at, Use::Compare, reads)
    } else {
        Transformed::no(looked_at)
    };
    let with_else = case.else_expr.is_some();
    let results: Vec<Expr> = thens
        .into_iter()
        .chain(case.else_expr.map(|e| *e))
        .collect();
    let results = together(results, Use::Choose, reads);
    let changed = looked_at.transformed || results.transformed;
    let mut looked_at = looked_at.data.into_iter();
    let mut results = results.data;
    let base = if with_base { looked_at.next() } else { None };
    let otherwise = if with_else { results.pop() } else { None };
    let pairs = looked_at
        .map(Box::new)
        .zip(results.into_iter().map(Box::new));
    let case = Case::new(base.map(Box::new), pairs.collect(), otherwise.map(Box::new));
    Transformed::new_transformed(Expr::Case(case), changed)
}

/// `nvl2(a, b, c)` is one of two, and its first has nothing to do with their type, which DataFusion's has.
fn of_nvl2(call: ScalarFunction, reads: &Reads) -> Transformed<Expr> {
    let [looked_at, some, none] = &call.args[..] else {
        return Transformed::no(Expr::ScalarFunction(call));
    };
    let when = Box::new(looked_at.clone().is_not_null());
    let [some, none] = [some, none].map(|part| Box::new(part.clone()));
    let case = of_case(Case::new(None, vec![(when, some)], Some(none)), reads);
    if case.transformed {
        case
    } else {
        Transformed::no(Expr::ScalarFunction(call))
    }
}

/// `nullif(a, b)` is `a` or nothing: it compares with `b` and never is it.
fn of_nullif(call: ScalarFunction, reads: &Reads) -> Transformed<Expr> {
    let [first, second] = &call.args[..] else {
        return Transformed::no(Expr::ScalarFunction(call));
    };
    let sides = [first.clone(), second.clone()];
    let sides = together(sides, Use::Compare, reads);
    if !sides.transformed {
        return Transformed::no(Expr::ScalarFunction(call));
    }
    let [left, right] = sides.data;
    let null = Expr::Literal(ScalarValue::Null, None);
    let when = (Box::new(left.eq(right)), Box::new(null));
    let otherwise = Some(Box::new(first.clone()));
    Transformed::yes(Expr::Case(Case::new(None, vec![when], otherwise)))
}

/// The digits that `round` keeps decide its type, and DataFusion knows of them only where they need no cast: then it takes
/// the result for another type than it has, and cannot compare it.
fn of_round(mut call: ScalarFunction) -> Transformed<Expr> {
    let digits = match call.args.get(1) {
        Some(Expr::Literal(ScalarValue::Int64(Some(digits)), _)) => i32::try_from(*digits).ok(),
        _ => None,
    };
    if let Some(digits) = digits {
        call.args[1] = Expr::Literal(ScalarValue::Int32(Some(digits)), None);
    }
    Transformed::new_transformed(Expr::ScalarFunction(call), digits.is_some())
}

/// The rows of a subquery that are written out, where they are looked through for a DECIMAL.
fn rows_beside(expr: &Expr, subquery: &Subquery, reads: &Reads) -> Option<Vec<Expr>> {
    let looked_for = expr.get_type(reads.schema()).ok()?;
    let found = subquery.subquery.schema().fields().first()?.data_type();
    let is_beside = looked_for.is_decimal() && found.is_floating();
    is_beside.then(|| written_rows(&subquery.subquery, 0))?
}

/// A DECIMAL is looked for among numbers that are written as among DECIMALs, and among other DOUBLEs as a DOUBLE; and the
/// other way round.
fn of_subquery(
    expr: Expr,
    subquery: Subquery,
    reads: &Reads,
) -> Result<Transformed<(Expr, Subquery)>> {
    let found = match subquery.subquery.schema().fields().first() {
        Some(field) => field.data_type().clone(),
        None => return Ok(Transformed::no((expr, subquery))),
    };
    let looked_for = expr.get_type(reads.schema())?;
    Ok(if looked_for.is_decimal() && found.is_floating() {
        match decimal_of_rows(&looked_for, &subquery) {
            Some(decimal) => {
                let plan = &subquery.subquery;
                let output = Expr::from(plan.schema().qualified_field(0));
                let output = decimal_of_double(output, decimal);
                let decimals = Arc::new(with_output(plan, 0, output)?);
                Transformed::yes((expr, subquery.with_plan(decimals)))
            }
            None => Transformed::yes((double(expr), subquery)),
        }
    } else if looked_for.is_floating() && found.is_decimal() {
        Transformed::yes((expr, cast_subquery(subquery, &DataType::Float64)?))
    } else {
        Transformed::no((expr, subquery))
    })
}

/// The DECIMAL that holds what is looked for and the numbers that a subquery carries.
fn decimal_of_rows(looked_for: &DataType, subquery: &Subquery) -> Option<DataType> {
    let numbers = numbers_of(&subquery.subquery, 0)?;
    decimal_type(wider(numbers.places()?, places_of(looked_for)?))
}

/// In `lag(price, 1, 0.10)` the last argument stands for a price that is not there.
fn of_window(mut call: WindowFunction, reads: &Reads) -> Result<Transformed<Expr>> {
    let is_shift = match &call.fun {
        WindowFunctionDefinition::WindowUDF(function) => ["lag", "lead"].contains(&function.name()),
        WindowFunctionDefinition::AggregateUDF(_) => false,
    };
    let [value, _, default] = &mut call.params.args[..] else {
        return Ok(Transformed::no(Expr::from(call)));
    };
    if !is_shift {
        return Ok(Transformed::no(Expr::from(call)));
    }
    // A number with its text has the text for a name.
    let number = std::mem::take(default).unalias_nested().data;
    let pair = [std::mem::take(value), number];
    let pair = together(pair, Use::ChooseNumber, reads);
    let changed = pair.transformed;
    [*value, *default] = pair.data;
    // The value's type is that of the result.
    if let (Expr::Literal(number, _), Some(own)) =
        (&*default, places_of(&value.get_type(reads.schema())?))
        && let Some(least) = places_of(&number.data_type())
        && wider(own, least) != own
        && let Some(wide) = alternatives_type(wider(own, least))
    {
        *value = Expr::Cast(Cast::new(Box::new(std::mem::take(value)), wide));
    }
    Ok(Transformed::new_transformed(Expr::from(call), changed))
}

fn of_call(call: ScalarFunction, reads: &Reads) -> Transformed<Expr> {
    let name = call.func.name();
    if ALTERNATIVES.contains(&name) || LISTS_TOGETHER.contains(&name) {
        let ScalarFunction { func, args } = call;
        return together(args, Use::ChooseNumber, reads)
            .update_data(|args| Expr::ScalarFunction(ScalarFunction::new_udf(func, args)));
    }
    if LISTS_COMPARED.contains(&name) {
        let ScalarFunction { func, args } = call;
        return together(args, Use::Compare, reads)
            .update_data(|args| Expr::ScalarFunction(ScalarFunction::new_udf(func, args)));
    }
    match name {
        "nvl2" => of_nvl2(call, reads),
        "nullif" => of_nullif(call, reads),
        "round" => of_round(call),
        _ => Transformed::no(Expr::ScalarFunction(call)),
    }
}

/// A number that becomes a DECIMAL is the one written.
fn written_decimal(expr: Expr) -> Transformed<Expr> {
    match number(&expr) {
        Some((written, NumberType::Double)) => match written.decimal(written.places()) {
            Some(decimal) => Transformed::yes(Expr::Literal(decimal, None)),
            None => Transformed::no(expr),
        },
        _ => Transformed::no(expr),
    }
}
