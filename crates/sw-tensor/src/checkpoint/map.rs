//! Mapping a file: the only `unsafe` of this crate that is not a kernel.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;
#[cfg(unix)]
use std::sync::atomic::{AtomicBool, Ordering};

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
    file: File,
    /// For each piece of [`PIECE`] bytes, whether the one that begins there was copied.
    #[cfg(unix)]
    copied: Vec<AtomicBool>,
    #[cfg(unix)]
    _listed: super::shortened::Listed,
}

/// Bytes that the system maps at a time where one of them is read.
#[cfg(unix)]
const PIECE: usize = 64 << 10;

/// Maps the whole of `file` for reading.
///
/// `path`: what it is called where it became shorter.
#[cfg_attr(not(unix), expect(unused_variables))]
pub(super) fn map(file: File, path: &Path) -> io::Result<FileMap> {
    // SAFETY: the mapping is private and read-only, and every read of it goes through byte slices, for which any bit
    // pattern is valid. Nobody may change or shorten the file while it is mapped; that is a documented condition of
    // `Checkpoint`, which no program can enforce.
    let map = unsafe { Mmap::map(&file) }?;
    // Only a hint: what is not in memory yet is read in large pages, which are mapped and read faster, now and by who comes next.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    #[cfg(unix)]
    let _listed = super::shortened::list(&map, path);
    Ok(FileMap {
        #[cfg(unix)]
        copied: std::iter::repeat_with(AtomicBool::default)
            .take(map.len().div_ceil(PIECE))
            .collect(),
        #[cfg(unix)]
        file,
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
            const BACK: usize = 64 << 20;
            let len = self.map.len();
            if len <= BACK {
                return;
            }
            let pieces = (0..len.div_ceil(BACK)).into_par_iter().with_max_len(1);
            pieces.for_each(|i| {
                let advice = memmap2::UncheckedAdvice::DontNeed;
                // SAFETY: nobody reads the mapping any more, it is borrowed mutably; it was never written to, so nothing
                // is lost. Where the advice is not taken, unmapping does the work.
                let _ = unsafe {
                    self.map
                        .unchecked_advise_range(advice, i * BACK, BACK.min(len - i * BACK))
                };
            });
        }
    }
}

impl Storage for FileMap {
    fn bytes(&self) -> &[u8] {
        self
    }

    #[cfg(unix)]
    fn copy_first(&self, range: Range<usize>, out: &mut [u8]) -> bool {
        use std::os::unix::fs::FileExt;
        // Each piece belongs to the range in which it begins, of ranges that do not overlap.
        let pieces = range.start.div_ceil(PIECE)..range.end.div_ceil(PIECE);
        let pieces = &self.copied[pieces];
        // All are marked, also where one was before.
        let was_copied = pieces.iter().fold(false, |was, piece| {
            piece.swap(true, Ordering::Relaxed) | was
        });
        // What cannot be read is left to the mapping, where a program can say which file it was.
        !pieces.is_empty()
            && !was_copied
            && self.file.read_exact_at(out, range.start as u64).is_ok()
    }
}
