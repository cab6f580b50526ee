// SPDX-License-Identifier: Apache-2.0
//! What can stand between a stream and its topic.

use dovetail_model::{Offset, PartitionId, ProblemKind};
use rdkafka_sys::rd_kafka_resp_err_t as Code;

use crate::native::Fault;

/// What went wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KafkaError {
    /// No broker can be spoken to.
    #[error(
        "no broker of `{brokers}` answers: {reason}; check that Kafka runs there, `brokers`, and that the listener speaks `security_protocol`"
    )]
    Unreachable {
        /// As declared.
        brokers: String,
        /// What librdkafka says.
        reason: String,
    },
    /// The brokers refuse who we are.
    #[error(
        "the brokers at `{brokers}` refuse the credentials: {reason}; check `security_protocol`, `sasl_mechanism`, `sasl_username` and what `sasl_password` refers to"
    )]
    Authentication {
        /// As declared.
        brokers: String,
        /// What librdkafka says.
        reason: String,
    },
    /// The brokers know us and say no.
    #[error(
        "topic `{topic}` may not be read or described: {reason}; grant READ and DESCRIBE on the topic to the user, and READ on group `{group}`, or on all that begin with `dovetail-`"
    )]
    Forbidden {
        /// Its name.
        topic: String,
        /// The consumer group that fetches are made for.
        group: String,
        /// What the broker says.
        reason: String,
    },
    /// There is no such topic.
    #[error(
        "there is no topic `{0}` at the brokers: to declare a stream on it, create it or correct `topic`; a stream that has read it goes on if it comes back, and one that is made anew is another topic"
    )]
    NoTopic(String),
    /// A file that an option names is not there.
    #[error("`{option}` names `{path}`, which cannot be read: {reason}")]
    File {
        /// The option.
        option: String,
        /// The file.
        path: String,
        /// Why not.
        reason: String,
    },
    /// A secret that an option refers to is not there.
    #[error("`{option}` refers to `{reference}`, which cannot be read: {reason}")]
    Secret {
        /// The option.
        option: String,
        /// What it says; never the secret.
        reference: String,
        /// Why.
        reason: String,
    },
    /// An option that librdkafka does not take.
    #[error("the options of the topic do not work together: {0}")]
    Options(String),
    /// A start that the topic cannot give.
    #[error("{0}")]
    Start(String),
    /// Retention took what the stream has not read.
    #[error(
        "topic `{topic}` no longer keeps offsets {from} to {kept} of partition {partition}, which the stream has not read: its retention was shorter than the stream was behind. Answers stay as of {from}. `ALTER STREAM … SKIP HOLE` goes on without them and says so in every answer; or bring the records back under their offsets and start the server again"
    )]
    Hole {
        /// Its name.
        topic: String,
        /// The partition.
        partition: PartitionId,
        /// The next offset that the stream would have read.
        from: Offset,
        /// The first that is kept.
        kept: Offset,
    },
    /// The partition ends before what was read of it.
    #[error(
        "partition {partition} of topic `{topic}` ends at offset {end}, but the stream has read up to {read}: the topic lost records or was replaced. Answers stay as of {read}. Restore the topic, or drop the stream and declare it again"
    )]
    Backwards {
        /// Its name.
        topic: String,
        /// The partition.
        partition: PartitionId,
        /// What the stream has read.
        read: Offset,
        /// Where the partition ends.
        end: Offset,
    },
    /// A topic of the same name that is another one.
    #[error(
        "topic `{topic}` was deleted and created again: its id is {found}, the stream was declared on {declared}. Its offsets mean other events, so none is read. Drop the stream and declare it again to read the new topic"
    )]
    OtherTopic {
        /// Its name.
        topic: String,
        /// The id of the topic that the stream reads.
        declared: String,
        /// The id that is there now.
        found: String,
    },
    /// The schema registry cannot be asked for now.
    #[error(
        "the schema registry at `{url}` does not answer: {reason}; check that it runs there, and `schema_registry`"
    )]
    RegistryUnreachable {
        /// As declared.
        url: String,
        /// What stands in the way.
        reason: String,
    },
    /// The schema registry refuses who we are.
    #[error(
        "the schema registry at `{url}` refuses the credentials: {reason}; check `schema_registry_username` and what `schema_registry_password` or `schema_registry_token` refers to"
    )]
    RegistryDenied {
        /// As declared.
        url: String,
        /// What it says.
        reason: String,
    },
    /// What answers is no schema registry, or none that can be used.
    #[error(
        "`{url}` answers, but not as a schema registry: {reason}; check the path of `schema_registry` (Apicurio's is `/apis/ccompat/v7`)"
    )]
    NoRegistry {
        /// As declared.
        url: String,
        /// What it answered.
        reason: String,
    },
    /// A record was written with a schema that the registry does not have.
    #[error(
        "the record at offset {offset} of partition {partition} of topic `{topic}` was written with schema {id}, which the schema registry does not have. Answers stay as of {offset}. Once the registry has the schema under this id, the stream goes on by itself; or `ALTER STREAM … SKIP HOLE` goes on at {to} without the records of this schema before it and says so in every answer"
    )]
    UnknownSchema {
        /// Its name.
        topic: String,
        /// The partition.
        partition: PartitionId,
        /// The record's offset.
        offset: Offset,
        /// Behind the records of the same schema that follow it.
        to: Offset,
        /// The schema's id.
        id: u32,
    },
    /// Anything else.
    #[error("topic `{topic}`: {reason}")]
    Other {
        /// Its name.
        topic: String,
        /// What librdkafka says.
        reason: String,
    },
}

