//! Rows of parquet files.

use std::{fs::File, path::Path, sync::Arc};

use parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::{Field, Row},
};
use serde_json::{Map, Value};

use super::Doc;
use crate::error::{Error, Result};

pub(super) fn reads(name: &str) -> bool {
    name.ends_with(".parquet")
}

pub(super) fn read(path: &Path, docs: &mut Vec<Doc>) -> Result<()> {
    let broken = |e: parquet::errors::ParquetError| {
        Error::data(path, format!("not a parquet file that can be read: {e}"))
    };
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let reader = SerializedFileReader::new(file).map_err(broken)?;
    let source: Arc<Path> = path.into();
    for (i, row) in reader.get_row_iter(None).map_err(broken)?.enumerate() {
        docs.push(Doc::new(object(&row.map_err(broken)?), source.clone(), i));
    }
    Ok(())
}

fn object(row: &Row) -> Map<String, Value> {
    row.get_column_iter()
        .map(|(name, field)| (name.clone(), value(field)))
        .collect()
}

fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(x) => (*x).into(),
        Field::Byte(x) => (*x).into(),
        Field::Short(x) => (*x).into(),
        Field::Int(x) => (*x).into(),
        Field::Long(x) => (*x).into(),
        Field::UByte(x) => (*x).into(),
        Field::UShort(x) => (*x).into(),
        Field::UInt(x) => (*x).into(),
        Field::ULong(x) => (*x).into(),
        Field::Float(x) => (*x).into(),
        Field::Double(x) => (*x).into(),
        Field::Str(x) => x.as_str().into(),
        Field::Group(row) => Value::Object(object(row)),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        other => other.to_string().into(), // dates, decimals, bytes, maps: no task reads them
    }
}
