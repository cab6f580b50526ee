// SPDX-License-Identifier: Apache-2.0
//! SQL text as statements of tokens that know where they stand.

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};
use dovetail_model::Problem;

/// A problem with the text at `location`.
pub(crate) fn problem_at(location: Location, message: impl AsRef<str>) -> Problem {
    let Location { line, column } = location;
    let detail = format!("line {line}, column {column}: {}", message.as_ref());
    Problem::invalid(detail)
        .with("line", line)
        .with("column", column)
}

/// SQL text cut into statements.
pub(super) struct Source<'a> {
    text: &'a str,
    line_starts: Vec<usize>,
    statements: Vec<Vec<TokenWithSpan>>,
}

impl<'a> Source<'a> {
    /// Cuts `text` at its semicolons. Comments and empty statements are left out.
    ///
    /// # Errors
    /// `Invalid` for text that has no tokens, such as a string without an end.
    pub(super) fn new(text: &'a str) -> Result<Self, Problem> {
        let tokens = Tokenizer::new(&GenericDialect {}, text)
            .tokenize_with_location()
            .map_err(|e| problem_at(e.location, e.message.to_lowercase()))?;
        let mut statements = vec![Vec::new()];
        for token in tokens {
            match &token.token {
                Token::Whitespace(_) | Token::EOF => {}
                Token::SemiColon => statements.push(Vec::new()),
                _ => {
                    if let Some(statement) = statements.last_mut() {
                        statement.push(token);
                    }
                }
            }
        }
        statements.retain(|tokens| !tokens.is_empty());
        let line_starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Ok(Self {
            text,
            line_starts,
            statements,
        })
    }

    /// The statements, each with at least one token.
    pub(super) fn statements(&self) -> impl Iterator<Item = Tokens<'_>> {
        self.statements.iter().map(|tokens| Tokens {
            source: self,
            tokens,
            at: 0,
            half_closed: false,
        })
    }

    /// Byte offset of a location: lines and columns count from 1, columns in characters.
    fn offset(&self, location: Location) -> usize {
        let line = usize::try_from(location.line).unwrap_or(1).max(1) - 1;
        let start = self
            .line_starts
            .get(line)
            .copied()
            .unwrap_or(self.text.len());
        let column = usize::try_from(location.column).unwrap_or(1).max(1) - 1;
        self.text[start..]
            .char_indices()
            .nth(column)
            .map_or(self.text.len(), |(at, _)| start + at)
    }
}

/// The tokens of one statement, read from the front.
pub(super) struct Tokens<'a> {
    source: &'a Source<'a>,
    tokens: &'a [TokenWithSpan],
    at: usize,
    /// Whether one half of a `>>` is read, which closes two nested types.
    half_closed: bool,
}

impl<'a> Tokens<'a> {
    /// The text from the next token to the end of the statement.
    pub(super) fn rest_text(&self) -> &'a str {
        let (Some(first), Some(last)) = (self.tokens.get(self.at), self.tokens.last()) else {
            return "";
        };
        let from = self.source.offset(first.span.start);
        let to = self.source.offset(last.span.end);
        self.source.text.get(from..to).unwrap_or_default()
    }

    /// The tokens from the next one to the end of the statement.
    pub(super) fn rest(&self) -> &'a [TokenWithSpan] {
        self.tokens.get(self.at..).unwrap_or_default()
    }

    /// Where the next token stands, or where the statement ends.
    pub(super) fn location(&self) -> Location {
        match (self.tokens.get(self.at), self.tokens.last()) {
            (Some(token), _) => token.span.start,
            (None, Some(last)) => last.span.end,
            (None, None) => Location::new(1, 1),
        }
    }

    /// The problem that `expected` should stand here.
    pub(super) fn expected(&self, expected: &str) -> Problem {
        let found = match self.tokens.get(self.at) {
            Some(token) => format!("`{}`", token.token),
            None => "the end".to_owned(),
        };
        self.problem(format!("expected {expected}, found {found}"))
    }

    /// A problem at the next token.
    pub(super) fn problem(&self, message: impl AsRef<str>) -> Problem {
        problem_at(self.location(), message)
    }

    pub(super) fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at).map(|t| &t.token)
    }

    pub(super) fn advance(&mut self) {
        self.at += 1;
        self.half_closed = false;
    }

    /// The next token as an unquoted word in upper case.
    pub(super) fn peek_word(&self) -> Option<String> {
        self.word_at(0)
    }

    /// The unquoted word `ahead` tokens on, in upper case.
    pub(super) fn word_at(&self, ahead: usize) -> Option<String> {
        match self.tokens.get(self.at + ahead).map(|t| &t.token) {
            Some(Token::Word(word)) if word.quote_style.is_none() => {
                Some(word.value.to_uppercase())
            }
            _ => None,
        }
    }

    /// Reads `words` if all of them stand here.
    pub(super) fn eat_words(&mut self, words: &[&str]) -> bool {
        let here = words
            .iter()
            .enumerate()
            .all(|(ahead, word)| self.word_at(ahead).as_deref() == Some(*word));
        if here {
            self.at += words.len();
        }
        here
    }

    /// Reads `words`.
    pub(super) fn expect_words(&mut self, words: &[&str]) -> Result<(), Problem> {
        if self.eat_words(words) {
            Ok(())
        } else {
            Err(self.expected(&format!("`{}`", words.join(" "))))
        }
    }

    /// Reads `token` if it stands here.
    pub(super) fn eat(&mut self, token: &Token) -> bool {
        let here = self.peek() == Some(token);
        if here {
            self.advance();
        }
        here
    }

    /// Reads `token`.
    pub(super) fn expect(&mut self, token: &Token) -> Result<(), Problem> {
        if self.eat(token) {
            Ok(())
        } else {
            Err(self.expected(&format!("`{token}`")))
        }
    }

    /// Reads the `>` that closes a nested type; `>>` closes two.
    pub(super) fn expect_close(&mut self) -> Result<(), Problem> {
        match self.peek() {
            Some(Token::Gt) => self.advance(),
            Some(Token::ShiftRight) if self.half_closed => self.advance(),
            Some(Token::ShiftRight) => self.half_closed = true,
            _ => return Err(self.expected("`>`")),
        }
        Ok(())
    }

    /// Nothing may follow.
    pub(super) fn expect_end(&self) -> Result<(), Problem> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.expected("the end of the statement")),
        }
    }
}
