// SPDX-License-Identifier: Apache-2.0
//! Targets: positions to which a batch run computes, and which become horizons.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use dovetail_model::Position;

use crate::{Archiver, SeamError, StreamCell};

/// A position that is archived, and stays an edge of the runs while this is held.
pub struct Target {
    position: Position,
    _edge: Box<dyn Any + Send + Sync>,
}

impl Target {
    /// `position`, which is an edge for as long as `edge` lives.
    pub fn new(position: Position, edge: impl Any + Send + Sync) -> Self {
        Self {
            position,
            _edge: Box::new(edge),
        }
    }

    /// The position.
    pub fn position(&self) -> &Position {
        &self.position
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(&self.position).finish()
    }
}

/// Takes targets on one stream.
#[async_trait]
pub trait Targets: Send + Sync + fmt::Debug {
    /// A target that covers everything durable at this moment: it is accumulated, pinned, and archived.
    ///
    /// # Errors
    /// When the raw log cannot be written, or whoever has the runs does not answer.
    async fn take(&self) -> Result<Target, SeamError>;
}

/// Targets on a stream whose runs this process holds.
#[derive(Debug)]
pub struct LocalTargets {
    cell: Arc<StreamCell>,
    archiver: Arc<Archiver>,
}

impl LocalTargets {
    /// Those of `cell`, which `archiver` archives.
    pub fn new(cell: Arc<StreamCell>, archiver: Arc<Archiver>) -> Self {
        Self { cell, archiver }
    }
}

#[async_trait]
impl Targets for LocalTargets {
    async fn take(&self) -> Result<Target, SeamError> {
        let durable = self.cell.durable();
        self.cell.wait_for(&durable).await;
        let (pin, _) = self.cell.pin();
        self.archiver.archive_through(pin.position()).await?;
        Ok(Target::new(pin.position().clone(), pin))
    }
}
