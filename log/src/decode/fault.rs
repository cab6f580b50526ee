// SPDX-License-Identifier: Apache-2.0
//! Why one event cannot be decoded: cheap to make, put into words only when someone reads it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use dovetail_model::{ColumnType, calendar_years};

/// Why a field that is not declared is refused.
pub(super) const UNKNOWN: &str =
    "the stream has no such column and refuses unknown ones; leave it out, or add it to the stream";

/// Most characters of an offending value that a message quotes.
const EXCERPT_CHARS: usize = 60;

/// The type that a value was to have, without its nested parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Boolean,
    Int,
    BigInt,
    Double,
    Decimal(u8, i8),
    Varchar,
    Date,
    Timestamp,
    Struct,
    List,
}

impl Kind {
    pub(super) fn of(column_type: &ColumnType) -> Self {
        match column_type {
            ColumnType::Boolean => Self::Boolean,
            ColumnType::Int => Self::Int,
            ColumnType::BigInt => Self::BigInt,
            ColumnType::Double => Self::Double,
            ColumnType::Decimal(precision, scale) => Self::Decimal(*precision, *scale),
            ColumnType::Varchar => Self::Varchar,
            ColumnType::Date => Self::Date,
            ColumnType::Timestamp => Self::Timestamp,
            ColumnType::Struct(_) => Self::Struct,
            ColumnType::List(_) => Self::List,
        }
    }

    pub(super) fn article(self) -> &'static str {
        if self == Self::Int { "an" } else { "a" }
    }

    /// What to write instead of `text`, where that is not plain.
    fn hint(self, text: &[u8]) -> &'static str {
        let quoted = text.first() == Some(&b'"');
        let number = text
            .first()
            .is_some_and(|b| b.is_ascii_digit() || *b == b'-');
        match self {
            Self::Int | Self::BigInt | Self::Double | Self::Boolean if quoted => {
                "; write it without quotes"
            }
            Self::Boolean => "; write true or false",
            Self::Decimal(..) => "; write it as 12.50",
            Self::Varchar if number => "; write it in quotes",
            Self::Date => "; write it as 2001-12-31",
            // The last second of some days in UTC: no clock of a computer has it.
            Self::Timestamp if text.windows(6).any(|part| part == b":59:60") => {
                "; it has no leap seconds, so write 59 there"
            }
            Self::Timestamp if number && !text.contains(&b':') => {
                "; write it as 2001-12-31T23:59:59, or declare an event_time_unit for numbers"
            }
            Self::Timestamp => "; write it as 2001-12-31T23:59:59",
            _ => "",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean => f.write_str("BOOLEAN"),
            Self::Int => f.write_str("INT"),
            Self::BigInt => f.write_str("BIGINT"),
            Self::Double => f.write_str("DOUBLE"),
            Self::Decimal(precision, scale) => write!(f, "DECIMAL({precision}, {scale})"),
            Self::Varchar => f.write_str("VARCHAR"),
            Self::Date => f.write_str("DATE"),
            Self::Timestamp => f.write_str("TIMESTAMP"),
            Self::Struct => f.write_str("STRUCT"),
            Self::List => f.write_str("LIST"),
        }
    }
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// The text is not what the format allows here: what was expected.
    Expected(&'static str),
    /// A token of the format is malformed: how.
    Malformed(&'static str),
    /// The value is not of the type.
    NotA(Kind),
    /// The value is of the type's sort, but too large or too small.
    OutOfRange(Kind),
    /// The value has more digits than the type holds.
    Inexact(Kind),
    /// A `NOT NULL` column has no value.
    Missing,
    /// A `NOT NULL` column is null.
    Null,
    /// A `NOT NULL` column has an empty CSV value.
    Empty(Kind),
    /// A field comes twice in one object.
    Twice,
    /// A field that is not declared, where those are refused.
    Unknown,
    /// Nested deeper than any declared type.
    TooDeep,
    /// The bytes are not text.
    NotUtf8,
    /// What was said at once, as the value has no text to quote.
    Worded,
    /// A CSV record has another number of values than the header.
    Ragged { found: usize, expected: usize },
    /// No fault of the event: the body decodes to more than fits. Ends the whole decode.
    OverBudget,
}

/// One fault, with where it is in the text that was being decoded.
#[derive(Debug)]
pub(super) struct Fault {
    what: What,
    /// The offending bytes; empty where something is missing.
    at: Range<usize>,
    /// Names from the inside out.
    path: Vec<Arc<str>>,
    /// The reason in words, where it had to be said at once.
    said: Option<String>,
}

/// A fault in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Described {
    /// The column, or the path of the field.
    pub(super) column: Option<String>,
    pub(super) reason: String,
}

