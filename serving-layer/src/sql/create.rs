// SPDX-License-Identifier: Apache-2.0
//! `CREATE STREAM` and `CREATE VIEW`.

use datafusion::sql::sqlparser::tokenizer::Token;
use dovetail_model::{
    EpochUnit, EventTime, MAX_COLUMNS, Problem, StreamSchema, UnknownColumns, VolumeTrigger,
};

use super::column::column;
use super::kafka_options;
use super::options::{Options, VIEW_OPTIONS, checked_cron, parse_interval};
use super::parse::{Purpose, check_query, object_kind, object_name};
use super::source::Tokens;
use super::statement::{CreateStream, CreateView, Definition, ObjectKind, ViewOptions};
use super::volume::{parse_bytes, parse_events};

/// `CREATE [OR REPLACE] STREAM | VIEW …`
pub(super) fn create(tokens: &mut Tokens<'_>) -> Result<Definition, Problem> {
    tokens.expect_words(&["CREATE"])?;
    let or_replace = tokens.eat_words(&["OR", "REPLACE"]);
    match object_kind(tokens)? {
        ObjectKind::Stream if or_replace => Err(tokens.problem(
            "a stream cannot be replaced: its events stay; use `CREATE STREAM IF NOT EXISTS` or `ALTER STREAM`",
        )),
        ObjectKind::Stream => create_stream(tokens).map(Definition::CreateStream),
        ObjectKind::View => create_view(tokens, or_replace).map(Definition::CreateView),
    }
}

fn create_stream(tokens: &mut Tokens<'_>) -> Result<CreateStream, Problem> {
    let if_not_exists = tokens.eat_words(&["IF", "NOT", "EXISTS"]);
    let name_at = tokens.location();
    let name = object_name(tokens)?;
    tokens.expect(&Token::LParen)?;
    let mut columns = Vec::new();
    loop {
        columns.push(column(tokens)?);
        // Many more are not even read.
        if columns.len() > MAX_COLUMNS {
            return Err(tokens.problem(format!(
                "a stream has at most {MAX_COLUMNS} columns: leave out what nothing reads, or keep groups of values as LIST"
            )));
        }
        if tokens.eat(&Token::RParen) {
            break;
        }
        if !tokens.eat(&Token::Comma) {
            return Err(tokens.expected("`NOT NULL`, `,` or `)` behind a column's type"));
        }
    }
    let known: Vec<&str> = ["event_time", "event_time_unit", "unknown_columns", "source"]
        .into_iter()
        .chain(kafka_options::KNOWN)
        .collect();
    let mut options = Options::parse(tokens, &known)?;
    tokens.expect_end()?;
    let unit = options.take("event_time_unit");
    let event_time = match (options.take("event_time"), unit) {
        (Some(column), unit) => Some(EventTime {
            column: column.text()?.to_owned(),
            epoch: unit.map(|u| u.one_of(&UNITS)).transpose()?,
        }),
        (None, Some(unit)) => {
            return Err(
                unit.problem("`event_time_unit` needs `event_time`, the column it speaks of")
            );
        }
        (None, None) => None,
    };
    let unknown_columns = options
        .take("unknown_columns")
        .map(|o| o.one_of(&UNKNOWN_COLUMNS))
        .transpose()?
        .unwrap_or_default();
    let schema = StreamSchema {
        columns,
        event_time,
        unknown_columns,
    };
    schema
        .check()
        .and_then(|()| schema.check_width())
        .map_err(|e| super::source::problem_at(name_at, format!("stream `{name}`: {e}")))?;
    let kafka = kafka_options::kafka_settings(&mut options, &schema)?.map(Box::new);
    Ok(CreateStream {
        name,
        if_not_exists,
        schema,
        kafka,
    })
}

/// Values of `event_time_unit`.
pub(super) const UNITS: [(&str, EpochUnit); 4] = [
    ("s", EpochUnit::Second),
    ("ms", EpochUnit::Millisecond),
    ("us", EpochUnit::Microsecond),
    ("ns", EpochUnit::Nanosecond),
];

/// Values of `unknown_columns`.
pub(super) const UNKNOWN_COLUMNS: [(&str, UnknownColumns); 2] = [
    ("ignore", UnknownColumns::Ignore),
    ("reject", UnknownColumns::Reject),
];

fn create_view(tokens: &mut Tokens<'_>, or_replace: bool) -> Result<CreateView, Problem> {
    if or_replace && tokens.word_at(0).as_deref() == Some("IF") {
        return Err(tokens.problem("OR REPLACE and IF NOT EXISTS contradict each other: keep one"));
    }
    let if_not_exists = tokens.eat_words(&["IF", "NOT", "EXISTS"]);
    let name = object_name(tokens)?;
    if tokens.peek() == Some(&Token::LParen) {
        return Err(tokens.problem("name the columns in the select list, with AS"));
    }
    let mut parsed = Options::parse(tokens, &VIEW_OPTIONS)?;
    let recompute = parsed
        .take("recompute")
        .map(|o| checked_cron(&o))
        .transpose()?;
    let recompute_after = VolumeTrigger {
        events: parsed
            .take("recompute_after_events")
            .map(|o| parse_events(&o))
            .transpose()?,
        bytes: parsed
            .take("recompute_after_bytes")
            .map(|o| parse_bytes(&o))
            .transpose()?,
    };
    let refresh_s = parsed
        .take("refresh")
        .map(|o| parse_interval(&o))
        .transpose()?;
    tokens.expect_words(&["AS"])?;
    if tokens.peek().is_none() {
        return Err(tokens.expected("a SELECT"));
    }
    check_query(tokens.rest(), tokens.location(), Purpose::Keep)?;
    Ok(CreateView {
        name,
        or_replace,
        if_not_exists,
        options: ViewOptions {
            recompute,
            recompute_after,
            refresh_s,
        },
        select: tokens.rest_text().to_owned(),
    })
}
