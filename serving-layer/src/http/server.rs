// SPDX-License-Identifier: Apache-2.0
//! Connections: accepting them, bounding them, ending them.
//!
//! `axum::serve` has no header timeout, so this accepts with hyper itself. Heads that do not come to an end, idle
//! connections, connection cap, stalled readers and the end of the process are settled here; everything inside a
//! request is the router's.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulConnection, GracefulShutdown};
use tokio::net::{TcpListener, TcpStream};
use tokio::pin;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::connection_io::{ConnectionIo, Waits};
use super::places::{Place, Places};
use super::router::{ApiConfig, router};
use crate::ports::Served;

/// Most bytes of a request line and its headers.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Pause after an accept that failed for want of something, such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long connections that are cut off may take to end.
const CUT_OFF_WAIT: Duration = Duration::from_secs(1);

/// How connections are bounded.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Most connections at once; more wait in the kernel's backlog, until one ends, or gives way that waits for its client.
    pub max_connections: usize,
    /// How long a client may take from the first byte of a request's head to the last: then it gets a 408.
    pub head_timeout: Duration,
    /// How long a connection may be without a request.
    pub idle_timeout: Duration,
    /// How long a client may not read what is sent to it.
    pub stall_timeout: Duration,
    /// How long queries may go on after shutdown began: then they are answered that the server ends, or break off.
    pub query_grace: Duration,
    /// How long requests may go on after shutdown began.
    pub shutdown_grace: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(60),
            query_grace: Duration::from_secs(2),
            shutdown_grace: Duration::from_secs(10),
        }
    }
}

/// Serves the API over what is `served` on `listener` until `shutdown` is done; then accepts no more, lets queries and other
/// requests end within their grace, and cuts off the rest.
pub async fn serve(
    listener: TcpListener,
    served: Served,
    api: ApiConfig,
    config: ServerConfig,
    shutdown: impl Future<Output = ()>,
) {
    let closing = CancellationToken::new();
    let router = router(served, api, closing.clone());
    let graceful = GracefulShutdown::new();
    let places = Places::new(config.max_connections);
    let mut connections = JoinSet::new();
    pin!(shutdown);
    loop {
        let accepted = async {
            let (stream, _) = listener.accept().await?;
            Ok((stream, places.take().await))
        };
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accepted => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, (place, taken))) => {
                let connection = connection(stream, &place, router.clone(), &config);
                let watched = graceful.watch(connection);
                connections.spawn(async move {
                    tokio::select! {
                        ended = watched => {
                            if let Err(error) = ended {
                                debug!(%error, "a connection ended early");
                            }
                        }
                        () = place.gives_way() => debug!("a connection gave way to another one"),
                    }
                    drop(taken);
                });
            }
            Err(error) if is_of_the_client(&error) => debug!(%error, "a client left at once"),
            Err(error) => {
                warn!(%error, "cannot accept connections");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let cut_off_at = Instant::now() + config.shutdown_grace;
    let ending = graceful.shutdown();
    pin!(ending);
    if timeout(config.query_grace.min(config.shutdown_grace), &mut ending)
        .await
        .is_err()
    {
        closing.cancel();
        if timeout_at(cut_off_at, ending).await.is_err() {
            let remaining = connections.len();
            warn!(remaining, "connections are cut off at shutdown");
        }
    }
    // What computes for one of them in the middle of a poll is not waited for: the process ends without it.
    if timeout(CUT_OFF_WAIT, connections.shutdown()).await.is_err() {
        warn!("a request does not give way; the server stops without it");
    }
    info!("the HTTP server has stopped");
}

/// Errors of `accept` that only say that a client went away again.
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

fn connection(
    stream: TcpStream,
    place: &Arc<Place>,
    router: Router,
    config: &ServerConfig,
) -> impl GracefulConnection<Error = hyper::Error> + use<> {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "cannot set TCP_NODELAY");
    }
    let waits = Waits {
        head: config.head_timeout,
        reader: config.stall_timeout,
    };
    let io = TokioIo::new(ConnectionIo::new(stream, Arc::clone(place), waits));
    let place = Arc::clone(place);
    let service = service_fn(move |request| Arc::clone(&place).answer(router.clone(), request));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.idle_timeout)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(io, service)
}
