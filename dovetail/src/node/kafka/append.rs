// SPDX-License-Identifier: Apache-2.0
//! Appends to a topic, by the process that has the store: it needs the stream's source alone, so whether this process
//! reads the topic makes no difference.

use std::sync::Arc;
use std::time::Duration;

use dovetail_kafka::produce::compose::{Body, Composed, Composer};
use dovetail_kafka::produce::{Append, IdempotencyKey, KafkaWriter, Message};
use dovetail_kafka::replay;
use dovetail_log::Format;
use dovetail_log::raw::ArchivedDeadLetter;
use dovetail_model::{Clock, KafkaSource, Position, Problem, ProblemKind, StreamDef};
use dovetail_serving_layer::http::message_values;
use dovetail_serving_layer::ports::{AppendAnswer, AppendRequest, OnError};

use crate::node::describe::token;
use crate::node::ingest::on_error;
use crate::node::open_stream::Declared;

/// How long a broker has to answer where the topic ends.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Appends to the topic of one stream. Cheap to clone; it connects with the first append.
#[derive(Debug, Clone)]
pub(crate) struct KafkaAppender {
    writer: KafkaWriter,
    source: Arc<KafkaSource>,
}

impl KafkaAppender {
    /// Appends to `source`, the topic of `def`.
    pub(crate) fn new(def: &StreamDef, source: &KafkaSource, clock: Arc<dyn Clock>) -> Self {
        Self {
            writer: KafkaWriter::new(&def.id, &def.name, source, clock),
            source: Arc::new(source.clone()),
        }
    }

    /// Appends the events of `request` in one transaction. What is committed comes back through whoever reads the
    /// topic; `read` is how far that is.
    ///
    /// # Errors
    /// Why nothing was appended, or that it cannot be told.
    pub(crate) async fn append(
        &self,
        declared: Declared,
        read: Position,
        request: AppendRequest,
    ) -> Result<AppendAnswer, Problem> {
        let key = request.idempotency_key.clone().map(|key| IdempotencyKey {
            key,
            body_hash: *blake3::hash(&request.body).as_bytes(),
        });
        let composing = {
            let (declared, source) = (declared.clone(), Arc::clone(&self.source));
            tokio::task::spawn_blocking(move || compose(&source, &declared, &request))
        };
        let composed = composing.await.map_err(Problem::internal)??;
        let append = Append {
            messages: composed.messages,
            rejected: composed.rejected,
            key,
            read,
        };
        let appended = self.writer.append(append).await;
        let appended = appended.map_err(|error| error.problem())?;
        Ok(AppendAnswer {
            accepted: appended.accepted,
            rejected: appended.rejected,
            position: token(&declared.def, &appended.position),
            duplicate: appended.duplicate,
        })
    }

    /// Tries dead letters again: those that are events of the declared schema by now go to the topic once more, each
    /// once however often it is tried, and are settled when they are read. How many did, and where they end.
    ///
    /// # Errors
    /// Why none of those that were not appended yet can be.
    pub(crate) async fn replay(
        &self,
        declared: Declared,
        letters: Vec<ArchivedDeadLetter>,
    ) -> Result<(u64, Position), Problem> {
        let source = Arc::clone(&self.source);
        let composing = tokio::task::spawn_blocking(move || {
            let letters = letters.iter();
            let appends = letters.filter_map(|letter| replayed(&source, &declared, letter));
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

    /// Where the committed records of the topic of `def` end.
    ///
    /// # Errors
    /// Why it cannot be told.
    pub(crate) async fn end(&self, def: &StreamDef) -> Result<Position, Problem> {
        let (source, id) = (Arc::clone(&self.source), def.id.clone());
        let asking = tokio::task::spawn_blocking(move || {
            dovetail_kafka::stable_end(&source, &id, END_TIMEOUT)
        });
        let end = asking.await.map_err(Problem::internal)?;
        end.map_err(|error| Problem::new(ProblemKind::Unavailable, error.to_string()))
    }

    /// Whether dead letters of the stream `name` can be replayed: they keep the value of a record, and nothing else of
    /// it.
    ///
    /// # Errors
    /// When its events have more than a value.
    pub(crate) fn check_replayable(&self, name: &str) -> Result<(), Problem> {
        let settings = &self.source.settings;
        let refuse = |reason: &str| {
            let topic = &settings.topic;
            Err(Problem::conflict(format!(
                "dead letters of stream `{name}` cannot be replayed: {reason}; produce the events to topic `{topic}` again"
            )))
        };
        if settings.format.needs_registry() {
            return refuse("their schemas are in a registry, and such values are only read");
        }
        match settings.envelope_columns().next() {
            None => Ok(()),
            Some(column) => refuse(&format!(
                "column `{column}` is not in the value of a record, which is all that a dead letter keeps"
            )),
        }
    }

    /// Takes no more appends, and waits for those that were taken.
    pub(crate) async fn close(&self) {
        let writer = self.writer.clone();
        // It panics only if a writer did, which has been logged.
        let _ = tokio::task::spawn_blocking(move || writer.close()).await;
    }
}

/// The append that replays a letter, if it holds an event by now.
fn replayed(
    source: &KafkaSource,
    declared: &Declared,
    letter: &ArchivedDeadLetter,
) -> Option<Append> {
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
    let composed = compose(source, declared, &request).ok();
    let composed = composed.filter(|_| is_one)?;
    let [message] = <[Message; 1]>::try_from(composed.messages).ok()?;
    Some(Append {
        messages: vec![replay::mark(&declared.def.id, place, message)],
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
    source: &KafkaSource,
    declared: &Declared,
    request: &AppendRequest,
) -> Result<Composed, Problem> {
    let composer = Composer {
        settings: &source.settings,
        schema: &declared.def.schema,
        decoder: &declared.decoder,
    };
    let body = Body {
        format: request.format,
        bytes: &request.body,
        on_error: on_error(request.on_error),
    };
    composer.compose(body, &message_values)
}
