//! What a feature may change: the speed, and which types are understood; never a bit of a result.

use half::{bf16, f16};
#[cfg(any(feature = "serde", feature = "ndarray"))]
use sw_quant::Activation;
use sw_quant::{
    Arithmetic, Clip, Grouping, Levels, Real, Scheme, Scope, Steps, Tail, ZeroPoint, fake_quantize,
    quantize, search, stats,
};

/// More than three pieces of work of 65,536 values, and blocks that lie across their ends.
const SHAPE: [usize; 2] = if cfg!(miri) { [12, 20] } else { [700, 300] };
/// On both sides of the first end of a piece, and elsewhere.
const HOLD: [(usize, usize); 4] = if cfg!(miri) {
    [(3, 4), (3, 3), (0, 0), (11, 19)]
} else {
    [(218, 136), (218, 135), (0, 0), (699, 299)]
};

/// Roughly normal, with outliers.
fn matrix<T: Real>() -> Vec<T> {
    let mut state = 7u32;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut w: Vec<T> = (0..SHAPE[0] * SHAPE[1])
        .map(|_| T::from_f32(0.05 * (uniform() + uniform() + uniform())))
        .collect();
    for (row, col) in HOLD {
        w[row * SHAPE[1] + col] = T::from_f32(1.5);
    }
    w
}

fn schemes() -> Vec<Scheme> {
    let integer = |bits, steps| Levels::Asymmetric {
        bits,
        steps,
        zero: ZeroPoint::Integer,
    };
    let top = |scope| Clip::TopFraction {
        fraction: 1e-3,
        scope,
    };
    let short = |grouping: Grouping| grouping.with_tail(Tail::Short);
    let z = Clip::ZScore { z: 3.0 };
    let plain = |levels, grouping, clip| Scheme::new(levels, grouping).with_clip(clip);
    vec![
        plain(Levels::asymmetric(4), Grouping::Tensor, z),
        plain(Levels::asymmetric(8), Grouping::Row, Clip::None),
        plain(Levels::symmetric(8), Grouping::Row, Clip::HeldOut),
        plain(
            Levels::symmetric(3),
            short(Grouping::flat(128)),
            Clip::Iqr { factor: 3.0 },
        ),
        plain(
            integer(5, Steps::Full),
            Grouping::tile(7, 100),
            top(Scope::Block),
        ),
        plain(
            integer(7, Steps::PaperPrinted),
            short(Grouping::tile(64, 64)),
            top(Scope::Tensor),
        ),
        plain(Levels::Nf4, short(Grouping::flat(70_000)), z),
        plain(Levels::Nf3, Grouping::tile(1, 60), Clip::None),
        Scheme {
            arithmetic: Arithmetic::ReleaseF16,
            ..plain(Levels::asymmetric(4), Grouping::Row, z)
        },
    ]
}

/// FNV-1a.
fn hash(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Everything that can be computed from a matrix, as one number.
fn digest<T: Real>(mut digest: u64) -> u64 {
    let w = matrix::<T>();
    let mut memory = quantize(&[T::default()], [1, 1], &Scheme::default(), &[]).expect("one value");
    for scheme in schemes() {
        let q = quantize(&w, SHAPE, &scheme, &HOLD).expect("a sound case");
        let again = memory.recycle(&w, SHAPE, &scheme, &HOLD);
        memory = again.expect("a sound case");
        assert_eq!(memory, q, "{scheme:?}");
        let mut fake = w.clone();
        let report = fake_quantize(&mut fake, SHAPE, &scheme, &HOLD).expect("a sound case");
        assert_eq!(q.dequantize::<T>(), fake, "{scheme:?}");
        let error = stats::compare(&w, &fake).expect("as long");
        let found = search::weight_error(&w, SHAPE, &scheme, &HOLD, &[2.0, 9.0]);
        let found = found.expect("a sound case");
        digest = hash(digest, &q.to_bytes());
        for number in [
            error.mse,
            error.max_error,
            found.error,
            report.clipped as f64,
        ] {
            digest = hash(digest, &number.to_le_bytes());
        }
    }
    digest
}

fn all() -> u64 {
    let digest = digest::<bf16>(digest::<f16>(digest::<f32>(0xcbf2_9ce4_8422_2325)));
    let (w, x) = (matrix::<f32>(), &matrix::<f32>()[..5 * SHAPE[1]]);
    let scheme = Scheme::new(Levels::symmetric(8), Grouping::Tensor);
    let x_shape = [5, SHAPE[1]];
    let found = search::output_error(&w, SHAPE, x, x_shape, &scheme, &HOLD, &[2.0, 9.0]);
    let found = found.expect("a sound case");
    let numbers = [found.error, found.baseline];
    numbers
        .iter()
        .fold(digest, |digest, number| hash(digest, &number.to_le_bytes()))
}

/// The number was written down from a build without features; every build must give it.
#[test]
#[cfg_attr(miri, ignore = "another matrix")]
fn every_build_computes_the_same_bits() {
    assert_eq!(format!("{:016x}", all()), "8b95a40cb7fd6275");
}

#[cfg(feature = "rayon")]
#[test]
fn threads_change_nothing() {
    let digests = [1, 2, 5].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("a pool").install(all)
    });
    assert_eq!(digests, [digests[0]; 3]);
}

