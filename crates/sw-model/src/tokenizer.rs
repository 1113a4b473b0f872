//! The tokenizer of a checkpoint, with its own rule for the beginning-of-sequence token.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sw_tensor::files;

use crate::{config, error::Error};

/// A Hugging Face tokenizer.
#[derive(Clone)]
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    eos: Option<u32>,
    /// `tokenizer_config.json`'s `add_bos_token`, which beats `tokenizer.json`.
    add_bos: Option<bool>,
    add_eos: bool,
}

impl Tokenizer {
    /// Opens `tokenizer.json` and `tokenizer_config.json` of a checkpoint directory.
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
        let settings_path = dir.join("tokenizer_config.json");
        let settings = if there(&settings_path)? {
            config::read_json(&settings_path).map_err(|e| (settings_path, e.to_string()))?
        } else {
            Value::Null
        };
        let mut file = config::read_json(&path).map_err(|e| unreadable(&path, &e))?;
        rebuild_llama(&mut file, &settings);
        Self::new(&path, &file, &settings, config)
    }

    /// From the contents of `tokenizer.json` and `tokenizer_config.json`; `path` is named in errors.
    pub(crate) fn new(
        path: &Path,
        file: &Value,
        settings: &Value,
        config: &Value,
    ) -> Result<Self, (PathBuf, String)> {
        bounded(file).map_err(|e| unreadable(path, &e))?;
        let inner = guarded(|| {
            let mut inner = tokenizers::Tokenizer::from_bytes(file.to_string())?;
            inner.with_padding(None);
            inner.with_truncation(None)?;
            inner.encode_fast("a b", true)?; // what only shows with a text
            Ok(inner)
        })
        .map_err(|e| unreadable(path, &e))?;
        let special = |name: &str, id_name: &str| {
            let token = &settings[name];
            let text = token.as_str().or_else(|| token["content"].as_str());
            let id = || match &config[id_name] {
                Value::Array(ids) => ids.first().and_then(Value::as_u64),
                id => id.as_u64(),
            };
            text.and_then(|t| inner.token_to_id(t))
                .or_else(|| id().and_then(|id| u32::try_from(id).ok()))
        };
        Ok(Self {
            bos: special("bos_token", "bos_token_id"),
            eos: special("eos_token", "eos_token_id"),
            add_bos: settings["add_bos_token"].as_bool(),
            add_eos: settings["add_eos_token"].as_bool().unwrap_or(false),
            path: path.into(),
            inner,
        })
    }

    /// The ids of a text. `special`: with the tokens that the tokenizer itself adds (BOS, where it has that rule).
    ///
    /// # Errors
    /// When the tokenizer cannot encode the text.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, Error> {
        let template = special && self.add_bos.is_none();
        let encode = || self.inner.encode_fast(text, template);
        let encoding = guarded(encode).map_err(|e| Error::Tokenizer {
            path: self.path.clone(),
            problem: format!("cannot encode the text: {e}"),
        })?;
        let mut ids = encoding.get_ids().to_vec();
        if special && !template {
            if let (Some(true), Some(bos)) = (self.add_bos, self.bos) {
                ids.insert(0, bos);
            }
            if let (true, Some(eos)) = (self.add_eos, self.eos) {
                ids.push(eos);
            }
        }
        Ok(ids)
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

    /// The beginning-of-sequence token.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The end-of-sequence token.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether a text gets a BOS by the tokenizer's own rule: `add_bos_token`, else what `tokenizer.json` does.
    pub fn adds_bos(&self) -> bool {
        self.add_bos.unwrap_or_else(|| {
            let first = self
                .encode("a", true)
                .ok()
                .and_then(|ids| ids.first().copied());
            self.bos.is_some() && first == self.bos
        })
    }

    /// Ids that the tokenizer knows: one above the largest.
    pub fn vocab_size(&self) -> usize {
        self.inner
            .get_vocab(true)
            .into_values()
            .max()
            .map_or(0, |id| id as usize + 1)
    }
}

