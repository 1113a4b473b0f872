//! Selects the tiles with the largest mean gradient magnitude and writes them to a file:
//! `cargo run --release -p sw-train --example select_tiles -- MODEL TEXTS.json SIDE COUNT OUT.json`.
//!
//! `TEXTS.json` is a list of lists of token ids. Prints how many tiles each kind of map has among them.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use sw_model::{Linear, Model};
use sw_train::tiles::{TileScore, TileSelection, score_tiles};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, texts, side, count, out] = args.as_slice() else {
        return Err("expected MODEL TEXTS.json SIDE COUNT OUT.json".into());
    };
    let texts: Vec<Vec<u32>> = serde_json::from_slice(&std::fs::read(texts)?)?;
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let (model, side) = (Model::open(model)?, side.parse()?);
    let score = TileScore::MeanMagnitude;
    let scored = score_tiles(&model, &[&texts], &Linear::ALL, side, score)?;
    let selection = TileSelection::best(side, &scored, count.parse()?);
    selection.write(Path::new(out))?;
    let mut picks: BTreeMap<Linear, usize> = BTreeMap::new();
    for tile in &selection.tiles {
        *picks.entry(tile.at.linear).or_default() += 1;
    }
    for (linear, tiles) in picks {
        println!("{linear:10} {tiles}");
    }
    Ok(())
}
