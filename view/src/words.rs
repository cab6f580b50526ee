// SPDX-License-Identifier: Apache-2.0
//! What the engine says of a statement, in our manner: short, with the types and functions that users know.
//!
//! Purpose: one place that turns errors of DataFusion into words, for definitions, predicates and queries alike.
//! Non-goals: what kind of problem an error is; the callers decide that.
//! Invariants: what is not recognised is passed on, without prefixes, advertisement and backtrace.

mod functions;
mod integers;
mod memory;
mod operators;
mod overflows;
mod patterns;
mod times;
mod typed;

use std::collections::HashSet;

use datafusion::error::DataFusionError;

pub(crate) use functions::allowed_in_views;
use functions::{mismatch, null_argument, uncoerced, unknown_function};
use integers::no_such_integer;
use memory::exhausted;
use operators::incompatible;
pub use overflows::Calculations;
use overflows::does_not_fit;
use patterns::broken;
pub use patterns::is_of_a_pattern;
use times::{no_such_time, outside_calendar};
use typed::split_list;
pub(crate) use typed::with_sql_types;

/// Prefixes that say which part of the engine complains.
const PREFIXES: [&str; 12] = [
    "Error during planning: ",
    "Schema error: ",
    "SQL error: ",
    "Execution error: ",
    "Arrow error: ",
    "Cast error: ",
    "Parser error: ",
    "Compute error: ",
    "Invalid argument error: ",
    "Not yet implemented: ",
    "This feature is not implemented: ",
    "Internal error: ",
];

/// The words of the engine's error, in our form: what stands in the way and what to write instead. Types read as
/// `CREATE STREAM` writes them. Lowercase, on one line, without a full stop.
pub fn words_of(error: &DataFusionError) -> String {
    words(error, |_| true)
}

/// As [`words_of`], with only those functions proposed that a view may use.
pub(crate) fn words_of_definition(error: &DataFusionError) -> String {
    let said = words(error, allowed_in_views);
    match said.split_once(". Consider using HAVING") {
        Some((said, _)) => format!("{said}: filter in the query that reads the view"),
        None => said,
    }
}

fn words(error: &DataFusionError, allowed: impl Fn(&str) -> bool) -> String {
    let text = bare(error);
    let said = mismatch(&text)
        .or_else(|| uncoerced(&text))
        .or_else(|| unknown_function(&text, allowed))
        .or_else(|| outside_groups(&text))
        .or_else(|| unknown_column(&text))
        .or_else(|| nested_aggregates(&text))
        .or_else(|| same_name(&text))
        .or_else(|| same_keys(&text))
        .or_else(|| null_argument(&text))
        .or_else(|| incompatible(&text))
        .or_else(|| exhausted(&text))
        .or_else(|| broken(&text))
        .or_else(|| no_such_integer(&text))
        .or_else(|| does_not_fit(&text))
        .or_else(|| outside_calendar(&text))
        .or_else(|| no_such_time(&text))
        .or_else(|| misplaced_subquery(&text))
        .or_else(|| too_deep(&text))
        .or_else(|| no_parameter(&text))
        .unwrap_or_else(|| with_sql_types(&text));
    let line = said
        .split('\n')
        .map(str::trim)
        .collect::<Vec<_>>()
        .join(" ");
    lower_first(line.trim_end_matches('.'))
}

/// The error's own text, without what stands before and behind it.
fn bare(error: &DataFusionError) -> String {
    let text = match error.find_root() {
        DataFusionError::Plan(text)
        | DataFusionError::NotImplemented(text)
        | DataFusionError::Internal(text)
        | DataFusionError::Execution(text)
        | DataFusionError::ResourcesExhausted(text) => text.clone(),
        DataFusionError::SchemaError(error, _) => error.to_string(),
        DataFusionError::SQL(error, _) => error.to_string(),
        DataFusionError::ArrowError(error, _) => error.to_string(),
        other => other.to_string(),
    };
    let mut text = text
        .split(DataFusionError::BACK_TRACE_SEP)
        .next()
        .unwrap_or_default()
        .trim();
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix)) {
        text = rest;
    }
    text.to_owned()
}

