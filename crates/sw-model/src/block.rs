//! The two blocks of a layer, attention and MLP (dense; `experts.rs` has the mixture). Each reads `Scratch::normed` and
//! leaves in `Scratch::out` what is to be added to the residual stream.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis};
use sw_tensor::{AttentionSeq, AttentionShape, GeluKind};

use crate::{
    edit::Linear,
    experts::Routed,
    forward::Batch,
    model::Model,
    norm::norm_heads,
    product::{Input, multiply_each},
    site::{Hook, SeqRange, Site, SiteView},
    spec::{Activation, LayerSpec, QkvLayout, Spec},
    weights::{Affine, Layer},
};

/// Activations that live within a layer; a model keeps them from one pass to the next.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) normed: Array2<f32>, // [tokens, hidden]: what a block reads
    pub(crate) q: Array2<f32>,      // [tokens, heads * head_dim]
    pub(crate) k: Array2<f32>,      // [tokens, kv_heads * head_dim]
    pub(crate) v: Array2<f32>,      // [tokens, kv_heads * head_dim]
    mix: Array2<f32>,               // [tokens, heads * head_dim]: what attention gives
    pub(crate) out: Array2<f32>,    // [tokens, hidden]: what a block adds to the residual stream
    pub(crate) inner: Inner,
    pub(crate) routed: Routed,
    pub(crate) logits: Vec<f32>, // a block of logits that are being judged
}

/// Shown an activation, and at which site of the layer it is.
type See<'a> = dyn FnMut(fn(usize) -> Site, &mut Array2<f32>) + 'a;

/// The inner channels of an MLP.
#[derive(Default)]
pub(crate) struct Inner {
    gate: Array2<f32>,          // [tokens, intermediate]
    pub(crate) up: Array2<f32>, // [tokens, intermediate]: after the activation, the input of down_proj
    fused: Vec<f32>,            // a fused map's output: gate and up, or queries, keys and values
}

impl Scratch {
    /// Room for that many tokens in every layer, whichever way a mixture sends them.
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
        let has_mlp = |layer: &LayerSpec| layer.experts.is_none_or(|e| e.residual);
        if spec.layers.iter().any(has_mlp) {
            self.inner.reshape(spec, tokens, spec.intermediate_size);
        }
        for mixture in spec.layers.iter().filter_map(|layer| layer.experts) {
            self.inner.reshape(spec, tokens, mixture.intermediate_size);
            self.routed.reshape(spec, mixture, tokens);
        }
    }
}

impl Scratch {
    /// Keeps these rows, in order, of what attention gave; `normed` and `out` get room for as many.
    pub(crate) fn narrow(&mut self, rows: &[usize]) {
        keep_rows(&mut self.mix, rows);
        for x in [&mut self.normed, &mut self.out] {
            let channels = x.ncols();
            reshape(x, rows.len(), channels);
        }
    }
}

/// Keeps these rows, which are in order, in the memory that the matrix has.
pub(crate) fn keep_rows(x: &mut Array2<f32>, rows: &[usize]) {
    let columns = x.ncols();
    let mut values = std::mem::take(x).into_raw_vec_and_offset().0;
    for (to, &from) in rows.iter().enumerate() {
        values.copy_within(from * columns..(from + 1) * columns, to * columns);
    }
    values.truncate(rows.len() * columns);
    *x = Array2::from_shape_vec((rows.len(), columns), values).expect("as many values");
}

impl Inner {
    fn reshape(&mut self, spec: &Spec, tokens: usize, channels: usize) {
        let of_gate = if spec.gated { channels } else { 0 };
        reshape(&mut self.gate, tokens, of_gate);
        reshape(&mut self.up, tokens, channels);
    }
}

/// Another shape in the same memory, which grows where it must; what it holds afterwards is of no use.
pub(crate) fn reshape(x: &mut Array2<f32>, rows: usize, columns: usize) {
    if x.dim() == (rows, columns) {
        return;
    }
    let (mut values, n) = (
        std::mem::take(x).into_raw_vec_and_offset().0,
        rows * columns,
    );
    if values.capacity() < n {
        values = vec![0.0; n]; // nothing of the old ones needs to be copied, and no page touched before its use
    }
    values.resize(n, 0.0);
    *x = Array2::from_shape_vec((rows, columns), values).expect("as many values");
}

/// A fused map into `buffer`; `[tokens, output channels]`.
fn fused<'b>(x: &Input<'_>, linear: &Affine, buffer: &'b mut Vec<f32>) -> ArrayView2<'b, f32> {
    let shape = (x.rows().nrows(), linear.w.shape()[0]);
    if buffer.len() < shape.0 * shape.1 {
        *buffer = vec![0.0; shape.0 * shape.1];
    }
    let values = &mut buffer[..shape.0 * shape.1];
    let y = ArrayViewMut2::from_shape(shape, &mut *values).expect("as many values");
    linear.apply(x, y);
    ArrayView2::from_shape(shape, values).expect("as many values")
}

