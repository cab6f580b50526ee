// SPDX-License-Identifier: Apache-2.0
//! Titled rows as text: a table, or one column under the other where a terminal is too narrow for it.

use std::fmt;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};

/// What stands in one row and column.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// The text; may have several lines.
    pub(super) text: String,
    /// Whether it stands to the right, as numbers do.
    pub(super) to_the_right: bool,
}

impl From<String> for Item {
    fn from(text: String) -> Self {
        Self {
            text,
            to_the_right: false,
        }
    }
}

/// Rows under titles; without titles, rows alone.
#[derive(Debug, Default)]
pub(super) struct Grid {
    titles: Vec<String>,
    rows: Vec<Vec<Item>>,
}

impl Grid {
    /// No rows yet.
    pub(super) fn new(titles: impl IntoIterator<Item = String>) -> Self {
        Self {
            titles: titles.into_iter().collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, items: impl IntoIterator<Item = Item>) {
        self.rows.push(items.into_iter().collect());
    }

    /// The text for a terminal that is `width` characters wide, or for no terminal.
    fn render(&self, width: Option<usize>) -> String {
        let table = self.table();
        let natural = table.lines().next().map_or(0, |line| line.chars().count());
        match width {
            Some(width) if natural > width && !self.titles.is_empty() => self.records(width),
            _ => table.to_string(),
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table
            .load_style(UTF8_FULL_CONDENSED)
            .set_content_arrangement(ContentArrangement::Disabled);
        if !self.titles.is_empty() {
            table.set_header(&self.titles);
        }
        for row in &self.rows {
            table.add_row(row.iter().map(|item| {
                let cell = Cell::new(&item.text);
                if item.to_the_right {
                    cell.set_alignment(CellAlignment::Right)
                } else {
                    cell
                }
            }));
        }
        table
    }

    /// Each row as a block of lines, a line for each column.
    fn records(&self, width: usize) -> String {
        let title_width = self.titles.iter().map(|t| t.chars().count()).max();
        let title_width = title_width.unwrap_or_default();
        let mut text = String::new();
        for (index, row) in self.rows.iter().enumerate() {
            let rule = format!("─ {} ", index + 1);
            let rest = width.saturating_sub(rule.chars().count());
            text.push_str(&format!("{rule}{}\n", "─".repeat(rest)));
            for (title, item) in self.titles.iter().zip(row) {
                for (number, line) in item.text.lines().enumerate() {
                    let title = if number == 0 { title } else { "" };
                    text.push_str(&format!("{title:title_width$} │ {line}\n"));
                }
            }
        }
        if self.rows.is_empty() {
            text.push_str(&format!("no rows of {}\n", self.titles.join(", ")));
        }
        text.truncate(text.trim_end().len());
        text
    }
}

/// To the width of the terminal, if the output is one.
impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = Table::new().width().filter(|width| *width > 0);
        f.write_str(&self.render(width.map(usize::from)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_stands_one_under_the_other() {
        let mut grid = Grid::new(["id".to_owned(), "details".to_owned()]);
        let number = Item {
            text: "7".to_owned(),
            to_the_right: true,
        };
        grid.row([number, "a long line\nand another".to_owned().into()]);
        let natural = grid.render(None);
        assert!(
            natural.starts_with('┌') && natural.lines().count() == 6,
            "{natural}"
        );
        assert_eq!(grid.render(Some(100)), natural);
        assert_eq!(
            grid.render(Some(12)),
            "─ 1 ────────\nid      │ 7\ndetails │ a long line\n        │ and another"
        );
        assert_eq!(
            Grid::new(["a title that is long".to_owned()]).render(Some(5)),
            "no rows of a title that is long"
        );
    }
}
