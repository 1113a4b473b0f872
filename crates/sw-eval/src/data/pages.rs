//! The sizes of a parquet file's pages, which stand in front of them: looked at before a page is unpacked.

use std::{
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
};

use parquet::file::metadata::ParquetMetaData;

/// The most bytes of a page once it is unpacked. Writers make pages of about a megabyte.
const PAGE: i64 = 256 << 20;

/// Looks at the header of every page.
///
/// # Errors
/// A page that is longer than [`PAGE`] once it is unpacked, or a header that is none.
pub(super) fn check(file: &File, metadata: &ParquetMetaData) -> Result<(), String> {
    let mut reader = BufReader::with_capacity(512, file);
    for group in metadata.row_groups() {
        for column in group.columns() {
            let (start, length) = column.byte_range();
            let end = start.saturating_add(length);
            let name = column.column_path();
            let broken = || format!("column {name}: a page has no header that can be read");
            let mut at = start;
            let mut values = 0;
            while at < end && values < column.num_values() {
                reader.seek(SeekFrom::Start(at)).map_err(|_| broken())?;
                let mut header = Thrift::new(&mut reader);
                let page = header.page().ok_or_else(broken)?;
                if page.unpacked > PAGE {
                    return Err(format!(
                        "column {name}: a page of {} bytes, expected at most {PAGE}",
                        page.unpacked
                    ));
                }
                let packed = u64::try_from(page.packed).map_err(|_| broken())?;
                values += page.values;
                at += header.read + packed;
            }
        }
    }
    Ok(())
}

#[derive(Default)]
struct Page {
    unpacked: i64,
    packed: i64,
    values: i64,
}

/// Thrift's compact protocol, as far as a page header needs it
/// (<https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>).
struct Thrift<R> {
    reader: R,
    read: u64,
}

/// The most bytes of a header. Statistics in it may repeat a cell.
const HEADER: u64 = 32 << 20;

impl<R: Read> Thrift<R> {
    fn new(reader: R) -> Self {
        Self { reader, read: 0 }
    }

    /// `PageHeader`: type, unpacked size, packed size, checksum, and what is special to the type.
    fn page(&mut self) -> Option<Page> {
        let mut page = Page::default();
        let mut field = 0;
        while let Some(kind) = self.field(&mut field)? {
            match (field, kind) {
                (2, 5) => page.unpacked = self.integer()?,
                (3, 5) => page.packed = self.integer()?,
                // Data pages, first and second version: the number of values is their first field.
                (5 | 8, 12) => {
                    let mut inner = 0;
                    while let Some(kind) = self.field(&mut inner)? {
                        match (inner, kind) {
                            (1, 5) => page.values = self.integer()?,
                            _ => self.skip(kind, 0)?,
                        }
                    }
                }
                _ => self.skip(kind, 0)?,
            }
        }
        Some(page)
    }

    /// The type of the next field, whose number follows from the last one's; `Some(None)` after the last.
    fn field(&mut self, number: &mut i64) -> Option<Option<u8>> {
        let byte = self.byte()?;
        if byte == 0 {
            return Some(None);
        }
        *number = match byte >> 4 {
            0 => self.integer()?,
            more => number.checked_add(i64::from(more))?,
        };
        Some(Some(byte & 15))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        match kind {
            1 | 2 => Some(()), // a boolean is its type
            3 => self.byte().map(drop),
            4..=6 => self.varint().map(drop),
            7 => (0..8).try_for_each(|_| self.byte().map(drop)),
            8 => {
                let length = self.varint()?;
                if length > HEADER {
                    return None;
                }
                (0..length).try_for_each(|_| self.byte().map(drop))
            }
            9 | 10 if depth < 8 => {
                let byte = self.byte()?;
                let count = match byte >> 4 {
                    15 => self.varint()?,
                    few => u64::from(few),
                };
                (0..count).try_for_each(|_| match byte & 15 {
                    1 | 2 => self.byte().map(drop),
                    kind => self.skip(kind, depth + 1),
                })
            }
            12 if depth < 8 => {
                let mut field = 0;
                while let Some(kind) = self.field(&mut field)? {
                    self.skip(kind, depth + 1)?;
                }
                Some(())
            }
            _ => None,
        }
    }

    fn integer(&mut self) -> Option<i64> {
        let n = self.varint()?;
        Some((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut n = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            n |= u64::from(byte & 127).checked_shl(shift)?;
            if byte < 128 {
                return Some(n);
            }
        }
        None
    }

    fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        self.reader.read_exact(&mut byte).ok()?;
        self.read += 1;
        (self.read <= HEADER).then_some(byte[0])
    }
}
