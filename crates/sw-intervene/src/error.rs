//! Errors of interventions and of written checkpoints: each one line, naming what, where, expected and found.

use std::path::{Path, PathBuf};

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model could not be changed, or a checkpoint not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model could not be run or read.
    #[error(transparent)]
    Model(#[from] sw_model::Error),
    /// A folder could not be written.
    #[error(transparent)]
    Tensor(#[from] sw_tensor::Error),
    /// An intervention that this model cannot take.
    #[error("intervention {intervention}: {problem}")]
    Intervention {
        /// Its name.
        intervention: &'static str,
        /// Expected and found.
        problem: String,
    },
    /// Options that contradict each other or the model.
    #[error("{0}")]
    Options(String),
    /// A checkpoint was being written, and whoever heard of the progress stopped it.
    #[error("{}: stopped before it was whole; nothing of it is left", out.display())]
    Stopped {
        /// The folder that would have been written.
        out: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{}: {reason}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason (part of the message, so not its source).
        reason: std::io::Error,
    },
}

impl Error {
    pub(crate) fn io(path: impl AsRef<Path>, reason: std::io::Error) -> Self {
        Self::Io {
            path: path.as_ref().into(),
            reason,
        }
    }
}
