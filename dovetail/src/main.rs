// SPDX-License-Identifier: Apache-2.0
//! The `dovetail` program.

use std::process::ExitCode;

use dovetail::node::NodeServer;

fn main() -> ExitCode {
    dovetail::cli::run(std::env::args_os(), &NodeServer)
}
