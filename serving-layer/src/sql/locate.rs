// SPDX-License-Identifier: Apache-2.0
//! Where in a file of definitions a problem lies that only the planner has found.
//!
//! Purpose: the planner names what is wrong, not where; a file of long statements is searched by line. What the
//! problem names in backticks is looked for among the statement's tokens.
//! Invariants: a line is only named when all of what was named stands on it; else the statement's beginning is.
//! Non-goals: columns.

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};
use dovetail_model::Problem;

use crate::ports::LocatedDefinition;

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
    for named in named.filter_map(tokens).filter(|named| !named.is_empty()) {
        let occurrences = statement.windows(named.len()).filter(|window| {
            let pairs = window.iter().zip(&named);
            pairs.clone().all(|(a, b)| alike(&a.token, &b.token))
        });
        let mut lines: Vec<u64> = occurrences.map(|w| w[0].span.start.line).collect();
        lines.dedup();
        match lines.as_slice() {
            [] => {}
            [line] => return Some(*line),
            _ => return None,
        }
    }
    None
}

fn tokens(text: &str) -> Option<Vec<TokenWithSpan>> {
    let tokens = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location();
    let mut tokens = tokens.ok()?;
    tokens.retain(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF));
    Some(tokens)
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

    const VIEW: &str = "CREATE VIEW v AS\nSELECT\n  origin, -- of the flight\n  SUM( dealy )  AS total,\n  count(*) AS n\nFROM flights\nGROUP BY origin";

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
            // Here or there: no line is better than a wrong one.
            ("`origin` is too far away", None),
            ("too many groups", None),
            ("`it's` over", None),
        ] {
            assert_eq!(line_of(VIEW, detail), line, "{detail}");
        }
    }
}
