//! Reading `config.json`: a key is used; or changes the arithmetic of some model and is an error unless its value is the
//! neutral one; or is passed over and named.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    path::{Path, PathBuf},
    rc::Rc,
};

use serde_json::{Map, Value};
use sw_tensor::files;

use crate::error::{Error, Result};

/// Keys that say nothing about the arithmetic of a forward pass.
const INERT: &[&str] = &[
    "_attn_implementation_autoset",
    "_commit_hash",
    "_model_name_or_path",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "attn_pdrop",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "embd_pdrop",
    "early_stopping",
    "embedding_dropout",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout",
    "hidden_dropout_prob",
    "id2label",
    "initializer_range",
    "is_llama_config",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "model_type",
    "neftune_noise_alpha",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp", // a way to cut the same product into slices
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "unsloth_version",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "use_bfloat16",
    "use_cache",
    "use_return_dict",
];

/// The largest size a config may name; products of two still fit 64 bits.
const MAX_SIZE: u64 = u32::MAX as u64;

/// What every object of a config file shares.
struct Context<'a> {
    path: &'a Path,
    /// Bounds on the layers, and on the experts of a layer, that a config may claim: so many tensors are stored.
    stored: [usize; 2],
    /// Fields to pass over in silence, with the names of the objects they lie in: `rope_scaling.factor`.
    ignore: &'a [String],
    /// Fields that were passed over because no model is known to read them.
    unknown: RefCell<Vec<String>>,
}

/// The fields of a config file (or of an object inside it), remembering which were read.
pub(crate) struct Fields<'a> {
    context: Rc<Context<'a>>,
    prefix: String,
    map: &'a Map<String, Value>,
    used: RefCell<BTreeSet<&'static str>>,
}

/// Most bytes of a file beside the weights; the largest tokenizers take a third.
pub(crate) const MAX_FILE: u64 = 100 << 20;

/// Reads a JSON file. Python writes `NaN`, `Infinity` and `-Infinity` for numbers that JSON does not have; they become
/// strings of that name, which nothing that wants a number accepts.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let text = files::read_text_inside(path, MAX_FILE).map_err(|e| Error::io(path, e))?;
    let parsed = serde_json::from_str(&text);
    let parsed = parsed.or_else(|e| serde_json::from_str(&quote_non_finite(&text)).map_err(|_| e));
    parsed.map_err(|source| Error::Json {
        path: path.into(),
        source,
    })
}

/// Puts `NaN`, `Infinity` and `-Infinity` in quotes where they stand outside of strings.
fn quote_non_finite(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(c) = rest.chars().next() {
        let words = ["-Infinity", "Infinity", "NaN"];
        let word = words.into_iter().find(|w| rest.starts_with(w));
        let length = match (c, word) {
            ('"', _) => string_length(rest),
            (_, Some(word)) => word.len(),
            _ => c.len_utf8(),
        };
        let (piece, after) = rest.split_at(length);
        match word {
            Some(word) => out.extend(["\"", word, "\""]),
            None => out.push_str(piece),
        }
        rest = after;
    }
    out
}

/// Bytes of the JSON string that a text begins with, its quotes included.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == '"' && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
}

pub(crate) fn config_error(
    path: &Path,
    field: impl Into<String>,
    problem: impl Into<String>,
) -> Error {
    Error::Config {
        path: PathBuf::from(path),
        field: field.into(),
        problem: problem.into(),
    }
}

impl<'a> Fields<'a> {
    pub(crate) fn new(
        path: &'a Path,
        config: &'a Value,
        stored: [usize; 2],
        ignore: &'a [String],
    ) -> Result<Self> {
        let map = config.as_object().ok_or_else(|| {
            config_error(
                path,
                "(root)",
                "expected an object of settings, found something else",
            )
        })?;
        let context = Context {
            path,
            stored,
            ignore,
            unknown: RefCell::default(),
        };
        Ok(Self {
            context: Rc::new(context),
            prefix: String::new(),
            map,
            used: RefCell::default(),
        })
    }

