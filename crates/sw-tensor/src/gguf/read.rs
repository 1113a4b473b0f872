//! The header of a GGUF file, read with every length checked against the file before anything is allocated.

use std::collections::BTreeMap;

use super::{Coding, GgufTensor, GgufValue};

/// Most bytes of metadata and tensor descriptions; those of the largest vocabularies take a tenth.
const MAX_HEADER: usize = 256 << 20;
/// Most elements of a list; the largest vocabularies have a sixtieth.
const MAX_LIST: u64 = 1 << 24;
/// The format's own limit for dimensions.
const MAX_DIMS: u32 = 4;
/// What data is aligned to where the file does not say.
const ALIGNMENT: u64 = 32;

/// What one file says about itself.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) metadata: BTreeMap<String, GgufValue>,
    pub(super) tensors: BTreeMap<String, GgufTensor>,
    /// Bytes before the data.
    pub(super) len: usize,
}

/// Reads the header of `file`; the error says what is wrong.
pub(super) fn header(file: &[u8]) -> Result<Header, String> {
    let mut at = Cursor { file, at: 0 };
    let magic = at.take(4, "the four bytes GGUF")?;
    if magic != b"GGUF" {
        return Err(format!(
            "expected the four bytes GGUF at its beginning, found {:?}",
            String::from_utf8_lossy(magic)
        ));
    }
    let version = at.u32("the version")?;
    match version {
        2 | 3 => {}
        _ if matches!(version.swap_bytes(), 1..=0xffff) => {
            return Err("expected little-endian numbers, found big-endian ones".into());
        }
        _ => return Err(format!("expected version 2 or 3, found {version}")),
    }
    let tensors = at.u64("the number of tensors")?;
    let keys = at.u64("the number of metadata keys")?;
    at.fits(tensors, 24, "tensors")?;
    at.fits(keys, 13, "metadata keys")?;
    let mut metadata = BTreeMap::new();
    for _ in 0..keys {
        let key = at.text("a metadata key")?;
        let value = at.value(&key)?;
        if metadata.contains_key(&key) {
            return Err(format!("metadata key {key:?} is there twice"));
        }
        metadata.insert(key, value);
    }
    let alignment = match metadata.get("general.alignment") {
        None => ALIGNMENT,
        Some(value) => match value.as_u64() {
            Some(n) if n.is_power_of_two() && n <= 1 << 30 => n,
            _ => {
                return Err(format!(
                    "general.alignment: expected a power of two, found {value:?}"
                ));
            }
        },
    };
    let mut described = BTreeMap::new();
    for _ in 0..tensors {
        let (name, tensor) = at.tensor()?;
        if described.contains_key(&name) {
            return Err(format!("tensor {name:?} is there twice"));
        }
        described.insert(name, tensor);
    }
    let data = (at.at as u64).next_multiple_of(alignment);
    for (name, tensor) in &mut described {
        let offset = tensor.offset as u64;
        if !offset.is_multiple_of(alignment) {
            return Err(format!(
                "tensor {name:?}: offset {offset} is no multiple of the alignment {alignment}"
            ));
        }
        let start = offset.checked_add(data);
        let end = start.and_then(|start| start.checked_add(tensor.len as u64));
        match (start, end) {
            (Some(start), Some(end)) if end <= file.len() as u64 => tensor.offset = start as usize,
            _ => {
                return Err(format!(
                    "tensor {name:?}: {} bytes at offset {offset} of the data lie beyond the end of the file, which has {} bytes in all; it is truncated or damaged",
                    tensor.len,
                    file.len()
                ));
            }
        }
    }
    Ok(Header {
        metadata,
        tensors: described,
        len: file.len().min(data as usize),
    })
}

