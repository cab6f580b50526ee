// SPDX-License-Identifier: Apache-2.0
//! What this process is to replicas: where it says that it is, and the cuts that it hands out.

use std::net::SocketAddr;
use std::sync::Arc;

use dovetail_exchange::CutServer;
use dovetail_log::catalog::CommitError;
use dovetail_model::{Endpoints, Entry, Problem, ProblemKind};
use dovetail_serving_layer::http::AuthConfig;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::Node;

/// Cuts that will be handed out on `listener`.
pub(super) struct Peers {
    /// Where.
    pub(super) listener: TcpListener,
    /// As replicas reach this process.
    pub(super) endpoints: Endpoints,
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
            let auth = auth.clone();
            let server = CutServer::new(
                Arc::clone(&inner.streams) as _,
                Arc::clone(&inner.catalog),
                inner.epoch,
                Arc::clone(&inner.config.clock),
                Arc::new(move |headers| auth.check_reader(headers.as_ref())),
            );
            info!(cuts = %endpoints.cuts, http = %endpoints.http, "handing out cuts to replicas");
            // It filters and encodes: work of queries.
            inner.runtimes.query().spawn(async move {
                if let Err(error) = server.serve(listener, stop).await {
                    error!(%error, "cuts are not handed out any more");
                }
            });
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
