// SPDX-License-Identifier: Apache-2.0
//! A node behind its HTTP API, from start to graceful end.

use std::net::SocketAddr;
use std::sync::Arc;

use dovetail_exchange::{Greeted, PeerToken};
use dovetail_model::{Problem, ProblemKind};
use dovetail_serving_layer::http::{self, ApiConfig, AuthConfig, ServerConfig};
use dovetail_serving_layer::ports::{LocatedDefinition, Ports, ReadPorts, Served};
use dovetail_serving_layer::sql::parse_directory;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::membership::OfMember;
use super::peers::{Joined, Peers};
use super::replica::{Replica, ReplicaConfig};
use super::standby::stand_by;
use super::storage::check_settings;
use super::worker::{WorkerConfig, open_worker};
use super::{Duty, Node, NodeConfig, NodeError};
use crate::cli::{CutsPlace, DefinitionFile, RequestLimits, Role, Server, Serving, UpOptions};

/// Starts nodes for `dovetail up` and `dovetail demo`.
#[derive(Debug, Clone, Copy, Default)]
pub struct NodeServer;

impl Server for NodeServer {
    fn check(&self, options: &UpOptions) -> Result<(), Problem> {
        check(options)
    }

    fn serve(&self, options: UpOptions, serving: Serving) -> BoxFuture<'_, Result<(), Problem>> {
        Box::pin(serve(options, serving))
    }
}

async fn serve(options: UpOptions, serving: Serving) -> Result<(), Problem> {
    check(&options)?;
    let auth = AuthConfig {
        tokens: options.tokens,
    };
    // Bound first: a taken port is known before a data directory is touched.
    let mut listener = bind(options.listen).await?;
    let limits = options.limits;
    let answering = Answering::new(auth, &limits.requests);
    let (duty, cuts, peer_token) = match options.role {
        Role::All { cuts } => (Duty::Everything, cuts, None),
        Role::Decides { cuts, peer_token } => (Duty::Decides, Some(cuts), peer_token),
        Role::Ingests { cuts, peer_token } => (Duty::Ingests, Some(cuts), peer_token),
        Role::Replica {
            peer_token,
            computes,
        } => {
            let store = options.store.expect("a replica is told of a store");
            let config = ReplicaConfig {
                data: options.data,
                store,
                limits,
                peer_token,
                computes,
            };
            let worker = computes.then_some(WorkerConfig {
                batch_memory_bytes: limits.memory.batch_memory_bytes,
                batch_runs: limits.memory.batch_runs,
                address: listener.local_addr().map_err(Problem::internal)?,
            });
            return serve_reads(config, worker, answering, listener, serving).await;
        }
    };
    let mut config = NodeConfig {
        store: options.store,
        duty,
        peer_token: PeerToken::new(peer_token.as_deref()),
        takes_over: options.takes_over,
        ..NodeConfig::within(options.data, &limits)
    };
    if duty == Duty::Decides && !config.takes_over {
        // Nobody is answered meanwhile: whoever asks is to ask another one.
        drop(listener);
        let standing_by = {
            let config = config.clone();
            async move { stand_by(&config).await }
        };
        let Some(stood_by) = unless_stopped(standing_by, &serving.shutdown).await else {
            return Ok(());
        };
        config.takes_over = stood_by.map_err(Problem::internal)??;
        listener = bind(options.listen).await?;
    }
    let address = listener.local_addr().map_err(Problem::internal)?;
    let peers = match cuts {
        Some(CutsPlace { listen, advertise }) => {
            Some(Peers::bind(listen, advertise.as_deref(), address).await?)
        }
        None => None,
    };
    let Some(opened) = unless_stopped(Node::open(config), &serving.shutdown).await else {
        tracing::info!("stopped before the start was through; the next one begins anew");
        return Ok(());
    };
    let node = opened.map_err(Problem::internal)??;
    let peers = match (duty, peers) {
        (Duty::Ingests, Some(peers)) => {
            return take_share(node, peers, answering, listener, serving).await;
        }
        (_, peers) => peers,
    };
    let no_more_cuts = CancellationToken::new();
    let met = async {
        bring_into_force(&node, &options.apply).await?;
        node.meet(peers, answering.auth(), no_more_cuts.clone())
            .await
    };
    if let Err(problem) = met.await {
        no_more_cuts.cancel();
        node.shutdown().await;
        return Err(problem);
    }
    let shared = Arc::new(node.clone());
    let ports = Ports {
        queries: Arc::new(node.metered_queries()),
        ingest: Arc::clone(&shared) as _,
        control: Arc::clone(&shared) as _,
        measures: shared as _,
    };
    // Nobody waits for the address when the caller has given up already.
    let _ = serving.ready.send(address);
    let shutdown = serving.shutdown.child_token();
    let is_superseded = async {
        let superseded = tokio::select! {
            superseded = node.superseded() => Some(superseded),
            () = shutdown.cancelled() => None,
        };
        if let Some(superseded) = &superseded {
            tracing::error!("{superseded}; stopping");
        }
        shutdown.cancel();
        superseded
    };
    let batch_stops = async {
        shutdown.cancelled().await;
        node.stop_batch_layer().await;
    };
    let requests_end = answering.serve(listener, Served::All(ports), &shutdown);
    let ((), (), superseded) = tokio::join!(requests_end, batch_stops, is_superseded);
    // Replicas answer for as long as this process does.
    no_more_cuts.cancel();
    node.shutdown().await;
    superseded.map_or(Ok(()), |superseded| {
        Err(Problem::new(ProblemKind::Conflict, superseded.to_string()))
    })
}

