//! Which weights are trained, and their gradients: blocks of matrices, from a whole model down to one weight.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, s};

use crate::dense;
use crate::params::{Params, Shape, Tensor};

/// A rectangle of a matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Output channels.
    pub rows: Range<usize>,
    /// Input channels.
    pub cols: Range<usize>,
}

/// The weights that are trained. Backpropagation computes no other product and goes no deeper than it must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Per tensor (in the order of [`Params`]) disjoint blocks.
    blocks: Vec<Vec<Block>>,
    lowest: Option<usize>,
    tied: bool,
}

impl Selection {
    /// Every weight.
    pub fn all(shape: &Shape) -> Selection {
        let mut selection = Selection::none(shape);
        for tensor in Tensor::all(shape) {
            let (rows, cols) = tensor.dim(shape);
            selection = selection.with(
                shape,
                tensor,
                Block {
                    rows: 0..rows,
                    cols: 0..cols,
                },
            );
        }
        selection
    }

    /// No weight; add blocks by [`Selection::with`].
    pub fn none(shape: &Shape) -> Selection {
        let blocks = vec![Vec::new(); Tensor::all(shape).len()];
        Selection {
            blocks,
            lowest: None,
            tied: shape.tied,
        }
    }

    /// Adds a block, which must lie inside the matrix and overlap no other.
    pub fn with(mut self, shape: &Shape, tensor: Tensor, block: Block) -> Selection {
        let depth = match tensor {
            Tensor::Embed => 0,
            Tensor::Head if self.tied => 0,
            Tensor::Block(l, _)
            | Tensor::Router(l)
            | Tensor::Expert(l, ..)
            | Tensor::Mix(l)
            | Tensor::MixBias(l) => l + 1,
            Tensor::Norm | Tensor::Head => shape.layers + 1,
        };
        self.lowest = Some(self.lowest.map_or(depth, |lowest| lowest.min(depth)));
        self.blocks[tensor.index(shape)].push(block);
        self
    }

    /// The lowest depth that has a trained weight: 0 the embedding, `l + 1` the block `l`, then what follows the blocks.
    pub(crate) fn lowest(&self) -> usize {
        self.lowest.unwrap_or(usize::MAX)
    }
}

/// Gradients of the selected blocks.
#[derive(Clone, Debug)]
pub struct Gradient {
    shape: Shape,
    blocks: Vec<Vec<(Block, Array2<f32>)>>,
}

impl Gradient {
    /// Zeros for every selected block.
    pub fn zeros(shape: &Shape, selection: &Selection) -> Gradient {
        let zeros = |block: &Block| {
            (
                block.clone(),
                Array2::zeros((block.rows.len(), block.cols.len())),
            )
        };
        let blocks = selection
            .blocks
            .iter()
            .map(|blocks| blocks.iter().map(zeros).collect());
        Gradient {
            shape: shape.clone(),
            blocks: blocks.collect(),
        }
    }

    /// The blocks of one matrix.
    pub fn get(&self, tensor: Tensor) -> &[(Block, Array2<f32>)] {
        &self.blocks[tensor.index(&self.shape)]
    }

    /// The blocks of one matrix, to change.
    pub fn get_mut(&mut self, tensor: Tensor) -> &mut [(Block, Array2<f32>)] {
        &mut self.blocks[tensor.index(&self.shape)]
    }

    /// Adds `dy^T * x` (`[tokens, out]`, `[tokens, in]`) to the selected blocks of `tensor`, and computes no more of it.
    pub(crate) fn add_product(&mut self, tensor: Tensor, dy: ArrayView2<f32>, x: ArrayView2<f32>) {
        for (block, dw) in self.get_mut(tensor) {
            let dy = dy.slice(s![.., block.rows.clone()]);
            let x = x.slice(s![.., block.cols.clone()]);
            dense::to_weight(dy, x, &mut dw.view_mut());
        }
    }

    /// Adds `values` to the row `row` of `tensor`, where selected.
    pub(crate) fn add_row(&mut self, tensor: Tensor, row: usize, values: &[f32]) {
        for (block, dw) in self.get_mut(tensor) {
            if block.rows.contains(&row) {
                let into = dw.row_mut(row - block.rows.start);
                for (d, v) in into.into_iter().zip(&values[block.cols.clone()]) {
                    *d += v;
                }
            }
        }
    }

    /// Adds another gradient of the same selection.
    pub fn add(&mut self, other: &Gradient) {
        for (mine, theirs) in self
            .blocks
            .iter_mut()
            .flatten()
            .zip(other.blocks.iter().flatten())
        {
            mine.1 += &theirs.1;
        }
    }

    /// Euclidean norm over all blocks.
    pub fn norm(&self) -> f64 {
        let square = |x: &f32| f64::from(*x).powi(2);
        let sums = self
            .blocks
            .iter()
            .flatten()
            .map(|(_, g)| g.iter().map(square).sum::<f64>());
        sums.sum::<f64>().sqrt()
    }

    /// Multiplies everything by `factor`.
    pub fn scale(&mut self, factor: f32) {
        for (_, g) in self.blocks.iter_mut().flatten() {
            *g *= factor;
        }
    }

    /// All blocks with their tensors.
    pub fn iter(&self) -> impl Iterator<Item = (Tensor, &Block, &Array2<f32>)> {
        let tensors = Tensor::all(&self.shape).into_iter();
        tensors
            .zip(&self.blocks)
            .flat_map(|(t, blocks)| blocks.iter().map(move |(b, g)| (t, b, g)))
    }

    /// The part of `params` that a block covers.
    pub(crate) fn slice<'a>(
        params: &'a mut Params,
        tensor: Tensor,
        block: &Block,
    ) -> ndarray::ArrayViewMut2<'a, f32> {
        params
            .get_mut(tensor)
            .slice_mut(s![block.rows.clone(), block.cols.clone()])
    }
}
