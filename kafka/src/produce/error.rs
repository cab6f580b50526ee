// SPDX-License-Identifier: Apache-2.0
//! Why an append to a topic was refused, or what is not known of it.

use dovetail_model::{Problem, ProblemKind};

use crate::KafkaError;

/// What became of an append that was not answered with its position. All but [`ProduceError::Unknown`] mean that
/// nothing of it is in the topic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProduceError {
    /// The topic cannot be written to: brokers, credentials, the topic itself. Nothing is kept.
    #[error("{0}")]
    Topic(#[from] KafkaError),
    /// The brokers know us and say no: grant what is missing.
    #[error("the brokers do not let us append: {reason}; grant {grant}")]
    Forbidden {
        /// What the broker says.
        reason: String,
        /// Which rights are needed, and on what.
        grant: String,
    },
    /// A record is larger than its topic takes: make it smaller, or raise the limit.
    #[error(
        "event {event} makes a record of {bytes} bytes, and topic `{topic}` takes at most {limit} (its `max.message.bytes`); nothing of the request was kept"
    )]
    TooLarge {
        /// The topic.
        topic: String,
        /// The number of the event in its request, from 1.
        event: usize,
        /// The size of its record.
        bytes: usize,
        /// What the topic takes.
        limit: usize,
    },
    /// The brokers found a batch of records too large, though each of them is not.
    #[error(
        "topic `{topic}` refused records as too large: {reason}; send fewer or smaller events, or let the user DESCRIBE_CONFIGS on the topic, so that its `max.message.bytes` is known; nothing of the request was kept"
    )]
    BatchTooLarge {
        /// The topic.
        topic: String,
        /// What the broker says.
        reason: String,
    },
    /// More events than one transaction may have: split the request.
    #[error(
        "the body holds {events} events, and one request may append {limit} to a topic; split it"
    )]
    TooMany {
        /// How many.
        events: usize,
        /// The limit.
        limit: usize,
    },
    /// The topic does not take such records.
    #[error("topic `{topic}` refuses a record: {reason}; nothing of the request was kept")]
    Refused {
        /// The topic.
        topic: String,
        /// What the broker says.
        reason: String,
    },
    /// It did not come to a commit. Try again.
    #[error("the append did not come about: {reason}; nothing of it was kept; try again")]
    NotKept {
        /// Why.
        reason: String,
    },
    /// The commit was asked for and not answered: the events may or may not be there.
    #[error(
        "the brokers did not answer the commit, so the events may or may not be in the topic: {reason}; {}",
        way_out(*keyed)
    )]
    Unknown {
        /// Why.
        reason: String,
        /// Whether the request had an idempotency key.
        keyed: bool,
    },
    /// The key was used for another body.
    #[error(
        "idempotency key `{key}` was used for another body within the last 24 h; use a new key for a new request"
    )]
    KeyReused {
        /// The key.
        key: String,
    },
    /// As many keys are remembered as may be.
    #[error(
        "{remembered} idempotency keys are remembered, the most that is allowed; append without one, or wait until older ones have passed 24 h"
    )]
    TooManyKeys {
        /// How many.
        remembered: usize,
    },
    /// The topic of the keys is not there and cannot be made, or is not as it must be.
    #[error(
        "idempotency keys of the stream are kept in topic `{topic}`, and {reason}; append without a key, or have an administrator run: {command}"
    )]
    KeysTopic {
        /// Its name.
        topic: String,
        /// What stands in the way.
        reason: String,
        /// The command that makes it.
        command: String,
    },
    /// A record of the keys' topic is not one of ours, or of a newer version.
    #[error(
        "the record at offset {offset} of partition {partition} of topic `{topic}` is no idempotency key that this version reads: {reason}"
    )]
    KeyUnreadable {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// The offset.
        offset: i64,
        /// What is wrong.
        reason: String,
    },
    /// The stream is closing.
    #[error("the stream is closing; nothing of the append was kept; try again")]
    Closed,
}

fn way_out(keyed: bool) -> &'static str {
    if keyed {
        "send the same request with the same `Idempotency-Key` again: it counts once"
    } else {
        "it had no `Idempotency-Key`, so look whether they are there before you send it again; with a key a retry counts once"
    }
}

impl ProduceError {
    /// How the API reports it.
    pub fn kind(&self) -> ProblemKind {
        match self {
            Self::Topic(KafkaError::Forbidden { .. })
            | Self::Forbidden { .. }
            | Self::KeysTopic { .. } => ProblemKind::Forbidden,
            Self::Topic(
                KafkaError::NoTopic(_)
                | KafkaError::OtherTopic { .. }
                | KafkaError::Backwards { .. },
            ) => ProblemKind::Conflict,
            Self::TooLarge { .. } | Self::BatchTooLarge { .. } | Self::TooMany { .. } => {
                ProblemKind::TooLarge
            }
            Self::Refused { .. } => ProblemKind::Invalid,
            Self::KeyReused { .. } => ProblemKind::Unprocessable,
            Self::TooManyKeys { .. } => ProblemKind::Busy,
            Self::Topic(_) | Self::NotKept { .. } | Self::Unknown { .. } | Self::Closed => {
                ProblemKind::Unavailable
            }
            Self::KeyUnreadable { .. } => ProblemKind::Internal,
        }
    }

    /// As callers see it; `outcome` is `unknown` where it is.
    pub fn problem(&self) -> Problem {
        let problem = Problem::new(self.kind(), self.to_string());
        match self {
            Self::Unknown { .. } => problem.with("outcome", "unknown").with("retry_after_s", 2),
            Self::TooLarge { event, limit, .. } => {
                problem.with("event", *event).with("limit", *limit)
            }
            _ if problem.kind == ProblemKind::Unavailable => problem.with("retry_after_s", 2),
            _ => problem,
        }
    }
}
