// SPDX-License-Identifier: Apache-2.0
//! What a view may be: the checks and rewrites on the text, before anything is planned.
//!
//! Purpose: refuse what cannot be merged, naming the expression and what to write instead; give every
//! output a name; append the tie-break to order-sensitive aggregates.
//! Collaborators: `compile` plans what comes out of here and checks what only a plan can tell.
//! Non-goals: names of columns and types; the planner knows those.

mod names;
mod ordered;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, Ident, ObjectNamePart, Query, Select, SelectItem, SetExpr, Statement,
    TableFactor, visit_expressions,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use dovetail_model::StreamSchema;

use crate::ViewError;

/// Deepest nesting of a definition.
pub(crate) const RECURSION_LIMIT: usize = 64;
/// What to say of clauses that shape an answer rather than its groups.
const ASK_THE_VIEW: &str = "put it in the query that reads the view";

/// A definition that passed the textual checks.
pub(crate) struct Checked {
    /// The stream it reads.
    pub(crate) stream: String,
    /// The SELECT as it was written, in canonical form.
    pub(crate) sql: String,
    /// The SELECT to plan: every output named, every order made total.
    pub(crate) statement: Statement,
}

/// Parses and checks a definition.
pub(crate) fn check(
    sql: &str,
    streams: &BTreeMap<String, StreamSchema>,
) -> Result<Checked, ViewError> {
    let mut query = parse(sql)?;
    let canonical = query.to_string();
    check_query(&query)?;
    let SetExpr::Select(select) = query.body.as_mut() else {
        return Err(ViewError::refused(
            &query.body,
            "write one SELECT over one stream; combine views in the query that reads them",
        ));
    };
    check_select(select)?;
    let stream = stream_name(select)?;
    let schema = streams
        .get(&stream)
        .ok_or_else(|| unknown_stream(&stream, streams))?;
    check_group_by(&select.group_by)?;
    check_expressions(select)?;
    names::name_outputs(select)?;
    ordered::make_orders_total(select, schema)?;
    Ok(Checked {
        stream,
        sql: canonical,
        statement: Statement::Query(query),
    })
}

fn parse(sql: &str) -> Result<Box<Query>, ViewError> {
    let mut statements = Parser::new(&GenericDialect {})
        .with_recursion_limit(RECURSION_LIMIT)
        .try_with_sql(sql)
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|error| ViewError::Syntax(error.to_string()))?;
    match (statements.pop(), statements.len()) {
        (Some(Statement::Query(query)), 0) => Ok(query),
        (Some(other), 0) => Err(ViewError::refused(other, "a view is one SELECT")),
        (None, _) => Err(ViewError::Syntax("there is no statement".to_owned())),
        (Some(_), more) => Err(ViewError::Syntax(format!(
            "a view is one SELECT, but there are {} statements",
            more + 1
        ))),
    }
}

/// Refuses with the first clause that is there.
fn refuse_first(clauses: Vec<(Option<String>, &str)>) -> Result<(), ViewError> {
    for (clause, reason) in clauses {
        if let Some(clause) = clause {
            return Err(ViewError::refused(clause.trim(), reason));
        }
    }
    Ok(())
}

fn clause<T: ToString>(keyword: &str, value: &Option<T>) -> Option<String> {
    value
        .as_ref()
        .map(|v| format!("{keyword}{}", v.to_string()))
}

fn listed<T: ToString>(keyword: &str, values: &[T]) -> Option<String> {
    let first = values.first()?;
    Some(format!("{keyword} {}", first.to_string()))
}

fn check_query(query: &Query) -> Result<(), ViewError> {
    refuse_first(vec![
        (
            clause("", &query.with),
            "write the view as one SELECT over the stream, without WITH",
        ),
        (clause("", &query.order_by), ASK_THE_VIEW),
        (clause("", &query.limit_clause), ASK_THE_VIEW),
        (clause("", &query.fetch), ASK_THE_VIEW),
        (listed("", &query.locks), "leave it out"),
        (clause("", &query.for_clause), "leave it out"),
        (
            query.settings.as_ref().map(|_| "SETTINGS".to_owned()),
            "leave it out",
        ),
        (clause("FORMAT ", &query.format_clause), "leave it out"),
        (listed("|>", &query.pipe_operators), ASK_THE_VIEW),
    ])
}

