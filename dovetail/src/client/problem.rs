// SPDX-License-Identifier: Apache-2.0
//! A problem document as a client reads it: RFC 9457, and what to make of an answer that is none.

use std::fmt;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Map, Value};

/// Longest part of an answer that is no problem document which is still shown.
const MAX_EXCERPT_CHARS: usize = 500;

/// What a server says when it refuses or fails.
#[derive(Debug, Clone, PartialEq)]
pub struct ProblemDocument {
    /// The HTTP status it came with.
    pub status: u16,
    /// Short, the same for all problems of the kind.
    pub title: String,
    /// What was wrong, where, and the way out.
    pub detail: String,
    /// Everything else in the document, such as `line`, `column` or `run`.
    pub members: Map<String, Value>,
    /// How long the server asks to wait before the next attempt.
    pub retry_after: Option<Duration>,
}

impl ProblemDocument {
    /// Reads the body that came with a refusing `status`. A body that is no problem document (a proxy's
    /// HTML page, say) becomes the detail of one.
    pub fn read(status: StatusCode, body: &[u8]) -> Self {
        let title = || {
            status
                .canonical_reason()
                .unwrap_or("refused")
                .to_lowercase()
        };
        let Ok(Value::Object(mut members)) = serde_json::from_slice::<Value>(body) else {
            let text = String::from_utf8_lossy(body);
            let detail = text.trim().chars().take(MAX_EXCERPT_CHARS).collect();
            return Self {
                status: status.as_u16(),
                title: title(),
                detail,
                members: Map::new(),
                retry_after: None,
            };
        };
        let mut take_text = |name: &str| match members.shift_remove(name) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        let stated_title = take_text("title").unwrap_or_else(title);
        let detail = take_text("detail").unwrap_or_default();
        members.shift_remove("type");
        members.shift_remove("status");
        Self {
            status: status.as_u16(),
            title: stated_title,
            detail,
            members,
            retry_after: None,
        }
    }

    /// A member of the document.
    pub fn member(&self, name: &str) -> Option<&Value> {
        self.members.get(name)
    }

    /// Whether the same request may succeed a little later.
    pub fn is_transient(&self) -> bool {
        matches!(self.status, 429 | 502 | 503 | 504)
    }
}

/// As people read it: the title and the status, then the detail, then a line for each member.
impl fmt::Display for ProblemDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.title, self.status)?;
        for line in self.detail.lines() {
            write!(f, "\n  {line}")?;
        }
        for (name, value) in &self.members {
            match value {
                Value::String(text) => write!(f, "\n  {name}: {text}")?,
                other => write!(f, "\n  {name}: {other}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_of_a_problem_is_shown_once() {
        let body = br#"{"type":"about:blank","title":"the request is invalid","status":400,
            "detail":"`delay` is not a number","line":3,"column":"delay"}"#;
        let problem = ProblemDocument::read(StatusCode::BAD_REQUEST, body);
        assert_eq!(
            problem.to_string(),
            "the request is invalid (400)\n  `delay` is not a number\n  line: 3\n  column: delay"
        );
        assert!(!problem.is_transient());
    }

    #[test]
    fn a_page_of_a_proxy_becomes_the_detail() {
        let problem = ProblemDocument::read(StatusCode::BAD_GATEWAY, b"<html>down</html>\n");
        assert_eq!(
            problem.to_string(),
            "bad gateway (502)\n  <html>down</html>"
        );
        assert!(problem.is_transient());
    }
}
