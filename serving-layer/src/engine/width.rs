// SPDX-License-Identifier: Apache-2.0
//! How wide a statement may be.
//!
//! The engine compares columns of a plan with one another: planning 4,000 aggregates takes four times as long as 2,000, and
//! one step of that cannot be stopped. So what a statement lists and computes is bounded before it is planned. Plain values
//! cost little, and lists of them (`IN`, `VALUES`) are as long as a statement may be.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, OrderByKind, Query, Select, SelectItem, Statement, TableFactor, Visit as _,
    Visitor,
};
use dovetail_model::Problem;

/// Columns that the clauses of a statement list together.
const MAX_LISTED: usize = 2000;
/// Columns that the ORDER BYs of a statement sort by: half a minute is what planning 2,000 of them takes.
const MAX_SORTS: usize = 500;
/// Columns, calls and operators of a statement.
const MAX_PARTS: usize = 20_000;

/// Refuses a statement that lists too many columns, in its SELECTs or in GROUP BY, that sorts by too many, or that computes
/// too much. A `*` counts for what it may come to: as many times the `widest` of the tables as the statement has
/// tables.
///
/// # Errors
/// `Invalid`, with the way out.
pub(super) fn check(statement: &Statement, widest: usize) -> Result<(), Problem> {
    let mut counter = Counter::default();
    let _ = statement.visit(&mut counter);
    let of_star = counter.tables.saturating_mul(widest).max(1);
    let stars = counter.stars.saturating_mul(of_star);
    let selected = counter.items.saturating_add(stars);
    let listed = selected.max(counter.keys);
    if counter.parts > MAX_PARTS {
        return Err(Problem::invalid(format!(
            "the statement is made of {} columns, calls and operators: at most {MAX_PARTS}; ask for less at once",
            counter.parts
        ))
        .with("limit", MAX_PARTS));
    }
    if counter.sorts > MAX_SORTS {
        return Err(Problem::invalid(format!(
            "the statement sorts by {} columns: at most {MAX_SORTS}; leave out those that decide nothing",
            counter.sorts
        ))
        .with("limit", MAX_SORTS));
    }
    if listed <= MAX_LISTED {
        return Ok(());
    }
    let stars = match counter.stars {
        0 => "",
        _ => ", `*` taken for all columns of all its tables",
    };
    Err(Problem::invalid(format!(
        "the statement lists {listed} columns{stars}: at most {MAX_LISTED}; name those that you need, and ask for others in another statement"
    ))
    .with("limit", MAX_LISTED))
}

#[derive(Default)]
struct Counter {
    items: usize,
    stars: usize,
    keys: usize,
    sorts: usize,
    tables: usize,
    parts: usize,
}

impl Visitor for Counter {
    type Break = ();

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        if let GroupByExpr::Expressions(keys, _) = &select.group_by {
            self.keys += keys.len();
        }
        for item in &select.projection {
            match item {
                SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => self.stars += 1,
                _ => self.items += 1,
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if let Some(order_by) = &query.order_by
            && let OrderByKind::Expressions(sorts) = &order_by.kind
        {
            self.sorts += sorts.len();
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if !matches!(expr, Expr::Value(_) | Expr::UnaryOp { .. }) {
            self.parts += 1;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, _table: &TableFactor) -> ControlFlow<()> {
        self.tables += 1;
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn checked(sql: &str, widest: usize) -> Result<(), String> {
        let statements = Parser::parse_sql(&GenericDialect {}, sql).unwrap();
        check(&statements[0], widest).map_err(|problem| problem.detail)
    }

    #[test]
    fn what_all_selects_list_is_bounded() {
        let list = |n: usize| vec!["x"; n].join(", ");
        assert_eq!(checked(&format!("SELECT {}", list(2000)), 0), Ok(()));
        let refused = checked(&format!("SELECT {}", list(2001)), 0).unwrap_err();
        assert!(refused.contains("lists 2001 columns: at most 2000"));
        let nested = format!(
            "WITH a AS (SELECT {} FROM t) SELECT {} FROM a",
            list(1500),
            list(501)
        );
        assert!(checked(&nested, 1).is_err());
        for (clause, most) in [("GROUP BY", 2000), ("ORDER BY", 500)] {
            let sql = |n| format!("SELECT 1 FROM t {clause} {}", list(n));
            assert_eq!(checked(&sql(most), 1), Ok(()));
            let refused = checked(&sql(most + 1), 1).unwrap_err();
            assert!(refused.contains(&format!("at most {most}")), "{refused}");
        }
        let call = |n: usize| format!("SELECT coalesce({})", list(n));
        assert_eq!(checked(&call(19_999), 1), Ok(()));
        let refused = checked(&call(20_000), 1).unwrap_err();
        assert!(
            refused.contains("20001 columns, calls and operators"),
            "{refused}"
        );
        let values = vec!["-1"; 100_000].join(", ");
        assert_eq!(
            checked(&format!("SELECT 1 WHERE 1 IN ({values})"), 1),
            Ok(())
        );
        assert_eq!(checked("SELECT * FROM (SELECT * FROM t)", 500), Ok(()));
        let star = checked("SELECT * FROM t a, t b, t c", 1000).unwrap_err();
        assert!(star.contains("lists 3000 columns"), "{star}");
        assert!(star.contains("`*` taken for all columns of all its tables"));
    }
}
