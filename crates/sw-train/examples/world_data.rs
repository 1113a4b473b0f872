//! Writes the micro-world's evaluation sets: `cargo run --example world_data -- DIR [SEED] [ITEMS]`.

use std::path::PathBuf;

fn main() -> sw_train::Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().unwrap_or_else(|| "out/nano-data".into()));
    let mut number = || args.next().and_then(|a| a.parse().ok());
    let (seed, items) = (number().unwrap_or(1), number().unwrap_or(400));
    sw_train::world::write_evaluation(&dir, seed, items as usize)
}
