//! A matrix with a planted outlier: what CLIP and RESTORE save at 4 bits and a "1024x1024" block.
//!
//! `cargo run --release --example outlier`

use sw_quant::{Clip, Error, Grouping, Levels, Scheme, fake_quantize, search, stats};

/// Independent normal values of standard deviation 0.02, like a weight matrix (Box and Muller over a 64-bit generator).
fn normal(n: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = move || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    let mut gauss = || (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    (0..n).map(|_| (0.02 * gauss()) as f32).collect()
}

fn main() -> Result<(), Error> {
    let (shape, super_weight) = ([1024, 1024], (389, 717));
    let (mut w, at) = (normal(1024 * 1024), 389 * 1024 + 717);
    w[at] = 2.5;

    let rtn = Scheme::new(Levels::asymmetric(4), Grouping::flat(1024 * 1024));
    let z = search::weight_error(&w, shape, &rtn, &[super_weight], &search::ZS)?.best;
    let clip = |z| rtn.with_clip(Clip::ZScore { z });
    let searched = format!("CLIP (z = {z}, searched) + RESTORE");
    let rows = [
        ("round-to-nearest", rtn, &[][..]),
        ("RESTORE alone", rtn, &[super_weight]),
        ("CLIP (z = 9) alone", clip(9.0), &[]),
        ("CLIP (z = 9) + RESTORE", clip(9.0), &[super_weight]),
        (&searched, clip(z), &[super_weight]),
    ];

    println!("4 bits, one block of 1024x1024          inlier MSE       gain  super weight");
    let mut plain = None;
    for (name, scheme, hold) in rows {
        let mut quantized = w.clone();
        fake_quantize(&mut quantized, shape, &scheme, hold)?;
        let value = std::mem::replace(&mut quantized[at], w[at]); // left out of the error
        let mse = stats::compare(&w, &quantized)?.mse;
        let gain = *plain.get_or_insert(mse) / mse;
        println!("{name:<38} {mse:>11.3e} {gain:>9.1}x {value:>13.4}");
    }
    Ok(())
}
