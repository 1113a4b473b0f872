//! Hugging Face checkpoints on CPUs: config to spec to one forward pass with typed sites and hooks.
#![forbid(unsafe_code)]
