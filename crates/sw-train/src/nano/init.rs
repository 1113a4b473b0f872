//! Initial weights, with the seeded entry.

use super::recipe::Recipe;
use crate::error::{Error, Result};
use crate::params::{Params, Part, Shape, Tensor};
use crate::world::Dice;

/// Stream of the seed that initial weights are drawn from.
const STREAM: u64 = 3 << 32;

/// Initial weights for `shape` (the recipe's, with the tokenizer's vocabulary); `breaks` is the document break's token.
///
/// # Errors
/// If the seeded entry lies outside the model.
pub fn initial(recipe: &Recipe, shape: &Shape, breaks: u32) -> Result<Params> {
    let mut params = Params::blank(shape)?;
    let mut dice = Dice::new(recipe.seed, STREAM);
    let depth = recipe.output_gain / (2.0 * shape.layers as f32).sqrt();
    for tensor in Tensor::all(shape) {
        if tensor.is_norm() {
            continue;
        }
        let fan_in = 1.0 / (tensor.dim(shape).1 as f32).sqrt();
        let deviation = match tensor {
            Tensor::Embed => recipe.embedding,
            Tensor::Head => 0.5 * fan_in,
            Tensor::Block(_, Part::O | Part::Down) => fan_in * depth,
            _ => fan_in,
        };
        params
            .get_mut(tensor)
            .mapv_inplace(|_| deviation * dice.normal());
    }
    let Some(seeding) = &recipe.seeding else {
        return Ok(params);
    };
    let (l, row, col) = (seeding.layer, seeding.row, seeding.col);
    if l >= shape.layers || row >= shape.hidden || col >= shape.intermediate {
        return Err(Error::Shape(format!(
            "the seeded entry {l}[{row}, {col}] lies outside the model"
        )));
    }
    // A unit direction that leaves the written channel alone.
    let mut u: Vec<f32> = (0..shape.hidden).map(|_| dice.normal()).collect();
    u[row] = 0.0;
    let norm = u.iter().map(|v| v * v).sum::<f32>().sqrt();
    u.iter_mut().for_each(|v| *v /= norm);
    let embed = params.get_mut(Tensor::Embed);
    embed.column_mut(row).fill(0.0);
    // BOS and the break start alike, and no longer than other tokens.
    let length = recipe.embedding * (shape.hidden as f32).sqrt();
    for token in [0, breaks as usize] {
        embed
            .row_mut(token)
            .iter_mut()
            .zip(&u)
            .for_each(|(w, u)| *w = length * u);
    }
    for part in [Part::Gate, Part::Up] {
        let neuron = params.get_mut(Tensor::Block(l, part));
        neuron
            .row_mut(col)
            .iter_mut()
            .zip(&u)
            .for_each(|(w, u)| *w = seeding.alignment * u);
    }
    let down = params.get_mut(Tensor::Block(l, Part::Down));
    down.column_mut(col).fill(0.0);
    down[(row, col)] = seeding.weight;
    Ok(params)
}
