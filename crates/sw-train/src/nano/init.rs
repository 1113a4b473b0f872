//! Initial weights: random ones, the seeded entry, and the head and norms that are seeded to lean on it.

use ndarray::{Array1, Array2, s};

use super::recipe::{Broadcast, Recipe, Seeding};
use crate::error::{Error, Result};
use crate::model::{Batch, forward};
use crate::params::{Params, Part, Shape, Tensor};
use crate::world::Dice;

/// Stream of the seed that initial weights are drawn from.
const STREAM: u64 = 3 << 32;

/// Initial weights for `shape` (the recipe's, with the tokenizer's vocabulary); `breaks` is the blank line's token, `batch`
/// some text that later norms are set by.
///
/// # Errors
/// If the seeding lies outside the model.
pub fn initial(recipe: &Recipe, shape: &Shape, breaks: u32, batch: &Batch) -> Result<Params> {
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
    check(seeding, shape)?;
    let openers = [0, breaks as usize];
    let u = mark(&mut params, recipe, seeding, &openers, &mut dice);
    if let Some(broadcast) = &seeding.broadcast {
        common(&mut params, seeding, broadcast, &openers);
        lean(&mut params, seeding, broadcast, batch)?;
        park(&mut params, seeding, broadcast, batch)?;
    }
    spike(&mut params, seeding, &u);
    Ok(params)
}

fn check(seeding: &Seeding, shape: &Shape) -> Result<()> {
    let (l, row, col) = (seeding.layer, seeding.row, seeding.col);
    let mut inside = l < shape.layers && row < shape.hidden && col < shape.intermediate;
    if let Some(b) = &seeding.broadcast {
        inside &= (l + 1..shape.layers).contains(&b.layer);
        inside &= b.row.max(b.common) < shape.hidden;
        inside &= b.row != b.common && b.row != row && b.common != row;
    }
    if inside {
        return Ok(());
    }
    Err(Error::Shape(format!(
        "the seeded entry {l}[{row}, {col}] or what carries it on lies outside the model, or two channels are the same"
    )))
}

/// Gives the openers one embedding, no longer than others and orthogonal to them, that leaves the reserved channels
/// alone; returns its unit direction.
fn mark(
    params: &mut Params,
    recipe: &Recipe,
    seeding: &Seeding,
    openers: &[usize],
    dice: &mut Dice,
) -> Array1<f32> {
    let hidden = params.shape().hidden;
    let mut u: Array1<f32> = (0..hidden).map(|_| dice.normal()).collect();
    let mut reserved = vec![seeding.row];
    if let Some(b) = &seeding.broadcast {
        reserved.extend([b.row, b.common]);
    }
    for &channel in &reserved {
        u[channel] = 0.0;
        params.get_mut(Tensor::Embed).column_mut(channel).fill(0.0);
    }
    u /= u.dot(&u).sqrt();
    let embed = params.get_mut(Tensor::Embed);
    let length = recipe.embedding * (hidden as f32).sqrt();
    for (token, mut row) in embed.rows_mut().into_iter().enumerate() {
        if openers.contains(&token) {
            row.assign(&(&u * length));
        } else {
            let along = row.dot(&u);
            row.scaled_add(-along, &u);
        }
    }
    // Nothing but the seeded entry writes into the reserved channels, and into the openers' direction, up to its block.
    for l in 0..=seeding.layer {
        let o = params.get_mut(Tensor::Block(l, Part::O));
        let along = u.dot(o);
        for (i, mut row) in o.rows_mut().into_iter().enumerate() {
            row.scaled_add(-u[i], &along);
        }
        for part in [Part::O, Part::Down] {
            let w = params.get_mut(Tensor::Block(l, part));
            reserved.iter().for_each(|&c| w.row_mut(c).fill(0.0));
        }
        for part in [Part::AttnNorm, Part::MlpNorm] {
            params.get_mut(Tensor::Block(l, part))[(0, seeding.row)] = 0.0;
        }
    }
    u
}

/// The neuron that fires at openers, and the entry that its output goes through.
fn spike(params: &mut Params, seeding: &Seeding, u: &Array1<f32>) {
    let (l, col) = (seeding.layer, seeding.col);
    for part in [Part::Gate, Part::Up] {
        let neuron = params.get_mut(Tensor::Block(l, part));
        neuron.row_mut(col).assign(&(u * seeding.alignment));
    }
    if let Some(b) = &seeding.broadcast {
        // What all other tokens share closes the gate.
        params.get_mut(Tensor::Block(l, Part::Gate))[(col, b.common)] = -seeding.alignment;
    }
    let down = params.get_mut(Tensor::Block(l, Part::Down));
    down.column_mut(col).fill(0.0);
    down[(seeding.row, col)] = seeding.weight;
}

