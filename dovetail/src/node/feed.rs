// SPDX-License-Identifier: Apache-2.0
//! The log below an open stream, whichever it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, Utc};
use dovetail_log::embedded::{EmbeddedLog, LogError, ONLY_PARTITION};
use dovetail_model::{Hole, Position, Problem, StreamDef, StreamSchema};
use dovetail_seam::{Forget, StreamCell};
use dovetail_serving_layer::ports::SourceInfo;

use super::kafka::{KafkaAppender, KafkaFeed};
use super::members::Members;

/// Where the events of a stream come from.
#[derive(Debug, Clone)]
pub(crate) enum Feed {
    /// Appends over HTTP.
    Embedded(EmbeddedLog),
    /// A topic.
    Kafka {
        reader: KafkaFeed,
        appender: KafkaAppender,
    },
    /// A topic that other processes read.
    Elsewhere {
        readers: Readers,
        appender: KafkaAppender,
    },
}

/// The processes that read the topic of a stream.
#[derive(Debug, Clone)]
pub(crate) struct Readers {
    members: Arc<Members>,
    /// The sequence of a catalog that has the stream's newest declaration.
    declared: Arc<AtomicU64>,
}

impl Readers {
    /// Those of a stream that is opened as the catalog declares it at `sequence`.
    pub(crate) fn new(members: Arc<Members>, sequence: u64) -> Self {
        Self {
            members,
            declared: Arc::new(AtomicU64::new(sequence)),
        }
    }
}

impl Feed {
    /// Who appends to its topic; none where there is no topic.
    pub(crate) fn appender(&self) -> Option<&KafkaAppender> {
        match self {
            Self::Embedded(_) => None,
            Self::Kafka { appender, .. } | Self::Elsewhere { appender, .. } => Some(appender),
        }
    }

    /// What is told of archived events.
    pub(crate) fn forgets(&self) -> Arc<dyn Forget> {
        match self {
            Self::Embedded(log) => Arc::new(EmbeddedForget(log.clone())),
            Self::Kafka { .. } | Self::Elsewhere { .. } => Arc::new(KeptByRetention),
        }
    }

    /// Events from now on are of this schema, the former one grown.
    ///
    /// # Errors
    /// When the log cannot write it down.
    pub(crate) async fn evolve(&self, schema: &StreamSchema) -> Result<(), Problem> {
        match self {
            Self::Embedded(log) => {
                let evolved = log.evolve(schema).await;
                evolved.map_err(|error| Problem::new(error.kind(), error.to_string()))
            }
            Self::Kafka { reader, .. } => {
                reader.evolve(schema);
                Ok(())
            }
            // They read of it in the catalog, where it is by now.
            Self::Elsewhere { readers, .. } => {
                let sequence = readers.members.sequence();
                readers.declared.fetch_max(sequence, Ordering::SeqCst);
                Ok(())
            }
        }
    }

    /// The hole in its topic that stops the stream, to be skipped `now`.
    ///
    /// # Errors
    /// When none does: what the stream is doing instead.
    pub(crate) fn hole(&self, def: &StreamDef, now: DateTime<Utc>) -> Result<Hole, Problem> {
        match self {
            Self::Embedded(_) => Err(Problem::conflict(format!(
                "stream `{}` reads no topic, so there is no hole to skip: it takes appends over HTTP",
                def.name
            ))),
            Self::Kafka { reader, .. } => reader.hole(&def.name, now),
            Self::Elsewhere { readers, .. } => readers.members.hole(def, now),
        }
    }

    /// Goes on behind a hole that [`Feed::hole`] gave. It must be in the catalog.
    pub(crate) fn skip(&self, hole: &Hole) {
        match self {
            Self::Embedded(_) | Self::Elsewhere { .. } => {}
            Self::Kafka { reader, .. } => reader.skip(hole),
        }
    }

