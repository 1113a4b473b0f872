//! Rows of JSON-lines files, plain or compressed with gzip.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
    sync::Arc,
};

use serde_json::{Map, Value};

use super::Doc;
use crate::error::{Error, Result};

pub(super) fn reads(name: &str) -> bool {
    [".json.gz", ".jsonl.gz", ".json", ".jsonl"]
        .iter()
        .any(|end| name.ends_with(end))
}

pub(super) fn read(path: &Path, docs: &mut Vec<Doc>) -> Result<()> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let reader: Box<dyn Read> = if path.extension().is_some_and(|e| e == "gz") {
        Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(file)))
    } else {
        Box::new(file)
    };
    let source: Arc<Path> = path.into();
    for (row, line) in BufReader::new(reader).lines().enumerate() {
        let line = line.map_err(|e| Error::data(path, format!("broken after line {row}: {e}")))?;
        if line.trim().is_empty() {
            continue;
        }
        let fields: Map<String, Value> = serde_json::from_str(&line)
            .map_err(|e| Error::data(path, format!("line {}: not a JSON object: {e}", row + 1)))?;
        docs.push(Doc::new(fields, source.clone(), row));
    }
    Ok(())
}
