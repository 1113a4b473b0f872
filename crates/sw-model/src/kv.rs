//! Keys and values of tokens that several sequences share.

use std::sync::Arc;

use ndarray::Array2;
use sw_tensor::KeySpan;

/// The keys and values of a prefix, immutable and cheap to clone; may extend another prefix.
#[derive(Clone)]
pub struct Kv(Arc<Span>);

struct Span {
    parent: Option<Kv>,
    /// Tokens before this span.
    start: usize,
    tokens: usize,
    /// Which rope variant the keys were rotated with; see `rope.rs`.
    rope: u64,
    /// Identifies the model (weights and edits) that computed it.
    model: u64,
    /// Per layer: rotated keys and values, each `[tokens, kv_heads * head_dim]`.
    layers: Vec<[Array2<f32>; 2]>,
}

impl Kv {
    pub(crate) fn new(
        parent: Option<&Kv>,
        tokens: usize,
        rope: u64,
        model: u64,
        layers: Vec<[Array2<f32>; 2]>,
    ) -> Self {
        let start = parent.map_or(0, Kv::len);
        Kv(Arc::new(Span {
            parent: parent.cloned(),
            start,
            tokens,
            rope,
            model,
            layers,
        }))
    }

    /// Tokens of the whole prefix.
    #[expect(clippy::len_without_is_empty, reason = "a prefix is never empty")]
    pub fn len(&self) -> usize {
        self.0.start + self.0.tokens
    }

    pub(crate) fn rope(&self) -> u64 {
        self.0.rope
    }

    pub(crate) fn model(&self) -> u64 {
        self.0.model
    }

    /// The spans of one layer, first tokens first.
    pub(crate) fn spans(&self, layer: usize) -> Vec<KeySpan<'_>> {
        let mut spans = self
            .0
            .parent
            .as_ref()
            .map_or_else(Vec::new, |p| p.spans(layer));
        let [k, v] = &self.0.layers[layer];
        spans.push(KeySpan {
            k: k.view(),
            v: v.view(),
        });
        spans
    }
}
