// SPDX-License-Identifier: Apache-2.0
//! Clauses that the parser knows and the planner reads over: a query with one would be answered as if something else stood
//! there.
//!
//! Purpose: to refuse each, with what to write instead. Non-goals: what the planner refuses by itself, and what changes no
//! answer, such as `GLOBAL` before a JOIN.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    GroupByExpr, Join, JoinConstraint, JoinOperator, LimitClause, Query, Select, SelectItem,
    TableFactor, TableWithJoins, Visit as _, Visitor,
};

type Refused = ControlFlow<&'static str>;

/// Why `query` would be answered as if something else stood there, if anything in it is.
pub(super) fn misread(query: &Query) -> Option<&'static str> {
    struct Misread;
    impl Visitor for Misread {
        type Break = &'static str;

        fn pre_visit_query(&mut self, query: &Query) -> Refused {
            check_query(query)
        }

        fn pre_visit_table_factor(&mut self, table: &TableFactor) -> Refused {
            check_table(table)
        }

        fn pre_visit_select(&mut self, select: &Select) -> Refused {
            check_select(select)?;
            select.from.iter().try_for_each(check_joins)
        }
    }
    query.visit(&mut Misread).break_value()
}

fn check_query(query: &Query) -> Refused {
    refuse_if(
        !query.locks.is_empty(),
        "FOR UPDATE and FOR SHARE lock nothing, as events never change: leave them out",
    )?;
    refuse_if(
        query.for_clause.is_some(),
        "FOR XML and FOR JSON would be ignored: name the answer's format with `Accept` or `?format=`, such as `?format=json`",
    )?;
    refuse_if(
        query.format_clause.is_some(),
        "FORMAT would be ignored: name the answer's format with `Accept` or `?format=`, such as `?format=csv`",
    )?;
    refuse_if(
        query.settings.is_some(),
        "SETTINGS would be ignored: settings belong to a request: send `timeout_ms`, `after`, `layer` or `generation` with the statement",
    )?;
    if let Some(fetch) = &query.fetch {
        return ControlFlow::Break(match fetch.with_ties {
            true => {
                "FETCH … WITH TIES is not there: rank the rows, as in QUALIFY rank() OVER (ORDER BY x) <= 10"
            }
            false => "FETCH is not there: write LIMIT",
        });
    }
    let limited_by = match &query.limit_clause {
        Some(LimitClause::LimitOffset { limit_by, .. }) => !limit_by.is_empty(),
        _ => false,
    };
    refuse_if(
        limited_by,
        "LIMIT … BY is not there: number the rows, as in QUALIFY row_number() OVER (PARTITION BY k ORDER BY x) <= 10",
    )
}

fn check_select(select: &Select) -> Refused {
    refuse_if(
        select.into.is_some(),
        "SELECT … INTO stores nothing: take the answer as it comes, or keep the SELECT with CREATE VIEW",
    )?;
    refuse_if(select.top.is_some(), "TOP is not there: write LIMIT")?;
    refuse_if(
        select.prewhere.is_some(),
        "PREWHERE would be ignored: write WHERE",
    )?;
    refuse_if(
        !select.connect_by.is_empty(),
        "CONNECT BY and START WITH would be ignored: write WITH RECURSIVE",
    )?;
    refuse_if(
        select.value_table_mode.is_some() || select.select_modifiers.is_some(),
        "what stands between SELECT and its list would be ignored: DISTINCT and ALL can stand there",
    )?;
    refuse_if(
        !select.cluster_by.is_empty()
            || !select.distribute_by.is_empty()
            || !select.sort_by.is_empty(),
        "CLUSTER BY, DISTRIBUTE BY and SORT BY are not there: write ORDER BY",
    )?;
    let (GroupByExpr::All(modifiers) | GroupByExpr::Expressions(_, modifiers)) = &select.group_by;
    refuse_if(
        !modifiers.is_empty(),
        "WITH behind GROUP BY would be ignored: write GROUP BY ROLLUP (a, b), CUBE (a, b) or GROUPING SETS ((a), ())",
    )?;
    let is_filtered = |item: &SelectItem| match item {
        SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) => {
            options.opt_ilike.is_some()
        }
        _ => false,
    };
    refuse_if(
        select.projection.iter().any(is_filtered),
        "ILIKE behind * would be ignored: name the columns, or write * EXCLUDE (a, b)",
    )
}

fn check_table(table: &TableFactor) -> Refused {
    match table {
        TableFactor::Table {
            with_hints,
            version,
            with_ordinality,
            partitions,
            json_path,
            sample,
            index_hints,
            ..
        } => {
            refuse_if(sample.is_some(), SAMPLED)?;
            refuse_if(
                version.is_some(),
                "a version of a table would be ignored: ask for a `generation` of a view with the statement",
            )?;
            refuse_if(
                *with_ordinality,
                "WITH ORDINALITY would be ignored: write row_number() OVER ()",
            )?;
            refuse_if(
                !partitions.is_empty(),
                "PARTITION behind a table would be ignored: write a condition, such as WHERE _partition = 0",
            )?;
            refuse_if(
                json_path.is_some(),
                "a path behind a table would be ignored: write it in the select list",
            )?;
            refuse_if(
                !with_hints.is_empty() || !index_hints.is_empty(),
                "hints behind a table would be ignored: leave them out",
            )
        }
        TableFactor::Derived { sample, .. } => refuse_if(sample.is_some(), SAMPLED),
        TableFactor::NestedJoin {
            table_with_joins, ..
        } => check_joins(table_with_joins),
        _ => ControlFlow::Continue(()),
    }
}

