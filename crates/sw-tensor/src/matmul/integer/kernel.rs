//! Micro-kernels over units of 32 bits.

#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
use crate::isa::Avx2;
use crate::isa::Isa;
use crate::matmul::kernel::soon;
#[cfg(target_arch = "x86_64")]
use crate::matmul::x86::amx::{ByteTiles, Unit};

/// Rows of activations of a tile: 32-bit lanes of the widest vector.
pub(super) const LANES: usize = 16;
/// Units that a part of K is filled up to: what an AMX tile takes of it.
pub(super) const UNITS_OF_STEP: usize = 16;

/// Units of a block at most.
pub(super) const MOST_UNITS: usize = 256;
/// Units from one row of packed weights to the next. Fixed, so that addresses in the inner loops are constants; a line more
/// than a block, so that rows do not compete for one cache set.
pub(super) const PITCH: usize = MOST_UNITS + 16;

/// What dot products are added to.
pub(super) trait Sum: bytemuck::Pod + Send + Sync {
    /// Whether they are multiplied by a factor first.
    const SCALED: bool;

    /// This and a dot product. Integers stay below 2^31.
    fn plus(self, product: i32, factor: f32) -> Self;
}

impl Sum for i32 {
    const SCALED: bool = false;

    #[inline(always)]
    fn plus(self, product: i32, _: f32) -> i32 {
        self.wrapping_add(product)
    }
}

impl Sum for f32 {
    const SCALED: bool = true;

    #[inline(always)]
    fn plus(self, product: i32, factor: f32) -> f32 {
        self + factor * product as f32
    }
}

/// Tiles of activations, `[tile][plane][unit][lane]`, `pitch` units from one to the next.
#[derive(Clone, Copy)]
pub(super) struct Xs<'a> {
    pub(super) units: &'a [i32],
    pub(super) tiles: usize,
    pub(super) pitch: usize,
}

/// Sums, `[row of weights][tile][lane]`, `pitch` from one row to the next.
pub(super) struct Sums<'a, S> {
    pub(super) sums: &'a mut [S],
    pub(super) pitch: usize,
}

/// Memory that will be wanted soon: so many lines with each step of K.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    pub(super) at: *const u8,
    pub(super) lines: usize,
}

impl Ahead {
    /// Past what `units` ask for.
    pub(super) fn advance(&mut self, units: usize) {
        self.at = self.at.wrapping_add(self.bytes(units));
    }

    fn bytes(self, units: usize) -> usize {
        units / UNITS_OF_STEP * self.lines * 64
    }

    /// Asks for all of it at once.
    fn ask(self, units: usize) {
        soon(self.at, self.bytes(units));
    }
}

/// What a kernel multiplies.
pub(super) struct Operands<'a, S> {
    /// Units of each row of weights; a positive multiple of 16.
    pub(super) units: usize,
    /// Rows of weights, [`PITCH`] apart.
    pub(super) w: &'a [i32],
    pub(super) xs: Xs<'a>,
    /// One for each row of weights.
    pub(super) factors: &'a [f32],
    pub(super) sums: Sums<'a, S>,
    pub(super) ahead: Ahead,
}

impl<S: Sum> Operands<'_, S> {
    /// Panics where an operand is shorter than the inner loops of a kernel rely on.
    #[inline(always)]
    fn check<K: IntegerKernel<S>>(&self) {
        let Operands { units, w, xs, .. } = self;
        assert!(*units > 0 && units.is_multiple_of(UNITS_OF_STEP));
        assert!(w.len() >= (K::ROWS - 1) * PITCH + units);
        assert!((1..=K::TILES).contains(&xs.tiles) && xs.tiles.is_multiple_of(K::TILES_STEP));
        assert!(xs.units.len() >= (xs.tiles - 1) * xs.pitch + K::PLANES * units * LANES);
        assert!(self.factors.len() >= K::ROWS);
        let Sums { sums, pitch } = &self.sums;
        assert!(sums.len() >= (K::ROWS - 1) * pitch + xs.tiles * LANES);
    }
}

/// Multiplies rows of weights with tiles of activations, all sums in registers.
pub(super) trait IntegerKernel<S: Sum>: Copy + Send + Sync {
    /// Rows of weights at a time.
    const ROWS: usize = ROWS;
    /// Tiles of activations at a time, at most.
    const TILES: usize = TILES;
    /// Tiles come in multiples of this.
    const TILES_STEP: usize = 1;
    /// Units of activations to a unit of weights.
    const PLANES: usize = 1;
    /// Terms of a unit of weights.
    const TERMS: usize;
    /// Units of weights whose activations, of so many tiles, stay in the first-level cache.
    const UNITS: usize = 128;
    /// What a thread holds while it multiplies.
    type Session;

    /// Prepares the thread.
    fn session(self) -> Self::Session;

