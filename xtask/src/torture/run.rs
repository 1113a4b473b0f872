//! Running `sw`, and looking at what it left.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

/// Files by their paths in a folder.
pub(super) type Tree = BTreeMap<String, Vec<u8>>;

/// `sw` with these arguments; its kernel is the best one.
pub(super) fn sw(args: &[OsString]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("sw").args(args).env_remove("SW_ISA");
    command.stdin(Stdio::null());
    Ok(command)
}

pub(super) fn spawn(command: &mut Command) -> Result<Child> {
    let quiet = command.stdout(Stdio::null()).stderr(Stdio::piped());
    Ok(quiet.spawn()?)
}

/// Waits for a process; its exit code (or the signal, negative) and stderr.
pub(super) fn ended(child: Child) -> Result<(i32, String)> {
    let output = child.wait_with_output()?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!stderr.contains("panicked"), "a panic: {stderr}");
    let signal = output.status.signal().map(|signal| -signal);
    Ok((output.status.code().or(signal).unwrap_or(i32::MIN), stderr))
}

/// Runs a command that must succeed; how long it took.
pub(super) fn succeeds(command: &mut Command) -> Result<Duration> {
    let clock = Instant::now();
    match ended(spawn(command)?)? {
        (0, _) => Ok(clock.elapsed()),
        (code, stderr) => bail!("exit code {code}: {}", stderr.trim()),
    }
}

/// A failure that a user can read: exit code 1, one error of one line.
pub(super) fn is_one_line((code, stderr): &(i32, String)) -> Result<()> {
    ensure!(*code == 1, "exit code {code}: {stderr}");
    let errors: Vec<_> = stderr.lines().filter(|line| !is_note(line)).collect();
    ensure!(
        errors.len() == 1 && errors[0].starts_with("error: "),
        "not one line: {stderr}"
    );
    Ok(())
}

fn is_note(line: &str) -> bool {
    const STARTS: [&str; 8] = [
        "note: ",
        "warning: ",
        "written: ",
        "stopping",
        "shard ",
        "before: ",
        "step ",
        "goes on after step ",
    ];
    STARTS.iter().any(|start| line.starts_with(start))
        || [" weights are trained (", " tiles of "]
            .iter()
            .any(|part| line.contains(part))
}

/// Everything in a folder.
pub(super) fn tree(dir: &Path) -> Result<Tree> {
    fn add(dir: &Path, prefix: &str, tree: &mut Tree) -> Result<()> {
        for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let name = format!("{prefix}{name}");
            if path.is_dir() {
                add(&path, &format!("{name}/"), tree)?;
            } else {
                tree.insert(name, fs::read(&path)?);
            }
        }
        Ok(())
    }
    let mut all = Tree::new();
    if dir.is_dir() {
        add(dir, "", &mut all)?;
    }
    Ok(all)
}

pub(super) fn names(tree: &Tree) -> String {
    tree.keys().cloned().collect::<Vec<_>>().join(", ")
}
