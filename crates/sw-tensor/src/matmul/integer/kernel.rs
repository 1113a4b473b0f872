//! Micro-kernels over units of 32 bits.

use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::matmul::x86::amx::{ByteTiles, Unit};

/// Rows of activations of a tile: 32-bit lanes of the widest vector.
pub(super) const LANES: usize = 16;
/// Units that a range is filled up to: what an AMX tile takes of K.
pub(super) const UNITS_OF_STEP: usize = 16;

/// Multiplies rows of weights with tiles of activations, all sums in registers.
pub(super) trait Kernel: Copy + Send + Sync {
    /// Rows of weights at a time.
    const ROWS: usize = ROWS;
    /// Tiles of activations at a time, at most.
    const TILES: usize = TILES;
    /// Units of activations to a unit of weights.
    const PLANES: usize = 1;
    /// Units of weights per range at most; 512 terms, so that activations of some tiles stay in the first-level cache.
    const UNITS: usize;
    /// What a thread holds while it multiplies.
    type Session;

    /// Prepares the thread.
    fn session(self) -> Self::Session;

    /// Dot products of `ROWS` rows of weights with one to `TILES` tiles of activations, `[tile][plane][unit][lane]`, to the
    /// start of `product`, `[row][tile]`.
    ///
    /// # Panics
    /// If `w` is not ROWS rows of `units`, a positive multiple of 16, or `xs` not such tiles.
    fn multiply(
        self,
        session: &Self::Session,
        units: usize,
        w: &[i32],
        xs: &[i32],
        product: &mut Product,
    );
}

/// Room for the dot products of any kernel.
pub(super) type Product = [[i32; LANES]; 64];

/// Rows of weights that vector registers hold the sums of.
const ROWS: usize = 6;
/// Tiles of activations beside them.
const TILES: usize = 4;

/// Tiles of activations in `xs`, after checking what the inner loops rely on.
fn tiles<K: Kernel>(units: usize, w: &[i32], xs: &[i32]) -> usize {
    assert!(units > 0 && units.is_multiple_of(UNITS_OF_STEP) && w.len() == K::ROWS * units);
    let tile = K::PLANES * units * LANES;
    assert!(xs.len().is_multiple_of(tile) && (1..=K::TILES).contains(&(xs.len() / tile)));
    xs.len() / tile
}

/// Two numbers of 16 bits per unit, on the given instruction set.
#[derive(Clone, Copy)]
pub(super) struct Pairs(pub(super) Isa);

impl Kernel for Pairs {
    const UNITS: usize = 256;
    type Session = ();

    fn session(self) {}

    fn multiply(self, _: &(), units: usize, w: &[i32], xs: &[i32], product: &mut Product) {
        let n = tiles::<Self>(units, w, xs);
        let product = product.as_flattened_mut();
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx(proof) => x86::pairs_avx512(proof.avx512(), n, units, w, xs, product),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(proof) => x86::pairs_avx512(proof, n, units, w, xs, product),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(proof) => x86::pairs_avx2(proof, n, units, w, xs, product),
            Isa::Portable => portable(units, w, xs, product),
        }
    }
}

/// Four numbers of 8 bits per unit, the activations' without and the weights' with a sign.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Quads(pub(super) crate::isa::Vnni);

#[cfg(target_arch = "x86_64")]
impl Kernel for Quads {
    const UNITS: usize = 128;
    type Session = ();

    fn session(self) {}

    fn multiply(self, _: &(), units: usize, w: &[i32], xs: &[i32], product: &mut Product) {
        let n = tiles::<Self>(units, w, xs);
        x86::quads(self.0, n, units, w, xs, product.as_flattened_mut());
    }
}

/// Four numbers of 8 bits per unit, all with a sign, in AMX tiles.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Tiles(pub(super) ByteTiles);

#[cfg(target_arch = "x86_64")]
impl Kernel for Tiles {
    const ROWS: usize = 32;
    const TILES: usize = 2;
    /// Here operands come from the second-level cache anyway.
    const UNITS: usize = 1024;
    type Session = Unit;

    fn session(self) -> Unit {
        self.0.unit()
    }

    fn multiply(self, unit: &Unit, units: usize, w: &[i32], xs: &[i32], product: &mut Product) {
        let n = tiles::<Self>(units, w, xs);
        let xs = [xs, &xs[(n - 1) * units * LANES..]];
        self.0.signed(unit, units, w, xs, product);
        if n == 1 {
            (1..Self::ROWS).for_each(|row| product[row] = product[2 * row]);
        }
    }
}

/// Numbers of 16 bits among the activations, cut into an upper byte with and a lower one without a sign, times numbers of 8
/// bits among the weights, four to a unit, in AMX tiles. A tile's upper bytes lie before its lower ones.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Halves(pub(super) ByteTiles);

#[cfg(target_arch = "x86_64")]
impl Kernel for Halves {
    const ROWS: usize = 32;
    const TILES: usize = 1;
    const PLANES: usize = 2;
    const UNITS: usize = 128;
    type Session = Unit;

    fn session(self) -> Unit {
        self.0.unit()
    }

    fn multiply(self, unit: &Unit, units: usize, w: &[i32], xs: &[i32], product: &mut Product) {
        tiles::<Self>(units, w, xs);
        let (upper, lower) = xs.split_at(units * LANES);
        self.0.halves(unit, units, w, [upper, lower], product);
    }
}

