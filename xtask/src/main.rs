//! Tasks of this workspace: the experiments of the paper, one command each.
//!
//! ```text
//! cargo xtask reproduce-table1
//! cargo xtask reproduce-table1 --model MODEL --data DATA --limit 50 --out out
//! ```
#![forbid(unsafe_code)]

mod calibrate;
mod chart;
mod inputs;
mod lab;
mod outcome;
mod output;
mod paired;
mod progress;
mod published;
mod report;
mod reproduce;
mod svg;
mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The experiments of "The Super Weight in Large Language Models" (arXiv 2411.07191), one command each.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make all tables and figures, or some of them, and one report of them
    Reproduce(reproduce::Reproduce),
    ReproduceTable1(reproduce::Command<reproduce::Table1>),
    ReproduceFigure1(reproduce::Command<reproduce::Figure1>),
    ReproduceFigure2(reproduce::Command<reproduce::Figure2>),
    ReproduceTable2(reproduce::Command<reproduce::Table2>),
    ReproduceFigure3(reproduce::Command<reproduce::Figure3>),
    ReproduceFigure10(reproduce::Command<reproduce::Figure10>),
    ReproduceFigure4(reproduce::Command<reproduce::Figure4>),
    ReproduceFigure5(reproduce::Command<reproduce::Figure5>),
    ReproduceFigure6(reproduce::Command<reproduce::Figure6>),
    ReproduceTable3(reproduce::Command<reproduce::Table3>),
    ReproduceTable4(reproduce::Command<reproduce::Table4>),
    ReproduceTable7(reproduce::Command<reproduce::Table7>),
    ReproduceFigure7(reproduce::Command<reproduce::Figure7>),
    ReproduceTable6(reproduce::Command<reproduce::Table6>),
    ReproduceBeyond(reproduce::Command<reproduce::Beyond>),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = sw_tensor::check_isa() {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    let result = match cli.command {
        Command::Reproduce(c) => c.run(),
        Command::ReproduceTable1(c) => c.run(),
        Command::ReproduceFigure1(c) => c.run(),
        Command::ReproduceFigure2(c) => c.run(),
        Command::ReproduceTable2(c) => c.run(),
        Command::ReproduceFigure3(c) => c.run(),
        Command::ReproduceFigure10(c) => c.run(),
        Command::ReproduceFigure4(c) => c.run(),
        Command::ReproduceFigure5(c) => c.run(),
        Command::ReproduceFigure6(c) => c.run(),
        Command::ReproduceTable3(c) => c.run(),
        Command::ReproduceTable4(c) => c.run(),
        Command::ReproduceTable7(c) => c.run(),
        Command::ReproduceFigure7(c) => c.run(),
        Command::ReproduceTable6(c) => c.run(),
        Command::ReproduceBeyond(c) => c.run(),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(3), // some of several experiments could not be made
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
