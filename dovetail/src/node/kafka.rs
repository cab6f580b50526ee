// SPDX-License-Identifier: Apache-2.0
//! A Kafka topic below an open stream: the one place of the node that knows of Kafka.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use dovetail_kafka::produce::compose::{Body, Composed, Composer};
use dovetail_kafka::produce::{Append, IdempotencyKey, KafkaWriter, Message};
use dovetail_kafka::{KafkaError, KafkaLog, PartitionLag, Phase, Sink, replay};
use dovetail_log::decode::Decoder;
use dovetail_log::raw::ArchivedDeadLetter;
use dovetail_log::{CommittedBatch, Format};
use dovetail_model::{
    Clock, Hole, KafkaSettings, KafkaSource, Position, Problem, ProblemKind, Share, Source,
    StreamDef, StreamId, StreamSchema,
};
use dovetail_seam::StreamCell;
use dovetail_serving_layer::http::message_values;
use dovetail_serving_layer::ports::{
    AppendAnswer, AppendRequest, OnError, PartitionInfo, SourceInfo,
};
use dovetail_speed_layer::{BatchSender, SpeedMemory};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::describe::token;
use super::ingest::on_error;

/// How long each question to the brokers may take when a stream is declared.
const DECLARE_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a run waits for what the topic holds when it starts.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(30);

/// The reader of a topic, and who appends to it.
#[derive(Debug, Clone)]
pub(crate) struct KafkaFeed {
    log: KafkaLog,
    writer: KafkaWriter,
    topic: String,
    share: Share,
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
        let writer = KafkaWriter::new(&def.id, &def.name, source, Arc::clone(&clock));
        let log = KafkaLog::open(def, source, share, &from, holes, clock, Box::new(sink))?;
        Ok(Self {
            log,
            writer,
            topic: source.settings.topic.clone(),
            share,
            closing,
        })
    }

    pub(crate) fn evolve(&self, schema: &StreamSchema) {
        self.log.evolve(schema);
    }

    /// Appends the events of `request` to the topic of `def`, in one transaction; `decoder` is that of its schema.
    /// What is committed comes back through the reader. The stream's cut is `cell`'s.
    ///
    /// # Errors
    /// Why nothing was appended, or that it cannot be told.
    pub(crate) async fn append(
        &self,
        def: &Arc<StreamDef>,
        cell: &StreamCell,
        decoder: Arc<Decoder>,
        request: AppendRequest,
    ) -> Result<AppendAnswer, Problem> {
        self.check_same_topic()?;
        let key = request.idempotency_key.clone().map(|key| IdempotencyKey {
            key,
            body_hash: *blake3::hash(&request.body).as_bytes(),
        });
        let composing = {
            let def = Arc::clone(def);
            tokio::task::spawn_blocking(move || compose(&def, &decoder, &request))
        };
        let composed = composing.await.map_err(Problem::internal)??;
        let append = Append {
            messages: composed.messages,
            rejected: composed.rejected,
            key,
            read: cell.load().position().clone(),
        };
        let appended = self.writer.append(append).await;
        let appended = appended.map_err(|error| error.problem())?;
        Ok(AppendAnswer {
            accepted: appended.accepted,
            rejected: appended.rejected,
            position: token(def, &appended.position),
            duplicate: appended.duplicate,
        })
    }

    /// Tries dead letters of `def` again: those that are events of its schema by now go to the topic once more, each
    /// once however often it is tried, and are settled when the reader has them. How many did, and where they end.
    ///
    /// # Errors
    /// Why none of those that were not appended yet can be.
    pub(crate) async fn replay(
        &self,
        def: &Arc<StreamDef>,
        decoder: Arc<Decoder>,
        letters: Vec<ArchivedDeadLetter>,
    ) -> Result<(u64, Position), Problem> {
        let def = Arc::clone(def);
        let composing = tokio::task::spawn_blocking(move || {
            let letters = letters.iter();
            let appends = letters.filter_map(|letter| replayed(&def, &decoder, letter));
            appends.collect::<Vec<_>>()
        });
        let appends = composing.await.map_err(Problem::internal)?.into_iter();
        let appends = appends.map(|append| self.writer.append(append));
        let mut end = Position::zero();
        let mut accepted = 0;
        for appended in futures::future::join_all(appends).await {
            let appended = appended.map_err(|error| error.problem())?;
            end = end.join(&appended.position);
            accepted += appended.accepted;
        }
        Ok((accepted, end))
    }

    /// Where the committed records of the topic end.
    ///
    /// # Errors
    /// Why it cannot be told.
    pub(crate) async fn end(&self) -> Result<Position, Problem> {
        let log = self.log.clone();
        let asking = tokio::task::spawn_blocking(move || log.stable_end());
        let end = asking.await.map_err(Problem::internal)?;
        end.map_err(|error| Problem::new(ProblemKind::Unavailable, error.to_string()))
    }

    /// Whether dead letters can be replayed: they keep the value of a record, and nothing else of it.
    ///
    /// # Errors
    /// When events of the stream have more than a value.
    pub(crate) fn check_replayable(&self, def: &StreamDef) -> Result<(), Problem> {
        self.check_same_topic()?;
        let source = def.source.kafka();
        let source =
            source.ok_or_else(|| Problem::internal("a stream without a topic has a reader"))?;
        let refuse = |reason: String| {
            let (stream, topic) = (&def.name, &self.topic);
            Err(Problem::conflict(format!(
                "dead letters of stream `{stream}` cannot be replayed: {reason}; produce the events to topic `{topic}` again"
            )))
        };
        if self.share != Share::ALL {
            return refuse("several processes read its topic".to_owned());
        }
        if source.settings.format.needs_registry() {
            return refuse(
                "their schemas are in a registry, and such values are only read".to_owned(),
            );
        }
        match source.settings.envelope_columns().next() {
            None => Ok(()),
            Some(column) => refuse(format!(
                "column `{column}` is not in the value of a record, which is all that a dead letter keeps"
            )),
        }
    }

    /// What would be appended to another topic than the stream reads, or below what it has read, would be lost.
    fn check_same_topic(&self) -> Result<(), Problem> {
        match self.log.state().phase {
            Phase::Stopped(
                error @ (KafkaError::OtherTopic { .. } | KafkaError::Backwards { .. }),
            ) => Err(Problem::conflict(format!(
                "the stream takes no events: {error}"
            ))),
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
        let (log, writer) = (self.log.clone(), self.writer.clone());
        // It panics only if the reader or a writer did, which has been logged.
        let _ = tokio::task::spawn_blocking(move || {
            writer.close();
            log.close();
        })
        .await;
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
        }
    }
}

