//! What a language model must offer to be evaluated: tokens in, scores out.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use crate::error::Result;

/// Tokens, the last of which are scored given all before them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// Context and continuation; `tokens[..tokens.len() - 1]` is what the model reads.
    pub tokens: Vec<u32>,
    /// Index of the first scored token; at least 1.
    pub from: usize,
}

/// The model's answer to a [`Span`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Sum of the log-probabilities of the scored tokens (natural logarithm).
    pub log_prob: f64,
    /// Whether every scored token is the most probable one at its place.
    pub greedy: bool,
}

impl Score {
    /// Whether it can be: a log-probability is at most 0, and no model gives NaN.
    pub(crate) fn can_be(self) -> bool {
        self.log_prob <= 0.0
    }
}

/// What a result says about the model that gave it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// A path or repository name.
    pub name: String,
    /// Identifies weights and tokenizer; results of different fingerprints are never mixed.
    pub fingerprint: String,
    /// The type the weights are stored in.
    pub dtype: String,
    /// The kernel that multiplies; results of different kernels are never mixed.
    pub kernel: String,
    /// In which precision linear maps are computed, where that is not float32: `bfloat16`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_dtype: Option<String>,
    /// Whether weights were rounded for that precision, since they are stored in another.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub weights_rounded: bool,
    /// The GGUF file that was read, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gguf: Option<String>,
    /// Fields of the model's configuration that it was told to pass over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored_config_fields: Vec<String>,
    /// Fields of the model's configuration that no known model reads, and that were passed over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown_config_fields: Vec<String>,
    /// What was noticed when the model was opened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Receives answers as they are found, in any order; `Break` stops the run after the current batch, of which it may still
/// be given the others.
pub type Sink<'a> = dyn FnMut(usize, Score) -> ControlFlow<()> + 'a;

/// A language model behind any runtime.
///
/// The evaluation turns documents into texts, texts into [`Span`]s of tokens, and asks only for their scores, so an
/// implementation needs a tokenizer and one forward pass. It may answer in any order and share whatever spans have in
/// common, but an answer must not depend on which others are asked for. Texts are encoded on several threads at once.
///
/// ```
/// use std::ops::ControlFlow;
/// use sw_eval::{LanguageModel, ModelInfo, Result, Score, Sink, Span};
///
/// /// Every byte is a token, and all 256 are equally probable.
/// struct Uniform;
///
/// impl LanguageModel for Uniform {
///     fn info(&self) -> ModelInfo {
///         ModelInfo { name: "uniform".into(), ..Default::default() }
///     }
///     fn encode(&self, text: &str, _special: bool) -> Result<Vec<u32>> {
///         Ok(text.bytes().map(u32::from).collect())
///     }
///     fn bos(&self) -> Option<u32> {
///         None
///     }
///     fn eos(&self) -> Option<u32> {
///         Some(0)
///     }
///     fn max_length(&self) -> usize {
///         2048
///     }
///     fn score(&self, spans: &[Span], sink: &mut Sink<'_>) -> Result<()> {
///         for (i, span) in spans.iter().enumerate() {
///             let scored = (span.tokens.len() - span.from) as f64;
///             let score = Score { log_prob: -scored * 256f64.ln(), greedy: false };
///             if sink(i, score) == ControlFlow::Break(()) {
///                 break;
///             }
///         }
///         Ok(())
///     }
/// }
/// ```
pub trait LanguageModel: Sync {
    /// Name, fingerprint, kernel: what results record.
    fn info(&self) -> ModelInfo;

    /// The ids of a text; `special`: with what the tokenizer adds by itself.
    ///
    /// # Errors
    /// When the text cannot be encoded.
    fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>>;

    /// The beginning-of-sequence token.
    fn bos(&self) -> Option<u32>;

    /// The end-of-sequence token.
    fn eos(&self) -> Option<u32>;

    /// The most tokens the model reads at once.
    fn max_length(&self) -> usize;

    /// Scores spans; calls `sink` once for each index of `spans`, unless the sink says to stop.
    ///
    /// # Errors
    /// When the model cannot be run.
    fn score(&self, spans: &[Span], sink: &mut Sink<'_>) -> Result<()>;
}
