// SPDX-License-Identifier: Apache-2.0
//! From text to statements.

use std::collections::HashMap;

use datafusion::sql::parser::{DFParserBuilder, Statement as DfStatement};
use datafusion::sql::sqlparser::ast::{GroupByExpr, Query, SetExpr, Statement as SqlStatement};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};
use dovetail_model::{Problem, check_name};

use super::misread::misread;
use super::source::{Source, Tokens, problem_at};
use super::statement::{Definition, ObjectKind, Show, Statement};
use super::{alter, create};
use super::{nesting, refused};
use crate::ports::LocatedDefinition;

/// Reads exactly one statement; comments and a trailing semicolon are welcome.
///
/// # Errors
/// `Invalid` with members `line` and `column`; the detail says what was expected, or what to use instead.
pub fn parse(sql: &str) -> Result<Statement, Problem> {
    let source = Source::new(sql)?;
    let mut statements = source.statements();
    let Some(tokens) = statements.next() else {
        return Err(Problem::invalid(
            "there is no statement: send one, such as `SHOW STREAMS`",
        ));
    };
    if let Some(second) = statements.next() {
        return Err(second.problem(
            "a second statement begins here: send one at a time, or keep definitions in files for `dovetail apply`",
        ));
    }
    statement(tokens)
}

/// Reads the definitions of one `.sql` file of an applied directory.
///
/// # Errors
/// `Invalid` with members `file`, `line` and `column`, also for statements other than CREATE STREAM and
/// CREATE VIEW: a directory says what there shall be, not how to get there.
pub fn parse_definitions(file: &str, sql: &str) -> Result<Vec<LocatedDefinition>, Problem> {
    let in_file = |problem: Problem| {
        let detail = format!("{file}: {}", problem.detail);
        Problem { detail, ..problem }.with("file", file)
    };
    // Some editors put a byte order mark before it.
    let sql = sql.strip_prefix('\u{feff}').unwrap_or(sql);
    let source = Source::new(sql).map_err(in_file)?;
    source
        .statements()
        .map(|tokens| {
            let location = tokens.location();
            let text = tokens.rest_text().to_owned();
            match statement(tokens)? {
                Statement::Define(
                    definition @ (Definition::CreateStream(_) | Definition::CreateView(_)),
                ) => Ok(LocatedDefinition {
                    file: file.to_owned(),
                    line: location.line,
                    text,
                    definition,
                }),
                _ => Err(problem_at(
                    location,
                    "a definition file holds CREATE STREAM and CREATE VIEW only; run other statements with `dovetail sql`",
                )),
            }
        })
        .collect::<Result<_, Problem>>()
        .map_err(in_file)
}

/// Reads a directory of definitions, each file as its name and text: in order of the names, streams before views.
///
/// # Errors
/// As [`parse_definitions`]; also when a name is declared twice.
pub fn parse_directory(
    mut files: Vec<(String, String)>,
) -> Result<Vec<LocatedDefinition>, Problem> {
    files.sort();
    let mut all = Vec::new();
    for (name, sql) in &files {
        all.extend(parse_definitions(name, sql)?);
    }
    let mut seen: HashMap<&str, &LocatedDefinition> = HashMap::new();
    for located in &all {
        let name = located.definition.name();
        if let Some(first) = seen.insert(name, located) {
            let detail = format!(
                "{}: line {}: `{name}` is declared in {} line {} already",
                located.file, located.line, first.file, first.line
            );
            return Err(Problem::invalid(detail)
                .with("file", located.file.as_str())
                .with("line", located.line));
        }
    }
    all.sort_by_key(|located| matches!(located.definition, Definition::CreateView(_)));
    Ok(all)
}

/// Checks the outer form of a predicate, such as an exclusion's `where`, before someone parses and plans
/// it: that it is one piece of text with tokens, not nested too deep. What it means is not looked at.
///
/// # Errors
/// `Invalid` with members `line` and `column`.
pub fn check_predicate(sql: &str) -> Result<(), Problem> {
    let source = Source::new(sql)?;
    let mut statements = source.statements();
    let Some(tokens) = statements.next() else {
        return Err(Problem::invalid("the predicate is empty"));
    };
    if let Some(second) = statements.next() {
        return Err(second.problem("a predicate is one expression, without `;`"));
    }
    nesting::check(tokens.rest(), nesting::MAX_KEPT_DEPTH)
}

