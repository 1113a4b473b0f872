//! Rows as they are read, within bounds: files come from strangers, and a few kilobytes may unpack to anything.

use std::{path::Path, sync::Arc};

use serde_json::{Map, Value};

use super::Doc;
use crate::{
    error::{Error, Result},
    shard::Shard,
};

/// The most bytes of a row: a line of JSON, an element of an array, the values of a row of parquet.
pub(super) const ROW: usize = 16 << 20;
/// The most bytes that the rows of one split take in memory.
const ALL: usize = 8 << 30;

/// Some rows of some files, and how many there are in all.
#[derive(Debug, Clone)]
pub(crate) struct Rows {
    /// The rows that were wanted, each with its index among all rows.
    pub(crate) docs: Vec<(usize, Doc)>,
    /// How many rows the files have; those that were not wanted become no documents.
    pub(crate) total: usize,
    wanted: Wanted,
    bytes: usize,
    file: Arc<Path>,
}

/// Which rows are wanted: those of a shard among the first `limit`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) limit: usize,
    pub(crate) shard: Shard,
}

impl Wanted {
    /// All rows.
    pub(crate) fn all() -> Self {
        Self {
            limit: usize::MAX,
            shard: Shard::default(),
        }
    }
}

impl Rows {
    pub(super) fn new(wanted: Wanted) -> Self {
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

    /// Whether the next row is wanted.
    pub(super) fn wants_next(&self) -> bool {
        self.room() > 0 && self.wanted.shard.holds(self.total)
    }

    /// How many of the next rows may be wanted.
    pub(super) fn room(&self) -> usize {
        self.wanted.limit.saturating_sub(self.total)
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
        let doc = Doc::new(fields, self.file.clone(), row);
        self.docs.push((self.total, doc));
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
