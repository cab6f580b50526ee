// SPDX-License-Identifier: Apache-2.0
//! Whether what the grammar refuses was given as an option, or by an environment variable.
//!
//! clap takes both for the option, and its errors speak of that alone: an operator looks for it where it is not.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Command};

/// What `grammar` makes of `args` without the variable of the option that `error` is about tells where the refused value
/// came from: if another error comes of it, or none, it was the variable's, and then `error` names that.
pub(super) fn named(mut error: clap::Error, grammar: &Command, args: &[OsString]) -> clap::Error {
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    let option = option.clone();
    let Some(variable) = variable(grammar, &option) else {
        return error;
    };
    let without = without(grammar.clone(), &option);
    let is_about_it = |other: clap::Error| matches!(other.get(ContextKind::InvalidArg), Some(ContextValue::String(of)) if *of == option);
    let again = without.try_get_matches_from(args);
    if !again.err().is_some_and(is_about_it) {
        error.insert(ContextKind::InvalidArg, ContextValue::String(variable));
    }
    error
}

fn is(arg: &Arg, option: &str) -> bool {
    arg.to_string() == option
}

/// The variable of the option that errors call so, if it has one.
fn variable(command: &Command, option: &str) -> Option<String> {
    let own = command.get_arguments().find(|arg| is(arg, option));
    let variable = own.and_then(|arg| arg.get_env());
    match variable {
        Some(variable) => Some(variable.to_string_lossy().into_owned()),
        None => command
            .get_subcommands()
            .find_map(|command| self::variable(command, option)),
    }
}

/// `command` without the variables of the option that errors call so.
fn without(command: Command, option: &str) -> Command {
    let command = command.mut_args(|arg| match is(&arg, option) {
        true => arg.env(None::<&'static str>),
        false => arg,
    });
    command.mut_subcommands(|command| without(command, option))
}
