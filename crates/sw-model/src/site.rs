//! One typed vocabulary of places in the forward pass, and the hooks that look at them.

use std::{fmt, ops::Range, str::FromStr};

use ndarray::ArrayViewMut2;

use crate::{
    edit::{Linear, LinearAt},
    spec::{QkvLayout, Spec},
};

/// A place in the forward pass, the same for all families. Each is a `[tokens, channels]` matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Site {
    /// Token embeddings (with position embedding and multiplier where the family has them); `[tokens, hidden]`.
    Embed,
    /// The residual stream entering a layer; `[tokens, hidden]`.
    ResidPre(usize),
    /// The input of the q, k and v projections; `[tokens, hidden]`.
    AttnIn(usize),
    /// Output of `q_proj` with its bias, before q-norm and rotation; `[tokens, heads * head_dim]`.
    Query(usize),
    /// Output of `k_proj`, likewise; `[tokens, kv_heads * head_dim]`.
    Key(usize),
    /// Output of `v_proj`; `[tokens, kv_heads * head_dim]`.
    Value(usize),
    /// Queries after q-norm and rotation, as the attention reads them.
    RotQuery(usize),
    /// Keys after k-norm and rotation, as the attention reads them.
    RotKey(usize),
    /// The heads' outputs side by side: the input of `o_proj`; `[tokens, heads * head_dim]`.
    OIn(usize),
    /// Output of `o_proj`, before any norm that follows it; `[tokens, hidden]`.
    AttnOut(usize),
    /// The residual stream between attention and MLP (absent in parallel blocks); `[tokens, hidden]`.
    ResidMid(usize),
    /// The input of the gate and up projections, and of the router; `[tokens, hidden]`.
    MlpIn(usize),
    /// Output of `gate_proj` with its bias, before the activation (outside experts); `[tokens, intermediate]`.
    GateOut(usize),
    /// Output of `up_proj` with its bias, likewise; in an MLP without a gate, before the activation.
    UpOut(usize),
    /// The input of `down_proj`; `[tokens, intermediate]`.
    DownIn(usize),
    /// The output of `down_proj`, before any norm that follows it and before it is mixed with that of residual experts (experts in
    /// the MLP's place: their weighted sum); `[tokens, hidden]`.
    DownOut(usize),
    /// The input of one expert's `down_proj`, for the tokens routed to it; `[routed tokens, intermediate]`.
    ExpertDownIn(usize, usize),
    /// The output of one expert's `down_proj`, before the router's weight; `[routed tokens, hidden]`.
    ExpertDownOut(usize, usize),
    /// The residual stream leaving a layer; `[tokens, hidden]`.
    ResidPost(usize),
    /// The rows after the final norm, which the output head reads; `[tokens, hidden]`.
    FinalNorm,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Site::Embed => f.write_str("embed"),
            Site::ResidPre(l) => write!(f, "resid_pre.{l}"),
            Site::AttnIn(l) => write!(f, "attn_in.{l}"),
            Site::Query(l) => write!(f, "query.{l}"),
            Site::Key(l) => write!(f, "key.{l}"),
            Site::Value(l) => write!(f, "value.{l}"),
            Site::RotQuery(l) => write!(f, "rot_query.{l}"),
            Site::RotKey(l) => write!(f, "rot_key.{l}"),
            Site::OIn(l) => write!(f, "o_in.{l}"),
            Site::AttnOut(l) => write!(f, "attn_out.{l}"),
            Site::ResidMid(l) => write!(f, "resid_mid.{l}"),
            Site::MlpIn(l) => write!(f, "mlp_in.{l}"),
            Site::GateOut(l) => write!(f, "gate_out.{l}"),
            Site::UpOut(l) => write!(f, "up_out.{l}"),
            Site::DownIn(l) => write!(f, "down_in.{l}"),
            Site::DownOut(l) => write!(f, "down_out.{l}"),
            Site::ExpertDownIn(l, e) => write!(f, "expert_down_in.{l}.{e}"),
            Site::ExpertDownOut(l, e) => write!(f, "expert_down_out.{l}.{e}"),
            Site::ResidPost(l) => write!(f, "resid_post.{l}"),
            Site::FinalNorm => f.write_str("final_norm"),
        }
    }
}

impl FromStr for Site {
    type Err = String;

    /// The inverse of `Display`: `"down_in.3".parse() == Ok(Site::DownIn(3))`.
    fn from_str(s: &str) -> Result<Self, String> {
        let bad = || format!("{s}: not a site; expected a name like down_in.3");
        let mut parts = s.split('.');
        let name = parts.next().unwrap_or_default();
        let index: Vec<usize> = parts
            .map(|p| p.parse().map_err(|_| bad()))
            .collect::<Result<_, _>>()?;
        Ok(match (name, &index[..]) {
            ("embed", []) => Site::Embed,
            ("resid_pre", &[l]) => Site::ResidPre(l),
            ("attn_in", &[l]) => Site::AttnIn(l),
            ("query", &[l]) => Site::Query(l),
            ("key", &[l]) => Site::Key(l),
            ("value", &[l]) => Site::Value(l),
            ("rot_query", &[l]) => Site::RotQuery(l),
            ("rot_key", &[l]) => Site::RotKey(l),
            ("o_in", &[l]) => Site::OIn(l),
            ("attn_out", &[l]) => Site::AttnOut(l),
            ("resid_mid", &[l]) => Site::ResidMid(l),
            ("mlp_in", &[l]) => Site::MlpIn(l),
            ("gate_out", &[l]) => Site::GateOut(l),
            ("up_out", &[l]) => Site::UpOut(l),
            ("down_in", &[l]) => Site::DownIn(l),
            ("down_out", &[l]) => Site::DownOut(l),
            ("expert_down_in", &[l, e]) => Site::ExpertDownIn(l, e),
            ("expert_down_out", &[l, e]) => Site::ExpertDownOut(l, e),
            ("resid_post", &[l]) => Site::ResidPost(l),
            ("final_norm", []) => Site::FinalNorm,
            _ => return Err(bad()),
        })
    }
}

