// SPDX-License-Identifier: Apache-2.0
//! What the batch layer needs of the streams of this process.

use std::sync::Arc;

use dovetail_model::StreamId;
use dovetail_seam::{StreamCell, Targets};

/// One stream: where its cut lives, and how targets are taken on it.
#[derive(Debug, Clone)]
pub struct StreamHandle {
    /// Holds the cut.
    pub cell: Arc<StreamCell>,
    /// Pins and archives.
    pub targets: Arc<dyn Targets>,
}

/// Finds the streams that are open in this process.
pub trait StreamAccess: Send + Sync + std::fmt::Debug {
    /// The stream with this id, unless it was dropped.
    fn stream(&self, id: &StreamId) -> Option<StreamHandle>;
}
