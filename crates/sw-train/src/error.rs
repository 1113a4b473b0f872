//! What can go wrong: files and shapes; arithmetic on agreed shapes cannot fail.

use std::path::PathBuf;

/// An error of this crate. Each says what, where, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file's content is not what it should be.
    #[error("{path}: {what}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        what: String,
    },
    /// The model could not be run.
    #[error(transparent)]
    Model(#[from] sw_model::Error),
    /// The backward pass does not know something of this model.
    #[error("{family} has {what}, which the backward pass does not know")]
    Unsupported {
        /// `model_type` of the config.
        family: &'static str,
        /// What it does not know.
        what: &'static str,
    },
    /// Numbers that do not fit together.
    #[error("{0}")]
    Shape(String),
    /// The training went wrong: a loss or gradient that is not finite.
    #[error("step {step}: the {what} is not finite; lower the learning rate or clip harder")]
    NotFinite {
        /// The step.
        step: usize,
        /// Loss or gradient.
        what: &'static str,
    },
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Wraps an I/O error with its path.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { path, source }
    }

    /// Bad content of `path`.
    pub fn content(path: impl Into<PathBuf>, what: impl ToString) -> Error {
        Error::Content {
            path: path.into(),
            what: what.to_string(),
        }
    }
}
