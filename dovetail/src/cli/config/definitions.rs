// SPDX-License-Identifier: Apache-2.0
//! The settings that there are: the options of `dovetail up` that have a variable, as clap knows them.
//!
//! Invariant: a setting is defined once, by its option. Its name in a file, what it takes there, its default and its
//! documentation are read off that definition.

use std::any::TypeId;

use clap::{Arg, ArgAction, Command};
use datafusion::common::utils::datafusion_strsim::levenshtein;

/// What a setting is in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A whole number.
    Number,
    /// A text in quotes.
    Text,
    /// A list of texts.
    List,
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting<'a> {
    arg: &'a Arg,
    /// The option, without its dashes.
    option: &'a str,
    /// The environment variable.
    pub(super) variable: &'a str,
}

/// The settings of `command`, which takes the options of `dovetail up`, in the order of its help.
pub(super) fn settings(command: &Command) -> impl Iterator<Item = Setting<'_>> {
    command.get_arguments().filter_map(|arg| {
        // Where the settings are is none, nor is what every command takes.
        let is_setting = !arg.is_global_set() && arg.get_id() != "config";
        let variable = arg.get_env().filter(|_| is_setting)?;
        Some(Setting {
            arg,
            option: arg.get_long()?,
            variable: variable.to_str()?,
        })
    })
}

impl<'a> Setting<'a> {
    /// By which its values are found.
    pub(super) fn id(&self) -> &'a str {
        self.arg.get_id().as_str()
    }

    pub(super) fn arg(&self) -> &'a Arg {
        self.arg
    }

    /// Its name in a file.
    pub(super) fn name(&self) -> String {
        self.option.replace('-', "_")
    }

    /// As the command line has it.
    pub(super) fn option(&self) -> String {
        format!("--{}", self.option)
    }

    /// Whether it is never shown.
    pub(super) fn is_secret(&self) -> bool {
        self.arg.is_hide_env_values_set()
    }

    pub(super) fn kind(&self) -> Kind {
        let parsed = self.arg.get_value_parser().type_id();
        let names = self.arg.get_value_names().unwrap_or_default();
        let is_count = names.iter().any(|name| name.as_str() == "N");
        match self.arg.get_action() {
            ArgAction::Append => Kind::List,
            _ if is_count && parsed == TypeId::of::<usize>() => Kind::Number,
            _ => Kind::Text,
        }
    }

    /// Its default, if that is a value.
    pub(super) fn default(&self) -> Option<String> {
        let values = self.arg.get_default_values();
        Some(values.first()?.to_string_lossy().into_owned())
    }

    /// What holds where it has no value, as far as its documentation says so: `[default: …]`.
    pub(super) fn stands_for_none(&self) -> Option<String> {
        let help = self.help();
        let (_, said) = help.rsplit_once("[default: ")?;
        Some(said.strip_suffix(']')?.to_owned())
    }

    /// Its documentation.
    pub(super) fn help(&self) -> String {
        let help = self.arg.get_long_help().or(self.arg.get_help());
        help.map(ToString::to_string).unwrap_or_default()
    }
}

/// The name among `known` that was probably meant by `name`.
pub(super) fn nearest(name: &str, known: impl Iterator<Item = String>) -> Option<String> {
    let typed = name.to_lowercase().replace('-', "_");
    let near = known.map(|known| {
        // A part of a name is nearer than a slip in it.
        let part = known.split('_').any(|word| word == typed);
        let edits = if part { 1 } else { levenshtein(&typed, &known) };
        (edits, known)
    });
    let (edits, near) = near.min()?;
    (edits <= 2.max(name.len() / 3)).then_some(near)
}
