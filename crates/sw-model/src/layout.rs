//! Checkpoints whose tensors lie otherwise than in published ones: they get the published names before anything reads
//! them, and stay mapped.

use sw_tensor::Checkpoint;

use crate::{
    edit::{Linear, LinearAt},
    error::Result,
    spec::{Names, Spec},
};

/// Most experts that one tensor may hold; the largest known mixtures have some hundreds.
const MOST_EXPERTS: usize = 1 << 16;

impl Names {
    /// Base and head in this checkpoint: other programs leave the base out, and transformers 5 may write the names that its
    /// modules have.
    pub(crate) fn fit(&mut self, checkpoint: &Checkpoint) {
        let has = |name: &str| checkpoint.info(name).is_some();
        let bases = [self.base, self.modules[0], ""];
        let stands = |base: &&str| has(&format!("{base}{}", self.embed));
        self.base = bases.into_iter().find(stands).unwrap_or(self.base);
        if !has(self.head) && has(self.modules[1]) {
            self.head = self.modules[1];
        }
    }
}

/// How many experts a layer may claim to have: a bound from what is stored, one tensor for each or one for all.
pub(crate) fn most_experts(checkpoint: &Checkpoint) -> usize {
    let all_in_one = |name: &str| {
        let info = checkpoint.info(name)?;
        let &[experts, _, _] = &info.shape[..] else {
            return None;
        };
        Some(experts.min(info.len).min(MOST_EXPERTS))
    };
    let most = checkpoint.names().filter_map(all_in_one).max();
    most.unwrap_or(0).max(checkpoint.names().count())
}

/// Gives routers and experts that lie as transformers 5 holds them in memory (all experts of a layer in two tensors, gate
/// above up) the names that published checkpoints have.
///
/// # Errors
/// Experts of another shape than the config says.
pub(crate) fn publish(spec: &Spec, checkpoint: &mut Checkpoint) -> Result<()> {
    let mixtures = spec.layers.iter().enumerate();
    for (layer, experts) in mixtures.filter_map(|(l, layer)| Some((l, layer.experts?))) {
        let (hidden, inner) = (spec.hidden_size, experts.intermediate_size);
        let prefix = spec.layer_prefix(layer);
        let router = format!("{prefix}{}", spec.names.router);
        checkpoint.rename(&format!("{prefix}mlp.gate.weight"), &router);
        let part = |expert, linear| {
            let at = LinearAt {
                layer,
                expert: Some(expert),
                linear,
            };
            (spec.tensor_name_at(at).unwrap_or_default(), spec.shape(at))
        };
        for (name, shape, linears) in [
            (
                "gate_up_proj",
                [2 * inner, hidden],
                &[Linear::Gate, Linear::Up][..],
            ),
            ("down_proj", [hidden, inner], &[Linear::Down]),
        ] {
            let name = format!("{prefix}mlp.experts.{name}");
            if checkpoint.info(&name).is_none() {
                continue;
            }
            let parts = (0..experts.count).flat_map(|e| linears.iter().map(move |&l| part(e, l)));
            checkpoint.split(&name, &[experts.count, shape[0], shape[1]], parts)?;
        }
    }
    Ok(())
}

/// Separates head and embedding where the config ties them and the checkpoint holds two different ones, as transformers'
/// `from_pretrained` does; says so in one line.
pub(crate) fn untie(spec: &mut Spec, checkpoint: &Checkpoint) -> Option<String> {
    let (embed, head) = (
        format!("{}{}", spec.names.base, spec.names.embed),
        spec.names.head,
    );
    let (Some(a), Some(b)) = (checkpoint.info(&embed), checkpoint.info(head)) else {
        return None;
    };
    let is_same = || {
        a.shape == b.shape
            && a.dtype == b.dtype
            && checkpoint.bytes(&embed) == checkpoint.bytes(head)
    };
    if !spec.tied || is_same() {
        return None;
    }
    spec.tied = false;
    Some(format!(
        "{}: the config ties {head} to {embed}, but they hold different values; both are used as they are, as transformers does (set tie_word_embeddings to false)",
        checkpoint.dir().display()
    ))
}
