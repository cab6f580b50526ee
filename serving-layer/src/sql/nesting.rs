// SPDX-License-Identifier: Apache-2.0
//! How deep a statement nests, seen before it is parsed.
//!
//! The parser limits the recursion of parentheses, but reads `1 + 1 + …`, `a OR b OR …`, casts, joins and
//! unions in a loop, and the tree it makes is as deep as the chain is long. Planning such a tree, or only
//! dropping it, recurses: 400 kB of `+1` overflow the stack, and that ends the process with everything in it.
//!
//! ```text
//! depth = sum over the open parentheses of the links chained in each since its last comma
//! ```
//! which is never less than the depth of the tree. Lists, `IN (…)` among them, cost nothing.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use dovetail_model::Problem;

use super::source::problem_at;

/// Stack that threads need which plan or run statements that passed [`parse`](super::parse). DataFusion 55
/// takes up to 4 MiB for the deepest of them in a debug build, twice what tokio gives its threads.
pub const PLANNING_STACK_BYTES: usize = 8 * 1024 * 1024;
/// Deepest chain of operators in a query; in statements that people write it is rarely 50.
pub(super) const MAX_DEPTH: usize = 500;
/// The same for what is kept: views and predicates are planned and evaluated on the threads of every layer,
/// at each start again, and must fit the 2 MiB that a thread has by default.
pub(super) const MAX_KEPT_DEPTH: usize = 150;
/// What a join, a union or another table counts, in operators: about what planning one takes of the stack.
const RELATION: usize = 8;

/// One level of parentheses.
#[derive(Default)]
struct Level {
    links: usize,
    /// Whether a comma joins tables here, as it does behind FROM.
    in_from: bool,
}

/// The levels that are open. Their links are also kept as a sum, so that a check takes one pass.
struct Depth {
    outer: Vec<Level>,
    innermost: Level,
    links: usize,
}

impl Depth {
    fn add(&mut self, links: usize) {
        self.innermost.links += links;
        self.links += links;
    }

    fn open(&mut self) {
        self.outer.push(std::mem::take(&mut self.innermost));
        self.add(1);
    }

    /// What is closed is still one link of the chain around it: `f(a)[1](b)`.
    fn close(&mut self) {
        self.restart();
        // A closing parenthesis too many is for the parser to name.
        self.innermost = self.outer.pop().unwrap_or_default();
        self.add(1);
    }

    fn restart(&mut self) {
        self.links -= self.innermost.links;
        self.innermost.links = 0;
    }
}

/// Refuses tokens that nest deeper than can be planned safely.
///
/// # Errors
/// `Invalid` where the limit is passed.
pub(super) fn check(tokens: &[TokenWithSpan], max_depth: usize) -> Result<(), Problem> {
    let mut depth = Depth {
        outer: Vec::new(),
        innermost: Level::default(),
        links: 0,
    };
    for token in tokens {
        match &token.token {
            Token::LParen | Token::LBracket | Token::LBrace => depth.open(),
            Token::RParen | Token::RBracket | Token::RBrace => depth.close(),
            Token::Comma if depth.innermost.in_from => depth.add(RELATION),
            Token::Comma => depth.restart(),
            Token::Word(word) if word.quote_style.is_none() => {
                let links = keyword(&mut depth.innermost, &word.value);
                depth.add(links);
            }
            Token::Word(_)
            | Token::Number(_, _)
            | Token::SingleQuotedString(_)
            | Token::Placeholder(_) => {}
            _ => depth.add(1),
        }
        if depth.links > max_depth {
            let message = format!(
                "the statement chains more than {max_depth} operators into one expression (a join or union counts as {RELATION}): write `x IN (…)` for long alternatives, or ask in parts"
            );
            return Err(problem_at(token.span.start, message));
        }
    }
    Ok(())
}

