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
    let mut w = normal(1024 * 1024);
    w[super_weight.0 * 1024 + super_weight.1] = 2.5;

    let rtn = Scheme::new(Levels::asymmetric(4), Grouping::flat(1024 * 1024));
    let found = search::weight_error(&w, shape, &rtn, &[super_weight], &search::ZS)?;
    let paper = rtn.with_clip(Clip::ZScore { z: 9.0 });
    let best = rtn.with_clip(Clip::ZScore { z: found.best });

    let mut plain_mse = None;
    println!(
        "{:<36} {:>12} {:>10} {:>12}",
        "4 bits, one block of 1024x1024", "inlier MSE", "gain", "super weight"
    );
    for (name, scheme, hold) in [
        ("round-to-nearest", &rtn, &[][..]),
        ("RESTORE alone", &rtn, &[super_weight]),
        ("CLIP (z = 9) alone", &paper, &[]),
        ("CLIP (z = 9) + RESTORE", &paper, &[super_weight]),
        (
            &format!("CLIP (z = {}, searched) + RESTORE", found.best),
            &best,
            &[super_weight],
        ),
    ] {
        let mut quantized = w.clone();
        fake_quantize(&mut quantized, shape, scheme, hold)?;
        let at = super_weight.0 * 1024 + super_weight.1;
        let value = quantized[at];
        let mut inliers = quantized;
        inliers[at] = w[at]; // leave the super weight out of the error
        let mse = stats::compare(&w, &inliers)?.mse;
        let plain = *plain_mse.get_or_insert(mse);
        println!(
            "{name:<36} {mse:>12.3e} {:>9.1}x {value:>12.4}",
            plain / mse
        );
    }
    Ok(())
}