    /// Adds the dot products of `ROWS` rows of weights with one to `TILES` tiles of activations, each row's times its
    /// factor, and asks for what lies ahead.
    ///
    /// # Panics
    /// If an operand is too short.
    fn multiply(self, session: &Self::Session, o: Operands<'_, S>);
}

/// Rows of weights that vector registers hold the sums of.
const ROWS: usize = 8;
/// Rows of weights whose sums the 16 registers of AVX2 hold.
#[cfg(target_arch = "x86_64")]
const ROWS_AVX2: usize = 4;
/// Tiles of activations beside them.
const TILES: usize = 3;

/// Two numbers of 16 bits per unit, on the given instruction set.
#[derive(Clone, Copy)]
pub(super) struct Pairs(pub(super) Isa);

impl<S: Sum> IntegerKernel<S> for Pairs {
    const TERMS: usize = 2;
    type Session = ();

    fn session(self) {}

    #[inline(always)]
    fn multiply(self, _: &(), o: Operands<'_, S>) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx(proof) => x86::pairs(proof.avx512(), o),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(proof) => x86::pairs(proof, o),
            _ => {
                o.check::<Self>();
                portable(o);
            }
        }
    }
}

/// [`Pairs`] with tiles that fit the 16 registers of AVX2.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct PairsAvx2(pub(super) Avx2);

#[cfg(target_arch = "x86_64")]
impl<S: Sum> IntegerKernel<S> for PairsAvx2 {
    const ROWS: usize = ROWS_AVX2;
    const TERMS: usize = 2;
    type Session = ();

    fn session(self) {}

    #[inline(always)]
    fn multiply(self, _: &(), o: Operands<'_, S>) {
        o.ahead.ask(o.units);
        x86::pairs_avx2(self.0, o);
    }
}

/// Four numbers of 8 bits per unit, the weights' without and the activations' with a sign.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Quads(pub(super) crate::isa::Vnni);

#[cfg(target_arch = "x86_64")]
impl<S: Sum> IntegerKernel<S> for Quads {
    const TERMS: usize = 4;
    type Session = ();

    fn session(self) {}

    #[inline(always)]
    fn multiply(self, _: &(), o: Operands<'_, S>) {
        x86::quads(self.0, o);
    }
}

/// Four numbers of 8 bits per unit, all with a sign, in AMX tiles.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Tiles(pub(super) ByteTiles);

#[cfg(target_arch = "x86_64")]
impl IntegerKernel<i32> for Tiles {
    const ROWS: usize = 32;
    const TILES: usize = 2;
    const TILES_STEP: usize = 2;
    const TERMS: usize = 4;
    type Session = Unit;

    fn session(self) -> Unit {
        self.0.unit()
    }

    #[inline(always)]
    fn multiply(self, unit: &Unit, o: Operands<'_, i32>) {
        o.check::<Self>();
        o.ahead.ask(o.units);
        let xs = [o.xs.units, &o.xs.units[o.xs.pitch..]];
        let sums = (o.sums.sums, o.sums.pitch);
        self.0.signed(unit, o.units, (o.w, PITCH), xs, sums);
    }
}

/// Numbers of 16 bits among the activations, cut into an upper byte with and a lower one without a sign, times numbers of 8
/// bits among the weights, four to a unit, in AMX tiles. A tile's upper bytes lie before its lower ones.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Halves(pub(super) ByteTiles);

#[cfg(target_arch = "x86_64")]
impl IntegerKernel<f32> for Halves {
    const ROWS: usize = 32;
    const TILES: usize = 1;
    const PLANES: usize = 2;
    const TERMS: usize = 4;
    type Session = Unit;

    fn session(self) -> Unit {
        self.0.unit()
    }

    #[inline(always)]
    fn multiply(self, unit: &Unit, o: Operands<'_, f32>) {
        o.check::<Self>();
        o.ahead.ask(o.units);
        let (upper, lower) = o.xs.units.split_at(o.units * LANES);
        let sums = (o.sums.sums, o.sums.pitch);
        let w = (o.w, PITCH);
        self.0
            .halves(unit, o.units, w, [upper, lower], o.factors, sums);
    }
}

fn portable<S: Sum>(o: Operands<'_, S>) {
    let Operands {
        units,
        w,
        xs,
        factors,
        sums,
        ..
    } = o;
    let halves = |unit: i32| [unit as i16, (unit >> 16) as i16].map(i32::from);
    let rows = w.chunks(PITCH).map(|w| &w[..units]).zip(factors).take(ROWS);
    for ((w, factor), sums) in rows.zip(sums.sums.chunks_mut(sums.pitch)) {
        let tiles = xs.units.chunks(xs.pitch).take(xs.tiles);
        for (x, sums) in tiles.zip(sums.chunks_exact_mut(LANES)) {
            let mut products = [0i32; LANES];
            for (w, x) in w.iter().zip(x.chunks_exact(LANES)) {
                let [w0, w1] = halves(*w);
                for (product, x) in products.iter_mut().zip(x) {
                    let [x0, x1] = halves(*x);
                    *product += x0 * w0 + x1 * w1;
                }
            }
            for (sum, product) in sums.iter_mut().zip(products) {
                *sum = sum.plus(product, *factor);
            }
        }
    }
}
