// SPDX-License-Identifier: Apache-2.0
//! The HTTP API, version 1.
//!
//! ```text
//! connection cap, timeouts, lingering close   server -> connection_io
//!   log, common headers, panic -> 500         router -> compress
//!     Host and Origin, or bearer token        origin, auth
//!       role                                call -> openapi, which describes each
//!         parameters, body                  routes -> params, body, json_body
//!         port                                crate::ports
//!       rows -> bytes                         answer -> encode
//! ```
//! Purpose: form, never meaning: who may ask, what was asked, and in which bytes it is answered.
//! Collaborators: [`Ports`](crate::ports::Ports) behind it, [`serve`] in front.
//! Invariants: every refusal is a problem document, unknown routes and bad parameters too; an answer that
//! fails after its headers breaks the connection and is never well formed; a caller that leaves drops the
//! answer's stream. Non-goals: TLS, sessions.

mod answer;
mod auth;
mod body;
mod call;
mod compress;
mod connection_io;
mod encode;
mod format;
mod forward;
mod json_body;
mod metrics;
mod openapi;
mod origin;
mod params;
mod patience;
mod places;
mod problem;
mod router;
mod routes;
mod server;
mod unread;
mod whole;

pub use auth::{AuthConfig, Role, TokenEntry, TokenError};
pub use encode::message_values;
pub use format::AnswerFormat;
pub use router::ApiConfig;
pub use server::{ServerConfig, serve};

/// Most bytes of a JSON or SQL request body.
pub const MAX_COMMAND_BYTES: usize = 4 * 1024 * 1024;
/// Header: the generation that was read, or `view=generation` pairs when several views were, or `none`.
pub const GENERATION_HEADER: &str = "dovetail-generation";
/// Header: position tokens joined by `;`, as `after=` takes them, or `none`.
pub const POSITION_HEADER: &str = "dovetail-position";
/// Header: the worst freshness among the streams that were read, in milliseconds.
pub const FRESHNESS_HEADER: &str = "dovetail-freshness-ms";
/// Header: what the answer runs over and its topics lost, as `stream:partition@from..to,…`, joined by `;`. Absent
/// where nothing was lost.
pub const HOLES_HEADER: &str = "dovetail-holes";
/// Header: give it as `cursor=` for the next page of rows. Absent on the last page.
pub const CURSOR_HEADER: &str = "dovetail-cursor";

#[cfg(test)]
mod tests;
