//! The forward pass. It exists once, for all families; shapes stand beside each step.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis};
use sw_tensor::{AttentionSeq, AttentionShape, matmul_t};

use crate::{
    error::{Error, Result},
    kv::Kv,
    model::Model,
    site::{Hook, SeqRange, Site, SiteView},
    spec::{Activation, Norm, Spec},
    weights::{Affine, Layer, NormWeight},
};

/// One sequence of a batch: tokens, after an optional prefix whose keys and values are known.
#[derive(Clone, Copy)]
pub struct Seq<'a> {
    /// The tokens to run; at least one.
    pub tokens: &'a [u32],
    /// What comes before them.
    pub prefix: Option<&'a Kv>,
}

impl<'a> From<&'a [u32]> for Seq<'a> {
    fn from(tokens: &'a [u32]) -> Self {
        Self {
            tokens,
            prefix: None,
        }
    }
}

/// The layout of a ragged batch: sequences one after the other, without padding.
pub(crate) struct Batch<'a> {
    seqs: Vec<SeqRange>,
    prefixes: Vec<Option<&'a Kv>>,
    /// Absolute position of each row.
    positions: Vec<u32>,
    /// Rope variant of each sequence.
    variants: Vec<u64>,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(
        model: &Model,
        seqs: impl IntoIterator<Item = (usize, Option<&'a Kv>)>,
    ) -> Result<Self> {
        let mut batch = Batch {
            seqs: Vec::new(),
            prefixes: Vec::new(),
            positions: Vec::new(),
            variants: Vec::new(),
        };
        let max_positions = model.spec().max_positions;
        for (tokens, prefix) in seqs {
            let start = prefix.map_or(0, Kv::len);
            let total = start + tokens;
            let variant = model.ropes().variant(total);
            if tokens == 0 {
                return Err(Error::EmptySequence);
            }
            if total > max_positions && model.spec().ropes.is_empty() {
                return Err(Error::TooLong {
                    tokens: total,
                    max_positions,
                });
            }
            if let Some(prefix) = prefix {
                let problem = if prefix.model() != model.id() {
                    Some("it was computed by another model".to_owned())
                } else if prefix.rope() != variant {
                    Some(format!(
                        "with {total} tokens in all, rotary frequencies differ from the prefix's; run without a prefix"
                    ))
                } else {
                    None
                };
                problem.map_or(Ok(()), |problem| Err(Error::Prefix { problem }))?;
            }
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
        Ok(batch)
    }

    fn tokens(&self) -> usize {
        self.positions.len()
    }

    pub(crate) fn variant(&self) -> u64 {
        self.variants[0]
    }
}

/// Activations that live within a layer; allocated once per pass.
struct Scratch {
    normed: Array2<f32>, // [tokens, hidden]
    q: Array2<f32>,      // [tokens, heads * head_dim]
    k: Array2<f32>,      // [tokens, kv_heads * head_dim]
    v: Array2<f32>,      // [tokens, kv_heads * head_dim]
    mix: Array2<f32>,    // [tokens, heads * head_dim]
    out: Array2<f32>,    // [tokens, hidden]: what a block adds to the residual stream
    gate: Array2<f32>,   // [tokens, intermediate]
    up: Array2<f32>,     // [tokens, intermediate]
}

impl Scratch {
    fn new(spec: &Spec, tokens: usize) -> Self {
        let zeros = |channels| Array2::zeros((tokens, channels));
        let (q, kv, f) = (spec.q_width(), spec.kv_width(), spec.intermediate_size);
        Self {
            normed: zeros(spec.hidden_size),
            q: zeros(q),
            k: zeros(kv),
            v: zeros(kv),
            mix: zeros(q),
            out: zeros(spec.hidden_size),
            gate: if spec.gated {
                zeros(f)
            } else {
                Array2::zeros((0, 0))
            },
            up: zeros(f),
        }
    }
}

/// Embeds the tokens of a batch: `[tokens, hidden]`.
pub(crate) fn embed<'a>(
    model: &Model,
    seqs: impl IntoIterator<Item = &'a [u32]>,
) -> Result<Array2<f32>> {
    let spec = model.spec();
    let mut rows = Vec::new();
    for tokens in seqs {
        for (position, &id) in tokens.iter().enumerate() {
            let end = rows.len() + spec.hidden_size;
            if id as usize >= spec.vocab_size {
                return Err(Error::TokenId {
                    id,
                    position,
                    vocab_size: spec.vocab_size,
                });
            }
            rows.resize(end, 0.0);
            model
                .weights()
                .embed
                .row_into(id as usize, &mut rows[end - spec.hidden_size..]);
        }
    }
    let tokens = rows.len() / spec.hidden_size;
    Ok(Array2::from_shape_vec((tokens, spec.hidden_size), rows).expect("whole rows were pushed"))
}