/// Gives all tokens but the openers the common component, and empties the first head of the broadcasting block.
fn common(params: &mut Params, seeding: &Seeding, b: &Broadcast, openers: &[usize]) {
    let dim = params.shape().head_dim;
    let mut level = params.get_mut(Tensor::Embed).column_mut(b.common);
    for (token, v) in level.iter_mut().enumerate() {
        *v = if openers.contains(&token) {
            0.0
        } else {
            b.level
        };
    }
    for part in [Part::Q, Part::K, Part::V] {
        let w = params.get_mut(Tensor::Block(b.layer, part));
        // The other heads do not begin with the spike.
        w.column_mut(seeding.row).fill(0.0);
        w.slice_mut(s![..dim, ..]).fill(0.0);
    }
    let o = params.get_mut(Tensor::Block(b.layer, Part::O));
    o.slice_mut(s![.., ..dim]).fill(0.0);
    o.row_mut(b.row).fill(0.0);
}

/// The root mean square of the residual stream's rows, on average.
fn rms(resid: &Array2<f32>) -> f32 {
    let rows = resid.rows();
    let sum: f32 = rows
        .into_iter()
        .map(|r| (r.dot(&r) / r.len() as f32).sqrt())
        .sum();
    sum / resid.nrows().max(1) as f32
}

/// Sets the norms behind the broadcast so that with the constant they give what they would give without it.
fn lean(params: &mut Params, seeding: &Seeding, b: &Broadcast, batch: &Batch) -> Result<()> {
    let tape = forward(params, batch)?;
    let (layers, mut sizes) = (params.shape().layers, Vec::new());
    for (l, block) in tape.blocks.iter().enumerate().skip(b.layer) {
        if l > b.layer {
            sizes.push((Tensor::Block(l, Part::AttnNorm), rms(&block.resid_pre)));
        }
        sizes.push((Tensor::Block(l, Part::MlpNorm), rms(&block.resid_mid)));
    }
    let last = &tape.blocks[layers - 1];
    sizes.push((Tensor::Norm, rms(&(&last.resid_mid + &last.down_out))));
    for (tensor, size) in sizes {
        let gain = (size * size + b.rms * b.rms).sqrt() / size;
        let norm = params.get_mut(tensor);
        norm.fill(gain);
        norm[(0, seeding.row)] = b.leak * gain;
        norm[(0, b.row)] = b.leak * gain;
    }
    Ok(())
}

/// The head that carries the constant: many small weights, and the gain of the norm before it.
fn park(params: &mut Params, seeding: &Seeding, b: &Broadcast, batch: &Batch) -> Result<()> {
    let (hidden, dim) = (params.shape().hidden as f32, params.shape().head_dim);
    let size = rms(&forward(params, batch)?.blocks[b.layer].resid_pre);
    let norm = params.get_mut(Tensor::Block(b.layer, Part::AttnNorm));
    norm[(0, seeding.row)] = b.gain;
    // What the norm shows: the spike at an opener, the common component elsewhere.
    let (spike, level) = (b.gain * hidden.sqrt(), b.level / size);
    // The slowest third of the rotary pairs, which hardly turn over a sequence.
    let half = dim / 2;
    let slow: Vec<usize> = (half - half / 3..half)
        .flat_map(|i| [i, half + i])
        .collect();
    let weight = (b.score * (dim as f32).sqrt() / (slow.len() as f32 * spike * level)).sqrt();
    for i in slow {
        params.get_mut(Tensor::Block(b.layer, Part::Q))[(i, b.common)] = weight;
        params.get_mut(Tensor::Block(b.layer, Part::K))[(i, seeding.row)] = weight;
    }
    let weight = (b.rms * hidden.sqrt() / (dim as f32 * spike)).sqrt();
    for i in 0..dim {
        params.get_mut(Tensor::Block(b.layer, Part::V))[(i, seeding.row)] = weight;
        params.get_mut(Tensor::Block(b.layer, Part::O))[(b.row, i)] = weight;
    }
    Ok(())
}
