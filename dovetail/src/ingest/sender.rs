// SPDX-License-Identifier: Apache-2.0
//! Sends one body after another, each until it is acknowledged or refused.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use dovetail_log::Format;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;
use tokio::time::Instant;

use crate::client::{Client, ClientError, RetryPolicy};

/// How long one attempt may take: an append answers once it is durable, which is soon.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);
/// Names an append, so that a second attempt at it is harmless.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What the server does with an event that it cannot decode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnError {
    /// Keeps it as a dead letter.
    #[default]
    DeadLetter,
    /// Refuses the request that holds it.
    Reject,
}

impl OnError {
    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeadLetter => "dead-letter",
            Self::Reject => "reject",
        }
    }
}

impl fmt::Display for OnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for OnError {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "dead-letter" => Ok(Self::DeadLetter),
            "reject" => Ok(Self::Reject),
            other => Err(format!("`{other}`: use dead-letter or reject")),
        }
    }
}

/// The answer to an append.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Ack {
    /// Events stored.
    pub accepted: u64,
    /// Events kept as dead letters.
    pub rejected: u64,
    /// Token of the position behind the append.
    pub position: String,
    /// Whether an earlier request with the same key did it.
    #[serde(default)]
    pub duplicate: bool,
}

/// Appends to one stream.
#[derive(Debug, Clone)]
pub struct Sender {
    client: Client,
    stream: String,
    on_error: OnError,
    retry: RetryPolicy,
}

impl Sender {
    /// A sender to `stream`.
    pub fn new(client: Client, stream: &str, on_error: OnError, retry: RetryPolicy) -> Self {
        Self {
            client,
            stream: stream.to_owned(),
            on_error,
            retry,
        }
    }

    /// The stream's name.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// Appends `body` under `key`. While the server is busy, stopped or out of reach, tries again with the
    /// same key and tells `on_wait` what it waits for.
    ///
    /// # Errors
    /// When the server refuses, or stays away for longer than the retry policy allows.
    pub async fn send(
        &self,
        body: Bytes,
        format: Format,
        key: &str,
        on_wait: &(dyn Fn(&ClientError, Duration) + Sync),
    ) -> Result<Ack, ClientError> {
        let mut retry = self.retry.start();
        loop {
            let error = match self.attempt(body.clone(), format, key).await {
                Ok(ack) => return Ok(ack),
                Err(error) if error.is_transient() => error,
                Err(error) => return Err(error),
            };
            let Some(wait) = retry.wait_after_failure(Instant::now(), error.retry_after()) else {
                return Err(error);
            };
            on_wait(&error, wait);
            tokio::time::sleep(wait).await;
        }
    }

    async fn attempt(&self, body: Bytes, format: Format, key: &str) -> Result<Ack, ClientError> {
        let request = self
            .client
            .request(Method::POST, &["v1", "streams", &self.stream])
            .query(&[("errors", self.on_error.as_str())])
            .header(CONTENT_TYPE, format.media_type())
            .header(IDEMPOTENCY_KEY, key)
            .timeout(ATTEMPT_TIMEOUT)
            .body(body);
        let answer = self.client.send_for_json(request).await?;
        serde_json::from_value(answer).map_err(|e| ClientError::Answer {
            url: format!("{}/v1/streams/{}", self.client.base(), self.stream),
            reason: e.to_string(),
        })
    }
}
