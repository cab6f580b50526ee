// SPDX-License-Identifier: Apache-2.0
//! The streams that are open in this process.

use std::collections::HashMap;
use std::sync::Arc;

use dovetail_batch_layer::{SpeedLayerMemory, StreamAccess, StreamHandle};
use dovetail_model::StreamId;
use dovetail_seam::{Cells, Cut, StreamCell};
use dovetail_speed_layer::{Pressure, SpeedMemory};
use parking_lot::RwLock;

use super::members::Members;
use super::open_stream::OpenStream;

/// Open streams by id.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    open: RwLock<HashMap<StreamId, Arc<OpenStream>>>,
}

impl Streams {
    pub(crate) fn get(&self, id: &StreamId) -> Option<Arc<OpenStream>> {
        self.open.read().get(id).cloned()
    }

    pub(crate) fn insert(&self, stream: OpenStream) {
        self.open
            .write()
            .insert(stream.def().id.clone(), Arc::new(stream));
    }

    pub(crate) fn remove(&self, id: &StreamId) -> Option<Arc<OpenStream>> {
        self.open.write().remove(id)
    }

    pub(crate) fn all(&self) -> Vec<Arc<OpenStream>> {
        self.open.read().values().cloned().collect()
    }
}

impl StreamAccess for Streams {
    fn stream(&self, id: &StreamId) -> Option<StreamHandle> {
        self.get(id).map(|open| StreamHandle {
            cell: Arc::clone(open.cell()),
            targets: open.targets(),
        })
    }
}

impl Cells for Streams {
    fn cell(&self, id: &StreamId) -> Option<Arc<StreamCell>> {
        self.get(id).map(|open| Arc::clone(open.cell()))
    }
}

/// The speed layers' memory, as the batch layer sees it.
#[derive(Debug)]
pub(crate) struct MemoryPressure {
    pub(crate) memory: Arc<SpeedMemory>,
    pub(crate) members: Arc<Members>,
}

impl SpeedLayerMemory for MemoryPressure {
    fn pressed(&self) -> Option<StreamId> {
        if self.memory.pressure() == Pressure::Low {
            self.members.pressed()
        } else {
            self.memory.largest().map(|(id, _)| id)
        }
    }

    fn is_full(&self) -> bool {
        self.memory.pressure() == Pressure::Full
    }

    fn note(&self, cut: &Cut) {
        self.memory.set(&cut.stream().id, cut.bytes());
    }
}