impl Site {
    /// Where the input of a linear map is seen; `None` inside experts, but for `down_proj`.
    pub fn input_of(at: LinearAt) -> Option<Site> {
        let l = at.layer;
        Some(match (at.linear, at.expert) {
            (Linear::Down, Some(e)) => Site::ExpertDownIn(l, e),
            (_, Some(_)) => return None,
            (Linear::Q | Linear::K | Linear::V | Linear::Qkv, _) => Site::AttnIn(l),
            (Linear::O, _) => Site::OIn(l),
            (Linear::Gate | Linear::Up | Linear::GateUp, _) => Site::MlpIn(l),
            (Linear::Down, _) => Site::DownIn(l),
        })
    }

    /// Where one output channel of a linear map is seen, and its channel there: a fused map's output is seen in parts.
    /// `None` inside experts, but for `down_proj`.
    pub fn output_of(spec: &Spec, at: LinearAt, row: usize) -> Option<(Site, usize)> {
        let l = at.layer;
        let (q, kv, f) = (spec.q_width(), spec.kv_width(), spec.intermediate_size);
        Some(match (at.linear, at.expert) {
            (Linear::Down, Some(e)) => (Site::ExpertDownOut(l, e), row),
            (_, Some(_)) => return None,
            (Linear::Q, _) => (Site::Query(l), row),
            (Linear::K, _) => (Site::Key(l), row),
            (Linear::V, _) => (Site::Value(l), row),
            (Linear::Qkv, _) => match spec.names.qkv_layout {
                QkvLayout::Blocks if row < q => (Site::Query(l), row),
                QkvLayout::Blocks if row < q + kv => (Site::Key(l), row - q),
                QkvLayout::Blocks => (Site::Value(l), row - q - kv),
                QkvLayout::Heads => {
                    let dim = spec.attention.head_dim;
                    let (head, part) = (row / (3 * dim), row / dim % 3);
                    let site = [Site::Query(l), Site::Key(l), Site::Value(l)][part];
                    (site, head * dim + row % dim)
                }
            },
            (Linear::O, _) => (Site::AttnOut(l), row),
            (Linear::Gate, _) => (Site::GateOut(l), row),
            (Linear::Up, _) => (Site::UpOut(l), row),
            (Linear::GateUp, _) if row < f => (Site::GateOut(l), row),
            (Linear::GateUp, _) => (Site::UpOut(l), row - f),
            (Linear::Down, _) => (Site::DownOut(l), row),
        })
    }
}

/// The rows of one sequence in a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeqRange {
    /// Its rows in the batch.
    pub rows: Range<usize>,
    /// The absolute position of its first row: the length of its prefix.
    pub start: usize,
}

impl SeqRange {
    /// The position after its last row.
    pub(crate) fn end(&self) -> usize {
        self.start + self.rows.len()
    }
}

/// What a hook sees at a site.
pub struct SiteView<'a> {
    /// The values, `[tokens, channels]`; a change takes effect in the rest of the pass.
    pub data: ArrayViewMut2<'a, f32>,
    /// The sequences of the batch and their absolute positions.
    pub seqs: &'a [SeqRange],
    /// At an expert's sites, the batch row behind each row of `data`; elsewhere `None`.
    pub tokens: Option<&'a [usize]>,
}

/// Something that looks at (or changes) activations during a forward pass. `()` is no hook at all.
pub trait Hook {
    /// Whether [`visit`](Hook::visit) is to be called at this site.
    fn wants(&self, site: Site) -> bool;
    /// Called once per pass at each wanted site, in the order of the computation.
    fn visit(&mut self, site: Site, view: SiteView<'_>);
}

impl Hook for () {
    fn wants(&self, _: Site) -> bool {
        false
    }
    fn visit(&mut self, _: Site, _: SiteView<'_>) {}
}

impl<A: Hook, B: Hook> Hook for (A, B) {
    fn wants(&self, site: Site) -> bool {
        self.0.wants(site) || self.1.wants(site)
    }
    fn visit(&mut self, site: Site, mut view: SiteView<'_>) {
        if self.0.wants(site) {
            let SiteView {
                ref mut data,
                seqs,
                tokens,
            } = view;
            self.0.visit(
                site,
                SiteView {
                    data: data.view_mut(),
                    seqs,
                    tokens,
                },
            );
        }
        if self.1.wants(site) {
            self.1.visit(site, view);
        }
    }
}

impl<H: Hook + ?Sized> Hook for &mut H {
    fn wants(&self, site: Site) -> bool {
        (**self).wants(site)
    }
    fn visit(&mut self, site: Site, view: SiteView<'_>) {
        (**self).visit(site, view);
    }
}

impl<H: Hook + ?Sized> Hook for Box<H> {
    fn wants(&self, site: Site) -> bool {
        (**self).wants(site)
    }
    fn visit(&mut self, site: Site, view: SiteView<'_>) {
        (**self).visit(site, view);
    }
}

impl<H: Hook> Hook for [H] {
    fn wants(&self, site: Site) -> bool {
        self.iter().any(|h| h.wants(site))
    }
    fn visit(&mut self, site: Site, mut view: SiteView<'_>) {
        for hook in self.iter_mut().filter(|h| h.wants(site)) {
            hook.visit(
                site,
                SiteView {
                    data: view.data.view_mut(),
                    seqs: view.seqs,
                    tokens: view.tokens,
                },
            );
        }
    }
}