impl KafkaError {
    /// How the API reports it.
    pub fn kind(&self) -> ProblemKind {
        match self {
            Self::Unreachable { .. } | Self::RegistryUnreachable { .. } | Self::Other { .. } => {
                ProblemKind::Unavailable
            }
            Self::Hole { .. }
            | Self::Backwards { .. }
            | Self::OtherTopic { .. }
            | Self::UnknownSchema { .. } => ProblemKind::Conflict,
            Self::Authentication { .. }
            | Self::Forbidden { .. }
            | Self::NoTopic(_)
            | Self::File { .. }
            | Self::Secret { .. }
            | Self::Options(_)
            | Self::Start(_)
            | Self::RegistryDenied { .. }
            | Self::NoRegistry { .. } => ProblemKind::Invalid,
        }
    }

    /// Whether going on would lose, double or mix up events: then only an operator can help.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Hole { .. }
                | Self::Backwards { .. }
                | Self::OtherTopic { .. }
                | Self::UnknownSchema { .. }
        )
    }

    /// The offsets of a partition, half open, without which the stream can go on, if it stands before such.
    pub fn hole(&self) -> Option<(PartitionId, Offset, Offset)> {
        match self {
            Self::Hole {
                partition,
                from,
                kept,
                ..
            } => Some((*partition, *from, *kept)),
            Self::UnknownSchema {
                partition,
                offset,
                to,
                ..
            } => Some((*partition, *offset, *to)),
            _ => None,
        }
    }

    /// What a fault of a call means for the topic.
    pub(crate) fn of(fault: Fault, brokers: &str, topic: &str, group: &str) -> Self {
        let brokers = brokers.to_owned();
        match fault.code {
            Code::RD_KAFKA_RESP_ERR__AUTHENTICATION
            | Code::RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED
            | Code::RD_KAFKA_RESP_ERR__SSL => Self::Authentication {
                brokers,
                reason: fault.text,
            },
            Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED
            | Code::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED
            | Code::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED => Self::Forbidden {
                topic: topic.to_owned(),
                group: group.to_owned(),
                reason: fault.text,
            },
            Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
            | Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_ID
            | Code::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC
            | Code::RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION => Self::NoTopic(topic.to_owned()),
            // What librdkafka says where an answer is none of Kafka's.
            _ if fault.text.contains("receive.message.max.bytes") => Self::Unreachable {
                brokers,
                reason: "what listens there does not speak Kafka's protocol, or only over TLS"
                    .to_owned(),
            },
            _ if fault.is_transient() => Self::Unreachable {
                brokers,
                reason: fault.text,
            },
            _ => Self::Other {
                topic: topic.to_owned(),
                reason: fault.text,
            },
        }
    }
}
