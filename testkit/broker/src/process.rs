// SPDX-License-Identifier: Apache-2.0
//! Servers of other makers as processes of a test.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

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
