//! The forward pass. It exists once, for all families; shapes stand beside each step.

use std::{ops::Range, sync::Arc};

use ndarray::{Array2, Axis, Slice};
use sw_tensor::{Arithmetic, KeySpan, RopeTurns, all_finite};

use crate::{
    block::{self, Scratch, visit},
    error::{Error, Result},
    experts::experts,
    kv::Kv,
    model::Model,
    norm::{norm_into, norm_sum_into},
    site::{Hook, SeqRange, Site},
    spec::{Norm, Spec},
    weights::{Layer, NormWeight},
};

/// One sequence of a batch.
#[derive(Clone, Copy)]
pub struct Seq<'a> {
    /// The tokens to run; at least one.
    pub tokens: &'a [u32],
    /// What comes before them.
    pub prefix: Prefix<'a>,
    /// The first of the tokens whose row is returned; the last one's is in any case. What the last layer does after attention is
    /// not computed for those before it, unless a hook looks at it or one of its matrices is a [`Product`](crate::Product): these
    /// may need whole sequences, and see them.
    pub wanted_from: usize,
}

impl<'a> Seq<'a> {
    /// The sequence comes after `prefix` instead.
    #[must_use]
    pub fn after(self, prefix: impl Into<Prefix<'a>>) -> Self {
        let prefix = prefix.into();
        Self { prefix, ..self }
    }

    /// Only rows from this token on are wanted; see [`wanted_from`](Self::wanted_from).
    #[must_use]
    pub fn wanting_from(self, wanted_from: usize) -> Self {
        Self {
            wanted_from,
            ..self
        }
    }

    /// The tokens whose rows are wanted.
    pub(crate) fn wanted(&self) -> Range<usize> {
        let last = self.tokens.len().saturating_sub(1);
        self.wanted_from.min(last)..self.tokens.len()
    }
}

/// What comes before the tokens of a sequence.
#[derive(Clone, Copy, Default)]
pub enum Prefix<'a> {
    /// Nothing: they begin at position 0.
    #[default]
    Nothing,
    /// Tokens whose keys and values are known.
    Known(&'a Kv),
    /// The sequence of the same batch with this index, which is smaller than one's own, and what comes before that one.
    /// So several sequences share a beginning that is computed with them, once.
    Seq(usize),
}

impl<'a> From<&'a Kv> for Prefix<'a> {
    fn from(known: &'a Kv) -> Self {
        Prefix::Known(known)
    }
}

impl<'a> From<Option<&'a Kv>> for Prefix<'a> {
    fn from(known: Option<&'a Kv>) -> Self {
        known.map_or(Prefix::Nothing, Prefix::Known)
    }
}

impl<'a> From<&'a [u32]> for Seq<'a> {
    fn from(tokens: &'a [u32]) -> Self {
        Self {
            tokens,
            prefix: Prefix::Nothing,
            wanted_from: 0,
        }
    }
}