/// `s.mix = attention(q_proj(s.normed), k_proj(s.normed), v_proj(s.normed))`.
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
    let x = Input::with(s.normed.view(), Some(seqs), batch.arithmetic);
    match layer.linear(None, Linear::Qkv) {
        None => {
            let maps = [
                (&layer[(None, Linear::Q)], s.q.view_mut()), // [tokens, hidden] x [heads*dim, hidden]^T
                (&layer[(None, Linear::K)], s.k.view_mut()), // [tokens, hidden] x [kv_heads*dim, hidden]^T
                (&layer[(None, Linear::V)], s.v.view_mut()),
            ];
            apply_each(&x, maps);
        }
        Some(qkv) => {
            // [tokens, hidden] x [(heads + 2*kv_heads)*dim, hidden]^T
            let all = fused(&x, qkv, &mut s.inner.fused);
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
        .enumerate()
        .map(|(i, seq)| AttentionSeq {
            rows: seq.rows.clone(),
            prefix: batch.before(i, l, [&s.k, &s.v]),
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
}

/// `s.out = o_proj(s.mix)`.
pub(crate) fn attention_output(
    batch: &Batch<'_>,
    l: usize,
    layer: &Layer,
    s: &mut Scratch,
    hook: &mut dyn Hook,
) {
    let seqs = &batch.seqs;
    // [tokens, heads*dim] x [hidden, heads*dim]^T
    layer[(None, Linear::O)].apply(
        &Input::with(s.mix.view(), Some(seqs), batch.arithmetic),
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
    let (seqs, inner) = (Some(&batch.seqs[..]), &mut s.inner);
    let x = Input::with(s.normed.view(), seqs, batch.arithmetic);
    let mut see = |site: fn(usize) -> Site, data: &mut Array2<f32>| {
        visit(hook, site(l), data, &batch.seqs);
    };
    inner.widen(spec, layer, None, &x, spec.intermediate_size, &mut see);
    visit(hook, Site::DownIn(l), &mut inner.up, &batch.seqs);
    // [tokens, intermediate] x [hidden, intermediate]^T
    layer[(None, Linear::Down)].apply(
        &Input::with(inner.up.view(), seqs, batch.arithmetic),
        s.out.view_mut(),
    );
}

impl Inner {
    /// `up = act(gate_proj(x)) * up_proj(x)`, or `act(up_proj(x))` without a gate; `[tokens, channels]`. `see` is shown the
    /// outputs of both maps before the activation.
    pub(crate) fn widen(
        &mut self,
        spec: &Spec,
        layer: &Layer,
        expert: Option<usize>,
        x: &Input<'_>,
        channels: usize,
        see: &mut See<'_>,
    ) {
        self.reshape(spec, x.rows().nrows(), channels);
        let Inner { gate, up, .. } = self;
        match layer.linear(expert, Linear::GateUp) {
            Some(both) => {
                let all = fused(x, both, &mut self.fused); // [tokens, hidden] x [2*intermediate, hidden]^T
                let (first, second) = all.split_at(Axis(1), channels);
                gate.assign(&first);
                up.assign(&second);
            }
            None => {
                // [tokens, hidden] x [intermediate, hidden]^T
                let up = (&layer[(expert, Linear::Up)], up.view_mut());
                if spec.gated {
                    apply_each(x, [up, (&layer[(expert, Linear::Gate)], gate.view_mut())]);
                } else {
                    apply_each(x, [up]);
                }
            }
        }
        if spec.gated {
            see(Site::GateOut, gate);
        }
        see(Site::UpOut, up);
        if spec.gated {
            let (gated, up) = (gate.view_mut(), up.view());
            match spec.activation {
                Activation::Silu => sw_tensor::silu_mul(gated, up),
                Activation::Gelu => sw_tensor::gelu_mul(gated, up, GeluKind::Erf),
                Activation::GeluTanh => sw_tensor::gelu_mul(gated, up, GeluKind::Tanh),
            }
            std::mem::swap(&mut self.gate, &mut self.up);
        } else {
            match spec.activation {
                Activation::Silu => sw_tensor::silu(up.view_mut()),
                Activation::Gelu => sw_tensor::gelu(up.view_mut(), GeluKind::Erf),
                Activation::GeluTanh => sw_tensor::gelu(up.view_mut(), GeluKind::Tanh),
            }
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

impl Affine {
    /// `y = x * w^T + bias`, `[tokens, in]` to `[tokens, out]`.
    pub(crate) fn apply(&self, x: &Input<'_>, y: ArrayViewMut2<'_, f32>) {
        apply_each(x, [(self, y)]);
    }
}

/// [`Affine::apply`] for maps that read the same rows, together.
pub(crate) fn apply_each<const N: usize>(
    x: &Input<'_>,
    mut maps: [(&Affine, ArrayViewMut2<'_, f32>); N],
) {
    let products = maps.iter_mut().map(|(map, y)| (&map.w, y.view_mut()));
    multiply_each(x, products);
    for (map, y) in maps {
        if let Some(bias) = &map.bias {
            sw_tensor::add_bias(y, bias);
        }
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