#[cfg(feature = "safetensors")]
fn views_write<T: Real>() {
    use safetensors::View;
    use sw_quant::safetensors::{FakeView, PackedView};

    let w = matrix::<T>();
    for scheme in schemes() {
        let mut fake = w.clone();
        fake_quantize(&mut fake, SHAPE, &scheme, &HOLD).expect("a sound case");
        let view = FakeView::new(&w, SHAPE, &scheme, &HOLD).expect("a sound case");
        let (data, width) = (view.data(), size_of::<T>());
        assert_eq!((data.len(), view.shape()), (view.data_len(), &SHAPE[..]));
        for (bytes, value) in data.chunks_exact(width).zip(&fake) {
            let written = match *bytes {
                [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
                [a, b] if view.dtype() == safetensors::Dtype::BF16 => {
                    bf16::from_le_bytes([a, b]).to_f32()
                }
                [a, b] => f16::from_le_bytes([a, b]).to_f32(),
                _ => unreachable!("{width} bytes"),
            };
            assert_eq!(written, value.to_f32());
        }
        let packed = PackedView::new(&w, SHAPE, &scheme, &HOLD).expect("a sound case");
        let q = quantize(&w, SHAPE, &scheme, &HOLD).expect("a sound case");
        assert!(*packed.data() == q.to_bytes() && packed.data_len() == q.to_bytes().len());
    }
}

#[cfg(feature = "safetensors")]
#[test]
fn views_write_what_quantizing_gives() {
    views_write::<f32>();
    views_write::<f16>();
    views_write::<bf16>();
}

#[cfg(feature = "serde")]
#[test]
fn values_survive_json() {
    use sw_quant::{Fill, Pick};
    for scheme in schemes() {
        let text = serde_json::to_string(&scheme).expect("a value");
        assert_eq!(
            serde_json::from_str::<Scheme>(&text).expect("itself"),
            scheme
        );
    }
    let picks = [
        Pick::None,
        Pick::Largest,
        Pick::RowLargest,
        Pick::TopK { k: 3 },
        Pick::Channels { channels: vec![1] },
        Pick::At {
            coordinates: vec![(0, 1)],
        },
    ];
    for pick in picks {
        let recipe = Activation {
            pick,
            fill: Fill::TensorMedian,
            ..Activation::paper(8)
        };
        let text = serde_json::to_string(&recipe).expect("a value");
        assert_eq!(
            serde_json::from_str::<Activation>(&text).expect("itself"),
            recipe
        );
    }
    // The names are an interface; what is left out has its default, what is unknown is refused.
    let text =
        r#"{"levels": {"kind": "asymmetric", "bits": 4}, "clip": {"kind": "z_score", "z": 9.0}}"#;
    let scheme = Scheme::default().with_clip(Clip::ZScore { z: 9.0 });
    assert_eq!(
        serde_json::from_str::<Scheme>(text).expect("a scheme"),
        scheme
    );
    for wrong in [
        r#"{"level": {"kind": "nf4"}}"#,
        r#"{"clip": {"kind": "z_score", "z": 9, "x": 1}}"#,
        r#"{"levels": {"kind": "nf5"}}"#,
    ] {
        assert!(serde_json::from_str::<Scheme>(wrong).is_err(), "{wrong}");
    }
}

#[cfg(feature = "ndarray")]
#[test]
fn views_of_any_layout_are_read_in_their_own_order() {
    use ndarray::{Array2, s};
    let w = Array2::from_shape_vec(SHAPE, matrix::<f32>()).expect("its shape");
    let scheme = Scheme::default();
    let [rows, cols] = [SHAPE[1], SHAPE[0]];
    let copy: Vec<f32> = w.t().iter().copied().collect();
    let held: Vec<_> = HOLD.iter().map(|&(row, col)| (col, row)).collect();
    let expected = quantize(&copy, [rows, cols], &scheme, &held).expect("a sound case");
    let q = sw_quant::ndarray::quantize(w.t(), &scheme, &held).expect("a sound case");
    assert_eq!(q, expected);
    let mut fake = w.clone();
    sw_quant::ndarray::fake_quantize(fake.view_mut().reversed_axes(), &scheme, &held)
        .expect("a sound case");
    assert_eq!(fake.t(), sw_quant::ndarray::dequantize::<f32>(&q));

    let mut part = w.clone();
    let strided = part.slice_mut(s![..;2, 1..;3]);
    let shape = [strided.nrows(), strided.ncols()];
    let mut copy: Vec<f32> = strided.iter().copied().collect();
    let restored = sw_quant::ndarray::apply(&Activation::paper(8), strided).expect("a sound case");
    let by_hand = Activation::paper(8).apply(&mut copy, shape);
    assert_eq!(restored, by_hand.expect("a sound case"));
    assert!(part.slice(s![..;2, 1..;3]).iter().eq(&copy));
    assert_eq!(part.slice(s![1..;2, ..]), w.slice(s![1..;2, ..]));
}
