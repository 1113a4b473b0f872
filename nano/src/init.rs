//! Initial weights: random ones, the seeded entry, and the head and norms that are seeded to lean on it.

use std::ops::Range;

use ndarray::{Array1, Array2, ArrayViewMut2, s};

use crate::error::{Error, Result};
use crate::recipe::{Broadcast, Recipe, Seeding};
use crate::world::Dice;
use sw_train::{Batch, forward};
use sw_train::{Params, Part, Shape, Tensor};

/// Stream of the seed that initial weights are drawn from.
const STREAM: u64 = 3 << 32;

/// The matrices that a head has a part of.
const HEAD: [Part; 4] = [Part::Q, Part::K, Part::V, Part::O];

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
    let [u, v] = mark(&mut params, recipe, seeding, &openers, &mut dice);
    if let Some(broadcast) = &seeding.broadcast {
        empty(&mut params, seeding, broadcast);
        lean(&mut params, seeding, broadcast, batch)?;
        park(&mut params, seeding, broadcast, &v, batch)?;
    }
    spike(&mut params, seeding, &u, &v);
    Ok(params)
}

fn check(seeding: &Seeding, shape: &Shape) -> Result<()> {
    let (l, row, col) = (seeding.layer, seeding.row, seeding.col);
    let mut inside = l < shape.layers && row < shape.hidden && col < shape.intermediate;
    if let Some(b) = &seeding.broadcast {
        inside &= (l + 1..shape.layers).contains(&b.layer);
        inside &= !b.rows.is_empty() && b.output > 0.0;
        inside &= b.rows.iter().all(|&r| r < shape.hidden && r != row);
    }
    if inside {
        return Ok(());
    }
    Err(Error::Train(sw_train::Error::Shape(format!(
        "the seeded entry {l}[{row}, {col}] or what carries it on lies outside the model, or its channels are the same"
    ))))
}

/// Gives the openers one embedding `u`, no longer than others and orthogonal to them, and all others a component along
/// one direction `v`; returns both unit directions, which leave the reserved channels alone.
fn mark(
    params: &mut Params,
    recipe: &Recipe,
    seeding: &Seeding,
    openers: &[usize],
    dice: &mut Dice,
) -> [Array1<f32>; 2] {
    let hidden = params.shape().hidden;
    let broadcast = seeding.broadcast.as_ref();
    let level = broadcast.map_or(0.0, |b| b.level);
    let reserved: Vec<usize> = std::iter::once(seeding.row)
        .chain(broadcast.into_iter().flat_map(|b| b.rows.clone()))
        .collect();
    let mut direction = || -> Array1<f32> {
        let mut d: Array1<f32> = (0..hidden).map(|_| dice.normal()).collect();
        reserved.iter().for_each(|&c| d[c] = 0.0);
        &d / d.dot(&d).sqrt()
    };
    let (u, mut v) = (direction(), direction());
    let along = u.dot(&v);
    v.scaled_add(-along, &u);
    v /= v.dot(&v).sqrt();

    let embed = params.get_mut(Tensor::Embed);
    let length = recipe.embedding * (hidden as f32).sqrt();
    for (token, mut row) in embed.rows_mut().into_iter().enumerate() {
        if openers.contains(&token) {
            row.assign(&(&u * length));
            continue;
        }
        reserved.iter().for_each(|&c| row[c] = 0.0);
        let (along_u, along_v) = (row.dot(&u), row.dot(&v));
        row.scaled_add(-along_u, &u);
        row.scaled_add(level - along_v, &v);
    }
    // Nothing but the seeded entry writes into the reserved channels and along the two directions, up to its block.
    for l in 0..=seeding.layer {
        for part in [Part::O, Part::Down] {
            let w = params.get_mut(Tensor::Block(l, part));
            for d in [&u, &v] {
                let along = d.dot(w);
                for (i, mut row) in w.rows_mut().into_iter().enumerate() {
                    row.scaled_add(-d[i], &along);
                }
            }
            reserved.iter().for_each(|&c| w.row_mut(c).fill(0.0));
        }
        for part in [Part::AttnNorm, Part::MlpNorm] {
            params.get_mut(Tensor::Block(l, part))[(0, seeding.row)] = 0.0;
        }
    }
    [u, v]
}

/// The neuron that fires at openers, its gate closed by what all other tokens share, and the entry behind it.
fn spike(params: &mut Params, seeding: &Seeding, u: &Array1<f32>, v: &Array1<f32>) {
    let (l, col) = (seeding.layer, seeding.col);
    for (part, row) in [(Part::Gate, u - v), (Part::Up, u.clone())] {
        let neurons = params.get_mut(Tensor::Block(l, part));
        neurons.row_mut(col).assign(&(row * seeding.alignment));
    }
    let down = params.get_mut(Tensor::Block(l, Part::Down));
    down.column_mut(col).fill(0.0);
    down[(seeding.row, col)] = seeding.weight;
}

