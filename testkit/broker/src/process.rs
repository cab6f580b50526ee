// SPDX-License-Identifier: Apache-2.0
//! Servers of other makers as processes of a test.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Runs a command and kills it when its own input ends, which it does with whoever holds the other end.
const KEEPER: &str = r#""$@" & pid=$!; exec >/dev/null; cat >/dev/null; kill -9 $pid; wait"#;

/// A process that ends with its owner, or with the process that started it, however that ends.
#[derive(Debug)]
pub struct Kept(Child);

impl Kept {
    /// Starts what `command` says: its program, arguments and environment.
    ///
    /// # Panics
    /// When there is no shell.
    pub fn start(command: &Command, stdout: Stdio, stderr: Stdio) -> Self {
        let mut keeper = Command::new("sh");
        keeper
            .args(["-c", KEEPER, "kept"])
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => keeper.env(name, value),
                None => keeper.env_remove(name),
            };
        }
        let started = keeper
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(stderr)
            .spawn();
        Self(started.expect("a shell runs"))
    }

    /// The same for the server `name`, with what it says in the file `log`; waits until `is_up`, with so much
    /// `patience`.
    ///
    /// # Panics
    /// When that takes too long: with what it said.
    pub fn start_server(
        name: &str,
        command: &Command,
        log: &Path,
        patience: Duration,
        is_up: impl Fn() -> bool,
    ) -> Self {
        let output = || {
            let opened = File::options().create(true).append(true).open(log);
            Stdio::from(opened.expect("a log"))
        };
        let process = Self::start(command, output(), output());
        let begun = Instant::now();
        while !is_up() {
            assert!(
                begun.elapsed() < patience,
                "{name} does not start:\n{}",
                std::fs::read_to_string(log).unwrap_or_default()
            );
            sleep(Duration::from_millis(20));
        }
        process
    }

    /// Its output, once, if that was piped.
    pub fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.0.stdout.take()
    }
}

impl Drop for Kept {
    /// Ends it at once, as kill -9 does.
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().expect("it is ours");
    }
}

/// Ports of 127.0.0.1 that nothing listens on.
///
/// # Panics
/// When there are none.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let bound = [(); N].map(|()| TcpListener::bind(("127.0.0.1", 0)).expect("a free port"));
    bound.map(|listener| listener.local_addr().expect("it is bound").port())
}
