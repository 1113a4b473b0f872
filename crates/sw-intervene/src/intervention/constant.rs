//! A super activation as a constant: what its weight would have computed, written down.

use serde::{Deserialize, Serialize};
use sw_model::{Hook, Model, Site, SiteView};

use super::Refused;

/// A constant that is added to one element of a layer's `down_proj` output in every sequence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Constant {
    /// Layer, from 0.
    pub layer: usize,
    /// Absolute position of the token, from 0; sequences that do not reach it stay as they are.
    pub position: usize,
    /// Output channel, from 0.
    pub channel: usize,
    /// What is added.
    pub value: f32,
}

/// Adds constants as the outputs pass by; each token's result depends on that token and its position alone.
#[derive(Clone)]
pub(super) struct Add(Vec<Constant>);

impl Add {
    pub(super) fn new(model: &Model, constants: &[Constant]) -> Result<Self, Refused> {
        let (layers, channels) = (model.spec().layers.len(), model.spec().hidden_size);
        for c in constants {
            if c.layer >= layers || c.channel >= channels {
                return Err(Refused::Here(format!(
                    "layer {}, channel {}: the model has {layers} layers of {channels} channels",
                    c.layer, c.channel
                )));
            }
            if !c.value.is_finite() {
                return Err(Refused::Here(format!("value {} is not finite", c.value)));
            }
        }
        Ok(Self(constants.to_vec()))
    }
}

impl Hook for Add {
    fn wants(&self, site: Site) -> bool {
        matches!(site, Site::DownOut(l) if self.0.iter().any(|c| c.layer == l))
    }

    fn visit(&mut self, site: Site, mut view: SiteView<'_>) {
        let Site::DownOut(layer) = site else { return };
        for c in self.0.iter().filter(|c| c.layer == layer) {
            for seq in view.seqs {
                let row = c
                    .position
                    .checked_sub(seq.start)
                    .map(|p| seq.rows.start + p);
                if let Some(row) = row.filter(|row| seq.rows.contains(row)) {
                    view.data[[row, c.channel]] += c.value;
                }
            }
        }
    }
}
