//! Work in fixed pieces: the feature `rayon` spreads them over the current pool, and results come back in their order,
//! so that nothing depends on the number of threads.

/// Elements of a piece of work: 256 KiB of `f32`, a multiple of 8 so that pieces of packed codes end on bytes.
#[cfg(not(miri))]
pub(crate) const PIECE: usize = 1 << 16;
/// Small enough that the interpreter reaches the second piece.
#[cfg(miri)]
pub(crate) const PIECE: usize = 1 << 6;

/// `f(0), f(1), ... f(n - 1)`.
pub(crate) fn map<R: Send>(n: usize, f: impl Fn(usize) -> R + Sync + Send) -> Vec<R> {
    #[cfg(feature = "rayon")]
    if n > 1 {
        use rayon::prelude::*;
        return (0..n).into_par_iter().map(f).collect();
    }
    (0..n).map(f).collect()
}

/// `f(i, chunk)` for the chunks of `size` elements, the last one shorter.
pub(crate) fn chunks_mut<T: Send, R: Send>(
    data: &mut [T],
    size: usize,
    f: impl Fn(usize, &mut [T]) -> R + Sync + Send,
) -> Vec<R> {
    #[cfg(feature = "rayon")]
    if data.len() > size {
        use rayon::prelude::*;
        return data
            .par_chunks_mut(size)
            .enumerate()
            .map(|(i, c)| f(i, c))
            .collect();
    }
    data.chunks_mut(size)
        .enumerate()
        .map(|(i, c)| f(i, c))
        .collect()
}
