// SPDX-License-Identifier: Apache-2.0
//! What holds: each setting with its value and where that came from.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use serde_json::{Value, json};

use super::definitions::{Kind, Setting, settings};
use super::file::ConfigFile;

/// All settings of a process.
#[derive(Debug)]
pub(in crate::cli) struct Effective(Vec<EffectiveSetting>);

/// One setting as it holds.
#[derive(Debug)]
struct EffectiveSetting {
    name: String,
    kind: Kind,
    /// None if it is not set.
    values: Vec<String>,
    /// What holds where it is not set, in words.
    stands_for_none: Option<String>,
    is_secret: bool,
    option: String,
    variable: String,
    source: Source,
}

/// Where a value came from.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Flag,
    Variable,
    File { path: PathBuf, line: usize },
    Default,
}

impl Effective {
    /// What holds by `matches`, the options of `command` as they were parsed over `file`.
    pub(super) fn new(command: &Command, matches: &ArgMatches, file: Option<&ConfigFile>) -> Self {
        let all = settings(command).map(|setting| effective(&setting, matches, file));
        Self(all.collect())
    }

    /// Whether an option or a variable gives the setting to this process.
    pub(in crate::cli) fn is_given(&self, name: &str) -> bool {
        let mut named = self.0.iter().filter(|setting| setting.name == name);
        named.any(|setting| matches!(setting.source, Source::Flag | Source::Variable))
    }

    /// `text`, and of each setting that it calls by its option where the value came from, unless from there.
    pub(in crate::cli) fn with_sources(&self, text: &str) -> String {
        let is_elsewhere = |setting: &&EffectiveSetting| {
            matches!(setting.source, Source::Variable | Source::File { .. })
        };
        let named = self.0.iter().filter(is_elsewhere);
        let named = named.filter(|setting| names(text, &setting.option));
        let said: Vec<_> = named
            .map(|setting| format!("{} comes from {}", setting.option, setting.from()))
            .collect();
        match said.is_empty() {
            true => text.to_owned(),
            false => format!("{text} ({})", said.join(", ")),
        }
    }

    /// For people: name, value and source of each.
    pub(super) fn rows(&self) -> impl Iterator<Item = [String; 3]> + '_ {
        self.0.iter().map(|setting| {
            let value = match (&setting.values[..], &setting.stands_for_none) {
                ([], None) => "-".to_owned(),
                ([], Some(instead)) => format!("- ({instead})"),
                _ if setting.is_secret => "(not shown)".to_owned(),
                (values, _) => values.join(", "),
            };
            [setting.name.clone(), value, setting.from()]
        })
    }

    pub(super) fn to_json(&self) -> Value {
        let settings = self.0.iter().map(EffectiveSetting::to_json);
        json!({"settings": settings.collect::<Vec<_>>()})
    }

    /// A file that says the same, but for secrets.
    pub(super) fn to_toml(&self) -> String {
        let lines = self.0.iter().map(EffectiveSetting::to_toml);
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// Whether `option` is a whole word of `text`.
fn names(text: &str, option: &str) -> bool {
    let is_part = |c: char| c == '-' || c.is_ascii_alphanumeric();
    text.match_indices(option)
        .any(|(at, _)| !text[at + option.len()..].starts_with(is_part))
}

fn effective(
    setting: &Setting<'_>,
    matches: &ArgMatches,
    file: Option<&ConfigFile>,
) -> EffectiveSetting {
    let values = matches.get_raw(setting.id()).into_iter().flatten();
    let stated = file.and_then(|file| Some((file, file.line(setting.id())?)));
    let source = match (matches.value_source(setting.id()), stated) {
        (Some(ValueSource::CommandLine), _) => Source::Flag,
        (Some(ValueSource::EnvVariable), _) => Source::Variable,
        (_, Some((file, line))) => Source::File {
            path: file.path.clone(),
            line,
        },
        (_, None) => Source::Default,
    };
    EffectiveSetting {
        name: setting.name(),
        kind: setting.kind(),
        values: values
            .map(|value| value.to_string_lossy().into_owned())
            .collect(),
        stands_for_none: setting.stands_for_none(),
        is_secret: setting.is_secret(),
        option: setting.option(),
        variable: setting.variable.to_owned(),
        source,
    }
}

impl EffectiveSetting {
    fn from(&self) -> String {
        match &self.source {
            Source::Flag => self.option.clone(),
            Source::Variable => self.variable.clone(),
            Source::File { path, line } => format!("{}:{line}", path.display()),
            Source::Default => "default".to_owned(),
        }
    }

    fn to_json(&self) -> Value {
        let (source, path, line) = match &self.source {
            Source::Flag => ("flag", None, None),
            Source::Variable => ("environment", None, None),
            Source::File { path, line } => ("file", Some(path), Some(line)),
            Source::Default => ("default", None, None),
        };
        let value = match (&self.values[..], self.kind) {
            ([], _) => Value::Null,
            _ if self.is_secret => Value::Null,
            (values, Kind::List) => json!(values),
            ([value, ..], Kind::Number) => value
                .parse::<u64>()
                .map_or_else(|_| json!(value), Value::from),
            ([value, ..], Kind::Text) => json!(value),
        };
        let mut shown = json!({
            "name": self.name,
            "value": value,
            "is_set": !self.values.is_empty(),
            "is_secret": self.is_secret,
            "source": source,
            "flag": self.option,
            "variable": self.variable,
        });
        if let (Some(path), Some(line)) = (path, line) {
            shown["file"] = json!(path.to_string_lossy());
            shown["line"] = json!(line);
        }
        shown
    }

    fn to_toml(&self) -> String {
        let (name, from) = (&self.name, self.from());
        if self.values.is_empty() {
            let instead = self.stands_for_none.as_deref().unwrap_or("nothing");
            return format!("# {name} is not set: {instead}");
        }
        if self.is_secret {
            return format!("# {name} is set by {from}, and not shown");
        }
        let quoted = |text: &String| toml_edit::Value::from(text.as_str()).to_string();
        let value = match self.kind {
            Kind::Number => self.values.join(""),
            Kind::Text => self.values.iter().map(quoted).collect(),
            Kind::List => {
                let items: Vec<_> = self.values.iter().map(quoted).collect();
                format!("[{}]", items.join(", "))
            }
        };
        format!("{name} = {value} # {from}")
    }
}
