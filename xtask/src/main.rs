//! Tasks of this workspace: the experiments of the paper, one command each.
#![forbid(unsafe_code)]

fn main() {}
