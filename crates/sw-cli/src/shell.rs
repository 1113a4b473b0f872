//! `sw completions` and `sw man`: what shells and `man` are told about the command.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::Cli;

/// Print the completion script of a shell.
///
/// Examples:
///   sw completions bash > ~/.local/share/bash-completion/completions/sw
///   sw completions zsh > ~/.zfunc/_sw
///   sw completions fish > ~/.config/fish/completions/sw.fish
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "sw", &mut script);
        print(&script)
    }
}

/// Print the manual page, or write those of all subcommands into a folder.
///
/// Examples:
///   sw man | man -l -
///   sw man --out ~/.local/share/man/man1
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Man {
    /// Write sw.1, sw-detect.1, ... there instead
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(&self) -> Result<()> {
        let Some(dir) = &self.out else {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            return print(&page);
        };
        let place = || dir.display().to_string();
        std::fs::create_dir_all(dir).with_context(place)?;
        clap_mangen::generate_to(Cli::command(), dir).with_context(place)
    }
}

fn print(bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    Ok(std::io::stdout().lock().write_all(bytes)?)
}
