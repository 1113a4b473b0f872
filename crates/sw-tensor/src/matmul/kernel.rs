//! What a register-blocked micro-kernel is, and the scratch memory it works in.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

use memmap2::MmapMut;
use ndarray::ArrayViewMut2;

use crate::Mat;

/// Floats from one row of the left operand to the next. Fixed, so that addresses in the inner loop are constants; a
/// little more than a block of K, so that rows do not compete for one cache set.
pub(crate) const A_STRIDE: usize = super::K_BLOCK + 16;

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// What a product does with its place in the result.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Accumulate<'a> {
    /// `c = a b`.
    Store,
    /// `c` is the start of the chain: `c = fma(a_k, b_k, ... fma(a_0, b_0, c))`.
    Chain,
    /// `c = c + (a b)`.
    Add,
    /// `c = sums + (a b)`; these are rows of NR floats.
    AddTo(&'a [f32]),
}

/// The left operand: `rows` rows of `depth` floats, [`A_STRIDE`] apart.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) depth: usize,
}

/// [`Lines::COUNT`] lines of memory, `pitch` bytes apart, that will be read soon. They need not exist.
#[derive(Clone, Copy)]
pub(crate) struct Lines {
    pub(crate) at: *const u8,
    pub(crate) pitch: usize,
}

impl Lines {
    /// How many a tile asks for: one every eight terms.
    pub(crate) const COUNT: usize = super::K_BLOCK / 8;

    /// Nothing else than what has been read already.
    pub(crate) fn at_hand(data: &[f32]) -> Lines {
        Lines {
            at: data.as_ptr().cast(),
            pitch: 0,
        }
    }
}

/// The right operand: `depth` rows of at least NR floats, `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
}

/// Where a product goes: `rows x cols` floats with adjacent columns, `stride` floats from row to row, lent for `'a`.
///
/// Unlike a slice it does not claim what lies between its rows, which may be another thread's.
pub(crate) struct Out<'a> {
    at: *mut f32,
    rows: usize,
    cols: usize,
    stride: isize,
    lent: PhantomData<&'a mut f32>,
}

impl<'a> Out<'a> {
    /// All of `view`.
    ///
    /// # Panics
    /// If its columns are not adjacent.
    pub(crate) fn of_view(view: &'a mut ArrayViewMut2<'_, f32>) -> Out<'a> {
        let (rows, cols) = view.dim();
        let [stride, step] = [view.strides()[0], view.strides()[1]];
        assert!(step == 1 || cols <= 1, "columns must be adjacent");
        Out {
            at: view.as_mut_ptr(),
            rows,
            cols,
            stride,
            lent: PhantomData,
        }
    }

    /// `slice` as rows of `cols` floats, `stride` apart; `cols <= stride`.
    pub(crate) fn of_slice(slice: &'a mut [f32], cols: usize, stride: usize) -> Out<'a> {
        assert!(cols <= stride && cols <= slice.len());
        let rows = (slice.len() - cols) / stride + 1;
        Out {
            at: slice.as_mut_ptr(),
            rows,
            cols,
            stride: stride as isize,
            lent: PhantomData,
        }
    }

    /// Rows of the place.
    pub(super) fn height(&self) -> usize {
        self.rows
    }

    /// Columns of the place.
    pub(super) fn width(&self) -> usize {
        self.cols
    }

    /// The part at `rows x cols`.
    #[inline]
    pub(crate) fn part(&mut self, rows: Range<usize>, cols: Range<usize>) -> Out<'_> {
        assert!(
            rows.start < rows.end
                && rows.end <= self.rows
                && cols.start < cols.end
                && cols.end <= self.cols
        );
        // In bounds of the borrow, so `wrapping` never wraps; it only spares an `unsafe`.
        let at = self
            .at
            .wrapping_offset(self.stride * rows.start as isize)
            .wrapping_add(cols.start);
        Out {
            at,
            rows: rows.len(),
            cols: cols.len(),
            stride: self.stride,
            lent: PhantomData,
        }
    }

    /// Pointer to the first element and distance between rows, after checking that a product fits.
    #[inline]
    pub(super) fn place(&mut self, rows: usize, cols: usize) -> (*mut f32, isize) {
        assert!(rows <= self.rows && cols <= self.cols);
        (self.at, self.stride)
    }

    /// The first `cols` floats of row `i`.
    #[inline]
    pub(super) fn row(&mut self, i: usize, cols: usize) -> &mut [f32] {
        assert!(i < self.rows && cols <= self.cols);
        let at = self.at.wrapping_offset(self.stride * i as isize);
        // SAFETY: row `i` is inside the borrow and at least `cols` floats long; `&mut self` excludes a second one.
        unsafe { std::slice::from_raw_parts_mut(at, cols) }
    }

    /// Stores the rows of `tile`, which are `width` floats long, as far as they fit.
    pub(super) fn store(&mut self, tile: &[f32], width: usize) {
        for (i, tile) in (0..self.rows).zip(tile.chunks_exact(width)) {
            let row = self.row(i, self.cols);
            row.copy_from_slice(&tile[..row.len()]);
        }
    }
}

