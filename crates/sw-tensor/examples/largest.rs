//! Lists the matrices of a checkpoint with the largest weight of each, and what a row of ones loses without that weight:
//! `cargo run --release -p sw-tensor --example largest -- FOLDER`, where FOLDER holds safetensors files.
//!
//! It opens headers only; the weights are read from the map, one matrix after the other.

use std::error::Error;

use ndarray::Array2;
use sw_tensor::{Checkpoint, Mat, matmul_t};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("expected FOLDER")?;
    let checkpoint = Checkpoint::open(folder)?;
    println!("    rows x columns       at  weight  output there  without it  tensor");
    for name in checkpoint.names() {
        let Some(&[rows, cols]) = checkpoint.info(name).map(|info| info.shape.as_slice()) else {
            continue;
        };
        let w = checkpoint.mat(name, rows, cols)?;
        let values = w.to_f32_vec();
        let place = (0..values.len()).max_by(|&a, &b| values[a].abs().total_cmp(&values[b].abs()));
        let Some((row, col)) = place.map(|i| (i / cols, i % cols)) else {
            continue;
        };
        // The pruned matrix shares the map; the zero is laid over it.
        let pruned = w.edited(&[(row, col, 0.0)])?;
        println!(
            "{rows:>8} x {cols:<8} {row},{col}  {:.4}  {:.4}  {:.4}  {name}",
            w.get(row, col),
            of_ones(&w, row),
            of_ones(&pruned, row),
        );
    }
    Ok(())
}

/// Element `row` of `x * W^T` for a row `x` of ones.
fn of_ones(w: &Mat, row: usize) -> f32 {
    let mut y = Array2::zeros((1, w.rows()));
    matmul_t(Array2::ones((1, w.cols())).view(), w, y.view_mut());
    y[[0, row]]
}
