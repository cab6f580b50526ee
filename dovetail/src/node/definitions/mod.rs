// SPDX-License-Identifier: Apache-2.0
//! Definitions: what CREATE, ALTER, DROP and UNDROP do, and what `plan` says they would do.
//!
//! Names, options and words are decided here; how a view joins the cut and leaves it is the batch layer's.

mod plan;
mod schema_change;
mod streams;
mod views;

use std::sync::Arc;

use dovetail_model::{CatalogState, Entry, Problem};
use dovetail_serving_layer::ports::{DdlAnswer, DdlResult};
use dovetail_serving_layer::sql::{Definition, ObjectKind};

use self::streams::Found;
use super::Node;

impl Node {
    /// Executes one definition.
    pub(crate) async fn define(&self, definition: Definition) -> Result<DdlAnswer, Problem> {
        let found = self.source_of(&definition).await?;
        self.define_found(definition, found).await
    }

    /// Executes one definition, `found` being what [`Node::source_of`] says of it.
    async fn define_found(
        &self,
        definition: Definition,
        found: Option<Found>,
    ) -> Result<DdlAnswer, Problem> {
        let _one_at_a_time = self.0.defining.lock().await;
        match definition {
            Definition::CreateStream(create) => self.create_stream(create, found).await,
            Definition::CreateView(create) => self.create_view(create).await,
            Definition::AlterView(alter) => self.alter_view(alter).await,
            Definition::AlterStream(alter) => self.alter_stream(&alter).await,
            Definition::SkipHole { name } => self.skip_hole(&name).await,
            Definition::Drop {
                kind: ObjectKind::Stream,
                name,
                if_exists,
            } => self.drop_stream(&name, if_exists).await,
            Definition::Drop {
                kind: ObjectKind::View,
                name,
                if_exists,
            } => self.drop_view(&name, if_exists).await,
            Definition::Undrop {
                kind: ObjectKind::Stream,
                name,
            } => self.undrop_stream(&name).await,
            Definition::Undrop {
                kind: ObjectKind::View,
                name,
            } => self.undrop_view(&name).await,
        }
    }

    pub(crate) async fn commit(
        &self,
        decide: impl FnMut(&CatalogState) -> Result<Vec<Entry>, Problem> + Send,
    ) -> Result<Arc<CatalogState>, Problem> {
        self.0
            .catalog
            .commit(decide)
            .await
            .map_err(|error| error.into_problem())
    }
}

fn missing(kind: &'static str, name: &str, allowed: bool) -> Result<DdlAnswer, Problem> {
    if allowed {
        return Ok(DdlAnswer {
            result: DdlResult::Unchanged,
            note: None,
        });
    }
    Err(Problem::not_found(kind, name))
}