/// The append that replays a letter, if it holds an event by now.
fn replayed(def: &StreamDef, decoder: &Decoder, letter: &ArchivedDeadLetter) -> Option<Append> {
    let place = (letter.partition, letter.offset);
    let bytes = &letter.letter.bytes;
    // A record holds one event: an array of them is none.
    let is_one = letter.letter.format != Format::Json || first_solid(bytes) == Some(b'{');
    let request = AppendRequest {
        format: letter.letter.format,
        body: bytes.clone(),
        on_error: OnError::Reject,
        idempotency_key: None,
        origin: String::new(),
    };
    let composed = compose(def, decoder, &request).ok().filter(|_| is_one)?;
    let [message] = <[Message; 1]>::try_from(composed.messages).ok()?;
    Some(Append {
        messages: vec![Message {
            headers: vec![replay::mark(&def.id, place)],
            ..message
        }],
        key: Some(IdempotencyKey {
            // No client's key has a space.
            key: format!("replay {}@{}", place.0, place.1),
            body_hash: *blake3::hash(bytes).as_bytes(),
        }),
        ..Append::default()
    })
}

fn first_solid(text: &[u8]) -> Option<u8> {
    text.iter()
        .copied()
        .find(|byte| !byte.is_ascii_whitespace())
}

/// The records of a request's body.
fn compose(
    def: &StreamDef,
    decoder: &Decoder,
    request: &AppendRequest,
) -> Result<Composed, Problem> {
    let source = def.source.kafka();
    let source =
        source.ok_or_else(|| Problem::internal("a stream without a topic has a reader"))?;
    let composer = Composer {
        settings: &source.settings,
        schema: &def.schema,
        decoder,
    };
    let body = Body {
        format: request.format,
        bytes: &request.body,
        on_error: on_error(request.on_error),
    };
    composer.compose(body, &message_values)
}

/// What it is called, and why it is so.
fn words(phase: Phase) -> (&'static str, Option<KafkaError>) {
    match phase {
        Phase::Connecting => ("connecting", None),
        Phase::Reading => ("reading", None),
        Phase::Retrying(error) => ("retrying", Some(error)),
        Phase::Stopped(error) => ("stopped", Some(error)),
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
    fn take(&mut self, batch: Arc<CommittedBatch>) -> bool {
        let Destination {
            cell,
            batches,
            memory,
        } = &self.to;
        let closing = self.closing.clone();
        self.runtime.block_on(async move {
            tokio::select! {
                () = closing.cancelled() => return false,
                () = memory.admit() => {}
            }
            let rows = batch.events.num_rows() as u64;
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
