//! Memory-mapped 16-bit weights and the CPU kernels a transformer's forward pass needs: `x * W^T`, norms, rope,
//! activations, softmax and attention.
//!
//! The crate knows no model. It offers three things:
//!
//! - [`Checkpoint`] opens the `*.safetensors` files of one directory without copying them and hands out [`Mat`]s;
//! - [`Mat`] is a matrix of F32, F16 or BF16 weights, shared and immutable, with an optional sparse overlay of edited
//!   weights that costs no copy of the base;
//! - functions over [`ndarray`] views of f32 activations, one row per token.
//!
//! ```
//! use ndarray::{Array2, array};
//! use sw_tensor::{Mat, matmul_t};
//!
//! let w = Mat::from_f32(2, 3, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]); // [out, in]
//! let pruned = w.edited(&[(0, 2, 0.0)])?; // shares the base
//! let x = array![[1.0, 1.0, 1.0]]; // [tokens, in]
//! let mut y = Array2::zeros((1, 2));
//! matmul_t(x.view(), &pruned, y.view_mut()); // [tokens, in] x [out, in]^T -> [tokens, out]
//! assert_eq!(y, array![[3.0, 15.0]]);
//! # Ok::<(), sw_tensor::Error>(())
//! ```
//!
//! # What may be relied upon
//!
//! A row of a result depends only on that row of the input: not on how many other rows the call has, on the number of
//! threads, or on cache sizes. Every fast path has a slow twin in [`reference`](mod@reference). The kernel is chosen
//! once per process from what the CPU offers; the environment variable `SW_ISA` (`scalar`, `avx2`, `avx512`, `amx`) forces
//! one; [`isa_name`] says which it is.
//!
//! # What it does not do
//!
//! No training, no GPUs, no shapes beyond two dimensions, no dtypes beyond the three above.

mod activation;
mod attention;
mod checkpoint;
mod dtype;
mod elementwise;
mod error;
pub mod files;
mod gguf;
mod isa;
pub mod machine;
mod mat;
mod matmul;
mod norm;
mod overlay;
pub mod reference;
mod rope;
mod rows;
mod softmax;
mod sum;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod vecmath;

pub use activation::{GeluKind, gelu, gelu_mul, silu, silu_mul};
pub use attention::{AttentionSeq, AttentionShape, KeySpan, attention};
#[cfg(unix)]
pub use checkpoint::report_shortened_files;
pub use checkpoint::{Checkpoint, FileInfo, TensorInfo};
pub use dtype::Dtype;
pub use elementwise::{add, add_bias, all_finite};
pub use error::Error;
pub use gguf::{Coding, Gguf, GgufTensor, GgufValue, RowOrder, TensorView, is_first_part};
pub use isa::{check_isa, isa_name, kernel_name};
pub use mat::Mat;
pub use matmul::{
    Arithmetic, CodeOffsets, Codes, Order, Precision, matmul_t, matmul_t_codes, matmul_t_each,
    matmul_t_i8, product,
};
pub use norm::Norm;
pub use rope::{Rope, RopeTurns};
pub use softmax::{LogSumExp, log_sum_exp, softmax};