/// Boxed: the good path hands a pointer around.
pub(super) type Outcome<T> = Result<T, Box<Fault>>;

/// A failed outcome.
#[cold]
pub(super) fn fault<T>(what: What, at: Range<usize>) -> Outcome<T> {
    Err(Fault::new(what, at))
}

/// A failed outcome of a value that has no text to quote: the reason in words.
#[cold]
pub(super) fn worded<T>(reason: String) -> Outcome<T> {
    let mut fault = Fault::new(What::Worded, 0..0);
    fault.said = Some(reason);
    Err(fault)
}

impl Fault {
    #[cold]
    pub(super) fn new(what: What, at: Range<usize>) -> Box<Self> {
        Box::new(Self {
            what,
            at,
            path: Vec::new(),
            said: None,
        })
    }

    /// The same fault, seen from the object or column that holds it.
    #[cold]
    pub(super) fn under(mut self: Box<Self>, name: &Arc<str>) -> Box<Self> {
        self.path.push(Arc::clone(name));
        self
    }

    /// The same fault put into words now, out of `text`, because what holds `text` at `at` is not it as it
    /// stands: JSON in a CSV value has its quotes doubled.
    #[cold]
    pub(super) fn said(mut self: Box<Self>, text: &[u8], at: Range<usize>) -> Box<Self> {
        self.said = Some(self.describe(text).reason);
        self.at = at;
        self
    }

    pub(super) fn what(&self) -> What {
        self.what
    }

    /// Where the offending bytes start.
    pub(super) fn position(&self) -> usize {
        self.at.start
    }

    /// In words, with the value out of `text`, in which the fault was found.
    pub(super) fn describe(&self, text: &[u8]) -> Described {
        if let Some(reason) = &self.said {
            return Described {
                column: self.column(),
                reason: reason.clone(),
            };
        }
        let bytes = text.get(self.at.clone()).unwrap_or_default();
        let value = excerpt(bytes);
        let reason = match self.what {
            What::Expected(expected) if bytes.is_empty() => {
                format!("cut off where {expected} was expected")
            }
            What::Expected(expected) => format!("expected {expected}, found `{value}`"),
            What::Malformed(how) => format!("`{value}` {how}"),
            What::NotA(kind) => {
                format!(
                    "`{value}` is not {} {kind}{}",
                    kind.article(),
                    kind.hint(bytes)
                )
            }
            What::OutOfRange(kind) => out_of_range(&value, kind),
            What::Inexact(Kind::Timestamp) => {
                format!("`{value}` is finer than the microseconds of a TIMESTAMP")
            }
            What::Inexact(kind) => format!("`{value}` has more digits than {kind} holds"),
            What::Missing => "it is NOT NULL, but the event has no value for it".to_owned(),
            What::Null => "it is NOT NULL, but the value is null".to_owned(),
            What::Empty(Kind::Varchar) => {
                "it is NOT NULL, but the value is empty; write `\"\"` for an empty text".to_owned()
            }
            What::Empty(_) => "it is NOT NULL, but the value is empty".to_owned(),
            What::Twice => "the field is there twice".to_owned(),
            What::Unknown => UNKNOWN.to_owned(),
            What::TooDeep => "it is nested too deep".to_owned(),
            What::NotUtf8 => format!("it is not valid UTF-8, from byte {} on", self.at.start + 1),
            What::Ragged { found, expected } => {
                format!("the record has {found} values, the header names {expected}")
            }
            // Said at once, above.
            What::Worded => String::new(),
            What::OverBudget => "it decodes to more than fits".to_owned(),
        };
        Described {
            column: self.column(),
            reason,
        }
    }

    fn column(&self) -> Option<String> {
        let mut names = self.path.iter().rev();
        let mut path = names.next()?.to_string();
        for name in names {
            // A list's item is written behind its list: `stops[].name`.
            if &**name != "[]" {
                path.push('.');
            }
            path.push_str(name);
        }
        Some(path)
    }
}

/// A value that is too large or too small, in words.
pub(super) fn out_of_range(value: &impl fmt::Display, kind: Kind) -> String {
    let said = format!("`{value}` is out of range for {kind}");
    if !matches!(kind, Kind::Date | Kind::Timestamp) {
        return said;
    }
    let (first, last) = calendar_years();
    format!("{said}: the calendar has the years {first} to {last}")
}

/// The start of `bytes` as text that is safe to print.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    // Four bytes are the longest character; two characters more tell whether it goes on.
    let head = &bytes[..bytes.len().min(4 * (EXCERPT_CHARS + 2))];
    let text = String::from_utf8_lossy(head);
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == EXCERPT_CHARS {
            out.push('…');
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}