/// Calls the tokenizer. On some broken files it panics where it should refuse; that becomes an error like the others.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match crate::guard::guarded(call) {
        Some(answer) => answer.map_err(|e| e.to_string()),
        None => Err("the file contradicts itself: the tokenizer stops in the middle".into()),
    }
}

/// How many times longer than a text a normalizer may make it.
const GROWTH: usize = 64;

/// Refuses a tokenizer that would take more memory than it has bytes: normalizers that multiply the length of a text one
/// after the other, and compiled tables that say they are larger than they are.
fn bounded(file: &Value) -> Result<(), String> {
    let mut growth = 1usize;
    for part in ["normalizer", "pre_tokenizer", "decoder"] {
        for step in steps(&file[part]) {
            if let Some(table) = step["precompiled_charsmap"].as_str() {
                compiled(table)?;
            }
            let length = |part: &Value| part.as_str().map_or(0, str::len);
            let factor = match step["type"].as_str() {
                // A pattern may match between any two bytes.
                Some("Replace") => match length(&step["pattern"]["String"]) {
                    0 => length(&step["content"]) + 1,
                    replaced => length(&step["content"]).div_ceil(replaced),
                },
                // Once for each piece between two added tokens.
                Some("Prepend") => length(&step["prepend"]),
                _ => 1,
            };
            growth = growth.saturating_mul(factor.max(1));
            if growth > GROWTH {
                return Err(format!(
                    "its {part} makes a text {growth} times longer, expected at most {GROWTH} times"
                ));
            }
        }
    }
    Ok(())
}

/// The steps of a part of a tokenizer, which may be sequences of others.
fn steps(part: &Value) -> Vec<&Value> {
    let inner = ["normalizers", "pretokenizers", "decoders"]
        .into_iter()
        .filter_map(|name| part[name].as_array());
    let mut all: Vec<_> = inner.flatten().flat_map(steps).collect();
    all.push(part);
    all
}

/// Checks the length in front of a table of SentencePiece's normalization: 32 bits, little-endian, of a table in Base64.
fn compiled(table: &str) -> Result<(), String> {
    let head = table.get(..8).and_then(|head| base64::decode(head).ok());
    let length = head
        .as_deref()
        .and_then(<[u8]>::first_chunk)
        .map(|bytes| u32::from_le_bytes(*bytes) as usize);
    match length {
        Some(length) if length <= table.len() / 4 * 3 => Ok(()),
        Some(length) => Err(format!(
            "its precompiled_charsmap says that it has {length} bytes, found {}",
            table.len() / 4 * 3
        )),
        None => Err("its precompiled_charsmap is not in Base64".into()),
    }
}

fn unreadable(path: &Path, problem: &dyn std::fmt::Display) -> (PathBuf, String) {
    let problem = format!("not a tokenizer that can be read: {problem}");
    (path.into(), problem)
}

/// What transformers 5 does with a `LlamaTokenizer`: it takes vocabulary and merges from `tokenizer.json`, and builds the
/// pipeline around them anew. A text that begins with a space gets no second one, and characters that neither the
/// vocabulary nor its bytes can spell disappear instead of becoming the unknown token.
fn rebuild_llama(file: &mut Value, settings: &Value) {
    let class = settings["tokenizer_class"].as_str().unwrap_or_default();
    let bytes = ["pre_tokenizer", "decoder"].map(|part| file[part].to_string());
    let byte_level = bytes.iter().any(|part| part.contains("\"ByteLevel\""));
    if class.trim_end_matches("Fast") != "LlamaTokenizer"
        || file["model"]["type"] != "BPE"
        || byte_level
    {
        return;
    }
    let scheme = match (
        settings["add_prefix_space"].as_bool(),
        settings["legacy"].as_bool(),
    ) {
        (Some(false), _) => "never",
        (_, Some(true)) => "always",
        _ => "first",
    };
    file["normalizer"] = Value::Null;
    file["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": false});
    for (key, value) in [
        ("unk_token", Value::Null),
        ("fuse_unk", true.into()),
        ("byte_fallback", true.into()),
    ] {
        file["model"][key] = value;
    }
}
