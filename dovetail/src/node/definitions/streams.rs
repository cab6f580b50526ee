// SPDX-License-Identifier: Apache-2.0
//! CREATE, ALTER, DROP and UNDROP of streams.

use dovetail_log::catalog::random_u64;
use dovetail_model::{
    CatalogState, Entry, Hole, KafkaSettings, Problem, Source, StreamDef, StreamId,
};
use dovetail_serving_layer::ports::{DdlAnswer, DdlResult};
use dovetail_serving_layer::sql::{AlterStream, CreateStream, Definition};
use tracing::info;

use super::missing;
use super::schema_change::{altered, check_views, details, growth};
use crate::node::open::NO_EMBEDDED_LOG;
use crate::node::{Duty, Node, kafka};

/// A new stream's id, and what its source said when it was asked.
pub(super) struct Found {
    id: StreamId,
    source: Source,
}

impl Node {
    /// Asks the source of a stream that is to be declared; none where nobody has to be asked. Brokers may take
    /// seconds to answer, so this comes before anything that others wait for.
    pub(super) async fn source_of(
        &self,
        definition: &Definition,
    ) -> Result<Option<Found>, Problem> {
        let Definition::CreateStream(CreateStream {
            name,
            kafka: Some(settings),
            ..
        }) = definition
        else {
            return Ok(None);
        };
        if self.0.catalog.state().stream_named(name).is_some() {
            return Ok(None);
        }
        let id = StreamId::from_random(random_u64());
        let source = kafka::declare(KafkaSettings::clone(settings), id.clone()).await?;
        Ok(Some(Found { id, source }))
    }

    pub(super) async fn create_stream(
        &self,
        create: CreateStream,
        found: Option<Found>,
    ) -> Result<DdlAnswer, Problem> {
        let state = self.0.catalog.state();
        if let Some(known) = state.stream_named(&create.name)
            && create.if_not_exists
        {
            let settings = known.def.source.kafka().map(|kafka| &kafka.settings);
            let same = known.def.schema == create.schema && settings == create.kafka.as_deref();
            let note = (!same).then(|| "it was there already, declared otherwise".to_owned());
            return Ok(DdlAnswer {
                result: DdlResult::Unchanged,
                note,
            });
        }
        let Found { id, source } = match (found, &create.kafka) {
            (Some(found), _) => found,
            (None, None) => Found {
                id: StreamId::from_random(random_u64()),
                source: Source::Embedded,
            },
            // The name was taken when the source was to be asked.
            (None, Some(_)) => {
                let name = &create.name;
                return Err(Problem::conflict(format!("stream `{name}` exists already")));
            }
        };
        if source.kafka().is_none() && self.0.config.duty == Duty::Decides {
            return Err(Problem::conflict(format!(
                "stream `{}` cannot be declared here: {NO_EMBEDDED_LOG}",
                create.name
            )));
        }
        let def = StreamDef {
            id,
            name: create.name,
            schema: create.schema,
            source,
            created_at: self.0.config.clock.now(),
        };
        let state = self
            .commit(|_| {
                Ok(vec![Entry::StreamCreated {
                    stream: def.clone(),
                }])
            })
            .await?;
        self.open_declared(&state, &def.id).await?;
        info!(stream = %def.name, id = %def.id, "created");
        Ok(DdlAnswer {
            result: DdlResult::Created,
            note: None,
        })
    }

    async fn open_declared(&self, state: &CatalogState, id: &StreamId) -> Result<(), Problem> {
        let stream = state
            .streams
            .get(id)
            .ok_or_else(|| Problem::not_found("stream", id))?;
        self.open_stream(state, stream)
            .await
            .map_err(Problem::internal)
    }

