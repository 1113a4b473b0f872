//! The tokenizer of a checkpoint, with its own rule for the beginning-of-sequence token.

mod auto;
mod bounds;

use std::path::{Path, PathBuf};

use serde_json::Value;
use sw_tensor::files;

use self::auto::Auto;
pub(crate) use self::auto::Files;
use crate::{
    bos::{Bos, BosRule},
    config,
    error::Error,
};

/// A Hugging Face tokenizer, as transformers' `AutoTokenizer` opens it.
#[derive(Clone)]
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    eos: Option<u32>,
    vocab_size: usize,
}

impl Tokenizer {
    /// Opens `tokenizer.json` and the files beside it that `AutoTokenizer` reads.
    pub(crate) fn open(dir: &Path, config: &Value) -> Result<Self, (PathBuf, String)> {
        let path = dir.join("tokenizer.json");
        let there =
            |path: &Path| files::is_there(path).map_err(|e| (path.to_owned(), e.to_string()));
        if !there(&path)? {
            let hint = if dir.join("tokenizer.model").is_file() {
                "only tokenizer.model is there; convert it with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
            } else {
                "a text cannot be encoded without it; give token ids instead"
            };
            return Err((path, format!("no such file; {hint}")));
        }
        let beside = |name: &str| {
            let path = dir.join(name);
            if !there(&path)? {
                return Ok(Value::Null);
            }
            config::read_json(&path).map_err(|e| (path, e.to_string()))
        };
        let files = Files {
            tokenizer: config::read_json(&path).map_err(|e| unreadable(&path, &e))?,
            settings: beside("tokenizer_config.json")?,
            special_tokens_map: beside("special_tokens_map.json")?,
            added_tokens: beside("added_tokens.json")?,
            config: config.clone(),
        };
        Self::new(&path, files)
    }

    /// From the contents of the files; `path` is named in errors.
    pub(crate) fn new(path: &Path, files: Files) -> Result<Self, (PathBuf, String)> {
        let auto = Auto::new(files);
        bounds::check(&auto.file).map_err(|e| unreadable(path, &e))?;
        let mut largest = largest_id(&auto.file["model"]["vocab"]);
        let inner = guarded(|| {
            let mut inner: tokenizers::Tokenizer = serde_json::from_value(auto.file)?;
            inner.with_padding(None);
            inner.with_truncation(None)?;
            inner.add_tokens(auto.added)?;
            inner.encode_fast("a b", true)?; // what only shows with a text
            Ok(inner)
        })
        .map_err(|e| unreadable(path, &e))?;
        let id = |name: &str| inner.token_to_id(auto.special.get(name)?);
        largest = largest.max(inner.get_added_tokens_decoder().into_keys().max());
        Ok(Self {
            vocab_size: largest.map_or(0, |id| id as usize + 1),
            bos: id("bos_token"),
            eos: id("eos_token"),
            path: path.into(),
            inner,
        })
    }

    /// The ids of a text. `special`: with the tokens that the template of `tokenizer.json` adds. (`add_bos_token` and
    /// `add_eos_token` of `tokenizer_config.json` count for nothing beside it in transformers 5.)
    ///
    /// # Errors
    /// When the tokenizer cannot encode the text.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, Error> {
        let encode = || self.inner.encode_fast(text, special);
        let encoding = guarded(encode).map_err(|e| Error::Tokenizer {
            path: self.path.clone(),
            problem: format!("cannot encode the text: {e}"),
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of a text, which begins with a BOS as the rule says.
    ///
    /// # Errors
    /// [`Bos::On`] where the tokenizer has no BOS; when the tokenizer cannot encode the text.
    pub fn encode_with(&self, text: &str, bos: Bos) -> Result<Vec<u32>, Error> {
        let encode = |text: &str, special| self.encode(text, special);
        BosRule::new(bos, self.bos, self.eos, encode)?.encode(text, encode)
    }

    /// The text of ids, special tokens left out.
    ///
    /// # Errors
    /// When the tokenizer cannot decode them.
    pub fn decode(&self, ids: &[u32]) -> Result<String, Error> {
        let problem = |e| Error::Tokenizer {
            path: self.path.clone(),
            problem: format!("cannot decode the ids: {e}"),
        };
        guarded(|| self.inner.decode(ids, true)).map_err(problem)
    }

    /// The piece of text that an id stands for, as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The beginning-of-sequence token that the tokenizer's files name, or its class implies; `bos_token_id` of
    /// `config.json` is the model's, and not looked at.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The end-of-sequence token of the tokenizer.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether the template puts a BOS before a text.
    pub fn adds_bos(&self) -> bool {
        let first = self
            .encode("a", true)
            .ok()
            .and_then(|ids| ids.first().copied());
        self.bos.is_some() && first == self.bos
    }

    /// Ids that the tokenizer knows: one above the largest.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }
}

/// The largest id of a vocabulary as `tokenizer.json` has it: ids by piece, or pieces in the order of their ids.
fn largest_id(vocab: &Value) -> Option<u32> {
    match vocab {
        Value::Object(ids) => {
            let ids = ids.values().filter_map(Value::as_u64);
            ids.filter_map(|id| u32::try_from(id).ok()).max()
        }
        Value::Array(pieces) => u32::try_from(pieces.len()).ok()?.checked_sub(1),
        _ => None,
    }
}

/// Calls the tokenizer. On some broken files it panics where it should refuse; that becomes an error like the others.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match crate::guard::guarded(call) {
        Some(answer) => answer.map_err(|e| e.to_string()),
        None => Err("the file contradicts itself: the tokenizer stops in the middle".into()),
    }
}

fn unreadable(path: &Path, problem: &dyn std::fmt::Display) -> (PathBuf, String) {
    let problem = format!("not a tokenizer that can be read: {problem}");
    (path.into(), problem)
}
