//! Gradients of what is trained, and moments of the same shape.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use ndarray::{Array2, ArrayView1, ArrayView2, Axis, s};
use rayon::prelude::*;
use sw_model::{LinearAt, Model, Site, TensorAt};

use super::adapter::Adapted;
use crate::gradient::Block;
use crate::mapped::{Gradients, Keep};
use crate::tiles::add_product;

/// A matrix that is trained, whole or in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Param {
    /// A tensor of the model.
    Tensor(TensorAt),
    /// The first factor of an adapter's change of a linear map, `[rank, input channels]`.
    LoraA(LinearAt),
    /// The second factor, `[output channels, rank]`.
    LoraB(LinearAt),
    /// DoRA's magnitudes, `[1, output channels]`.
    Magnitude(LinearAt),
    /// The soft prompt, `[virtual tokens, hidden]`.
    Prompt,
}

impl fmt::Display for Param {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Param::Tensor(at) => at.fmt(f),
            Param::LoraA(at) => write!(f, "{at}.lora_A"),
            Param::LoraB(at) => write!(f, "{at}.lora_B"),
            Param::Magnitude(at) => write!(f, "{at}.lora_magnitude_vector"),
            Param::Prompt => f.write_str("soft_prompt"),
        }
    }
}

impl Param {
    /// The lowest layer that the way back must reach for its gradient.
    fn depth(self, model: &Model) -> usize {
        match self {
            Param::Tensor(TensorAt::Embedding) | Param::Prompt => 0,
            Param::Tensor(TensorAt::AttnNorm(l) | TensorAt::MlpNorm(l)) => l,
            Param::Tensor(TensorAt::Weight(at) | TensorAt::Bias(at))
            | Param::LoraA(at)
            | Param::LoraB(at)
            | Param::Magnitude(at) => at.layer,
            Param::Tensor(TensorAt::FinalNorm | TensorAt::Head) => model.spec().layers.len(),
        }
    }
}

/// Disjoint blocks of some matrices and a number for each of their elements. As [`Gradients`] of a pass they add up the
/// gradients of these blocks; no other product is made, and the way back ends at the lowest layer that has one.
#[derive(Clone, Debug)]
pub struct BlockGradients {
    blocks: BTreeMap<Param, Vec<(Block, Array2<f32>)>>,
    /// Adapters whose factors are among the blocks.
    adapters: BTreeMap<LinearAt, Arc<Adapted>>,
    lowest: usize,
    tied: bool,
    /// The first virtual token.
    vocab: usize,
    /// Bytes of the largest tape so far.
    tape: usize,
}

impl BlockGradients {
    /// Zeros for blocks of the model's tensors (or of adapters, which `with_adapters` names).
    pub fn zeros(model: &Model, blocks: &BTreeMap<Param, Vec<Block>>) -> BlockGradients {
        let zeros = |block: &Block| {
            let shape = (block.rows.len(), block.cols.len());
            (block.clone(), Array2::zeros(shape))
        };
        let trained = blocks.iter().filter(|(_, blocks)| !blocks.is_empty());
        let lowest = trained.clone().map(|(param, _)| param.depth(model)).min();
        let of_param =
            |(param, blocks): (&Param, &Vec<Block>)| (*param, blocks.iter().map(zeros).collect());
        BlockGradients {
            blocks: trained.map(of_param).collect(),
            adapters: BTreeMap::new(),
            lowest: lowest.unwrap_or(usize::MAX),
            tied: model.spec().tied,
            vocab: model.spec().vocab_size,
            tape: 0,
        }
    }

    /// With the adapters as they are in this pass.
    pub(super) fn with_adapters(&mut self, adapters: &BTreeMap<LinearAt, Arc<Adapted>>) {
        self.adapters.clone_from(adapters);
    }

    /// The blocks of a matrix and their numbers.
    pub fn get(&self, param: Param) -> &[(Block, Array2<f32>)] {
        self.blocks.get(&param).map_or(&[], Vec::as_slice)
    }

    pub(super) fn get_mut(&mut self, param: Param) -> &mut [(Block, Array2<f32>)] {
        self.blocks
            .get_mut(&param)
            .map_or(&mut [], Vec::as_mut_slice)
    }

