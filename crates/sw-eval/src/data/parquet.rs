//! Rows of parquet files.

use std::{fs::File, path::Path};

use parquet::{
    errors::ParquetError,
    file::reader::{FileReader, SerializedFileReader},
    record::{Field, Row},
};
use serde_json::{Map, Value, json};
use sw_model::guarded;

use super::{
    pages,
    rows::{ROW, Rows, size},
};
use crate::error::{Error, Result};

pub(super) fn reads(name: &str) -> bool {
    name.ends_with(".parquet")
}

pub(super) fn read(path: &Path, rows: &mut Rows) -> Result<()> {
    let broken = |problem: &dyn std::fmt::Display| {
        Error::data(
            path,
            format!("not a parquet file that can be read: {problem}"),
        )
    };
    let file = sw_tensor::files::open_regular(path).map_err(|e| Error::io(path, e))?;
    // The library panics on some broken files.
    let read = guarded(|| read_rows(path, file, rows, &|e| broken(&e)));
    read.unwrap_or_else(|| Err(broken(&"the file contradicts itself")))
}

fn read_rows(
    path: &Path,
    file: File,
    rows: &mut Rows,
    broken: &dyn Fn(ParquetError) -> Error,
) -> Result<()> {
    let again = file.try_clone().map_err(|e| Error::io(path, e))?;
    let reader = SerializedFileReader::new(file).map_err(broken)?;
    let held = usize::try_from(reader.metadata().file_metadata().num_rows()).unwrap_or(0);
    if rows.room() == 0 {
        rows.count(held);
        return Ok(());
    }
    pages::check(&again, reader.metadata()).map_err(|problem| Error::data(path, problem))?;
    let (looked_at, mut read) = (rows.room().min(held), 0);
    for row in reader.get_row_iter(None).map_err(broken)?.take(looked_at) {
        let row = row.map_err(broken)?;
        if !rows.wants_next() {
            rows.count(1);
            read += 1;
            continue;
        }
        let fields = object(&row);
        if fields.values().map(size).sum::<usize>() > ROW {
            let problem = format!("row {read}: more than {ROW} bytes, the most of a row");
            return Err(Error::data(path, problem));
        }
        rows.push(fields, read)?;
        read += 1;
    }
    if read < looked_at {
        let problem = format!("it is said to have {held} rows, found {read}; download it again");
        return Err(Error::data(path, problem));
    }
    rows.count(held - read);
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
        // Text whose writer did not say that it is text. Other bytes (a picture) are text to no task.
        Field::Bytes(x) => match std::str::from_utf8(x.data()) {
            Ok(text) => text.into(),
            Err(_) => json!({"bytes": x.data().len()}),
        },
        Field::Group(row) => Value::Object(object(row)),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        other => other.to_string().into(), // dates, decimals, maps: no task reads them
    }
}
