//! Mapping a file: the only `unsafe` of this crate that is not a kernel.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::Mmap;
#[cfg(target_os = "linux")]
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use crate::mat::Storage;

/// A mapped file. Its pages are given back by all threads; the system alone would take one, and as long as a sixth of a
/// detection.
#[derive(Debug)]
pub(crate) struct FileMap {
    map: Mmap,
    #[cfg(unix)]
    _listed: super::shortened::Listed,
}

/// Maps the whole of `file` for reading.
///
/// `path`: what it is called where it became shorter.
#[cfg_attr(not(unix), expect(unused_variables))]
pub(super) fn map(file: &File, path: &Path) -> io::Result<FileMap> {
    // SAFETY: the mapping is private and read-only, and every read of it goes through byte slices, for which any bit
    // pattern is valid. Nobody may change or shorten the file while it is mapped; that is a documented condition of
    // `Checkpoint`, which no program can enforce.
    let map = unsafe { Mmap::map(file) }?;
    #[cfg(unix)]
    let _listed = super::shortened::list(&map, path);
    Ok(FileMap {
        map,
        #[cfg(unix)]
        _listed,
    })
}

impl Deref for FileMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for FileMap {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        {
            /// Bytes that a thread gives back at a time: whole pages of any size.
            const PIECE: usize = 64 << 20;
            let len = self.map.len();
            if len <= PIECE {
                return;
            }
            let pieces = (0..len.div_ceil(PIECE)).into_par_iter().with_max_len(1);
            pieces.for_each(|i| {
                let advice = memmap2::UncheckedAdvice::DontNeed;
                // SAFETY: nobody reads the mapping any more, it is borrowed mutably; it was never written to, so nothing
                // is lost. Where the advice is not taken, unmapping does the work.
                let _ = unsafe {
                    self.map
                        .unchecked_advise_range(advice, i * PIECE, PIECE.min(len - i * PIECE))
                };
            });
        }
    }
}

impl Storage for FileMap {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn will_need(&self, range: Range<usize>) {
        // Only a hint: where the system does not take it, pages come as they are touched.
        #[cfg(unix)]
        let _ = self
            .map
            .advise_range(memmap2::Advice::WillNeed, range.start, range.len());
        #[cfg(not(unix))]
        let _ = range;
    }
}
