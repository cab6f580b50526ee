// SPDX-License-Identifier: Apache-2.0
//! The names of what a query computes and does not name.
//!
//! Purpose: DataFusion 55.2 names such a column in its own words (`sum(s.n) + Int64(1)`), without casts: then
//! `CAST(n AS BIGINT), CAST(n AS VARCHAR)` have one name, and the statement is refused. Here each gets the text that it
//! is written as. Non-goals: plain columns, which keep their names, and texts that stand twice in one select list,
//! which the planner refuses.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, OrderByKind, Query, Select, SelectItem, SetExpr, VisitMut as _, VisitorMut,
};

/// Names what the select lists of a statement compute.
pub(super) fn name_columns(statement: &mut Statement) {
    match statement {
        Statement::Statement(statement) => {
            let _ = statement.visit(&mut Namer);
        }
        Statement::Explain(explain) => name_columns(&mut explain.statement),
        _ => {}
    }
}

struct Namer;

impl VisitorMut for Namer {
    type Break = ();

    /// Behind DISTINCT, the planner finds an item of the select list in ORDER BY, or in a part of it, only by its name.
    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if let SetExpr::Select(select) = &*query.body
            && select.distinct.is_some()
            && let Some(order_by) = &mut query.order_by
            && let OrderByKind::Expressions(items) = &mut order_by.kind
        {
            let names = names(&select.projection);
            let mut named = Named(names.into_iter().flatten().collect());
            for item in items {
                let _ = item.expr.visit(&mut named);
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let names = names(&select.projection);
        for (item, name) in select.projection.iter_mut().zip(names) {
            if let (SelectItem::UnnamedExpr(expr), Some(name)) = (&*item, name) {
                *item = SelectItem::ExprWithAlias {
                    expr: expr.clone(),
                    alias: Ident::with_quote('"', name),
                };
            }
        }
        ControlFlow::Continue(())
    }
}

/// Puts names in the place of what is called by them.
struct Named(Vec<String>);

impl VisitorMut for Named {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let name = expr.to_string();
        // A number is the place of an item in the list.
        if !matches!(expr, Expr::Value(_)) && self.0.contains(&name) {
            *expr = Expr::Identifier(Ident::with_quote('"', name));
        }
        ControlFlow::Continue(())
    }
}

/// The name that each item gets; none for those that have one, or whose text stands there twice.
fn names(items: &[SelectItem]) -> Vec<Option<String>> {
    let texts: Vec<Option<String>> = items.iter().map(computed).collect();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for text in texts.iter().flatten() {
        *counts.entry(text).or_default() += 1;
    }
    let once = |text: &&String| counts.get(text.as_str()) == Some(&1);
    let names = texts.iter().map(|text| text.as_ref().filter(once));
    names.map(Option::<&String>::cloned).collect()
}

/// The text of an unnamed item that is no plain column.
fn computed(item: &SelectItem) -> Option<String> {
    let SelectItem::UnnamedExpr(expr) = item else {
        return None;
    };
    let mut bare = expr;
    while let Expr::Nested(inner) = bare {
        bare = inner;
    }
    let named = matches!(
        bare,
        // A subquery has the name of its only column.
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Subquery(_)
    );
    (!named).then(|| expr.to_string())
}

#[cfg(test)]
mod tests {
    use datafusion::sql::parser::DFParser;

    use super::*;

    fn named(sql: &str) -> String {
        let mut statement = DFParser::parse_sql(sql).unwrap().pop_front().unwrap();
        name_columns(&mut statement);
        statement.to_string()
    }

    #[test]
    fn what_is_computed_has_its_text_for_a_name() {
        for (list, named_list) in [
            (
                "CAST(k AS BIGINT), k::VARCHAR",
                "CAST(k AS BIGINT) AS \"CAST(k AS BIGINT)\", k::VARCHAR AS \"k::VARCHAR\"",
            ),
            (
                "count( 1 ), (k+1), 'a'",
                "count(1) AS \"count(1)\", (k + 1) AS \"(k + 1)\", 'a' AS \"'a'\"",
            ),
            ("k, s.k, (k), *, s.*", "k, s.k, (k), *, s.*"),
            ("sum(k) AS a", "sum(k) AS a"),
            (
                "(SELECT max(k) FROM t)",
                "(SELECT max(k) AS \"max(k)\" FROM t)",
            ),
            // The planner says what is wrong with these.
            ("sum(k), sum(k)", "sum(k), sum(k)"),
        ] {
            let sql = format!("SELECT {list} FROM s");
            let expected = format!("SELECT {named_list} FROM s");
            assert_eq!(named(&sql), expected);
            let explained = named(&format!("EXPLAIN {sql}"));
            assert!(explained.ends_with(&expected), "{explained}");
        }
        assert_eq!(
            named("SELECT DISTINCT k + 1, k FROM s ORDER BY k+1 DESC, k"),
            "SELECT DISTINCT k + 1 AS \"k + 1\", k FROM s ORDER BY \"k + 1\" DESC, k"
        );
        assert_eq!(
            named("SELECT DISTINCT count(*), k FROM s GROUP BY 2 ORDER BY count(*) + 1, k"),
            "SELECT DISTINCT count(*) AS \"count(*)\", k FROM s GROUP BY 2 ORDER BY \"count(*)\" + 1, k"
        );
    }
}
