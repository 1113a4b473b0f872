//! The two blocks of a layer, attention and MLP (dense or a mixture of experts). Each reads `Scratch::normed` and leaves
//! in `Scratch::out` what is to be added to the residual stream.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis};
use sw_tensor::{AttentionSeq, AttentionShape, GeluKind, Mat, matmul_t};

use crate::{
    edit::Linear,
    forward::Batch,
    model::Model,
    site::{Hook, SeqRange, Site, SiteView},
    spec::{Activation, Norm, QkvLayout, Spec},
    weights::{Affine, Layer, NormWeight},
};

/// Activations that live within a layer; allocated once per pass.
pub(crate) struct Scratch {
    pub(crate) normed: Array2<f32>, // [tokens, hidden]: what a block reads
    pub(crate) q: Array2<f32>,      // [tokens, heads * head_dim]
    pub(crate) k: Array2<f32>,      // [tokens, kv_heads * head_dim]
    pub(crate) v: Array2<f32>,      // [tokens, kv_heads * head_dim]
    mix: Array2<f32>,               // [tokens, heads * head_dim]
    pub(crate) out: Array2<f32>,    // [tokens, hidden]: what a block adds to the residual stream
    inner: Inner,
}

/// The inner channels of an MLP.
struct Inner {
    gate: Array2<f32>, // [tokens, intermediate]
    up: Array2<f32>,   // [tokens, intermediate]: after the activation, the input of down_proj
}

impl Inner {
    fn new(spec: &Spec, tokens: usize, channels: usize) -> Self {
        let gate = if spec.gated { channels } else { 0 };
        Self {
            gate: Array2::zeros((tokens, gate)),
            up: Array2::zeros((tokens, channels)),
        }
    }
}

impl Scratch {
    pub(crate) fn new(model: &Model, tokens: usize) -> Self {
        let spec = model.spec();
        let zeros = |channels| Array2::zeros((tokens, channels));
        let (q, kv) = (spec.q_width(), spec.kv_width());
        let dense = spec.layers.iter().any(|layer| !layer.sparse);
        Self {
            normed: zeros(spec.hidden_size),
            q: zeros(q),
            k: zeros(kv),
            v: zeros(kv),
            mix: zeros(q),
            out: zeros(spec.hidden_size),
            inner: Inner::new(spec, tokens, if dense { spec.intermediate_size } else { 0 }),
        }
    }
}

