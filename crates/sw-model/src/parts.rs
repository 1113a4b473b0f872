//! What a way back through the model reads beside the linear maps' matrices.

use ndarray::ArrayViewMut2;
use sw_tensor::{Mat, RopeTurns};

use crate::{
    block::apply_each,
    edit::LinearAt,
    error::Result,
    forward::{Batch, Prefix},
    model::Model,
    product::{Input, Product},
    site::Site,
    weights::{Affine, NormWeight, no_such_tensor},
};

impl Model {
    /// The token embedding, `[vocab, hidden]`.
    pub fn embedding(&self) -> &Mat {
        &self.weights().embed
    }

    /// The output head, `[vocab, hidden]`; where the family ties them, the embedding.
    pub fn head(&self) -> &Mat {
        &self.weights().head
    }

    /// The bias of a linear map, one number per output channel; `None` where the map has none.
    pub fn bias(&self, at: LinearAt) -> Option<&[f32]> {
        let layer = self.weights().layers.get(at.layer)?;
        let affine: &Affine = layer.linear(at.expert, at.linear)?;
        affine.bias.as_deref()
    }

    /// What stands in the place of a linear map's matrix, where something does.
    pub fn product(&self, at: LinearAt) -> Option<&dyn Product> {
        let layer = self.weights().layers.get(at.layer)?;
        layer.linear(at.expert, at.linear)?.w.product()
    }

    /// Linear maps that read the same rows, as the forward pass computes them: `y = x * w^T + bias`, `[tokens, in]` to
    /// `[tokens, out]`.
    ///
    /// # Errors
    /// A map that the model does not have.
    ///
    /// # Panics
    /// When rows have another shape than the map.
    pub fn apply<const N: usize>(
        &self,
        x: &Input<'_>,
        maps: [(LinearAt, ArrayViewMut2<'_, f32>); N],
    ) -> Result<()> {
        for (at, _) in &maps {
            let layer = self.weights().layers.get(at.layer);
            let map = layer.and_then(|layer| layer.linear(at.expert, at.linear));
            map.ok_or_else(|| no_such_tensor(at))?;
        }
        let maps =
            maps.map(|(at, y)| (&self.weights().layers[at.layer][(at.expert, at.linear)], y));
        apply_each(x, maps);
        Ok(())
    }

    /// The weight of the norm whose output is read at this site ([`Site::AttnIn`], [`Site::MlpIn`] or [`Site::FinalNorm`]),
    /// one number per channel, the family's offset added; `None` where the model has no weight there.
    pub fn norm_weight(&self, at: Site) -> Option<&[f32]> {
        let layer = |l: usize| self.weights().layers.get(l);
        let norm: &NormWeight = match at {
            Site::AttnIn(l) => layer(l)?.norms.attn_in.as_ref()?,
            Site::MlpIn(l) => layer(l)?.norms.mlp_in.as_ref()?,
            Site::FinalNorm => &self.weights().final_norm,
            _ => return None,
        };
        norm.weight.as_deref()
    }

    /// For each rotary embedding of [`Spec::ropes`], how it turns the rows of sequences of these lengths, one after the
    /// other, each from position 0.
    ///
    /// # Errors
    /// An empty sequence, or one that is longer than the model's learned positions.
    ///
    /// [`Spec::ropes`]: crate::Spec::ropes
    pub fn rope_turns(&self, lens: &[usize]) -> Result<Vec<RopeTurns>> {
        Ok(Batch::new(self, lens.iter().map(|&n| (n, Prefix::Nothing)))?.turns)
    }
}
