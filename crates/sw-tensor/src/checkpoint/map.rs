//! Mapping a file: the only `unsafe` of this crate that is not a kernel.

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// Maps the whole of `file` for reading.
pub(super) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the mapping is private and read-only, and every read of it goes through byte slices, for which any bit
    // pattern is valid. Nobody may change or shorten the file while it is mapped; that is a documented condition of
    // `Checkpoint`, which no program can enforce.
    unsafe { Mmap::map(file) }
}
