// SPDX-License-Identifier: Apache-2.0
//! A Kafka topic below an open stream: the one place of the node that knows of Kafka.

mod append;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use dovetail_kafka::{KafkaError, KafkaLog, PartitionLag, Phase, Sink};
use dovetail_log::CommittedBatch;
use dovetail_model::{
    Clock, Hole, KafkaSettings, KafkaSource, Position, Problem, ProblemKind, Share, Source,
    StreamDef, StreamId, StreamSchema,
};
use dovetail_seam::StreamCell;
use dovetail_serving_layer::ports::{PartitionInfo, SourceInfo};
use dovetail_speed_layer::{BatchSender, SpeedMemory};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::members::{STOPPED, takes_no_events};

pub(crate) use append::KafkaAppender;

/// How long each question to the brokers may take when a stream is declared.
const DECLARE_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a run waits for what the topic holds when it starts.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(30);

/// The reader of a topic.
#[derive(Debug, Clone)]
pub(crate) struct KafkaFeed {
    log: KafkaLog,
    topic: String,
    closing: CancellationToken,
}

/// Where a reader's batches go.
pub(crate) struct Destination {
    pub(crate) cell: Arc<StreamCell>,
    pub(crate) batches: BatchSender,
    pub(crate) memory: Arc<SpeedMemory>,
}

/// Asks the topic of a new stream what has to be known of it.
///
/// # Errors
/// When the brokers, the credentials, the topic or the start are not as declared: what, and the way out.
pub(crate) async fn declare(settings: KafkaSettings, id: StreamId) -> Result<Source, Problem> {
    let asking = tokio::task::spawn_blocking(move || {
        dovetail_kafka::declare(&settings, &id, DECLARE_TIMEOUT)
    });
    let source = asking.await.map_err(Problem::internal)?;
    let source = source.map_err(|error| Problem::new(error.kind(), error.to_string()))?;
    Ok(Source::Kafka(Box::new(source)))
}

impl KafkaFeed {
    /// Starts to read the partitions in `share` of the topic of `def` from where `to`'s cell stands, without the stream's `holes`. To be called on the node's own runtime.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(
        def: &StreamDef,
        source: &KafkaSource,
        share: Share,
        holes: &[Hole],
        clock: Arc<dyn Clock>,
        to: Destination,
    ) -> std::io::Result<Self> {
        let closing = CancellationToken::new();
        let from = to.cell.load().position().clone();
        let sink = SpeedSink {
            to,
            closing: closing.clone(),
            runtime: Handle::current(),
        };
        let log = KafkaLog::open(def, source, share, &from, holes, clock, Box::new(sink))?;
        Ok(Self {
            log,
            topic: source.settings.topic.clone(),
            closing,
        })
    }

    pub(crate) fn evolve(&self, schema: &StreamSchema) {
        self.log.evolve(schema);
    }

    /// Where the committed records of its share of the topic end.
    async fn end(&self) -> Result<Position, Problem> {
        let log = self.log.clone();
        let asking = tokio::task::spawn_blocking(move || log.stable_end());
        let end = asking.await.map_err(Problem::internal)?;
        end.map_err(|error| Problem::new(ProblemKind::Unavailable, error.to_string()))
    }

    /// Whether what is appended would be read: not in another topic than the stream reads, or below what it has read.
    ///
    /// # Errors
    /// When it would be lost.
    pub(crate) fn check_same_topic(&self) -> Result<(), Problem> {
        match self.log.state().phase {
            Phase::Stopped(
                error @ (KafkaError::OtherTopic { .. } | KafkaError::Backwards { .. }),
            ) => Err(takes_no_events(&error.to_string())),
            _ => Ok(()),
        }
    }

    /// The hole that stops it, as of `now`.
    ///
    /// # Errors
    /// When none does: what it is doing instead.
    pub(crate) fn hole(&self, stream: &str, now: DateTime<Utc>) -> Result<Hole, Problem> {
        let phase = self.log.state().phase;
        if let Phase::Stopped(stopped) = &phase
            && let Some((partition, from, to)) = stopped.hole()
        {
            return Ok(Hole {
                partition,
                from,
                to,
                skipped_at: now,
            });
        }
        let (word, reason) = words(phase);
        let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
        Err(Problem::conflict(format!(
            "stream `{stream}` is not stopped by a hole in its topic, it is {word}{reason}"
        ))
        .with("phase", word))
    }

    /// Goes on behind `hole`.
    pub(crate) fn skip(&self, hole: &Hole) {
        self.log.skip(hole.partition, hole.to);
    }

    /// Waits until the cut covers what the topic holds now.
    pub(crate) async fn catch_up(&self, cell: &StreamCell) {
        if let Ok(end) = self.end().await {
            let _ = tokio::time::timeout(CATCH_UP_TIMEOUT, cell.wait_for(&end)).await;
        }
    }

    pub(crate) async fn close(&self) {
        self.closing.cancel();
        let log = self.log.clone();
        // It panics only if the reader did, which has been logged.
        let _ = tokio::task::spawn_blocking(move || log.close()).await;
    }

    /// As the API shows it.
    pub(crate) fn info(&self, now_ms: i64) -> SourceInfo {
        let state = self.log.state();
        let (phase, reason) = words(state.phase);
        let partitions = state.partitions.iter().map(|lag| partition(lag, now_ms));
        let partitions: Vec<PartitionInfo> = partitions.collect();
        // While nothing is heard of the topic, what it may hold grows older.
        let silent_ms = match phase {
            "reading" => 0,
            _ => state.looked_ms.map_or(0, |looked| (now_ms - looked).max(0)),
        };
        SourceInfo {
            kind: "kafka".to_owned(),
            topic: self.topic.clone(),
            phase: phase.to_owned(),
            reason: reason.as_ref().map(KafkaError::to_string),
            lag: partitions.iter().map(|p| p.lag).sum(),
            lag_seconds: partitions
                .iter()
                .map(|p| p.lag_seconds)
                .fold(silent_ms as f64 / 1000.0, f64::max),
            partitions,
            skipped_tombstones: state.skipped_tombstones,
            skipped_replays: state.skipped_replays,
        }
    }
}

