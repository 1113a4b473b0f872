//! Properties over shapes, bits, groupings, clip rules, dtypes and adversarial values.

mod strategies;

use half::{bf16, f16};
use proptest::prelude::*;
use strategies::{Case, cases, config, levels};
use sw_quant::{
    Arithmetic, Clip, Grouping, Levels, Offsets, Quantized, Real, Scheme, ZeroPoint, fake_quantize,
    outliers, quantize, reference, stats,
};

const U: f64 = f32::EPSILON as f64 / 2.0; // the relative error of one rounding to f32

/// Both ways to quantize, which must agree bit for bit: the values and the stored form.
fn both<T: Real>(case: &Case, w: &[T]) -> Option<(Vec<T>, Quantized)> {
    let mut fake = w.to_vec();
    let done = fake_quantize(&mut fake, case.shape, &case.scheme, &case.hold);
    let stored = quantize(w, case.shape, &case.scheme, &case.hold);
    match (done, stored) {
        (Ok(_), Ok(q)) => {
            assert_eq!(q.dequantize::<T>(), fake);
            let again = q.clone().recycle(w, case.shape, &case.scheme, &case.hold);
            assert_eq!(again.as_ref(), Ok(&q));
            Some((fake, q))
        }
        (Err(a), Err(b)) => {
            assert_eq!(a, b);
            assert!(a.to_string().contains("does not fit f32 arithmetic"), "{a}");
            None
        }
        other => panic!("one way failed, the other not: {other:?}"),
    }
}

/// How far a value may be from the textbook's, at equal codes: the step and the ends of the range are each a few
/// roundings of numbers no larger than twice the largest magnitude; a step below the smallest normal number is flushed.
fn slack(largest: f64) -> f64 {
    16.0 * U * largest + 512.0 * f64::from(f32::MIN_POSITIVE)
}

