//! Errors of opening and running a model: each one line, naming what, where, expected and found.

use std::path::PathBuf;

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model could not be opened or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The argument is neither a directory nor a cached repository.
    #[error(
        "{model}: no such directory, and no such model in the Hugging Face cache (searched {}){}",
        searched.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "),
        fetch(model)
    )]
    NotFound {
        /// The argument as given.
        model: String,
        /// Every place that was looked at.
        searched: Vec<PathBuf>,
    },
    /// A file that a checkpoint directory must hold is not there.
    #[error("{}: {missing} not found; {hint}", dir.display())]
    MissingFile {
        /// The directory searched.
        dir: PathBuf,
        /// The file that is missing.
        missing: &'static str,
        /// What to do about it.
        hint: String,
    },
    /// A folder holds an adapter, and no model.
    #[error(
        "{}: expected a model, found a {kind} adapter of {base}; merge the two with peft, AutoPeftModelForCausalLM.from_pretrained(DIR).merge_and_unload().save_pretrained(OUT), and name OUT",
        dir.display()
    )]
    Adapter {
        /// The folder.
        dir: PathBuf,
        /// The method, such as LORA.
        kind: String,
        /// The model that it changes.
        base: String,
    },
    /// A folder holds several GGUF files.
    #[error("{}: expected one GGUF file, found {}: {}; pick one with --gguf NAME", dir.display(), names.len(), names.join(", "))]
    SeveralGguf {
        /// The folder.
        dir: PathBuf,
        /// The files.
        names: Vec<String>,
    },
    /// A folder does not hold the GGUF file that was asked for.
    #[error("{}: expected the GGUF file {name} in it, found {}", dir.display(), if found.is_empty() { "none".into() } else { found.join(", ") })]
    MissingGguf {
        /// The folder.
        dir: PathBuf,
        /// The file that was asked for.
        name: String,
        /// The GGUF files that are there.
        found: Vec<String>,
    },
    /// A folder that is being written, or was when its run was killed.
    #[error("{}: unfinished: it is being written, or its run was killed; wait for it, or run the command that writes it again", dir.display())]
    Unfinished {
        /// The folder.
        dir: PathBuf,
    },
    /// A file that is no model.
    #[error("{}: expected a directory in Hugging Face layout or a GGUF file, found another file", path.display())]
    NoModel {
        /// The file.
        path: PathBuf,
    },
    /// Tokens cannot be drawn so.
    #[error("{problem}")]
    Sampling {
        /// What is wrong.
        problem: String,
    },
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is not the JSON that was expected.
    #[error("{}: not valid JSON: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        source: serde_json::Error,
    },
    /// A field of `config.json` is missing, of the wrong type, or has a value that is not implemented.
    #[error("{}: {field}: {problem}", path.display())]
    Config {
        /// The config file.
        path: PathBuf,
        /// The offending key.
        field: String,
        /// Expected and found.
        problem: String,
    },
    /// The tensors could not be opened, or one is missing or misshapen.
    #[error(transparent)]
    Tensor(#[from] sw_tensor::Error),
    /// A matrix of a quantized checkpoint does not decode.
    #[error("{}: {tensor}: {problem}", dir.display())]
    Decode {
        /// The checkpoint.
        dir: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        problem: String,
    },
    /// `tokenizer.json` is missing or broken.
    #[error("{}: {problem}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A BOS was asked for that the tokenizer does not have.
    #[error(transparent)]
    NoBos(#[from] crate::NoBos),
    /// A token id that the embedding has no row for.
    #[error("token id {id} at position {position} is beyond the vocabulary of {vocab_size} tokens")]
    TokenId {
        /// The id that was produced.
        id: u32,
        /// Its position in the sequence, from 0.
        position: usize,
        /// Rows of the embedding that exist.
        vocab_size: usize,
    },
    /// More tokens than the model has positions for.
    #[error("a sequence of {tokens} tokens does not fit the model's {max_positions} positions")]
    TooLong {
        /// Tokens of the sequence, its prefix included.
        tokens: usize,
        /// Positions the model has.
        max_positions: usize,
    },
    /// A sequence without tokens.
    #[error("an empty sequence: nothing to run (the text encodes to no token)")]
    EmptySequence,
    /// A weight coordinate outside its tensor, or a tensor that the model does not have.
    #[error("{coord}: {problem}")]
    Coordinate {
        /// The coordinate, printed with its tensor name where there is one.
        coord: String,
        /// Expected and found.
        problem: String,
    },
    /// A prefix was computed by another model, or under another rope scaling than the whole sequence needs.
    #[error("the key-value prefix does not fit: {problem}")]
    Prefix {
        /// What differs.
        problem: String,
    },
    /// A soft prompt that the model cannot have.
    #[error("a soft prompt with {problem}")]
    SoftPrompt {
        /// Expected and found.
        problem: String,
    },
    /// NaN or infinity in an activation or in the logits.
    #[error("non-finite value at {site}; {culprit}")]
    NonFinite {
        /// Where it was first seen.
        site: String,
        /// The tensor that holds a non-finite value, or that none does.
        culprit: String,
    },
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io {
            path: path.into(),
            source,
        }
    }
}

/// The command that fetches a model, where the argument can name one.
fn fetch(model: &str) -> String {
    let (name, revision) = model.split_once('@').unwrap_or((model, ""));
    let parts: Vec<&str> = name.split('/').collect();
    if parts.len() != 2 || parts.iter().any(|p| p.is_empty() || p.starts_with('.')) {
        return "; expected a directory, or ORG/NAME or ORG/NAME@REVISION".into();
    }
    match revision {
        "" => format!("; fetch it with: hf download {name}"),
        revision => format!("; fetch it with: hf download {name} --revision {revision}"),
    }
}
