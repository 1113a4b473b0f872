//! The way back through one layer.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, Zip};
use sw_model::{Input, Linear, LinearAt, Model, Norm, Site};
use sw_tensor::RopeTurns;

use super::attention::{self, Heads};
use super::tape::Kept;
use super::{Gradients, Keep, to_input};
use crate::error::{Error, Result};
use crate::norm;

/// What all layers of a pass share.
pub(super) struct LayerPass<'m> {
    model: &'m Model,
    /// Rows of each sequence.
    seqs: Vec<Range<usize>>,
    /// The turns back, for each rotary embedding of the model.
    turns_back: Vec<RopeTurns>,
    eps: f32,
}

impl<'m> LayerPass<'m> {
    pub(super) fn new(model: &'m Model, lens: Vec<usize>) -> Result<Self> {
        let turns = model.rope_turns(&lens)?;
        let mut first = 0;
        let seqs = lens.into_iter().map(|len| {
            first += len;
            first - len..first
        });
        let Norm::Rms { eps, .. } = model.spec().norm else {
            return Err(Error::Unsupported {
                family: model.spec().family,
                what: "another norm than RMSNorm",
            });
        };
        Ok(LayerPass {
            model,
            seqs: seqs.collect(),
            turns_back: turns.iter().map(RopeTurns::transposed).collect(),
            eps,
        })
    }

    /// Turns the gradient of the residual stream after the layer `l` into that before it.
    pub(super) fn back(
        &self,
        l: usize,
        kept: Kept,
        dresid: &mut Array2<f32>,
        into: &mut impl Gradients,
    ) -> Result<()> {
        self.mlp(l, kept.resid_mid.view(), dresid, into)?;
        self.attention(l, kept, dresid, into)
    }

    /// `resid_post = resid_mid + down(silu(gate(x)) * up(x))` with `x = norm(resid_mid)`.
    fn mlp(
        &self,
        l: usize,
        resid_mid: ArrayView2<'_, f32>,
        dresid: &mut Array2<f32>,
        into: &mut impl Gradients,
    ) -> Result<()> {
        let [gate_at, up_at, down_at] =
            [Linear::Gate, Linear::Up, Linear::Down].map(|linear| LinearAt::dense(l, linear));
        let x = self.normed(Site::MlpIn(l), resid_mid)?;
        let width = self.model.spec().intermediate_size;
        let room = || Array2::<f32>::zeros((x.nrows(), width));
        let (mut gate, mut up) = (room(), room());
        let maps = [(gate_at, gate.view_mut()), (up_at, up.view_mut())];
        self.model.apply(&Input::new(x.view(), None), maps)?;
        let mut inner = Array2::zeros(up.dim());
        Zip::from(&mut inner)
            .and(&gate)
            .and(&up)
            .par_for_each(|inner, &g, &u| *inner = g * sigmoid(g) * u);
        if into.keep(down_at) != Keep::Nothing {
            into.linear(down_at, dresid.view(), inner.view());
        }

        let mut dinner = inner;
        dinner.fill(0.0);
        self.to_input(down_at, dresid.view(), dinner.view_mut())?;
        Zip::from(&dinner)
            .and(&mut gate)
            .and(&mut up)
            .par_for_each(|&d, gate, up| {
                let (g, u, s) = (*gate, *up, sigmoid(*gate));
                *up = d * g * s;
                *gate = d * u * s * (1.0 + g * (1.0 - s));
            });
        drop(dinner);
        let (dgate, dup) = (gate, up); // they hold the gradients now
        let mut dx = Array2::zeros(x.dim());
        for (at, d) in [(up_at, dup), (gate_at, dgate)] {
            if into.keep(at) != Keep::Nothing {
                into.linear(at, d.view(), x.view());
            }
            self.to_input(at, d.view(), dx.view_mut())?;
        }
        self.norm(Site::MlpIn(l), resid_mid, dx.view(), dresid, into)
    }

