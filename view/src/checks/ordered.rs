// SPDX-License-Identifier: Apache-2.0
//! Order-sensitive aggregates: they need an ORDER BY, and it is made total.
//!
//! Two events may be equal in what the user orders by. Which comes first must not depend on how the log
//! was cut, so the event time, the partition and the offset are appended: together they are unique.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    DuplicateTreatment, Expr, Function, FunctionArgumentClause, FunctionArguments, Ident,
    OrderByExpr, OrderByOptions, Select, visit_expressions_mut,
};
use dovetail_model::{OFFSET, PARTITION, StreamSchema};

use super::names::{column_name, function_name};
use crate::ViewError;
use crate::aggregates;

/// Appends the tie-break to every order-sensitive aggregate, and refuses one without ORDER BY.
pub(super) fn make_orders_total(
    select: &mut Select,
    schema: &StreamSchema,
) -> Result<(), ViewError> {
    let tie_break: Vec<OrderByExpr> = schema
        .event_time
        .iter()
        .map(|event_time| event_time.column.as_str())
        .chain([PARTITION, OFFSET])
        .map(ascending)
        .collect();
    let flow = visit_expressions_mut(select, |expression: &mut Expr| {
        if let Expr::Function(function) = expression
            && let Err(error) = make_total(function, &tie_break)
        {
            return ControlFlow::Break(error);
        }
        ControlFlow::Continue(())
    });
    match flow {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

fn make_total(function: &mut Function, tie_break: &[OrderByExpr]) -> Result<(), ViewError> {
    let Some(name) = function_name(function) else {
        return Ok(());
    };
    if !aggregates::is_order_sensitive(&name) {
        return Ok(());
    }
    let text = function.to_string();
    let without_order = || {
        let instead = match name.as_str() {
            "any_value" => "it may be any: write first_value(… ORDER BY …)".to_owned(),
            _ => format!("its result depends on the order of events: write {name}(… ORDER BY …)"),
        };
        ViewError::refused(&text, instead)
    };
    let FunctionArguments::List(arguments) = &mut function.args else {
        return Err(without_order());
    };
    let place = arguments.args.get(1).map(ToString::to_string);
    if name == "nth_value" && place.is_some_and(|place| place.parse() == Ok(0_i64)) {
        let reason = "places count from 1, or from -1 back from the end: there is none at 0";
        return Err(ViewError::refused(&text, reason));
    }
    let distinct = arguments.duplicate_treatment == Some(DuplicateTreatment::Distinct);
    for clause in &mut arguments.clauses {
        if let FunctionArgumentClause::OrderBy(order_by) = clause {
            // Of DISTINCT values each appears once, and only the values themselves may order them.
            if !distinct && name != "any_value" {
                return extend(order_by, tie_break);
            }
            if distinct {
                return Ok(());
            }
        }
    }
    Err(without_order())
}

/// Appends what `order_by` does not already order by: the engine cannot hold the same order twice.
fn extend(order_by: &mut Vec<OrderByExpr>, tie_break: &[OrderByExpr]) -> Result<(), ViewError> {
    let mut seen = HashSet::new();
    for order in order_by.iter() {
        let key = column_name(&order.expr).unwrap_or_else(|| order.expr.to_string());
        if !seen.insert(key) {
            return Err(ViewError::refused(
                &order.expr,
                "it is in this ORDER BY twice: leave one of them out",
            ));
        }
    }
    let missing = tie_break.iter().filter(|order| {
        let column = column_name(&order.expr);
        column.is_none_or(|column| !seen.contains(&column))
    });
    order_by.extend(missing.cloned().collect::<Vec<_>>());
    Ok(())
}

fn ascending(column: &str) -> OrderByExpr {
    OrderByExpr {
        expr: Expr::Identifier(Ident::with_quote('"', column)),
        options: OrderByOptions {
            asc: Some(true),
            nulls_first: Some(true),
        },
        with_fill: None,
    }
}
