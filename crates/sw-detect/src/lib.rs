//! Finds the super weights of a language model with forward passes.
#![forbid(unsafe_code)]
