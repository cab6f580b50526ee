// SPDX-License-Identifier: Apache-2.0
//! Where one SQL statement ends and the next begins: at a `;` outside quotes and comments.

/// What the text read so far stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Plain,
    /// Within `'…'` or `"…"`; a doubled quote leaves and enters again, which comes to the same.
    Quoted(u8),
    LineComment,
    /// Within `/* … */`, which nest.
    BlockComment(usize),
}

/// Collects text and gives its statements, one by one.
#[derive(Debug)]
pub(super) struct Statements {
    text: String,
    scanned: usize,
    state: State,
    /// Whether what was scanned since the last `;` holds anything but blanks and comments.
    has_words: bool,
}

impl Statements {
    /// No text yet.
    pub(super) fn new() -> Self {
        Self {
            text: String::new(),
            scanned: 0,
            state: State::Plain,
            has_words: false,
        }
    }

    /// Adds text.
    pub(super) fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Whether nothing but blanks waits for its `;`.
    pub(super) fn is_empty(&self) -> bool {
        self.text.trim().is_empty()
    }

    /// Forgets what waits.
    pub(super) fn clear(&mut self) {
        *self = Self::new();
    }

    /// The next statement that has its `;`, without it.
    pub(super) fn next_complete(&mut self) -> Option<String> {
        loop {
            let end = self.scan()?;
            let statement = self.text[..end].to_owned();
            self.text.drain(..=end);
            self.scanned = 0;
            if std::mem::take(&mut self.has_words) {
                return Some(statement.trim().to_owned());
            }
        }
    }

    /// What is left when the text ends, if it is a statement.
    pub(super) fn rest(self) -> Option<String> {
        // What the scan has left is half a pair that stayed half: a word after all.
        let half = self.state == State::Plain && !self.text[self.scanned..].trim().is_empty();
        let has_words = self.has_words || half;
        has_words.then(|| self.text.trim().to_owned())
    }

    /// Index of the next `;` that ends a statement. All bytes that matter are ASCII, so no character is cut.
    fn scan(&mut self) -> Option<usize> {
        let bytes = self.text.as_bytes();
        let mut index = self.scanned;
        while index < bytes.len() {
            let pair = bytes.get(index..index + 2);
            let mut step = 1;
            match (self.state, bytes[index]) {
                (State::Plain, b';') => {
                    self.scanned = index;
                    return Some(index);
                }
                (State::Plain, quote @ (b'\'' | b'"')) => {
                    self.state = State::Quoted(quote);
                    self.has_words = true;
                }
                (State::Quoted(quote), byte) if byte == quote => self.state = State::Plain,
                (State::LineComment, b'\n') => self.state = State::Plain,
                // Half a pair at the end of the text: the other half may still come.
                (State::Plain, b'-' | b'/') | (State::BlockComment(_), b'/' | b'*')
                    if pair.is_none() =>
                {
                    break;
                }
                (State::Plain, _) if pair == Some(b"--") => {
                    self.state = State::LineComment;
                    step = 2;
                }
                (State::Plain, _) if pair == Some(b"/*") => {
                    self.state = State::BlockComment(1);
                    step = 2;
                }
                (State::BlockComment(depth), _) if pair == Some(b"/*") => {
                    self.state = State::BlockComment(depth + 1);
                    step = 2;
                }
                (State::BlockComment(depth), _) if pair == Some(b"*/") => {
                    self.state = match depth {
                        1 => State::Plain,
                        depth => State::BlockComment(depth - 1),
                    };
                    step = 2;
                }
                (State::Plain, byte) => self.has_words |= !byte.is_ascii_whitespace(),
                _ => {}
            }
            index += step;
        }
        self.scanned = index;
        None
    }
}

/// The statements of a text; the last one needs no `;`.
pub(super) fn split(text: &str) -> Vec<String> {
    let mut statements = Statements::new();
    statements.push(text);
    let mut all: Vec<String> = std::iter::from_fn(|| statements.next_complete()).collect();
    all.extend(statements.rest());
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quotes_and_comments_hide_semicolons() {
        let text =
            "SELECT ';', \"a;b\" -- c;\n FROM t; /* d; /* e; */ ; */ SELECT 'it''s;';;\n-- end";
        assert_eq!(
            split(text),
            [
                "SELECT ';', \"a;b\" -- c;\n FROM t",
                "/* d; /* e; */ ; */ SELECT 'it''s;'"
            ]
        );
    }

    #[test]
    fn the_last_statement_needs_no_semicolon_and_comments_are_none() {
        assert_eq!(split("SELECT 1;\nSELECT 2\n"), ["SELECT 1", "SELECT 2"]);
        for nothing in ["", " ;; ", "-- a", "/* a */ ;", "--\n/**/"] {
            assert_eq!(split(nothing), Vec::<String>::new(), "{nothing:?}");
        }
        assert_eq!(split("SELECT 1 - 2 / 3"), ["SELECT 1 - 2 / 3"]);
        assert_eq!(split("-"), ["-"]);
        assert_eq!(split("/* open *"), Vec::<String>::new());
    }

    #[test]
    fn lines_are_put_together_until_the_semicolon() {
        let mut statements = Statements::new();
        statements.push("SELECT '\n");
        assert_eq!(statements.next_complete(), None);
        statements.push(";' -");
        assert_eq!(statements.next_complete(), None);
        statements.push("- x;\n, 1; SELECT");
        assert_eq!(
            statements.next_complete().as_deref(),
            Some("SELECT '\n;' -- x;\n, 1")
        );
        assert_eq!(statements.next_complete(), None);
        assert!(!statements.is_empty());
        assert_eq!(statements.rest().as_deref(), Some("SELECT"));
    }

    proptest! {
        /// However the text comes in, it has the same statements, and they are pieces of it.
        #[test]
        fn pieces_do_not_matter(text in "[a;'\"\\-/*\n ü]{0,40}", at in 0usize..40) {
            let whole = split(&text);
            let at = text.char_indices().map(|(i, _)| i).nth(at).unwrap_or(text.len());
            let mut statements = Statements::new();
            let mut all = Vec::new();
            for piece in [&text[..at], &text[at..]] {
                statements.push(piece);
                all.extend(std::iter::from_fn(|| statements.next_complete()));
            }
            all.extend(statements.rest());
            prop_assert_eq!(&all, &whole);
            let mut rest = text.as_str();
            for statement in &whole {
                let start = rest.find(statement.as_str());
                prop_assert!(start.is_some());
                rest = &rest[start.unwrap() + statement.len()..];
            }
        }
    }
}