/// The layout of a ragged batch: sequences one after the other, without padding.
pub(crate) struct Batch<'a> {
    pub(crate) seqs: Vec<SeqRange>,
    pub(crate) prefixes: Vec<Prefix<'a>>,
    /// Absolute position of each row.
    pub(crate) positions: Vec<u32>,
    /// Rope variant of each sequence.
    pub(crate) variants: Vec<u64>,
    /// For each rotary embedding, how it turns the rows.
    pub(crate) turns: Vec<RopeTurns>,
    /// How products are computed.
    pub(crate) arithmetic: Arithmetic,
    /// The rows that are wanted of the last layer, where not all of them are.
    wanted: Option<Vec<usize>>,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(
        model: &Model,
        seqs: impl IntoIterator<Item = (usize, Prefix<'a>)>,
    ) -> Result<Self> {
        let mut batch = Batch {
            wanted: None,
            seqs: Vec::new(),
            prefixes: Vec::new(),
            positions: Vec::new(),
            variants: Vec::new(),
            turns: Vec::new(),
            arithmetic: model.arithmetic(),
        };
        let max_positions = model.spec().max_positions;
        for (tokens, prefix) in seqs {
            if tokens == 0 {
                return Err(Error::EmptySequence);
            }
            let start = match prefix {
                Prefix::Nothing => 0,
                Prefix::Known(kv) => kv.len(),
                Prefix::Seq(i) => batch.seqs[i].end(),
            };
            let total = start + tokens;
            let variant = model.ropes().variant(total);
            if total > max_positions && model.weights().positions.is_some() {
                return Err(Error::TooLong {
                    tokens: total,
                    max_positions,
                });
            }
            let of_prefix = match prefix {
                Prefix::Nothing => Ok(variant),
                Prefix::Known(kv) if kv.model() != model.id() => {
                    Err("it was computed by another model".to_owned())
                }
                Prefix::Known(kv) => Ok(kv.rope()),
                Prefix::Seq(i) => Ok(batch.variants[i]),
            };
            let of_prefix = of_prefix.and_then(|of_prefix| match of_prefix == variant {
                true => Ok(()),
                false => Err(format!(
                    "with {total} tokens in all, rotary frequencies differ from the prefix's; run without a prefix"
                )),
            });
            of_prefix.map_err(|problem| Error::Prefix { problem })?;
            let first = batch.positions.len();
            batch.seqs.push(SeqRange {
                rows: first..first + tokens,
                start,
            });
            batch.prefixes.push(prefix);
            batch.positions.extend((start..total).map(|p| p as u32));
            batch.variants.push(variant);
        }
        if batch.seqs.is_empty() {
            return Err(Error::EmptySequence);
        }
        let of_seq = |(seq, &variant): (&SeqRange, &u64)| (variant, seq.rows.clone());
        let seqs = batch.seqs.iter().zip(&batch.variants).map(of_seq);
        let seqs = seqs.map(|(variant, rows)| (variant, &batch.positions[rows]));
        batch.turns = model.ropes().turns(seqs);
        Ok(batch)
    }

    /// A batch of sequences, which knows what rows of them are wanted.
    pub(crate) fn of_seqs(model: &Model, seqs: &[Seq<'a>]) -> Result<Self> {
        let mut batch = Self::new(model, seqs.iter().map(|s| (s.tokens.len(), s.prefix)))?;
        let wanted = batch.seqs.iter().zip(seqs).flat_map(|(range, seq)| {
            let of_batch = move |token| range.rows.start + token;
            seq.wanted().map(of_batch)
        });
        let wanted: Vec<usize> = wanted.collect();
        batch.wanted = (wanted.len() < batch.tokens()).then_some(wanted);
        Ok(batch)
    }

    /// The wanted rows and the batch of them alone, as far as what follows attention knows it; `None` where all rows are.
    fn narrowed(&self) -> Option<(&[usize], Batch<'static>)> {
        let wanted = self.wanted.as_deref()?;
        let place = |row| wanted.partition_point(|&wanted| wanted < row);
        let seqs = self.seqs.iter().map(|SeqRange { rows, start }| {
            let own = place(rows.start)..place(rows.end);
            let start = start + wanted.get(own.start).map_or(0, |first| first - rows.start);
            SeqRange { rows: own, start }
        });
        let batch = Batch {
            seqs: seqs.collect(),
            prefixes: Vec::new(),
            positions: wanted.iter().map(|&row| self.positions[row]).collect(),
            variants: Vec::new(),
            turns: Vec::new(),
            arithmetic: self.arithmetic,
            wanted: None,
        };
        Some((wanted, batch))
    }

    pub(crate) fn tokens(&self) -> usize {
        self.positions.len()
    }

    /// What comes before a sequence in a layer, first tokens first; `k` and `v` are those of this batch, `[tokens,
    /// kv_heads * head_dim]`.
    pub(crate) fn before<'s>(
        &'s self,
        seq: usize,
        layer: usize,
        [k, v]: [&'s Array2<f32>; 2],
    ) -> Vec<KeySpan<'s>> {
        match self.prefixes[seq] {
            Prefix::Nothing => Vec::new(),
            Prefix::Known(kv) => kv.spans(layer),
            Prefix::Seq(earlier) => {
                let rows = Slice::from(self.seqs[earlier].rows.clone());
                let mut spans = self.before(earlier, layer, [k, v]);
                spans.push(KeySpan {
                    k: k.slice_axis(Axis(0), rows),
                    v: v.slice_axis(Axis(0), rows),
                });
                spans
            }
        }
    }
}

/// The rotated keys and values of the first `rows` rows of a batch, each `[rows, kv_heads * head_dim]`, layer by layer.
pub(crate) struct Kept {
    pub(crate) rows: usize,
    pub(crate) layers: Vec<[Array2<f32>; 2]>,
}

