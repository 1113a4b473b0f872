//! What can go wrong while the checkpoint is grown.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Files, shapes and the training itself.
    #[error(transparent)]
    Train(#[from] sw_train::Error),
    /// The tokenizer could not be trained or used.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The caller asked to stop; the state is saved.
    #[error("stopped at step {0}; run again to go on")]
    Stopped(usize),
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Wraps an I/O error with the path it happened at.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let wrap = sw_train::Error::file(path);
        move |source| wrap(source).into()
    }

    /// The content of the file at `path` is not what it should be.
    pub(crate) fn content(path: impl Into<PathBuf>, what: impl ToString) -> Error {
        sw_train::Error::content(path, what).into()
    }
}
