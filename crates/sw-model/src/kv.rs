//! Keys and values of tokens that were computed: a prefix that several sequences share, or one sequence that grows.

use std::sync::Arc;

use ndarray::{Array2, Axis};
use sw_tensor::KeySpan;

/// The keys and values of a prefix, cheap to clone; may extend another prefix. A clone never changes: a prefix of which there
/// is no other clone grows in place, any other becomes the beginning of a longer one.
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

/// What one pass computed for one sequence: the keys and values of its tokens.
pub(crate) struct New {
    pub(crate) tokens: usize,
    pub(crate) rope: u64,
    pub(crate) model: u64,
    /// Per layer: rotated keys and values, each `[tokens, kv_heads * head_dim]`.
    pub(crate) layers: Vec<[Array2<f32>; 2]>,
}

impl Kv {
    pub(crate) fn new(parent: Option<&Kv>, new: New) -> Self {
        let start = parent.map_or(0, Kv::len);
        Kv(Arc::new(Span {
            parent: parent.cloned(),
            start,
            tokens: new.tokens,
            rope: new.rope,
            model: new.model,
            layers: new.layers,
        }))
    }

    /// Adds the tokens that come next. Memory grows by doubling, so that a token is moved a few times at most, however many
    /// come after it.
    pub(crate) fn append(&mut self, new: New) {
        let Some(span) = Arc::get_mut(&mut self.0) else {
            *self = Kv::new(Some(self), new);
            return;
        };
        for (kept, new) in span.layers.iter_mut().zip(&new.layers) {
            for (kept, new) in kept.iter_mut().zip(new) {
                kept.append(Axis(0), new.view()).expect("as many channels");
            }
        }
        span.tokens += new.tokens;
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
