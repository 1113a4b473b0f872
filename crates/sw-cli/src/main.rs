//! `sw`; see the library of this crate.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    sw_cli::main()
}
