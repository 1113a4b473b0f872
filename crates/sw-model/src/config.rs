//! Reading `config.json` strictly: every key is used, known to be inert, or an error that names it.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Keys that say nothing about the arithmetic of a forward pass.
const INERT: &[&str] = &[
    "_attn_implementation_autoset",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "attn_pdrop",
    "auto_map",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "dtype",
    "embd_pdrop",
    "embedding_dropout",
    "eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout",
    "hidden_dropout_prob",
    "id2label",
    "initializer_range",
    "is_llama_config",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "pretraining_tp", // a way to cut the same product into slices
    "problem_type",
    "resid_pdrop",
    "return_dict",
    "sep_token_id",
    "task_specific_params",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "unsloth_version",
    "transformers.js_config",
    "transformers_version",
    "use_cache",
    "use_return_dict",
];

/// The largest size a config may name; products of two still fit 64 bits.
const MAX_SIZE: u64 = u32::MAX as u64;

/// The fields of a config file (or of an object inside it), remembering which were read.
pub(crate) struct Fields<'a> {
    path: &'a Path,
    prefix: String,
    map: &'a Map<String, Value>,
    used: RefCell<BTreeSet<&'static str>>,
    /// Tensors in the checkpoint: a bound on the layers and experts a config may claim.
    tensors: usize,
}

pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_str(&text).map_err(|source| Error::Json {
        path: path.into(),
        source,
    })
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
    pub(crate) fn new(path: &'a Path, config: &'a Value, tensors: usize) -> Result<Self> {
        let map = config.as_object().ok_or_else(|| {
            config_error(
                path,
                "(root)",
                "expected an object of settings, found something else",
            )
        })?;
        Ok(Self {
            path,
            prefix: String::new(),
            map,
            used: RefCell::default(),
            tensors,
        })
    }

    /// The fields of an object inside this one; `None` where it is absent.
    pub(crate) fn object(&self, name: &'static str) -> Result<Option<Fields<'a>>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields {
                path: self.path,
                prefix: format!("{}{name}.", self.prefix),
                map,
                used: RefCell::default(),
                tensors: self.tensors,
            })),
            Some(other) => Err(self.wrong(name, "an object", other)),
        }
    }

    pub(crate) fn error(&self, name: &str, problem: impl Into<String>) -> Error {
        config_error(self.path, format!("{}{name}", self.prefix), problem)
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
        self.required(name, self.opt_stored(name, "layers")?)
    }

    /// A number of things with tensors of their own, refused where the checkpoint cannot possibly hold so many.
    pub(crate) fn opt_stored(&self, name: &'static str, what: &str) -> Result<Option<usize>> {
        let Some(n) = self.get(name) else {
            return Ok(None);
        };
        match n.as_u64() {
            Some(0) | None => {
                let expected = format!("a whole number of {what}, at least 1");
                Err(self.wrong(name, &expected, n))
            }
            Some(n) if n > self.tensors as u64 => Err(self.error(
                name,
                format!(
                    "{n} {what}, but the checkpoint holds only {} tensors",
                    self.tensors
                ),
            )),
            Some(n) => Ok(Some(n as usize)),
        }
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

    /// Every key must have been read by now, or be inert (in general, or for this family), or be in `ignore`.
    pub(crate) fn finish(self, inert: &[&str], ignore: &[String]) -> Result<()> {
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
        match self.map.iter().find(|(k, v)| !v.is_null() && !known(k) && !ignore.iter().any(|i| i == *k)) {
            None => Ok(()),
            Some((key, value)) => Err(self.error(
                key,
                format!(
                    "a field that is not implemented (value {}); if it does not change the arithmetic, pass --ignore-config-field {key}",
                    value.to_string().chars().take(60).collect::<String>()
                ),
            )),
        }
    }
}
