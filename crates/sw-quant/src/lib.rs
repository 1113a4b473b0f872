//! Round-to-nearest quantizers that hold outliers out (super weights, super activations).
#![forbid(unsafe_code)]
