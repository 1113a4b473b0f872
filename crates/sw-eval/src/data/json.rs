//! Rows of JSON files, plain or compressed with gzip: an object on each line, or one array of objects.

use std::{
    cell::Cell,
    fmt,
    io::{BufRead, BufReader, Cursor, Read},
    path::Path,
};

use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::rows::{ROW, Rows};
use crate::error::{Error, Result};

pub(super) fn reads(name: &str) -> bool {
    [".json.gz", ".jsonl.gz", ".json", ".jsonl"]
        .iter()
        .any(|end| name.ends_with(end))
}

pub(super) fn read(path: &Path, rows: &mut Rows) -> Result<()> {
    let file = sw_tensor::files::open_regular(path).map_err(|e| Error::io(path, e))?;
    let reader: Box<dyn Read> = if path.extension().is_some_and(|e| e == "gz") {
        Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(file)))
    } else {
        Box::new(file)
    };
    let broken = |line: usize, e: &dyn fmt::Display| {
        Error::data(path, format!("broken after line {line}: {e}"))
    };
    let mut reader = BufReader::new(reader);
    let mut head = Vec::new();
    let three = reader.by_ref().take(3).read_to_end(&mut head);
    three.map_err(|e| broken(0, &e))?;
    if head == "\u{feff}".as_bytes() {
        head.clear(); // a byte order mark says nothing
    }
    let mut reader = Cursor::new(head).chain(reader);
    let mut number = 0;
    loop {
        let next = reader.fill_buf().map_err(|e| broken(number, &e))?;
        match next.first() {
            Some(b'[') => return array(path, reader, rows),
            Some(c) if c.is_ascii_whitespace() => number += usize::from(*c == b'\n'),
            _ => break,
        }
        reader.consume(1);
    }
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = reader
            .by_ref()
            .take(ROW as u64 + 1)
            .read_until(b'\n', &mut line);
        if length.map_err(|e| broken(number, &e))? == 0 {
            return Ok(());
        }
        if line.len() > ROW {
            let problem = format!(
                "line {}: more than {ROW} bytes, the most of a row",
                number + 1
            );
            return Err(Error::data(path, problem));
        }
        let text = std::str::from_utf8(&line).map_err(|e| broken(number, &e))?;
        number += 1;
        if text.trim().is_empty() {
            continue;
        }
        if !rows.wants_next() {
            rows.count(1);
            continue;
        }
        let fields: Map<String, Value> = serde_json::from_str(text)
            .map_err(|e| Error::data(path, format!("line {number}: not a JSON object: {e}")))?;
        rows.push(fields, number - 1)?;
    }
}

/// Reads an array of objects, one after the other.
fn array(path: &Path, reader: impl Read, rows: &mut Rows) -> Result<()> {
    let used = Cell::new(0);
    let mut refused = None;
    let mut json = serde_json::Deserializer::from_reader(Metered {
        reader,
        used: &used,
    });
    let elements = Elements {
        rows,
        used: &used,
        refused: &mut refused,
    };
    let read = json.deserialize_seq(elements).and_then(|()| json.end());
    match (refused, read) {
        (Some(error), _) => Err(error),
        (None, Err(e)) => Err(Error::data(
            path,
            format!("not a JSON array of objects: {e}"),
        )),
        (None, Ok(())) => Ok(()),
    }
}

/// A reader that counts what was read since an element began, and ends where that is more than a row may be.
struct Metered<'a, R> {
    reader: R,
    used: &'a Cell<usize>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let read = self.reader.read(bytes)?;
        self.used.set(self.used.get() + read);
        if self.used.get() > ROW {
            let problem = format!("more than {ROW} bytes, the most of a row");
            return Err(std::io::Error::other(problem));
        }
        Ok(read)
    }
}

struct Elements<'a> {
    rows: &'a mut Rows,
    used: &'a Cell<usize>,
    refused: &'a mut Option<Error>,
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> std::result::Result<(), A::Error> {
        for row in 0.. {
            self.used.set(0);
            if !self.rows.wants_next() {
                match elements.next_element::<IgnoredAny>()? {
                    Some(_) => self.rows.count(1),
                    None => break,
                }
            } else {
                let Some(fields) = elements.next_element::<Map<String, Value>>()? else {
                    break;
                };
                if let Err(error) = self.rows.push(fields, row) {
                    *self.refused = Some(error);
                    return Err(serde::de::Error::custom("refused"));
                }
            }
        }
        Ok(())
    }
}