/// A column that is neither grouped by nor aggregated.
fn outside_groups(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("column \"")?;
    let (column, rest) = rest.split_once('"')?;
    rest.trim_start()
        .starts_with("must appear in the GROUP BY")
        .then(|| {
            format!(
                "`{column}` is neither in GROUP BY nor in an aggregate: add it to GROUP BY, or write an aggregate of it, such as max({column})"
            )
        })
}

/// A subquery that the engine can only compute as a join, where it is none.
fn misplaced_subquery(text: &str) -> Option<String> {
    const SAID: &str = "physical plan does not support logical expression ";
    let (before, expression) = text.split_at_checked(SAID.len())?;
    let kind = expression.split(['(', '{', ' ']).next()?;
    let written = match kind {
        "InSubquery" => "x IN (SELECT …)",
        "Exists" => "EXISTS (SELECT …)",
        "SetComparison" => "x > ALL (SELECT …)",
        "ScalarSubquery" | "OuterReferenceColumn" => "(SELECT …) that names an outer column",
        _ => return None,
    };
    before.eq_ignore_ascii_case(SAID).then(|| {
        format!("`{written}` cannot be computed here: write it in WHERE, or join the tables")
    })
}

/// The parser's limit of parentheses and subqueries within each other.
fn too_deep(text: &str) -> Option<String> {
    let (_, limit) = text.split_once("ecursionLimitExceeded (current limit: ")?;
    let (limit, _) = limit.split_once(')')?;
    Some(format!(
        "parentheses and subqueries stand too deep within each other: at most about {limit}"
    ))
}

/// A `$1` or `$name` that the parameters have no value for.
fn no_parameter(text: &str) -> Option<String> {
    let rest = text.strip_prefix("No value found for placeholder with ")?;
    let (_, placeholder) = rest.split_once(' ')?;
    Some(format!(
        "`parameters` has no value for {placeholder}: send an array, whose first value is $1, or an object with a value for each $name"
    ))
}

fn nested_aggregates(text: &str) -> Option<String> {
    let (sentence, _) = text.split_once(": ")?;
    let nested = sentence == "Aggregate function calls cannot be nested";
    nested.then(|| {
        "aggregates cannot be nested: write the outer one in a query over the inner one's result"
            .to_owned()
    })
}

/// `… the expression "a" at position 0 and "CAST(a AS Int64)" at position 1 have the same name. …`
fn same_name(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("require unique expression names but the expression \"")?;
    let (one, rest) = rest.split_once("\" at position ")?;
    let (_, rest) = rest.split_once(" and \"")?;
    let (other, _) = rest.split_once("\" at position ")?;
    let (one, other) = (alias_of(one), alias_of(other));
    let (one, other) = (with_sql_types(one), with_sql_types(other));
    Some(if one == other {
        format!("`{one}` is there twice: leave one of them out, or give it another name with AS")
    } else {
        format!("`{one}` and `{other}` have one name: give one of them another with AS")
    })
}

/// `count(*)` of `count(1) AS count(*)`; all of what has no alias, such as `CAST(a AS Int64)`.
fn alias_of(expression: &str) -> &str {
    let mut depth = 0_usize;
    let mut alias = 0;
    for (at, c) in expression.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ' ' if depth == 0 && expression[at..].starts_with(" AS ") => alias = at + " AS ".len(),
            _ => {}
        }
    }
    &expression[alias..]
}

/// Two keys that DataFusion gives one name, because it leaves casts out of names.
fn same_keys(text: &str) -> Option<String> {
    let name = text.strip_prefix("Schema contains duplicate unqualified field name ")?;
    let name = name.trim_matches('"');
    Some(format!(
        "two columns have the one name `{name}`, casts aside: name them with AS in a query within, and group by these names"
    ))
}

