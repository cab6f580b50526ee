// SPDX-License-Identifier: Apache-2.0
//! The elements of one JSON array. Follows strings and brackets, nothing else: whether an element is valid
//! JSON is the server's to say.

use super::{Cut, Scanner};

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the array's `[`.
    #[default]
    Outside,
    /// Between tokens of an element.
    Element,
    /// Within a string.
    Text,
    /// Behind a backslash in a string.
    Escape,
    /// Behind the array's `]`.
    Closed,
    /// Behind something after the array's `]`.
    Garbage,
}

/// The state of brackets and strings.
#[derive(Default)]
pub(super) struct JsonScanner {
    state: State,
    /// Brackets open within the element.
    depth: usize,
}

impl Scanner for JsonScanner {
    fn preamble(&mut self, bytes: &[u8]) -> Result<Option<Cut>, &'static str> {
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let skipped = bytes.len() - text.len();
        let Some(first) = text.iter().position(|b| !b.is_ascii_whitespace()) else {
            return Ok(None);
        };
        if text[first] != b'[' && !b"\xef\xbb\xbf".starts_with(bytes) {
            return Err("a JSON array starts with `[`; for one object a line use --format ndjson");
        }
        if text[first] != b'[' {
            return Ok(None);
        }
        self.state = State::Element;
        let end = skipped + first;
        Ok(Some(Cut {
            end,
            resume: end + 1,
        }))
    }

    fn next_cut(&mut self, bytes: &[u8]) -> Option<Cut> {
        for (index, byte) in bytes.iter().enumerate() {
            self.state = match (self.state, byte) {
                (State::Text, b'"') => State::Element,
                (State::Text, b'\\') => State::Escape,
                (State::Text | State::Escape, _) => State::Text,
                (State::Element, b'"') => State::Text,
                (State::Element, b'[' | b'{') => {
                    self.depth += 1;
                    State::Element
                }
                (State::Element, b']' | b'}') if self.depth > 0 => {
                    self.depth -= 1;
                    State::Element
                }
                (State::Element, b',' | b']') if self.depth == 0 => {
                    if *byte == b']' {
                        self.state = State::Closed;
                    }
                    return Some(Cut {
                        end: index,
                        resume: index + 1,
                    });
                }
                (State::Closed, byte) if !byte.is_ascii_whitespace() => State::Garbage,
                (state, _) => state,
            };
        }
        None
    }

    fn rest_is_record(&self) -> Result<bool, &'static str> {
        match self.state {
            State::Closed => Ok(false),
            State::Outside => Err("the input has no JSON array"),
            State::Garbage => Err("there is something behind the `]` of the JSON array"),
            State::Element | State::Text | State::Escape => {
                Err("the input ends before the `]` of the JSON array")
            }
        }
    }
}
