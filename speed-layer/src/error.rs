// SPDX-License-Identifier: Apache-2.0
//! What can stop the speed layer.

use dovetail_model::ProblemKind;
use dovetail_seam::SeamError;

/// A failure of the speed layer. Its state is disposable: a restart rebuilds it.
#[derive(Debug, thiserror::Error)]
pub enum SpeedError {
    /// A swap of the cut was refused.
    #[error(transparent)]
    Seam(#[from] SeamError),
    /// The engine failed while runs were rebuilt.
    #[error("rebuilding the runs of view `{view}` failed: {source}")]
    Rebuild {
        /// The view's name.
        view: String,
        /// What the engine said.
        source: datafusion::error::DataFusionError,
    },
    /// The thread could not be started.
    #[error("cannot start thread `{name}`: {source}")]
    Thread {
        /// The thread's name.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl SpeedError {
    /// What callers can do about it.
    pub fn kind(&self) -> ProblemKind {
        match self {
            Self::Seam(error) => error.kind(),
            Self::Rebuild { source, .. } => dovetail_view::engine_error_kind(source),
            Self::Thread { .. } => ProblemKind::Internal,
        }
    }
}
