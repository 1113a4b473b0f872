//! What a program of this workspace does around its work: exit codes, errors in one line, lines on stdout, whole files,
//! threads and progress. `sw` and `cargo xtask` share it.

use std::{fmt::Display, io::Write, num::NonZeroUsize, path::Path, process::ExitCode};

use anyhow::{Context, Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use sw_eval::Status;

/// Runs a program's work: its exit code is the program's, 1 after an error, which is printed in one line, and 2 where the
/// environment asks for a kernel that this processor does not have. A reader of stdout that has gone away is no error.
pub fn run(work: impl FnOnce() -> Result<ExitCode>) -> ExitCode {
    if let Err(error) = sw_tensor::check_isa() {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    match work() {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes in one line, each said once.
pub fn one_line(error: &Error) -> String {
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

fn is_closed_pipe(error: &Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Writes a line to stdout; a reader that has gone away (`| head`) ends the program quietly.
///
/// # Errors
/// When stdout cannot be written to.
pub fn say(text: impl Display) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{text}")?;
    Ok(())
}

/// Writes a file whole or not at all: beside its place first, renamed when it is on the disk.
///
/// # Errors
/// When the folder cannot be written to; a file that stood there stays as it was.
pub fn write_whole(path: &Path, text: &str) -> Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let write = || -> std::io::Result<()> {
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less the umask
        let mut file = builder.tempfile_in(dir)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| path.display().to_string())
}

/// Sets the number of worker threads, one per core where none is given; once, before any work.
///
/// # Errors
/// When work has begun already.
pub fn set_threads(threads: Option<NonZeroUsize>) -> Result<()> {
    let Some(n) = threads else { return Ok(()) };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(n.get());
    pool.build_global().context("--threads")
}

/// How far an evaluation is, on stderr: a bar where somebody watches, nothing where nobody does; gone when dropped.
pub struct Bar(ProgressBar);

impl Bar {
    /// A bar for one evaluation.
    pub fn new() -> Self {
        Self::styled("{bar:30} {percent:>3}%  {pos}/{len} tokens  {per_sec}  {eta} left")
    }

    /// A bar for one of several evaluations, which stands behind its name.
    pub fn named(name: String) -> Self {
        let bar = Self::styled(
            "{prefix:<40} {bar:20} {percent:>3}%  {pos}/{len} tokens  {per_sec}  {eta} left",
        );
        bar.0.set_prefix(name);
        bar
    }

    fn styled(style: &str) -> Self {
        let bar = ProgressBar::new(0);
        bar.set_style(ProgressStyle::with_template(style).expect("a constant"));
        Self(bar)
    }

    /// Shows how far the evaluation is.
    pub fn show(&self, status: Status) {
        self.0.set_length(status.tokens as u64);
        self.0.set_position(status.tokens_done as u64);
    }
}

impl Default for Bar {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_its_error_names_is_said_once() {
        let error = anyhow::anyhow!("no such\nfile").context("model: no such\nfile");
        assert_eq!(
            one_line(&error.context("--model x")),
            "--model x: model: no such file"
        );
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write_whole(&path, "one").unwrap();
        write_whole(&path, "two").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write_whole(&dir.path().join("no/such/place"), "").is_err());
    }
}
