//! Initial weights.

use crate::draw::Draw;
use crate::error::Result;
use crate::params::{Params, Part, Shape, Tensor};

impl Params {
    /// Random weights: normal with deviation `1 / sqrt(input channels)`, for `o_proj` and `down_proj` less by `1 / sqrt(2 layers)`,
    /// for the embedding `embedding`; norms at one, biases at zero.
    ///
    /// A matrix has a stream of `seed` of its own, so that two models have the same weights where they have the same matrix,
    /// whatever experts the others have. [`Experts::copied`](crate::Experts::copied) experts begin as the MLP that would stand in their place.
    ///
    /// # Errors
    /// If the sizes do not fit together.
    pub fn random(shape: &Shape, seed: u64, embedding: f64) -> Result<Params> {
        let mut params = Params::blank(shape)?;
        let depth = 1.0 / (2.0 * shape.layers as f64).sqrt();
        for tensor in Tensor::all(shape).into_iter().filter(|t| !t.is_vector()) {
            let deviation = 1.0 / (tensor.dim(shape).1 as f64).sqrt();
            let deviation = match tensor {
                Tensor::Embed => embedding,
                Tensor::Block(_, Part::O | Part::Down) | Tensor::Expert(_, _, Part::Down) => {
                    deviation * depth
                }
                _ => deviation,
            };
            let mut draw = Draw::new(seed, stream(tensor, shape));
            params
                .get_mut(tensor)
                .mapv_inplace(|_| (deviation * draw.normal()) as f32);
        }
        Ok(params)
    }
}

/// The stream that a matrix is drawn from.
fn stream(tensor: Tensor, shape: &Shape) -> u64 {
    let code = |kind: u64, l: usize, e: usize, part: usize| {
        kind << 56 | (l as u64) << 32 | (e as u64) << 8 | part as u64
    };
    match tensor {
        Tensor::Embed => code(0, 0, 0, 0),
        Tensor::Head => code(0, 0, 0, 1),
        Tensor::Norm => code(0, 0, 0, 2),
        Tensor::Block(l, part) => code(1, l, 0, part as usize),
        Tensor::Expert(l, _, part) if shape.mixture(l).is_some_and(|e| e.copied) => {
            code(1, l, 0, part as usize)
        }
        Tensor::Expert(l, e, part) => code(2, l, e, part as usize),
        Tensor::Router(l) => code(3, l, 0, 0),
        Tensor::Mix(l) => code(4, l, 0, 0),
        Tensor::MixBias(l) => code(4, l, 0, 1),
    }
}