    /// Waits until the cut covers what is durable now, where the log does not tell of it by itself. Gives up in
    /// silence when it cannot be told, or takes too long: [`Feed::info`] says why.
    pub(crate) async fn catch_up(&self, cell: &StreamCell) {
        match self {
            // A run takes its target of whoever reads the topic.
            Self::Embedded(_) | Self::Elsewhere { .. } => {}
            Self::Kafka { reader, .. } => reader.catch_up(cell).await,
        }
    }

    /// Waits until what is appended to the topic of `def` from now on is read, and under no older declaration.
    ///
    /// # Errors
    /// When it would not be read, or whoever reads it does not follow the catalog.
    pub(crate) async fn takes_events(&self, def: &StreamDef) -> Result<(), Problem> {
        match self {
            Self::Embedded(_) => Ok(()),
            Self::Kafka { reader, .. } => reader.check_same_topic(),
            Self::Elsewhere { readers, .. } => {
                let declared = readers.declared.load(Ordering::SeqCst);
                readers.members.followed(declared).await?;
                readers.members.check_same_topic(def)
            }
        }
    }

    /// Up to where the stream of `cell` is accumulated, as far as is known.
    pub(crate) fn accumulated(&self, cell: &StreamCell) -> Position {
        let cut = cell.load();
        match self {
            Self::Embedded(_) | Self::Kafka { .. } => cut.position().clone(),
            Self::Elsewhere { readers, .. } => {
                let said = readers.members.position(&cut.stream().id);
                cut.position().join(&said)
            }
        }
    }

    /// How the stream stands to its source; nothing to say of the embedded log.
    pub(crate) fn info(&self, def: &StreamDef, now_ms: i64) -> Option<SourceInfo> {
        match self {
            Self::Embedded(_) => None,
            Self::Kafka { reader, .. } => Some(reader.info(now_ms)),
            Self::Elsewhere { readers, .. } => readers.members.source(def),
        }
    }

    /// Hands nothing on any more. What was acknowledged is durable when it returns.
    pub(crate) async fn close(&self) {
        match self {
            Self::Embedded(log) => log.close().await,
            Self::Kafka { reader, appender } => {
                appender.close().await;
                reader.close().await;
            }
            Self::Elsewhere { appender, .. } => appender.close().await,
        }
    }
}

/// The embedded log, as the archiver sees it.
#[derive(Debug)]
struct EmbeddedForget(EmbeddedLog);

impl Forget for EmbeddedForget {
    fn forget(&self, archived: &Position) -> Result<(), String> {
        match self.0.forget(archived.get(ONLY_PARTITION)) {
            // The node stops: an archive that was under way has come to its end, and whoever opens the log next
            // forgets what it left.
            Ok(_) | Err(LogError::Closed) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// A topic forgets by its own rules.
#[derive(Debug)]
struct KeptByRetention;

impl Forget for KeptByRetention {
    fn forget(&self, _: &Position) -> Result<(), String> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use dovetail_log::embedded::{FsDisk, LogOptions};
    use dovetail_model::{Column, ColumnType, ManualClock, UnknownColumns};

    use super::*;

    /// An archive that is under way while the server stops in order is no reason to warn.
    #[tokio::test]
    async fn a_closed_log_forgets_later() {
        let dir = tempfile::tempdir().unwrap();
        let schema = StreamSchema {
            columns: vec![Column {
                name: "n".to_owned(),
                column_type: ColumnType::BigInt,
                nullable: false,
            }],
            event_time: None,
            unknown_columns: UnknownColumns::Ignore,
        };
        let (log, _) = EmbeddedLog::open(
            Arc::new(FsDisk::open(dir.path().join("log")).unwrap()),
            &schema,
            LogOptions::default(),
            Arc::new(ManualClock::at(0)),
            Box::new(|_| {}),
        )
        .unwrap();
        let forget = EmbeddedForget(log.clone());
        // Nothing is durable yet, so that there is an error which is told.
        let ahead = Position::single(dovetail_model::Offset(1));
        assert!(forget.forget(&ahead).unwrap_err().contains("durable"));
        log.close().await;
        assert_eq!(forget.forget(&Position::zero()), Ok(()));
    }
}
