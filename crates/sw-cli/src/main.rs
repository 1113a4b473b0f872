//! The `sw` command.
#![forbid(unsafe_code)]

fn main() {}
