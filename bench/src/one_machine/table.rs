// SPDX-License-Identifier: Apache-2.0
//! A table of medians: lines with a name, columns with a unit.

use std::io::Write as _;

use anyhow::Result;
use dovetail_bench::Figures;

/// Lines that are filled round by round.
pub(crate) struct Table {
    title: String,
    columns: Vec<&'static str>,
    lines: Vec<(String, Vec<Figures>)>,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, columns: &[&'static str]) -> Self {
        Self {
            title: title.into(),
            columns: columns.to_vec(),
            lines: vec![],
        }
    }

    /// The figures of one round of the line `name`, in the order of the columns; one that is not a number stays empty.
    pub(crate) fn push(&mut self, name: &str, figures: &[f64]) {
        let line = match self.lines.iter().position(|(known, _)| known == name) {
            Some(line) => line,
            None => {
                let none = self.columns.iter().map(|_| Figures::default()).collect();
                self.lines.push((name.to_owned(), none));
                self.lines.len() - 1
            }
        };
        for (all, figure) in self.lines[line].1.iter_mut().zip(figures) {
            if !figure.is_nan() {
                all.push(*figure);
            }
        }
    }

    /// Prints the medians.
    pub(crate) fn print(&self) -> Result<()> {
        let mut out = std::io::stdout();
        writeln!(out, "\n{}", self.title)?;
        write!(out, "{:<40}", "")?;
        for column in &self.columns {
            write!(out, "{column:>16}")?;
        }
        writeln!(out)?;
        for (name, figures) in &self.lines {
            write!(out, "{name:<40}")?;
            for all in figures {
                match all.is_empty() {
                    true => write!(out, "{:>16}", "")?,
                    false => write!(out, "{:>16.2}", all.median())?,
                }
            }
            writeln!(out)?;
        }
        Ok(())
    }
}