fn check_select(select: &Select) -> Result<(), ViewError> {
    refuse_first(vec![
        (
            clause("", &select.distinct),
            "name the columns in GROUP BY instead",
        ),
        (clause("", &select.top), ASK_THE_VIEW),
        (clause("", &select.exclude), "name the columns you want"),
        (
            clause("", &select.into),
            "a view is read under its own name",
        ),
        (listed("", &select.lateral_views), "a view reads one stream"),
        (clause("PREWHERE ", &select.prewhere), "use WHERE"),
        (listed("", &select.connect_by), "a view reads one stream"),
        (listed("CLUSTER BY", &select.cluster_by), "leave it out"),
        (
            listed("DISTRIBUTE BY", &select.distribute_by),
            "leave it out",
        ),
        (listed("SORT BY", &select.sort_by), ASK_THE_VIEW),
        (clause("HAVING ", &select.having), ASK_THE_VIEW),
        (clause("QUALIFY ", &select.qualify), ASK_THE_VIEW),
        (
            listed("WINDOW", &select.named_window),
            "window functions belong in the query that reads the view",
        ),
        (
            clause("SELECT ", &select.value_table_mode),
            "name the columns you want",
        ),
        (
            select
                .select_modifiers
                .as_ref()
                .filter(|m| m.is_any_set())
                .map(ToString::to_string),
            "leave it out",
        ),
    ])
}

/// The one stream that is read.
fn stream_name(select: &Select) -> Result<String, ViewError> {
    const ONE: &str =
        "a view reads exactly one stream: join or combine views in the query that reads them";
    let table = match select.from.as_slice() {
        [] => {
            return Err(ViewError::refused(
                select,
                "it reads no stream: add FROM and the stream's name",
            ));
        }
        [table] => table,
        [_, second, ..] => return Err(ViewError::refused(second, ONE)),
    };
    if let Some(join) = table.joins.first() {
        return Err(ViewError::refused(join.to_string().trim(), ONE));
    }
    let TableFactor::Table {
        name,
        args: None,
        with_hints,
        version: None,
        with_ordinality: false,
        partitions,
        json_path: None,
        sample: None,
        index_hints,
        ..
    } = &table.relation
    else {
        return Err(ViewError::refused(
            &table.relation,
            "FROM takes the name of a stream and nothing else",
        ));
    };
    let plain = with_hints.is_empty() && partitions.is_empty() && index_hints.is_empty();
    match (name.0.as_slice(), plain) {
        ([ObjectNamePart::Identifier(ident)], true) => Ok(normalized(ident)),
        _ => Err(ViewError::refused(
            &table.relation,
            "FROM takes the name of a stream and nothing else",
        )),
    }
}

fn unknown_stream(name: &str, streams: &BTreeMap<String, StreamSchema>) -> ViewError {
    let names: Vec<&str> = streams.keys().map(String::as_str).collect();
    ViewError::UnknownStream {
        name: name.to_owned(),
        known: if names.is_empty() {
            "are none yet".to_owned()
        } else {
            format!("are `{}`", names.join("`, `"))
        },
    }
}

fn check_group_by(group_by: &GroupByExpr) -> Result<(), ViewError> {
    const ONE_GROUPING: &str = "a view groups in one way: declare one view for each grouping";
    let GroupByExpr::Expressions(expressions, modifiers) = group_by else {
        return Err(ViewError::refused(group_by, "name the columns to group by"));
    };
    if let Some(modifier) = modifiers.first() {
        return Err(ViewError::refused(modifier, ONE_GROUPING));
    }
    for expression in expressions {
        if matches!(
            expression,
            Expr::GroupingSets(_) | Expr::Cube(_) | Expr::Rollup(_)
        ) {
            return Err(ViewError::refused(expression, ONE_GROUPING));
        }
    }
    Ok(())
}

/// Refuses expressions that look beyond the events of one group.
fn check_expressions(select: &Select) -> Result<(), ViewError> {
    for item in &select.projection {
        if matches!(
            item,
            SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(_, _)
        ) {
            return Err(ViewError::refused(item, "name the columns you want"));
        }
    }
    let flow = visit_expressions(select, |expression| match refusal_of(expression) {
        Some(reason) => ControlFlow::Break(ViewError::refused(expression, reason)),
        None => ControlFlow::Continue(()),
    });
    match flow {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

fn refusal_of(expression: &Expr) -> Option<&'static str> {
    match expression {
        Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } => Some(
            "a view reads exactly one stream, once: use FILTER (WHERE …), or a subquery in the query that reads the view",
        ),
        Expr::Function(function) if function.over.is_some() => {
            Some("window functions belong in the query that reads the view")
        }
        Expr::Function(function)
            if names::function_name(function)
                .is_some_and(|name| name == "unnest" || name == "unnest_outer") =>
        {
            Some("a view takes each event once: unnest in the query that reads the view")
        }
        Expr::Function(function)
            if names::function_name(function).is_some_and(|name| name == "grouping") =>
        {
            Some("a view groups in one way, so it is 0 in every row: leave it out")
        }
        Expr::Value(value)
            if matches!(
                value.value,
                datafusion::sql::sqlparser::ast::Value::Placeholder(_)
            ) =>
        {
            Some("write the value itself: a view has no parameters")
        }
        _ => None,
    }
}

/// An identifier as the planner reads it: lowercase unless quoted.
pub(crate) fn normalized(ident: &Ident) -> String {
    if ident.quote_style.is_some() {
        ident.value.clone()
    } else {
        ident.value.to_lowercase()
    }
}