/// Checks a case in one dtype against the textbook and against the error bound.
fn check<T: Real>(case: &Case) {
    let w: Vec<T> = case.values.iter().map(|&v| T::from_f32(v)).collect();
    if w.iter().any(|v| !v.to_f32().is_finite()) {
        return; // beyond f16
    }
    let Some((fake, q)) = both(case, &w) else {
        return;
    };
    let wide: Vec<f64> = w.iter().map(|v| f64::from(v.to_f32())).collect();
    let textbook =
        reference::blocks(&wide, case.shape, &case.scheme, &case.hold).expect("the same checks");
    let layout = case
        .scheme
        .grouping
        .blocks(case.shape)
        .expect("the same checks");
    let mut codes = vec![0; w.len()];
    q.codes_into(0, &mut codes).expect("as many as values");
    let held: Vec<usize> = case
        .hold
        .iter()
        .map(|(r, c)| r * case.shape[1] + c)
        .collect();
    // Rounding the result to T: relative, and absolute among T's subnormals.
    let narrow = |v: f64| match T::DTYPE {
        sw_quant::Dtype::F32 => 0.0,
        sw_quant::Dtype::F16 => (v.abs() * 2f64.powi(-11)).max(2f64.powi(-25)),
        sw_quant::Dtype::Bf16 => (v.abs() * 2f64.powi(-8)).max(2f64.powi(-134)),
    };

    for (b, block) in textbook.iter().enumerate() {
        let places: Vec<usize> = layout.segments(b).flatten().collect();
        let largest = places.iter().map(|&p| wide[p].abs()).fold(0.0, f64::max);
        let slack = slack(largest);
        // Largest possible distance of a value inside the range from its nearest level.
        let reach = match case.scheme.levels {
            Levels::Asymmetric {
                zero: ZeroPoint::Float,
                ..
            }
            | Levels::Symmetric { .. } => block.step / 2.0,
            Levels::Asymmetric { .. } => block.step, // the zero is rounded too: an end may be cut off
            _ => block.step * 0.233, // half of the widest gap of NF3; NF4's is smaller
        };
        let (mut lo, mut hi) = (f64::INFINITY, f64::NEG_INFINITY);
        for &p in places
            .iter()
            .filter(|p| case.scheme.clip != Clip::HeldOut || !held.contains(p))
        {
            let clipped = wide[p].clamp(-block.threshold, block.threshold);
            (lo, hi) = (lo.min(clipped), hi.max(clipped));
        }
        let t = block.threshold;
        for (i, &p) in places.iter().enumerate() {
            let got = f64::from(fake[p].to_f32());
            if held.contains(&p) {
                assert_eq!(fake[p], w[p], "held entries are exact");
                assert_eq!(q.dequantize::<T>()[p], w[p]);
                continue;
            }
            let target = wide[p].clamp(-t, t).clamp(lo.min(hi), hi.max(lo));
            let bound = reach + slack + narrow(got) + U * t.min(largest) * 4.0;
            assert!(
                (got - target).abs() <= bound,
                "{got} {target} step {} {case:?}",
                block.step
            );
            // Against the textbook: the same value, or the neighbour's where the rounding is too close to call.
            let textbook = block.values[i];
            let level = match case.scheme.levels {
                Levels::Nf4 | Levels::Nf3 => block.step * 0.466,
                _ => block.step,
            };
            let same = (got - textbook).abs() <= slack + narrow(got);
            let neighbour = (got - textbook).abs() <= level + slack + narrow(got);
            let tie = ((textbook - target).abs() - (got - target).abs()).abs()
                <= 2.0 * (slack + narrow(got)) + 1e-5 * block.step;
            assert!(
                same || (neighbour && tie),
                "{got} textbook {textbook} for {target}, step {} {case:?}",
                block.step
            );
        }
        if largest <= t && places.iter().all(|&p| w[p] == w[places[0]]) {
            places
                .iter()
                .for_each(|&p| assert_eq!(fake[p], w[p], "constant blocks are exact"));
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_textbook_and_the_bound_hold_in_every_dtype(case in cases()) {
        check::<f32>(&case);
        check::<f16>(&case);
        check::<bf16>(&case);
    }

    #[test]
    fn parts_decode_like_the_whole(case in cases()) {
        let Some((fake, q)) = both(&case, &case.values) else { return Ok(()) };
        let [rows, cols] = case.shape;
        let mut row = vec![0.0f32; cols];
        for r in 0..rows {
            q.dequantize_row_into(r, &mut row).unwrap();
            prop_assert_eq!(&row, &fake[r * cols..(r + 1) * cols]);
        }
        let layout = q.view().blocks;
        for b in 0..layout.count() {
            let mut block = vec![0.0f32; layout.len_of(b)];
            q.dequantize_block_into(b, &mut block).unwrap();
            let expected: Vec<f32> = layout.segments(b).flatten().map(|p| fake[p]).collect();
            prop_assert_eq!(block, expected);
            layout.segments(b).flatten().for_each(|p| assert_eq!(layout.of(p / cols, p % cols), b));
        }
        let mut all = vec![bf16::ZERO; rows * cols];
        q.dequantize_into(&mut all).unwrap();
        let narrowed: Vec<bf16> = fake.iter().map(|&v| bf16::from_f32(v)).collect();
        prop_assert_eq!(all, narrowed);
    }

    #[test]
    fn packed_bytes_come_back(case in cases()) {
        let Some((_, q)) = both(&case, &case.values) else { return Ok(()) };
        let bytes = q.to_bytes();
        prop_assert_eq!(bytes.len(), sw_quant::packed::byte_len(case.shape, &case.scheme, &case.hold).unwrap());
        let back = Quantized::from_bytes(&bytes).unwrap();
        prop_assert_eq!(back.to_bytes(), bytes.clone());
        prop_assert_eq!(back, q);
        for cut in [0, 3, 63, bytes.len() - 1] {
            prop_assert!(Quantized::from_bytes(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn damaged_bytes_never_panic(case in cases(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let Some((_, q)) = both(&case, &case.values) else { return Ok(()) };
        let mut bytes = q.to_bytes();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(q) = Quantized::from_bytes(&bytes) {
            prop_assert_eq!(q.to_bytes(), bytes);
            prop_assert_eq!(q.dequantize::<f32>().len(), q.shape()[0] * q.shape()[1]);
        }
    }

    /// Under a fixed scale, the values of codes have those codes again: with the extremes among the values the scale
    /// repeats up to rounding, and no value is near a midpoint.
    #[test]
    fn codes_are_idempotent(levels in levels(), codes in prop::collection::vec(any::<u8>(), 1..40), step in 0.001f32..10.0, lo in -50i32..50) {
        let span = u32::from(levels.max_code() - levels.min_code()) + 1;
        let mut codes: Vec<u8> = codes.iter().map(|c| (u32::from(*c) % span) as u8 + levels.min_code()).collect();
        codes.extend([levels.min_code(), levels.max_code()]); // pin the range
        let value = |c: u8| match (levels, levels.table()) {
            (_, Some(table)) => table[usize::from(c)] * step,
            (Levels::Symmetric { bits }, _) => (f32::from(c) - f32::from(1u8 << (bits - 1))) * step,
            (Levels::Asymmetric { zero: ZeroPoint::Integer, .. }, _) => (f32::from(c) - f32::from(levels.max_code() / 2)) * step,
            _ => f32::from(c) * step + lo as f32 * step,
        };
        let w: Vec<f32> = codes.iter().map(|&c| value(c)).collect();
        let q = quantize(&w, [1, w.len()], &Scheme::new(levels, Grouping::Row), &[]).unwrap();
        let mut again = vec![0; w.len()];
        q.codes_into(0, &mut again).unwrap();
        prop_assert_eq!(again, codes);
    }

    /// Within a block, a larger value never gets a smaller one, whatever the rule.
    #[test]
    fn quantization_is_monotone(case in cases()) {
        let case = Case { hold: Vec::new(), ..case };
        let Some((fake, q)) = both(&case, &case.values) else { return Ok(()) };
        let layout = q.view().blocks;
        for b in 0..layout.count() {
            let mut pairs: Vec<(f32, f32)> = layout.segments(b).flatten().map(|p| (case.values[p], fake[p])).collect();
            pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
            prop_assert!(pairs.windows(2).all(|p| p[0].1 <= p[1].1), "{:?}", pairs);
        }
    }

    #[test]
    fn view_decodes_by_the_documented_formulas(case in cases()) {
        let Some((fake, q)) = both(&case, &case.values) else { return Ok(()) };
        let view = q.view();
        let cols = case.shape[1];
        let mut codes = vec![0; fake.len()];
        q.codes_into(0, &mut codes).unwrap();
        let held: Vec<usize> = view.outliers.iter().map(|o| o.index as usize).collect();
        for (p, &code) in codes.iter().enumerate().filter(|(p, _)| !held.contains(p)) {
            // The code by hand from the dense stream.
            let bits = usize::from(view.bits);
            let by_hand = (0..bits).fold(0, |c, i| {
                let bit = p * bits + i;
                c | (view.codes[bit / 8] >> (bit % 8) & 1) << i
            });
            prop_assert_eq!(by_hand, code);
            let block = view.blocks.of(p / cols, p % cols);
            let (c, scale) = (f32::from(code), view.scales[block]);
            let value = match (view.offsets, view.levels.table()) {
                (Offsets::Float(offsets), Some(table)) => table[usize::from(code)] * scale + offsets[block],
                (Offsets::Float(offsets), None) => c * scale + offsets[block],
                (Offsets::Integer(zeros), _) => (c - f32::from(zeros[block])) * scale,
                _ => (c - f32::from(1u8 << (view.bits - 1))) * scale,
            };
            prop_assert_eq!(value, fake[p]);
        }
    }

    #[test]
    fn bits_per_weight_counts_every_byte(case in cases()) {
        let Some((fake, q)) = both(&case, &case.values) else { return Ok(()) };
        let view = q.view();
        let offsets = match view.offsets {
            Offsets::Float(v) => 32 * v.len(),
            Offsets::Integer(v) => 8 * v.len(),
            _ => 0,
        };
        let bits = 8 * view.codes.len() + 32 * view.scales.len() + offsets + 96 * view.outliers.len();
        prop_assert_eq!(q.bits_per_weight(), bits as f64 / fake.len() as f64);
        // The written form adds its header and at most 7 bytes of padding to each of five sections.
        prop_assert!(q.to_bytes().len() * 8 <= bits + 8 * (64 + 5 * 7));
    }

    #[test]
    fn clipped_coordinates_are_as_many_as_reported(case in cases()) {
        if case.scheme.clip == Clip::HeldOut {
            return Ok(()); // not a threshold
        }
        if let Ok((_, report)) = stats::measure(&case.values, case.shape, &case.scheme, &[]) {
            let found = outliers::clipped(&case.values, case.shape, &case.scheme).unwrap();
            prop_assert_eq!(found.len(), report.clipped);
        }
    }

    /// Under scales of 16 bits each value has the code nearest to it, or the last one where it lies beyond.
    #[test]
    fn codes_under_rounded_scales_are_the_nearest(case in cases()) {
        let Some((_, q)) = both(&case, &case.values) else { return Ok(()) };
        let float = matches!(q.view().offsets, Offsets::Float(_));
        let lost = |s: &f32| !bf16::from_f32(*s).to_f32().is_finite();
        let any_lost = q.view().scales.iter().any(lost);
        let rounded = q.clone().with_scales::<bf16, f32>(&case.values);
        prop_assert_eq!(rounded.is_err(), float || any_lost);
        let Ok(r) = rounded else { return Ok(()) };
        prop_assert_eq!((r.view().offsets, r.view().outliers), (q.view().offsets, q.view().outliers));
        prop_assert_eq!(Quantized::from_bytes(&r.to_bytes()).unwrap(), r.clone());
        let view = r.view();
        let mut codes = vec![0; case.values.len()];
        r.codes_into(0, &mut codes).unwrap();
        let (min, max) = (f64::from(view.levels.min_code()), f64::from(view.levels.max_code()));
        for (p, &code) in codes.iter().enumerate() {
            let block = view.blocks.of(p / case.shape[1], p % case.shape[1]);
            let scale = view.scales[block];
            let own = bf16::from_f32(q.view().scales[block]).to_f32();
            let is_held = own.is_normal() || q.view().scales[block] == 0.0;
            prop_assert_eq!(scale, if is_held { own } else { f32::MIN_POSITIVE });
            if scale == 0.0 {
                continue;
            }
            let zero = match view.offsets {
                Offsets::Integer(zeros) => f64::from(zeros[block]),
                _ => f64::from(1u8 << (view.bits - 1)),
            };
            let exact = (f64::from(case.values[p]) / f64::from(scale) + zero).clamp(min, max);
            prop_assert!((exact - f64::from(code)).abs() <= 0.5 + 1e-4, "{} {}", exact, code);
        }
    }

    /// The release's half-precision arithmetic stores what it computes.
    #[test]
    fn half_arithmetic_is_stored_exactly(values in prop::collection::vec(-4.0f32..4.0, 2..60), bits in 2u8..=8, clip in prop::bool::ANY) {
        let w: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
        let clip = if clip { Clip::ZScore { z: 1.5 } } else { Clip::None };
        let scheme = Scheme { arithmetic: Arithmetic::ReleaseF16, clip, ..Scheme::new(Levels::asymmetric(bits), Grouping::Tensor) };
        let shape = [1, w.len()];
        let mut fake = w.clone();
        if fake_quantize(&mut fake, shape, &scheme, &[]).is_ok() {
            let q = quantize(&w, shape, &scheme, &[]).unwrap();
            prop_assert_eq!(q.dequantize::<f16>(), fake.clone());
            prop_assert_eq!(Quantized::from_bytes(&q.to_bytes()).unwrap().dequantize::<f16>(), fake);
        }
    }
}
