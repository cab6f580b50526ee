// SPDX-License-Identifier: Apache-2.0
//! Names that tell the calls of aggregates apart.
//!
//! Purpose: DataFusion 55.2 names a column of an aggregation by its call, without the casts and parentheses in its
//! arguments: `sum(n)` and `sum(CAST(n AS DOUBLE))`, `sum((a + b) * c)` and `sum(a + b * c)` have one name, and the
//! statement is refused. Here an argument that would lose something is aliased to its full text. Non-goals: the names
//! of other columns; those of views are made in `checks`, those of a query can be given with AS.

use datafusion::error::Result;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::planner::{
    ExprPlanner, PlannerResult, RawAggregateExpr, RawWindowExpr,
};

/// Names arguments of aggregates and window functions in full.
#[derive(Debug)]
pub(super) struct CallNames;

impl ExprPlanner for CallNames {
    fn plan_aggregate(
        &self,
        mut call: RawAggregateExpr,
    ) -> Result<PlannerResult<RawAggregateExpr>> {
        call.args = call.args.into_iter().map(in_full).collect();
        call.order_by = call.order_by.into_iter().map(sort_in_full).collect();
        call.filter = call.filter.map(|filter| Box::new(in_full(*filter)));
        Ok(PlannerResult::Original(call))
    }

    fn plan_window(&self, mut call: RawWindowExpr) -> Result<PlannerResult<RawWindowExpr>> {
        call.args = call.args.into_iter().map(in_full).collect();
        call.partition_by = call.partition_by.into_iter().map(in_full).collect();
        call.order_by = call.order_by.into_iter().map(sort_in_full).collect();
        call.filter = call.filter.map(|filter| Box::new(in_full(*filter)));
        Ok(PlannerResult::Original(call))
    }
}

fn sort_in_full(sort: Sort) -> Sort {
    let expr = in_full(sort.expr.clone());
    sort.with_expr(expr)
}

/// `expr` under a name from which nothing is left out.
fn in_full(expr: Expr) -> Expr {
    let full = expr.to_string();
    if full == expr.schema_name().to_string() {
        expr
    } else {
        expr.alias(full)
    }
}

#[cfg(test)]
mod tests {
    use crate::functions::testing::ask;

    const ROWS: &str = "(VALUES (1, 7, 2), (1, 8, 3), (2, 9, 4)) AS t(k, n, m)";

    #[tokio::test]
    async fn calls_that_differ_in_a_cast_or_in_parentheses_are_two() {
        for (one, other) in [
            ("sum(n)", "sum(CAST(n AS DECIMAL(20, 3)))"),
            ("avg(n)", "avg(CAST(n AS DOUBLE))"),
            ("min(n)", "min(CAST(n AS VARCHAR))"),
            ("count(DISTINCT n)", "count(DISTINCT CAST(n AS DOUBLE) / 2)"),
            ("count(DISTINCT n)", "count(DISTINCT TRY_CAST(n AS DOUBLE))"),
            ("sum((n + m) * k)", "sum(n + m * k)"),
            (
                "array_agg(n ORDER BY m)",
                "array_agg(n ORDER BY CAST(m AS VARCHAR))",
            ),
            (
                "count(*) FILTER (WHERE n > 7)",
                "count(*) FILTER (WHERE CAST(n AS DOUBLE) > 7)",
            ),
            (
                "sum(n) OVER (PARTITION BY k)",
                "sum(CAST(n AS DOUBLE)) OVER (PARTITION BY k)",
            ),
            (
                "sum(n) OVER (ORDER BY m)",
                "sum(n) OVER (ORDER BY CAST(m AS VARCHAR))",
            ),
            (
                "lag(n) OVER (ORDER BY m)",
                "lag(CAST(n AS DOUBLE)) OVER (ORDER BY m)",
            ),
        ] {
            let separate = |call: &str| format!("SELECT {call} AS a FROM {ROWS}");
            let both = format!("SELECT {one} AS a, {other} AS b FROM {ROWS}");
            let unnamed = format!("SELECT {one}, {other} FROM {ROWS}");
            let (first, second) = (ask(&separate(one)).await, ask(&separate(other)).await);
            for sql in [both, unnamed] {
                let answer = ask(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
                for (column, alone) in [(0, &first), (1, &second)] {
                    let alone = alone.as_ref().unwrap();
                    assert_eq!(answer[0].column(column), alone[0].column(0), "{sql}");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_call_is_found_again_in_having_and_order_by() {
        let sql = format!(
            "SELECT k, sum(CAST(n AS DOUBLE)) AS s, sum(n) FROM {ROWS} GROUP BY k \
             HAVING sum(CAST(n AS DOUBLE)) > 1 ORDER BY sum(CAST(n AS DOUBLE)) DESC, sum(n)"
        );
        let answer = ask(&sql).await.unwrap();
        assert_eq!(answer[0].num_columns(), 3);
        let rows: usize = answer.iter().map(|batch| batch.num_rows()).sum();
        assert_eq!(rows, 2);
    }
}