/// Embeds the tokens of a batch: `[tokens, hidden]`, with the family's multiplier and learned positions.
pub(crate) fn embed<'a>(
    model: &Model,
    batch: &Batch<'_>,
    seqs: impl IntoIterator<Item = &'a [u32]>,
) -> Result<Array2<f32>> {
    let (spec, weights) = (model.spec(), model.weights());
    let mut x = Array2::zeros((batch.tokens(), spec.hidden_size));
    for (seq, tokens) in batch.seqs.iter().zip(seqs) {
        for (position, (&id, row)) in tokens.iter().zip(seq.rows.clone()).enumerate() {
            let mut row = x.row_mut(row);
            if let Some(virtual_token) = (id as usize).checked_sub(spec.vocab_size) {
                let prompt = weights.soft_prompt.as_ref();
                let prompt = prompt.filter(|prompt| virtual_token < prompt.nrows());
                let prompt = prompt.ok_or(Error::TokenId {
                    id,
                    position,
                    vocab_size: spec.vocab_size,
                })?;
                row.assign(&prompt.row(virtual_token));
                continue;
            }
            let row = row.as_slice_mut().expect("freshly made, row-major");
            weights.embed.row_into(id as usize, row);
        }
    }
    if let Some(scale) = spec.embed_scale {
        x *= scale;
    }
    if let Some(positions) = &weights.positions {
        let mut learned = vec![0.0; spec.hidden_size];
        for (mut row, &position) in x.rows_mut().into_iter().zip(&batch.positions) {
            positions.row_into(position as usize, &mut learned);
            row.iter_mut().zip(&learned).for_each(|(x, p)| *x += p);
        }
    }
    Ok(x)
}

/// Runs `layers` on the residual stream `x`, and the final norm after the last of the model; `[tokens, hidden]`, where the last layer
/// was run `[wanted tokens, hidden]`.
///
/// `keep` receives each layer's rotated keys and values, of as many first rows as it says.
pub(crate) fn run(
    model: &Model,
    batch: &Batch<'_>,
    x: Array2<f32>,
    layers: Range<usize>,
    hook: &mut dyn Hook,
    keep: Option<&mut Kept>,
) -> Result<Array2<f32>> {
    let mut s = model.take_scratch();
    s.reshape(model, batch.tokens());
    let rows = run_in(&mut s, model, batch, x, layers, hook, keep);
    model.keep_scratch(s);
    rows
}