/// How requests are answered, whoever answers them.
struct Answering {
    api: ApiConfig,
    connections: ServerConfig,
}

impl Answering {
    fn new(auth: AuthConfig, limits: &RequestLimits) -> Self {
        Self {
            api: ApiConfig {
                auth,
                max_body_bytes: limits.body_limit,
                query_timeout: limits.query_timeout,
            },
            connections: ServerConfig {
                max_connections: limits.connections,
                shutdown_grace: limits.shutdown_grace,
                ..ServerConfig::default()
            },
        }
    }

    fn auth(&self) -> &AuthConfig {
        &self.api.auth
    }

    /// Answers from what is `served` until `shutdown`.
    async fn serve(self, listener: TcpListener, served: Served, shutdown: &CancellationToken) {
        let stopped = shutdown.clone().cancelled_owned();
        http::serve(listener, served, self.api, self.connections, stopped).await;
    }
}

async fn bind(at: SocketAddr) -> Result<TcpListener, Problem> {
    TcpListener::bind(at).await.map_err(|error| {
        Problem::new(
            ProblemKind::Conflict,
            format!("cannot listen on `{at}`: {error}; choose another --listen"),
        )
    })
}

/// A process that takes its share of the events, from start to end.
async fn take_share(
    node: Node,
    peers: Peers,
    answering: Answering,
    listener: TcpListener,
    serving: Serving,
) -> Result<(), Problem> {
    let address = listener.local_addr().map_err(Problem::internal)?;
    if let Err(problem) = let_in(node.0.cuts.greet().await) {
        node.shutdown().await;
        return Err(problem);
    }
    let no_more_cuts = CancellationToken::new();
    let Joined {
        membership,
        keeping,
    } = node.join(peers, answering.auth(), no_more_cuts.clone());
    // Nobody waits for the address when the caller has given up already.
    let _ = serving.ready.send(address);
    let others = OfMember {
        membership,
        others: node.decider(),
    };
    let served = Served::Reads(ReadPorts {
        queries: Arc::new(node.metered_queries()),
        measures: Arc::new(node.clone()),
        others: Arc::new(others),
    });
    answering.serve(listener, served, &serving.shutdown).await;
    no_more_cuts.cancel();
    if let Err(error) = keeping.await {
        tracing::error!(%error, "following the catalog did not end well");
    }
    node.shutdown().await;
    Ok(())
}

