// SPDX-License-Identifier: Apache-2.0
//! A configuration file: settings in TOML.
//!
//! Its values become the defaults of the options, so that they are read by the same parsers, and lie below options and
//! variables. Each is checked by itself before, so that an error names the file, the line and what is expected there.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::PathBuf;

use clap::builder::OsStr;
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use toml_edit::{Document, Item, Value};

use super::definitions::{Kind, Setting, nearest, settings};
use crate::cli::CliError;

/// The name of the file in a data directory.
pub const CONFIG_FILE: &str = "dovetail.toml";

/// What a file says.
#[derive(Debug)]
pub(super) struct ConfigFile {
    pub(super) path: PathBuf,
    /// By the setting's id.
    values: BTreeMap<String, Stated>,
}

/// What a file says of a setting.
#[derive(Debug)]
struct Stated {
    line: usize,
    texts: Vec<String>,
}

impl ConfigFile {
    /// The file that `given`, the options of `command`, names, or the one in the data directory, if it is there.
    pub(super) fn find(command: &Command, given: &ArgMatches) -> Result<Option<Self>, CliError> {
        if let Some(path) = given.get_one::<PathBuf>("config") {
            let text = std::fs::read_to_string(path);
            let text = text.map_err(|error| {
                let by = match given.value_source("config") {
                    Some(ValueSource::EnvVariable) => "DOVETAIL_CONFIG",
                    _ => "--config",
                };
                let path = path.display();
                CliError::Usage(format!("cannot read `{path}`, which {by} names: {error}"))
            })?;
            return Self::parse(path.clone(), &text, command).map(Some);
        }
        let data = given.get_one::<PathBuf>("data");
        let path = data.expect("it has a default").join(CONFIG_FILE);
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|error| {
                CliError::Usage(format!("cannot read `{}`: {error}", path.display()))
            })?,
        };
        let file = Self::parse(path, &text, command)?;
        if let Some(line) = file.line("data") {
            return Err(file.problem(
                line,
                "`data` is where this file was found: give the file with --config, or leave it out",
            ));
        }
        Ok(Some(file))
    }

    /// Reads settings of `command` from `text`, the content of the file at `path`.
    pub(super) fn parse(path: PathBuf, text: &str, command: &Command) -> Result<Self, CliError> {
        let mut file = Self {
            path,
            values: BTreeMap::new(),
        };
        let line = |span: Option<Range<usize>>| {
            let before = span.map_or(0, |span| span.start).min(text.len());
            text.as_bytes()[..before]
                .iter()
                .filter(|b| **b == b'\n')
                .count()
                + 1
        };
        let document = Document::parse(text).map_err(|error| {
            let reason: Vec<_> = error.message().lines().map(str::to_lowercase).collect();
            file.problem(line(error.span()), &reason.join(", "))
        })?;
        for (key, item) in document.as_table() {
            let span = document.as_table().key(key).and_then(|key| key.span());
            let line = line(span.or_else(|| item.span()));
            let setting = settings(command).find(|setting| setting.name() == key);
            let setting = setting.ok_or_else(|| file.problem(line, &unknown(key, command)))?;
            let texts = texts(&setting, item)
                .and_then(|texts| check(&setting, &texts).map(|()| texts))
                .map_err(|reason| file.problem(line, &reason))?;
            file.values
                .insert(setting.id().to_owned(), Stated { line, texts });
        }
        Ok(file)
    }

    /// On which line the setting of this id stands.
    pub(super) fn line(&self, id: &str) -> Option<usize> {
        self.values.get(id).map(|stated| stated.line)
    }

    /// `command` with what the file says as its defaults.
    pub(super) fn under(&self, command: Command) -> Command {
        // In place: clap finds the options of a grammar that was built by where they stand.
        command.mut_args(|arg| match self.values.get(arg.get_id().as_str()) {
            Some(stated) => arg.default_values(stated.texts.iter().cloned().map(OsStr::from)),
            None => arg,
        })
    }

    fn problem(&self, line: usize, reason: &str) -> CliError {
        CliError::Usage(format!("`{}`, line {line}: {reason}", self.path.display()))
    }
}

fn unknown(key: &str, command: &Command) -> String {
    match key {
        "take_over" => {
            return "`take_over` is a decision about one start: give it as --take-over".to_owned();
        }
        "config" => return "a file does not name another one".to_owned(),
        _ => {}
    }
    let near = nearest(key, settings(command).map(|setting| setting.name()));
    let near = near.map_or_else(
        || "`dovetail config` lists all".to_owned(),
        |near| format!("did you mean `{near}`?"),
    );
    format!("there is no setting `{key}`: {near}")
}

/// The values of a setting as the command line would have them.
fn texts(setting: &Setting<'_>, item: &Item) -> Result<Vec<String>, String> {
    let value = item.as_value();
    match (setting.kind(), value) {
        (Kind::Number, Some(Value::Integer(number))) => Ok(vec![number.value().to_string()]),
        (Kind::Text, Some(Value::String(text))) => Ok(vec![text.value().clone()]),
        (Kind::List, Some(Value::Array(list))) => {
            let texts = list.iter().map(|item| item.as_str().map(str::to_owned));
            let texts: Option<Vec<String>> = texts.collect();
            texts.ok_or_else(|| mistyped(setting, "a list of other things"))
        }
        _ => Err(mistyped(setting, found(item))),
    }
}

fn found(item: &Item) -> &'static str {
    match item {
        Item::Value(Value::String(_)) => "a text",
        Item::Value(Value::Integer(_)) => "a number",
        Item::Value(Value::Float(_)) => "a fraction",
        Item::Value(Value::Boolean(_)) => "true or false",
        Item::Value(Value::Datetime(_)) => "a date",
        Item::Value(Value::Array(_)) => "a list",
        _ => "a table",
    }
}

fn mistyped(setting: &Setting<'_>, found: &str) -> String {
    let name = setting.name();
    let default = setting.default();
    let example = default.as_deref().unwrap_or("…");
    let expected = match setting.kind() {
        Kind::Number => format!("a whole number: {name} = {example}"),
        Kind::Text => format!("a text in quotes: {name} = \"{example}\""),
        Kind::List => format!("a list of texts: {name} = [\"{example}\"]"),
    };
    format!("`{name}` is {expected}, and not {found}")
}

/// Whether the setting's own parser takes the values; if not, what it says. Of a secret nothing is repeated.
fn check(setting: &Setting<'_>, texts: &[String]) -> Result<(), String> {
    let name = setting.name();
    let only = setting.arg().clone().env(None::<&'static str>);
    let command = Command::new("file").no_binary_name(true).arg(only);
    let option = setting.option();
    for text in texts {
        let given = OsString::from(format!("{option}={text}"));
        let Err(error) = command.clone().try_get_matches_from([given]) else {
            continue;
        };
        let reason = match std::error::Error::source(&error) {
            Some(source) => source.to_string(),
            None => match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(words)) if !words.is_empty() => {
                    format!("it is one of {}", words.join(", "))
                }
                _ => "it must not be empty".to_owned(),
            },
        };
        return Err(match setting.is_secret() {
            true => format!("`{name}` cannot be that: {reason}"),
            false => format!("`{name}` cannot be `{text}`: {reason}"),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
