// SPDX-License-Identifier: Apache-2.0
//! The `dovetail` program.

use std::process::ExitCode;

use dovetail::node::NodeServer;
use tikv_jemallocator::Jemalloc;

/// A batch run takes hundreds of megabytes and gives them back. The C library's allocator would keep most of them for
/// the threads that had them; this one returns them to the system within seconds. docs/performance.md has figures.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    dovetail::cli::run(std::env::args_os(), &NodeServer)
}
