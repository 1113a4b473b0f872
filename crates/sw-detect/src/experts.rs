//! Super experts: the few experts of a mixture whose outputs make its massive activations.

use ndarray::ArrayView2;
use serde::{Deserialize, Serialize};
use sw_model::{Hook, Model, Seq, Site, SiteView};

use crate::{
    error::{Error, Result},
    prompt::some,
};

/// When an expert is a super expert (the rule of "Super Experts Profiling", arXiv 2507.23279).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ExpertOptions {
    /// Its largest |output| exceeds this percentile of all experts' largest.
    pub percentile: f64,
    /// And this share of the largest of all.
    pub share_of_largest: f32,
    /// And it sits in this first part of the layers.
    pub first_layers: f64,
}

impl Default for ExpertOptions {
    fn default() -> Self {
        Self {
            percentile: 99.5,
            share_of_largest: 0.1,
            first_layers: 0.75,
        }
    }
}

/// The largest output of one expert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExpertOutput {
    /// Layer, from 0.
    pub layer: usize,
    /// Expert, from 0.
    pub expert: usize,
    /// The largest value by magnitude, before the router's weight.
    pub value: f32,
    /// At which token.
    pub token: usize,
    /// In which output channel.
    pub channel: usize,
    /// Whether the rule calls it a super expert.
    pub super_expert: bool,
}

/// The largest output of every expert that saw a token, super experts first, then by magnitude.
///
/// # Errors
/// [`Error::NoExperts`] for a model without experts, no tokens, and whatever stops a forward pass.
pub fn super_experts(
    model: &Model,
    tokens: &[u32],
    options: &ExpertOptions,
) -> Result<Vec<ExpertOutput>> {
    some(tokens)?;
    let mut outputs = Outputs(Vec::new());
    let pass = model.for_few_tokens();
    pass.forward(&[Seq::from(tokens)], &mut outputs)?;
    let mut outputs = outputs.0;
    if outputs.is_empty() {
        let family = model.spec().family.to_string();
        return Err(Error::NoExperts { family });
    }
    judge(&mut outputs, model.spec().layers.len(), options);
    Ok(outputs)
}

fn judge(outputs: &mut [ExpertOutput], layers: usize, options: &ExpertOptions) {
    outputs.sort_by(|a, b| b.value.abs().total_cmp(&a.value.abs()));
    let sizes: Vec<f32> = outputs.iter().rev().map(|o| o.value.abs()).collect();
    let limit = percentile(&sizes, options.percentile)
        .max(options.share_of_largest * sizes[sizes.len() - 1]);
    for o in outputs.iter_mut() {
        o.super_expert =
            o.value.abs() > limit && (o.layer as f64) < options.first_layers * layers as f64;
    }
    outputs.sort_by_key(|o| !o.super_expert); // stable
}

/// The percentile of ascending values, interpolated linearly between the two nearest.
fn percentile(ascending: &[f32], percent: f64) -> f32 {
    let at = percent.clamp(0.0, 100.0) / 100.0 * (ascending.len() - 1) as f64;
    let (low, high) = (
        ascending[at.floor() as usize],
        ascending[at.ceil() as usize],
    );
    low + (high - low) * at.fract() as f32
}

struct Outputs(Vec<ExpertOutput>);

impl Hook for Outputs {
    fn wants(&self, site: Site) -> bool {
        matches!(site, Site::ExpertDownOut(..))
    }

    fn visit(&mut self, site: Site, view: SiteView<'_>) {
        let Site::ExpertDownOut(layer, expert) = site else {
            return;
        };
        let Some((t, channel)) = largest(view.data.view()) else {
            return;
        };
        self.0.push(ExpertOutput {
            layer,
            expert,
            value: view.data[[t, channel]],
            token: view.tokens.map_or(t, |tokens| tokens[t]),
            channel,
            super_expert: false,
        });
    }
}

fn largest(x: ArrayView2<'_, f32>) -> Option<(usize, usize)> {
    let all = x.indexed_iter();
    all.max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()))
        .map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_needs_percentile_share_and_layer() {
        let output = |layer, expert, value| ExpertOutput {
            layer,
            expert,
            value,
            token: 0,
            channel: 0,
            super_expert: false,
        };
        // 1000 ordinary experts in 8 layers; five large ones, one of them late, one below a tenth of the largest.
        let mut outputs: Vec<_> = (0..1000).map(|i| output(i % 8, i, 1.0)).collect();
        outputs.extend([
            output(1, 1001, -900.0),
            output(5, 1002, 200.0),
            output(6, 1003, 500.0),
        ]);
        outputs.extend([output(2, 1004, 89.0), output(0, 1005, 91.0)]);
        judge(&mut outputs, 8, &ExpertOptions::default());
        let found: Vec<_> = outputs
            .iter()
            .filter(|o| o.super_expert)
            .map(|o| o.expert)
            .collect();
        assert_eq!(found, [1001, 1002, 1005]);
        assert!(outputs[..3].iter().all(|o| o.super_expert));
    }

    #[test]
    fn percentiles_interpolate() {
        assert_eq!(percentile(&[1.0, 2.0, 4.0], 75.0), 3.0);
        assert_eq!(percentile(&[1.0, 2.0, 4.0], 100.0), 4.0);
        assert_eq!(percentile(&[5.0], 99.5), 5.0);
    }
}
