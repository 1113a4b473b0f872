//! Prints the weights with the highest `|w * dL/dw|`: `cargo run --release -p sw-train --example screen -- MODEL TEXTS.json [TOP]`.
//!
//! `TEXTS.json` is a list of lists of token ids.

use std::error::Error;

use sw_model::Model;
use sw_train::screen;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (model, texts, top) = match args.as_slice() {
        [model, texts] => (model, texts, 20),
        [model, texts, top] => (model, texts, top.parse()?),
        _ => return Err("expected MODEL TEXTS.json [TOP]".into()),
    };
    let texts: Vec<Vec<u32>> = serde_json::from_slice(&std::fs::read(texts)?)?;
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    for (i, w) in screen(&Model::open(model)?, &texts, top)?
        .iter()
        .enumerate()
    {
        println!("{:4}  {:.5}  {:>9.5}  {}", i + 1, w.score, w.value, w.at);
    }
    Ok(())
}