/// `No field named x. Did you mean 'y'?\nColumn names are case sensitive. …\nValid fields are a, b.`, where the last lines may
/// be missing, and a column may be listed each time that the planner came by it.
fn unknown_column(text: &str) -> Option<String> {
    let rest = text.strip_prefix("No field named ")?;
    let (said, rest) = rest.split_once('\n').unwrap_or((rest, ""));
    let (name, meant) = match said.rsplit_once(". Did you mean '") {
        Some((name, meant)) => (name, meant.strip_suffix("'?")),
        None => (said.trim_end_matches('.'), None),
    };
    let name = match name.strip_prefix('"').and_then(|n| n.strip_suffix('"')) {
        Some(alone) if !alone.contains('"') => alone,
        _ => name,
    };
    let mut words = format!("there is no column `{name}`");
    if let Some(meant) = meant {
        words += &format!("; perhaps `{meant}` is meant");
    }
    if rest.contains("Column names are case sensitive. ") {
        // The engine goes on with a setting that nobody here can set.
        words += ": names are lower case unless they stand in double quotes";
    }
    if let Some((_, known)) = rest.rsplit_once("Valid fields are ") {
        let mut names = split_list(known.trim_end_matches('.'));
        let mut listed = HashSet::new();
        names.retain(|name| listed.insert(*name));
        words += &format!("; there are {}", names.join(", "));
    }
    Some(words)
}