fn portable(units: usize, w: &[i32], xs: &[i32], product: &mut [i32]) {
    let n = xs.len() / (units * LANES);
    let halves = |unit: i32| [unit as i16, (unit >> 16) as i16].map(i32::from);
    for (w, product) in w
        .chunks_exact(units)
        .zip(product.chunks_exact_mut(n * LANES))
    {
        for (xs, sums) in xs
            .chunks_exact(units * LANES)
            .zip(product.chunks_exact_mut(LANES))
        {
            sums.fill(0);
            for (w, xs) in w.iter().zip(xs.chunks_exact(LANES)) {
                let [w0, w1] = halves(*w);
                for (sum, x) in sums.iter_mut().zip(xs) {
                    let [x0, x1] = halves(*x);
                    *sum += x0 * w0 + x1 * w1;
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{LANES, ROWS, TILES};
    use crate::isa::{Avx2, Avx512, Vnni};

    macro_rules! by_tiles {
        ($n:ident, $kernel:ident, $units:ident, $w:ident, $xs:ident, $product:ident) => {{
            assert!($w.len() >= ROWS * $units && $xs.len() >= $n * $units * LANES);
            assert!((1..=TILES).contains(&$n) && $product.len() >= ROWS * $n * LANES);
            let (w, xs, product) = ($w.as_ptr(), $xs.as_ptr(), $product.as_mut_ptr());
            // SAFETY: a proof of the instructions is at hand; the lengths are checked above.
            unsafe {
                match $n {
                    1 => $kernel::<1>($units, w, xs, product),
                    2 => $kernel::<2>($units, w, xs, product),
                    3 => $kernel::<3>($units, w, xs, product),
                    _ => $kernel::<4>($units, w, xs, product),
                }
            }
        }};
    }

    pub(super) fn pairs_avx512(
        proof: Avx512,
        n: usize,
        units: usize,
        w: &[i32],
        xs: &[i32],
        product: &mut [i32],
    ) {
        match Vnni::new(proof) {
            Some(_) => by_tiles!(n, pairs_vnni, units, w, xs, product),
            None => by_tiles!(n, pairs_madd, units, w, xs, product),
        }
    }

    pub(super) fn quads(
        _proof: Vnni,
        n: usize,
        units: usize,
        w: &[i32],
        xs: &[i32],
        product: &mut [i32],
    ) {
        by_tiles!(n, quads_vnni, units, w, xs, product);
    }

    /// A loop over units: `$step(sum, activations, weight)`.
    macro_rules! kernel {
        ($name:ident, $features:literal, $step:expr) => {
            /// # Safety
            /// The instructions; `w` readable for six rows of `units`, `xs` for N tiles of them, `product` writable for
            /// six rows of N tiles of lanes.
            #[target_feature(enable = $features)]
            unsafe fn $name<const N: usize>(
                units: usize,
                w: *const i32,
                xs: *const i32,
                product: *mut i32,
            ) {
                let mut sums = [[_mm512_setzero_si512(); N]; ROWS];
                for unit in 0..units {
                    // SAFETY: inside the operands.
                    let x: [__m512i; N] = std::array::from_fn(|tile| unsafe {
                        _mm512_loadu_si512(xs.add((tile * units + unit) * LANES).cast())
                    });
                    for (row, sums) in sums.iter_mut().enumerate() {
                        // SAFETY: inside the operands.
                        let w = _mm512_set1_epi32(unsafe { *w.add(row * units + unit) });
                        for (sum, x) in sums.iter_mut().zip(x) {
                            *sum = $step(*sum, x, w);
                        }
                    }
                }
                for (i, sum) in sums.as_flattened().iter().enumerate() {
                    // SAFETY: inside the product.
                    unsafe { _mm512_storeu_si512(product.add(i * LANES).cast(), *sum) };
                }
            }
        };
    }
    kernel!(
        pairs_vnni,
        "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni",
        |sum, x, w| { _mm512_dpwssd_epi32(sum, x, w) }
    );
    kernel!(
        quads_vnni,
        "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni",
        |sum, x, w| { _mm512_dpbusd_epi32(sum, x, w) }
    );
    kernel!(
        pairs_madd,
        "avx512f,avx512bw,avx512vl,avx512dq",
        |sum, x, w| { _mm512_add_epi32(sum, _mm512_madd_epi16(x, w)) }
    );

    pub(super) fn pairs_avx2(
        _proof: Avx2,
        n: usize,
        units: usize,
        w: &[i32],
        xs: &[i32],
        product: &mut [i32],
    ) {
        assert!(w.len() >= ROWS * units && xs.len() >= n * units * LANES);
        assert!(product.len() >= ROWS * n * LANES);
        for tile in 0..n {
            // SAFETY: `_proof` is the proof of AVX2; the lengths are checked above.
            unsafe {
                let xs = xs.as_ptr().add(tile * units * LANES);
                let product = product.as_mut_ptr().add(tile * LANES);
                tile_avx2(units, w.as_ptr(), xs, product, n * LANES);
            }
        }
    }

    /// # Safety
    /// AVX2; `w` readable for six rows of `units`, `xs` for a tile of them; `product` writable for six rows of lanes,
    /// `stride` apart.
    #[target_feature(enable = "avx2")]
    unsafe fn tile_avx2(
        units: usize,
        w: *const i32,
        xs: *const i32,
        product: *mut i32,
        stride: usize,
    ) {
        let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
        for unit in 0..units {
            // SAFETY: inside the operands.
            let x: [__m256i; 2] = std::array::from_fn(|half| unsafe {
                _mm256_loadu_si256(xs.add(unit * LANES + half * 8).cast())
            });
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: inside the operands.
                let w = _mm256_set1_epi32(unsafe { *w.add(row * units + unit) });
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(x, w));
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (half, sum) in sums.iter().enumerate() {
                // SAFETY: inside the product.
                unsafe { _mm256_storeu_si256(product.add(row * stride + half * 8).cast(), *sum) };
            }
        }
    }
}
