// SPDX-License-Identifier: Apache-2.0
//! One call of the API, as the router and the document both read it.
//!
//! A handler is reached through a [`Call`] and in no other way, and a call cannot be without its [`Operation`]. So a
//! route that is not documented does not exist, and the role that the document names is the one that is asked for.

use axum::Router;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, on};
use dovetail_model::Problem;

use super::auth::{Caller, Role};
use super::openapi::Operation;
use super::problem::Handled;

/// A method and a path, what answers them, and what the document says of it.
pub(super) struct Call<S> {
    /// In lower case, as the document writes it.
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) operation: Operation,
    handler: MethodRouter<S>,
}

impl<S: Clone + Send + Sync + 'static> Call<S> {
    pub(super) fn get<T: 'static>(
        path: &'static str,
        handler: impl Handler<T, S>,
        operation: Operation,
    ) -> Self {
        Self {
            method: "get",
            path,
            operation,
            handler: on(MethodFilter::GET, handler),
        }
    }

    pub(super) fn post<T: 'static>(
        path: &'static str,
        handler: impl Handler<T, S>,
        operation: Operation,
    ) -> Self {
        Self {
            method: "post",
            path,
            operation,
            handler: on(MethodFilter::POST, handler),
        }
    }

    pub(super) fn delete<T: 'static>(
        path: &'static str,
        handler: impl Handler<T, S>,
        operation: Operation,
    ) -> Self {
        Self {
            method: "delete",
            path,
            operation,
            handler: on(MethodFilter::DELETE, handler),
        }
    }

    /// `router` with this call, which answers whoever has its role.
    pub(super) fn join(self, router: Router<S>) -> Router<S> {
        let handler = match self.operation.role() {
            Some(role) => self
                .handler
                .route_layer(from_fn_with_state(role, require_role)),
            None => self.handler,
        };
        router.route(self.path, handler)
    }
}

/// Middleware: refuses callers below `role`. One whom nobody has authenticated is a fault of the router, not of the caller.
async fn require_role(State(role): State<Role>, request: Request, next: Next) -> Handled {
    let caller = request.extensions().get::<Caller>();
    let caller = caller.ok_or_else(|| Problem::internal("the request was not authenticated"))?;
    caller.require(role)?;
    Ok::<Response, _>(next.run(request).await)
}
