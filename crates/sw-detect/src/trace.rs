//! The super activation followed through the residual stream (Figure 4 of the paper), and models without the weights.

use serde::{Deserialize, Serialize};
use sw_model::{Hook, Model, Seq, Site, SiteView, WeightEdit};

use crate::{
    error::{Error, Result},
    prompt::at_least,
    report::{Candidate, Peak},
    scan::{channel_maxima, peak},
};

/// One layer of a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TracePoint {
    /// Layer, from 0.
    pub layer: usize,
    /// The residual stream leaving the layer, at the traced token and channel.
    pub value: f32,
    /// What the layer's `down_proj` wrote there.
    pub down_out: f32,
    /// The largest |value| of the residual stream leaving the layer.
    pub largest: Peak,
}

/// One token and channel of the residual stream, layer by layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// The token, from 0.
    pub token: usize,
    /// The channel, from 0.
    pub channel: usize,
    /// The embedding there.
    pub embed: f32,
    /// Layer by layer.
    pub layers: Vec<TracePoint>,
}

/// Follows one token and channel through the residual stream; for a super weight, its token and row.
///
/// # Errors
/// A token or channel that is not there, and whatever stops a forward pass.
pub fn trace(model: &Model, tokens: &[u32], token: usize, channel: usize) -> Result<Trace> {
    let channels = model.spec().hidden_size;
    at_least(token + 1, tokens, || "the traced prompt".into())?;
    if channel >= channels {
        return Err(Error::Channel { channel, channels });
    }
    let mut trace = Trace {
        token,
        channel,
        embed: 0.0,
        layers: vec![TracePoint::default(); model.spec().layers.len()],
    };
    let pass = model.for_few_tokens();
    pass.forward(&[Seq::from(tokens)], &mut trace)?;
    Ok(trace)
}

impl Hook for Trace {
    fn wants(&self, site: Site) -> bool {
        matches!(site, Site::Embed | Site::DownOut(_) | Site::ResidPost(_))
    }

    fn visit(&mut self, site: Site, view: SiteView<'_>) {
        let here = view.data[[self.token, self.channel]];
        match site {
            Site::Embed => self.embed = here,
            Site::DownOut(l) => self.layers[l].down_out = here,
            Site::ResidPost(l) => {
                let data = view.data.view();
                let point = &mut self.layers[l];
                (point.layer, point.value) = (l, here);
                point.largest = peak(&channel_maxima(data), data, None);
            }
            _ => {}
        }
    }
}

/// The model with these weights set to zero; shares everything else.
///
/// # Errors
/// When a coordinate lies outside of the model.
pub fn pruned(model: &Model, candidates: &[Candidate]) -> Result<Model> {
    let edits: Vec<_> = candidates
        .iter()
        .map(|c| WeightEdit::prune(c.coord()))
        .collect();
    Ok(model.edited(&edits)?)
}
