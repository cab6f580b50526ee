// SPDX-License-Identifier: Apache-2.0
//! Where the events of a stream come from.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{Offset, PartitionId, Position, digits};

/// The log below a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Source {
    /// Dovetail's own log: events are appended over HTTP.
    #[default]
    Embedded,
    /// A Kafka topic.
    Kafka(Box<KafkaSource>),
}

impl Source {
    /// Whether it is the embedded log.
    pub fn is_embedded(&self) -> bool {
        *self == Self::Embedded
    }

    /// The topic, if it is one.
    pub fn kafka(&self) -> Option<&KafkaSource> {
        match self {
            Self::Embedded => None,
            Self::Kafka(kafka) => Some(kafka),
        }
    }
}

/// A topic as it was found when the stream was declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KafkaSource {
    /// What was declared.
    pub settings: KafkaSettings,
    /// The id of the topic, as Kafka writes it. A topic of the same name with another id holds other events.
    pub topic_id: String,
    /// Where the stream begins: what lies before is none of its events. A partition that is not listed begins at 0.
    pub start: Position,
}

/// What `CREATE STREAM … WITH (source = 'kafka', …)` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KafkaSettings {
    /// `host:port`, separated by commas.
    pub brokers: String,
    /// The topic's name.
    pub topic: String,
    /// How the values of its records are written.
    pub format: MessageFormat,
    /// Where the schemas of its records are, if the format needs them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_registry: Option<SchemaRegistry>,
    /// Where to begin.
    #[serde(default)]
    pub start: StartAt,
    /// What becomes of a record without a value.
    #[serde(default)]
    pub tombstones: Tombstones,
    /// The column that gets the record's key, a `VARCHAR`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_column: Option<String>,
    /// The column that gets the record's timestamp, a `TIMESTAMP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp_column: Option<String>,
    /// The column that gets the record's headers, a `LIST<STRUCT<name VARCHAR, value VARCHAR>>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers_column: Option<String>,
    /// How to connect: `security_protocol`, `sasl_username` and their like, by the names of the options.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub security: BTreeMap<String, String>,
}

impl KafkaSettings {
    /// The columns that do not come from the value of a record.
    pub fn envelope_columns(&self) -> impl Iterator<Item = &str> {
        [
            &self.key_column,
            &self.timestamp_column,
            &self.headers_column,
        ]
        .into_iter()
        .filter_map(|column| column.as_deref())
    }
}

/// The format of a record's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageFormat {
    /// One JSON object.
    Json,
    /// One CSV record without a header: the declared columns in their order.
    Csv,
    /// One Avro record behind the id of its schema in the registry.
    Avro,
    /// One Protobuf message behind the id of its schema in the registry.
    Protobuf,
}

impl MessageFormat {
    /// Whether its messages can be read only with schemas of a registry.
    pub fn needs_registry(self) -> bool {
        matches!(self, Self::Avro | Self::Protobuf)
    }
}

/// Where the schemas of messages are kept: an HTTP server that speaks Confluent's API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaRegistry {
    /// Its URL; what it has of a path stands before each request's.
    pub url: String,
    /// How to connect: `schema_registry_username` and their like, by the names of the options.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub access: BTreeMap<String, String>,
}

/// What becomes of a record without a value, the deletion of a key in a compacted topic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tombstones {
    /// It is a dead letter: whoever declared the stream did not expect one.
    #[default]
    DeadLetter,
    /// It is left out.
    Skip,
}

/// Where a stream begins in its topic.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartAt {
    /// With the oldest record that the topic keeps.
    #[default]
    Earliest,
    /// With the first record that comes after the declaration.
    Latest,
    /// With the first record stamped at this time or later.
    Time(DateTime<Utc>),
    /// At these offsets; a partition that is not listed with its oldest record.
    Offsets(Position),
}

/// As the option `start` takes it.
impl fmt::Display for StartAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earliest => f.write_str("earliest"),
            Self::Latest => f.write_str("latest"),
            Self::Time(time) => {
                f.write_str(&time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
            }
            Self::Offsets(position) => position.fmt(f),
        }
    }
}

impl FromStr for StartAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => return Ok(Self::Earliest),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self::Time(time.to_utc()));
        }
        offsets(text).map(Self::Offsets).ok_or_else(|| {
            format!(
                "`{text}` is no place to start: write 'earliest', 'latest', a time such as '2026-01-31T00:00:00Z', or offsets above 0 such as '0@1200,1@980' (partition@offset; a partition that is not listed begins with its oldest record)"
            )
        })
    }
}

/// `0@1200,1@980`, each partition once. Offset 0 is the oldest or is gone, so it is not said.
fn offsets(text: &str) -> Option<Position> {
    let mut position = Position::zero();
    let mut seen = Vec::new();
    for part in text.split(',') {
        let (partition, offset) = part.trim().split_once('@')?;
        let partition = PartitionId(digits(partition)?);
        let offset: u64 = digits(offset).filter(|offset| *offset > 0)?;
        if seen.contains(&partition) {
            return None;
        }
        seen.push(partition);
        position = position.with(partition, Offset(offset));
    }
    Some(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_reads_back_as_it_is_written() {
        for text in [
            "earliest",
            "latest",
            "2026-01-31T00:00:00Z",
            "2026-01-31T00:00:00.250Z",
            "0@1200,3@7",
        ] {
            let start: StartAt = text.parse().expect(text);
            assert_eq!(start.to_string(), text);
        }
        for text in ["", "first", "0", "0@x", "0@1,0@2", "5@0", "2026-01-31"] {
            let error = StartAt::from_str(text).expect_err(text);
            assert!(error.contains("earliest"), "{error}");
        }
    }

    #[test]
    fn a_source_is_stored_and_found_again() {
        let source = Source::Kafka(Box::new(KafkaSource {
            settings: KafkaSettings {
                brokers: "127.0.0.1:9092".to_owned(),
                topic: "flights".to_owned(),
                format: MessageFormat::Avro,
                schema_registry: Some(SchemaRegistry {
                    url: "http://127.0.0.1:8081".to_owned(),
                    access: BTreeMap::new(),
                }),
                start: StartAt::Offsets(Position::zero().with(PartitionId(3), Offset(7))),
                tombstones: Tombstones::Skip,
                key_column: Some("k".to_owned()),
                timestamp_column: None,
                headers_column: None,
                security: BTreeMap::from([("sasl_username".to_owned(), "dovetail".to_owned())]),
            },
            topic_id: "b3RoZXI".to_owned(),
            start: Position::zero().with(PartitionId(3), Offset(7)),
        }));
        let json = serde_json::to_string(&source).expect("serialises");
        assert_eq!(serde_json::from_str::<Source>(&json).expect(&json), source);
    }
}
