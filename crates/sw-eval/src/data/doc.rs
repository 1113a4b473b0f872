//! One row of a data file, with typed access to its columns.

use std::{path::Path, sync::Arc};

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// One row of a data file: all its columns, in the file's order, and where it came from.
#[derive(Clone, Debug)]
pub struct Doc {
    /// Column names and values.
    pub fields: Map<String, Value>,
    file: Arc<Path>,
    row: usize,
}

/// Two documents are equal when their columns are, wherever they were read.
impl PartialEq for Doc {
    fn eq(&self, other: &Self) -> bool {
        self.fields == other.fields
    }
}

impl Doc {
    /// A row of a file.
    pub fn new(fields: Map<String, Value>, file: Arc<Path>, row: usize) -> Self {
        Self { fields, file, row }
    }

    /// Another document from the same place, such as a page made of rows.
    pub(crate) fn with_fields(&self, fields: Map<String, Value>) -> Self {
        Self {
            fields,
            file: self.file.clone(),
            row: self.row,
        }
    }

    /// The file it came from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// An error at this row.
    pub fn error(&self, problem: impl std::fmt::Display) -> Error {
        Error::data(&self.file, format!("row {}: {problem}", self.row))
    }

    /// A text column; `a.b` is column `b` of the struct `a`.
    ///
    /// # Errors
    /// When there is no such column, or it holds something else.
    pub fn text(&self, column: &str) -> Result<&str> {
        let value = self.value(column)?;
        value
            .as_str()
            .ok_or_else(|| self.wrong(column, "text", value))
    }

    /// A column of texts.
    ///
    /// # Errors
    /// When there is no such column, or it holds something else.
    pub fn texts(&self, column: &str) -> Result<Vec<String>> {
        let value = self.value(column)?;
        let wrong = || self.wrong(column, "a list of texts", value);
        let items = value.as_array().ok_or_else(wrong)?;
        items
            .iter()
            .map(|v| v.as_str().map(str::to_owned).ok_or_else(wrong))
            .collect()
    }

    /// A column of integers, which may be written as text.
    ///
    /// # Errors
    /// When there is no such column, or it holds something else.
    pub fn integer(&self, column: &str) -> Result<i64> {
        let value = self.value(column)?;
        let parsed = value
            .as_i64()
            .or_else(|| value.as_str().and_then(|s| s.trim().parse().ok()));
        parsed.ok_or_else(|| self.wrong(column, "an integer", value))
    }

    /// The right answer's index, which must be one of `choices`.
    ///
    /// # Errors
    /// When it lies outside.
    pub fn gold(&self, column: &str, index: i64, choices: usize) -> Result<usize> {
        usize::try_from(index).ok().filter(|&i| i < choices).ok_or_else(|| {
            self.error(format!("column {column:?}: gold index {index} is outside the {choices} choices (unlabelled data?)"))
        })
    }

    fn value(&self, column: &str) -> Result<&Value> {
        let mut parts = column.split('.');
        let mut value = self.fields.get(parts.next().unwrap_or_default());
        for part in parts {
            value = value.and_then(|v| v.get(part));
        }
        value.ok_or_else(|| {
            let found: Vec<_> = self.fields.keys().map(String::as_str).collect();
            Error::data(
                &self.file,
                format!("no column {column:?}; the file has: {}", found.join(", ")),
            )
        })
    }

    fn wrong(&self, column: &str, expected: &str, found: &Value) -> Error {
        let mut found = found.to_string();
        if found.chars().count() > 40 {
            found = found.chars().take(40).chain("...".chars()).collect();
        }
        self.error(format!(
            "column {column:?}: expected {expected}, found {found}"
        ))
    }
}
