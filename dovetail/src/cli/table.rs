// SPDX-License-Identifier: Apache-2.0
//! JSON answers as tables for people.

use serde_json::Value;

use super::grid::{Grid, Item};

/// One column of a list: its title and where its value lies in each record.
#[derive(Clone, Copy)]
pub(super) struct Column {
    title: &'static str,
    value: fn(&Value) -> Value,
}

impl Column {
    /// The column titled `title` whose cells are `value` of each record.
    pub(super) const fn new(title: &'static str, value: fn(&Value) -> Value) -> Self {
        Self { title, value }
    }
}

/// A table with one row for each record.
pub(super) fn list(columns: &[Column], records: &[Value]) -> Grid {
    let mut grid = Grid::new(columns.iter().map(|column| column.title.to_owned()));
    for record in records {
        grid.row(columns.iter().map(|column| {
            let value = (column.value)(record);
            item(&value, "-")
        }));
    }
    grid
}

/// A table of two columns: the members of a record and their values.
pub(super) fn record(value: &Value) -> Grid {
    let mut grid = Grid::default();
    for (name, value) in value.as_object().into_iter().flatten() {
        grid.row([name.clone().into(), lines(value, "-").into()]);
    }
    grid
}

/// The rows of an answer to a query: `columns` with name and type, `rows` as objects.
pub(super) fn rows(columns: &[Value], rows: &[Value]) -> Grid {
    let name = |column: &Value| column["name"].as_str().unwrap_or_default().to_owned();
    let mut grid = Grid::new(columns.iter().map(name));
    for row in rows {
        grid.row(
            columns
                .iter()
                .map(|column| item(&row[column["name"].as_str().unwrap_or_default()], "NULL")),
        );
    }
    grid
}

/// A value as an item: numbers to the right.
pub(super) fn item(value: &Value, null: &str) -> Item {
    Item {
        text: plain(value, null),
        to_the_right: value.is_number(),
    }
}

/// A value as text, a list with a line for each item: see [`plain`].
fn lines(value: &Value, null: &str) -> String {
    let Some(items) = value.as_array() else {
        return plain(value, null);
    };
    let lines: Vec<String> = items.iter().map(|item| plain(item, null)).collect();
    lines.join("\n")
}

/// A value as text: strings bare, and nothing in them that could steer a terminal.
pub(super) fn plain(value: &Value, null: &str) -> String {
    match value {
        Value::Null => null.to_owned(),
        Value::String(text) => printable(text),
        other => printable(&other.to_string()),
    }
}

/// A time without its fraction of a second.
pub(super) fn to_the_second(time: &Value) -> Value {
    let whole = time.as_str().and_then(|time| time.split('.').next());
    whole.map_or_else(|| time.clone(), Value::from)
}

/// `text` with control characters escaped, but for line ends and tabs.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => shown.push('\n'),
            '\t' => shown.push(' '),
            c if c.is_control() => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}

/// The list in an answer that is one, or that holds it as its member `name`.
pub(super) fn items<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer
        .as_array()
        .or_else(|| answer[name].as_array())
        .map(Vec::as_slice)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_as_people_read_them() {
        let columns = [
            json!({"name": "origin", "type": "VARCHAR"}),
            json!({"name": "n", "type": "BIGINT"}),
        ];
        let data = [
            json!({"origin": "SFO", "n": 9007199254740993u64}),
            json!({"origin": null, "n": 2.5}),
            json!({"origin": "\u{1b}[31mred", "n": {"a": [1]}}),
        ];
        insta::assert_snapshot!(rows(&columns, &data), @r#"
        ┌───────────────┬──────────────────┐
        │ origin        ┆ n                │
        ╞═══════════════╪══════════════════╡
        │ SFO           ┆ 9007199254740993 │
        │ NULL          ┆              2.5 │
        │ \u{1b}[31mred ┆ {"a":[1]}        │
        └───────────────┴──────────────────┘
        "#);
    }
}
