//! Grows a checkpoint: `cargo run --release --example nano -- OUT [RECIPE.json]`; the recorded recipe without a file.

use std::path::PathBuf;

use sw_train::nano::{Next, Recipe, train_nano};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let out = PathBuf::from(args.next().unwrap_or_else(|| "out/nano".into()));
    let recipe = match args.next() {
        Some(path) => serde_json::from_str(&std::fs::read_to_string(path)?)?,
        None => Recipe::recorded(),
    };
    let (model, data, state) = (out.join("model"), out.join("data"), out.join("state"));
    train_nano(&recipe, &model, &data, &state, |p| {
        if let Some(m) = p.measured {
            println!(
                "{} | {:.0} tokens/s, {:.0} s left",
                m.line(),
                p.tokens_per_second,
                p.seconds_left
            );
        }
        Next::Continue
    })?;
    Ok(())
}