/// A replica, and the worker that it may be too, from start to end: it leaves nothing behind.
async fn serve_reads(
    config: ReplicaConfig,
    worker: Option<WorkerConfig>,
    answering: Answering,
    listener: TcpListener,
    serving: Serving,
) -> Result<(), Problem> {
    let address = listener.local_addr().map_err(Problem::internal)?;
    let opening = async move {
        let replica = Replica::open(config).await?;
        let hand = match worker {
            Some(worker) => {
                let_in(replica.greet().await)?;
                Some(open_worker(worker, &replica).await?)
            }
            None => None,
        };
        Ok::<_, Problem>((replica, hand))
    };
    let Some(opened) = unless_stopped(opening, &serving.shutdown).await else {
        return Ok(());
    };
    let (replica, hand) = opened.map_err(Problem::internal)??;
    let _following = replica.follow(serving.shutdown.child_token());
    // Nobody waits for the address when the caller has given up already.
    let _ = serving.ready.send(address);
    let served = Served::Reads(replica.ports());
    let working = async {
        if let Some(hand) = hand {
            hand.work(serving.shutdown.clone()).await;
        }
    };
    let requests_end = answering.serve(listener, served, &serving.shutdown);
    let ((), ()) = tokio::join!(requests_end, working);
    tracing::info!("stopped");
    Ok(())
}

/// Whether a process may begin to work for the one that decides: one that is not let in would only try again and again.
/// While nobody answers, it begins.
fn let_in(greeted: Greeted) -> Result<(), Problem> {
    match greeted {
        Greeted::NotLetIn(problem) => Err(problem),
        Greeted::LetIn | Greeted::Silent(_) => Ok(()),
    }
}

/// Whether the options can hold together on any machine, whatever stands in the data directory and in the store.
fn check(options: &UpOptions) -> Result<(), Problem> {
    let is_open = options.tokens.is_empty();
    check_reachable(is_open, options.listen, "--listen")?;
    if let Some(cuts) = options.role.cuts() {
        check_reachable(is_open, cuts.listen, "--cuts")?;
    }
    if let Some(place) = &options.store {
        check_settings(place).map_err(NodeError::from)?;
    }
    parse_files(&options.apply)?;
    Ok(())
}

/// Without tokens everyone is admin, so nobody may come from elsewhere.
fn check_reachable(is_open: bool, listen: SocketAddr, option: &str) -> Result<(), Problem> {
    if !is_open || listen.ip().is_loopback() {
        return Ok(());
    }
    Err(Problem::new(
        ProblemKind::Invalid,
        format!(
            "`{listen}` ({option}) can be reached from other machines: give --tokens, or listen on 127.0.0.1"
        ),
    ))
}

fn parse_files(files: &[DefinitionFile]) -> Result<Vec<LocatedDefinition>, Problem> {
    let files = files.iter();
    parse_directory(files.map(|f| (f.name.clone(), f.sql.clone())).collect())
}

/// What `start` comes to, or None when `shutdown` comes first. It is left where it stands then, as a crash would leave
/// it: nothing is acknowledged before it is through. In a task of its own, since it may keep its thread for long.
async fn unless_stopped<T: Send + 'static>(
    start: impl Future<Output = T> + Send + 'static,
    shutdown: &CancellationToken,
) -> Option<Result<T, JoinError>> {
    let started = AbortOnDropHandle::new(tokio::spawn(start));
    tokio::select! {
        biased;
        started = started => Some(started),
        () = shutdown.cancelled() => None,
    }
}

async fn bring_into_force(node: &Node, files: &[DefinitionFile]) -> Result<(), Problem> {
    let definitions = parse_files(files)?;
    // What it changes, each definition says in the log itself.
    node.apply_definitions(definitions).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    /// As one that merges long lists: no cancellation reaches it before it gives way.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_stop_does_not_wait_for_a_start_that_keeps_its_thread() {
        let (release, held) = mpsc::channel::<()>();
        let (begun, begins) = oneshot::channel();
        let (left, leaves) = oneshot::channel();
        let start = async move {
            begun.send(()).unwrap();
            let _ = held.recv_timeout(Duration::from_secs(30));
            left.send(()).unwrap();
        };
        let shutdown = CancellationToken::new();
        let stopping = async {
            begins.await.unwrap();
            shutdown.cancel();
        };
        let (started, ()) = tokio::join!(unless_stopped(start, &shutdown), stopping);
        assert!(started.is_none());
        // It was at its gate all the while.
        release.send(()).unwrap();
        leaves.await.unwrap();
    }
}
