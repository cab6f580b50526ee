// SPDX-License-Identifier: Apache-2.0
//! What went wrong, in the shape callers see: an RFC 9457 problem document without its transport.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a caller can do about a problem. A kind exists only if callers act differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// The request is wrong: fix it. HTTP 400.
    Invalid,
    /// No credentials, or unknown ones. HTTP 401.
    Unauthenticated,
    /// The caller may not do this. HTTP 403.
    Forbidden,
    /// There is no such thing. HTTP 404.
    NotFound,
    /// None of the acceptable formats can be answered. HTTP 406.
    NotAcceptable,
    /// Waited as long as was allowed. HTTP 408.
    Timeout,
    /// The state of things stands against it: look, then decide. HTTP 409.
    Conflict,
    /// The request is larger than a limit: split it. HTTP 413.
    TooLarge,
    /// The body's content type or encoding is not one we read. HTTP 415.
    UnsupportedMedia,
    /// The request is well formed but contradicts an earlier one. HTTP 422.
    Unprocessable,
    /// A limit of the server is reached: try again later. HTTP 429.
    Busy,
    /// A fault of ours: an operator must look. HTTP 500.
    Internal,
    /// Not now: starting, building, stopping. HTTP 503.
    Unavailable,
}

impl ProblemKind {
    /// All of them, by status.
    pub const ALL: [Self; 13] = [
        Self::Invalid,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::NotAcceptable,
        Self::Timeout,
        Self::Conflict,
        Self::TooLarge,
        Self::UnsupportedMedia,
        Self::Unprocessable,
        Self::Busy,
        Self::Internal,
        Self::Unavailable,
    ];

    /// The HTTP status code.
    pub fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::NotAcceptable => 406,
            Self::Timeout => 408,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::UnsupportedMedia => 415,
            Self::Unprocessable => 422,
            Self::Busy => 429,
            Self::Internal => 500,
            Self::Unavailable => 503,
        }
    }

    /// A short title, the same for every problem of this kind.
    pub fn title(self) -> &'static str {
        match self {
            Self::Invalid => "the request is invalid",
            Self::Unauthenticated => "authentication is required",
            Self::Forbidden => "this is not allowed",
            Self::NotFound => "not found",
            Self::NotAcceptable => "no acceptable format",
            Self::Timeout => "timed out",
            Self::Conflict => "in conflict with the current state",
            Self::TooLarge => "too large",
            Self::UnsupportedMedia => "unsupported content",
            Self::Unprocessable => "contradicts an earlier request",
            Self::Busy => "too busy",
            Self::Internal => "internal error",
            Self::Unavailable => "unavailable",
        }
    }
}

/// The end of a message that something is not there: how those that are there are found.
pub fn way_to_find(what: &str) -> &'static str {
    match what {
        "stream" => "; SHOW STREAMS lists them",
        "view" => "; SHOW VIEWS lists them",
        "stream or view" => "; SHOW TABLES lists them",
        "run" => "; SHOW RUNS and `dovetail runs` list them",
        "generation" => "; `GET /v1/views/{view}/status` lists those that are kept",
        "dead letter" => {
            "; `GET /v1/streams/{stream}/dead-letters` lists those that wait for a replay"
        }
        "exclusion" => "; `GET /v1/streams/{stream}/exclusions` lists those that hold",
        "column" => "; DESCRIBE and the name of the stream lists them",
        "dropped stream" | "dropped view" => {
            "; UNDROP takes the name that it had when it was dropped"
        }
        _ => "",
    }
}

/// A problem: its kind, a sentence that names what was wrong and where, and members that programs read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// What callers can do about it.
    pub kind: ProblemKind,
    /// What was wrong, where, and the way out. Lowercase, no full stop.
    pub detail: String,
    /// Further members of the problem document, such as `line`, `column` or `run`.
    pub members: serde_json::Map<String, serde_json::Value>,
}

impl Problem {
    /// A problem of `kind` that reads `detail`.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            members: serde_json::Map::new(),
        }
    }

    /// The request is wrong.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(ProblemKind::Invalid, detail)
    }

    /// There is no `what` named `name`.
    pub fn not_found(what: &str, name: impl fmt::Display) -> Self {
        let name: String = name.to_string().chars().take(200).collect();
        let detail = format!("there is no {what} `{name}`{}", way_to_find(what));
        Self::new(ProblemKind::NotFound, detail)
    }

    /// The state of things stands against it.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(ProblemKind::Conflict, detail)
    }

    /// A fault of ours.
    pub fn internal(detail: impl fmt::Display) -> Self {
        Self::new(ProblemKind::Internal, detail.to_string())
    }

    /// The same problem with one more member.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<serde_json::Value>) -> Self {
        self.members.insert(member.to_owned(), value.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}
