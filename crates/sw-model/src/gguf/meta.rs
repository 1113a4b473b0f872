//! Metadata of a GGUF file, with errors that name the key.

use std::{cell::RefCell, collections::BTreeSet, path::Path};

use sw_tensor::{Gguf, GgufValue};

use crate::{
    config::config_error,
    error::{Error, Result},
};

/// The keys that have been read.
pub(super) type Read = RefCell<BTreeSet<String>>;

/// The metadata of one file and the prefix of its architecture's keys.
#[derive(Clone, Copy)]
pub(super) struct Meta<'a> {
    pub(super) path: &'a Path,
    pub(super) gguf: &'a Gguf,
    arch: &'a str,
    read: &'a Read,
}

impl<'a> Meta<'a> {
    pub(super) fn new(path: &'a Path, gguf: &'a Gguf, read: &'a Read) -> Result<Meta<'a>> {
        let mut meta = Meta {
            path,
            gguf,
            arch: "",
            read,
        };
        let key = "general.architecture";
        meta.arch = meta
            .text(key)?
            .ok_or_else(|| meta.error(key, "required, but missing; this is no language model"))?;
        Ok(meta)
    }

    pub(super) fn arch(&self) -> &'a str {
        self.arch
    }

    pub(super) fn error(&self, key: &str, problem: impl Into<String>) -> Error {
        config_error(self.path, key, problem)
    }

    pub(super) fn value(&self, key: &str) -> Option<&'a GgufValue> {
        self.note(key);
        self.gguf.metadata().get(key)
    }

    /// Counts a key as read.
    pub(super) fn note(&self, key: &str) {
        self.read.borrow_mut().insert(key.to_owned());
    }

    /// The keys that have not been read so far, with their values.
    pub(super) fn unread(&self) -> impl Iterator<Item = (&'a String, &'a GgufValue)> {
        let all = self.gguf.metadata().iter();
        all.filter(|(key, _)| !self.read.borrow().contains(*key))
    }

    fn read<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&'a GgufValue) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let problem = || format!("expected {expected}, found {}", value.kind());
        read(value)
            .map(Some)
            .ok_or_else(|| self.error(key, problem()))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.read(key, "a text", GgufValue::as_str)
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, "true or false", GgufValue::as_bool)
    }

    pub(super) fn size(&self, key: &str) -> Result<Option<u64>> {
        self.read(key, "a whole number", GgufValue::as_u64)
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<&'a [String]>> {
        self.read(key, "a list of texts", GgufValue::as_texts)
    }

    pub(super) fn ints(&self, key: &str) -> Result<Option<&'a [i64]>> {
        self.read(key, "a list of whole numbers", GgufValue::as_ints)
    }

    pub(super) fn floats(&self, key: &str) -> Result<Option<&'a [f32]>> {
        self.read(key, "a list of numbers", GgufValue::as_floats)
    }

    /// A key of the architecture.
    pub(super) fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    /// A size of the architecture; a list of one per layer must repeat one size.
    pub(super) fn opt(&self, key: &str) -> Result<Option<u64>> {
        let key = self.key(key);
        match self.value(&key).and_then(GgufValue::as_ints) {
            None => self.size(&key),
            Some([first, rest @ ..]) if rest.iter().all(|n| n == first) => {
                let first = u64::try_from(*first);
                let problem = "expected whole numbers that are not negative";
                first.map(Some).map_err(|_| self.error(&key, problem))
            }
            Some(list) => {
                let list: Vec<_> = list.iter().take(8).map(i64::to_string).collect();
                let problem = format!(
                    "one size for all layers is implemented, found {}, ...",
                    list.join(", ")
                );
                Err(self.error(&key, problem))
            }
        }
    }

    /// A size of the architecture that every file has.
    pub(super) fn required(&self, key: &str) -> Result<u64> {
        let missing = || self.error(&self.key(key), "required, but missing");
        self.opt(key)?.ok_or_else(missing)
    }

    /// A number of the architecture, as single precision prints it.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>> {
        let value = self.read(&self.key(key), "a number", GgufValue::as_f64)?;
        let short = |x: f64| (x as f32).to_string().parse().unwrap_or(x);
        Ok(value.map(short))
    }

    /// The rows and columns, slowest first, of a tensor.
    pub(super) fn shape(&self, tensor: &str) -> Option<&'a [usize]> {
        let tensor = self.gguf.tensors().get(tensor)?;
        Some(&tensor.shape)
    }
}
