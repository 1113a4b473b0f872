//! Checks that what `docs/architecture.md` promises about the sources is so.

mod arrows;
mod licences;
mod sources;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::Value;

use sw_cli::program::say;

/// Check the architecture's rules: which crate uses which, where `unsafe`, printing and the environment may stand, lengths
/// of files, links between documents, licences of dependencies.
///
/// It prints one line for each broken rule, and fails if there is one.
#[derive(Args)]
pub(crate) struct Tidy {
    /// Write the list of arrows in docs/architecture.md anew from the manifests, instead of checking it
    #[arg(long)]
    write: bool,
}

impl Tidy {
    pub(crate) fn run(&self) -> Result<()> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let metadata = metadata(&root)?;
        let mut broken = arrows::check(&root, &metadata, self.write)?;
        broken.extend(licences::check(&metadata)?);
        let files = tracked(&root)?;
        broken.extend(sources::check(&root, &files)?);
        for line in &broken {
            say(line)?;
        }
        ensure!(broken.is_empty(), "{} rules are broken", broken.len());
        say(format!("{} files follow the rules", files.len()))
    }
}

/// What cargo says of the workspace and of everything that it depends on.
fn metadata(root: &Path) -> Result<Value> {
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let arguments = ["metadata", "--format-version", "1", "--locked"];
    let output = output(root, cargo, &arguments)?;
    serde_json::from_slice(&output).context("the output of cargo metadata")
}

/// The files that git tracks, relative to the root. A file that was removed and not yet committed is left out.
fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let output = output(root, "git", &["ls-files", "-z"])?;
    let names = String::from_utf8(output).context("git ls-files: a file name is not UTF-8")?;
    let files = names.split_terminator('\0').map(PathBuf::from);
    Ok(files.filter(|f| root.join(f).is_file()).collect())
}

fn output(root: &Path, program: &str, arguments: &[&str]) -> Result<Vec<u8>> {
    let mut command = std::process::Command::new(program);
    let done = command.args(arguments).current_dir(root).output();
    let done = done.with_context(|| format!("{program} could not be started"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        let last = said.lines().last().unwrap_or_default();
        bail!("{program} {} failed: {last}", arguments.join(" "));
    }
    Ok(done.stdout)
}