fn run_in(
    s: &mut Scratch,
    model: &Model,
    batch: &Batch<'_>,
    mut x: Array2<f32>,
    run: Range<usize>,
    hook: &mut dyn Hook,
    mut keep: Option<&mut Kept>,
) -> Result<Array2<f32>> {
    let (spec, weights) = (model.spec(), model.weights());
    let (whole, mut batch, mut seqs) = (batch, batch, &batch.seqs);
    let layers = &weights.layers;
    let is_seen = || is_seen_after_attention(spec, layers, hook);
    let narrowed = batch.narrowed().filter(|_| !is_seen());
    // What stands before layer `l`, or at the end.
    let norm_before = |l: usize| match layers.get(l) {
        Some(layer) => layer.norms.attn_in.as_ref(),
        None => Some(&weights.final_norm),
    };
    // The stream that enters a layer after these is shown by the call that runs that one.
    let pre = |l: usize| (l < run.end).then_some(Site::ResidPre(l));
    let (from, reads_ahead) = (run.start, model.reads_ahead());
    if from == 0 {
        visit(hook, Site::Embed, &mut x, seqs);
    }
    if let Some(site) = pre(from) {
        visit(hook, site, &mut x, seqs);
    }
    norm_into(spec.norm, norm_before(from), &x, &mut s.normed);
    for (l, layer) in layers.iter().enumerate().take(run.end).skip(from) {
        // The disk reads the next layer while this one is computed.
        if let Some(next) = layers.get(l + 1).filter(|_| reads_ahead) {
            next.will_need();
        }
        block::attend(model, batch, l, layer, s, hook);
        if let Some(kept) = &mut keep {
            let first = Slice::from(..kept.rows);
            let own = |of: &Array2<f32>| of.slice_axis(Axis(0), first).to_owned();
            kept.layers.push([own(&s.k), own(&s.v)]);
        }
        if let Some((wanted, of_wanted)) = narrowed.as_ref().filter(|_| l + 1 == layers.len()) {
            s.narrow(wanted);
            block::keep_rows(&mut x, wanted);
            (batch, seqs) = (of_wanted, &of_wanted.seqs);
        }
        block::attention_output(batch, l, layer, s, hook);
        norm_output(spec.norm, layer.norms.attn_out.as_ref(), s);
        let mlp_in = layer.norms.mlp_in.as_ref();
        if spec.parallel {
            norm_into(spec.norm, mlp_in, &x, &mut s.normed);
            sw_tensor::add(x.view_mut(), s.out.view());
        } else {
            let sites = (Site::ResidMid(l), None);
            add_output(spec.norm, mlp_in, &mut x, s, seqs, sites, hook);
        }
        visit(hook, Site::MlpIn(l), &mut s.normed, seqs);
        match &layer.router {
            None => block::mlp(spec, batch, l, layer, s, hook),
            Some(router) => experts(spec, batch, l, layer, router, s, hook),
        }
        // Where an MLP stays beside the experts, its output was shown before they were mixed.
        if layer.mix.is_none() {
            visit(hook, Site::DownOut(l), &mut s.out, seqs);
        }
        norm_output(spec.norm, layer.norms.mlp_out.as_ref(), s);
        let sites = (Site::ResidPost(l), pre(l + 1));
        if !add_output(spec.norm, norm_before(l + 1), &mut x, s, seqs, sites, hook) {
            return Err(model.non_finite(Site::ResidPost(l).to_string(), Some(l)));
        }
    }
    if run.end < layers.len() {
        return Ok(x);
    }
    visit(hook, Site::FinalNorm, &mut s.normed, seqs);
    if !all_finite(s.normed.view()) {
        return Err(model.non_finite(Site::FinalNorm.to_string(), None));
    }
    std::mem::swap(&mut x, &mut s.normed);
    if let Some(wanted) = whole.wanted.as_ref().filter(|_| narrowed.is_none()) {
        block::keep_rows(&mut x, wanted);
    }
    Ok(x)
}

/// Whether anybody may need all rows of what the last layer does after attention: a hook, or a product that reads whole sequences.
fn is_seen_after_attention(spec: &Spec, layers: &[Arc<Layer>], hook: &dyn Hook) -> bool {
    let Some(layer) = layers.last() else {
        return false;
    };
    let l = layers.len() - 1;
    let experts = spec.layers[l].experts.map_or(0, |experts| experts.count);
    let of_layer = [
        Site::AttnOut,
        Site::ResidMid,
        Site::MlpIn,
        Site::GateOut,
        Site::UpOut,
        Site::DownIn,
        Site::DownOut,
        Site::ResidPost,
    ];
    let of_layer = of_layer.map(|site| site(l)).into_iter();
    let of_experts =
        (0..experts).flat_map(|e| [Site::ExpertDownIn(l, e), Site::ExpertDownOut(l, e)]);
    let mut sites = of_layer.chain(of_experts).chain([Site::FinalNorm]);
    sites.any(|site| hook.wants(site)) || layer.has_products()
}

/// Adds what a block gives to the residual stream `x`, shows it here and at the next site, and norms it for the next block:
/// in one sweep where nobody looks. Whether it is finite here; where it is not, the next site is not reached.
fn add_output(
    norm: Norm,
    weight: Option<&NormWeight>,
    x: &mut Array2<f32>,
    s: &mut Scratch,
    seqs: &[SeqRange],
    (here, next): (Site, Option<Site>),
    hook: &mut dyn Hook,
) -> bool {
    if !hook.wants(here) && !next.is_some_and(|next| hook.wants(next)) {
        return norm_sum_into(norm, weight, x, &s.out, &mut s.normed);
    }
    sw_tensor::add(x.view_mut(), s.out.view());
    visit(hook, here, x, seqs);
    let finite = all_finite(x.view());
    if let Some(next) = next.filter(|_| finite) {
        visit(hook, next, x, seqs);
    }
    norm_into(norm, weight, x, &mut s.normed);
    finite
}

/// Normalizes what a block is about to add to the residual stream, where the family has a norm there.
fn norm_output(norm: Norm, weight: Option<&NormWeight>, s: &mut Scratch) {
    if weight.is_some() {
        norm_into(norm, weight, &s.out, &mut s.normed);
        std::mem::swap(&mut s.out, &mut s.normed);
    }
}