    /// The fields of an object inside this one; `None` where it is absent.
    pub(crate) fn object(&self, name: &'static str) -> Result<Option<Fields<'a>>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields {
                context: self.context.clone(),
                prefix: format!("{}{name}.", self.prefix),
                map,
                used: RefCell::default(),
            })),
            Some(other) => Err(self.wrong(name, "an object", other)),
        }
    }

    pub(crate) fn error(&self, name: &str, problem: impl Into<String>) -> Error {
        config_error(self.context.path, format!("{}{name}", self.prefix), problem)
    }

    pub(crate) fn wrong(&self, name: &str, expected: &str, found: &Value) -> Error {
        let mut found = found.to_string();
        if found.len() > 60 {
            found = found.chars().take(57).collect::<String>() + "...";
        }
        self.error(name, format!("expected {expected}, found {found}"))
    }

    /// The value of a key, `None` where it is absent or null.
    pub(crate) fn get(&self, name: &'static str) -> Option<&'a Value> {
        self.used.borrow_mut().insert(name);
        self.map.get(name).filter(|v| !v.is_null())
    }

    /// Whether a key is there with the value null.
    pub(crate) fn is_null(&self, name: &'static str) -> bool {
        self.map.get(name).is_some_and(Value::is_null)
    }

    fn required<T>(&self, name: &'static str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(name, "required, but missing"))
    }

    /// A count, at least 1.
    pub(crate) fn size(&self, name: &'static str) -> Result<usize> {
        self.required(name, self.opt_size(name)?)
    }

    /// A count, at least 1, that may have a default.
    pub(crate) fn size_or(&self, name: &'static str, default: Option<usize>) -> Result<usize> {
        self.required(name, self.opt_size(name)?.or(default))
    }

    /// A count, at least 1, if given.
    pub(crate) fn opt_size(&self, name: &'static str) -> Result<Option<usize>> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value.as_u64() {
            Some(n @ 1..=MAX_SIZE) => Ok(Some(n as usize)),
            _ => Err(self.wrong(name, &format!("a whole number from 1 to {MAX_SIZE}"), value)),
        }
    }

    /// The number of layers.
    pub(crate) fn layers(&self, name: &'static str) -> Result<usize> {
        let stored = |given| self.stored(name, given, "layers", self.context.stored[0]);
        self.required(name, self.get(name).map(stored).transpose()?)
    }

    /// The experts of a layer, as a value of the field `name`.
    pub(crate) fn experts(&self, name: &'static str, given: &Value) -> Result<usize> {
        self.stored(name, given, "experts", self.context.stored[1])
    }

    /// A number of things that are stored, refused where the checkpoint cannot possibly hold so many.
    fn stored(&self, name: &'static str, given: &Value, what: &str, most: usize) -> Result<usize> {
        let n = given.as_u64().filter(|n| *n > 0);
        let expected = format!("a whole number of {what}, at least 1");
        let n = n.ok_or_else(|| self.wrong(name, &expected, given))?;
        if n > most as u64 {
            let problem = format!("{n} {what}, but the checkpoint holds only {most} tensors");
            return Err(self.error(name, problem));
        }
        Ok(n as usize)
    }

    /// A list, if given.
    pub(crate) fn opt_list(&self, name: &'static str) -> Result<Option<&'a [Value]>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(other) => Err(self.wrong(name, "a list", other)),
        }
    }

    pub(crate) fn opt_f32(&self, name: &'static str) -> Result<Option<f32>> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(x) if (x as f32).is_finite() => Ok(Some(x as f32)),
            _ => Err(self.wrong(name, "a finite number", value)),
        }
    }

    /// A number above zero, if given.
    pub(crate) fn opt_positive(&self, name: &'static str) -> Result<Option<f32>> {
        match self.opt_f32(name)? {
            Some(x) if x <= 0.0 => {
                Err(self.error(name, format!("expected a number above 0, found {x}")))
            }
            x => Ok(x),
        }
    }

    pub(crate) fn f32_or(&self, name: &'static str, default: f32) -> Result<f32> {
        Ok(self.opt_f32(name)?.unwrap_or(default))
    }

    pub(crate) fn bool_or(&self, name: &'static str, default: bool) -> Result<bool> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(other) => Err(self.wrong(name, "true or false", other)),
        }
    }

    pub(crate) fn opt_str(&self, name: &'static str) -> Result<Option<&'a str>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(self.wrong(name, "a string", other)),
        }
    }

    /// A list of numbers above zero.
    pub(crate) fn factors(&self, name: &'static str) -> Result<Vec<f32>> {
        let value = self.required(name, self.get(name))?;
        let list = value
            .as_array()
            .ok_or_else(|| self.wrong(name, "a list of numbers", value))?;
        list.iter()
            .map(|v| match v.as_f64() {
                Some(x) if x > 0.0 && (x as f32).is_finite() => Ok(x as f32),
                _ => Err(self.wrong(name, "a list of numbers above 0", v)),
            })
            .collect()
    }

    pub(crate) fn required_f32(&self, name: &'static str) -> Result<f32> {
        self.required(name, self.opt_positive(name)?)
    }

    /// A key that may only have the value that is implemented.
    pub(crate) fn expect(&self, name: &'static str, only: impl Into<Value>) -> Result<()> {
        let only = only.into();
        match self.get(name) {
            Some(value) if *value != only => {
                Err(self.error(name, format!("only {only} is implemented, found {value}")))
            }
            _ => Ok(()),
        }
    }

    /// Accounts for the keys that were not read. One that is neither inert (in general, or for this family) nor to be
    /// ignored must have the neutral value if it changes the arithmetic of some model, and is remembered as unknown if not.
    pub(crate) fn finish(self, inert: &[&str]) -> Result<()> {
        if self.get("quantization_config").is_some() {
            let method = self.map["quantization_config"]["quant_method"]
                .as_str()
                .unwrap_or("an unnamed method");
            return Err(self.error(
                "quantization_config",
                format!("checkpoints quantized with {method} are not read; use the original 16-bit checkpoint"),
            ));
        }
        let used = self.used.borrow();
        let known = |key: &str| used.contains(key) || INERT.contains(&key) || inert.contains(&key);
        for (key, value) in self.map.iter().filter(|(k, v)| !v.is_null() && !known(k)) {
            let name = format!("{}{key}", self.prefix);
            if self.context.ignore.contains(&name) {
                continue;
            }
            match readers(key) {
                Some(_) if is_neutral(key, value) => {}
                Some(models) => {
                    let value: String = value.to_string().chars().take(60).collect();
                    return Err(self.error(
                        key,
                        format!(
                            "changes the arithmetic of {models} and is not implemented for this model (value {value}); if it does not matter here, pass --ignore-config-field {name}"
                        ),
                    ));
                }
                None => self.context.unknown.borrow_mut().push(name),
            }
        }
        Ok(())
    }

    /// [`finish`](Self::finish) for the whole file: the names of all fields that were passed over because no model is known
    /// to read them, in objects inside it too.
    pub(crate) fn finish_file(self, inert: &[&str]) -> Result<Vec<String>> {
        let context = self.context.clone();
        self.finish(inert)?;
        Ok(context.unknown.take())
    }
}