/// A kernel: multiplies `rows x depth` by `depth x NR`, tile by tile of at most MR rows, with all sums of a tile in registers.
///
/// # Order of summation
/// Element `(i, j)` is one chain of fused multiply-adds in increasing `k`, whatever the number of rows of the tile. So
/// all kernels with fused multiply-add agree bit for bit.
///
/// # Tile size
/// `MR * NR / lanes` accumulators must cover latency times throughput of the multiply-add (4 * 2 on Intel, 5 * 2 on
/// AMD) and fit into the registers beside `NR / lanes` vectors of `b` and one broadcast of `a`; the wider the tile, the
/// fewer loads per multiply-add (Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication").
pub(crate) trait Kernel: Copy + Send + Sync {
    /// Largest number of rows of a tile.
    const MR: usize;
    /// Columns of a tile.
    const NR: usize;
    /// Terms of K that one unit of an operand, 32 bits, holds: one f32, or two BF16. Depths of operands count units.
    const TERMS: usize = 1;

    /// All rows of `a`, one at least, times `b` into the first rows and columns of `c`. Each tile calls `ahead` once, and may ask
    /// the memory system for the lines that it gets.
    ///
    /// # Panics
    /// If there are no rows, or an operand or `c` is too short for what is asked.
    fn multiply(
        self,
        a: Left<'_>,
        b: Right<'_>,
        c: Out<'_>,
        into: Accumulate<'_>,
        ahead: impl FnMut() -> Lines,
    );

    /// Rows `rows` (NR of them or fewer) and columns `ks` of `w`, overlay applied, transposed to units `[k / TERMS][NR]`;
    /// missing rows are zero.
    ///
    /// # Panics
    /// If the block is not inside `w`, higher than NR, or `out` shorter than its units times NR.
    fn pack(self, w: &Mat, rows: Range<usize>, ks: Range<usize>, out: &mut [f32]);

    /// Part of a row of activations as units of the left operand.
    ///
    /// # Panics
    /// If `out` is too short for it.
    fn lay(self, row: &[f32], out: &mut [f32]) {
        out[..row.len()].copy_from_slice(row);
    }

    /// NR rows of `depth` floats, `pitch` apart in `src`, transposed to `[depth][NR]`.
    ///
    /// # Panics
    /// If `src` or `out` is shorter than that.
    fn pack_f32(self, src: &[f32], pitch: usize, depth: usize, out: &mut [f32]) {
        let out = &mut out[..Self::NR * depth];
        for row in 0..Self::NR {
            for (k, value) in src[row * pitch..][..depth].iter().enumerate() {
                out[k * Self::NR + row] = *value;
            }
        }
    }
}

/// Asks the memory system for `len` bytes from `at` on, which need not exist.
#[inline]
pub(super) fn soon(at: *const u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        let before = at.addr() % 64;
        for line in (0..len + before).step_by(64) {
            super::x86::avx512::prefetch_l2(at.wrapping_sub(before).wrapping_add(line));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (at, len);
}

/// Checks once what every kernel's inner loop relies on.
#[inline]
pub(super) fn check_operands<K: Kernel>(a: Left<'_>, b: Right<'_>, into: Accumulate<'_>) {
    if let Accumulate::AddTo(sums) = into {
        assert!(sums.len() >= a.rows * K::NR);
    }
    assert!(a.rows >= 1);
    assert!(a.depth == 0 || a.data.len() >= (a.rows - 1) * A_STRIDE + a.depth);
    assert!(a.depth == 0 || b.data.len() >= (a.depth - 1) * b.stride + K::NR);
}

/// Scratch memory, whole pages, large ones where the system has them.
struct Piece(Option<MmapMut>);

impl Piece {
    fn with_bytes(len: usize) -> Piece {
        let map = MmapMut::map_anon(len).expect("memory for scratch");
        // Only a hint: fewer pages to look up.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Piece(Some(map))
    }

    fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |map| map.len())
    }

    fn floats(&mut self) -> &mut [f32] {
        self.0
            .as_mut()
            .map_or(&mut [], |map| bytemuck::cast_slice_mut(map))
    }
}

/// Lends `f` scratch memory of this thread as consecutive buffers of the given numbers of floats, each aligned to a cache
/// line. Contents are left from earlier uses. The memory is kept for the next call, so a steady state allocates nothing;
/// `f` may lend scratch itself, which is then another piece.
pub(crate) fn with_scratch<const N: usize, R>(
    sizes: [usize; N],
    f: impl FnOnce([&mut [f32]; N]) -> R,
) -> R {
    thread_local! {
        /// Pieces that are not lent: as many as calls have been nested.
        static FREE: RefCell<Vec<Piece>> = const { RefCell::new(Vec::new()) };
    }
    let needed = sizes.iter().map(|size| size.div_ceil(16) * 64).sum();
    // The smallest piece that is large enough, else the largest to replace.
    let mut piece = FREE.with_borrow_mut(|free| {
        let best = (0..free.len()).min_by_key(|&i| {
            let len = free[i].len();
            (
                len < needed,
                if len < needed { usize::MAX - len } else { len },
            )
        });
        best.map_or(Piece(None), |i| free.swap_remove(i))
    });
    if piece.len() < needed {
        piece = Piece::with_bytes(needed);
    }
    let mut rest = piece.floats();
    let buffers = sizes.map(|size| {
        let (buffer, after) = std::mem::take(&mut rest).split_at_mut(size.div_ceil(16) * 16);
        rest = after;
        &mut buffer[..size]
    });
    let result = f(buffers);
    FREE.with_borrow_mut(|free| free.push(piece));
    result
}