    /// `resid_mid = resid_pre + o(attention(q(x), k(x), v(x)))` with `x = norm(resid_pre)`.
    fn attention(
        &self,
        l: usize,
        kept: Kept,
        dresid: &mut Array2<f32>,
        into: &mut impl Gradients,
    ) -> Result<()> {
        let (spec, o_at) = (self.model.spec(), LinearAt::dense(l, Linear::O));
        let of_layer = spec.layers[l];
        let keep = into.keep(o_at);
        if keep != Keep::Nothing {
            let o_in = keep.whole(kept.o_in, kept.q.ncols());
            into.linear(o_at, dresid.view(), o_in.view());
        }
        let mut dout = Array2::zeros(kept.q.dim());
        self.to_input(o_at, dresid.view(), dout.view_mut())?;
        let heads = Heads {
            count: spec.attention.heads,
            kv_count: spec.attention.kv_heads,
            dim: spec.attention.head_dim,
            scale: of_layer.scale,
            window: of_layer.window,
        };
        let qkv = [kept.q.view(), kept.k.view(), kept.v.view()];
        let [mut dq, mut dk, dv] = attention::backward(qkv, dout.view(), &self.seqs, heads);
        drop(dout);
        if let Some(rope) = of_layer.rope {
            for d in [&mut dq, &mut dk] {
                self.turns_back[rope].apply(d.view_mut(), heads.dim);
            }
        }
        let maps = [(Linear::V, dv), (Linear::K, dk), (Linear::Q, dq)];
        let maps = maps.map(|(linear, d)| (LinearAt::dense(l, linear), d));
        if maps.iter().any(|&(at, _)| into.keep(at) != Keep::Nothing) {
            let x = self.normed(Site::AttnIn(l), kept.resid_pre.view())?;
            for (at, d) in &maps {
                if into.keep(*at) != Keep::Nothing {
                    into.linear(*at, d.view(), x.view());
                }
            }
        }
        let mut dx = Array2::zeros(kept.resid_pre.dim());
        for (at, d) in maps {
            self.to_input(at, d.view(), dx.view_mut())?;
        }
        let resid_pre = kept.resid_pre.view();
        self.norm(Site::AttnIn(l), resid_pre, dx.view(), dresid, into)
    }

    /// Adds the gradient with respect to the rows before a norm to `dx`, and hands on that of its weight.
    pub(super) fn norm(
        &self,
        site: Site,
        x: ArrayView2<'_, f32>,
        dy: ArrayView2<'_, f32>,
        dx: &mut Array2<f32>,
        into: &mut impl Gradients,
    ) -> Result<()> {
        let inv = norm::inverse_rms(x, self.eps);
        let gradient = norm::backward(x, &inv, self.norm_weight(site)?, dy, dx);
        into.norm(site, gradient.view());
        Ok(())
    }

    /// The rows after the norm that is read at this site.
    fn normed(&self, site: Site, x: ArrayView2<'_, f32>) -> Result<Array2<f32>> {
        let (weight, eps) = (self.norm_weight(site)?, self.eps);
        let weight = weight.row(0);
        let weight = weight.to_slice().unwrap_or_default();
        let mut y = Array2::zeros(x.dim());
        sw_tensor::Norm::Rms { weight, eps }.apply(x, y.view_mut());
        Ok(y)
    }

    /// `[1, channels]`.
    fn norm_weight(&self, site: Site) -> Result<ArrayView2<'m, f32>> {
        let weight = self.model.norm_weight(site);
        weight
            .map(|w| ndarray::ArrayView1::from(w).insert_axis(Axis(0)))
            .ok_or_else(|| self.unsupported("a block without a norm before it"))
    }

    /// `dx += dy * w`, whatever the map multiplies with.
    fn to_input(
        &self,
        at: LinearAt,
        dy: ArrayView2<'_, f32>,
        mut dx: ArrayViewMut2<'_, f32>,
    ) -> Result<()> {
        let product = self.model.product(at);
        if product.is_some_and(|product| product.multiply_back(dy, dx.view_mut())) {
            return Ok(());
        }
        let weight = self.model.weight_at(at);
        let weight = weight.ok_or_else(|| self.unsupported("linear maps that share a matrix"))?;
        to_input(dy, weight, dx);
        Ok(())
    }

    fn unsupported(&self, what: &'static str) -> Error {
        Error::Unsupported {
            family: self.model.spec().family,
            what,
        }
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
