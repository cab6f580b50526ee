// SPDX-License-Identifier: Apache-2.0
//! Connections to other processes, and what comes of calls that fail.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{Action, FlightClient};
use dovetail_model::{Problem, ProblemKind, Share, innermost};
use futures::TryStreamExt;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::wire::{MOVED, problem_in};

/// How long a connection may take.
const CONNECT_WAIT: Duration = Duration::from_secs(2);
/// A peer that is silent for so long is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// What an answer takes beside the waiting.
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// When to ask again while nobody answers.
const PAUSE_S: u64 = 2;
/// Connections that are kept; processes that are gone leave theirs behind.
const MOST_CONNECTIONS: usize = 64;

/// What a reader shows to the process that takes the events.
#[derive(Clone, Default)]
pub struct PeerToken(Option<Arc<str>>);

impl PeerToken {
    /// A bearer token; none where none is asked for.
    pub fn new(token: Option<&str>) -> Self {
        Self(token.map(Arc::from))
    }
}

impl fmt::Debug for PeerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "set" } else { "none" })
    }
}

/// Another process, and what it takes of the events.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) url: String,
    pub(super) share: Share,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, share } = self;
        if *share == Share::ALL {
            return write!(
                f,
                "the process that takes the events does not answer at `{url}`"
            );
        }
        write!(
            f,
            "the process that takes {share} does not answer at `{url}`"
        )
    }
}

/// Why a call came to nothing.
pub(super) enum Failed {
    /// Nobody answers.
    Silent(Problem),
    /// It answered a problem.
    Refused(Problem),
    /// It does not take the token that it is shown.
    NotLetIn(Problem),
    /// It is over once the newest catalog is known.
    Moved(Problem),
    /// There is no such stream.
    NoStream,
}

impl Failed {
    pub(super) fn problem(self) -> Problem {
        match self {
            Self::Refused(problem)
            | Self::NotLetIn(problem)
            | Self::Silent(problem)
            | Self::Moved(problem) => problem,
            Self::NoStream => unavailable("the stream is not open there; ask again".to_owned()),
        }
    }
}

/// One connection to each process.
#[derive(Debug)]
pub(crate) struct Connections {
    token: PeerToken,
    known: Mutex<HashMap<String, Channel>>,
}

impl Connections {
    pub(crate) fn new(token: PeerToken) -> Self {
        Self {
            token,
            known: Mutex::default(),
        }
    }

    /// A client on the one connection to `url`.
    pub(crate) fn client(&self, url: &str) -> Result<FlightClient, Problem> {
        let channel = self.channel(url)?;
        // Rows may be of any size: a message holds at least one.
        let service = FlightServiceClient::new(channel).max_decoding_message_size(usize::MAX);
        let mut client = FlightClient::new_from_inner(service);
        if let Some(token) = &self.token.0 {
            let bearer = format!("Bearer {token}");
            let added = client.add_header("authorization", &bearer);
            added.map_err(|_| Problem::internal("the token for other processes is no header"))?;
        }
        Ok(client)
    }

    fn channel(&self, url: &str) -> Result<Channel, Problem> {
        let mut known = self.known.lock();
        if let Some(channel) = known.get(url) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|error| Problem::internal(format!("`{url}`: {error}")))?
            .connect_timeout(CONNECT_WAIT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        if known.len() >= MOST_CONNECTIONS {
            known.clear();
        }
        let channel = endpoint.connect_lazy();
        known.insert(url.to_owned(), channel.clone());
        Ok(channel)
    }

    /// Has `peer` do `action`, and returns what it answers.
    pub(super) async fn act<T: DeserializeOwned>(
        &self,
        peer: &Peer,
        action: &str,
        body: &impl Serialize,
        patience: Duration,
    ) -> Result<T, Failed> {
        let mut client = self.client(&peer.url).map_err(Failed::Refused)?;
        let acting = async {
            let said = client.do_action(Action::new(action, json(body))).await?;
            said.try_collect::<Vec<_>>().await
        };
        let said = timeout(patience, acting).await;
        let said = said.map_err(|_| slow(patience, peer))?;
        let said = said.map_err(|error| failed(error, peer))?;
        understood(&said.concat(), peer)
    }

    /// Has `peer` do `action`, which says nothing.
    pub(super) async fn act_unanswered(
        &self,
        peer: &Peer,
        action: &str,
        patience: Duration,
    ) -> Result<(), Failed> {
        let mut client = self.client(&peer.url).map_err(Failed::Refused)?;
        let nothing = Action::new(action, "0");
        let said = timeout(patience, client.do_action(nothing)).await;
        let said = said.map_err(|_| slow(patience, peer))?;
        said.map(drop).map_err(|error| failed(error, peer))
    }
}

/// What a process answered.
pub(super) fn understood<T: DeserializeOwned>(said: &[u8], peer: &Peer) -> Result<T, Failed> {
    serde_json::from_slice(said).map_err(|error| {
        Failed::Refused(Problem::internal(format!(
            "{} answered what this version does not understand ({error})",
            peer.url
        )))
    })
}

pub(super) fn failed(error: FlightError, peer: &Peer) -> Failed {
    let FlightError::Tonic(status) = error else {
        return silent(&error.to_string(), peer);
    };
    if let Some(problem) = problem_in(&status) {
        return match problem.kind {
            ProblemKind::NotFound => Failed::NoStream,
            ProblemKind::Unauthenticated | ProblemKind::Forbidden => {
                Failed::NotLetIn(unavailable(format!(
                    "the process at `{}` refuses the token that this one shows it (--peer-token): {}; {}",
                    peer.url,
                    problem.detail,
                    match problem.kind {
                        ProblemKind::Forbidden => "show it the token of an admin",
                        _ => "show it a token of its --tokens file",
                    }
                )))
            }
            _ if problem.members.contains_key(MOVED) => Failed::Moved(problem),
            _ => Failed::Refused(problem),
        };
    }
    match status.code() {
        // A version that does not understand us says why.
        Code::InvalidArgument | Code::Unimplemented => {
            Failed::Refused(Problem::internal(status.message()))
        }
        _ => silent(&why(&status), peer),
    }
}

fn silent(why: &str, peer: &Peer) -> Failed {
    Failed::Silent(unavailable(format!(
        "{peer}: {why}; until it does, layer=batch answers from the generations"
    )))
}

/// What is at the bottom of a failed call, in a few words.
fn why(status: &tonic::Status) -> String {
    std::error::Error::source(status).map_or_else(|| status.message().to_owned(), innermost)
}

pub(super) fn slow(waited: Duration, peer: &Peer) -> Failed {
    silent(&format!("no answer within {} ms", waited.as_millis()), peer)
}

pub(super) fn unavailable(detail: String) -> Problem {
    Problem::new(ProblemKind::Unavailable, detail).with("retry_after_s", PAUSE_S)
}

pub(super) fn json(said: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(said).expect("what is said is plain data")
}