/// What an unquoted word adds to the chain; FROM and what ends it change what a comma means.
fn keyword(level: &mut Level, word: &str) -> usize {
    match word.to_ascii_uppercase().as_str() {
        "FROM" => {
            level.in_from = true;
            0
        }
        "SELECT" | "WHERE" | "GROUP" | "HAVING" | "ORDER" | "WINDOW" | "QUALIFY" | "LIMIT" => {
            level.in_from = false;
            0
        }
        "UNION" | "EXCEPT" | "INTERSECT" | "MINUS" => {
            level.in_from = false;
            RELATION
        }
        "JOIN" | "APPLY" => RELATION,
        "AND" | "OR" | "XOR" | "NOT" | "IS" | "IN" | "LIKE" | "ILIKE" | "RLIKE" | "REGEXP"
        | "SIMILAR" | "BETWEEN" | "DIV" | "MOD" | "AT" | "COLLATE" | "OVERLAPS" | "ISNULL"
        | "NOTNULL" | "ANY" | "ALL" | "SOME" | "CASE" | "WHEN" | "ELSE" | "INTERVAL" | "EXISTS" => {
            1
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::PLANNING_STACK_BYTES;
    use crate::sql::{check_predicate, parse};

    /// Chains that a stack of the size of tokio's would not survive, and that are refused.
    #[test]
    fn no_chain_is_too_long_to_drop() {
        let chains: [(&str, &str, &str); 12] = [
            ("SELECT 1", "+1", ""),
            ("SELECT x", "||x", " FROM t"),
            ("SELECT 1 FROM t WHERE x=1", " OR x=2", ""),
            ("SELECT 1 FROM t WHERE x IN (1)", " OR x IN (1, 2)", ""),
            ("SELECT 1", " UNION ALL SELECT 1", ""),
            ("SELECT x", "::int", " FROM t"),
            ("SELECT x", " IS NULL", " FROM t"),
            ("SELECT x", "[1]", " FROM t"),
            ("SELECT x", " AT TIME ZONE 'UTC'", " FROM t"),
            ("SELECT 1 FROM t", " CROSS JOIN t", ""),
            ("SELECT 1 FROM t", ", t", ""),
            ("SELECT x", ".y", " FROM t"),
        ];
        for (head, link, tail) in chains {
            let sql = |links: usize| format!("{head}{}{tail}", link.repeat(links));
            let result = parse(&sql(30));
            assert!(result.is_ok(), "{head}{link}: {result:?}");
            let problem = parse(&sql(10_000)).expect_err(link);
            assert!(
                problem.detail.contains("write `x IN (…)`"),
                "{link}: {problem}"
            );
            let view = parse(&format!("CREATE VIEW v AS {}", sql(200)));
            assert!(
                view.unwrap_err().detail.contains("more than 150 operators"),
                "{link}"
            );
        }
        // Each level is within the limit, all together are not.
        let level = format!("{}(", "1+".repeat(40));
        let nested = format!("SELECT {}1{}", level.repeat(40), ")".repeat(40));
        assert!(
            parse(&nested)
                .unwrap_err()
                .detail
                .contains("chains more than 500")
        );
    }

    /// The longest chains that pass are planned and run on the stack that we ask for.
    #[test]
    fn what_passes_can_be_planned() {
        let joins: String = (0..49)
            .map(|n| format!(" CROSS JOIN (SELECT 1 AS x) t{n}"))
            .collect();
        let statements = [
            format!("SELECT x{} FROM (SELECT 1 AS x)", "::int".repeat(490)),
            format!(
                "SELECT 1 FROM (SELECT 1 AS x) WHERE x=1{}",
                " OR x=2".repeat(240)
            ),
            format!("SELECT 1 FROM (SELECT 1 AS x) t{joins}"),
            format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(54)),
        ];
        for sql in statements {
            parse(&sql).unwrap();
            let run = async move {
                let frame = SessionContext::new().sql(&sql).await.unwrap();
                frame.collect().await.unwrap();
            };
            let runtime = || {
                tokio::runtime::Builder::new_current_thread()
                    .build()
                    .unwrap()
            };
            std::thread::Builder::new()
                .stack_size(PLANNING_STACK_BYTES)
                .spawn(move || runtime().block_on(run))
                .unwrap()
                .join()
                .unwrap();
        }
    }

    #[test]
    fn a_predicate_is_one_shallow_expression() {
        assert_eq!(
            check_predicate("x = 1 AND y IN (1, 2) OR z LIKE '%;%'"),
            Ok(())
        );
        for (sql, part) in [
            (" -- nothing", "the predicate is empty"),
            ("x = 1; y = 2", "one expression, without `;`"),
            ("x = 'a", "unterminated"),
            (&format!("x{}", "+1".repeat(200)), "more than 150 operators"),
        ] {
            let problem = check_predicate(sql).unwrap_err();
            assert!(problem.detail.contains(part), "{problem}");
        }
    }

    #[test]
    fn lists_cost_nothing() {
        let many = vec!["12"; 50_000].join(", ");
        assert!(parse(&format!("SELECT * FROM t WHERE x IN ({many})")).is_ok());
        let columns = vec!["sum(a + b * c)"; 2_000].join(", ");
        assert!(parse(&format!("SELECT {columns} FROM t GROUP BY {columns}")).is_ok());
        assert!(parse("SELECT 1) + 2)").is_err(), "unbalanced");
    }
}
