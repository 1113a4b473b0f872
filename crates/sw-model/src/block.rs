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

/// Activations that live within a layer; a model keeps them from one pass to the next.
#[derive(Default)]
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
#[derive(Default)]
struct Inner {
    gate: Array2<f32>, // [tokens, intermediate]
    up: Array2<f32>,   // [tokens, intermediate]: after the activation, the input of down_proj
    fused: Vec<f32>,   // a fused map's output: gate and up, or queries, keys and values
}

impl Inner {
    fn reshape(&mut self, spec: &Spec, tokens: usize, channels: usize) {
        reshape(
            &mut self.gate,
            tokens,
            if spec.gated { channels } else { 0 },
        );
        reshape(&mut self.up, tokens, channels);
    }
}

impl Scratch {
    pub(crate) fn reshape(&mut self, model: &Model, tokens: usize) {
        let spec = model.spec();
        let (q, kv) = (spec.q_width(), spec.kv_width());
        for (x, channels) in [
            (&mut self.normed, spec.hidden_size),
            (&mut self.q, q),
            (&mut self.k, kv),
            (&mut self.v, kv),
            (&mut self.mix, q),
            (&mut self.out, spec.hidden_size),
        ] {
            reshape(x, tokens, channels);
        }
        let dense = spec.layers.iter().any(|layer| !layer.sparse);
        let channels = if dense { spec.intermediate_size } else { 0 };
        self.inner.reshape(spec, tokens, channels);
    }
}

/// Another shape in the same memory, which grows where it must; what it holds afterwards is of no use.
fn reshape(x: &mut Array2<f32>, rows: usize, columns: usize) {
    if x.dim() == (rows, columns) {
        return;
    }
    let mut values = std::mem::take(x).into_raw_vec_and_offset().0;
    if values.capacity() < rows * columns {
        values = Vec::new(); // nothing of it needs to be copied
    }
    values.resize(rows * columns, 0.0);
    *x = Array2::from_shape_vec((rows, columns), values).expect("as many values");
}

/// A fused map of `x` into `buffer`; `[tokens, output channels]`.
fn fused<'b>(
    x: &Array2<f32>,
    seqs: Option<&[SeqRange]>,
    linear: &Affine,
    buffer: &'b mut Vec<f32>,
) -> ArrayView2<'b, f32> {
    let shape = (x.nrows(), linear.w.shape()[0]);
    if buffer.len() < shape.0 * shape.1 {
        *buffer = vec![0.0; shape.0 * shape.1];
    }
    let values = &mut buffer[..shape.0 * shape.1];
    let y = ArrayViewMut2::from_shape(shape, &mut *values).expect("as many values");
    affine(x, seqs, linear, y);
    ArrayView2::from_shape(shape, values).expect("as many values")
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
            let (x, seqs) = (&s.normed, Some(&seqs[..]));
            affine(x, seqs, &layer[(None, Linear::Q)], s.q.view_mut()); // [tokens, hidden] x [heads*dim, hidden]^T
            affine(x, seqs, &layer[(None, Linear::K)], s.k.view_mut()); // [tokens, hidden] x [kv_heads*dim, hidden]^T
            affine(x, seqs, &layer[(None, Linear::V)], s.v.view_mut());
        }
        Some(qkv) => {
            // [tokens, hidden] x [(heads + 2*kv_heads)*dim, hidden]^T
            let all = fused(&s.normed, Some(seqs), qkv, &mut s.inner.fused);
            split_heads(spec, &all, [&mut s.q, &mut s.k, &mut s.v]);
        }
    }
    visit(hook, Site::Query(l), &mut s.q, seqs);
    visit(hook, Site::Key(l), &mut s.k, seqs);
    visit(hook, Site::Value(l), &mut s.v, seqs);
    norm_heads(spec.norm, layer.norms.query.as_ref(), &mut s.q, &mut s.mix);
    norm_heads(spec.norm, layer.norms.key.as_ref(), &mut s.k, &mut s.mix);
    if let Some(limit) = heads.clip {
        for x in [&mut s.q, &mut s.k, &mut s.v] {
            x.mapv_inplace(|x| x.clamp(-limit, limit));
        }
    }
    if let Some(rope) = of_layer.rope {
        for x in [&mut s.q, &mut s.k] {
            batch.turns[rope].apply(x.view_mut(), heads.head_dim);
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
    // [tokens, heads*dim] x [hidden, heads*dim]^T
    affine(
        &s.mix,
        Some(seqs),
        &layer[(None, Linear::O)],
        s.out.view_mut(),
    );
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
    let seqs = Some(&batch.seqs[..]);
    widen_inner(spec, layer, None, &s.normed, seqs, &mut s.inner);
    visit(hook, Site::DownIn(l), &mut s.inner.up, &batch.seqs);
    // [tokens, intermediate] x [hidden, intermediate]^T
    affine(
        &s.inner.up,
        seqs,
        &layer[(None, Linear::Down)],
        s.out.view_mut(),
    );
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
        let inner = &mut s.inner;
        inner.reshape(spec, tokens.len(), mixture.intermediate_size);
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
        widen_inner(spec, layer, Some(e), &x, None, inner);
        visit(Site::ExpertDownIn(l, e), &mut inner.up);
        affine(
            &inner.up,
            None,
            &layer[(Some(e), Linear::Down)],
            out.view_mut(),
        );
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
    seqs: Option<&[SeqRange]>,
    inner: &mut Inner,
) {
    let Inner {
        gate,
        up,
        fused: buffer,
    } = inner;
    match layer.linear(expert, Linear::GateUp) {
        Some(both) => {
            let all = fused(x, seqs, both, buffer); // [tokens, hidden] x [2*intermediate, hidden]^T
            let (first, second) = all.split_at(Axis(1), up.ncols());
            gate.assign(&first);
            up.assign(&second);
        }
        None => {
            // [tokens, hidden] x [intermediate, hidden]^T
            affine(x, seqs, &layer[(expert, Linear::Up)], up.view_mut());
            if spec.gated {
                affine(x, seqs, &layer[(expert, Linear::Gate)], gate.view_mut());
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

fn affine(
    x: &Array2<f32>,
    seqs: Option<&[SeqRange]>,
    linear: &Affine,
    mut y: ArrayViewMut2<'_, f32>,
) {
    linear.w.multiply(x.view(), seqs, y.view_mut());
    if let Some(bias) = &linear.bias {
        sw_tensor::add_bias(y, bias);
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

/// Norms queries or keys: as many channels at a time as the weight has, one head or all of them. `spare` has room for `x`.
fn norm_heads(
    norm: Norm,
    weight: Option<&NormWeight>,
    x: &mut Array2<f32>,
    spare: &mut Array2<f32>,
) {
    let Some(parameters) = weight else { return };
    let channels = parameters.weight.as_ref().map_or(x.ncols(), |w| w.len());
    let shape = (x.len() / channels, channels);
    let x = x.as_slice_mut().expect("row-major");
    let before = &mut spare.as_slice_mut().expect("row-major")[..x.len()];
    before.copy_from_slice(x);
    let before = ArrayView2::from_shape(shape, before).expect("whole heads");
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
fn split_heads(spec: &Spec, all: &ArrayView2<'_, f32>, parts: [&mut Array2<f32>; 3]) {
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