/// What it is called, and why it is so.
fn words(phase: Phase) -> (&'static str, Option<KafkaError>) {
    match phase {
        Phase::Connecting => ("connecting", None),
        Phase::Reading => ("reading", None),
        Phase::Retrying(error) => ("retrying", Some(error)),
        Phase::Stopped(error) => (STOPPED, Some(error)),
    }
}

fn partition(lag: &PartitionLag, now_ms: i64) -> PartitionInfo {
    let seconds = match lag.last_timestamp_ms {
        Some(last) if lag.offsets() > 0 => (now_ms - last).max(0) as f64 / 1000.0,
        _ => 0.0,
    };
    PartitionInfo {
        partition: lag.partition,
        position: lag.position,
        end: lag.end,
        lag: lag.offsets(),
        lag_seconds: seconds,
    }
}

/// Hands batches to the speed layer, no faster than it takes them.
struct SpeedSink {
    to: Destination,
    closing: CancellationToken,
    runtime: Handle,
}

impl Sink for SpeedSink {
    fn has_room(&mut self, patience: Duration) -> bool {
        let (memory, closing) = (&self.to.memory, &self.closing);
        self.runtime.block_on(async move {
            tokio::select! {
                () = closing.cancelled() => true,
                () = memory.admit() => true,
                () = tokio::time::sleep(patience) => false,
            }
        })
    }

    fn take(&mut self, batch: Arc<CommittedBatch>) -> bool {
        let Destination { cell, batches, .. } = &self.to;
        let closing = self.closing.clone();
        self.runtime.block_on(async move {
            let rows = batch.events.num_rows() as u64;
            if closing.is_cancelled() {
                return false;
            }
            cell.note_durable(&batch);
            tokio::select! {
                () = closing.cancelled() => false,
                sent = batches.send(batch) => {
                    cell.meters().ingest.count(rows);
                    sent
                }
            }
        })
    }

    fn unread_since(&mut self, since_ms: Option<i64>) {
        let micros = since_ms.map(|ms| ms.saturating_mul(1000));
        self.to.cell.note_unread_since(micros);
    }
}
