// SPDX-License-Identifier: Apache-2.0
//! Which part of the work a process does: the options, and what they come to together.

use std::net::SocketAddr;

use clap::Args;
use dovetail_log::object::StoreUrl;

use super::UpArgs;
use super::values::address;
use crate::cli::CliError;

/// Which part of the work this process does, and how processes of one store find each other.
#[derive(Debug, Args)]
pub(super) struct RoleArgs {
    /// What this process does of the work on a store that others work on, too. `ingest,batch,serve` is everything.
    /// `batch` has the store: it defines, recomputes and publishes. `ingest` takes its share of the partitions of the
    /// topics that streams read. `serve` is a replica: it answers queries, and hands on all that is not a read. `batch`
    /// without --cuts is a worker: a replica that computes batch runs for the process that has the store
    #[arg(
        long,
        env = "DOVETAIL_ROLES",
        value_name = "ROLES",
        default_value = "ingest,batch,serve",
        value_parser = roles
    )]
    roles: Roles,
    /// Where other processes of the store reach this one: replicas take of it what is not in the store yet; port 0 takes
    /// a free one
    #[arg(long, env = "DOVETAIL_CUTS", value_name = "ADDRESS", value_parser = address)]
    cuts: Option<SocketAddr>,
    /// The name or address by which they reach this process [default: the addresses that it listens on]
    #[arg(long, env = "DOVETAIL_ADVERTISE", value_name = "HOST")]
    advertise: Option<String>,
    /// The token that this process shows to others of the store, if they have tokens: a replica's may read, that of
    /// `ingest` and `batch` is an admin's
    #[arg(
        long,
        env = "DOVETAIL_PEER_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    peer_token: Option<String>,
}

/// The roles that a process may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Roles {
    All,
    Batch,
    Ingest,
    Serve,
}

/// What a process does.
#[derive(Debug, Clone)]
pub enum Role {
    /// Everything.
    All {
        /// How replicas reach it, if there are to be any.
        cuts: Option<CutsPlace>,
    },
    /// It has the store; others take the events.
    Decides {
        /// How they and replicas reach it.
        cuts: CutsPlace,
        /// What it shows to them.
        peer_token: Option<String>,
    },
    /// It takes its share of the events.
    Ingests {
        /// How others reach it.
        cuts: CutsPlace,
        /// What it shows to them.
        peer_token: Option<String>,
    },
    /// It reads.
    Replica {
        /// What it shows to others.
        peer_token: Option<String>,
        /// Whether it computes batch runs, too, for the process that has the store.
        computes: bool,
    },
}

impl Role {
    /// Where others reach the process, if they do.
    pub fn cuts(&self) -> Option<&CutsPlace> {
        match self {
            Self::All { cuts } => cuts.as_ref(),
            Self::Decides { cuts, .. } | Self::Ingests { cuts, .. } => Some(cuts),
            Self::Replica { .. } => None,
        }
    }
}

/// Where replicas reach a process.
#[derive(Debug, Clone)]
pub struct CutsPlace {
    /// Where cuts are handed out.
    pub listen: SocketAddr,
    /// The host that others know this process by; if none, that of the addresses.
    pub advertise: Option<String>,
}

impl RoleArgs {
    /// What it comes to beside the other options, of which `speed_memory_given` says whether it was to this process: a
    /// file may be that of several.
    pub(super) fn role(&self, up: &UpArgs, speed_memory_given: bool) -> Result<Role, CliError> {
        let usage = |text: &str| Err(CliError::Usage(text.to_owned()));
        if self.advertise.is_some() && self.cuts.is_none() {
            return usage(
                "--advertise is how others reach what --cuts listens on: say with --cuts where that is",
            );
        }
        if (self.cuts.is_some() || self.roles != Roles::All)
            && up.store.store.as_ref().is_some_and(StoreUrl::is_private)
        {
            return usage(
                "a store at memory:// is in one process, and no other one ever sees it: name one that they share",
            );
        }
        // With it, others are to reach it: then it has the store.
        let computes = self.roles == Roles::Batch && self.cuts.is_none();
        if computes || self.roles == Roles::Serve {
            let (name, does) = match computes {
                true => ("batch without --cuts", "reads and computes"),
                false => ("serve", "reads"),
            };
            if up.store.store.is_none() {
                return Err(CliError::Usage(format!(
                    "--roles {name} needs --store: that of the process that takes the events"
                )));
            }
            if up.store.take_over || up.apply.is_some() || self.cuts.is_some() {
                return Err(CliError::Usage(format!(
                    "--roles {name} only {does}: --take-over, --apply and --cuts are for the process that takes the events"
                )));
            }
            if computes && speed_memory_given {
                return usage(
                    "--speed-memory is for processes that take the events: a worker holds none of what generations do not cover yet; --batch-memory is for what it computes",
                );
            }
            return Ok(Role::Replica {
                peer_token: self.peer_token.clone(),
                computes,
            });
        }
        if self.roles == Roles::All && self.peer_token.is_some() {
            return usage(
                "--peer-token is what a process shows to others that do part of the work, and this one does all of it",
            );
        }
        let Some(listen) = self.cuts else {
            return match self.roles {
                Roles::All => Ok(Role::All { cuts: None }),
                _ => usage("--roles ingest needs --cuts: others reach the process there"),
            };
        };
        let everywhere = [listen, up.listen]
            .iter()
            .any(|at| at.ip().is_unspecified());
        if everywhere && self.advertise.is_none() {
            return usage(
                "others cannot reach 0.0.0.0: say with --advertise by which name or address they reach this process",
            );
        }
        let cuts = CutsPlace {
            listen,
            advertise: self.advertise.clone(),
        };
        let peer_token = self.peer_token.clone();
        let is_shared = up.store.store.as_ref().is_some_and(StoreUrl::is_remote);
        match self.roles {
            Roles::All | Roles::Serve => Ok(Role::All { cuts: Some(cuts) }),
            _ if !is_shared => usage(
                "--roles batch and --roles ingest need a --store that several processes can write: s3://, gs:// or az://",
            ),
            Roles::Batch => Ok(Role::Decides { cuts, peer_token }),
            Roles::Ingest if up.store.take_over || up.apply.is_some() => usage(
                "--roles ingest decides nothing: --take-over and --apply are for the process with --roles batch",
            ),
            Roles::Ingest => Ok(Role::Ingests { cuts, peer_token }),
        }
    }
}

