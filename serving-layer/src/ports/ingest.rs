// SPDX-License-Identifier: Apache-2.0
//! Appends and dead letters.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use dovetail_log::Format;
use dovetail_model::{Offset, PartitionId, digits};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What to do with an event that cannot be decoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, JsonSchema)]
#[schemars(rename_all = "kebab-case")]
pub enum OnError {
    /// Refuse the whole request: nothing is stored.
    #[default]
    Reject,
    /// Keep it as a dead letter beside the good events.
    DeadLetter,
}

impl FromStr for OnError {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "reject" => Ok(Self::Reject),
            "dead-letter" => Ok(Self::DeadLetter),
            other => Err(format!(
                "`{other}` says nothing about errors: use reject or dead-letter"
            )),
        }
    }
}

/// One append, decompressed.
#[derive(Debug, Clone)]
pub struct AppendRequest {
    /// The format of `body`.
    pub format: Format,
    /// The events, at most as many bytes as [`crate::http::ApiConfig`] allows.
    pub body: Bytes,
    /// What to do with events that cannot be decoded.
    pub on_error: OnError,
    /// Makes a retry harmless: 1 to 255 visible ASCII characters.
    pub idempotency_key: Option<String>,
    /// For dead letters: where the body came from.
    pub origin: String,
}

/// What an append did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AppendAnswer {
    /// Events stored.
    pub accepted: u64,
    /// Events that became dead letters.
    pub rejected: u64,
    /// Token of the position right behind this append.
    pub position: String,
    /// Whether an earlier request with the same idempotency key did it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
}

/// A dead letter's place in its stream. Reads `0@1234`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
pub struct DeadLetterId {
    /// The partition.
    pub partition: PartitionId,
    /// The offset.
    pub offset: Offset,
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.partition, self.offset)
    }
}

impl FromStr for DeadLetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text
            .split_once('@')
            .and_then(|(p, o)| Some((digits(p)?, digits(o)?)));
        let (partition, offset) = parts.ok_or_else(|| {
            format!("`{text}` is not a dead letter's id: it reads `partition@offset`, as the list gives it")
        })?;
        Ok(Self { partition, offset })
    }
}

impl TryFrom<String> for DeadLetterId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DeadLetterId> for String {
    fn from(id: DeadLetterId) -> String {
        id.to_string()
    }
}

/// Which dead letters to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterQuery {
    /// Only those behind this one.
    pub cursor: Option<DeadLetterId>,
    /// Most to list, 1 to 1000.
    pub limit: usize,
}

/// One dead letter, as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetterInfo {
    /// Its place.
    pub id: DeadLetterId,
    /// Why it could not be decoded.
    pub reason: String,
    /// Line in its request, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The column, or path of the field, that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// The format it came in.
    pub format: Format,
    /// Where it came from.
    pub origin: String,
    /// When it came, ISO 8601, UTC.
    pub arrived_at: String,
    /// The event as it came; bytes that are not UTF-8 are replaced. At most 4 KiB of it.
    pub text: String,
    /// The event byte for byte, in Base64, where `text` is not all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// What its record has beside the value, if it was one of a topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<RecordInfo>,
    /// Its whole size.
    pub bytes: u64,
}

/// What a record has beside its value. What is no UTF-8 is replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RecordInfo {
    /// Its key.
    pub key: Option<String>,
    /// Its timestamp, ISO 8601, UTC.
    pub timestamp: Option<String>,
    /// Its headers in their order: name and value.
    pub headers: Vec<(String, Option<String>)>,
}

/// A page of dead letters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetterPage {
    /// Oldest first.
    pub dead_letters: Vec<DeadLetterInfo>,
    /// Give it as `cursor=` to go on; null at the end.
    pub cursor: Option<DeadLetterId>,
    /// How many there are in all.
    pub total: u64,
}

/// Which dead letters to try again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayRequest {
    /// These; all when absent.
    #[serde(default)]
    pub ids: Option<Vec<DeadLetterId>>,
}

/// What a replay of dead letters did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplayAnswer {
    /// Dead letters that are events now.
    pub accepted: u64,
    /// Dead letters that still cannot be decoded, and stay.
    pub rejected: u64,
    /// Token of the position right behind the new events.
    pub position: String,
    /// Why the first of those that stay are no events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<StillBad>,
}

/// A dead letter that was tried again and stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StillBad {
    /// Its place.
    pub id: DeadLetterId,
    /// Why it is no event under the present schema.
    pub reason: String,
}
