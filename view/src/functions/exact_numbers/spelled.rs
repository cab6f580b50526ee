// SPDX-License-Identifier: Apache-2.0
//! Forms of a statement that DataFusion plans too early, or only in some cases, written as calls that it plans in all.
//!
//! Purpose: `4.48 = ANY (prices)` is planned as DataFusion's own `array_has`, whatever function has that name; a row whose
//! first value is neither a name nor a plain number, as in `(-1, 2)`, is not planned at all. Non-goals: `ANY` of a subquery.

use datafusion::sql::sqlparser::ast;

use super::list_search;

/// Writes `expr` as a call, if it is such a form.
pub(super) fn spell_out(expr: &mut ast::Expr) {
    match expr {
        ast::Expr::AnyOp {
            left,
            compare_op: ast::BinaryOperator::Eq,
            right,
            ..
        } if !matches!(**right, ast::Expr::Subquery(_)) => {
            let null = || ast::Expr::value(ast::Value::Null);
            let list = std::mem::replace(&mut **right, null());
            let element = std::mem::replace(&mut **left, null());
            *expr = call(list_search::NAME, vec![list, element]);
        }
        ast::Expr::Tuple(values) if values.first().is_some_and(|first| !is_plain(first)) => {
            *expr = call("struct", std::mem::take(values));
        }
        _ => {}
    }
}

/// Whether the planner takes it as the first value of a row.
fn is_plain(value: &ast::Expr) -> bool {
    matches!(
        value,
        ast::Expr::Identifier(_) | ast::Expr::CompoundIdentifier(_) | ast::Expr::Value(_)
    )
}

/// A call with these arguments.
pub(super) fn call(name: &str, arguments: Vec<ast::Expr>) -> ast::Expr {
    let arguments = ast::FunctionArgumentList {
        duplicate_treatment: None,
        args: arguments
            .into_iter()
            .map(|argument| ast::FunctionArg::Unnamed(argument.into()))
            .collect(),
        clauses: vec![],
    };
    ast::Expr::Function(ast::Function {
        name: ast::Ident::with_quote('"', name).into(),
        uses_odbc_syntax: false,
        parameters: ast::FunctionArguments::None,
        args: ast::FunctionArguments::List(arguments),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    })
}