struct Cursor<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8], String> {
        let rest = &self.file[self.at..];
        let Some(bytes) = rest.get(..n) else {
            return Err(format!(
                "ends inside its header: {what} at byte {} takes {n} bytes, and {} are left",
                self.at,
                rest.len()
            ));
        };
        self.at += n;
        if self.at > MAX_HEADER {
            return Err(format!("expected at most {MAX_HEADER} bytes of header"));
        }
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        let bytes = self.take(N, what)?;
        bytes
            .try_into()
            .map_err(|_| format!("{what}: expected {N} bytes"))
    }

    fn u32(&mut self, what: &str) -> Result<u32, String> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, String> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Refuses `n` things of at least `size` bytes that the rest of the file cannot hold.
    fn fits(&self, n: u64, size: u64, what: &str) -> Result<(), String> {
        let left = (self.file.len() - self.at) as u64;
        match n.checked_mul(size) {
            Some(bytes) if bytes <= left => Ok(()),
            _ => Err(format!(
                "{n} {what} are announced, of {size} bytes or more each, but only {left} bytes are left"
            )),
        }
    }

    fn text(&mut self, what: &str) -> Result<String, String> {
        let at = self.at;
        let len = self.u64(what)?;
        self.fits(len, 1, &format!("bytes of {what} at byte {at}"))?;
        let bytes = self.take(len as usize, what)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(e) => Err(format!("{what} at byte {at} is not UTF-8: {e}")),
        }
    }

    fn value(&mut self, key: &str) -> Result<GgufValue, String> {
        match self.u32(key)? {
            8 => Ok(GgufValue::Text(self.text(key)?)),
            9 => self.list(key),
            kind => self.scalar(kind, key),
        }
    }

    fn scalar(&mut self, kind: u32, key: &str) -> Result<GgufValue, String> {
        use GgufValue::{Bool, Float, Int};
        Ok(match kind {
            0 => Int(self.array::<1>(key)?[0].into()),
            1 => Int(i8::from_le_bytes(self.array(key)?).into()),
            2 => Int(u16::from_le_bytes(self.array(key)?).into()),
            3 => Int(i16::from_le_bytes(self.array(key)?).into()),
            4 => Int(self.u32(key)?.into()),
            5 => Int(i32::from_le_bytes(self.array(key)?).into()),
            6 => Float(f32::from_le_bytes(self.array(key)?).into()),
            7 => Bool(self.array::<1>(key)?[0] != 0),
            10 => Int(self.u64(key)?.into()),
            11 => Int(i64::from_le_bytes(self.array(key)?).into()),
            12 => Float(f64::from_le_bytes(self.array(key)?)),
            _ => {
                return Err(format!(
                    "metadata key {key:?}: expected a type of value from 0 to 12, found {kind}"
                ));
            }
        })
    }

    fn list(&mut self, key: &str) -> Result<GgufValue, String> {
        let (kind, n) = (self.u32(key)?, self.u64(key)?);
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => {
                return Err(format!("metadata key {key:?}: lists of lists are not read"));
            }
            _ => {
                return Err(format!(
                    "metadata key {key:?}: expected a type of value from 0 to 12, found a list of {kind}"
                ));
            }
        };
        let what = format!("elements of {key:?}");
        self.fits(n, size, &what)?;
        if n > MAX_LIST {
            return Err(format!("{n} {what}: expected at most {MAX_LIST}"));
        }
        Ok(match kind {
            8 => GgufValue::Texts((0..n).map(|_| self.text(key)).collect::<Result<_, _>>()?),
            6 | 12 => {
                let one = |_| Ok(self.scalar(kind, key)?.as_f64().unwrap_or_default() as f32);
                GgufValue::Floats((0..n).map(one).collect::<Result<_, String>>()?)
            }
            _ => {
                let one = |_| match self.scalar(kind, key)? {
                    GgufValue::Bool(b) => Ok(b.into()),
                    GgufValue::Int(i) => i64::try_from(i)
                        .map_err(|_| format!("{what}: expected numbers below 2^63, found {i}")),
                    _ => Ok(0),
                };
                GgufValue::Ints((0..n).map(one).collect::<Result<_, String>>()?)
            }
        })
    }

    /// Name and description, with its place counted from where the data begin.
    fn tensor(&mut self) -> Result<(String, GgufTensor), String> {
        let name = self.text("the name of a tensor")?;
        let here = format!("tensor {name:?}");
        let dims = self.u32(&here)?;
        if dims > MAX_DIMS {
            return Err(format!(
                "{here}: expected at most {MAX_DIMS} dimensions, found {dims}"
            ));
        }
        let mut shape = Vec::new();
        for _ in 0..dims {
            shape.push(self.u64(&here)?);
        }
        if shape.contains(&0) {
            // Without any data, the other sizes could be what they like.
            return Err(format!("{here}: expected sizes above 0, found a 0"));
        }
        let id = self.u32(&here)?;
        let offset = self.u64(&here)?;
        let offset = usize::try_from(offset)
            .map_err(|_| format!("{here}: offset {offset} is beyond all memory"))?;
        let coding = Coding::from_id(id).ok_or_else(|| {
            format!("{here}: the format has no type of number {id}, or only since later")
        })?;
        // The file has the fastest dimension first.
        shape.reverse();
        let sizes: Option<Vec<usize>> = shape.iter().map(|&n| usize::try_from(n).ok()).collect();
        let elements = |sizes: &Vec<usize>| sizes.iter().try_fold(1usize, |n, s| n.checked_mul(*s));
        let too_large = || format!("{here}: its shape {shape:?} is beyond all memory");
        let sizes = sizes
            .filter(|s| elements(s).is_some())
            .ok_or_else(too_large)?;
        let len = match &coding {
            Ok(coding) => {
                let cols = sizes.last().copied().unwrap_or(1);
                let row = coding.row_bytes(cols).ok_or_else(|| {
                    format!(
                        "{here}: rows of {cols} are not whole blocks of {} ({coding})",
                        coding.block_len()
                    )
                })?;
                let rows = elements(&sizes)
                    .and_then(|n| n.checked_div(cols))
                    .unwrap_or(0);
                row.checked_mul(rows).ok_or_else(too_large)?
            }
            // Nobody may ask for its data.
            Err(_) => 0,
        };
        let tensor = GgufTensor {
            coding,
            shape: sizes,
            file: 0,
            offset,
            len,
        };
        Ok((name, tensor))
    }
}