    pub(super) async fn alter_stream(&self, alter: &AlterStream) -> Result<DdlAnswer, Problem> {
        let state = self.0.catalog.state();
        let stream = state
            .stream_named(&alter.name)
            .ok_or_else(|| Problem::not_found("stream", &alter.name))?;
        let schema = altered(&stream.def.schema, alter)?;
        let growth = growth(stream, &schema)?;
        if growth.is_empty() {
            return Ok(DdlAnswer {
                result: DdlResult::Unchanged,
                note: None,
            });
        }
        check_views(&state, stream, &growth)?;
        let def = StreamDef {
            schema,
            ..stream.def.clone()
        };
        let open = self.stream_named(&alter.name)?;
        let entry = Entry::StreamAltered {
            id: def.id.clone(),
            schema: def.schema.clone(),
        };
        let commit = async {
            let committed = self.commit(|_| Ok(vec![entry.clone()])).await;
            committed.map(|_| ())
        };
        open.evolve(def, commit).await?;
        info!(stream = %alter.name, changes = ?details(&growth), "altered");
        Ok(DdlAnswer {
            result: DdlResult::Altered,
            note: None,
        })
    }

    /// Goes on without what the topic lost. Everything before the hole is archived first: a restart must not find
    /// less and pass over what is missing.
    pub(super) async fn skip_hole(&self, name: &str) -> Result<DdlAnswer, Problem> {
        let state = self.0.catalog.state();
        let stream = state
            .stream_named(name)
            .ok_or_else(|| Problem::not_found("stream", name))?;
        let open = self.stream_named(name)?;
        let hole = open.feed().hole(&stream.def, self.0.config.clock.now())?;
        let archived = open.archive_durable().await?;
        let start = stream.def.source.kafka().map(|kafka| &kafka.start);
        let start = start.ok_or_else(|| Problem::internal("only a topic has holes"))?;
        let reached = Hole::resume(start, &archived, &stream.holes).get(hole.partition);
        if reached != hole.from {
            return Err(Problem::internal(format!(
                "the hole `{hole}` begins behind what is archived, {reached}"
            )));
        }
        dovetail_log::crash_point("hole:archived");
        let id = stream.def.id.clone();
        self.commit(|_| {
            Ok(vec![Entry::HoleSkipped {
                id: id.clone(),
                hole: hole.clone(),
            }])
        })
        .await?;
        dovetail_log::crash_point("hole:committed");
        open.feed().skip(&hole);
        info!(stream = %name, %hole, "skipped a hole");
        let Hole {
            partition,
            from,
            to,
            ..
        } = hole;
        Ok(DdlAnswer {
            result: DdlResult::Altered,
            note: Some(format!(
                "it goes on without offsets {from} to {to} of partition {partition}; every answer behind them says so"
            )),
        })
    }

    pub(super) async fn drop_stream(
        &self,
        name: &str,
        if_exists: bool,
    ) -> Result<DdlAnswer, Problem> {
        let state = self.0.catalog.state();
        let Some(stream) = state.stream_named(name) else {
            return missing("stream", name, if_exists);
        };
        let id = stream.def.id.clone();
        self.commit(|_| Ok(vec![Entry::StreamDropped { id: id.clone() }]))
            .await?;
        if let Some(open) = self.0.streams.remove(&id) {
            open.close().await;
        }
        self.0.memory.remove(&id);
        Ok(DdlAnswer {
            result: DdlResult::Dropped,
            note: Some(format!("UNDROP STREAM {name} restores it")),
        })
    }

    pub(super) async fn undrop_stream(&self, name: &str) -> Result<DdlAnswer, Problem> {
        let state = self.0.catalog.state();
        let dropped = state
            .streams
            .values()
            .filter(|s| s.def.name == name && s.dropped_at.is_some());
        let last = dropped
            .max_by_key(|s| s.dropped_at)
            .ok_or_else(|| Problem::not_found("dropped stream", name))?;
        let id = last.def.id.clone();
        let state = self
            .commit(|_| Ok(vec![Entry::StreamUndropped { id: id.clone() }]))
            .await?;
        self.open_declared(&state, &id).await?;
        Ok(DdlAnswer {
            result: DdlResult::Undropped,
            note: None,
        })
    }
}