    /// All matrices that have blocks.
    pub fn params(&self) -> impl Iterator<Item = Param> + '_ {
        self.blocks.keys().copied()
    }

    /// Bytes of the largest tape that a pass has had.
    pub(super) fn tape_bytes(&self) -> usize {
        self.tape
    }

    /// How many numbers there are.
    pub fn count(&self) -> usize {
        self.all().map(|(_, _, values)| values.len()).sum()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (Param, &Block, &Array2<f32>)> {
        let of_param = |(param, blocks): (&Param, _)| (*param, blocks);
        let each = self.blocks.iter().map(of_param);
        each.flat_map(|(param, blocks): (Param, &Vec<(Block, Array2<f32>)>)| {
            blocks.iter().map(move |(b, g)| (param, b, g))
        })
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Array2<f32>> {
        self.blocks.values_mut().flatten().map(|(_, values)| values)
    }

    pub(super) fn fill(&mut self, value: f32) {
        self.all_mut().for_each(|values| values.fill(value));
    }

    pub(super) fn scale(&mut self, factor: f32) {
        self.all_mut()
            .for_each(|values| values.par_mapv_inplace(|v| factor * v));
    }

    /// Euclidean norm over all blocks. It does not depend on the number of threads.
    pub(super) fn norm(&self) -> f64 {
        let square = |x: &f32| f64::from(*x).powi(2);
        let of_row = |row: ArrayView1<'_, f32>| row.iter().map(square).sum::<f64>();
        let of_block = |values: &Array2<f32>| {
            let rows: Vec<f64> = values
                .axis_iter(Axis(0))
                .into_par_iter()
                .map(of_row)
                .collect();
            rows.iter().sum::<f64>()
        };
        self.all().map(|(_, _, g)| of_block(g)).sum::<f64>().sqrt()
    }

    /// Adds `values` to the row `row` of a matrix, where it has blocks.
    fn add_row(&mut self, param: Param, row: usize, values: ArrayView1<'_, f32>) {
        for (block, sum) in self.get_mut(param) {
            if block.rows.contains(&row) {
                let mut into = sum.row_mut(row - block.rows.start);
                into += &values.slice(s![block.cols.clone()]);
            }
        }
    }

    /// Adds `dy^T x` to the blocks of a matrix.
    fn add_product(&mut self, param: Param, dy: ArrayView2<'_, f32>, x: ArrayView2<'_, f32>) {
        self.get_mut(param).par_iter_mut().for_each(|(block, sum)| {
            let dy = dy.slice(s![.., block.rows.clone()]);
            let x = x.slice(s![.., block.cols.clone()]);
            add_product(dy, x, sum.view_mut());
        });
    }
}

impl Gradients for BlockGradients {
    fn linear(&mut self, at: LinearAt, dy: ArrayView2<'_, f32>, x: ArrayView2<'_, f32>) {
        self.add_product(Param::Tensor(TensorAt::Weight(at)), dy, x);
        let bias = Param::Tensor(TensorAt::Bias(at));
        if self.blocks.contains_key(&bias) {
            self.add_row(bias, 0, dy.sum_axis(Axis(0)).view());
        }
        if let Some(adapted) = self.adapters.get(&at).cloned() {
            let gradients = adapted.gradients(dy, x);
            let params = [Param::LoraA(at), Param::LoraB(at), Param::Magnitude(at)];
            for (param, more) in params.into_iter().zip(gradients) {
                for ((_, sum), more) in self.get_mut(param).iter_mut().zip(more) {
                    *sum += &more;
                }
            }
        }
    }

    fn keep(&self, at: LinearAt) -> Keep {
        if self.adapters.contains_key(&at) {
            return Keep::All;
        }
        let weight = self.get(Param::Tensor(TensorAt::Weight(at)));
        let bias = self.get(Param::Tensor(TensorAt::Bias(at)));
        if weight.is_empty() && bias.is_empty() {
            return Keep::Nothing;
        }
        Keep::Columns(union(weight.iter().map(|(block, _)| block.cols.clone())))
    }

    fn tape(&mut self, bytes: usize) {
        self.tape = self.tape.max(bytes);
    }

    fn head(&mut self, dy: ArrayView2<'_, f32>, x: ArrayView2<'_, f32>) {
        let head = match self.tied {
            true => TensorAt::Embedding,
            false => TensorAt::Head,
        };
        self.add_product(Param::Tensor(head), dy, x);
    }

    fn norm(&mut self, at: Site, gradient: ArrayView1<'_, f32>) {
        let tensor = match at {
            Site::AttnIn(l) => TensorAt::AttnNorm(l),
            Site::MlpIn(l) => TensorAt::MlpNorm(l),
            Site::FinalNorm => TensorAt::FinalNorm,
            _ => return,
        };
        self.add_row(Param::Tensor(tensor), 0, gradient);
    }

    fn embedding(&mut self, tokens: &[u32], gradient: ArrayView2<'_, f32>) {
        let embedding = Param::Tensor(TensorAt::Embedding);
        for (&token, row) in tokens.iter().zip(gradient.rows()) {
            let token = token as usize;
            match token.checked_sub(self.vocab) {
                None => self.add_row(embedding, token, row),
                Some(virtual_token) => self.add_row(Param::Prompt, virtual_token, row),
            }
        }
    }

    fn lowest_layer(&self) -> usize {
        self.lowest
    }
}

/// The ranges joined where they touch or overlap, in order.
fn union(ranges: impl Iterator<Item = Range<usize>>) -> Vec<Range<usize>> {
    let mut ranges: Vec<_> = ranges.collect();
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}