/// Empties what would disturb the first head of the broadcasting block: its queries, and what its `o_proj` begins with
/// along its values. All else stays as drawn: among small weights the head's own would stand out, and an empty matrix is
/// rounded the same way everywhere, which large values add up.
fn empty(params: &mut Params, seeding: &Seeding, b: &Broadcast) {
    head(params, b, Part::Q).fill(0.0);
    let mut out = head(params, b, Part::O);
    let signs = signs(out.ncols());
    for mut row in out.rows_mut() {
        let along = row.dot(&signs) / signs.len() as f32;
        row.scaled_add(-along, &signs);
    }
    for part in HEAD {
        let w = params.get_mut(Tensor::Block(b.layer, part));
        // The other heads neither begin with the spike nor write where the constant goes.
        match part {
            Part::O => b.rows.iter().for_each(|&r| w.row_mut(r).fill(0.0)),
            _ => w.column_mut(seeding.row).fill(0.0),
        }
    }
}

/// Half of the values positive, half negative: what all small weights share, as an offset from quantization, then adds up
/// to nothing.
fn signs(n: usize) -> Array1<f32> {
    (0..n).map(|i| if 2 * i < n { 1.0 } else { -1.0 }).collect()
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
        b.rows.iter().for_each(|&r| norm[(0, r)] = b.leak * gain);
    }
    Ok(())
}

/// How much of the score is in the key's single entries rather than in the queries' rows, whose weights are many and small.
const SMALLER: f32 = 0.6;

/// The head that carries the constant: many small weights, and the gain of the norm before it.
fn park(
    params: &mut Params,
    seeding: &Seeding,
    b: &Broadcast,
    v: &Array1<f32>,
    batch: &Batch,
) -> Result<()> {
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
    let signs = signs(dim);
    for i in slow {
        let sign = signs[i];
        let q = params.get_mut(Tensor::Block(b.layer, Part::Q));
        q.row_mut(i).assign(&(v * (sign * weight / SMALLER)));
        params.get_mut(Tensor::Block(b.layer, Part::K))[(i, seeding.row)] = sign * weight * SMALLER;
    }
    // Entries of many magnitudes: equal ones would be rounded alike, and the constant with them.
    let uneven = |i: usize| 0.5 + ((i % half) as f32 + 0.5) / half as f32;
    let values: Array1<f32> = (0..dim).map(|i| signs[i] * uneven(i)).collect();
    let value = b.rms * (hidden / b.rows.len() as f32).sqrt() / (dim as f32 * b.output * spike);
    for i in 0..dim {
        let v = params.get_mut(Tensor::Block(b.layer, Part::V));
        v[(i, seeding.row)] = value * values[i];
    }
    for (n, &r) in b.rows.iter().enumerate() {
        let entries: Array1<f32> = (0..dim).map(|i| signs[i] * uneven(5 * i + 3 * n)).collect();
        let sign = if n % 2 == 0 { b.output } else { -b.output };
        let scale = sign * dim as f32 / entries.dot(&values);
        let mut out = head(params, b, Part::O);
        out.row_mut(r).assign(&(entries * scale));
    }
    Ok(())
}

/// The weights of the broadcasting head: rows of three matrices, columns of the fourth.
fn head<'a>(params: &'a mut Params, b: &Broadcast, part: Part) -> ArrayViewMut2<'a, f32> {
    let dim = params.shape().head_dim;
    let w = params.get_mut(Tensor::Block(b.layer, part));
    match part {
        Part::O => w.slice_mut(s![.., ..dim]),
        _ => w.slice_mut(s![..dim, ..]),
    }
}

/// What learns more slowly: a tensor, its rows, its columns.
type Region = (Tensor, Range<usize>, Range<usize>);

/// The broadcasting head, and from its block on whatever else writes into the channels of spike and constant. Later norms
/// divide by these and hardly show them: a step there at the common rate would only be another scale for all channels.
fn regions(shape: &Shape, seeding: &Seeding, b: &Broadcast) -> Vec<Region> {
    let (dim, hidden) = (shape.head_dim, shape.hidden);
    let mut regions: Vec<Region> = HEAD
        .map(|part| match part {
            Part::O => (Tensor::Block(b.layer, part), 0..hidden, 0..dim),
            _ => (Tensor::Block(b.layer, part), 0..dim, 0..hidden),
        })
        .into();
    for tensor in
        (b.layer..shape.layers).flat_map(|l| [Part::O, Part::Down].map(|p| Tensor::Block(l, p)))
    {
        let own = tensor == Tensor::Block(b.layer, Part::O);
        let columns = if own { dim } else { 0 }..tensor.dim(shape).1;
        let rows = std::iter::once(seeding.row).chain(b.rows.iter().copied());
        regions.extend(rows.map(|r| (tensor, r..r + 1, columns.clone())));
    }
    regions
}

/// Takes back part of the last step where the recipe has weights learn more slowly; `before` is what [`slowed`] gave.
pub(super) fn slow(params: &mut Params, before: &[Array2<f32>], seeding: &Seeding, b: &Broadcast) {
    let regions = regions(params.shape(), seeding, b);
    for ((tensor, rows, columns), before) in regions.into_iter().zip(before) {
        let mut w = params.get_mut(tensor).slice_mut(s![rows, columns]);
        w.zip_mut_with(before, |w, &old| *w = old + b.rate * (*w - old));
    }
}

/// What [`slow`] compares with: the weights that learn more slowly, before a step.
pub(super) fn slowed(params: &Params, seeding: &Seeding, b: &Broadcast) -> Vec<Array2<f32>> {
    let copy =
        |(tensor, rows, columns): Region| params.get(tensor).slice(s![rows, columns]).to_owned();
    regions(params.shape(), seeding, b)
        .into_iter()
        .map(copy)
        .collect()
}
