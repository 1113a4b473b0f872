//! A super activation at 8 bits: what REPLACE and RESTORE save, per token and per tensor.
//!
//! `cargo run --release --example activation`

use sw_quant::{Activation, Error, Fill, Grouping, Levels, Pick, Scheme, stats};

fn main() -> Result<(), Error> {
    // 16 tokens of 4096 channels; the first token carries a super activation of 560, as Llama-7B's layer 2 does.
    let shape = [16, 4096];
    let mut x: Vec<f32> = (0..16 * 4096)
        .map(|i| (i as f32 * 0.7).sin() + (i as f32 * 0.13).cos())
        .collect();
    let at = 3968;
    x[at] = 560.0;

    println!(
        "{:<12} {:<12} {:>14} {:>14}",
        "levels", "scale per", "naive MSE", "restored MSE"
    );
    for (name, levels) in [
        ("asymmetric", Levels::asymmetric(8)),
        ("symmetric", Levels::symmetric(8)),
    ] {
        for (per, grouping, fill) in [
            ("token", Grouping::Row, Fill::RowMedian),
            ("tensor", Grouping::Tensor, Fill::TensorMedian),
        ] {
            let scheme = Scheme::new(levels, grouping);
            let mut mse = [0.0; 2];
            // The channel is known from the super weight, the token is where it is largest.
            for (mse, pick) in mse
                .iter_mut()
                .zip([Pick::None, Pick::Channels { channels: vec![at] }])
            {
                let mut quantized = x.clone();
                Activation { scheme, pick, fill }.apply(&mut quantized, shape)?;
                *mse = stats::compare(&x, &quantized)?.mse;
            }
            println!("{name:<12} {per:<12} {:>14.3e} {:>14.3e}", mse[0], mse[1]);
        }
    }
    Ok(())
}