/// Runs layers `from..` on the residual stream `x` and the final norm; `[tokens, hidden]`.
///
/// `keep` receives each layer's rotated keys and values.
pub(crate) fn run(
    model: &Model,
    batch: &Batch<'_>,
    mut x: Array2<f32>,
    from: usize,
    hook: &mut dyn Hook,
    mut keep: Option<&mut Vec<[Array2<f32>; 2]>>,
) -> Result<Array2<f32>> {
    let spec = model.spec();
    let mut s = Scratch::new(spec, batch.tokens());
    let seqs = &batch.seqs;
    if from == 0 {
        visit(hook, Site::Embed, &mut x, seqs);
    }
    for (l, layer) in model.weights().layers.iter().enumerate().skip(from) {
        visit(hook, Site::ResidPre(l), &mut x, seqs);
        norm_into(spec.norm, layer.attn_in_norm.as_ref(), &x, &mut s.normed);
        attend(model, batch, l, layer, &mut s, hook);
        sw_tensor::add(x.view_mut(), s.out.view());
        visit(hook, Site::ResidMid(l), &mut x, seqs);
        norm_into(spec.norm, layer.mlp_in_norm.as_ref(), &x, &mut s.normed);
        mlp(spec, batch, l, layer, &mut s, hook);
        sw_tensor::add(x.view_mut(), s.out.view());
        visit(hook, Site::ResidPost(l), &mut x, seqs);
        if let Some(kept) = &mut keep {
            kept.push([s.k.clone(), s.v.clone()]);
        }
        if !all_finite(x.view()) {
            return Err(model.non_finite(Site::ResidPost(l).to_string(), Some(l)));
        }
    }
    norm_into(
        spec.norm,
        Some(&model.weights().final_norm),
        &x,
        &mut s.normed,
    );
    visit(hook, Site::FinalNorm, &mut s.normed, seqs);
    if !all_finite(s.normed.view()) {
        return Err(model.non_finite(Site::FinalNorm.to_string(), None));
    }
    Ok(s.normed)
}

/// `s.out = o_proj(attention(q_proj(s.normed), k_proj(s.normed), v_proj(s.normed)))`.
fn attend(
    model: &Model,
    batch: &Batch<'_>,
    l: usize,
    layer: &Layer,
    s: &mut Scratch,
    hook: &mut dyn Hook,
) {
    let (spec, seqs) = (model.spec(), &batch.seqs);
    let heads = spec.attention;
    visit(hook, Site::AttnIn(l), &mut s.normed, seqs);
    affine(&s.normed, &layer.q, &mut s.q); // [tokens, hidden] x [heads*dim, hidden]^T
    visit(hook, Site::Query(l), &mut s.q, seqs);
    affine(&s.normed, &layer.k, &mut s.k); // [tokens, hidden] x [kv_heads*dim, hidden]^T
    visit(hook, Site::Key(l), &mut s.k, seqs);
    affine(&s.normed, &layer.v, &mut s.v);
    visit(hook, Site::Value(l), &mut s.v, seqs);
    if let Some(rope) = spec.layers[l].rope {
        for x in [&mut s.q, &mut s.k] {
            rotate(model, batch, rope, heads.head_dim, x.view_mut());
        }
    }
    visit(hook, Site::RotQuery(l), &mut s.q, seqs);
    visit(hook, Site::RotKey(l), &mut s.k, seqs);
    let seqs_with_prefix: Vec<_> = seqs
        .iter()
        .zip(&batch.prefixes)
        .map(|(seq, prefix)| AttentionSeq {
            rows: seq.rows.clone(),
            prefix: prefix.map_or_else(Vec::new, |p| p.spans(l)),
        })
        .collect();
    let shape = AttentionShape {
        heads: heads.heads,
        kv_heads: heads.kv_heads,
        head_dim: heads.head_dim,
        scale: heads.scale,
        window: spec.layers[l].window,
        softcap: None,
    };
    sw_tensor::attention(
        s.q.view(),
        s.k.view(),
        s.v.view(),
        &seqs_with_prefix,
        &shape,
        s.mix.view_mut(),
    );
    visit(hook, Site::OIn(l), &mut s.mix, seqs);
    affine(&s.mix, &layer.o, &mut s.out); // [tokens, heads*dim] x [hidden, heads*dim]^T
    visit(hook, Site::AttnOut(l), &mut s.out, seqs);
}

