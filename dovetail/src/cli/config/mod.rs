// SPDX-License-Identifier: Apache-2.0
//! Settings: one definition of each, and four places that may say its value.
//!
//! ```text
//! option  >  environment variable  >  configuration file  >  default
//! └──────────── clap ───────────┘     └─ as clap's defaults ─┘
//! ```
//! Purpose: the file lies below what clap parses, and `dovetail config` shows what holds. Collaborators: the options
//! of [`super::up`] are the definitions. Invariants: what a file says is read by the parser of its option; a secret is
//! never shown. Non-goals: which server a client asks, which stays with options and variables.

mod definitions;
mod effective;
mod file;

use clap::{ArgMatches, Args, Command, ValueEnum};

use super::CliError;
use super::console::Console;
use super::grid::Grid;
use super::up::{Server, UpArgs};
pub(super) use effective::Effective;
pub use file::CONFIG_FILE;
use file::ConfigFile;

const EXAMPLES: &str = "\
An option goes before its variable, that before the file, that before the default. The file is the one that --config names,
or dovetail.toml in the data directory.

Examples:
  dovetail config
  dovetail config --config /etc/dovetail/dovetail.toml
  dovetail config --batch-memory 4GiB --format toml > dovetail.toml";

/// What `dovetail config` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ConfigArgs {
    /// How to show it; `toml` is a file that says the same
    #[arg(long, value_enum, default_value_t)]
    format: ConfigFormat,
    #[command(flatten)]
    up: UpArgs,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum ConfigFormat {
    /// For people
    #[default]
    Table,
    /// One JSON document
    Json,
    /// A configuration file
    Toml,
}

/// Commands that take the options of a server.
const WITH_SETTINGS: [&str; 2] = ["up", "config"];

/// What holds for the command that `matches` are of, where that takes settings. `grammar` makes the whole command line's
/// grammar, and `parse` reads it again where there is a file.
///
/// # Errors
/// What is wrong with the file, or with what was said beside it.
pub(super) fn settle<E: From<CliError>>(
    matches: ArgMatches,
    grammar: &Command,
    parse: impl FnOnce(Command) -> Result<ArgMatches, E>,
) -> Result<(ArgMatches, Option<Effective>), E> {
    let named = matches.subcommand_name().unwrap_or_default();
    let Some(name) = WITH_SETTINGS.into_iter().find(|name| *name == named) else {
        return Ok((matches, None));
    };
    let options = |matches: &ArgMatches| {
        let options = matches.subcommand_matches(name);
        options.expect("it is of this command").clone()
    };
    let command = grammar.find_subcommand(name).expect("it was parsed");
    let file = ConfigFile::find(command, &options(&matches))?;
    let matches = match &file {
        Some(file) => parse(grammar.clone().mut_subcommand(name, |up| file.under(up)))?,
        None => matches,
    };
    let effective = Effective::new(command, &options(&matches), file.as_ref());
    Ok((matches, Some(effective)))
}

/// Shows what holds, if a server would start with it: all that can be told before it starts is checked as there.
pub(super) fn run(
    args: ConfigArgs,
    effective: &Effective,
    console: &mut Console,
    server: &dyn Server,
) -> Result<(), CliError> {
    server.check(&args.up.options(effective)?)?;
    match args.format {
        ConfigFormat::Json => console.json(&effective.to_json()),
        ConfigFormat::Toml => console.line(effective.to_toml()),
        ConfigFormat::Table => {
            let titles = ["setting", "value", "from"];
            let mut grid = Grid::new(titles.map(str::to_owned));
            for row in effective.rows() {
                grid.row(row.map(Into::into));
            }
            console.line(grid)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::definitions::settings;

    const BEGIN: &str = "<!-- settings: made from the definitions, see script/fix -->\n";
    const END: &str = "<!-- end of settings -->\n";

    /// The settings as `docs/operations.md` shows them.
    fn table() -> String {
        let grammar = crate::cli::command();
        let up = grammar.find_subcommand("up").unwrap();
        let mut table = "| setting | default | variable | what it does, and what more or less of it costs |\n|---|---|---|---|\n".to_owned();
        for setting in settings(up) {
            let default = match (setting.default(), setting.stands_for_none()) {
                (Some(value), _) => format!("`{value}`"),
                (None, Some(words)) => words,
                (None, None) => String::new(),
            };
            let help = setting.help();
            let help = help.split(" [default: ").next().unwrap_or_default();
            table.push_str(&format!(
                "| `{}` | {default} | `{}` | {} |\n",
                setting.name(),
                setting.variable,
                help.replace('|', "\\|")
            ));
        }
        table
    }

    /// With `DOVETAIL_FIX_DOCS` in the environment they are made so.
    #[test]
    fn the_documents_list_the_settings_as_they_are_defined() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
        let text = std::fs::read_to_string(&file).unwrap();
        let (before, rest) = text.split_once(BEGIN).unwrap();
        let (listed, after) = rest.split_once(END).unwrap();
        let table = table();
        if std::env::var_os("DOVETAIL_FIX_DOCS").is_some() {
            std::fs::write(&file, format!("{before}{BEGIN}\n{table}\n{END}{after}")).unwrap();
            return;
        }
        assert_eq!(
            listed.trim(),
            table.trim(),
            "docs/operations.md differs from the definitions: run script/fix"
        );
    }
}
