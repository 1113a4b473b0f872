//! `sw`: super weights of language models, found, verified and measured.
//!
//! Thin: arguments, tables and progress. What is computed lives in the libraries.
#![forbid(unsafe_code)]

mod args;
mod compare;
mod detect;
mod directory;
mod eval;
mod generate;
mod inspect;
mod quantize;
mod shell;

use std::process::ExitCode;

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
    Generate(generate::Generate),
    Inspect(inspect::Inspect),
    Completions(shell::Completions),
    Man(shell::Man),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = sw_tensor::check_isa() {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    let result = match cli.command {
        Command::Detect(c) => c.run(),
        Command::Verify(c) => c.run(),
        Command::Directory(c) => c.run(),
        Command::Eval(c) => c.run(),
        Command::Compare(c) => c.run(),
        Command::Merge(c) => c.run(),
        Command::Tasks(c) => c.run(),
        Command::Quantize(c) => c.run(),
        Command::Generate(c) => c.run(),
        Command::Inspect(c) => c.run(),
        Command::Completions(c) => c.run(),
        Command::Man(c) => c.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", line(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes in one line, each said once.
fn line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line.replace('\n', " ")
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Writes a line to stdout; a reader that has gone away (`| head`) ends the program quietly.
pub(crate) fn say(text: impl std::fmt::Display) -> anyhow::Result<()> {
    use std::io::Write;
    writeln!(std::io::stdout().lock(), "{text}")?;
    Ok(())
}
