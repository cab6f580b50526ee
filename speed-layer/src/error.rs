// SPDX-License-Identifier: Apache-2.0
//! What can stop the speed layer.

use datafusion::error::DataFusionError;
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
        source: DataFusionError,
    },
    /// The runs of a view alone would fill the memory of the speed layer.
    #[error("the runs of view `{view}` need more than {most_bytes} bytes")]
    RunTooLarge {
        /// The view's name.
        view: String,
        /// Bytes that there were for it.
        most_bytes: usize,
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
    /// Whether a view's runs need more memory than there is.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::Rebuild { source, .. } => {
                matches!(source.find_root(), DataFusionError::ResourcesExhausted(_))
            }
            Self::RunTooLarge { .. } => true,
            Self::Seam(_) | Self::Thread { .. } => false,
        }
    }

    /// What callers can do about it.
    pub fn kind(&self) -> ProblemKind {
        match self {
            Self::Seam(error) => error.kind(),
            Self::Rebuild { source, .. } => dovetail_view::engine_error_kind(source),
            Self::RunTooLarge { .. } => ProblemKind::Unavailable,
            Self::Thread { .. } => ProblemKind::Internal,
        }
    }
}
