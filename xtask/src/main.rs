//! Tasks of this workspace: the experiments of the paper, one command each.
//!
//! ```text
//! cargo xtask reproduce all --out out
//! cargo xtask reproduce-table1
//! cargo xtask reproduce-table1 --model MODEL --data DATA --limit 50 --out out
//! ```
#![forbid(unsafe_code)]

mod bench_peers;
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
mod tidy;
mod train_nano;

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
    BenchPeers(bench_peers::BenchPeers),
    #[command(flatten)]
    Reproduce(reproduce::Commands),
    Tidy(tidy::Tidy),
    TrainNano(train_nano::TrainNano),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = sw_tensor::check_isa() {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    let result = match cli.command {
        Command::BenchPeers(c) => c.run().map(|()| true),
        Command::Reproduce(c) => c.run(),
        Command::Tidy(c) => c.run().map(|()| true),
        Command::TrainNano(c) => c.run().map(|()| true),
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