fn statement(mut tokens: Tokens<'_>) -> Result<Statement, Problem> {
    let first = tokens.peek_word().unwrap_or_default();
    let second = tokens.word_at(1).unwrap_or_default();
    match (first.as_str(), second.as_str()) {
        ("CREATE", "STREAM" | "VIEW" | "OR") => create::create(&mut tokens).map(Statement::Define),
        ("ALTER", "STREAM" | "VIEW") => alter::alter(&mut tokens).map(Statement::Define),
        ("DROP" | "UNDROP", "STREAM" | "VIEW") => alter::drop(&mut tokens).map(Statement::Define),
        ("SHOW" | "DESCRIBE" | "DESC", _) => show(&mut tokens).map(Statement::Show),
        _ => query(&tokens).map(Statement::Query),
    }
}

/// `STREAM` or `VIEW`.
pub(super) fn object_kind(tokens: &mut Tokens<'_>) -> Result<ObjectKind, Problem> {
    if tokens.eat_words(&["STREAM"]) {
        Ok(ObjectKind::Stream)
    } else if tokens.eat_words(&["VIEW"]) {
        Ok(ObjectKind::View)
    } else {
        Err(tokens.expected("`STREAM` or `VIEW`"))
    }
}

/// The name of a stream or view. Unquoted it is folded to lower case, as SELECT does.
pub(super) fn object_name(tokens: &mut Tokens<'_>) -> Result<String, Problem> {
    let Some(Token::Word(word)) = tokens.peek() else {
        return Err(tokens.expected("a name"));
    };
    let name = match word.quote_style {
        Some(_) => word.value.clone(),
        None => word.value.to_lowercase(),
    };
    check_name(&name).map_err(|e| tokens.problem(e.to_string()))?;
    tokens.advance();
    if tokens.peek() == Some(&Token::Period) {
        return Err(tokens.problem("streams and views have plain names, without a schema"));
    }
    Ok(name)
}

fn show(tokens: &mut Tokens<'_>) -> Result<Show, Problem> {
    let show = if tokens.eat_words(&["DESCRIBE"]) || tokens.eat_words(&["DESC"]) {
        tokens.eat_words(&["STREAM"]);
        tokens.eat_words(&["VIEW"]);
        Show::Columns(object_name(tokens)?)
    } else if tokens.eat_words(&["SHOW", "STREAMS"]) {
        Show::Streams
    } else if tokens.eat_words(&["SHOW", "VIEWS"]) {
        Show::Views
    } else if tokens.eat_words(&["SHOW", "TABLES"]) {
        Show::Tables
    } else if tokens.eat_words(&["SHOW", "RUNS"]) {
        Show::Runs
    } else if tokens.eat_words(&["SHOW", "CREATE"]) {
        let kind = object_kind(tokens)?;
        Show::Create(kind, object_name(tokens)?)
    } else {
        tokens.advance();
        let others = "`STREAMS`, `VIEWS`, `TABLES`, `RUNS`, `CREATE STREAM name` or `CREATE VIEW name` after SHOW";
        return Err(tokens.expected(others));
    };
    tokens.expect_end()?;
    Ok(show)
}

/// Checks that the statement is one SELECT or EXPLAIN, and answers its text. It stands there as deep and as far right
/// as before, so that a place in it is one in what was asked.
fn query(tokens: &Tokens<'_>) -> Result<String, Problem> {
    if let Some(instead) = refused::instead(tokens) {
        return Err(tokens.problem(instead));
    }
    let start = tokens.location();
    check_query(tokens.rest(), start, Purpose::Ask)?;
    let before = |place: u64| usize::try_from(place).unwrap_or(1).saturating_sub(1);
    let (lines, columns) = (before(start.line), before(start.column));
    let text = tokens.rest_text();
    Ok(format!(
        "{}{}{text}",
        "\n".repeat(lines),
        " ".repeat(columns)
    ))
}