/// `Text` as `text`, but `SQL` as it is.
fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if first.is_uppercase() && !second.is_uppercase() => {
            first.to_lowercase().collect::<String>() + &text[first.len_utf8()..]
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::error::ArrowError;
    use datafusion::error::DataFusionError;

    use super::words_of;

    #[test]
    fn what_stands_in_the_wrong_place_is_named_as_it_is_written() {
        for (text, said) in [
            (
                "Physical plan does not support logical expression InSubquery(InSubquery { expr: Column(…",
                "`x IN (SELECT …)` cannot be computed here: write it in WHERE, or join the tables",
            ),
            (
                "physical plan does not support logical expression ScalarSubquery(<subquery>)",
                "`(SELECT …) that names an outer column` cannot be computed here: write it in WHERE, or join the tables",
            ),
            (
                "sql parser error: RecursionLimitExceeded (current limit: 50)",
                "parentheses and subqueries stand too deep within each other: at most about 50",
            ),
            (
                "No value found for placeholder with id $1",
                "`parameters` has no value for $1: send an array, whose first value is $1, or an object with a value for each $name",
            ),
        ] {
            assert_eq!(words_of(&DataFusionError::Plan(text.to_owned())), said);
        }
    }

    #[test]
    fn prefixes_advertisement_and_full_stop_are_left_out() {
        for (error, words) in [
            (
                DataFusionError::Internal("Oops.".to_owned()).context("while planning"),
                "oops",
            ),
            (
                DataFusionError::from(ArrowError::CastError(
                    "Cannot cast string 'Int32' to value of Int32 type".to_owned(),
                )),
                "cannot cast string 'Int32' to value of INT type",
            ),
            (ArrowError::DivideByZero.into(), "divide by zero error"),
            (
                DataFusionError::NotImplemented("SQL of the future".to_owned()),
                "SQL of the future",
            ),
        ] {
            assert_eq!(words_of(&error), words);
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_words_of_sql_with_a_way_out() {
        for (text, said) in [
            (
                "No field named zz.\nValid fields are s.k, \"count(a, b)\", s.k, s.n, \"count(a, b)\".",
                "there is no column `zz`; there are s.k, \"count(a, b)\", s.n",
            ),
            ("No field named zz.", "there is no column `zz`"),
            (
                "No field named nn. Did you mean 's.n'?\nValid fields are s.k, s.n.",
                "there is no column `nn`; perhaps `s.n` is meant; there are s.k, s.n",
            ),
            (
                "No field named \"N\". Did you mean 's.n'?\nColumn names are case sensitive. You can use double quotes to refer to the s.n column or disable the datafusion.sql_parser.enable_ident_normalization configuration.\nValid fields are s.n.",
                "there is no column `N`; perhaps `s.n` is meant: names are lower case unless they stand in double quotes; there are s.n",
            ),
            (
                "No field named s.\"N\". Did you mean 's.n'?\nColumn names are case sensitive. You can use double quotes to refer to the s.n column or disable the datafusion.sql_parser.enable_ident_normalization configuration.",
                "there is no column `s.\"N\"`; perhaps `s.n` is meant: names are lower case unless they stand in double quotes",
            ),
            (
                "12.50 is too large to store in a Decimal128 of precision 3. Max is 9.99",
                "`12.50` does not fit DECIMAL(3, 2): write CAST(… AS DECIMAL(38, 2)), or CAST(… AS DOUBLE)",
            ),
            (
                "Cannot coerce arithmetic expression Int32 + Utf8 to valid types",
                "cannot compute INT + VARCHAR: cast the VARCHAR, as in CAST(… AS INT)",
            ),
            (
                "Cannot coerce arithmetic expression Utf8View * Decimal128(10, 2) to valid types",
                "cannot compute VARCHAR * DECIMAL(10, 2): cast the VARCHAR, as in CAST(… AS DECIMAL(10, 2))",
            ),
            (
                "Cannot coerce arithmetic expression Utf8 + Utf8 to valid types",
                "cannot compute VARCHAR + VARCHAR: cast both, as in CAST(… AS DOUBLE); texts are joined with ||",
            ),
            (
                "Cannot coerce arithmetic expression Timestamp(µs) - Int64 to valid types",
                "cannot compute TIMESTAMP - BIGINT: write how long, as in … - INTERVAL '1' DAY",
            ),
            (
                "Cannot coerce arithmetic expression Timestamp(µs) * Int64 to valid types",
                "cannot compute TIMESTAMP * BIGINT: give both a type that it takes with CAST(… AS …)",
            ),
            (
                "Cannot infer common argument type for comparison operation Timestamp(µs) = Int64",
                "cannot compare TIMESTAMP = BIGINT: give both one type with CAST(… AS …)",
            ),
            (
                "There isn't a common type to coerce Int64 and Utf8 in LIKE expression",
                "LIKE takes no BIGINT and VARCHAR: make texts of them with CAST(… AS VARCHAR)",
            ),
            (
                "Projections require unique expression names but the expression \"count(1) AS count(*)\" at position 0 and \"CAST(a AS Int64)\" at position 1 have the same name. Consider aliasing (\"AS\") one of them.",
                "`count(*)` and `CAST(a AS BIGINT)` have one name: give one of them another with AS",
            ),
            (
                "Schema contains duplicate unqualified field name \"s.k\"",
                "two columns have the one name `s.k`, casts aside: name them with AS in a query within, and group by these names",
            ),
            (
                "No function matches the given name and argument types 'array_remove(List(Decimal128(10, 2)), Float64)'. You might need to add explicit type casts.\n\tCandidate functions:\n\tarray_remove(array, element)",
                "`array_remove` takes no (LIST<DECIMAL(10, 2)>, DOUBLE): it takes (array, element); cast the argument, as in array_remove(…, CAST(… AS DECIMAL(10, 2)))",
            ),
            (
                "Failed to coerce arguments to satisfy a call to 'array_has' function: coercion from List(Decimal128(10, 2)), Float64 to the signature ArraySignature(array, element) failed",
                "`array_has` takes no (LIST<DECIMAL(10, 2)>, DOUBLE): it takes (array, element); cast the argument, as in array_has(…, CAST(… AS DECIMAL(10, 2)))",
            ),
            (
                "AvgAccumulator for (Null --> Float64)",
                "`avg` takes no NULL that has no type: write CAST(NULL AS DOUBLE)",
            ),
            (
                "[return_type] SUM not supported for Null",
                "`sum` takes no NULL that has no type: write CAST(NULL AS DOUBLE)",
            ),
        ] {
            assert_eq!(words_of(&DataFusionError::Plan(text.to_owned())), said);
        }
    }
}