/// `s.out = o_proj(attention(q_proj(s.normed), k_proj(s.normed), v_proj(s.normed)))`.
pub(crate) fn attend(
    model: &Model,
    batch: &Batch<'_>,
    l: usize,
    layer: &Layer,
    s: &mut Scratch,
    hook: &mut dyn Hook,
) {
    let (spec, seqs) = (model.spec(), &batch.seqs);
    let (heads, of_layer) = (spec.attention, spec.layers[l]);
    visit(hook, Site::AttnIn(l), &mut s.normed, seqs);
    match layer.linear(None, Linear::Qkv) {
        None => {
            affine(&s.normed, &layer[(None, Linear::Q)], &mut s.q); // [tokens, hidden] x [heads*dim, hidden]^T
            affine(&s.normed, &layer[(None, Linear::K)], &mut s.k); // [tokens, hidden] x [kv_heads*dim, hidden]^T
            affine(&s.normed, &layer[(None, Linear::V)], &mut s.v);
        }
        Some(qkv) => {
            let mut all = Array2::zeros((batch.tokens(), qkv.w.rows()));
            affine(&s.normed, qkv, &mut all); // [tokens, hidden] x [(heads + 2*kv_heads)*dim, hidden]^T
            split_heads(spec, &all, [&mut s.q, &mut s.k, &mut s.v]);
        }
    }
    visit(hook, Site::Query(l), &mut s.q, seqs);
    visit(hook, Site::Key(l), &mut s.k, seqs);
    visit(hook, Site::Value(l), &mut s.v, seqs);
    norm_heads(spec.norm, layer.norms.query.as_ref(), &mut s.q);
    norm_heads(spec.norm, layer.norms.key.as_ref(), &mut s.k);
    if let Some(limit) = heads.clip {
        for x in [&mut s.q, &mut s.k, &mut s.v] {
            x.mapv_inplace(|x| x.clamp(-limit, limit));
        }
    }
    if let Some(rope) = of_layer.rope {
        for x in [&mut s.q, &mut s.k] {
            rotate(model, batch, rope, x.view_mut());
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
        scale: of_layer.scale,
        window: of_layer.window,
        softcap: heads.softcap,
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
    affine(&s.mix, &layer[(None, Linear::O)], &mut s.out); // [tokens, heads*dim] x [hidden, heads*dim]^T
    visit(hook, Site::AttnOut(l), &mut s.out, seqs);
}

/// `s.out = down_proj(act(gate_proj(s.normed)) * up_proj(s.normed))`.
pub(crate) fn mlp(
    spec: &Spec,
    batch: &Batch<'_>,
    l: usize,
    layer: &Layer,
    s: &mut Scratch,
    hook: &mut dyn Hook,
) {
    widen_inner(spec, layer, None, &s.normed, &mut s.inner);
    visit(hook, Site::DownIn(l), &mut s.inner.up, &batch.seqs);
    affine(&s.inner.up, &layer[(None, Linear::Down)], &mut s.out); // [tokens, intermediate] x [hidden, intermediate]^T
}

/// `s.out = sum_e p_e * down_proj_e(act(gate_proj_e(s.normed)) * up_proj_e(s.normed))` over each token's most probable
/// experts, in the order of their numbers.
pub(crate) fn experts(
    spec: &Spec,
    batch: &Batch<'_>,
    l: usize,
    layer: &Layer,
    router: &Mat,
    s: &mut Scratch,
    hook: &mut dyn Hook,
) {
    let Some(mixture) = spec.experts else { return };
    let mut p = Array2::zeros((batch.tokens(), mixture.count));
    matmul_t(s.normed.view(), router, p.view_mut()); // [tokens, hidden] x [experts, hidden]^T
    for mut p in p.rows_mut() {
        let p = p.as_slice_mut().expect("freshly made, row-major");
        sw_tensor::softmax(p);
        keep_largest(p, mixture.per_token, mixture.normalize);
    }
    s.out.fill(0.0);
    for (e, p) in p.columns().into_iter().enumerate() {
        let tokens: Vec<usize> = (0..p.len()).filter(|&t| p[t] != 0.0).collect();
        if tokens.is_empty() {
            continue;
        }
        let x = s.normed.select(Axis(0), &tokens); // [routed tokens, hidden]
        let mut inner = Inner::new(spec, tokens.len(), mixture.intermediate_size);
        let mut out = Array2::zeros((tokens.len(), spec.hidden_size));
        let mut visit = |site, data: &mut Array2<f32>| {
            if hook.wants(site) {
                let view = SiteView {
                    data: data.view_mut(),
                    seqs: &batch.seqs,
                    tokens: Some(&tokens),
                };
                hook.visit(site, view);
            }
        };
        widen_inner(spec, layer, Some(e), &x, &mut inner);
        visit(Site::ExpertDownIn(l, e), &mut inner.up);
        affine(&inner.up, &layer[(Some(e), Linear::Down)], &mut out);
        visit(Site::ExpertDownOut(l, e), &mut out);
        for (&t, row) in tokens.iter().zip(out.rows()) {
            s.out.row_mut(t).scaled_add(p[t], &row);
        }
    }
}

/// Sets all but the `n` largest probabilities to zero (of equals, the first stay), and scales them to sum 1 if asked.
fn keep_largest(p: &mut [f32], n: usize, normalize: bool) {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[b].total_cmp(&p[a])); // stable
    let (kept, dropped) = order.split_at(n.min(p.len()));
    dropped.iter().for_each(|&e| p[e] = 0.0);
    if normalize {
        let sum: f32 = kept.iter().map(|&e| p[e]).sum();
        p.iter_mut().for_each(|p| *p /= sum);
    }
}

/// `inner.up = act(gate_proj(x)) * up_proj(x)`, or `act(up_proj(x))` without a gate.
fn widen_inner(
    spec: &Spec,
    layer: &Layer,
    expert: Option<usize>,
    x: &Array2<f32>,
    inner: &mut Inner,
) {
    let Inner { gate, up } = inner;
    match layer.linear(expert, Linear::GateUp) {
        Some(both) => {
            let mut all = Array2::zeros((x.nrows(), both.w.rows()));
            affine(x, both, &mut all); // [tokens, hidden] x [2*intermediate, hidden]^T
            let (first, second) = all.view().split_at(Axis(1), up.ncols());
            gate.assign(&first);
            up.assign(&second);
        }
        None => {
            affine(x, &layer[(expert, Linear::Up)], up); // [tokens, hidden] x [intermediate, hidden]^T
            if spec.gated {
                affine(x, &layer[(expert, Linear::Gate)], gate);
            }
        }
    }
    if spec.gated {
        match spec.activation {
            Activation::Silu => sw_tensor::silu_mul(gate.view_mut(), up.view()),
            Activation::Gelu => sw_tensor::gelu_mul(gate.view_mut(), up.view(), GeluKind::Erf),
            Activation::GeluTanh => sw_tensor::gelu_mul(gate.view_mut(), up.view(), GeluKind::Tanh),
        }
        std::mem::swap(gate, up);
    } else {
        match spec.activation {
            Activation::Silu => sw_tensor::silu(up.view_mut()),
            Activation::Gelu => sw_tensor::gelu(up.view_mut(), GeluKind::Erf),
            Activation::GeluTanh => sw_tensor::gelu(up.view_mut(), GeluKind::Tanh),
        }
    }
}

pub(crate) fn visit(hook: &mut dyn Hook, site: Site, data: &mut Array2<f32>, seqs: &[SeqRange]) {
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

/// Norms `x` into `out`; copies it where there is no norm.
pub(crate) fn norm_into(
    norm: Norm,
    weight: Option<&NormWeight>,
    x: &Array2<f32>,
    out: &mut Array2<f32>,
) {
    match weight {
        None => out.assign(x),
        Some(weight) => norm_rows(norm, weight, x.view(), out.view_mut()),
    }
}

/// Norms queries or keys in place: as many channels at a time as the weight has, one head or all of them.
fn norm_heads(norm: Norm, weight: Option<&NormWeight>, x: &mut Array2<f32>) {
    let Some(parameters) = weight else { return };
    let channels = parameters.weight.as_ref().map_or(x.ncols(), |w| w.len());
    let shape = (x.len() / channels, channels);
    let before = x.clone();
    let rows = |x| ArrayView2::from_shape(shape, x).expect("whole heads");
    let before = rows(before.as_slice().expect("row-major"));
    let x = x.as_slice_mut().expect("row-major");
    let x = ArrayViewMut2::from_shape(shape, x).expect("whole heads");
    norm_rows(norm, parameters, before, x);
}

fn norm_rows(norm: Norm, p: &NormWeight, x: ArrayView2<'_, f32>, out: ArrayViewMut2<'_, f32>) {
    let (weight, bias) = (p.weight.as_deref(), p.bias.as_deref());
    match norm {
        Norm::Rms { eps, .. } => sw_tensor::rms_norm(x, weight.unwrap_or_default(), eps, out),
        Norm::Layer { eps, .. } => sw_tensor::layer_norm(x, weight, bias, eps, out),
    }
}

/// Copies the heads of a fused product, `[tokens, (heads + 2 * kv_heads) * head_dim]`, to queries, keys and values.
fn split_heads(spec: &Spec, all: &Array2<f32>, parts: [&mut Array2<f32>; 3]) {
    let (q, kv, dim) = (spec.q_width(), spec.kv_width(), spec.attention.head_dim);
    for (i, part) in parts.into_iter().enumerate() {
        for (h, mut head) in part.axis_chunks_iter_mut(Axis(1), dim).enumerate() {
            let first = match spec.names.qkv_layout {
                QkvLayout::Blocks => [0, q, q + kv][i] + h * dim,
                QkvLayout::Heads => (3 * h + i) * dim,
            };
            head.assign(&all.slice_axis(Axis(1), (first..first + dim).into()));
        }
    }
}

fn rotate(model: &Model, batch: &Batch<'_>, rope: usize, mut x: ArrayViewMut2<'_, f32>) {
    let head_dim = model.spec().attention.head_dim;
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