/// Keys that change the arithmetic of some model, with models that read them: grown by `keys.py` from transformers.
const READERS: &str = include_str!("family/keys.txt");

/// Models that read a key, for a person; `None` where none is known.
fn readers(key: &str) -> Option<&'static str> {
    let mut lines = READERS.lines().filter(|line| !line.starts_with('#'));
    lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
}

/// Whether a value of a key that is not implemented leaves the arithmetic as it is: null, false, nothing, 0, or 1 where
/// the key's name says that it multiplies.
fn is_neutral(key: &str, value: &Value) -> bool {
    const FACTORS: &[&str] = &[
        "factor",
        "mult",
        "scale",
        "scaling",
        "n_group",
        "topk_group",
    ];
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(n) if FACTORS.iter().any(|f| key.contains(f)) => n.as_f64() == Some(1.0),
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.iter().all(|v| is_neutral(key, v)),
        Value::Object(map) => map.values().all(|v| is_neutral(key, v)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_only_python_writes_become_strings() {
        let text =
            r#"{"a": NaN, "b": [-Infinity, Infinity, 1], "NaN": "x \" Infinity \\", "c": "NaN"}"#;
        let read: Value = serde_json::from_str(&quote_non_finite(text)).unwrap();
        assert_eq!(read["a"], "NaN");
        assert_eq!(read["b"], serde_json::json!(["-Infinity", "Infinity", 1]));
        assert_eq!(read["NaN"], "x \" Infinity \\");
        assert_eq!(read["c"], "NaN");
        assert_eq!(quote_non_finite("\"open \\"), "\"open \\");
    }

    #[test]
    fn the_table_of_keys_knows_what_matters_and_what_is_neutral() {
        for key in [
            "no_rope_layers",
            "attention_multiplier",
            "mrope_section",
            "use_qk_norm",
        ] {
            assert!(readers(key).is_some(), "{key}");
        }
        for key in [
            "unsloth_fixed",
            "attention_dropout",
            "initializer_range",
            "hidden",
        ] {
            assert!(readers(key).is_none(), "{key}");
        }
        let json = |text| serde_json::from_str::<Value>(text).unwrap();
        for (key, value) in [
            ("no_rope_layers", "[]"),
            ("x", "0.0"),
            ("x", "{}"),
            ("residual_multiplier", "1.0"),
        ] {
            assert!(is_neutral(key, &json(value)), "{key} {value}");
        }
        for (key, value) in [
            ("no_rope_layers", "[1, 0]"),
            ("x", "1"),
            ("x", "\"on\""),
            ("residual_multiplier", "0.22"),
        ] {
            assert!(!is_neutral(key, &json(value)), "{key} {value}");
        }
    }
}
