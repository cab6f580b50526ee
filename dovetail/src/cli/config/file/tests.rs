// SPDX-License-Identifier: Apache-2.0

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args as _;
use dovetail_log::object::StoreOption;

use super::*;
use crate::cli::up::UpArgs;

/// The options of `dovetail up`, whatever the environment of the tests is.
fn options() -> Command {
    let command = UpArgs::augment_args(Command::new("up").no_binary_name(true));
    let variables: Vec<_> = settings(&command)
        .map(|setting| (setting.id().to_owned(), setting.variable.to_owned()))
        .collect();
    variables.into_iter().fold(command, |command, (id, name)| {
        command.mut_arg(id, |arg| arg.env(format!("TEST_{name}")))
    })
}

fn parse(text: &str) -> Result<ConfigFile, String> {
    let parsed = ConfigFile::parse(PathBuf::from("conf.toml"), text, &options());
    parsed.map_err(|error| error.to_string())
}

#[test]
fn a_file_lies_below_the_options() {
    let file = parse(
        "# ours\nlisten = \"127.0.0.1:9000\"\nbatch_runs = 2\n\nstore = \"s3://events\"\nstore_option = [\"region=eu-central-1\", \"allow_http=true\"]\nquery_timeout = \"5m\"\n",
    )
    .unwrap();
    assert_eq!(
        (file.line("listen"), file.line("batch_runs")),
        (Some(2), Some(3))
    );
    assert_eq!(file.line("data"), None);
    let matches = file
        .under(options())
        .try_get_matches_from(["--batch-runs", "3"])
        .unwrap();
    let listen = matches.get_one::<SocketAddr>("listen");
    assert_eq!(listen, Some(&"127.0.0.1:9000".parse().unwrap()));
    assert_eq!(matches.get_one("batch_runs"), Some(&3_usize));
    let timeout = matches.get_one::<Duration>("query_timeout");
    assert_eq!(timeout, Some(&Duration::from_secs(300)));
    assert_eq!(matches.get_many::<StoreOption>("options").unwrap().len(), 2);
}

#[test]
fn what_is_wrong_is_named_with_its_line_and_what_is_expected() {
    for (text, line, said) in [
        ("listen = ", 1, "line 1"),
        (
            "\nspeed-memory = \"2GiB\"",
            2,
            "there is no setting `speed-memory`: did you mean `speed_memory`?",
        ),
        ("speed_memroy = \"2GiB\"", 1, "did you mean `speed_memory`?"),
        ("timeout = \"5s\"", 1, "did you mean `query_timeout`?"),
        ("colour = \"red\"", 1, "`dovetail config` lists all"),
        ("[memory]\nspeed = \"2GiB\"", 1, "did you mean"),
        (
            "batch_runs = \"2\"",
            1,
            "`batch_runs` is a whole number: batch_runs = 1, and not a text",
        ),
        (
            "batch_runs = 0",
            1,
            "`batch_runs` cannot be `0`: it is a whole number from 1 to 1024",
        ),
        ("batch_runs = -1", 1, "from 1 to 1024"),
        ("queries = 100000000000", 1, "from 1 to 100000"),
        ("batch_runs = 1.5", 1, "not a fraction"),
        (
            "\n\nspeed_memory = 2",
            3,
            "`speed_memory` is a text in quotes: speed_memory = \"768MiB\", and not a number",
        ),
        (
            "speed_memory = \"2GB\"",
            1,
            "it is a whole number of MiB or GiB, such as 512MiB",
        ),
        ("speed_memory = \"1MiB\"", 1, "at least 64MiB"),
        ("listen = { port = 8080 }", 1, "and not a table"),
        ("listen = \"\"", 1, "`listen` cannot be ``"),
        (
            "log_format = \"xml\"",
            1,
            "`log_format` cannot be `xml`: it is one of text, json",
        ),
        ("archive_interval = \"soon\"", 1, "such as 30s, 5m or 24h"),
        ("store_option = \"region=x\"", 1, "a list of texts"),
        ("store_option = [1]", 1, "a list of texts"),
        ("store_option = [\"regoin=x\"]", 1, "known are"),
        ("roles = \"serve,serve\"", 1, "one or more of"),
        ("take_over = true", 1, "give it as --take-over"),
        ("config = \"x\"", 1, "does not name another one"),
        (
            "listen = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:2\"",
            2,
            "duplicate key",
        ),
    ] {
        let refused = parse(text).map(|_| ()).unwrap_err();
        let place = format!("`conf.toml`, line {line}: ");
        assert!(
            refused.starts_with(&place) && refused.contains(said),
            "{text}: {refused}"
        );
    }
}

#[test]
fn what_is_wrong_with_a_secret_is_said_without_it() {
    let command = Command::new("up").arg(
        clap::Arg::new("peer_token")
            .long("peer-token")
            .env("TEST_PEER_TOKEN")
            .hide_env_values(true)
            .value_parser(|_: &str| Err::<String, _>("it is too short")),
    );
    let path = PathBuf::from("conf.toml");
    let refused = ConfigFile::parse(path, "peer_token = \"c1b8\"", &command).unwrap_err();
    let refused = refused.to_string();
    assert!(
        refused.contains("too short") && !refused.contains("c1b8"),
        "{refused}"
    );
}

/// Options and variables have one name each, from which those of a file are made.
#[test]
fn a_setting_has_one_name_everywhere() {
    let command = UpArgs::augment_args(Command::new("up"));
    let names: Vec<_> = settings(&command).map(|setting| setting.name()).collect();
    assert!(names.len() > 25, "{names:?}");
    for setting in settings(&command) {
        let upper = setting.name().to_uppercase();
        // Of a list each option gives one, the variable all.
        let end = if setting.kind() == Kind::List {
            "S"
        } else {
            ""
        };
        assert_eq!(setting.variable, format!("DOVETAIL_{upper}{end}"));
        assert!(setting.help().len() > 20, "{upper}");
    }
}
