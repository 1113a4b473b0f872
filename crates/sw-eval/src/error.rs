//! Errors of an evaluation: each one line, naming what, where, expected and found, and what to do.

use std::path::{Path, PathBuf};

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an evaluation could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model could not be run.
    #[error(transparent)]
    Model(#[from] sw_model::Error),
    /// A BOS was asked for that the tokenizer does not have.
    #[error(transparent)]
    NoBos(#[from] sw_model::NoBos),
    /// Another runtime's model could not be run; its own words.
    #[error("{0}")]
    Runtime(String),
    /// No task has this name.
    #[error("unknown task {name:?}{}; known tasks: {known}", nearest.map_or(String::new(), |n| format!("; did you mean {n:?}?")))]
    UnknownTask {
        /// The name as given.
        name: String,
        /// The task whose name is nearest, if one is near.
        nearest: Option<&'static str>,
        /// All names.
        known: String,
    },
    /// The data of a task is not there.
    #[error("{task}: no data: {problem}")]
    NoData {
        /// The task.
        task: String,
        /// What was looked for, and where.
        problem: String,
    },
    /// A data file, or one of its rows, is not what the task needs.
    #[error("{}: {problem}", path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// Row (from 0), column, expected and found.
        problem: String,
    },
    /// A document cannot be asked of this model.
    #[error("{task}: document {doc}: {problem}")]
    Document {
        /// The task.
        task: String,
        /// The document's index in its split, from 0.
        doc: usize,
        /// What is wrong.
        problem: String,
    },
    /// Options that contradict each other or the model.
    #[error("{0}")]
    Options(String),
    /// An intervention that this model cannot take.
    #[error(transparent)]
    Intervention(#[from] sw_intervene::Error),
    /// A journal, shard or results file that does not fit.
    #[error("{}: {problem}", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// What differs, and what to do.
        problem: String,
    },
    /// A file could not be read or written.
    #[error("{}: {reason}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason (part of the message, so not its source).
        reason: std::io::Error,
    },
    /// The caller asked to stop; what was computed is in the journal.
    #[error("interrupted after {done} of {total} requests; run the same command again to go on")]
    Interrupted {
        /// Requests answered so far.
        done: usize,
        /// All requests of the run.
        total: usize,
    },
}

impl Error {
    pub(crate) fn io(path: impl AsRef<Path>, reason: std::io::Error) -> Self {
        Self::Io {
            path: path.as_ref().into(),
            reason,
        }
    }

    pub(crate) fn data(path: impl AsRef<Path>, problem: impl Into<String>) -> Self {
        Self::Data {
            path: path.as_ref().into(),
            problem: problem.into(),
        }
    }

    pub(crate) fn journal(path: impl AsRef<Path>, problem: impl Into<String>) -> Self {
        Self::Journal {
            path: path.as_ref().into(),
            problem: problem.into(),
        }
    }
}