const SAMPLED: &str = "TABLESAMPLE would be ignored: take a part of the rows with a condition, such as WHERE random() < 0.1";

/// Of a key that USING joins, the planner shows the left side, also where there is none.
fn check_joins(tables: &TableWithJoins) -> Refused {
    let loses_keys = |join: &Join| {
        use JoinOperator::{FullOuter, Right, RightOuter};
        let (Right(how) | RightOuter(how) | FullOuter(how)) = &join.join_operator else {
            return false;
        };
        matches!(how, JoinConstraint::Using(_) | JoinConstraint::Natural)
    };
    refuse_if(
        tables.joins.iter().any(loses_keys),
        "a RIGHT or FULL JOIN with USING, or a NATURAL one, would show NULL for keys that the left side has not: write ON a.k = b.k, and coalesce(a.k, b.k) for the key",
    )
}

fn refuse_if(is_there: bool, why: &'static str) -> Refused {
    match is_there {
        true => ControlFlow::Break(why),
        false => ControlFlow::Continue(()),
    }
}

#[cfg(test)]
mod tests {
    use crate::sql::parse;

    #[test]
    fn what_the_planner_reads_over_is_refused_with_what_to_write() {
        for (sql, said) in [
            (
                "SELECT x FROM s FOR UPDATE",
                "FOR UPDATE and FOR SHARE lock nothing",
            ),
            (
                "SELECT x FROM s FOR SHARE OF s NOWAIT",
                "FOR UPDATE and FOR SHARE lock nothing",
            ),
            (
                "SELECT x FROM (SELECT x FROM s FOR UPDATE) AS t",
                "FOR UPDATE and FOR SHARE lock nothing",
            ),
            (
                "WITH t AS (SELECT x FROM s FOR UPDATE) SELECT x FROM t",
                "FOR UPDATE and FOR SHARE",
            ),
            (
                "EXPLAIN SELECT x FROM s FOR UPDATE",
                "FOR UPDATE and FOR SHARE lock nothing",
            ),
            (
                "CREATE VIEW v AS SELECT count(*) AS n FROM s FOR UPDATE",
                "FOR UPDATE and FOR SHARE",
            ),
            ("SELECT x FROM s FOR JSON PATH", "`?format=json`"),
            ("SELECT x FROM s FORMAT CSV", "`?format=csv`"),
            (
                "SELECT x FROM s SETTINGS max_threads = 1",
                "settings belong to a request",
            ),
            (
                "SELECT x FROM s ORDER BY x FETCH FIRST 5 ROWS WITH TIES",
                "QUALIFY rank()",
            ),
            ("SELECT x FROM s FETCH FIRST 5 ROWS ONLY", "write LIMIT"),
            ("SELECT x FROM s LIMIT 5 BY x", "QUALIFY row_number()"),
            ("SELECT x INTO y FROM s", "SELECT … INTO stores nothing"),
            ("SELECT TOP 5 x FROM s", "write LIMIT"),
            ("SELECT x FROM s PREWHERE x > 1", "write WHERE"),
            (
                "SELECT x FROM s START WITH x = 1 CONNECT BY PRIOR x = y",
                "write WITH RECURSIVE",
            ),
            ("SELECT x FROM s SORT BY x", "write ORDER BY"),
            (
                "SELECT x FROM s GROUP BY x WITH ROLLUP",
                "write GROUP BY ROLLUP (a, b)",
            ),
            (
                "SELECT x FROM s GROUP BY x WITH TOTALS",
                "write GROUP BY ROLLUP (a, b)",
            ),
            (
                "SELECT * ILIKE 'x%' FROM s",
                "ILIKE behind * would be ignored",
            ),
            ("SELECT x FROM s WITH (NOLOCK)", "hints behind a table"),
            ("SELECT x FROM s PARTITION (p)", "WHERE _partition = 0"),
            ("SELECT x FROM s WITH ORDINALITY", "row_number() OVER ()"),
            (
                "SELECT x FROM s TABLESAMPLE (10)",
                "TABLESAMPLE would be ignored",
            ),
            (
                "SELECT x FROM (SELECT x FROM s) AS t TABLESAMPLE (10 ROWS)",
                "TABLESAMPLE would be",
            ),
            (
                "SELECT k FROM a RIGHT JOIN b USING (k)",
                "write ON a.k = b.k",
            ),
        ] {
            let problem = parse(sql).unwrap_err();
            assert!(problem.detail.contains(said), "{sql}: {}", problem.detail);
        }
        for fine in [
            "SELECT x FROM s ORDER BY x LIMIT 5 OFFSET 3",
            "SELECT x, count(*) FROM s GROUP BY ROLLUP (x)",
            "SELECT x FROM s QUALIFY rank() OVER (ORDER BY x) <= 10",
            "SELECT * EXCLUDE (x) FROM s",
            "SELECT k FROM a JOIN b USING (k)",
        ] {
            parse(fine).unwrap();
        }
    }
}
