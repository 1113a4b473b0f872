//! Sums in one fixed order that vectorizes: 16 partial sums, then a tree.

pub(crate) const LANES: usize = 16;

/// `sum_i f(x[i])`: element `i` goes to partial sum `i % 16`; the partial sums are added pairwise.
#[inline(always)]
pub(crate) fn sum_by(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f(x);
    }
    tree(lanes, |a, b| a + b)
}

/// The largest element; negative infinity of an empty slice. NaN where any element is NaN.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let pick = |a: f32, b: f32| if a > b || a.is_nan() { a } else { b };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = pick(*lane, x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = pick(*lane, x);
    }
    tree(lanes, pick)
}

/// The lanes combined pairwise: the upper half onto the lower, until one is left.
#[inline(always)]
pub(crate) fn tree<T: Copy, const N: usize>(mut lanes: [T; N], f: impl Fn(T, T) -> T) -> T {
    let mut width = N / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}
