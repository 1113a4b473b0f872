//! The kernels for x86-64: the only intrinsics of the product.

pub(super) mod amx;
mod avx2;
pub(super) mod avx512;
mod avx512_bf16;
pub(super) mod dot;
mod dot_blocks;
mod dot_tiles;
mod tile;
mod vector;
