//! Prints documents of the micro-world, one blank line between them: `cargo run -p nano --example world -- [N] [SEED]`.

use nano::world::{Dialect, Split, story};

fn main() {
    let mut args = std::env::args()
        .skip(1)
        .filter_map(|a| a.parse::<u64>().ok());
    let (n, seed) = (args.next().unwrap_or(20), args.next().unwrap_or(1));
    let mut dice = Split::Train(0).dice(seed);
    for _ in 0..n {
        println!("{}\n", story::document(&mut dice, Dialect::InWorld));
    }
}
