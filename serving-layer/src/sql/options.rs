// SPDX-License-Identifier: Apache-2.0
//! `WITH (…)`: options of streams and views, schedules among them.

use croner::parser::{CronParser, Seconds, Year};
use datafusion::sql::sqlparser::tokenizer::{Location, Token};
use dovetail_model::Problem;

use super::source::{Tokens, problem_at};

/// One option as written.
pub(super) struct OptionValue {
    key: String,
    value: Value,
    location: Location,
}

enum Value {
    Text(String),
    Null,
    Other(String),
}

impl OptionValue {
    /// Its name.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// A problem with the option.
    pub(super) fn problem(&self, message: impl AsRef<str>) -> Problem {
        problem_at(self.location, message).with("option", self.key.as_str())
    }

    /// Whether it is the word NULL.
    pub(super) fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// Its value, a quoted text.
    pub(super) fn text(&self) -> Result<&str, Problem> {
        let found = match &self.value {
            Value::Text(text) => return Ok(text),
            Value::Null => "NULL",
            Value::Other(text) => text,
        };
        let key = &self.key;
        Err(self.problem(format!(
            "`{key}` is a text: write {key} = '…', not `{found}`"
        )))
    }

    /// Its value, a number or a quoted text.
    pub(super) fn number(&self) -> Result<&str, Problem> {
        match &self.value {
            Value::Text(text) | Value::Other(text) => Ok(text),
            Value::Null => self.text(),
        }
    }

    /// Its value, one of a few words.
    pub(super) fn one_of<T: Copy>(&self, known: &[(&str, T)]) -> Result<T, Problem> {
        let text = self.text()?;
        let value = known.iter().find(|(word, _)| *word == text);
        value.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<String> = known.iter().map(|(word, _)| format!("'{word}'")).collect();
            let known = words.join(", ");
            self.problem(format!(
                "`{}` cannot be '{text}': it is one of {known}",
                self.key
            ))
        })
    }
}

/// What a view may be told beside its SELECT.
pub(super) const VIEW_OPTIONS: [&str; 4] = [
    "recompute",
    "recompute_after_events",
    "recompute_after_bytes",
    "refresh",
];

/// The options of one statement.
pub(super) struct Options(Vec<OptionValue>);

impl Options {
    /// `WITH (key = value, …)`, or nothing.
    pub(super) fn parse(tokens: &mut Tokens<'_>, known: &[&str]) -> Result<Self, Problem> {
        if tokens.eat_words(&["WITH"]) {
            Self::parse_list(tokens, known)
        } else {
            Ok(Self(Vec::new()))
        }
    }

    /// `(key = value, …)`
    pub(super) fn parse_list(tokens: &mut Tokens<'_>, known: &[&str]) -> Result<Self, Problem> {
        tokens.expect(&Token::LParen)?;
        let mut options: Vec<OptionValue> = Vec::new();
        loop {
            let option = option(tokens)?;
            if !known.contains(&option.key.as_str()) {
                let known = known.join(", ");
                let message = format!("there is no option `{}`; there are {known}", option.key);
                return Err(option.problem(message));
            }
            if options.iter().any(|o| o.key == option.key) {
                return Err(option.problem(format!("option `{}` is given twice", option.key)));
            }
            options.push(option);
            if tokens.eat(&Token::RParen) {
                return Ok(Self(options));
            }
            tokens.expect(&Token::Comma)?;
        }
    }

    /// The first that is left.
    pub(super) fn first(&self) -> Option<&OptionValue> {
        self.0.first()
    }

    /// Takes an option out.
    pub(super) fn take(&mut self, key: &str) -> Option<OptionValue> {
        let index = self.0.iter().position(|o| o.key == key)?;
        Some(self.0.swap_remove(index))
    }
}

fn option(tokens: &mut Tokens<'_>) -> Result<OptionValue, Problem> {
    let location = tokens.location();
    let key = match tokens.peek() {
        Some(Token::Word(word)) => word.value.to_lowercase(),
        Some(Token::SingleQuotedString(text)) => text.to_lowercase(),
        _ => return Err(tokens.expected("an option's name")),
    };
    tokens.advance();
    tokens.expect(&Token::Eq)?;
    let value = match tokens.peek() {
        Some(Token::SingleQuotedString(text)) => Value::Text(text.clone()),
        Some(Token::Word(word)) if word.value.eq_ignore_ascii_case("null") => Value::Null,
        Some(token @ (Token::Word(_) | Token::Number(_, _))) => Value::Other(token.to_string()),
        _ => return Err(tokens.expected("a value in single quotes")),
    };
    tokens.advance();
    Ok(OptionValue {
        key,
        value,
        location,
    })
}

/// A cron expression of five fields that comes due at some time.
pub(super) fn checked_cron(option: &OptionValue) -> Result<String, Problem> {
    let text = option.text()?;
    let fields: Vec<&str> = text.split_whitespace().collect();
    let refuse = |reason: String| {
        option.problem(format!(
            "`recompute` cannot be '{text}': {reason}; it is cron in UTC, minute hour day month weekday, such as '0 3 * * *'"
        ))
    };
    if fields.len() != 5 {
        return Err(refuse(format!("it has {} fields, not 5", fields.len())));
    }
    let cron = fields.join(" ");
    CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build()
        .parse(&cron)
        .map_err(|_| refuse("a field of it is out of bounds or no number".to_owned()))?
        .find_next_occurrence(&chrono::DateTime::UNIX_EPOCH, false)
        .map_err(|_| refuse("it never comes due".to_owned()))?;
    Ok(cron)
}

/// Longest interval of a schedule: a year.
const MAX_INTERVAL_S: u64 = 366 * 24 * 3600;
const INTERVAL_UNITS: [(u64, &[&str]); 4] = [
    (24 * 3600, &["day", "days", "d"]),
    (3600, &["hour", "hours", "h"]),
    (60, &["minute", "minutes", "min", "mins", "m"]),
    (1, &["second", "seconds", "sec", "secs", "s"]),
];

/// An interval such as `30s`, `5 minutes` or `1 hour 30 minutes`, in seconds.
pub(super) fn parse_interval(option: &OptionValue) -> Result<u64, Problem> {
    let text = option.text()?;
    seconds_of(text).ok_or_else(|| {
        option.problem(format!(
            "`refresh` cannot be '{text}': write an interval from 1 second to a year, such as '30s', '5 minutes' or '1 hour'"
        ))
    })
}

fn seconds_of(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut total = 0_u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let count: u64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = rest[..letters].to_ascii_lowercase();
        rest = rest[letters..].trim_start();
        let (seconds, _) = INTERVAL_UNITS
            .iter()
            .find(|(_, names)| names.contains(&unit.as_str()))?;
        total = total.checked_add(count.checked_mul(*seconds)?)?;
    }
    (1..=MAX_INTERVAL_S).contains(&total).then_some(total)
}

/// An interval in the largest unit that holds it whole: `5 minutes`, `90 seconds`.
pub fn render_interval(seconds: u64) -> String {
    let (unit, names) = INTERVAL_UNITS
        .iter()
        .find(|(unit, _)| seconds.is_multiple_of(*unit) && seconds > 0)
        .unwrap_or(&INTERVAL_UNITS[3]);
    let count = seconds / unit;
    format!("{count} {}", if count == 1 { names[0] } else { names[1] })
}