/// `s.out = down_proj(act(gate_proj(s.normed)) * up_proj(s.normed))`.
fn mlp(
    spec: &Spec,
    batch: &Batch<'_>,
    l: usize,
    layer: &Layer,
    s: &mut Scratch,
    hook: &mut dyn Hook,
) {
    let seqs = &batch.seqs;
    visit(hook, Site::MlpIn(l), &mut s.normed, seqs);
    affine(&s.normed, &layer.up, &mut s.up); // [tokens, hidden] x [intermediate, hidden]^T
    match &layer.gate {
        Some(gate) => {
            affine(&s.normed, gate, &mut s.gate);
            match spec.activation {
                Activation::Silu => sw_tensor::silu_mul(s.gate.view_mut(), s.up.view()),
            }
            std::mem::swap(&mut s.gate, &mut s.up);
        }
        None => match spec.activation {
            Activation::Silu => sw_tensor::silu(s.up.view_mut()),
        },
    }
    visit(hook, Site::DownIn(l), &mut s.up, seqs);
    affine(&s.up, &layer.down, &mut s.out); // [tokens, intermediate] x [hidden, intermediate]^T
    visit(hook, Site::DownOut(l), &mut s.out, seqs);
}

fn visit(hook: &mut dyn Hook, site: Site, data: &mut Array2<f32>, seqs: &[SeqRange]) {
    if hook.wants(site) {
        hook.visit(
            site,
            SiteView {
                data: data.view_mut(),
                seqs,
                tokens: None,
            },
        );
    }
}

fn affine(x: &Array2<f32>, linear: &Affine, y: &mut Array2<f32>) {
    matmul_t(x.view(), &linear.w, y.view_mut());
    if let Some(bias) = &linear.bias {
        sw_tensor::add_bias(y.view_mut(), bias);
    }
}

fn norm_into(norm: Norm, weight: Option<&NormWeight>, x: &Array2<f32>, out: &mut Array2<f32>) {
    match (norm, weight) {
        (Norm::Rms { eps }, Some(w)) => sw_tensor::rms_norm(x.view(), w, eps, out.view_mut()),
        (Norm::Rms { .. }, None) => out.assign(x),
    }
}

fn rotate(
    model: &Model,
    batch: &Batch<'_>,
    rope: usize,
    head_dim: usize,
    mut x: ArrayViewMut2<'_, f32>,
) {
    let variant = batch.variant();
    if batch.variants.iter().all(|&v| v == variant) {
        return model
            .ropes()
            .with(rope, variant, |r| r.apply(x, head_dim, &batch.positions));
    }
    for (seq, &variant) in batch.seqs.iter().zip(&batch.variants) {
        let rows = x.slice_axis_mut(Axis(0), seq.rows.clone().into());
        model.ropes().with(rope, variant, |r| {
            r.apply(rows, head_dim, &batch.positions[seq.rows.clone()])
        });
    }
}

/// Whether every value is finite: the largest magnitude, as bits, lies below that of infinity.
pub(crate) fn all_finite(x: ArrayView2<'_, f32>) -> bool {
    let magnitude = |v: &f32| v.to_bits() & 0x7fff_ffff;
    x.rows()
        .into_iter()
        .all(|row| row.iter().map(magnitude).fold(0, u32::max) < f32::INFINITY.to_bits())
}