/// Reads a list of roles.
fn roles(text: &str) -> Result<Roles, String> {
    let mut named: Vec<&str> = text.split(',').map(str::trim).collect();
    named.sort_unstable();
    match named.as_slice() {
        ["batch", "ingest", "serve"] | ["batch", "ingest"] => Ok(Roles::All),
        ["batch"] | ["batch", "serve"] => Ok(Roles::Batch),
        ["ingest"] | ["ingest", "serve"] => Ok(Roles::Ingest),
        ["serve"] => Ok(Roles::Serve),
        _ => Err(
            "it is one or more of `ingest`, `batch` and `serve`, such as `ingest,batch,serve`"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::UpArgs;
    use super::*;

    /// What `dovetail up` with these arguments does.
    fn role_of(arguments: &[&str]) -> Result<Role, String> {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            up: UpArgs,
        }
        let arguments = ["up"].iter().chain(arguments);
        let given = arguments
            .clone()
            .any(|argument| *argument == "--speed-memory");
        let parsed =
            <Only as clap::Parser>::try_parse_from(arguments).map_err(|e| e.to_string())?;
        let role = parsed.up.roles.role(&parsed.up, given);
        role.map_err(|error| error.to_string())
    }

    #[test]
    fn roles_that_contradict_other_options_are_refused() {
        assert!(matches!(role_of(&[]), Ok(Role::All { cuts: None })));
        let ordered = ["--roles", "serve, ingest,batch"];
        assert!(matches!(role_of(&ordered), Ok(Role::All { cuts: None })));
        let replica = ["--roles", "serve", "--store", "s3://events"];
        assert!(matches!(
            role_of(&replica),
            Ok(Role::Replica {
                computes: false,
                ..
            })
        ));
        let worker = ["--roles", "batch", "--store", "s3://events"];
        assert!(matches!(
            role_of(&worker),
            Ok(Role::Replica { computes: true, .. })
        ));
        let roles = |roles| {
            [
                ["--roles", roles],
                ["--store", "s3://events"],
                ["--cuts", "127.0.0.1:0"],
            ]
            .concat()
        };
        assert!(matches!(
            role_of(&roles("batch,serve")),
            Ok(Role::Decides { .. })
        ));
        assert!(matches!(
            role_of(&roles("ingest")),
            Ok(Role::Ingests { .. })
        ));
        let advertised = [
            "--listen",
            "0.0.0.0:8080",
            "--cuts",
            "0.0.0.0:8090",
            "--advertise",
            "a",
        ];
        assert!(matches!(
            role_of(&advertised),
            Ok(Role::All { cuts: Some(_) })
        ));
        for (arguments, said) in [
            (&["--roles", "serve"][..], "needs --store"),
            (&["--roles", "ingest"], "needs --cuts"),
            (&["--roles", "batch", "--cuts", "127.0.0.1:0"], "s3://"),
            (
                &[
                    "--roles",
                    "ingest",
                    "--cuts",
                    "127.0.0.1:0",
                    "--store",
                    "s3://e",
                    "--take-over",
                ],
                "decides nothing",
            ),
            (&["--roles", "serve", "--store", "memory://"], "they share"),
            (
                &["--cuts", "127.0.0.1:0", "--store", "memory://"],
                "they share",
            ),
            (&["--roles", "serve,serve"], "one or more of"),
            (&["--roles", ""], "one or more of"),
            (
                &["--roles", "serve", "--store", "s3://e", "--take-over"],
                "only reads",
            ),
            (
                &[
                    "--roles",
                    "serve",
                    "--store",
                    "s3://e",
                    "--cuts",
                    "127.0.0.1:0",
                ],
                "only reads",
            ),
            (
                &["--roles", "serve", "--store", "s3://e", "--apply", "x"],
                "only reads",
            ),
            (&["--roles", "batch"], "needs --store"),
            (
                &["--roles", "batch", "--store", "s3://e", "--take-over"],
                "reads and computes",
            ),
            (
                &[
                    "--roles",
                    "batch",
                    "--store",
                    "s3://e",
                    "--speed-memory",
                    "1GiB",
                ],
                "holds none",
            ),
            (&["--peer-token", "x"], "does all of it"),
            (&["--advertise", "x"], "--cuts"),
            (&["--cuts", "0.0.0.0:8090"], "--advertise"),
            (
                &["--cuts", "127.0.0.1:8090", "--listen", "0.0.0.0:8080"],
                "--advertise",
            ),
        ] {
            let refused = role_of(arguments).map(|_| ()).unwrap_err();
            assert!(refused.contains(said), "{arguments:?}: {refused}");
        }
    }
}
