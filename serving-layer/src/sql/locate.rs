// SPDX-License-Identifier: Apache-2.0
//! Where in a statement, or in a file of definitions, a problem lies that only the planner has found.
//!
//! Purpose: of most problems the planner names what is wrong, not where; long statements are searched by line. What the
//! problem names in backticks is looked for among the statement's tokens: it lies where that is read first, or, if it
//! is only made there, where it is made (`AS name`). Of a file without it, the statement's beginning is named.

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};
use dovetail_model::{Problem, ProblemKind};

use super::source::problem_at;
use crate::ports::LocatedDefinition;

/// The problem that the planner has with `statement`, with `line` and `column` where they are known, and both in its
/// detail. One that says more than its detail already, such as a place or a parameter, stays as it is.
pub fn problem_with(statement: &str, problem: Problem) -> Problem {
    if problem.kind != ProblemKind::Invalid || !problem.members.is_empty() {
        return problem;
    }
    match place_of(statement, &problem.detail) {
        Some(place) => problem_at(place, &problem.detail),
        None => problem,
    }
}

/// The place in `statement` of the first thing in backticks in `detail`: what follows may be the remedy.
fn place_of(statement: &str, detail: &str) -> Option<Location> {
    let named = tokens(detail.split('`').nth(1)?)?;
    first(&tokens(statement)?, &named)
}

/// The problem that `located` has, with `file` and `line`, and both in its detail.
pub fn problem_in(located: &LocatedDefinition, problem: Problem) -> Problem {
    let LocatedDefinition { file, line, .. } = located;
    let found = line_of(&located.text, &problem.detail).map(|below| line + below - 1);
    let detail = match found {
        Some(line) => format!("{file}: line {line}: {}", problem.detail),
        None => format!(
            "{file}: in the statement that begins at line {line}: {}",
            problem.detail
        ),
    };
    Problem { detail, ..problem }
        .with("file", file.as_str())
        .with("line", found.unwrap_or(*line))
}

/// The line of `statement`, from 1, of the first thing in backticks in `detail` that stands in it.
fn line_of(statement: &str, detail: &str) -> Option<u64> {
    let statement = tokens(statement)?;
    let named = detail.split('`').skip(1).step_by(2);
    let mut places = named
        .filter_map(tokens)
        .filter_map(|named| first(&statement, &named));
    places.next().map(|place| place.line)
}

/// Where `named` first stands in `statement`. What stands behind AS is a name that is given there: it counts only if
/// there is no other.
fn first(statement: &[TokenWithSpan], named: &[TokenWithSpan]) -> Option<Location> {
    let windows = statement.windows(named.len()).enumerate();
    let alike = windows.filter(|(_, window)| {
        let mut pairs = window.iter().zip(named);
        pairs.all(|(a, b)| alike(&a.token, &b.token))
    });
    let given = |at: usize| at > 0 && is_as(&statement[at - 1].token);
    let first = alike.min_by_key(|(at, _)| given(*at));
    first.map(|(_, window)| window[0].span.start)
}

fn is_as(token: &Token) -> bool {
    matches!(token, Token::Word(word) if word.keyword == Keyword::AS)
}

/// The tokens of a text, at least one.
fn tokens(text: &str) -> Option<Vec<TokenWithSpan>> {
    let tokens = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location();
    let mut tokens = tokens.ok()?;
    tokens.retain(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF));
    Some(tokens).filter(|tokens| !tokens.is_empty())
}

/// Words are alike whatever their case and quotes.
fn alike(one: &Token, other: &Token) -> bool {
    match (one, other) {
        (Token::Word(one), Token::Word(other)) => one.value.eq_ignore_ascii_case(&other.value),
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIEW: &str = "CREATE VIEW v AS\nSELECT\n  origin, -- of the flight\n  SUM( dealy )  AS total,\n  count(*) AS n\nFROM flights\nGROUP BY origin, total";

    #[test]
    fn the_line_is_that_of_what_is_named() {
        for (detail, line) in [
            (
                "there is no column `dealy`; there are flights.delay",
                Some(4),
            ),
            (
                "`sum(dealy)` cannot be part of a view: it is cursed",
                Some(4),
            ),
            ("there is no function `cnt`: did you mean `count`?", Some(5)),
            ("there is no stream `FLIGHTS`", Some(6)),
            // The first of two.
            ("`origin` is too far away", Some(3)),
            // Not where the name is given.
            ("there is no column `total`", Some(7)),
            ("`n` is too long", Some(5)),
            ("too many groups", None),
            ("`it's` over", None),
        ] {
            assert_eq!(line_of(VIEW, detail), line, "{detail}");
        }
    }

    #[test]
    fn the_place_is_that_of_what_is_named_first() {
        for (detail, place) in [
            (
                "there is no column `dealy`; there are flights.delay",
                Some((4, 8)),
            ),
            (
                "`sum(dealy)` cannot be part of a view: it is cursed",
                Some((4, 3)),
            ),
            // Only the remedy stands there.
            ("there is no function `cnt`: did you mean `count`?", None),
            ("`origin` is too far away", Some((3, 3))),
            ("there is no column `total`", Some((7, 18))),
            ("`` is nothing", None),
            ("too many groups", None),
        ] {
            let found = place_of(VIEW, detail).map(|at| (at.line, at.column));
            assert_eq!(found, place, "{detail}");
        }
    }

    #[test]
    fn a_problem_that_says_where_it_lies_keeps_its_place() {
        let place = |problem| {
            let problem = problem_with(VIEW, problem);
            let member = |name| {
                problem
                    .members
                    .get(name)
                    .and_then(serde_json::Value::as_u64)
            };
            (member("line"), member("column"))
        };
        let invalid = Problem::invalid("there is no column `dealy`");
        assert_eq!(place(invalid.clone()), (Some(4), Some(8)));
        assert_eq!(place(invalid.clone().with("line", 2)), (Some(2), None));
        assert_eq!(place(invalid.with("parameter", "q")), (None, None));
        assert_eq!(place(Problem::conflict("`dealy` is late")), (None, None));
    }
}
