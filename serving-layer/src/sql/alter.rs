// SPDX-License-Identifier: Apache-2.0
//! `ALTER`, `DROP` and `UNDROP`.

use datafusion::sql::sqlparser::tokenizer::Token;
use dovetail_model::{Column, Problem};

use super::column::{column, column_name};
use super::options::{OptionValue, Options, VIEW_OPTIONS, checked_cron, parse_interval};
use super::parse::{object_kind, object_name};
use super::source::Tokens;
use super::statement::{AddColumn, AlterStream, AlterView, Definition, ObjectKind};
use super::volume::{parse_bytes, parse_events};

/// `ALTER STREAM name ADD COLUMN [IF NOT EXISTS] …, ALTER COLUMN … DROP NOT NULL`, `ALTER STREAM name SKIP HOLE` or
/// `ALTER VIEW name SET (…)`
pub(super) fn alter(tokens: &mut Tokens<'_>) -> Result<Definition, Problem> {
    tokens.expect_words(&["ALTER"])?;
    let definition = match object_kind(tokens)? {
        ObjectKind::Stream => alter_stream(tokens)?,
        ObjectKind::View => Definition::AlterView(alter_view(tokens)?),
    };
    tokens.expect_end()?;
    Ok(definition)
}

const ALONE: &str = "`SKIP HOLE` stands alone in its statement";

fn alter_stream(tokens: &mut Tokens<'_>) -> Result<Definition, Problem> {
    let name = object_name(tokens)?;
    if tokens.eat_words(&["SKIP", "HOLE"]) {
        return match tokens.peek() {
            Some(Token::Comma) => Err(tokens.problem(ALONE)),
            _ => Ok(Definition::SkipHole { name }),
        };
    }
    let mut alter = AlterStream {
        name,
        ..AlterStream::default()
    };
    loop {
        if tokens.eat_words(&["ADD"]) {
            tokens.eat_words(&["COLUMN"]);
            let if_not_exists = tokens.eat_words(&["IF", "NOT", "EXISTS"]);
            alter.add.push(AddColumn {
                column: added_column(tokens)?,
                if_not_exists,
            });
        } else if tokens.eat_words(&["ALTER"]) {
            tokens.eat_words(&["COLUMN"]);
            let name = column_name(tokens)?;
            if !tokens.eat_words(&["DROP", "NOT", "NULL"]) {
                return Err(tokens.expected(
                    "`DROP NOT NULL`: that is all that can change in a column that events have",
                ));
            }
            alter.drop_not_null.push(name);
        } else if tokens.peek_word().as_deref() == Some("SKIP")
            && tokens.word_at(1).as_deref() == Some("HOLE")
        {
            return Err(tokens.problem(ALONE));
        } else {
            return Err(tokens.expected(
                "`ADD COLUMN name type`, `ALTER COLUMN name DROP NOT NULL` or `SKIP HOLE`: a stream's columns can only become more, as its events stay",
            ));
        }
        if !tokens.eat(&Token::Comma) {
            return Ok(Definition::AlterStream(alter));
        }
    }
}

fn added_column(tokens: &mut Tokens<'_>) -> Result<Column, Problem> {
    let start = tokens.location();
    let column = column(tokens)?;
    if column.nullable {
        return Ok(column);
    }
    let message = format!(
        "column `{}` cannot be NOT NULL: the events before it have no value for it",
        column.name
    );
    Err(super::source::problem_at(start, message))
}

fn alter_view(tokens: &mut Tokens<'_>) -> Result<AlterView, Problem> {
    let name = object_name(tokens)?;
    if !tokens.eat_words(&["SET"]) {
        return Err(tokens
            .expected("`SET (option = value)`; for another SELECT use `CREATE OR REPLACE VIEW`"));
    }
    let mut options = Options::parse_list(tokens, &VIEW_OPTIONS)?;
    Ok(AlterView {
        name,
        recompute: altered(&mut options, "recompute", checked_cron)?,
        recompute_after_events: altered(&mut options, "recompute_after_events", parse_events)?,
        recompute_after_bytes: altered(&mut options, "recompute_after_bytes", parse_bytes)?,
        refresh_s: altered(&mut options, "refresh", parse_interval)?,
    })
}

/// What an option becomes, if it is named; NULL takes it away.
fn altered<T>(
    options: &mut Options,
    name: &str,
    read: impl Fn(&OptionValue) -> Result<T, Problem>,
) -> Result<Option<Option<T>>, Problem> {
    let option = options.take(name);
    let value = option.map(|option| match option.is_null() {
        true => Ok(None),
        false => read(&option).map(Some),
    });
    value.transpose()
}

/// `DROP STREAM | VIEW [IF EXISTS] name` or `UNDROP STREAM | VIEW name`
pub(super) fn drop(tokens: &mut Tokens<'_>) -> Result<Definition, Problem> {
    let undrop = tokens.eat_words(&["UNDROP"]);
    if !undrop {
        tokens.expect_words(&["DROP"])?;
    }
    let kind = object_kind(tokens)?;
    let if_exists = !undrop && tokens.eat_words(&["IF", "EXISTS"]);
    let name = object_name(tokens)?;
    match tokens.peek_word().as_deref() {
        Some("CASCADE") => {
            return Err(
                tokens.problem("nothing is dropped along: drop the views of a stream first")
            );
        }
        Some("RESTRICT") => tokens.advance(),
        _ => {}
    }
    tokens.expect_end()?;
    Ok(if undrop {
        Definition::Undrop { kind, name }
    } else {
        Definition::Drop {
            kind,
            name,
            if_exists,
        }
    })
}
