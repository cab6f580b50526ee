// SPDX-License-Identifier: Apache-2.0
//! The built program.

/// The built program, without the environment of whoever runs the tests.
pub(crate) fn program(args: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_dovetail"));
    for (name, _) in std::env::vars() {
        if name.starts_with("DOVETAIL_")
            || name.starts_with("AWS_")
            || name.to_ascii_lowercase().ends_with("_proxy")
        {
            command.env_remove(name);
        }
    }
    command.args(args).kill_on_drop(true);
    command
}
