// SPDX-License-Identifier: Apache-2.0
//! Appends to a topic, by the process that has the store: it needs the stream's source alone, so whether this process
//! reads the topic makes no difference.

use std::sync::Arc;
use std::time::Duration;

use dovetail_kafka::KafkaError;
use dovetail_kafka::produce::compose::{Body, Composed, Composer};
use dovetail_kafka::produce::{Append, IdempotencyKey, KafkaWriter, Message, ProduceError};
use dovetail_kafka::replay::Replayer;
use dovetail_log::raw::ArchivedDeadLetter;
use dovetail_model::{Clock, KafkaSource, Position, Problem, ProblemKind, StreamDef};
use dovetail_serving_layer::http::message_values;
use dovetail_serving_layer::ports::{AppendAnswer, AppendRequest};

use crate::node::describe::token;
use crate::node::ingest::{Tried, on_error};
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
    /// once however often it is tried, and are settled when they are read. What became of each, and where they end.
    ///
    /// # Errors
    /// That it cannot be told of one, which may be tried again: also when a schema registry that they need is silent.
    pub(crate) async fn replay(
        &self,
        declared: Declared,
        letters: Vec<ArchivedDeadLetter>,
    ) -> Result<(Vec<Tried>, Position), Problem> {
        let source = Arc::clone(&self.source);
        let composing = tokio::task::spawn_blocking(move || replays(&source, &declared, &letters));
        let appends = composing.await.map_err(Problem::internal)?;
        let appends = appends.map_err(|error| Problem::new(error.kind(), error.to_string()))?;
        let trying = appends.into_iter().map(async |append| match append {
            Ok(append) => Ok(self.writer.append(append).await),
            Err(reason) => Err(reason),
        });
        let mut end = Position::zero();
        let mut tried = vec![];
        for outcome in futures::future::join_all(trying).await {
            tried.push(match outcome {
                Ok(Ok(appended)) => {
                    end = end.join(&appended.position);
                    Ok(())
                }
                // The topic takes none such, now or later.
                Ok(Err(
                    error @ (ProduceError::Refused { .. }
                    | ProduceError::TooLarge { .. }
                    | ProduceError::BatchTooLarge { .. }),
                )) => Err(error.to_string()),
                Ok(Err(error)) => return Err(error.problem()),
                Err(reason) => Err(reason),
            });
        }
        Ok((tried, end))
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

    /// Takes no more appends, and waits for those that were taken.
    pub(crate) async fn close(&self) {
        let writer = self.writer.clone();
        // It panics only if a writer did, which has been logged.
        let _ = tokio::task::spawn_blocking(move || writer.close()).await;
    }
}

/// The appends that replay those letters that are events by now; why the others are none.
fn replays(
    source: &KafkaSource,
    declared: &Declared,
    letters: &[ArchivedDeadLetter],
) -> Result<Vec<Result<Append, String>>, KafkaError> {
    let replayer = Replayer::new(&declared.def, &source.settings);
    let records = replayer.records(letters, &message_values)?;
    let append = |(letter, record): (&ArchivedDeadLetter, Result<Message, String>)| {
        Ok(Append {
            messages: vec![record?],
            key: Some(IdempotencyKey {
                // No client's key has a space.
                key: format!("replay {}@{}", letter.partition, letter.offset),
                body_hash: *blake3::hash(&letter.letter.bytes).as_bytes(),
            }),
            ..Append::default()
        })
    };
    Ok(letters.iter().zip(records).map(append).collect())
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
