//! One safetensors file: mapped, its header parsed and checked against its size.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::Metadata;

use super::map::{self, FileMap};
use super::{FileInfo, TensorInfo};
use crate::mat::Bytes;
use crate::{Dtype, Error};

/// Bytes before the header: its length as a little-endian u64.
const LENGTH_BYTES: usize = 8;
/// The format's own limit for a header.
const MAX_HEADER: u64 = 100_000_000;

#[derive(Debug)]
pub(crate) struct File {
    pub(crate) path: PathBuf,
    pub(super) metadata: HashMap<String, String>,
    map: Arc<FileMap>,
    header: Range<usize>,
}

impl File {
    /// A mapped file whose header is there.
    pub(crate) fn new(path: PathBuf, map: FileMap, header: Range<usize>) -> File {
        File {
            path,
            metadata: HashMap::new(),
            map: Arc::new(map),
            header,
        }
    }

    /// Maps a file.
    pub(crate) fn map(path: &Path) -> Result<FileMap, Error> {
        let io = |action| {
            move |source| Error::Io {
                path: path.into(),
                action,
                source,
            }
        };
        // Before opening: a named pipe would wait for its writer.
        let about = std::fs::metadata(path).map_err(io("open"))?;
        if !about.is_file() {
            return Err(Error::BadHeader {
                path: path.into(),
                found: "expected a regular file".into(),
            });
        }
        let opened = std::fs::File::open(path).map_err(io("open"))?;
        map::map(opened, path).map_err(io("map into memory"))
    }

    /// Maps the file and reads its header; `file` is the number its tensors carry.
    pub(super) fn open(
        path: PathBuf,
        file: usize,
    ) -> Result<(File, HashMap<String, TensorInfo>), Error> {
        let bad = |found: String| Error::BadHeader {
            path: path.clone(),
            found,
        };
        crate::files::check_inside(&path).map_err(|source| Error::Io {
            path: path.clone(),
            action: "open",
            source,
        })?;
        let map = File::map(&path)?;
        let Some((length, rest)) = map.split_first_chunk::<LENGTH_BYTES>() else {
            return Err(bad(format!(
                "expected at least {LENGTH_BYTES} bytes, found {}",
                map.len()
            )));
        };
        let declared = u64::from_le_bytes(*length);
        if declared > rest.len() as u64 {
            return Err(Error::HeaderTooLong {
                path,
                declared,
                found: map.len() as u64,
            });
        }
        if declared > MAX_HEADER {
            return Err(bad(format!(
                "expected at most {MAX_HEADER} bytes of header, found {declared}"
            )));
        }
        let (header, data) = rest.split_at(declared as usize);
        // The parser checks that offsets follow each other without holes and agree with shapes and dtypes.
        let parsed: Metadata = serde_json::from_slice(header).map_err(|e| bad(e.to_string()))?;
        if parsed.data_len() != data.len() {
            let before = (LENGTH_BYTES + header.len()) as u64;
            let expected = before.saturating_add(parsed.data_len() as u64);
            return Err(Error::WrongSize {
                path,
                expected,
                found: map.len() as u64,
            });
        }

        let header_end = LENGTH_BYTES + header.len();
        let tensors = parsed.tensors().into_iter().map(|(name, info)| {
            let (start, end) = info.data_offsets;
            let dtype = dtype(info.dtype);
            let info = TensorInfo {
                dtype,
                shape: info.shape.clone(),
                file,
                offset: header_end + start,
                len: end - start,
            };
            (name, info)
        });
        let tensors = tensors.collect();
        let metadata = parsed.metadata().clone().unwrap_or_default();
        let file = File {
            metadata,
            ..File::new(path, map, LENGTH_BYTES..header_end)
        };
        Ok((file, tensors))
    }

    pub(super) fn bytes(&self) -> Bytes {
        self.map.clone()
    }

    pub(crate) fn info(&self) -> FileInfo<'_> {
        FileInfo {
            path: &self.path,
            bytes: &self.map,
            header: &self.map[self.header.clone()],
        }
    }
}

fn dtype(found: safetensors::Dtype) -> Result<Dtype, String> {
    match found {
        safetensors::Dtype::F32 => Ok(Dtype::F32),
        safetensors::Dtype::F16 => Ok(Dtype::F16),
        safetensors::Dtype::BF16 => Ok(Dtype::BF16),
        other => Err(format!("{other:?}")),
    }
}
