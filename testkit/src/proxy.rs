// SPDX-License-Identifier: Apache-2.0
//! What goes wrong between a client and an HTTP server: throttling, torn connections, silence.
//!
//! Invariants: a request without a fault reaches the server as it came, the `Host` that its signature covers included,
//! and so does the answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is not passed on: the answer is `503 SlowDown`.
    SlowDown,
    /// It is passed on and done, then the answer is `503 SlowDown`, as from a balancer that lost patience.
    SlowDownAfter,
    /// It is not passed on: the answer is that our clock is wrong, `403 RequestTimeTooSkewed`.
    Skew,
    /// It is passed on and done, then the connection ends without an answer.
    Tear,
    /// It is not passed on and never answered.
    Silence,
}

#[derive(Debug)]
struct Armed {
    method: Method,
    part: String,
    fault: Fault,
    times: usize,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    armed: Mutex<Option<Armed>>,
    happened: AtomicUsize,
    passed: AtomicUsize,
}

/// A proxy before one server, on a port of its own. Ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: AbortHandle,
}

impl Proxy {
    /// Starts one before the server at `target`.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start(target: SocketAddr) -> Self {
        let bound = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = bound.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            target,
            armed: Mutex::new(None),
            happened: AtomicUsize::new(0),
            passed: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Self {
            shared,
            address,
            accepting,
        }
    }

    /// The URL of its endpoint.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next `times` requests of `method` whose path contains `part` suffer `fault`. Replaces what was armed.
    pub fn arm(&self, method: &str, part: &str, fault: Fault, times: usize) {
        let method = method.parse().expect("a method");
        self.shared.happened.store(0, Ordering::Relaxed);
        *self.shared.armed.lock() = Some(Armed {
            method,
            part: part.to_owned(),
            fault,
            times,
        });
    }

    /// How many requests have suffered since the last [`Proxy::arm`].
    pub fn happened(&self) -> usize {
        self.shared.happened.load(Ordering::Relaxed)
    }

    /// How many requests the server has answered.
    pub fn passed(&self) -> usize {
        self.shared.passed.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        let service = service_fn(move |request| {
            let shared = Arc::clone(&shared);
            async move { shared.answer(request).await }
        });
        // A connection that ends early is what this is for.
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// The connection ends here.
#[derive(Debug, thiserror::Error)]
#[error("torn on purpose")]
struct Torn;

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Torn> {
        let fault = self.fault_for(&request);
        match fault {
            Some(Fault::SlowDown) => return Ok(slow_down()),
            Some(Fault::Skew) => return Ok(skewed()),
            Some(Fault::Silence) => std::future::pending::<()>().await,
            Some(Fault::SlowDownAfter | Fault::Tear) | None => {}
        }
        // The server is gone, or ends in the middle: so does this connection.
        let answer = self.pass_on(request).await.map_err(|_| Torn)?;
        self.passed.fetch_add(1, Ordering::Relaxed);
        match fault {
            Some(Fault::Tear) => Err(Torn),
            Some(Fault::SlowDownAfter) => Ok(slow_down()),
            _ => Ok(answer),
        }
    }

    fn fault_for(&self, request: &Request<Incoming>) -> Option<Fault> {
        let mut armed = self.armed.lock();
        let next = armed.as_mut()?;
        let path = request.uri().path();
        if next.times == 0 || next.method != *request.method() || !path.contains(&next.part) {
            return None;
        }
        next.times -= 1;
        self.happened.fetch_add(1, Ordering::Relaxed);
        Some(next.fault)
    }

    async fn pass_on(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
        let (head, body) = request.into_parts();
        let request = Request::from_parts(head, Full::new(body.collect().await?.to_bytes()));
        let stream = TcpStream::connect(self.target).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let answered = async {
            let (head, body) = sender.send_request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok(Response::from_parts(head, Full::new(body)))
        };
        let answered = answered.await;
        connection.abort();
        answered
    }
}

fn slow_down() -> Response<Full<Bytes>> {
    refusal(
        hyper::StatusCode::SERVICE_UNAVAILABLE,
        "SlowDown",
        "Please reduce your request rate.",
    )
}

fn skewed() -> Response<Full<Bytes>> {
    refusal(
        hyper::StatusCode::FORBIDDEN,
        "RequestTimeTooSkewed",
        "The difference between the request time and the current time is too large.",
    )
}

fn refusal(status: hyper::StatusCode, code: &str, message: &str) -> Response<Full<Bytes>> {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
        <Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}
