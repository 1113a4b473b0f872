#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod activation;
mod bits;
mod block_params;
mod clip;
mod codec;
mod encode;
mod error;
mod fake;
mod grouping;
mod levels;
mod moments;
#[cfg(feature = "ndarray")]
pub mod ndarray;
pub mod outliers;
pub mod packed;
mod par;
mod quantized;
mod real;
pub mod reference;
#[cfg(feature = "safetensors")]
pub mod safetensors;
mod scheme;
pub mod search;
mod simd;
pub mod smooth;
pub mod stats;

pub use activation::{Activation, Fill, Pick};
pub use clip::{Clip, Scope};
pub use encode::{quantize, quantize_weighted};
pub use error::Error;
pub use fake::{Report, fake_quantize, fake_quantize_weighted};
pub use grouping::{Blocks, Grouping, Tail};
pub use levels::{Levels, Steps, ZeroPoint};
pub use quantized::{Offsets, Outlier, Quantized, View};
pub use real::{Dtype, Real};
pub use scheme::{Arithmetic, Scheme};
