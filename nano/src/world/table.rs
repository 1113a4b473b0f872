//! Parquet tables of text, numbers and lists of texts: what the evaluation sets are stored in.

use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int32Type, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use sw_train::checkpoint;

use crate::error::{Error, Result};

/// One column; its name may be `group.name`, neighbouring columns of a group standing together.
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) values: Values,
}

/// The values of a column, one per row.
pub(super) enum Values {
    Text(Vec<String>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Texts(Vec<Vec<String>>),
}

impl Column {
    pub(super) fn text(
        name: &'static str,
        values: impl IntoIterator<Item = impl Into<String>>,
    ) -> Column {
        Column {
            name,
            values: Values::Text(values.into_iter().map(Into::into).collect()),
        }
    }

    pub(super) fn texts(
        name: &'static str,
        values: impl IntoIterator<Item = Vec<String>>,
    ) -> Column {
        Column {
            name,
            values: Values::Texts(values.into_iter().collect()),
        }
    }

    fn declaration(&self, name: &str) -> String {
        match self.values {
            Values::Text(_) => format!("optional binary {name} (STRING);"),
            Values::Int32(_) => format!("optional int32 {name};"),
            Values::Int64(_) => format!("optional int64 {name};"),
            Values::Texts(_) => format!(
                "optional group {name} (LIST) {{ repeated group list {{ optional binary element (STRING); }} }}"
            ),
        }
    }
}

/// Writes a table of snappy-compressed columns.
pub(super) fn write(path: &Path, columns: &[Column]) -> Result<()> {
    let parquet = |e: parquet::errors::ParquetError| Error::content(path, e);
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(Error::file(dir))?;
    }
    let schema = Arc::new(parse_message_type(&message(columns)).map_err(parquet)?);
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_created_by("sw-train".to_string());
    let mut bytes = Vec::new();
    let mut file = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties.build()))
        .map_err(parquet)?;
    let mut group = file.next_row_group().map_err(parquet)?;
    for column in columns {
        let Some(mut writer) = group.next_column().map_err(parquet)? else {
            break;
        };
        // Every value is there, so every definition level is the deepest: one per optional or repeated node above it.
        let outer = 1 + column.name.matches('.').count() as i16;
        let levels = |n: usize, deepest: i16| vec![deepest; n];
        match &column.values {
            Values::Text(texts) => {
                let values: Vec<ByteArray> =
                    texts.iter().map(|t| ByteArray::from(t.as_str())).collect();
                let typed = writer.typed::<ByteArrayType>();
                typed
                    .write_batch(&values, Some(&levels(values.len(), outer)), None)
                    .map_err(parquet)?;
            }
            Values::Int32(values) => {
                let typed = writer.typed::<Int32Type>();
                typed
                    .write_batch(values, Some(&levels(values.len(), outer)), None)
                    .map_err(parquet)?;
            }
            Values::Int64(values) => {
                let typed = writer.typed::<Int64Type>();
                typed
                    .write_batch(values, Some(&levels(values.len(), outer)), None)
                    .map_err(parquet)?;
            }
            Values::Texts(lists) => {
                let values: Vec<ByteArray> = lists
                    .iter()
                    .flatten()
                    .map(|t| ByteArray::from(t.as_str()))
                    .collect();
                // A list's first element starts a row (0), the others continue it (1).
                let repeats: Vec<i16> = lists
                    .iter()
                    .flat_map(|l| (0..l.len()).map(|i| i16::from(i > 0)))
                    .collect();
                let typed = writer.typed::<ByteArrayType>();
                typed
                    .write_batch(
                        &values,
                        Some(&levels(values.len(), outer + 2)),
                        Some(&repeats),
                    )
                    .map_err(parquet)?;
            }
        }
        writer.close().map_err(parquet)?;
    }
    group.close().map_err(parquet)?;
    file.close().map_err(parquet)?;
    Ok(checkpoint::write(path, &bytes)?)
}

fn message(columns: &[Column]) -> String {
    let mut text = String::from("message schema {");
    let mut open: Option<&str> = None;
    for column in columns {
        let (group, name) = match column.name.split_once('.') {
            Some((group, name)) => (Some(group), name),
            None => (None, column.name),
        };
        if open != group {
            if open.is_some() {
                text.push('}');
            }
            if let Some(group) = group {
                text.push_str(&format!("optional group {group} {{"));
            }
            open = group;
        }
        text.push_str(&column.declaration(name));
    }
    if open.is_some() {
        text.push('}');
    }
    text + "}"
}
