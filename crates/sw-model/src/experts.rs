//! A mixture of experts in an MLP's place, or beside it.

use ndarray::Array2;
use sw_tensor::{Arithmetic, Mat, Order, matmul_t_each};

use crate::{
    block::{self, Scratch, reshape, visit},
    edit::Linear,
    forward::Batch,
    product::Input,
    site::{Hook, Site, SiteView},
    spec::{Experts, Spec},
    weights::{Affine, Layer},
};

/// What passes between the tokens and their experts.
#[derive(Default)]
pub(crate) struct Routed {
    /// `[tokens, experts]`: how much of each expert a token takes.
    shares: Array2<f32>,
    /// `[tokens, 2]`: how much a token takes of its experts and of the MLP, where both are.
    mix: Array2<f32>,
    /// The experts of one token, most probable first.
    order: Vec<usize>,
    /// The tokens of one expert, and what it reads and gives, `[routed tokens, hidden]`.
    tokens: Vec<usize>,
    read: Array2<f32>,
    out: Array2<f32>,
}

impl Routed {
    /// Room for all tokens at one expert.
    pub(crate) fn reshape(&mut self, spec: &Spec, mixture: Experts, tokens: usize) {
        reshape(&mut self.shares, tokens, mixture.count);
        reshape(&mut self.mix, tokens, 2);
        self.of_expert(spec, tokens);
        self.tokens.clear();
        self.tokens.reserve(tokens);
    }

    fn of_expert(&mut self, spec: &Spec, tokens: usize) {
        reshape(&mut self.read, tokens, spec.hidden_size);
        reshape(&mut self.out, tokens, spec.hidden_size);
    }
}

/// `s.out = sum_e p_e * down_proj_e(act(gate_proj_e(s.normed)) * up_proj_e(s.normed))` over each token's most probable
/// experts, in the order of their numbers. With residual experts `s.out = b * mlp(s.normed) + sum_e a p_e * ...` where
/// `(a, b) = softmax(mix(s.normed))`.
pub(crate) fn experts(
    spec: &Spec,
    batch: &Batch<'_>,
    l: usize,
    layer: &Layer,
    router: &Mat,
    s: &mut Scratch,
    hook: &mut dyn Hook,
) {
    let Some(mixture) = spec.layers[l].experts else {
        return;
    };
    match &layer.mix {
        None => s.out.fill(0.0),
        Some(mix) => {
            block::mlp(spec, batch, l, layer, s, hook);
            visit(hook, Site::DownOut(l), &mut s.out, &batch.seqs);
            shares_of_both(mix, batch, s);
            let shares = s.routed.mix.column(1);
            let rows = s.out.rows_mut().into_iter().zip(shares);
            rows.for_each(|(mut row, &b)| row.mapv_inplace(|x| b * x));
        }
    }
    let (r, inner) = (&mut s.routed, &mut s.inner);
    reshape(&mut r.shares, batch.tokens(), mixture.count); // layers differ
    let arithmetic = Arithmetic {
        order: Order::Fixed,
        ..batch.arithmetic
    };
    // [tokens, hidden] x [experts, hidden]^T
    let shares = [(router, r.shares.view_mut())];
    matmul_t_each(arithmetic, s.normed.view(), shares);
    for mut p in r.shares.rows_mut() {
        let p = p.as_slice_mut().expect("row-major");
        sw_tensor::softmax(p);
        keep_largest(p, mixture, &mut r.order);
    }
    if layer.mix.is_some() {
        let rows = r.shares.rows_mut().into_iter().zip(r.mix.column(0));
        rows.for_each(|(mut row, &a)| row.mapv_inplace(|p| a * p));
    }
    for e in 0..mixture.count {
        r.tokens.clear();
        let takes = |&t: &usize| r.shares[[t, e]] != 0.0;
        r.tokens.extend((0..batch.tokens()).filter(takes));
        if r.tokens.is_empty() {
            continue;
        }
        r.of_expert(spec, r.tokens.len());
        for (mut row, &t) in r.read.rows_mut().into_iter().zip(&r.tokens) {
            row.assign(&s.normed.row(t));
        }
        let mut visit = |site, data: &mut Array2<f32>| {
            if hook.wants(site) {
                let view = SiteView {
                    data: data.view_mut(),
                    seqs: &batch.seqs,
                    tokens: Some(&r.tokens),
                };
                hook.visit(site, view);
            }
        };
        let x = Input::with(r.read.view(), None, batch.arithmetic);
        let unseen = &mut |_: fn(usize) -> Site, _: &mut Array2<f32>| ();
        let channels = mixture.intermediate_size;
        inner.widen(spec, layer, Some(e), &x, channels, unseen);
        visit(Site::ExpertDownIn(l, e), &mut inner.up);
        let x = Input::with(inner.up.view(), None, batch.arithmetic);
        layer[(Some(e), Linear::Down)].apply(&x, r.out.view_mut());
        visit(Site::ExpertDownOut(l, e), &mut r.out);
        for (&t, row) in r.tokens.iter().zip(r.out.rows()) {
            s.out.row_mut(t).scaled_add(r.shares[[t, e]], &row);
        }
    }
}

/// How much each token takes of its experts and of the MLP beside them.
fn shares_of_both(mix: &Affine, batch: &Batch<'_>, s: &mut Scratch) {
    let x = Input::with(s.normed.view(), None, batch.arithmetic);
    reshape(&mut s.routed.mix, batch.tokens(), 2);
    mix.apply(&x, s.routed.mix.view_mut()); // [tokens, hidden] x [2, hidden]^T
    for mut row in s.routed.mix.rows_mut() {
        sw_tensor::softmax(row.as_slice_mut().expect("row-major"));
    }
}

/// Sets all but the largest probabilities to zero (of equals, the first stay), and scales them to sum 1 if asked.
fn keep_largest(p: &mut [f32], mixture: Experts, order: &mut Vec<usize>) {
    order.clear();
    order.extend(0..p.len());
    order.sort_unstable_by(|&a, &b| p[b].total_cmp(&p[a]).then(a.cmp(&b)));
    let (kept, dropped) = order.split_at(mixture.per_token.min(p.len()));
    dropped.iter().for_each(|&e| p[e] = 0.0);
    if mixture.normalize {
        let sum: f32 = kept.iter().map(|&e| p[e]).sum();
        p.iter_mut().for_each(|p| *p /= sum);
    }
}
