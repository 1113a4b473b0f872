//! Attention sinks: heads that park their attention on one token.

use std::ops::Range;

use ndarray::{Array2, ArrayView1, ArrayView2, Axis};
use serde::{Deserialize, Serialize};
use sw_model::{Hook, Model, Seq, Site, SiteView, Spec};

use crate::error::{Error, Result};

/// Which token, and from which importance on a head counts (definitions of Gu et al., arXiv 2410.10781).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SinkOptions {
    /// The token whose importance is measured, from 0.
    pub token: usize,
    /// A head is a sink when the importance exceeds this.
    pub epsilon: f64,
}

impl Default for SinkOptions {
    fn default() -> Self {
        Self {
            token: 0,
            epsilon: 0.3,
        }
    }
}

/// One head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadSink {
    /// Layer, from 0.
    pub layer: usize,
    /// Query head, from 0.
    pub head: usize,
    /// The token's importance: the mean attention it receives from itself and all tokens after it; mean over the texts.
    pub importance: f64,
}

/// How much attention one token draws.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sinks {
    /// The share of heads whose importance exceeds epsilon; mean over the texts.
    pub share: f64,
    /// The mean importance over heads and texts.
    pub importance: f64,
    /// Every head.
    pub heads: Vec<HeadSink>,
    /// What was measured.
    pub options: SinkOptions,
}

/// Measures attention sinks on texts. For before and after, call it with the model and with
/// [`pruned`](crate::pruned).
///
/// # Errors
/// No texts, a text without the token asked for, and whatever stops a forward pass.
pub fn sinks(model: &Model, texts: &[Vec<u32>], options: &SinkOptions) -> Result<Sinks> {
    let shortest = texts.iter().map(Vec::len).min().unwrap_or(0);
    if shortest <= options.token {
        return Err(Error::Prompt {
            prompt: "the shortest text".into(),
            expected: options.token + 1,
            found: shortest,
        });
    }
    let mut hook = Importances::new(model.spec(), texts.len(), options.token);
    let seqs: Vec<_> = texts.iter().map(|t| Seq::from(t.as_slice())).collect();
    model.forward(&seqs, &mut hook)?;
    Ok(hook.summary(options))
}

struct Importances<'a> {
    spec: &'a Spec,
    token: usize,
    /// Rotated queries of the current layer; `[tokens, heads * head_dim]`.
    queries: Array2<f32>,
    /// `[layers * heads, texts]`.
    importance: Array2<f64>,
}

impl<'a> Importances<'a> {
    fn new(spec: &'a Spec, texts: usize, token: usize) -> Self {
        Self {
            spec,
            token,
            queries: Array2::zeros((0, 0)),
            importance: Array2::zeros((spec.layers.len() * spec.attention.heads, texts)),
        }
    }

    fn summary(self, options: &SinkOptions) -> Sinks {
        let all = self.importance.len() as f64;
        let sinks = self
            .importance
            .iter()
            .filter(|&&i| i > options.epsilon)
            .count();
        let heads = self.spec.attention.heads;
        let head = |(i, texts): (usize, ArrayView1<'_, f64>)| HeadSink {
            layer: i / heads,
            head: i % heads,
            importance: texts.sum() / texts.len() as f64,
        };
        Sinks {
            share: sinks as f64 / all,
            importance: self.importance.sum() / all,
            heads: self
                .importance
                .rows()
                .into_iter()
                .enumerate()
                .map(head)
                .collect(),
            options: options.clone(),
        }
    }

    /// The mean attention that the token receives in one head; `q` and `k` are one text's, `[tokens, head_dim]`.
    fn of_head(&self, layer: usize, q: ArrayView2<'_, f32>, k: ArrayView2<'_, f32>) -> f64 {
        let tokens = q.nrows();
        let window = self.spec.layers[layer].window.unwrap_or(tokens);
        let mut sum = 0.0;
        for i in self.token..tokens {
            let first = (i + 1).saturating_sub(window);
            let score = |j: usize| self.score(layer, q.row(i), k.row(j));
            let largest = (first..=i).map(score).fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = (first..=i).map(|j| (score(j) - largest).exp()).sum();
            if self.token >= first {
                sum += (score(self.token) - largest).exp() / total;
            }
        }
        sum / (tokens - self.token) as f64
    }

    fn score(&self, layer: usize, q: ArrayView1<'_, f32>, k: ArrayView1<'_, f32>) -> f64 {
        let score = q.dot(&k) * self.spec.layers[layer].scale;
        let softcap = self.spec.attention.softcap;
        f64::from(softcap.map_or(score, |cap| cap * (score / cap).tanh()))
    }
}

impl Hook for Importances<'_> {
    fn wants(&self, site: Site) -> bool {
        matches!(site, Site::RotQuery(_) | Site::RotKey(_))
    }

    fn visit(&mut self, site: Site, view: SiteView<'_>) {
        match site {
            Site::RotQuery(_) => self.queries = view.data.to_owned(),
            Site::RotKey(layer) => {
                let shape = self.spec.attention;
                let (dim, group) = (shape.head_dim, shape.heads / shape.kv_heads);
                for (text, seq) in view.seqs.iter().enumerate() {
                    for head in 0..shape.heads {
                        let (q, k) = (head * dim, head / group * dim);
                        let q = part(self.queries.view(), &seq.rows, q..q + dim);
                        let k = part(view.data.view(), &seq.rows, k..k + dim);
                        let importance = self.of_head(layer, q, k);
                        self.importance[[layer * shape.heads + head, text]] = importance;
                    }
                }
            }
            _ => {}
        }
    }
}

fn part<'a>(
    mut x: ArrayView2<'a, f32>,
    rows: &Range<usize>,
    cols: Range<usize>,
) -> ArrayView2<'a, f32> {
    x.slice_axis_inplace(Axis(0), rows.clone().into());
    x.slice_axis_inplace(Axis(1), cols.into());
    x
}
