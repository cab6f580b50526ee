// SPDX-License-Identifier: Apache-2.0
//! The grammar of columns and their types.

use datafusion::sql::sqlparser::tokenizer::Token;
use dovetail_model::{Column, ColumnType, Problem};

use super::source::Tokens;

/// Deepest nesting that is read; the schema's own check is stricter.
const MAX_DEPTH: usize = 32;

/// `name type [NOT NULL | NULL]`
pub(super) fn column(tokens: &mut Tokens<'_>) -> Result<Column, Problem> {
    nested_column(tokens, 0)
}

fn nested_column(tokens: &mut Tokens<'_>, depth: usize) -> Result<Column, Problem> {
    let name = column_name(tokens)?;
    let column_type = column_type(tokens, depth)?;
    let nullable = if tokens.eat_words(&["NOT", "NULL"]) {
        false
    } else {
        tokens.eat_words(&["NULL"]);
        true
    };
    Ok(Column {
        name,
        column_type,
        nullable,
    })
}

/// A column's name as events spell it. Unquoted upper case is refused: SELECT would fold it to lower case
/// and events would not, so the column would silently stay empty.
pub(super) fn column_name(tokens: &mut Tokens<'_>) -> Result<String, Problem> {
    let Some(Token::Word(word)) = tokens.peek() else {
        return Err(tokens.expected("a column's name"));
    };
    let name = word.value.clone();
    if word.quote_style.is_none() {
        let lower = name.to_lowercase();
        if lower != name {
            return Err(tokens.problem(format!(
                "column `{name}` has upper case: write `{lower}`, or `\"{name}\"` if events spell it so"
            )));
        }
        let table_constraint = matches!(
            name.as_str(),
            "primary" | "unique" | "constraint" | "foreign" | "check"
        ) && matches!(
            tokens.word_at(1).as_deref(),
            Some("KEY") | Some("PRIMARY") | Some("UNIQUE")
        );
        if table_constraint {
            return Err(tokens.problem("a stream has no constraint but NOT NULL"));
        }
    }
    tokens.advance();
    Ok(name)
}

/// A type, with any number of `[]` behind it.
fn column_type(tokens: &mut Tokens<'_>, depth: usize) -> Result<ColumnType, Problem> {
    if depth > MAX_DEPTH {
        return Err(tokens.problem(format!("types are nested deeper than {MAX_DEPTH} levels")));
    }
    let mut column_type = base_type(tokens, depth)?;
    let mut lists = depth;
    while tokens.eat(&Token::LBracket) {
        tokens.expect(&Token::RBracket)?;
        lists += 1;
        if lists > MAX_DEPTH {
            return Err(tokens.problem(format!("types are nested deeper than {MAX_DEPTH} levels")));
        }
        column_type = ColumnType::List(Box::new(column_type));
    }
    Ok(column_type)
}

fn base_type(tokens: &mut Tokens<'_>, depth: usize) -> Result<ColumnType, Problem> {
    let Some(word) = tokens.peek_word() else {
        return Err(tokens.expected("a type"));
    };
    let start = tokens.location();
    let refuse = |instead: &str| {
        let message = format!("`{word}` is not a type here: {instead}");
        Err(super::source::problem_at(start, message))
    };
    tokens.advance();
    let column_type = match word.as_str() {
        "BOOLEAN" | "BOOL" => ColumnType::Boolean,
        "INT" | "INTEGER" | "INT4" => ColumnType::Int,
        "BIGINT" | "INT8" => ColumnType::BigInt,
        "DOUBLE" => {
            tokens.eat_words(&["PRECISION"]);
            ColumnType::Double
        }
        "FLOAT8" => ColumnType::Double,
        "DECIMAL" | "NUMERIC" => decimal(tokens)?,
        "VARCHAR" | "TEXT" | "STRING" => {
            if tokens.peek() == Some(&Token::LParen) {
                return Err(tokens.problem("lengths are not enforced: write `VARCHAR`"));
            }
            ColumnType::Varchar
        }
        "DATE" => ColumnType::Date,
        "TIMESTAMP" => timestamp(tokens)?,
        "STRUCT" => struct_type(tokens, depth)?,
        "LIST" | "ARRAY" => {
            tokens.expect(&Token::Lt)?;
            let item = column_type(tokens, depth + 1)?;
            tokens.expect_close()?;
            ColumnType::List(Box::new(item))
        }
        "TINYINT" | "SMALLINT" | "INT2" | "INT1" | "INT16" => return refuse("write `INT`"),
        "LONG" | "INT64" => return refuse("write `BIGINT`"),
        "FLOAT" | "REAL" | "FLOAT4" | "FLOAT64" => {
            return refuse("write `DOUBLE`, which has 64 bits");
        }
        "DATETIME" => return refuse("write `TIMESTAMP`"),
        "TIMESTAMPTZ" => return refuse("write `TIMESTAMP`, which is UTC; offsets are converted"),
        "CHAR" | "CHARACTER" | "NVARCHAR" | "UUID" | "JSON" | "JSONB" | "ENUM" | "INTERVAL"
        | "TIME" => return refuse("write `VARCHAR`"),
        "ROW" => return refuse("write `STRUCT<name type, …>`"),
        _ => {
            return refuse(
                "use BOOLEAN, INT, BIGINT, DOUBLE, DECIMAL(p, s), VARCHAR, DATE, TIMESTAMP, STRUCT<…> or LIST<…>",
            );
        }
    };
    Ok(column_type)
}

fn decimal(tokens: &mut Tokens<'_>) -> Result<ColumnType, Problem> {
    if !tokens.eat(&Token::LParen) {
        return Err(tokens.problem("write precision and scale, such as `DECIMAL(18, 2)`"));
    }
    let precision = small_number(tokens)?;
    let scale = if tokens.eat(&Token::Comma) {
        i8::try_from(small_number(tokens)?).unwrap_or(i8::MAX)
    } else {
        0
    };
    tokens.expect(&Token::RParen)?;
    Ok(ColumnType::Decimal(precision, scale))
}

fn small_number(tokens: &mut Tokens<'_>) -> Result<u8, Problem> {
    let number = match tokens.peek() {
        Some(Token::Number(text, _)) => text.parse().ok(),
        _ => None,
    };
    let number = number.ok_or_else(|| tokens.expected("a number from 0 to 38"))?;
    tokens.advance();
    Ok(number)
}

fn timestamp(tokens: &mut Tokens<'_>) -> Result<ColumnType, Problem> {
    if tokens.peek() == Some(&Token::LParen) {
        return Err(tokens.problem("a TIMESTAMP has microseconds: write it without a precision"));
    }
    if tokens.word_at(0).as_deref() == Some("WITH") && tokens.word_at(1).as_deref() == Some("TIME")
    {
        return Err(
            tokens.problem("a TIMESTAMP is UTC, offsets are converted: write it without a zone")
        );
    }
    tokens.eat_words(&["WITHOUT", "TIME", "ZONE"]);
    Ok(ColumnType::Timestamp)
}

fn struct_type(tokens: &mut Tokens<'_>, depth: usize) -> Result<ColumnType, Problem> {
    if tokens.peek() == Some(&Token::Neq) {
        return Err(tokens.problem("a STRUCT needs a field: write `STRUCT<name type, …>`"));
    }
    tokens.expect(&Token::Lt)?;
    let mut fields = vec![nested_column(tokens, depth + 1)?];
    while tokens.eat(&Token::Comma) {
        fields.push(nested_column(tokens, depth + 1)?);
    }
    tokens.expect_close()?;
    Ok(ColumnType::Struct(fields))
}
