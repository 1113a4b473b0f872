//! The command `sw`: super weights of language models, found, verified and measured. Arguments, tables and progress; what is
//! computed lives in the libraries.
//!
//! As a library this crate is [`main`], [`run`] and what `cargo xtask`, the other program of the workspace, shares with it:
//! [`opening`], [`program`] and [`windows`].
#![forbid(unsafe_code)]

mod args;
mod candidates;
mod compare;
mod detect;
mod directory;
mod eval;
mod generate;
mod inspect;
mod measured;
pub mod opening;
pub mod program;
mod quantize;
mod shell;
mod tune;
pub mod windows;

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Super weights of language models: which single numbers a model cannot do without.
///
/// MODEL is a directory in Hugging Face layout, or ORG/NAME or ORG/NAME@REVISION in the Hugging Face cache.
#[derive(Parser)]
#[command(
    name = "sw",
    version,
    arg_required_else_help = true,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Detect(detect::Detect),
    Verify(directory::Verify),
    Directory(directory::List),
    Eval(eval::Eval),
    Compare(compare::Compare),
    Merge(eval::Merge),
    Tasks(eval::Tasks),
    Quantize(quantize::Quantize),
    Tune(Box<tune::Tune>),
    Generate(generate::Generate),
    Inspect(inspect::Inspect),
    Completions(shell::Completions),
    Man(shell::Man),
}

/// Runs `sw` with the arguments of this process.
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

/// Runs `sw` with these arguments, the first of which is its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = Cli::parse_from(arguments);
    program::run(|| cli.command.run())
}

impl Command {
    fn run(&self) -> Result<ExitCode> {
        let done = match self {
            Self::Quantize(c) => return c.run(),
            Self::Detect(c) => c.run(),
            Self::Verify(c) => c.run(),
            Self::Directory(c) => c.run(),
            Self::Eval(c) => c.run(),
            Self::Compare(c) => c.run(),
            Self::Merge(c) => c.run(),
            Self::Tasks(c) => c.run(),
            Self::Tune(c) => c.run(),
            Self::Generate(c) => c.run(),
            Self::Inspect(c) => c.run(),
            Self::Completions(c) => c.run(),
            Self::Man(c) => c.run(),
        };
        done.map(|()| ExitCode::SUCCESS)
    }
}
