// SPDX-License-Identifier: Apache-2.0
//! What this process is to replicas and workers: where it says that it is, and the cuts and the work that it hands out.

use std::net::SocketAddr;
use std::sync::Arc;

use dovetail_exchange::{CutServer, Permits};
use dovetail_log::catalog::CommitError;
use dovetail_model::{Endpoints, Entry, Problem, ProblemKind};
use dovetail_serving_layer::http::{AuthConfig, Role};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::membership::Membership;
use super::{Duty, Node};

/// Cuts that will be handed out on `listener`.
pub(super) struct Peers {
    /// Where.
    pub(super) listener: TcpListener,
    /// As replicas reach this process.
    pub(super) endpoints: Endpoints,
}

/// A node that takes its share of the events.
pub(super) struct Joined {
    pub(super) membership: Arc<Membership>,
    /// Ends once the share is given up.
    pub(super) keeping: JoinHandle<()>,
}

/// Who may read, and who may do all else.
fn permits(auth: &AuthConfig) -> (Permits, Permits) {
    let (reads, peers) = (auth.clone(), auth.clone());
    (
        Arc::new(move |headers| reads.check(headers.as_ref(), Role::Read)),
        Arc::new(move |headers| peers.check(headers.as_ref(), Role::Admin)),
    )
}

impl Peers {
    /// Binds what the endpoints will name. `http` is where the API listens.
    ///
    /// # Errors
    /// `Conflict` for an address that is taken.
    pub(super) async fn bind(
        listen: SocketAddr,
        advertise: Option<&str>,
        http: SocketAddr,
    ) -> Result<Self, Problem> {
        let taken = |error: std::io::Error| {
            Problem::conflict(format!(
                "cannot listen on `{listen}`: {error}; choose another --cuts"
            ))
        };
        let listener = TcpListener::bind(listen).await.map_err(taken)?;
        let cuts = listener.local_addr().map_err(taken)?;
        let url = |at: SocketAddr| match advertise {
            Some(host) if host.contains(':') => format!("http://[{host}]:{}", at.port()),
            Some(host) => format!("http://{host}:{}", at.port()),
            None => format!("http://{at}"),
        };
        let endpoints = Endpoints {
            http: url(http),
            cuts: url(cuts),
        };
        Ok(Self {
            listener,
            endpoints,
        })
    }
}

impl Node {
    /// Takes its share of the events from now on, until `stop`, and hands out cuts of it.
    pub(super) fn join(&self, peers: Peers, auth: &AuthConfig, stop: CancellationToken) -> Joined {
        let inner = &self.0;
        let membership = Arc::new(Membership::new(self.clone(), peers.endpoints));
        let server = CutServer::of_member(
            Arc::clone(&inner.streams) as _,
            Arc::clone(&inner.catalog),
            Arc::clone(&membership) as _,
            Arc::clone(&inner.config.clock),
            permits(auth),
        );
        self.hand_out(server, peers.listener, stop.clone());
        let keeping = Arc::clone(&membership);
        Joined {
            membership,
            keeping: tokio::spawn(async move { keeping.keep(stop).await }),
        }
    }

    fn hand_out(&self, server: CutServer, listener: TcpListener, stop: CancellationToken) {
        // It filters and encodes: work of queries.
        self.0.runtimes.query().spawn(async move {
            if let Err(error) = server.serve(listener, stop).await {
                error!(%error, "cuts are not handed out any more");
            }
        });
    }

    /// Hands out cuts from now on, until `stop`, and says so to replicas; or says that it does not.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub(super) async fn meet(
        &self,
        peers: Option<Peers>,
        auth: &AuthConfig,
        stop: CancellationToken,
    ) -> Result<(), Problem> {
        let inner = &self.0;
        let endpoints = peers.as_ref().map(|peers| peers.endpoints.clone());
        if let Some(Peers {
            listener,
            endpoints,
        }) = peers
        {
            let reports = match inner.config.duty {
                Duty::Decides => Some(Arc::clone(&inner.members) as _),
                Duty::Everything | Duty::Ingests => None,
            };
            let server = CutServer::of_decider(
                Arc::clone(&inner.streams) as _,
                Arc::clone(&inner.catalog),
                inner.epoch,
                reports,
                Arc::clone(&inner.config.clock),
                permits(auth),
            );
            let server = server.with_work(inner.workers.0.clone());
            info!(cuts = %endpoints.cuts, http = %endpoints.http, "reached by other processes");
            self.hand_out(server, listener, stop);
        }
        let epoch = inner.epoch;
        let announced = inner.catalog.commit(|state| {
            let known = state
                .claim
                .as_ref()
                .and_then(|claim| claim.endpoints.as_deref());
            Ok::<_, std::convert::Infallible>(if known == endpoints.as_ref() {
                vec![]
            } else {
                let endpoints = endpoints.clone();
                vec![Entry::StoreServed { epoch, endpoints }]
            })
        });
        announced.await.map_err(|error: CommitError<_>| {
            let detail = format!("replicas cannot be told where this process is: {error}");
            Problem::new(ProblemKind::Unavailable, detail)
        })?;
        Ok(())
    }
}
