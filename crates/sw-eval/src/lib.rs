//! Zero-shot and perplexity evaluation that agrees with lm-evaluation-harness.
#![forbid(unsafe_code)]
