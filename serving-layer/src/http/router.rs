// SPDX-License-Identifier: Apache-2.0
//! The routes, and what stands around all of them.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRef, FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use dovetail_model::Problem;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::debug;

use super::auth::{AuthConfig, Caller};
use super::body::BodyReader;
use super::compress::compress;
use super::forward::Forwarder;
use super::params::Params;
use super::patience::Patience;
use super::problem::{Refusal, panicked, unknown_route, wrong_method};
use super::unread::close_if_unread;
use super::whole::whole_over_http_1_0;
use super::{origin, routes};
use crate::ports::{Limits, Measures, Ports, Queries, ReadPorts, Served};

/// What the API needs besides its ports.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// Who may ask.
    pub auth: AuthConfig,
    /// Most bytes of the body of an append, before and after decompression.
    pub max_body_bytes: usize,
    /// Time of a query that does not say its own.
    pub query_timeout: Duration,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            auth: AuthConfig::default(),
            max_body_bytes: 64 * 1024 * 1024,
            query_timeout: Duration::from_secs(30),
        }
    }
}

/// What handlers share.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) ports: Ports,
    pub(super) bodies: BodyReader,
    pub(super) max_body_bytes: usize,
    query_timeout: Duration,
    closing: CancellationToken,
}

/// What handlers of reads share, in every process that answers them.
#[derive(Clone)]
pub(super) struct Reads {
    pub(super) queries: Arc<dyn Queries>,
    pub(super) measures: Arc<dyn Measures>,
    pub(super) bodies: BodyReader,
    /// What is no read.
    pub(super) others: Others,
    /// Time of a query that does not say its own.
    pub(super) query_timeout: Duration,
    closing: CancellationToken,
}

/// Who does what is no read.
#[derive(Clone)]
pub(super) enum Others {
    /// This process.
    Here(Ports),
    /// Another one.
    Elsewhere(Forwarder),
}

impl Reads {
    pub(super) fn patience(&self, limits: &Limits) -> Patience {
        Patience::new(limits, self.closing.clone())
    }
}

impl FromRef<Api> for Reads {
    fn from_ref(api: &Api) -> Self {
        Self {
            queries: Arc::clone(&api.ports.queries),
            measures: Arc::clone(&api.ports.measures),
            bodies: api.bodies.clone(),
            others: Others::Here(api.ports.clone()),
            query_timeout: api.query_timeout,
            closing: api.closing.clone(),
        }
    }
}

/// The whole API over what is served. Queries that run when `closing` is cancelled are answered that the server ends.
pub(super) fn router(served: Served, config: ApiConfig, closing: CancellationToken) -> Router {
    let routes = match served {
        Served::All(ports) => all(ports, &config, closing),
        Served::Reads(ports) => reads(ports, &config, closing),
    };
    routes
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(compress))
        .layer(from_fn_with_state(Arc::new(config.auth), authenticate))
        .layer(from_fn(finish))
        .layer(from_fn(whole_over_http_1_0))
        .layer(from_fn(close_if_unread))
}

fn all(ports: Ports, config: &ApiConfig, closing: CancellationToken) -> Router {
    let api = Api {
        ports,
        closing,
        bodies: BodyReader::default(),
        max_body_bytes: config.max_body_bytes,
        query_timeout: config.query_timeout,
    };
    let calls = routes::calls().into_iter().flat_map(|(_, calls)| calls);
    calls
        .fold(Router::new(), |router, call| call.join(router))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .with_state(api)
}

/// Reads are answered here, and everything else by the process that does it.
fn reads(ports: ReadPorts, config: &ApiConfig, closing: CancellationToken) -> Router {
    let forwarder = Forwarder::new(ports.others);
    let reads = Reads {
        queries: ports.queries,
        measures: ports.measures,
        bodies: BodyReader::default(),
        others: Others::Elsewhere(forwarder.clone()),
        query_timeout: config.query_timeout,
        closing,
    };
    let forward = move |request: Request| async move { forwarder.forward(request).await };
    let calls = routes::calls_of_reads().into_iter();
    calls
        .fold(Router::new(), |router, call| call.join(router))
        .fallback(forward.clone())
        .method_not_allowed_fallback(forward)
        .with_state(reads)
}

/// Middleware: settles who is asking.
async fn authenticate(
    State(auth): State<Arc<AuthConfig>>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = if auth.is_open() {
        origin::check(request.uri(), request.headers()).map(|()| Caller::anyone())
    } else if matches!(request.uri().path(), "/healthz" | "/readyz") {
        // Probes have no token and learn nothing.
        Ok(Caller::anyone())
    } else {
        auth.authenticate(request.headers())
    };
    match caller {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => Refusal::from(problem).into_response(),
    }
}

/// Middleware: what every response carries, and the log.
async fn finish(request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let started = Instant::now();
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    let status = response.status().as_u16();
    let elapsed_ms = started.elapsed().as_millis();
    debug!(%method, path, status, elapsed_ms, "answered");
    response
}

/// Extractor: a part of the path, or several, decoded.
#[derive(Debug)]
pub(super) struct PathOf<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for PathOf<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(e) => Err(Problem::invalid(e.body_text().to_lowercase()).into()),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        Ok(Self::parse(parts.uri.query())?)
    }
}
