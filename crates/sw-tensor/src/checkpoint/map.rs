//! Mapping a file: the only `unsafe` of this crate that is not a kernel.

use std::fs::File;
use std::io;
use std::ops::Range;

use memmap2::Mmap;

use crate::mat::Storage;

/// Maps the whole of `file` for reading.
pub(super) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the mapping is private and read-only, and every read of it goes through byte slices, for which any bit
    // pattern is valid. Nobody may change or shorten the file while it is mapped; that is a documented condition of
    // `Checkpoint`, which no program can enforce.
    unsafe { Mmap::map(file) }
}

impl Storage for Mmap {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn will_need(&self, range: Range<usize>) {
        // Only a hint: where the system does not take it, pages come as they are touched.
        #[cfg(unix)]
        let _ = self.advise_range(memmap2::Advice::WillNeed, range.start, range.len());
        #[cfg(not(unix))]
        let _ = range;
    }
}
