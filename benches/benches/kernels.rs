//! Products at the shapes of a 7B model, as a share of what the machine can do.
//!
//! Every sample of a product is followed by a sample of the machine's own multiply-add peak (and, for few rows, of its
//! read bandwidth), so that a busy neighbour or a changing clock strikes both alike; shares are medians of the ratios.
//! `SW_ISA` forces a kernel, `RAYON_NUM_THREADS` the number of threads.

use std::time::{Duration, Instant};

use half::{bf16, f16};
use ndarray::Array2;
use sw_benches::{median, random};
use sw_tensor::{
    Arithmetic, CodeOffsets, Codes, Mat, Order, Precision, isa_name, kernel_name, machine,
    matmul_t_codes, matmul_t_each, matmul_t_i8,
};

const SAMPLES: usize = 15;

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let wanted =
        |name: &str| arguments.is_empty() || arguments.iter().any(|a| name.contains(a.as_str()));
    println!(
        "kernel {}, {} threads, {SAMPLES} samples",
        isa_name(),
        rayon::current_num_threads()
    );
    for (n, k) in [(11008, 4096), (4096, 11008), (4096, 4096)] {
        for dtype in ["bf16", "f16", "f32"] {
            for precision in [Precision::Float32, Precision::Bfloat16] {
                let name = format!("many 512 {n} {k} {dtype} in {}", precision.name());
                if wanted(&name) {
                    many(&name, precision, [512, n, k], dtype);
                }
            }
        }
    }
    for (n, k) in [(11008, 4096), (4096, 11008), (4096, 4096)] {
        for kind in ["i8", "codes8", "codes4"] {
            let name = format!("many 512 {n} {k} {kind}");
            if wanted(&name) {
                integers(&name, 512, n, k, kind);
            }
        }
    }
    for (n, k) in [(11008, 4096), (4096, 11008), (4096, 4096)] {
        for dtype in ["bf16", "f16"] {
            for m in [1, 2, 4, 8, 12, 16] {
                let doors = [("door", Order::Fixed), ("few", Order::Any)];
                // With AMX both are one for BF16.
                let are_one = isa_name() == "amx" && dtype == "bf16";
                let doors = &doors[..if are_one { 1 } else { 2 }];
                for &(door, order) in doors {
                    for precision in [Precision::Float32, Precision::Bfloat16] {
                        let name = format!("{door} {m} {n} {k} {dtype} in {}", precision.name());
                        if wanted(&name) {
                            few(&name, Arithmetic { order, precision }, [m, n, k], dtype);
                        }
                    }
                }
            }
        }
    }
}

/// The peak of what a precision multiplies with, in GFLOP/s.
fn peak(precision: Precision) -> f64 {
    let time = Duration::from_millis(50);
    match kernel_name(precision) {
        "avx512_bf16" => machine::bf16_gflops(time),
        _ => machine::fma_gflops(time),
    }
}

fn many(name: &str, precision: Precision, [m, n, k]: [usize; 3], dtype: &str) {
    let order = Order::Fixed;
    let arithmetic = Arithmetic { order, precision };
    let (x, w) = (activations(m, k), weights(n, k, dtype, 1));
    let mut y = Array2::zeros((m, n));
    let operations = (2 * m * n * k) as f64;
    let (mut rates, mut shares) = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        let rate =
            operations / time(|| matmul_t_each(arithmetic, x.view(), [(&w, y.view_mut())])) / 1e9;
        let peak = peak(precision);
        rates.push(rate);
        shares.push(rate / peak);
    }
    println!(
        "{name:28} {:7.1} GFLOP/s   {:.3} of the peak (best {:.3})",
        median(&rates),
        median(&shares),
        max(&shares)
    );
}

/// Products of integers, as a share of the peak of 8-bit dot products in vectors.
fn integers(name: &str, m: usize, n: usize, k: usize, kind: &str) {
    let mut next = random(3);
    let mut bytes = |n: usize| -> Vec<i8> { (0..n).map(|_| (next() * 128.0) as i8).collect() };
    let (x, w) = (bytes(m * k), bytes(n * k));
    let x_floats = activations(m, k);
    let bits: u8 = if kind == "codes4" { 4 } else { 8 };
    let codes: Vec<u8> = w[..n * k / 8 * usize::from(bits)]
        .iter()
        .map(|w| *w as u8)
        .collect();
    let scales = vec![0.01; n * k / 128];
    let codes = Codes {
        shape: [n, k],
        bits,
        codes: &codes,
        group: [1, 128],
        scales: &scales,
        offsets: CodeOffsets::Symmetric,
        outliers: &[],
    };
    let x = Array2::from_shape_vec((m, k), x).expect("its size");
    let w = Array2::from_shape_vec((n, k), w).expect("its size");
    let (mut y, mut y_floats) = (Array2::zeros((m, n)), Array2::zeros((m, n)));
    let (mut rates, mut shares) = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        let seconds = time(|| match kind {
            "i8" => matmul_t_i8(x.view(), w.view(), y.view_mut()),
            _ => matmul_t_codes(x_floats.view(), &codes, y_floats.view_mut()),
        });
        let rate = (2 * m * n * k) as f64 / seconds / 1e9;
        let peak = machine::vnni_gops(Duration::from_millis(50));
        rates.push(rate);
        shares.push(rate / peak);
    }
    println!(
        "{name:28} {:7.1} GOP/s     {:.3} of the 8-bit vector peak (best {:.3})",
        median(&rates),
        median(&shares),
        max(&shares)
    );
}

fn few(name: &str, arithmetic: Arithmetic, [m, n, k]: [usize; 3], dtype: &str) {
    // Enough matrices that each one has left every cache when its turn comes again.
    let size = n * k * 2;
    let count = ((1 << 30) / size).max(2);
    let x = activations(m, k);
    let all: Vec<Mat> = (0..count).map(|i| weights(n, k, dtype, i as u64)).collect();
    let cold = vec![1u8; 1 << 30];
    let mut y = Array2::zeros((m, n));
    let (mut rates, mut shares) = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES.min(9) {
        let seconds = time(|| {
            all.iter()
                .for_each(|w| matmul_t_each(arithmetic, x.view(), [(w, y.view_mut())]))
        });
        let rate = (2 * m * n * k * count) as f64 / seconds / 1e9;
        let read = machine::read_gbytes(&cold);
        let peak = peak(arithmetic.precision);
        rates.push(rate);
        shares.push(rate / peak.min(m as f64 * read));
    }
    println!(
        "{name:28} {:7.1} GFLOP/s   {:.3} of the limit (best {:.3})",
        median(&rates),
        median(&shares),
        max(&shares)
    );
}

fn time(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64()
}

fn activations(m: usize, k: usize) -> Array2<f32> {
    let next = random(1);
    Array2::from_shape_simple_fn((m, k), next)
}

fn weights(n: usize, k: usize, dtype: &str, seed: u64) -> Mat {
    let mut next = random(seed);
    match dtype {
        "bf16" => Mat::from_bf16(n, k, (0..n * k).map(|_| bf16::from_f32(next())).collect()),
        "f16" => Mat::from_f16(n, k, (0..n * k).map(|_| f16::from_f32(next())).collect()),
        _ => Mat::from_f32(n, k, (0..n * k).map(|_| next()).collect()),
    }
}

fn max(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}
