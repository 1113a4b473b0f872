//! Rows as they are read, within bounds: files come from strangers, and a few kilobytes may unpack to anything.

use std::{path::Path, sync::Arc};

use serde_json::{Map, Value};

use super::Doc;
use crate::error::{Error, Result};

/// The most bytes of a row: a line of JSON, an element of an array, the values of a row of parquet.
pub(super) const ROW: usize = 16 << 20;
/// The most bytes that the rows of one split take in memory.
const ALL: usize = 8 << 30;

/// The first rows of some files, and how many there are in all.
#[derive(Debug)]
pub(crate) struct Rows {
    /// The rows that were wanted.
    pub(crate) docs: Vec<Doc>,
    /// How many rows the files have; those that were not wanted are counted, not looked at.
    pub(crate) total: usize,
    wanted: usize,
    bytes: usize,
    file: Arc<Path>,
}

impl Rows {
    pub(super) fn new(wanted: usize) -> Self {
        Self {
            docs: Vec::new(),
            total: 0,
            wanted,
            bytes: 0,
            file: Path::new("").into(),
        }
    }

    /// Rows come from this file from now on.
    pub(super) fn of(&mut self, file: &Path) {
        self.file = file.into();
    }

    /// Whether there are as many rows as were wanted.
    pub(super) fn full(&self) -> bool {
        self.docs.len() >= self.wanted
    }

    /// How many rows are still wanted.
    pub(super) fn room(&self) -> usize {
        self.wanted - self.docs.len().min(self.wanted)
    }

    /// Counts rows that nobody wants.
    pub(super) fn count(&mut self, rows: usize) {
        self.total = self.total.saturating_add(rows);
    }

    /// Adds a row of the file.
    ///
    /// # Errors
    /// When the rows take more memory than they may.
    pub(super) fn push(&mut self, fields: Map<String, Value>, row: usize) -> Result<()> {
        self.bytes += fields.iter().map(|(k, v)| k.len() + size(v)).sum::<usize>();
        if self.bytes > ALL {
            let problem = format!(
                "row {row}: the rows up to here take more than {ALL} bytes, the most of a split"
            );
            return Err(Error::data(&self.file, problem));
        }
        self.docs.push(Doc::new(fields, self.file.clone(), row));
        self.count(1);
        Ok(())
    }
}

/// About the bytes that a value takes in memory.
pub(super) fn size(value: &Value) -> usize {
    let inner = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(fields) => fields.iter().map(|(k, v)| 48 + k.len() + size(v)).sum(),
        _ => 0,
    };
    size_of::<Value>() + inner
}
