// SPDX-License-Identifier: Apache-2.0
//! Why a node does not start.

use dovetail_log::catalog::Held;
use dovetail_log::object::StoreError;
use dovetail_model::{Problem, ProblemKind};

use super::data_dir::DataDirError;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The object store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The catalog cannot be read.
    #[error("the catalog cannot be read: {0}")]
    Catalog(#[from] dovetail_log::catalog::CatalogError),
    /// The store belongs to another data directory.
    #[error("the store cannot be used: {0}")]
    Held(Held),
    /// The logs of the data directory belong to another store.
    #[error(
        "the logs in the data directory belong to another store than this one: name that by --store, or another --data"
    )]
    OtherStore,
    /// The store cannot be claimed.
    #[error("the store cannot be claimed: {0}")]
    Claim(String),
    /// A stream cannot be opened.
    #[error("stream `{stream}` cannot be opened: {reason}")]
    Stream {
        /// The stream's name.
        stream: String,
        /// Why.
        reason: String,
    },
    /// A view cannot be opened.
    #[error("view `{view}` cannot be opened: {reason}")]
    View {
        /// The view's name.
        view: String,
        /// Why.
        reason: String,
    },
    /// The batch layer cannot start.
    #[error(transparent)]
    Batch(#[from] dovetail_batch_layer::BatchError),
    /// The engine cannot start.
    #[error("the engine cannot start: {0}")]
    Engine(#[from] datafusion::error::DataFusionError),
    /// The system refused.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl NodeError {
    /// What a caller can do about it.
    pub fn kind(&self) -> ProblemKind {
        match self {
            Self::DataDir(DataDirError::InUse { .. }) => ProblemKind::Conflict,
            Self::Store(error) => error.kind(),
            Self::Held(_) | Self::OtherStore => ProblemKind::Conflict,
            Self::Claim(_) => ProblemKind::Unavailable,
            Self::Batch(error) => error.kind(),
            _ => ProblemKind::Internal,
        }
    }
}

impl From<NodeError> for Problem {
    fn from(error: NodeError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}
