//! Tasks of this workspace: the experiments of the paper, one command each.
//!
//! ```text
//! cargo xtask reproduce all --out out
//! cargo xtask reproduce-table1
//! cargo xtask reproduce-table1 --model MODEL --data DATA --limit 50 --out out
//! ```
#![forbid(unsafe_code)]

mod clips;
#[cfg(unix)]
mod fuzz;
mod inputs;
mod lab;
mod numbers;
mod outcome;
mod page;
mod paired;
mod peers;
mod published;
mod reproduce;
mod tidy;
#[cfg(unix)]
mod torture;
mod train_nano;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sw_cli::program;

/// The experiments of "The Super Weight in Large Language Models" (arXiv 2411.07191), one command each.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    BenchClips(clips::BenchClips),
    BenchPeers(peers::BenchPeers),
    #[cfg(unix)]
    Fuzz(fuzz::Fuzz),
    #[command(flatten)]
    Reproduce(reproduce::Commands),
    Tidy(tidy::Tidy),
    #[cfg(unix)]
    Torture(torture::Torture),
    TrainNano(train_nano::TrainNano),
}

fn main() -> ExitCode {
    #[cfg(unix)]
    if let Some(code) = torture::as_sw(std::env::args_os().skip(1)) {
        return code;
    }
    let cli = Cli::parse();
    program::run(|| {
        let complete = match cli.command {
            Command::BenchClips(c) => c.run(),
            Command::BenchPeers(c) => c.run().map(|()| true),
            #[cfg(unix)]
            Command::Fuzz(c) => c.run().map(|()| true),
            Command::Reproduce(c) => c.run(),
            Command::Tidy(c) => c.run().map(|()| true),
            #[cfg(unix)]
            Command::Torture(c) => c.run().map(|()| true),
            Command::TrainNano(c) => c.run().map(|()| true),
        }?;
        // Some of several experiments could not be made.
        Ok(ExitCode::from(if complete { 0 } else { 3 }))
    })
}