/// Columns of a view: planning 2,000 of them takes four times as long, at each start again.
const MAX_VIEW_COLUMNS: usize = 1000;

/// What a query is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be answered, or explained.
    Ask,
    /// To be a view.
    Keep,
}

/// Checks that `tokens` are one query, or an EXPLAIN of one where that makes sense.
pub(super) fn check_query(
    tokens: &[TokenWithSpan],
    start: Location,
    purpose: Purpose,
) -> Result<(), Problem> {
    let ask = purpose == Purpose::Ask;
    let max_depth = if ask {
        nesting::MAX_DEPTH
    } else {
        nesting::MAX_KEPT_DEPTH
    };
    nesting::check(tokens, max_depth)?;
    let statements = DFParserBuilder::new(tokens.to_vec())
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|e| syntax_problem(&e.to_string(), start))?;
    let mut statement = match statements.front() {
        Some(statement) if statements.len() == 1 => statement,
        _ => return Err(problem_at(start, "expected one query")),
    };
    if let (DfStatement::Explain(explained), true) = (statement, ask) {
        statement = &explained.statement;
    }
    if let DfStatement::Statement(sql) = statement
        && let SqlStatement::Query(query) = sql.as_ref()
    {
        if let Some(why) = misread(query) {
            return Err(problem_at(start, why));
        }
        if is_read_only(query) {
            return match purpose {
                Purpose::Ask => Ok(()),
                Purpose::Keep => check_width(query, start),
            };
        }
    }
    Err(problem_at(
        start,
        if ask {
            "this is not a query: use SELECT, EXPLAIN SELECT, SHOW, DESCRIBE, or CREATE, ALTER, DROP, UNDROP of a STREAM or VIEW"
        } else {
            "expected a SELECT"
        },
    ))
}

/// Refuses the SELECT of a view that lists more than one may have.
fn check_width(query: &Query, start: Location) -> Result<(), Problem> {
    let SetExpr::Select(select) = query.body.as_ref() else {
        return Ok(());
    };
    let keys = match &select.group_by {
        GroupByExpr::Expressions(keys, _) => keys.len(),
        GroupByExpr::All(_) => 0,
    };
    let listed = select.projection.len().max(keys);
    if listed <= MAX_VIEW_COLUMNS {
        return Ok(());
    }
    Err(problem_at(
        start,
        format!(
            "a view has at most {MAX_VIEW_COLUMNS} columns, and these are {listed}: make several views, and join them by their keys where they are read"
        ),
    ))
}

fn is_read_only(query: &Query) -> bool {
    fn body_is_read_only(body: &SetExpr) -> bool {
        match body {
            SetExpr::Select(select) => select.into.is_none(),
            SetExpr::Query(query) => is_read_only(query),
            SetExpr::SetOperation { left, right, .. } => {
                body_is_read_only(left) && body_is_read_only(right)
            }
            SetExpr::Values(_) | SetExpr::Table(_) => true,
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                false
            }
        }
    }
    let with_is_read_only = query
        .with
        .iter()
        .flat_map(|with| &with.cte_tables)
        .all(|table| is_read_only(&table.query));
    with_is_read_only && body_is_read_only(&query.body)
}

/// The parser's message in our form. It ends in ` at Line: 3, Column: 7` when it knows where.
fn syntax_problem(message: &str, start: Location) -> Problem {
    let message = message
        .trim_start_matches("SQL error: ")
        .trim_start_matches("ParserError(\"")
        .trim_end_matches("\")");
    let message = message.split("\nbacktrace").next().unwrap_or(message);
    let located = message.rsplit_once(" at Line: ").and_then(|(text, place)| {
        let (line, column) = place.split_once(", Column: ")?;
        let location = Location::new(line.trim().parse().ok()?, column.trim().parse().ok()?);
        Some((text, location))
    });
    let (text, location) = located.unwrap_or((message, start));
    let mut text = text.trim().to_owned();
    if let Some(first) = text.get_mut(0..1) {
        first.make_ascii_lowercase();
    }
    problem_at(location, text)
}

#[cfg(test)]
mod tests;
