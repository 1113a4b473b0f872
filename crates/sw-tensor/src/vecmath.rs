//! Elementary functions that compilers turn into vector code: no branches, no tables, no library calls.
//!
//! They use only additions, multiplications, both of them fused, and bit operations, so the result is the same in every lane, with
//! every instruction set, and in scalar code. (A processor without fused multiply-adds takes them from the C library, slowly.)

/// Below this, `exp` is below the smallest normal number and counts as zero.
const LOWEST: f32 = -87.336_54;

/// `exp(x)` for `x <= 0`, within 1.5 units in the last place; exactly 1 at 0, exactly 0 below -87.33654.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; `exp(r)` is its Taylor polynomial of degree 7 (truncation below 1e-8 of an
/// ulp's size, 6e-9), and `2^n` is written into the exponent.
#[inline(always)]
pub(crate) fn exp_neg(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, the first of 9 bits, so that n * HIGH is exact.
    const HIGH: f32 = 355.0 / 512.0;
    const LOW: f32 = -2.121_944_4e-4;
    // Written so that NaN passes through.
    let x_in_range = if x < LOWEST { LOWEST } else { x };
    let shifted = x_in_range.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LOW, n.mul_add(-HIGH, x_in_range));
    let p = 1.0 / 5040.0f32;
    let p = p.mul_add(r, 1.0 / 720.0);
    let p = p.mul_add(r, 1.0 / 120.0);
    let p = p.mul_add(r, 1.0 / 24.0);
    let p = p.mul_add(r, 1.0 / 6.0);
    let p = p.mul_add(r, 0.5);
    // 1 + (r + r^2 p): the largest term last.
    let p = 1.0 + p.mul_add(r * r, r);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    let y = p * power;
    if x < LOWEST { 0.0 } else { y }
}

/// `1 / (1 + exp(-z))`, within 4 units in the last place.
#[inline(always)]
pub(crate) fn sigmoid(z: f32) -> f32 {
    let e = exp_neg(-z.abs());
    // For negative z, exp(z) / (1 + exp(z)): nothing cancels, nothing overflows.
    let numerator = if z < 0.0 { e } else { 1.0 };
    numerator / (1.0 + e)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    /// Error in units in the last place of the true value.
    fn ulps(found: f32, exact: f64) -> f64 {
        let ulp = f64::from(f32::from_bits((exact as f32).to_bits() + 1)) - f64::from(exact as f32);
        (f64::from(found) - exact).abs() / ulp
    }

    /// Every 97th float of the range, in vectors.
    fn sweep(f: impl Fn(f32) -> f32 + Copy, exact: impl Fn(f64) -> f64, from: f32, to: f32) -> f64 {
        let inputs: Vec<f32> = (from.to_bits()..to.to_bits())
            .step_by(97)
            .map(|bits| -f32::from_bits(bits))
            .collect();
        let mut worst = 0.0f64;
        for isa in Isa::all() {
            let mut out = inputs.clone();
            isa.run(|| out.iter_mut().for_each(|x| *x = f(*x)));
            for (x, y) in inputs.iter().zip(&out) {
                assert_eq!(
                    f(*x).to_bits(),
                    y.to_bits(),
                    "{}: lanes disagree at {x:e}",
                    isa.name()
                );
                worst = worst.max(ulps(*y, exact(f64::from(*x))));
            }
        }
        worst
    }

    #[test]
    fn exp_is_accurate_to_one_and_a_half_ulp() {
        let worst = sweep(exp_neg, f64::exp, 1e-30, -LOWEST);
        assert!(worst <= 1.5, "{worst} ulp");
    }

    #[test]
    fn exp_is_exact_where_softmax_relies_on_it() {
        assert_eq!(exp_neg(0.0), 1.0);
        assert_eq!(exp_neg(-0.0), 1.0);
        for x in [-87.4, -1000.0, f32::MIN, f32::NEG_INFINITY] {
            assert_eq!(exp_neg(x), 0.0);
        }
        assert!(exp_neg(f32::NAN).is_nan());
    }

    #[test]
    fn sigmoid_is_accurate_to_four_ulp() {
        let worst = sweep(sigmoid, |z| 1.0 / (1.0 + (-z).exp()), 1e-30, 87.0);
        assert!(worst <= 4.0, "{worst} ulp");
        let worst = sweep(|z| sigmoid(-z), |z| 1.0 / (1.0 + z.exp()), 1e-30, 87.0);
        assert!(worst <= 4.0, "{worst} ulp");
    }
}
