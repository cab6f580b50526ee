// SPDX-License-Identifier: Apache-2.0
//! `ALTER`, `DROP` and `UNDROP`.

use datafusion::sql::sqlparser::tokenizer::Token;
use dovetail_model::Problem;

use super::column::column;
use super::options::{Options, checked_cron, parse_interval};
use super::parse::{object_kind, object_name};
use super::source::Tokens;
use super::statement::{AlterStream, AlterView, Definition, ObjectKind};

/// `ALTER STREAM name ADD COLUMN …` or `ALTER VIEW name SET (…)`
pub(super) fn alter(tokens: &mut Tokens<'_>) -> Result<Definition, Problem> {
    tokens.expect_words(&["ALTER"])?;
    let definition = match object_kind(tokens)? {
        ObjectKind::Stream => Definition::AlterStream(alter_stream(tokens)?),
        ObjectKind::View => Definition::AlterView(alter_view(tokens)?),
    };
    tokens.expect_end()?;
    Ok(definition)
}

fn alter_stream(tokens: &mut Tokens<'_>) -> Result<AlterStream, Problem> {
    let name = object_name(tokens)?;
    let mut add = Vec::new();
    loop {
        if !tokens.eat_words(&["ADD"]) {
            return Err(tokens.expected(
                "`ADD COLUMN name type`: a stream's columns can only become more, as its events stay",
            ));
        }
        tokens.eat_words(&["COLUMN"]);
        let start = tokens.location();
        let column = column(tokens)?;
        if !column.nullable {
            let message = format!(
                "column `{}` cannot be NOT NULL: the events before it have no value for it",
                column.name
            );
            return Err(super::source::problem_at(start, message));
        }
        add.push(column);
        if !tokens.eat(&Token::Comma) {
            return Ok(AlterStream { name, add });
        }
    }
}

fn alter_view(tokens: &mut Tokens<'_>) -> Result<AlterView, Problem> {
    let name = object_name(tokens)?;
    if !tokens.eat_words(&["SET"]) {
        return Err(tokens
            .expected("`SET (option = value)`; for another SELECT use `CREATE OR REPLACE VIEW`"));
    }
    let mut options = Options::parse_list(tokens, &["recompute", "refresh"])?;
    let recompute = options
        .take("recompute")
        .map(|o| {
            if o.is_null() {
                Ok(None)
            } else {
                checked_cron(&o).map(Some)
            }
        })
        .transpose()?;
    let refresh_s = options
        .take("refresh")
        .map(|o| {
            if o.is_null() {
                Ok(None)
            } else {
                parse_interval(&o).map(Some)
            }
        })
        .transpose()?;
    Ok(AlterView {
        name,
        recompute,
        refresh_s,
    })
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
